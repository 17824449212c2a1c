//! Changes that are not yet made: an overlay over a state, readable as if they were.
//!
//! Apply works through a whole batch of actions before the store sees any of it, and each action must see
//! what those before it did, and a refused one must leave nothing behind. Both fall out of one idea: a
//! [`Txn`] is itself a [`Read`]. The batch is an overlay over the store, each action an overlay over the
//! batch, kept when it succeeds and dropped when it is refused.
//!
//! Below all of them is [`Remembered`]: the actions of a batch come from few sessions, into few directories, and
//! an operation looks at the same name more than once (who holds it? may it go? now it goes). The store, which
//! searches several tables for a key, is asked once.

use std::cell::RefCell;
use std::collections::{HashMap, btree_map};

use super::keys::{Fields, Key, Keyed, Span};
use super::records::Record;
use crate::monitor::store::{Batch, Pair, Pairs, Read, StoreError};

/// A state, and what was read of it.
pub(super) struct Remembered<'a> {
    base: &'a dyn Read,
    /// Never iterated over: apply does the same everywhere.
    known: RefCell<HashMap<Vec<u8>, Option<Vec<u8>>>>,
}

impl<'a> Remembered<'a> {
    /// Nothing was read yet. The state must not change meanwhile.
    pub(super) fn new(base: &'a dyn Read) -> Self {
        Self { base, known: RefCell::default() }
    }
}

impl Read for Remembered<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(value) = self.known.borrow().get(key) {
            return Ok(value.clone());
        }
        let value = self.base.get(key)?;
        self.known.borrow_mut().insert(key.to_vec(), value.clone());
        Ok(value)
    }

    fn scan<'a>(&'a self, from: &[u8], to: &[u8]) -> Pairs<'a> {
        self.base.scan(from, to)
    }
}

/// A state and changes to it.
pub(super) struct Txn<'a> {
    base: &'a dyn Read,
    changes: Batch,
}

impl<'a> Txn<'a> {
    /// No changes yet.
    pub(super) fn new(base: &'a dyn Read) -> Self {
        Self { base, changes: Batch::new() }
    }

    /// Writes a record.
    pub(super) fn put<R: Record>(&mut self, key: &Key<R>, record: &R) {
        self.changes.insert(key.bytes().to_vec(), Some(record.to_bytes()));
    }

    /// Removes a record, if there is one.
    pub(super) fn delete<R: Record>(&mut self, key: &Key<R>) {
        self.changes.insert(key.bytes().to_vec(), None);
    }

    /// How many records were changed.
    pub(super) fn touched(&self) -> usize {
        self.changes.len()
    }

    /// The changes.
    pub(super) fn into_changes(self) -> Batch {
        self.changes
    }

    /// Takes over the changes that were made on top of this.
    pub(super) fn absorb(&mut self, changes: Batch) {
        // One by one: appending a map builds the whole anew, and this one grows with each action of a batch.
        self.changes.extend(changes);
    }
}

/// The record under `key`.
pub(super) fn get<R: Record>(read: &dyn Read, key: &Key<R>) -> Result<Option<R>, StoreError> {
    read.get(key.bytes())?.map(|bytes| R::from_bytes(&bytes)).transpose()
}

/// Whether there is a record under `key`.
pub(super) fn exists<R: Record>(read: &dyn Read, key: &Key<R>) -> Result<bool, StoreError> {
    Ok(read.get(key.bytes())?.is_some())
}

/// The records of a span with what their keys say, ascending.
pub(super) fn scan<'a, R: Keyed + 'a>(
    read: &'a dyn Read,
    span: &Span<R>,
) -> impl DoubleEndedIterator<Item = Result<(R::Id, R), StoreError>> + use<'a, R> {
    read.scan(&span.from, &span.to).map(|pair| pair.and_then(|pair| parse(&pair)))
}

/// The first `limit` records of a span.
pub(super) fn take<R: Keyed>(
    read: &dyn Read,
    span: &Span<R>,
    limit: usize,
) -> Result<Vec<(R::Id, R)>, StoreError> {
    scan(read, span).take(limit).collect()
}

/// Takes a stored pair apart.
pub(super) fn parse<R: Keyed>((key, value): &Pair) -> Result<(R::Id, R), StoreError> {
    let malformed = || StoreError(format!("malformed key {}", key.escape_ascii()));
    let mut fields = Fields::of::<R>(key).ok_or_else(malformed)?;
    let id = R::id(&mut fields).ok_or_else(malformed)?;
    if !fields.is_empty() {
        return Err(malformed());
    }
    Ok((id, R::from_bytes(value)?))
}

