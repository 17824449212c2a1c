//! The dirty bytes of one file.
//!
//! The life of a dirty byte. A program writes it; the kernel hands it to us; it is copied, once, into a
//! *run*: bytes of the file that follow one another, growing in place as a stream goes on and overwritten in
//! place as a program changes its mind. When the run is a whole stripe long (or its time has come: see the
//! flusher), it is taken out of here, frozen, cut into shards with parity, put to servers and committed; only
//! then its memory is given back. From the moment it is taken it is never changed again: a later write to the
//! same place begins a new run here, which lies over the frozen one, which lies over what is committed.
//!
//! What makes this more than a list of buffers is the unit. Extents begin on blocks of the file, so runs do
//! too. A write that begins or ends within a block that has other content needs that content first
//! ([`WriteBuffer::missing`]); the caller reads it (through frozen runs and the map) and gives it with
//! [`WriteBuffer::fill`]. A run ends on a block, or where the file ended when it was written: what follows in
//! that block reads as zeros.
//!
//! Runs are disjoint and at most a stripe long. Neighbours are not merged (that would copy); packing joins
//! them. So a thousand random writes of a block each are a thousand small runs in one tree, and cost the same
//! each.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::layers::{Layers, Source};
use super::pool::{Buffer, Pool};
use super::{BLOCK64, block_start};
use crate::types::limits::{BLOCK, STRIPE_BYTES_MAX};

const RUN_MAX: u64 = STRIPE_BYTES_MAX as u64;
/// Runs below this are small: they wait to be packed with others. Longer ones are likely to fill a stripe.
const SMALL: u64 = 1 << 20;
static ZERO_BLOCK: [u8; BLOCK as usize] = [0; BLOCK as usize];

/// Dirty bytes that follow one another in the file.
#[derive(Debug)]
pub(crate) struct Run {
    /// The bytes.
    pub(crate) data: Buffer,
    /// When the first of them was written.
    pub(crate) born: Duration,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct WriteBuffer {
    runs: BTreeMap<u64, Run>,
    weight: Weight,
}

/// How much dirty data there is, by what it waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Weight {
    /// All of it, in bytes.
    pub(crate) bytes: u64,
    /// Bytes in small runs.
    pub(crate) small: u64,
    /// Runs that are a whole stripe.
    pub(crate) full: u64,
}

impl Weight {
    fn of(length: u64) -> Self {
        Self {
            bytes: length,
            small: if length < SMALL { length } else { 0 },
            full: u64::from(length == RUN_MAX),
        }
    }

    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.small += other.small;
        self.full += other.full;
    }

    fn remove(&mut self, other: Self) {
        self.bytes -= other.bytes;
        self.small -= other.small;
        self.full -= other.full;
    }
}

impl WriteBuffer {
    /// Whether nothing is dirty.
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How much is dirty.
    pub(crate) fn weight(&self) -> Weight {
        self.weight
    }

    /// When the oldest dirty byte was written.
    pub(crate) fn oldest(&self) -> Option<Duration> {
        self.runs.values().map(|run| run.born).min()
    }

    /// Which blocks (by their first byte) have to be filled in before `range` of a file of `size` bytes may be
    /// written: those it covers only in part that have content and are not here. At most two.
    pub(crate) fn missing(&self, range: &Range<u64>, size: u64) -> impl Iterator<Item = u64> {
        let head = block_start(range.start);
        let tail = block_start(range.end);
        let head_wanted = head < range.start && head < size && !self.holds(head);
        let tail_wanted = tail < range.end
            && range.end < size
            && !(tail == head && head_wanted)
            && !self.holds(tail);
        [head_wanted.then_some(head), tail_wanted.then_some(tail)].into_iter().flatten()
    }

    /// Gives the content of a block that was [`Self::missing`]: `data` is a whole block, or what the file has
    /// of it. Without effect when the block is here.
    pub(crate) fn fill(&mut self, block: u64, data: &[u8], now: Duration, pool: &Arc<Pool>) {
        debug_assert_eq!(block % BLOCK64, 0);
        if !self.holds(block) {
            self.put(block, data, now, pool);
        }
    }

    /// Writes `data` at `offset`. Nothing may be [`Self::missing`].
    pub(crate) fn write(&mut self, offset: u64, data: &[u8], now: Duration, pool: &Arc<Pool>) {
        let block = block_start(offset);
        let filled = self.run_end(block).unwrap_or(block);
        if filled < offset {
            // The block is new, or was written only up to the former end of the file.
            let zeros = usize::try_from(offset - filled).expect("less than a block");
            self.put(filled, &ZERO_BLOCK[..zeros], now, pool);
        }
        self.put(offset, data, now, pool);
    }

    /// Forgets everything from `size` on.
    pub(crate) fn truncate(&mut self, size: u64) {
        for (_, run) in self.runs.split_off(&size) {
            self.weight.remove(Weight::of(run.data.len() as u64));
        }
        if let Some((&start, run)) = self.runs.iter_mut().next_back() {
            let length = run.data.len() as u64;
            if start + length > size {
                self.weight.remove(Weight::of(length));
                self.weight.add(Weight::of(size - start));
                run.data.truncate(usize::try_from(size - start).expect("within a run"));
            }
        }
    }

