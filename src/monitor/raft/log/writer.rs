//! The thread that writes the log: takes all that waits, writes it at once, syncs once.

use std::io;
use std::sync::{Arc, mpsc};

use parking_lot::Mutex;

use super::files::Files;
use super::index::{Index, Segment};
use super::patience::Patience;
use super::record::{self, Position, Record};
use super::spare::Spare;
use super::vote::{self, Vote};
use super::{Done, segment_name};

/// Most bytes of entries that are written with one sync.
const GROUP_BYTES: usize = 8 << 20;

/// What is asked of the thread.
pub(super) enum Job {
    /// See [`super::Log::append`].
    Append {
        /// The entries; they are in the index already.
        records: Vec<Record>,
        /// Called when they are durable.
        done: Done,
    },
    /// See [`super::Log::truncate`].
    Truncate {
        /// The first entry to remove.
        first: u64,
        /// Called when they are gone for good.
        done: Done,
    },
    /// See [`super::Log::purge`].
    Purge {
        /// The last entry to forget.
        upto: Position,
        /// Called when that is durable.
        done: Done,
    },
    /// See [`super::Log::save_vote`].
    Vote {
        /// The vote.
        vote: Vote,
        /// Called when it is durable.
        done: Done,
    },
    /// End the thread.
    Close,
}

impl Job {
    /// Tells who waits for it.
    pub(super) fn finish(self, result: &io::Result<()>) {
        match self {
            Self::Append { done, .. }
            | Self::Truncate { done, .. }
            | Self::Purge { done, .. }
            | Self::Vote { done, .. } => done(again(result)),
            Self::Close => {}
        }
    }
}

/// The same result once more: an I/O error cannot be cloned.
fn again(result: &io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    }
}

/// What the thread owns.
pub(super) struct Writer {
    files: Arc<dyn Files>,
    spare: Spare,
    index: Arc<Mutex<Index>>,
    segment_bytes: u64,
    patience: Patience,
    /// Entries below this index are durable.
    durable: u64,
    /// What was last written about what is committed.
    committed: Option<Position>,
    /// Bytes of the group that is being written.
    buffer: Vec<u8>,
    /// After an error nothing is known of the file's pages any more: no later write can be trusted.
    failed: Option<String>,
}

impl Writer {
    /// A writer for a recovered log.
    pub(super) fn new(
        files: Arc<dyn Files>,
        spare: Spare,
        index: Arc<Mutex<Index>>,
        segment_bytes: u64,
        patience: Patience,
    ) -> Self {
        let (durable, committed) = {
            let index = index.lock();
            (index.last().map_or(0, |last| last.index + 1), index.committed)
        };
        Self {
            files,
            spare,
            index,
            segment_bytes,
            patience,
            durable,
            committed,
            buffer: Vec::new(),
            failed: None,
        }
    }

    /// Works until the log is closed.
    pub(super) fn run(mut self, waiting: &mpsc::Receiver<Job>) {
        let mut next = waiting.recv().ok();
        while let Some(job) = next.take() {
            if matches!(job, Job::Close) {
                return;
            }
            let mut group = vec![job];
            next = gather(&mut group, waiting);
            let result = self.work(&group);
            for job in group {
                job.finish(&result);
            }
            next = next.or_else(|| waiting.recv().ok());
        }
    }

    /// Does a group of jobs; a group of more than one are all appends.
    fn work(&mut self, group: &[Job]) -> io::Result<()> {
        if let Some(failed) = &self.failed {
            return Err(io::Error::other(failed.clone()));
        }
        let result = match group {
            [Job::Truncate { first, .. }] => self.truncate(*first),
            [Job::Purge { upto, .. }] => self.purge(*upto),
            [Job::Vote { vote, .. }] => self.vote(*vote),
            appends => self.append(appends),
        };
        if let Err(error) = &result {
            log::error!("the Raft log cannot be written: {error}");
            self.failed = Some(format!("the Raft log failed before: {error}"));
        }
        result
    }

    fn append(&mut self, group: &[Job]) -> io::Result<()> {
        let records = group.iter().flat_map(|job| match job {
            Job::Append { records, .. } => records.as_slice(),
            _ => &[],
        });
        self.patience.wait_for_room();
        self.buffer.clear();
        for record in records {
            self.buffer_entry(record)?;
        }
        self.flush()
    }

