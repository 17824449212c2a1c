//! The Raft log on disk: where a command becomes durable.
//!
//! This is the life of one entry. [`Log::append`] puts it into memory, where it can be read at once, and hands
//! it to the log's own thread ([`writer`]). The thread takes everything that waits, appends it to the newest
//! segment file with one write, calls fdatasync once, and then tells everybody who waited: the more commands
//! arrive while the disk is busy, the fewer syncs a command costs, and no async worker ever waits for a disk.
//! (A file that grows is slower to sync, so the next one is laid out ahead: [`spare`].)
//! Entries stay in memory until newer ones push them out ([`index`]); older ones are read back from their
//! segment. When the state has been persisted beyond a whole segment, [`Log::purge`] removes the file.
//!
//! A disk without room is no error: the thread waits until there is some ([`patience`]).
//!
//! A power cut may leave anything in the bytes behind the last sync. Recovery ([`recovery`]) cuts such a tail
//! off. It does not cut off what was acknowledged: every record says up to where the log was durable when it
//! was written, so that a damaged record with a later witness against it is recognized as damage and refused.
//!
//! The vote and the place up to which the log was purged are rare and small: a file, replaced by rename. Where
//! the committed entries end is a hint that only saves time at a restart: it is written along with the next
//! entries and costs no sync.
//!
//! Nothing here knows openraft.

#[cfg(test)]
mod fake;
mod files;
mod index;
mod patience;
mod record;
mod recovery;
mod spare;
#[cfg(test)]
mod tests;
mod vote;
mod writer;

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::room::Gauge;
use files::{Files, SystemFiles};
use index::{Index, Place};
use patience::Patience;
pub(super) use record::{Position, Record};
use spare::Spare;
pub(super) use vote::Vote;
use writer::{Job, Writer};

/// Sizes of the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogConfig {
    /// A segment file that has reached this many bytes is followed by the next.
    pub(super) segment_bytes: u64,
    /// Most bytes of entries kept in memory besides those that are not written yet.
    pub(super) cache_bytes: usize,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { segment_bytes: 16 << 20, cache_bytes: 16 << 20 }
    }
}

/// The log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk failed.
    #[error("the Raft log cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// Bytes that were acknowledged are not what was written.
    #[error(
        "the Raft log is damaged: {0}. Nothing was changed; restore this monitor from another one or from a backup"
    )]
    Damaged(String),
}

/// Whether there is a log in `dir`.
pub(super) fn exists(dir: &Path) -> bool {
    dir.join(vote::NAME).exists()
}

/// Makes an empty log in `dir`, durably.
pub(super) fn make(dir: &Path) -> Result<(), LogError> {
    let files = SystemFiles::open(dir)?;
    Ok(vote::save(&files, None, None)?)
}