    /// Forgets the blocks of `range`; both ends are multiples of the block.
    pub(crate) fn punch(&mut self, range: &Range<u64>, pool: &Arc<Pool>) {
        let first = self.run_before(range.start).unwrap_or(range.start);
        let touched: Vec<u64> =
            self.runs.range(first..range.end).map(|(&start, _)| start).collect();
        for start in touched {
            let run = self.runs.remove(&start).expect("it was just seen");
            let end = start + run.data.len() as u64;
            self.weight.remove(Weight::of(run.data.len() as u64));
            for keep in [start..end.min(range.start), start.max(range.end)..end] {
                if keep.start < keep.end {
                    let bytes = &run.data.as_ref()[within(&keep, start)];
                    self.put(keep.start, bytes, run.born, pool);
                }
            }
        }
    }

    /// Takes a run that is a whole stripe, if there is one.
    pub(crate) fn take_full(&mut self) -> Option<(u64, Run)> {
        if self.weight.full == 0 {
            return None;
        }
        let start = self.runs.iter().find(|(_, run)| run.data.len() as u64 == RUN_MAX)?.0;
        self.take(*start)
    }

    /// Takes the first run, or the first small one, if it is at most `bytes` long.
    pub(crate) fn take_first(&mut self, bytes: u64, only_small: bool) -> Option<(u64, Run)> {
        let length = |run: &Run| run.data.len() as u64;
        let (&start, run) = self.runs.iter().find(|(_, run)| !only_small || length(run) < SMALL)?;
        (length(run) <= bytes).then(|| self.take(start)).flatten()
    }

    /// Takes everything, by offset.
    pub(crate) fn take_all(&mut self) -> Vec<(u64, Bytes)> {
        self.weight = Weight::default();
        let runs = std::mem::take(&mut self.runs);
        runs.into_iter().map(|(start, run)| (start, Bytes::from_owner(run.data))).collect()
    }

    /// Lays what is dirty over everything that is laid later.
    pub(crate) fn lay(&self, layers: &mut Layers) {
        let range = layers.range();
        let first = self.run_before(range.start).unwrap_or(range.start);
        for (&start, run) in self.runs.range(first..range.end) {
            layers.add(start..start + run.data.len() as u64, |part| {
                Source::Bytes(Bytes::copy_from_slice(&run.data.as_ref()[within(part, start)]))
            });
        }
    }

    fn take(&mut self, start: u64) -> Option<(u64, Run)> {
        let run = self.runs.remove(&start)?;
        self.weight.remove(Weight::of(run.data.len() as u64));
        Some((start, run))
    }

    /// Copies into the runs; `offset` is within or at the end of one, or begins a block.
    fn put(&mut self, mut offset: u64, mut data: &[u8], now: Duration, pool: &Arc<Pool>) {
        while !data.is_empty() {
            let written = self.put_some(offset, data, now, pool);
            offset += written as u64;
            data = &data[written..];
        }
    }

    fn put_some(&mut self, offset: u64, data: &[u8], now: Duration, pool: &Arc<Pool>) -> usize {
        let next = self.runs.range(offset + 1..).next().map_or(u64::MAX, |(&start, _)| start);
        let room = usize::try_from(next - offset).unwrap_or(usize::MAX).min(data.len());
        let before = self.runs.range_mut(..=offset).next_back();
        if let Some((&start, run)) = before {
            let length = run.data.len() as u64;
            let at = offset - start;
            if at < length {
                let count = data.len().min(usize::try_from(length - at).expect("within a run"));
                let at = usize::try_from(at).expect("within a run");
                run.data.bytes_mut()[at..at + count].copy_from_slice(&data[..count]);
                return count;
            }
            if at == length && length < RUN_MAX {
                let count = room.min(usize::try_from(RUN_MAX - length).expect("within a run"));
                run.data.append(&data[..count], pool);
                self.weight.remove(Weight::of(length));
                self.weight.add(Weight::of(length + count as u64));
                return count;
            }
        }
        debug_assert_eq!(offset % BLOCK64, 0, "a run begins on a block");
        let count = room.min(usize::try_from(RUN_MAX).expect("fits"));
        let mut fresh = Buffer::default();
        fresh.append(&data[..count], pool);
        self.weight.add(Weight::of(count as u64));
        self.runs.insert(offset, Run { data: fresh, born: now });
        count
    }

    /// Whether the block that begins at `block` is here.
    fn holds(&self, block: u64) -> bool {
        self.run_end(block).is_some()
    }

    /// Where the run that holds the byte at `offset` ends, but at most at the end of that byte's block.
    fn run_end(&self, offset: u64) -> Option<u64> {
        let (&start, run) = self.runs.range(..=offset).next_back()?;
        let end = start + run.data.len() as u64;
        (offset < end).then(|| end.min(block_start(offset) + BLOCK64))
    }

    /// Where the last run begins that begins before `offset`.
    fn run_before(&self, offset: u64) -> Option<u64> {
        self.runs.range(..offset).next_back().map(|(&start, _)| start)
    }
}

/// A range of the file as one of a run's bytes.
fn within(range: &Range<u64>, start: u64) -> Range<usize> {
    let at = |offset: u64| usize::try_from(offset - start).expect("within a run");
    at(range.start)..at(range.end)
}
