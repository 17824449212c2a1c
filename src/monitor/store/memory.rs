//! The in-memory twin of the store on disk.

use std::collections::BTreeMap;

use parking_lot::RwLock;

use super::{Batch, Pair, Read, Store, StoreError};

/// A sorted map that can be written like the store on disk.
#[derive(Default, Debug)]
pub struct MemoryStore {
    pairs: RwLock<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Read for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.pairs.read().get(key).cloned())
    }

    fn scan<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> Box<dyn DoubleEndedIterator<Item = Result<Pair, StoreError>> + 'a> {
        if from >= to {
            return Box::new(std::iter::empty());
        }
        let found: Vec<Pair> = self
            .pairs
            .read()
            .range(from.to_vec()..to.to_vec())
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        Box::new(found.into_iter().map(Ok))
    }
}

impl Store for MemoryStore {
    fn write(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut pairs = self.pairs.write();
        for (key, value) in batch {
            match value {
                Some(value) => pairs.insert(key.clone(), value.clone()),
                None => pairs.remove(key),
            };
        }
        Ok(())
    }

    fn persist(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn Read + Send + '_> {
        Box::new(Self {
            pairs: RwLock::new(self.pairs.read().clone()),
        })
    }
}