    /// Adds an entry to the buffer, in a new segment if the newest is full.
    fn buffer_entry(&mut self, record: &Record) -> io::Result<()> {
        let index = record.position.index;
        let full = {
            let index = self.index.lock();
            let newest = index.segments.back().map(|segment| segment.bytes);
            newest.is_none_or(|bytes| bytes + self.buffer.len() as u64 >= self.segment_bytes)
        };
        if full {
            self.flush()?;
            self.begin_segment(index)?;
        }
        if self.buffer.is_empty() {
            self.buffer_committed();
        }
        let (start, length) = record::write_entry(&mut self.buffer, record, self.durable);
        let mut index = self.index.lock();
        let newest = index.segments.back_mut().expect("begun above");
        // The segment's length grows only with the flush: until then the entry is read from memory.
        newest.push(record.position, newest.bytes + start as u64, length);
        Ok(())
    }

    fn buffer_committed(&mut self) {
        let committed = self.index.lock().committed;
        if let Some(position) = committed
            && committed != self.committed
        {
            record::write_committed(&mut self.buffer, position, self.durable);
            self.committed = committed;
        }
    }

    /// Makes the buffered entries durable.
    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let (name, offset) = {
            let index = self.index.lock();
            let newest = index.segments.back().expect("entries are in a segment");
            (segment_name(newest.first), newest.bytes)
        };
        self.patience.write(|| {
            self.files.write_at(&name, offset, &self.buffer)?;
            self.files.sync(&name)
        })?;
        let mut index = self.index.lock();
        let newest = index.segments.back_mut().expect("still there");
        newest.bytes += self.buffer.len() as u64;
        let newest_bytes = newest.bytes;
        self.durable = newest.next();
        index.appended_bytes += self.buffer.len() as u64;
        index.shrink_cache();
        let is_half_full = newest_bytes >= self.segment_bytes / 2;
        drop(index);
        self.buffer.clear();
        if is_half_full {
            self.spare.want();
        }
        Ok(())
    }

    /// Begins a segment. Its header is durable before anything is written behind it.
    fn begin_segment(&self, first: u64) -> io::Result<()> {
        let name = segment_name(first);
        self.patience.write(|| {
            self.spare.become_segment(&name)?;
            self.files.write_at(&name, 0, &record::segment_head(first))?;
            self.files.sync(&name)?;
            self.files.sync_dir()
        })?;
        self.index.lock().segments.push_back(Segment::new(first));
        Ok(())
    }

    /// Removes whole segments first, newest first, so that a crash in between leaves no gap.
    fn truncate(&mut self, first: u64) -> io::Result<()> {
        let (removed, kept) = {
            let mut index = self.index.lock();
            let before: Vec<u64> = index.segments.iter().map(|segment| segment.first).collect();
            index.truncate(first);
            let kept = index.segments.back().map(|at| (segment_name(at.first), at.bytes));
            (before[index.segments.len()..].to_vec(), kept)
        };
        for segment in removed.iter().rev() {
            self.files.remove(&segment_name(*segment))?;
            self.files.sync_dir()?;
        }
        if let Some((name, bytes)) = kept {
            self.files.truncate(&name, bytes)?;
            self.files.sync(&name)?;
        }
        self.durable = self.durable.min(first);
        Ok(())
    }

    /// Where the log begins is durable before any segment goes.
    fn purge(&mut self, upto: Position) -> io::Result<()> {
        let (gone, vote, purged) = {
            let mut index = self.index.lock();
            (index.purge(upto), index.vote, index.purged)
        };
        self.patience.write(|| vote::save(self.files.as_ref(), vote, purged))?;
        for first in gone {
            self.files.remove(&segment_name(first))?;
        }
        self.durable = self.durable.max(upto.index + 1);
        Ok(())
    }

    fn vote(&self, vote: Vote) -> io::Result<()> {
        let purged = self.index.lock().purged;
        self.patience.write(|| vote::save(self.files.as_ref(), Some(vote), purged))?;
        self.index.lock().vote = Some(vote);
        Ok(())
    }
}

/// Adds the appends that wait to a group that begins with one; gives the job that ended it.
fn gather(group: &mut Vec<Job>, waiting: &mpsc::Receiver<Job>) -> Option<Job> {
    let mut bytes = match group.first() {
        Some(Job::Append { records, .. }) => body_bytes(records),
        _ => return None,
    };
    while bytes < GROUP_BYTES {
        match waiting.try_recv().ok()? {
            Job::Append { records, done } => {
                bytes += body_bytes(&records);
                group.push(Job::Append { records, done });
            }
            other => return Some(other),
        }
    }
    None
}

fn body_bytes(records: &[Record]) -> usize {
    records.iter().map(|record| record.body.len()).sum()
}
