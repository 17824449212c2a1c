//! The in-memory twin of the store on disk.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::RwLock;

use super::{Batch, Incoming, Pair, Pairs, Read, Store, StoreError};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// A sorted map that can be written like the store on disk.
///
/// The map is shared, and copied only by a write that finds somebody else holding it: so a snapshot, and a
/// scan that is under way, cost nothing and do not change.
#[derive(Default, Debug)]
pub struct MemoryStore {
    map: RwLock<Arc<Map>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Read for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.map.read().get(key).cloned())
    }

    fn scan<'a>(&'a self, from: &[u8], to: &[u8]) -> Pairs<'a> {
        Box::new(Scan::new(self.map.read().clone(), from, to))
    }
}

impl Store for MemoryStore {
    fn write(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut shared = self.map.write();
        let map = Arc::make_mut(&mut shared);
        for (key, value) in batch {
            match value {
                Some(value) => map.insert(key.clone(), value.clone()),
                None => map.remove(key),
            };
        }
        Ok(())
    }

    fn persist(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn Read + Send> {
        Box::new(Self { map: RwLock::new(self.map.read().clone()) })
    }

    fn replace(&self, pairs: Incoming<'_>) -> Result<(), StoreError> {
        let map: Map = pairs.collect::<Result<_, _>>()?;
        *self.map.write() = Arc::new(map);
        Ok(())
    }
}

/// A scan of a map that nobody changes: each step looks up the neighbour of the pair before.
struct Scan {
    map: Arc<Map>,
    from: Bound<Vec<u8>>,
    to: Vec<u8>,
}

impl Scan {
    fn new(map: Arc<Map>, from: &[u8], to: &[u8]) -> Self {
        Self { map, from: Bound::Included(from.to_vec()), to: to.to_vec() }
    }

    fn range(&self) -> impl DoubleEndedIterator<Item = (&Vec<u8>, &Vec<u8>)> {
        let (Bound::Included(from) | Bound::Excluded(from)) = &self.from else {
            unreachable!("a scan always has a beginning")
        };
        // A map refuses a range whose beginning lies behind its end.
        let to = (&self.to).max(from);
        let from = if to == from { Bound::Included(from) } else { self.from.as_ref() };
        self.map.range::<Vec<u8>, _>((from, Bound::Excluded(to)))
    }
}

fn pair((key, value): (&Vec<u8>, &Vec<u8>)) -> Pair {
    (key.clone(), value.clone())
}

impl Iterator for Scan {
    type Item = Result<Pair, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.range().next().map(pair)?;
        self.from = Bound::Excluded(found.0.clone());
        Some(Ok(found))
    }
}

impl DoubleEndedIterator for Scan {
    fn next_back(&mut self) -> Option<Self::Item> {
        let found = self.range().next_back().map(pair)?;
        self.to.clone_from(&found.0);
        Some(Ok(found))
    }
}
