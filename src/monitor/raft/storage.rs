//! The log, as openraft asks for it.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, LogId, LogState, OptionalSend, RaftLogReader, StorageIOError, Vote};
use tokio::sync::oneshot;

use super::log::{Done, Log, LogError, Record};
use super::types::{self, Entry, StorageError, TypeConfig};

/// A message to a follower holds no more entries once they have this many bytes.
const MESSAGE_BYTES: usize = 1 << 20;

/// The log of a member, by its id, in openraft's hands.
#[derive(Clone)]
pub(super) struct LogStorage(pub(super) Arc<Log>, pub(super) u64);

impl RaftLogReader<TypeConfig> for LogStorage {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let range = half_open(&range);
        let records = match self.0.cached(range.clone()) {
            Some(records) => records,
            None => {
                let log = self.0.clone();
                read_with(move || log.read(range)).await?
            }
        };
        records.into_iter().map(types::entry).collect()
    }

    /// What one message to a follower carries. openraft purges nothing that it is sending; but a member that was
    /// deposed may purge while the last task of its reign still reads. It gets nothing then, never entries behind
    /// a gap.
    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        let log = self.0.clone();
        let records = read_with(move || log.read_some(start..end, MESSAGE_BYTES)).await?;
        records.into_iter().map(types::entry).collect()
    }
}

/// Runs a read on a thread that may wait for the disk.
async fn read_with(
    read: impl FnOnce() -> Result<Vec<Record>, LogError> + Send + 'static,
) -> Result<Vec<Record>, StorageError> {
    let failed = |error: AnyError| StorageIOError::read_logs(error);
    let records = tokio::task::spawn_blocking(read).await;
    let records = records.map_err(|panic| failed(AnyError::new(&panic)))?;
    Ok(records.map_err(|error| failed(AnyError::new(&error)))?)
}

fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(first) => *first,
        Bound::Excluded(before) => before + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last + 1,
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogStorage<TypeConfig> for LogStorage {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        Ok(LogState {
            last_purged_log_id: self.0.purged().map(types::log_id),
            last_log_id: self.0.last().map(types::log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError> {
        let vote = types::vote(vote);
        let saved = durable(|done| self.0.save_vote(vote, done)).await;
        Ok(saved.map_err(|error| StorageIOError::write_vote(AnyError::new(&error)))?)
    }

    /// That this member had won is forgotten: openraft would let it lead on in the term of the process before
    /// it, whose last commands may still be under way. A term is led by one process; the next has to be elected.
    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError> {
        let vote = self.0.vote().map(types::openraft_vote);
        let is_mine = |vote: &Vote<u64>| vote.leader_id.voted_for == Some(self.1);
        Ok(vote.map(|vote| Vote { committed: vote.committed && !is_mine(&vote), ..vote }))
    }

    async fn save_committed(&mut self, committed: Option<LogId<u64>>) -> Result<(), StorageError> {
        self.0.save_committed(committed.map(types::position));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId<u64>>, StorageError> {
        Ok(self.0.committed().map(types::log_id))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records = entries.into_iter().map(types::record).collect();
        let done = Box::new(|result| callback.log_io_completed(result));
        self.0.append(records, done);
        Ok(())
    }

    async fn truncate(&mut self, from: LogId<u64>) -> Result<(), StorageError> {
        let truncated = durable(|done| self.0.truncate(from.index, done)).await;
        Ok(truncated.map_err(|error| StorageIOError::write_logs(AnyError::new(&error)))?)
    }

    async fn purge(&mut self, upto: LogId<u64>) -> Result<(), StorageError> {
        let upto = types::position(upto);
        let purged = durable(|done| self.0.purge(upto, done)).await;
        Ok(purged.map_err(|error| StorageIOError::write_logs(AnyError::new(&error)))?)
    }
}

/// Asks the log's thread for something and waits until it is durable.
async fn durable(ask: impl FnOnce(Done)) -> io::Result<()> {
    let (done, waiting) = oneshot::channel();
    ask(Box::new(|result| {
        // Nobody waits any more when openraft was shut down meanwhile.
        drop(done.send(result));
    }));
    waiting.await.unwrap_or_else(|_| Err(io::Error::other("the Raft log is closed")))
}
