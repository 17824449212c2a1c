//! What of the log is where: the newest entries in memory, the rest in segments.

use std::collections::VecDeque;
use std::ops::Range;

use super::record::{Position, Record, SEGMENT_HEAD, Span};
use super::segment_name;
use super::vote::Vote;

/// A segment file.
#[derive(Debug)]
pub(super) struct Segment {
    /// The index of its first entry.
    pub(super) first: u64,
    /// Its length in bytes.
    pub(super) bytes: u64,
    /// Its entries.
    entries: Vec<Slot>,
}

/// One entry in a segment.
#[derive(Clone, Copy, Debug)]
struct Slot {
    term: u64,
    offset: u64,
    length: usize,
}

/// Where an entry can be had.
pub(super) enum Place {
    /// Here it is.
    Memory(Record),
    /// On disk.
    Disk(Span),
}

impl Segment {
    /// A segment without entries.
    pub(super) fn new(first: u64) -> Self {
        Self { first, bytes: SEGMENT_HEAD as u64, entries: Vec::new() }
    }

    /// The index of the entry that would follow its last.
    pub(super) fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Notes its next entry.
    pub(super) fn push(&mut self, position: Position, offset: u64, length: usize) {
        debug_assert_eq!(position.index, self.next());
        self.entries.push(Slot { term: position.term, offset, length });
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        let at = index.checked_sub(self.first)?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    fn position(&self, index: u64) -> Option<Position> {
        self.slot(index).map(|slot| Position { term: slot.term, index })
    }

    fn last(&self) -> Option<Position> {
        self.position(self.next().checked_sub(1)?)
    }

    fn span(&self, index: u64) -> Option<Span> {
        let slot = self.slot(index)?;
        Some(Span {
            position: self.position(index)?,
            segment: segment_name(self.first),
            offset: slot.offset,
            length: slot.length,
        })
    }

    /// Forgets the entries from `first` on; its length is then where the first of them began.
    fn truncate(&mut self, first: u64) {
        if let Some(slot) = self.slot(first) {
            self.bytes = slot.offset;
            self.entries.truncate((first - self.first) as usize);
        }
    }
}

/// The whole log at a glance.
#[derive(Debug)]
pub(super) struct Index {
    /// Oldest first; entries that are not written yet are in none of them.
    pub(super) segments: VecDeque<Segment>,
    /// The newest entries, without a gap up to the last.
    cache: VecDeque<Record>,
    cache_bytes: usize,
    cache_bytes_max: usize,
    /// The last purged entry.
    pub(super) purged: Option<Position>,
    /// See [`super::Log::vote`].
    pub(super) vote: Option<Vote>,
    /// See [`super::Log::committed`].
    pub(super) committed: Option<Position>,
    /// See [`super::Log::appended_bytes`].
    pub(super) appended_bytes: u64,
}

impl Index {
    /// An index of segments that are on disk.
    pub(super) fn new(
        segments: VecDeque<Segment>,
        vote: Option<Vote>,
        purged: Option<Position>,
        committed: Option<Position>,
        cache_bytes_max: usize,
    ) -> Self {
        Self {
            segments,
            cache: VecDeque::new(),
            cache_bytes: 0,
            cache_bytes_max,
            purged,
            vote,
            committed,
            appended_bytes: 0,
        }
    }

    /// The last entry, or the last purged one.
    pub(super) fn last(&self) -> Option<Position> {
        let written = || self.segments.iter().rev().find_map(Segment::last);
        let last = self.cache.back().map(|record| record.position);
        last.or_else(written).max_by_index(self.purged)
    }

    /// Adds entries that follow the last one.
    pub(super) fn push(&mut self, records: &[Record]) {
        for record in records {
            debug_assert!(
                self.cache
                    .back()
                    .is_none_or(|last| last.position.index + 1 == record.position.index),
                "a hole before {:?}",
                record.position
            );
            self.cache_bytes += record.body.len();
            self.cache.push_back(record.clone());
        }
    }

    /// The index below which all entries are in segments.
    fn written(&self) -> u64 {
        self.segments.back().map_or(0, Segment::next)
    }

    /// Drops the oldest entries from memory that are in segments, until it is no more than it should be.
    pub(super) fn shrink_cache(&mut self) {
        let written = self.written();
        while self.cache_bytes > self.cache_bytes_max
            && let Some(oldest) = self.cache.front()
            && oldest.position.index < written
        {
            self.cache_bytes -= oldest.body.len();
            self.cache.pop_front();
        }
    }

    /// Forgets the entries from `first` on.
    pub(super) fn truncate(&mut self, first: u64) {
        while let Some(newest) = self.cache.back()
            && newest.position.index >= first
        {
            self.cache_bytes -= newest.body.len();
            self.cache.pop_back();
        }
        while let Some(newest) = self.segments.back_mut() {
            if newest.first < first {
                newest.truncate(first);
                break;
            }
            self.segments.pop_back();
        }
    }

    /// Forgets the entries up to `upto`; gives the segments that hold no others. The newest stays, unless
    /// the whole log ends before `upto` (a snapshot took its place).
    pub(super) fn purge(&mut self, upto: Position) -> Vec<u64> {
        self.purged = self.purged.max_by_index(Some(upto));
        while let Some(oldest) = self.cache.front()
            && oldest.position.index <= upto.index
        {
            self.cache_bytes -= oldest.body.len();
            self.cache.pop_front();
        }
        let mut gone = Vec::new();
        while let Some(oldest) = self.segments.front()
            && oldest.next() <= upto.index + 1
            && (self.segments.len() > 1 || oldest.next() <= upto.index)
        {
            gone.push(oldest.first);
            self.segments.pop_front();
        }
        gone
    }

    /// See [`super::Log::purgeable`].
    pub(super) fn purgeable(&self, keep: u64) -> Option<Position> {
        let mut kept = 0;
        let mut newer = self.segments.iter().rev();
        newer.find(|segment| {
            kept += segment.bytes;
            kept >= keep
        })?;
        newer.next()?.last()
    }

    /// See [`super::Log::cached`].
    pub(super) fn cached(&self, range: Range<u64>) -> Option<Vec<Record>> {
        let range = self.existing(range);
        if range.is_empty() {
            return Some(Vec::new());
        }
        range.map(|index| self.cached_one(index)).collect()
    }

    fn cached_one(&self, index: u64) -> Option<Record> {
        let first = self.cache.front()?.position.index;
        let at = usize::try_from(index.checked_sub(first)?).ok()?;
        self.cache.get(at).cloned()
    }

    /// Where the entries of a range are, as far as they exist.
    pub(super) fn places(&self, range: Range<u64>) -> Vec<Place> {
        self.existing(range)
            .filter_map(|index| match self.cached_one(index) {
                Some(record) => Some(Place::Memory(record)),
                None => self.span(index).map(Place::Disk),
            })
            .collect()
    }

    fn existing(&self, range: Range<u64>) -> Range<u64> {
        let first = self.purged.map_or(0, |purged| purged.index + 1);
        let end = self.last().map_or(0, |last| last.index + 1);
        range.start.max(first)..range.end.min(end)
    }

    fn span(&self, index: u64) -> Option<Span> {
        let after = self.segments.partition_point(|segment| segment.first <= index);
        self.segments.get(after.checked_sub(1)?)?.span(index)
    }
}

/// Which of two positions is further.
trait MaxByIndex {
    fn max_by_index(self, other: Self) -> Self;
}

impl MaxByIndex for Option<Position> {
    fn max_by_index(self, other: Self) -> Self {
        if other.map(|at| at.index) > self.map(|at| at.index) { other } else { self }
    }
}
