//! Raft: all monitors apply the same commands in the same order, and a command that was answered is never lost.
//!
//! This is the life of a command. Many actions that arrive at the same time are packed into one ([`Batcher`]).
//! [`Raft::propose`] encodes it and appends it to the log (`log`), where one fdatasync makes it durable; when a
//! majority has it (with one voter: at once), it is committed. The thread that applies (`state`) hands it to
//! the state machine (a [`Machine`]: the namespace), writes the changes and "applied up to here" to the store
//! as one batch, and the outcomes go back to whoever proposed it. Now and then the store is persisted, and the
//! log that this covers is purged (`keeper`).
//!
//! So the Raft log is the store's write-ahead log. After a crash the store is some entries back, and whole; the
//! log has the rest, and the same commands give the same state.
//!
//! The protocol itself is openraft's, release 0.9: the stable one. Who leads when is decided here (`elections`,
//! `pulse`): with a poll before an election, and with leaders that step down when no majority hears them.
//! openraft's reads by ReadIndex are shared by many readers (`confirm`). A member that lags behind the log is
//! sent the whole state (`snapshot`). A disk without room is waited for (`room`). All members' states are compared all the time (`hashes`). Everything of
//! openraft stays behind this module: nobody else names one of its types, and bytes on disk and on the wire are
//! our own (`types`, `log`, [`peers`](crate::wire::peers)).
//!
//! How members reach one another is handed in: a [`Transport`]; what they ask is answered by [`Raft::answer`].

mod answer;
pub mod batch;
mod confirm;
mod elections;
mod hashes;
mod keeper;
mod leadership;
mod log;
mod membership;
mod network;
mod pulse;
mod room;
mod snapshot;
mod state;
mod storage;
#[cfg(test)]
mod tests;
mod transport;
mod types;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use openraft::error::{
    ClientWriteError, Fatal, ForwardToLeader, InitializeError, RaftError as CoreError,
};
use openraft::{LogId, RaftMetrics, ServerState, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

pub use batch::Batcher;
use confirm::Confirm;
use elections::Timing;
use hashes::Hashes;
use keeper::Keeper;
pub use leadership::Leadership;
pub use log::LogError;
use log::{Log, LogConfig};
pub use membership::{ChangeError, Group};
use network::Network;
pub use pulse::Heard;
use pulse::Heart;
pub use room::Gauge;
use snapshot::{Receiver, Transfers};
use state::StateMachine;
pub use state::certain_voters;
use storage::LogStorage;
pub use transport::{Transport, Unreached};
use types::{Peer, Proposal, TypeConfig};

use crate::monitor::namespace::command::{Applied, Command, Outcome};
use crate::monitor::namespace::query;
use crate::monitor::store::{Read, Store, StoreError};
use crate::types::MonitorId;

type Core = openraft::Raft<TypeConfig>;
type Metrics = RaftMetrics<u64, Peer>;

/// How long a follower may take to make entries durable, and a voter to answer a reader's question, in
/// milliseconds. (openraft takes its heartbeat interval for both.)
const ANSWER_MS: u64 = 1000;
/// How long votes are waited for, and how long openraft has a voter stay with the leader it heard of last, in
/// milliseconds. The second is less than any silence that leads to an election.
const VOTE_MS: (u64, u64) = (500, 600);
/// Most entries in one message to a follower.
const MESSAGE_ENTRIES: u64 = 64;

/// A state machine: what a command does to the state. Deterministic; see `namespace::apply`.
pub trait Machine: Send + Sync + 'static {
    /// The answers to a command and the changes it makes.
    ///
    /// # Errors
    ///
    /// When the store fails; the monitor then stops, and applies the command again when it is back.
    fn apply(&self, read: &dyn Read, command: &Command) -> Result<Applied, StoreError>;
}

impl<F> Machine for F
where
    F: Fn(&dyn Read, &Command) -> Result<Applied, StoreError> + Send + Sync + 'static,
{
    fn apply(&self, read: &dyn Read, command: &Command) -> Result<Applied, StoreError> {
        self(read, command)
    }
}

/// Who a member is and where it keeps its log.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// Directory of the log; made if need be. One process at a time.
    pub dir: PathBuf,
    /// This monitor.
    pub id: MonitorId,
    /// `host:port` where other monitors reach it.
    pub address: String,
    /// Measures its disk.
    pub gauge: Arc<Gauge>,
}

