//! Keeps the log short: persists the state now and then, and lets the log go that it covers.
//!
//! How often is a trade: a persist costs the disk a moment, and what has not been persisted is applied again
//! after a power cut.

use std::sync::Arc;
use std::time::Duration;

use openraft::LogId;
use tokio::sync::watch;

use super::log::Log;
use super::snapshot::Transfers;
use super::types::TypeConfig;

/// Persist when the log has grown by this many bytes ...
const PERSIST_BYTES: u64 = 32 << 20;
/// ... or by anything at all since so many ticks.
const PERSIST_TICKS: u32 = 60;
/// Bytes of log that are kept, so that a member that was away for a moment needs no whole state.
const KEEP_BYTES: u64 = 64 << 20;
/// The same while a whole state is sent to a member: the log behind it must stay until it has it. Not for ever: one
/// that fails again and again, because its disk is full, say, must not fill the others'.
const KEEP_BYTES_FOR_TRANSFER: u64 = 1 << 30;
/// How often to look.
const TICK: Duration = Duration::from_secs(1);

/// What the keeper knows.
pub(super) struct Keeper {
    raft: openraft::Raft<TypeConfig>,
    log: Arc<Log>,
    persisted: watch::Receiver<Option<LogId<u64>>>,
    transfers: Arc<Transfers>,
    persist_bytes: u64,
    keep_bytes: u64,
    keep_bytes_for_transfer: u64,
    /// Bytes of log that had been appended when the last persist was asked for.
    covered: u64,
    ticks: u32,
}

impl Keeper {
    /// A keeper of this log. Nothing before `persisted` says so is ever purged, and little during `transfers`.
    pub(super) fn new(
        raft: openraft::Raft<TypeConfig>,
        log: Arc<Log>,
        persisted: watch::Receiver<Option<LogId<u64>>>,
        transfers: Arc<Transfers>,
    ) -> Self {
        Self {
            raft,
            log,
            persisted,
            transfers,
            persist_bytes: PERSIST_BYTES,
            keep_bytes: KEEP_BYTES,
            keep_bytes_for_transfer: KEEP_BYTES_FOR_TRANSFER,
            covered: 0,
            ticks: 0,
        }
    }

    /// With other sizes.
    #[cfg(test)]
    pub(super) fn with_bytes(mut self, persist: u64, keep: u64, keep_for_transfer: u64) -> Self {
        self.persist_bytes = persist;
        self.keep_bytes = keep;
        self.keep_bytes_for_transfer = keep_for_transfer;
        self
    }

    /// Works until Raft stops.
    pub(super) async fn run(mut self) {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            ticks.tick().await;
            if self.tick().await.is_err() {
                return;
            }
        }
    }

    /// One look.
    pub(super) async fn tick(&mut self) -> Result<(), openraft::error::Fatal<u64>> {
        self.ticks += 1;
        let appended = self.log.appended_bytes();
        let grown = appended - self.covered;
        if grown >= self.persist_bytes || (grown > 0 && self.ticks >= PERSIST_TICKS) {
            self.covered = appended;
            self.ticks = 0;
            self.raft.trigger().snapshot().await?;
        }
        self.purge().await
    }

    async fn purge(&self) -> Result<(), openraft::error::Fatal<u64>> {
        let is_sending = self.transfers.are_under_way();
        let keep = if is_sending { self.keep_bytes_for_transfer } else { self.keep_bytes };
        let persisted = self.persisted.borrow().map(|id| id.index);
        let purgeable = self.log.purgeable(keep).map(|at| at.index);
        let purged = self.log.purged().map(|at| at.index);
        let upto = persisted.min(purgeable);
        match upto {
            Some(index) if upto > purged => self.raft.trigger().purge_log(index).await,
            _ => Ok(()),
        }
    }
}
