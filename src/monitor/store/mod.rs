//! The key-value store under a monitor's state, behind two small traits.
//!
//! The namespace is pure: it reads through [`Read`] and gives back a [`Batch`]. What keeps the pairs is
//! fjall on disk (`disk`) or a sorted map in memory ([`memory`]), its twin for tests and the simulator.

pub mod memory;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

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

    /// Pairs with `from <= key < to`, ascending; `.rev()` walks them downwards.
    fn scan<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> Box<dyn DoubleEndedIterator<Item = Result<Pair, StoreError>> + 'a>;
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

    /// Returns when all that was written before is durable.
    ///
    /// # Errors
    ///
    /// When the store fails.
    fn persist(&self) -> Result<(), StoreError>;

    /// The state as it is now, unchanged by later writes.
    fn snapshot(&self) -> Box<dyn Read + Send + '_>;
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