/// Sizes and times that tests change.
#[derive(Clone, Copy, Debug, Default)]
struct Tuning {
    log: LogConfig,
    timing: Timing,
}

/// Raft could not be started.
#[derive(Debug, thiserror::Error)]
pub enum RaftError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store lost changes, and the log does not reach back to them.
    #[error(
        "the metadata store is at entry {applied}, but the Raft log begins only behind entry {purged}: the store was damaged or restored from an older copy. Restore this monitor's whole directory, or take it from another monitor"
    )]
    StateTooOld {
        /// The last entry that the store has; 0 when it is empty.
        applied: u64,
        /// The last entry that is not in the log any more.
        purged: u64,
    },
    /// The store is in use, its log is gone.
    #[error(
        "the metadata store is at entry {applied}, but there is no Raft log beside it: it was removed, or the store was copied alone. Restore this monitor's whole directory, or take it from another monitor"
    )]
    LogMissing {
        /// The last entry that the store has.
        applied: u64,
    },
    /// Anything else.
    #[error("Raft does not run: {0}")]
    Core(String),
}

/// A command was not proposed, or what became of it is not known.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProposeError {
    /// Another monitor leads, or none does. A command that was on its way when leadership ended may still
    /// be applied.
    #[error("this monitor does not lead")]
    NotLeader {
        /// Who leads, and where it is reached.
        leader: Option<(MonitorId, String)>,
    },
    /// The action is longer than an entry of the log may be.
    #[error("that is too much for one change: send it in parts")]
    TooLong,
    /// The cluster's level is too low for it: some monitor could not read it in the log.
    #[error("not everybody can do that yet: `okapifs status` says whose okapifs is to be upgraded")]
    TooNew,
    /// This monitor's Raft has stopped, in order or because its disk failed.
    #[error("this monitor's Raft has stopped: {0}")]
    Stopped(String),
}

/// A running member. Cheap to clone; it runs until [`Raft::shutdown`].
#[derive(Clone)]
pub struct Raft {
    inner: Arc<Inner>,
}

struct Inner {
    core: Core,
    id: MonitorId,
    address: String,
    log: Arc<Log>,
    store: Arc<dyn Store>,
    /// The last entry that was in the log at the start.
    recovered: Option<u64>,
    metrics: watch::Receiver<Metrics>,
    leadership: watch::Receiver<Leadership>,
    confirm: Confirm,
    heart: Arc<Heart>,
    receiver: Receiver,
    transfers: Arc<Transfers>,
    apply: Mutex<Option<(oneshot::Receiver<()>, JoinHandle<()>)>>,
}

