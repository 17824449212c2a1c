//! The key-value store under a monitor's state, behind two small traits.
//!
//! The namespace is pure: it reads through [`Read`] and gives back a [`Batch`]. What keeps the pairs is
//! fjall on disk ([`disk`]) or a sorted map in memory ([`memory`]), its twin for tests and the simulator.

pub mod disk;
mod journal;
pub mod memory;
mod syncer;
#[cfg(test)]
mod tests;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Pairs in the order of their keys.
pub type Pairs<'a> = Box<dyn DoubleEndedIterator<Item = Result<Pair, StoreError>> + 'a>;

/// Pairs from elsewhere, in the order of their keys.
pub type Incoming<'a> = Box<dyn Iterator<Item = Result<Pair, StoreError>> + 'a>;

/// The store could not be read or written: the disk failed, or a file is damaged.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the metadata store failed: {0}")]
pub struct StoreError(pub String);

/// One consistent state of all pairs.
pub trait Read {
    /// The value of `key`.
    ///
    /// # Errors
    ///
    /// When the store fails.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Pairs with `from <= key < to`, ascending; `.rev()` walks them downwards. What is written while a scan
    /// is under way is not in it.
    fn scan<'a>(&'a self, from: &[u8], to: &[u8]) -> Pairs<'a>;
}

/// Changes that happen together: the new value of each key, `None` to remove it.
pub type Batch = std::collections::BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A store that can be written.
pub trait Store: Read + Send + Sync + 'static {
    /// Makes all changes of `batch`, atomically also with respect to a crash, but not yet durably: the Raft
    /// log is the journal.
    ///
    /// # Errors
    ///
    /// When the store fails; nothing was changed then.
    fn write(&self, batch: &Batch) -> Result<(), StoreError>;

    /// Returns when all that was written before is durable. Takes a disk's time: never on the path of apply.
    ///
    /// # Errors
    ///
    /// When the store fails.
    fn persist(&self) -> Result<(), StoreError>;

    /// The state as it is now, unchanged by later writes. Space is not freed while it is held.
    fn snapshot(&self) -> Box<dyn Read + Send>;

    /// Replaces all pairs by these, ascending and each key once, atomically also with respect to a crash, and
    /// durably. Nobody may write meanwhile; snapshots and scans that are under way keep the old state.
    ///
    /// # Errors
    ///
    /// When the store or the source of the pairs fails; nothing was changed then.
    fn replace(&self, pairs: Incoming<'_>) -> Result<(), StoreError>;
}

/// The smallest key above all that begin with `prefix`: the end of its scan.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![u8::MAX; 64]
}