/// What is called when a change of the log is durable, or will never be.
pub(super) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// The log. All changes happen in the order in which they are asked for.
pub(super) struct Log {
    files: Arc<dyn Files>,
    index: Arc<Mutex<Index>>,
    jobs: mpsc::Sender<Job>,
    /// Whether it is about to be closed: nobody waits for room any more.
    is_closing: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Log {
    /// Opens the log in `dir`, or makes an empty one there; `gauge` measures its disk.
    pub(super) fn open(dir: &Path, config: LogConfig, gauge: Arc<Gauge>) -> Result<Self, LogError> {
        let files: Arc<dyn Files> = Arc::new(SystemFiles::open(dir)?);
        let spare = Spare::ahead(Arc::clone(&files), config.segment_bytes)?;
        Self::open_files(files, config, spare, gauge)
    }

    fn open_files(
        files: Arc<dyn Files>,
        config: LogConfig,
        spare: Spare,
        gauge: Arc<Gauge>,
    ) -> Result<Self, LogError> {
        let index = recovery::recover(files.as_ref(), config.cache_bytes)?;
        let index = Arc::new(Mutex::new(index));
        let (jobs, waiting) = mpsc::channel();
        let is_closing = Arc::new(AtomicBool::new(false));
        let patience = Patience { gauge, is_closing: Arc::clone(&is_closing) };
        let writer =
            Writer::new(files.clone(), spare, index.clone(), config.segment_bytes, patience);
        let thread = std::thread::Builder::new()
            .name("raft-log".into())
            .spawn(move || writer.run(&waiting))?;
        Ok(Self { files, index, jobs, is_closing, thread: Mutex::new(Some(thread)) })
    }

    /// Appends entries that follow the last one. They can be read when this returns; `done` is called when
    /// they are durable. Entries that were purged before are ignored.
    pub(super) fn append(&self, mut records: Vec<Record>, done: Done) {
        {
            let mut index = self.index.lock();
            let purged = index.purged.map(|purged| purged.index);
            records.retain(|record| Some(record.position.index) > purged);
            index.push(&records);
        }
        self.send(Job::Append { records, done });
    }

    /// Removes the entries from `first` on: another leader has put others in their place.
    pub(super) fn truncate(&self, first: u64, done: Done) {
        self.send(Job::Truncate { first, done });
    }

    /// Forgets the entries up to and with `upto`. Their space is freed by whole segments.
    pub(super) fn purge(&self, upto: Position, done: Done) {
        self.send(Job::Purge { upto, done });
    }

    /// Remembers for whom this member has voted.
    pub(super) fn save_vote(&self, vote: Vote, done: Done) {
        self.send(Job::Vote { vote, done });
    }

    /// Remembers, sooner or later, that all up to here is committed.
    pub(super) fn save_committed(&self, committed: Option<Position>) {
        self.index.lock().committed = committed;
    }

    /// The vote that was saved last.
    pub(super) fn vote(&self) -> Option<Vote> {
        self.index.lock().vote
    }

    /// What is known to be committed; possibly less than what is.
    pub(super) fn committed(&self) -> Option<Position> {
        self.index.lock().committed
    }

    /// The last entry that was purged.
    pub(super) fn purged(&self) -> Option<Position> {
        self.index.lock().purged
    }

    /// The last entry, durable or not; the last purged one when there is none.
    pub(super) fn last(&self) -> Option<Position> {
        self.index.lock().last()
    }

    /// The last entry that can be purged so that at least `keep` bytes of the log stay.
    pub(super) fn purgeable(&self, keep: u64) -> Option<Position> {
        self.index.lock().purgeable(keep)
    }

    /// Bytes appended since the log was opened.
    pub(super) fn appended_bytes(&self) -> u64 {
        self.index.lock().appended_bytes
    }

    /// The entries of a range, as far as they exist, if all of them are in memory.
    pub(super) fn cached(&self, range: Range<u64>) -> Option<Vec<Record>> {
        self.index.lock().cached(range)
    }

    /// The entries of a range, as far as they exist; may read from disk.
    pub(super) fn read(&self, range: Range<u64>) -> Result<Vec<Record>, LogError> {
        let places = self.index.lock().places(range);
        places.into_iter().map(|place| self.read_one(place)).collect()
    }

    /// The first entries of a range: at least one, and no more when they have `bytes_max` bytes. None when the
    /// first was purged.
    pub(super) fn read_some(
        &self,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<Record>, LogError> {
        let places = self.index.lock().places(range.clone());
        let (mut records, mut bytes) = (Vec::new(), 0);
        for place in places {
            if bytes >= bytes_max {
                break;
            }
            let record = self.read_one(place)?;
            bytes += record.body.len();
            records.push(record);
        }
        let begins = records.first().is_some_and(|record| record.position.index == range.start);
        Ok(if begins { records } else { Vec::new() })
    }

    fn read_one(&self, place: Place) -> Result<Record, LogError> {
        match place {
            Place::Memory(record) => Ok(record),
            Place::Disk(span) => record::read(self.files.as_ref(), &span),
        }
    }

    /// What waits for room waits no longer, but fails: the log is about to be closed.
    pub(super) fn stop_waiting(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
    }

    /// Writes what was asked for and ends the log's thread.
    pub(super) fn close(&self) {
        self.stop_waiting();
        self.send(Job::Close);
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            log::error!("the thread of the Raft log panicked");
        }
    }

    fn send(&self, job: Job) {
        if let Err(mpsc::SendError(job)) = self.jobs.send(job) {
            job.finish(&Err(io::Error::other("the Raft log is closed")));
        }
    }
}

/// The name of the segment whose first entry has that index.
fn segment_name(first: u64) -> String {
    format!("{first:020}.log")
}