impl Raft {
    /// Starts a member: reads its log, brings the store up to what is known to be committed, and takes part.
    /// Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// When log or store cannot be read or do not fit together.
    pub async fn start(
        config: RaftConfig,
        store: Arc<dyn Store>,
        machine: Arc<dyn Machine>,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, RaftError> {
        let tuning = Tuning::default();
        let (raft, persisted) = Self::start_with(config, tuning, store, machine, transport).await?;
        let inner = &raft.inner;
        let transfers = Arc::clone(&inner.transfers);
        let keeper = Keeper::new(inner.core.clone(), inner.log.clone(), persisted, transfers);
        drop(tokio::spawn(keeper.run()));
        Ok(raft)
    }

    async fn start_with(
        config: RaftConfig,
        tuning: Tuning,
        store: Arc<dyn Store>,
        machine: Arc<dyn Machine>,
        transport: Arc<dyn Transport>,
    ) -> Result<(Self, watch::Receiver<Option<LogId<u64>>>), RaftError> {
        let gauge = config.gauge;
        let receiver = Receiver::new(&config.dir, Arc::clone(&gauge)).map_err(LogError::from)?;
        let (log, applied) =
            open(config.dir, tuning.log, Arc::clone(&gauge), store.clone()).await?;
        let recovered = log.last().map(|last| last.index);
        let (persisted, watch_persisted) = watch::channel(applied);
        let (ended, apply_ended) = oneshot::channel();
        let hashes = Arc::new(Hashes::default());
        let (state, thread) =
            StateMachine::start(store.clone(), machine, Arc::clone(&hashes), persisted, ended)?;
        let transfers = Arc::new(Transfers::default());
        let me = config.id.0;
        let core = Core::new(
            me,
            Arc::new(core_config()),
            Network { transport: Arc::clone(&transport), transfers: Arc::clone(&transfers) },
            LogStorage(log.clone(), me),
            state,
        )
        .await
        .map_err(|error| RaftError::Core(error.to_string()))?;
        let heart = Heart::new(
            core.clone(),
            me,
            log.clone(),
            Arc::clone(&transport),
            tuning.timing,
            hashes,
            gauge,
        );
        let heart = Arc::new(heart);
        let inner = Inner {
            id: config.id,
            address: config.address,
            log,
            store,
            recovered,
            leadership: leadership::follow(&core, heart.fault(), transport),
            metrics: core.metrics(),
            confirm: Confirm::start(core.clone()),
            heart: Arc::clone(&heart),
            receiver,
            transfers,
            apply: Mutex::new(Some((apply_ended, thread))),
            core,
        };
        drop(tokio::spawn(heart.run()));
        Ok((Self { inner: Arc::new(inner) }, watch_persisted))
    }

    /// Whether there is a log in `dir`: the memory of a member, without which it must not take part.
    pub fn has_log(dir: &Path) -> bool {
        log::exists(dir)
    }

    /// Makes an empty log in `dir`, durably. A member that has an id has a log from then on, or has lost it.
    ///
    /// # Errors
    ///
    /// When the directory cannot be written.
    pub fn make_log(dir: &Path) -> Result<(), RaftError> {
        Ok(log::make(dir)?)
    }

    /// Makes this monitor the only voter of a new group. Does nothing when it is in a group already.
    ///
    /// # Errors
    ///
    /// When Raft has stopped.
    pub async fn bootstrap(&self) -> Result<(), RaftError> {
        let peer = Peer { address: self.inner.address.clone() };
        let members = BTreeMap::from([(self.inner.id.0, peer)]);
        match self.inner.core.initialize(members).await {
            Ok(()) | Err(CoreError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(RaftError::Core(error.to_string())),
        }
    }

    /// Proposes a command and waits until it is applied. Gives one outcome an action.
    ///
    /// # Errors
    ///
    /// When this monitor does not lead or has stopped.
    pub async fn propose(&self, command: &Command) -> Result<Vec<Outcome>, ProposeError> {
        self.enqueue(command).await?.await
    }

    /// Proposes a command behind all that were enqueued before; what is given back waits until it is applied.
    /// Many may be on their way.
    async fn enqueue(
        &self,
        command: &Command,
    ) -> Result<impl Future<Output = Result<Vec<Outcome>, ProposeError>> + Send + use<>, ProposeError>
    {
        self.check_level(command)?;
        let mut leadership = self.leadership();
        let term = leadership.borrow().term;
        let answer = self.inner.core.client_write_ff(Proposal::new(command));
        let answer = answer.await.map_err(stopped_proposal)?;
        let mut metrics = self.inner.metrics.clone();
        Ok(async move {
            let answer = tokio::select! {
                biased;
                answer = answer => answer,
                // openraft answers only when the entry is applied or replaced: who is cut off waits for long.
                leader = deposed(&mut leadership, term) => {
                    return Err(ProposeError::NotLeader { leader });
                }
            };
            match answer {
                Ok(Ok(written)) => Ok(written.data),
                Ok(Err(ClientWriteError::ForwardToLeader(to))) => Err(not_leader(to)),
                Ok(Err(error)) => Err(ProposeError::Stopped(error.to_string())),
                Err(_) => Err(why_stopped(&metrics.borrow_and_update())),
            }
        })
    }

    /// What not every member can read must not come into the log.
    fn check_level(&self, command: &Command) -> Result<(), ProposeError> {
        let level = query::level(&*self.inner.store);
        let level = level.map_err(|error| ProposeError::Stopped(error.to_string()))?;
        let is_allowed = command.actions.iter().all(|action| action.since() <= level);
        is_allowed.then_some(()).ok_or(ProposeError::TooNew)
    }

    /// Who leads; changes are seen in the receiver.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// Returns when what the store holds is at least as new as everything that was answered before the call
    /// (ReadIndex): this monitor leads still, and has applied all that was committed. Gives the term in which it
    /// leads. With a single voter it is only a look: nobody else can lead.
    ///
    /// # Errors
    ///
    /// When this monitor does not lead, cannot reach a majority, or has stopped.
    pub async fn confirm_leadership(&self) -> Result<u64, ProposeError> {
        match self.leads_alone() {
            Some(term) => Ok(term),
            None => self.inner.confirm.confirm().await,
        }
    }

    /// The term, if this is a single voter that leads and has applied everything that it found in its log.
    /// (What it was given since is answered only when it is applied.)
    fn leads_alone(&self) -> Option<u64> {
        let metrics = self.inner.metrics.borrow();
        let mut voters = metrics.membership_config.voter_ids();
        let applied = metrics.last_applied;
        let leads = metrics.running_state.is_ok()
            && metrics.state == ServerState::Leader
            && voters.next() == Some(self.inner.id.0)
            && voters.next().is_none()
            && applied.map(|id| id.leader_id.term) == Some(metrics.current_term)
            && applied.map(|id| id.index) >= self.inner.recovered;
        leads.then_some(metrics.current_term)
    }

    /// Stops taking part, makes log and store durable, and lets go of both. What was proposed and not
    /// answered may or may not have happened.
    ///
    /// # Errors
    ///
    /// When the store could not be made durable; the log has everything still.
    pub async fn shutdown(&self) -> Result<(), RaftError> {
        self.inner.log.stop_waiting();
        if let Err(panic) = self.inner.core.shutdown().await {
            ::log::error!("Raft panicked: {panic}");
        }
        let apply = self.inner.apply.lock().take();
        if let Some((ended, thread)) = apply {
            // Nothing is ever sent: the thread drops its end when it is through.
            drop(ended.await);
            if thread.join().is_err() {
                ::log::error!("the thread that applies commands panicked");
            }
        }
        let (log, store) = (self.inner.log.clone(), self.inner.store.clone());
        let closed = tokio::task::spawn_blocking(move || {
            log.close();
            store.persist()
        });
        let closed = closed.await.map_err(|panic| RaftError::Core(panic.to_string()))?;
        Ok(closed?)
    }
}

/// Opens the log and checks that it and the store fit together. Gives the last entry that is durably applied.
async fn open(
    dir: PathBuf,
    log_config: LogConfig,
    gauge: Arc<Gauge>,
    store: Arc<dyn Store>,
) -> Result<(Arc<Log>, Option<LogId<u64>>), RaftError> {
    let opened = tokio::task::spawn_blocking(move || {
        let log = Log::open(&dir, log_config, gauge)?;
        let (applied, _) = state::applied_state(store.as_ref())?;
        store.persist()?;
        let index = applied.map(|id| id.index);
        let purged = log.purged().map(|at| at.index);
        match (index, purged) {
            (Some(applied), _) if log.vote().is_none() => Err(RaftError::LogMissing { applied }),
            (applied, Some(purged)) if applied < Some(purged) => {
                Err(RaftError::StateTooOld { applied: applied.unwrap_or(0), purged })
            }
            _ => Ok((Arc::new(log), applied)),
        }
    });
    opened.await.map_err(|panic| RaftError::Core(panic.to_string()))?
}

fn core_config() -> openraft::Config {
    openraft::Config {
        cluster_name: "okapifs".into(),
        heartbeat_interval: ANSWER_MS,
        election_timeout_min: VOTE_MS.0,
        election_timeout_max: VOTE_MS.1,
        max_payload_entries: MESSAGE_ENTRIES,
        enable_elect: false,
        // When to persist and what to purge is the keeper's business.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        ..openraft::Config::default()
    }
}

/// Resolves when this member does not lead any more in that term. Gives who leads instead, if that is known.
async fn deposed(
    leadership: &mut watch::Receiver<Leadership>,
    term: u64,
) -> Option<(MonitorId, String)> {
    let changed = leadership.wait_for(|now| {
        let leads = now.is_leader() && now.term == term;
        // Why it has stopped is said by the answer.
        !leads && now.stopped.is_none()
    });
    let leader = changed.await.ok().map(|now| now.leader.clone());
    match leader {
        Some(leader) => leader,
        None => std::future::pending().await,
    }
}

fn not_leader(to: ForwardToLeader<u64, Peer>) -> ProposeError {
    ProposeError::NotLeader {
        leader: to.leader_id.zip(to.leader_node).map(|(id, peer)| (MonitorId(id), peer.address)),
    }
}

fn stopped_proposal(error: Fatal<u64>) -> ProposeError {
    ProposeError::Stopped(error.to_string())
}

fn why_stopped(metrics: &Metrics) -> ProposeError {
    match &metrics.running_state {
        Err(error) => ProposeError::Stopped(error.to_string()),
        Ok(()) => ProposeError::Stopped("it ended before the command was applied".into()),
    }
}
