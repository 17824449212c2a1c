//! Small shards: appended to pack segments, a sync for many of them at once.
//!
//! A file for each small shard would cost two syncs and two metadata updates for a few kilobytes. Instead
//! they are appended to one file ([`super::segment`] draws it), and all who append at the same time wait for the
//! same sync.
//!
//! A shard is deleted where it lies: first a dead mark is made durable, then its blocks are given back to
//! the filesystem. A segment in which nothing is alive is removed; should a crash bring its name back, its images are
//! still marked.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use quick_cache::sync::Cache;

use super::WriteFailed;
use super::group::GroupSync;
use super::index::Record;
use super::segment;
use crate::env::disk::{Access, Disk, DiskFile};
use crate::types::ClusterId;
use crate::types::limits::BLOCK;

/// Where the segments are.
pub(super) const PACKS: &str = "packs";
const SUFFIX: &str = ".pack";
/// A segment takes no more when it would grow beyond this. (Tests fill several.)
const SEGMENT_BYTES: u32 = if cfg!(test) { 512 << 10 } else { 64 << 20 };
/// Segments kept open.
const OPEN_MAX: usize = 64;

/// All pack segments.
pub(super) struct Packs {
    disk: Arc<dyn Disk>,
    cluster: ClusterId,
    state: Mutex<State>,
    open: Cache<u32, Arc<dyn DiskFile>>,
}

#[derive(Default)]
struct State {
    current: Option<Arc<Writing>>,
    tallies: HashMap<u32, Tally>,
    next_number: u32,
}

/// A segment that this process appends to.
struct Writing {
    number: u32,
    file: Arc<dyn DiskFile>,
    sync: GroupSync,
    /// A sync of it failed. The kernel says so once, and takes what it could not write for written from then on: no
    /// later sync proves anything about an image that was written before.
    is_failed: AtomicBool,
}

/// What is known of a segment.
#[derive(Default)]
struct Tally {
    /// Where the next image goes.
    end: u32,
    /// Images in it that are alive.
    alive: u32,
    /// Images that are being appended.
    appending: u32,
    /// Takes more images.
    is_current: bool,
    /// An append failed: what is on the disk is unknown, so it is never sealed, and the next start checks every
    /// block.
    is_broken: bool,
}

impl Packs {
    /// Knows the segments that a scan found: their numbers, and how many images are alive in each.
    pub(super) fn new(disk: Arc<dyn Disk>, cluster: ClusterId, found: &[(u32, u32)]) -> Self {
        let next_number = found.iter().map(|(number, _)| number + 1).max().unwrap_or(0);
        let tallies = found.iter().map(|&(number, alive)| {
            let tally = Tally { alive, ..Tally::default() };
            (number, tally)
        });
        Self {
            disk,
            cluster,
            state: Mutex::new(State { current: None, tallies: tallies.collect(), next_number }),
            open: Cache::new(OPEN_MAX),
        }
    }

    /// Stores an image; it is durable on return.
    pub(super) fn append(&self, image: &[u8]) -> Result<Record, WriteFailed> {
        let length = u32::try_from(image.len()).expect("small images come here");
        let (writing, offset) =
            self.reserve(length).map_err(|error| WriteFailed { error, is_undone: true })?;
        let record = Record { segment: writing.number, offset, length };
        let written = writing
            .file
            .write(offset.into(), image)
            .and_then(|()| writing.sync.run(|| writing.sync_file()))
            .map_err(|error| WriteFailed {
                error,
                is_undone: segment::kill(&*writing.file, &[record]).is_ok(),
            });
        self.finish(&writing, written.is_ok());
        written.map(|()| record)
    }

    /// Bytes of an image: `length` from `offset` within it.
    pub(super) fn read(
        &self,
        record: Record,
        offset: u32,
        length: usize,
    ) -> io::Result<bytes::Bytes> {
        let file = self.file(record.segment)?;
        file.read(u64::from(record.offset) + u64::from(offset), length)
    }

    /// Marks images dead. Those returned are durably so.
    pub(super) fn kill(&self, mut records: Vec<Record>) -> Vec<Record> {
        records.sort_unstable();
        let mut killed = Vec::new();
        for records in records.chunk_by(|a, b| a.segment == b.segment) {
            let number = records[0].segment;
            let file = self.file(number);
            match file.and_then(|file| segment::kill(&*file, records)) {
                Ok(()) => killed.extend(records),
                Err(error) => log::error!("{} cannot be changed: {error}", path(number)),
            }
        }
        killed
    }

    /// Gives the space of dead images back.
    pub(super) fn bury(&self, records: &[Record]) {
        for records in records.chunk_by(|a, b| a.segment == b.segment) {
            let number = records[0].segment;
            if self.count_dead(number, records.len()) {
                self.remove_segment(number);
                continue;
            }
            for record in records {
                let file = self.file(number);
                let punched =
                    file.and_then(|f| f.punch(record.offset.into(), record.length.into()));
                if let Err(error) = punched {
                    // Not every filesystem can: the space comes back with the whole segment.
                    log::debug!("no hole in {}: {error}", path(number));
                    break;
                }
            }
        }
    }

    /// Notes that images died; says whether the segment has nothing alive in it for good.
    fn count_dead(&self, number: u32, dead: usize) -> bool {
        let mut state = self.state.lock();
        let Some(tally) = state.tallies.get_mut(&number) else {
            return false;
        };
        tally.alive -= u32::try_from(dead).expect("no more than are alive");
        let is_over = tally.alive == 0 && tally.appending == 0 && !tally.is_current;
        if is_over {
            state.tallies.remove(&number);
        }
        is_over
    }