impl Read for Txn<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.changes.get(key) {
            Some(changed) => Ok(changed.clone()),
            None => self.base.get(key),
        }
    }

    fn scan<'a>(&'a self, from: &[u8], to: &[u8]) -> Pairs<'a> {
        if from >= to {
            return Box::new(std::iter::empty());
        }
        let changes = self.changes.range(from.to_vec()..to.to_vec());
        let base = self.base.scan(from, to);
        Box::new(Merged { base: BothEnds::new(base), changes: BothEnds::new(changes) })
    }
}

/// The pairs of a state with changes laid over them, from both ends.
struct Merged<'a> {
    base: BothEnds<Pairs<'a>>,
    changes: BothEnds<btree_map::Range<'a, Vec<u8>, Option<Vec<u8>>>>,
}

/// Which of the two comes next.
enum Side {
    Base,
    Change,
    /// The change replaces the pair of the base.
    Both,
}

impl Merged<'_> {
    fn step(&mut self, end: End) -> Option<Result<Pair, StoreError>> {
        loop {
            let pair = match self.side(end)? {
                Side::Base => return self.base.pop(end),
                Side::Change => self.changes.pop(end),
                Side::Both => {
                    self.base.pop(end);
                    self.changes.pop(end)
                }
            };
            if let Some((key, Some(value))) = pair {
                return Some(Ok((key.clone(), value.clone())));
            }
        }
    }

    fn side(&mut self, end: End) -> Option<Side> {
        match (self.base.peek(end), self.changes.peek(end)) {
            (None, None) => None,
            (Some(_), None) | (Some(Err(_)), _) => Some(Side::Base),
            (None, Some(_)) => Some(Side::Change),
            (Some(Ok((base, _))), Some((change, _))) => {
                let order = match end {
                    End::Front => base.cmp(change),
                    End::Back => (*change).cmp(base),
                };
                Some(match order {
                    std::cmp::Ordering::Less => Side::Base,
                    std::cmp::Ordering::Equal => Side::Both,
                    std::cmp::Ordering::Greater => Side::Change,
                })
            }
        }
    }
}

impl Iterator for Merged<'_> {
    type Item = Result<Pair, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(End::Front)
    }
}

impl DoubleEndedIterator for Merged<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(End::Back)
    }
}

#[derive(Clone, Copy)]
enum End {
    Front,
    Back,
}

/// An iterator that can be peeked into at both ends.
struct BothEnds<I: DoubleEndedIterator> {
    inner: I,
    front: Option<I::Item>,
    back: Option<I::Item>,
}

impl<I: DoubleEndedIterator> BothEnds<I> {
    fn new(inner: I) -> Self {
        Self { inner, front: None, back: None }
    }

    fn peek(&mut self, end: End) -> Option<&I::Item> {
        match end {
            End::Front => {
                if self.front.is_none() {
                    self.front = self.inner.next().or_else(|| self.back.take());
                }
                self.front.as_ref()
            }
            End::Back => {
                if self.back.is_none() {
                    self.back = self.inner.next_back().or_else(|| self.front.take());
                }
                self.back.as_ref()
            }
        }
    }

    fn pop(&mut self, end: End) -> Option<I::Item> {
        self.peek(end)?;
        match end {
            End::Front => self.front.take(),
            End::Back => self.back.take(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::store::{Store, memory::MemoryStore};

    fn numbers(pairs: impl Iterator<Item = Result<Pair, StoreError>>) -> Vec<u8> {
        pairs.map(|pair| pair.unwrap().0[0]).collect()
    }

    #[test]
    fn an_overlay_reads_like_the_state_it_will_become() {
        let store = MemoryStore::new();
        let base = [1, 2, 3, 6, 7].map(|n| (vec![n], Some(vec![n])));
        store.write(&base.into_iter().collect()).unwrap();
        let mut batch = Txn::new(&store);
        batch.absorb(Batch::from([(vec![2], None), (vec![4], Some(vec![4])), (vec![7], None)]));
        let mut action = Txn::new(&batch);
        action.absorb(Batch::from([(vec![4], None), (vec![5], Some(vec![5]))]));
        assert_eq!(numbers(action.scan(&[0], &[9])), [1, 3, 5, 6]);
        assert_eq!(numbers(action.scan(&[0], &[9]).rev()), [6, 5, 3, 1]);
        assert_eq!(numbers(action.scan(&[3], &[6])), [3, 5]);
        assert_eq!(action.get(&[2]).unwrap(), None);
        assert_eq!(action.get(&[5]).unwrap(), Some(vec![5]));

        let mut both = action.scan(&[0], &[9]);
        assert_eq!(both.next_back().unwrap().unwrap().0, [6]);
        assert_eq!(both.next().unwrap().unwrap().0, [1]);
        assert_eq!(numbers(both), [3, 5]);
    }
}
