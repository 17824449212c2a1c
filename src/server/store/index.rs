//! What is where: the list of shards, in memory only. The scan at start-up makes it; nothing else does.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::types::ShardHash;
use crate::types::limits::BLOCK;
use crate::wire::shards::ShardId;

/// A shard that is here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    /// Identity of its content.
    pub(super) hash: ShardHash,
    /// Where its image lies.
    pub(super) place: Place,
    /// Bytes of the whole image.
    pub(super) image_bytes: u32,
    /// Bytes of the image before the data.
    pub(super) head_bytes: u32,
    /// How it is.
    pub(super) condition: Condition,
}

/// Where an image lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// In a file of its own, named after it.
    File,
    /// In a pack.
    Pack(Record),
}

/// A place in a pack.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Record {
    /// Number of the segment.
    pub(super) segment: u32,
    /// Where in it, in bytes.
    pub(super) offset: u32,
    /// Bytes.
    pub(super) length: u32,
}

/// How a shard is.
///
/// ```text
/// Whole ──found damaged──▶ Damaged ──put again──▶ Whole
///   └────────deleted───────────┴──▶ Doomed ──durably──▶ (no entry)
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Condition {
    /// As it was put, as far as is known.
    Whole,
    /// Some of it is not what was written. It is read block-wise all the same: most of it may be good.
    Damaged,
    /// Being deleted: as good as gone, but not durably yet.
    Doomed,
}

/// The list of shards.
#[derive(Default)]
pub(super) struct Index {
    shards: BTreeMap<ShardId, Entry>,
    used_bytes: u64,
}

impl Entry {
    /// Blocks of data.
    pub(super) fn blocks(&self) -> u32 {
        (self.image_bytes - self.head_bytes) / BLOCK
    }
}

impl Index {
    /// The shard, unless it is doomed.
    pub(super) fn get(&self, id: ShardId) -> Option<Entry> {
        let entry = self.shards.get(&id)?;
        (entry.condition != Condition::Doomed).then_some(*entry)
    }

    /// The shard, doomed or not.
    pub(super) fn get_any(&self, id: ShardId) -> Option<Entry> {
        self.shards.get(&id).copied()
    }

    /// Notes a shard; gives back what was noted before.
    pub(super) fn insert(&mut self, id: ShardId, entry: Entry) -> Option<Entry> {
        self.used_bytes += u64::from(entry.image_bytes);
        let before = self.shards.insert(id, entry);
        self.used_bytes -= before.map_or(0, |entry| u64::from(entry.image_bytes));
        before
    }

    /// Forgets a shard.
    pub(super) fn remove(&mut self, id: ShardId) {
        let removed = self.shards.remove(&id);
        self.used_bytes -= removed.map_or(0, |entry| u64::from(entry.image_bytes));
    }

    /// Changes how a shard is, if it is still the one that was looked at. Says whether it was, and how it was.
    pub(super) fn mark(&mut self, id: ShardId, seen: Entry, to: Condition) -> Option<Condition> {
        let entry = self.shards.get_mut(&id)?;
        let is_same = entry.place == seen.place && entry.condition != Condition::Doomed;
        is_same.then(|| std::mem::replace(&mut entry.condition, to))
    }

    /// Bytes of all images.
    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// How many shards there are.
    pub(super) fn len(&self) -> usize {
        self.shards.len()
    }

    /// At most `limit` shards from `from` on that are there and whole, and the shard where the rest begins.
    pub(super) fn list(
        &self,
        from: ShardId,
        limit: usize,
    ) -> (Vec<(ShardId, ShardHash)>, Option<ShardId>) {
        let mut rest = self.shards.range((Bound::Included(from), Bound::Unbounded));
        let portion = rest.by_ref().take(limit);
        let listed = portion
            .filter(|(_, entry)| entry.condition == Condition::Whole)
            .map(|(id, entry)| (*id, entry.hash))
            .collect();
        (listed, rest.next().map(|(id, _)| *id))
    }
}