    fn remove_segment(&self, number: u32) {
        if let Err(error) = self.disk.remove(&path(number)) {
            log::warn!("{} is dead and cannot be removed: {error}", path(number));
        }
        // Last, for a reader may have opened it meanwhile: a descriptor kept would keep the space.
        self.open.remove(&number);
    }

    /// Opens a segment anew when it is needed the next time.
    pub(super) fn forget(&self, number: u32) {
        self.open.remove(&number);
    }

    fn file(&self, number: u32) -> io::Result<Arc<dyn DiskFile>> {
        let open = || self.disk.open(&path(number), Access::Cached);
        let file = self.open.get_or_insert_with(&number, open);
        if file.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            self.abandon(number);
        }
        file
    }

    /// A segment has no name any more: somebody removed it. What would be appended to it would be lost.
    fn abandon(&self, number: u32) {
        let mut state = self.state.lock();
        if let Some(current) = state.current.take_if(|current| current.number == number) {
            log::error!("{} was removed by somebody: the next shards go elsewhere", path(number));
            let tally = state.tallies.get_mut(&number).expect("kept while appended to");
            tally.is_current = false;
            tally.is_broken = true;
            current.is_failed.store(true, Ordering::SeqCst);
        }
    }

    /// A place for an image in the current segment, or in a new one.
    fn reserve(&self, length: u32) -> io::Result<(Arc<Writing>, u32)> {
        let mut state = self.state.lock();
        let current = match state.current.clone() {
            Some(current) if state.tallies[&current.number].end + length <= SEGMENT_BYTES => {
                current
            }
            full => {
                if let Some(full) = full {
                    self.retire(&mut state, &full);
                }
                self.begin_segment(&mut state)?
            }
        };
        let tally = state.tallies.get_mut(&current.number).expect("tallied when begun");
        let offset = tally.end;
        tally.end += length;
        tally.appending += 1;
        Ok((current, offset))
    }

    fn begin_segment(&self, state: &mut State) -> io::Result<Arc<Writing>> {
        let number = state.next_number;
        state.next_number += 1;
        let file = self.disk.create(&path(number), Access::Cached)?;
        file.write(0, &segment::header(self.cluster, number))?;
        self.disk.sync_dir(PACKS)?;
        let (sync, is_failed) = (GroupSync::default(), AtomicBool::new(false));
        let writing = Arc::new(Writing { number, file, sync, is_failed });
        state.current = Some(Arc::clone(&writing));
        let tally = Tally { end: BLOCK, is_current: true, ..Tally::default() };
        state.tallies.insert(number, tally);
        Ok(writing)
    }

    /// Counts an append that ended, and seals the segment if it was the last of a full one.
    fn finish(&self, writing: &Arc<Writing>, is_durable: bool) {
        let mut state = self.state.lock();
        let tally = state.tallies.get_mut(&writing.number).expect("kept while appended to");
        tally.appending -= 1;
        tally.alive += u32::from(is_durable);
        tally.is_broken |= !is_durable;
        if tally.is_broken || !tally.is_current {
            self.retire(&mut state, writing);
        }
    }

    /// Appends no more to a segment; seals it when the last append has ended.
    fn retire(&self, state: &mut State, writing: &Arc<Writing>) {
        let tally = state.tallies.get_mut(&writing.number).expect("kept while appended to");
        if std::mem::take(&mut tally.is_current) {
            state.current = None;
        }
        if tally.appending == 0 && !tally.is_broken {
            let seal = segment::seal(self.cluster, writing.number);
            if let Err(error) = writing.file.write(tally.end.into(), &seal) {
                log::warn!("{} stays without a seal: {error}", path(writing.number));
            }
            if tally.alive == 0 {
                state.tallies.remove(&writing.number);
                self.remove_segment(writing.number);
            }
        }
    }
}

impl Writing {
    fn sync_file(&self) -> io::Result<()> {
        if self.is_failed.load(Ordering::SeqCst) {
            return Err(io::Error::other("an earlier sync of that segment failed"));
        }
        let synced = self.file.sync();
        self.is_failed.fetch_or(synced.is_err(), Ordering::SeqCst);
        synced
    }
}

/// The segment that a file name stands for.
pub(super) fn parse_name(name: &str) -> Option<u32> {
    let number = u32::from_str_radix(name.strip_suffix(SUFFIX)?, 16).ok()?;
    (path(number) == format!("{PACKS}/{name}")).then_some(number)
}

/// Where a segment lies.
pub(super) fn path(number: u32) -> String {
    format!("{PACKS}/{number:08x}{SUFFIX}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::sim::disk::SimDisk;

    #[test]
    fn a_sync_after_one_that_failed_proves_nothing() {
        let disk = SimDisk::new(1 << 20);
        disk.make_dir(PACKS).unwrap();
        let packs = Packs::new(Arc::new(disk.clone()), ClusterId(1), &[]);
        let (writing, offset) = packs.reserve(BLOCK).unwrap();
        writing.file.write(offset.into(), &[7; BLOCK as usize]).unwrap();
        // Somebody else's sync fails, and with it these bytes are gone.
        disk.lose_next_sync();
        writing.sync.run(|| writing.sync_file()).unwrap_err();
        writing.sync.run(|| writing.sync_file()).unwrap_err();
        // Another segment is another file.
        packs.finish(&writing, false);
        packs.append(&[8; BLOCK as usize]).unwrap();
    }
}
