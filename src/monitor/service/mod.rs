//! The monitor as a process: it answers clients, servers and administrators.
//!
//! The namespace knows what is true, Raft makes it true on a majority; this folder is what stands between
//! them and the connections. Its own state is small, lives in the leader's memory only and can be lost at
//! any moment, because its owners tell it again: which sessions are alive ([`sessions`]), what they have open
//! ([`pins`]), how the servers are doing ([`servers`]). Those three are pure; the rest of the folder is edge:
//!
//! * [`calls`] takes a call from the wire, checks who asks, and hands it on;
//! * [`mutate`] does changes: recall what somebody else holds, put the change into the log, answer;
//! * [`ask`] answers questions the same way, without the log;
//! * [`clients`] and [`storage`] look after sessions and servers;
//! * [`trust`] lets machines join and renews certificates, [`policy`] keeps clients to what they may do;
//! * [`status`] and [`admin`] tell administrators how everything is;
//! * [`room`] keeps a part of the monitor's own disk for what must go on;
//! * [`background`] does what time brings: evictions, freeing, the state of servers.
//!
//! **The life of a recall.** Client B asks for the attributes of a file that client A writes. `W/ino` says
//! that A holds the exclusive grant: size and content are in A's memory. B's call waits; A gets a notice,
//! commits all that it has buffered, and gives the grant back in the same command or the next; when that is
//! applied, B's call goes on and finds what A wrote. If A is dead, its session expires; if A lives but shows
//! no progress, it is evicted. So B's wait has an end.

mod admin;
mod ask;
mod background;
mod calls;
mod clients;
mod mutate;
mod pins;
mod policy;
mod room;
mod servers;
mod sessions;
mod status;
mod storage;
#[cfg(test)]
mod tests;
mod trust;

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use self::pins::Pins;
use self::policy::Restriction;
use self::servers::Servers;
use self::sessions::Sessions;
use self::trust::Vault;
use crate::crypto::Credentials;
use crate::env::clock::{Clock, SystemClock};
use crate::env::system::lock::{DirLock, LockError};
use crate::env::system::node;
use crate::env::system::rpc::{BindError, Caller, Listener};
use crate::monitor::founding;
use crate::monitor::namespace;
use crate::monitor::namespace::command::{Action, Outcome};
use crate::monitor::namespace::query;
use crate::monitor::namespace::trust::TrustAction;
use crate::monitor::raft::batch::Batcher;
use crate::monitor::raft::{ProposeError, Raft, RaftConfig, RaftError};
use crate::monitor::store::disk::DiskStore;
use crate::monitor::store::{Store, StoreError};
use crate::types::{
    ClusterId, Epoch, Incarnation, MonitorId, MonitorRole, ServerId, SessionId, Timestamp, Width,
};
use crate::wire::metadata::{Refusal, Register};

/// How long a monitor that starts may take to lead.
const ELECTION: Duration = Duration::from_secs(10);

/// What a monitor needs to begin.
#[derive(Debug)]
pub struct Config {
    /// Its data directory.
    pub dir: PathBuf,
    /// `host:port` to listen on; port 0 takes a free one.
    pub listen: String,
    /// Its id.
    pub id: MonitorId,
    /// Its certificate.
    pub credentials: Credentials,
    /// What the cluster is to be, if this is its first monitor and it has not begun yet.
    pub bootstrap: Bootstrap,
}

/// What a new cluster is to be.
#[derive(Clone, Copy, Debug)]
pub struct Bootstrap {
    /// Its id.
    pub cluster: ClusterId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Width of the root volume's stripes.
    pub width: Width,
    /// Fewest copies with which a write is taken.
    pub min_copies: u8,
}

/// Why a monitor could not begin, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another process has the directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The metadata store is unusable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log is unusable.
    #[error(transparent)]
    Raft(#[from] RaftError),
    /// The log did not take the first command.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The machine does not say who it is, or the runtime could not take the socket over.
    #[error(transparent)]
    System(#[from] io::Error),
    /// The log stopped while the monitor ran.
    #[error("this monitor stopped: {0}; look at its disk, then start it again")]
    Stopped(String),
    /// The directory belongs to another cluster than the certificate.
    #[error(
        "this directory holds the metadata of cluster {found}, but the certificate is for {expected}: \
         give the monitor its own directory"
    )]
    OtherCluster {
        /// Whose metadata it is.
        found: ClusterId,
        /// Whose certificate it is.
        expected: ClusterId,
    },
}

/// A running monitor.
struct Monitor {
    id: MonitorId,
    cluster: ClusterId,
    pid: u32,
    node: String,
    store: Arc<dyn Store>,
    raft: Raft,
    log: Batcher,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    vault: Vault,
    /// Rings whenever something that a call may wait for has changed: a grant, a fence, a session, grace.
    changed: Notify,
    /// Rings when an inode may wait to be freed.
    orphaned: Notify,
    dir: PathBuf,
    /// Whether only the reserve of this monitor's disk is left.
    short_of_room: AtomicBool,
}

/// What a leader keeps in memory only.
struct State {
    sessions: Sessions,
    pins: Pins,
    servers: Servers,
    /// The connection of each attached session.
    callers: HashMap<SessionId, Arc<Caller>>,
    /// What attached sessions are kept to, of those that may not do everything.
    restricted: HashMap<SessionId, Arc<Restriction>>,
    /// Which server a connection registered.
    registered: HashMap<u64, (ServerId, Epoch)>,
}

/// Runs a monitor until `shutdown` turns true. Calls `ready` with its address when it answers.
///
/// # Errors
///
/// [`RunError`] when it cannot begin.
pub async fn run(
    config: Config,
    ready: impl FnOnce(SocketAddr) + Send,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), RunError> {
    let _lock = DirLock::take(&config.dir)?;
    let listener = Listener::bind(&config.listen)?;
    let address = listener.local_address();
    let store: Arc<dyn Store> = Arc::new(DiskStore::open(&config.dir.join("store"))?);
    let vault = Vault::new(&config.dir, config.credentials.clone());
    vault.renew_own(&*store);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let raft_config =
        RaftConfig { dir: config.dir.join("raft"), id: config.id, address: address.to_string() };
    let raft = Raft::start(raft_config, Arc::clone(&store), Arc::new(namespace::apply)).await?;
    raft.bootstrap().await?;
    lead(&raft).await?;
    let stamp = Arc::clone(&clock);
    let log = Batcher::start(raft.clone(), move || stamp.now());
    introduce(&log, &config, address).await?;

    let identity = query::cluster(&*store)?.expect("the first command made it");
    let expected = config.credentials.identity().cluster;
    if identity.id != expected {
        return Err(RunError::OtherCluster { found: identity.id, expected });
    }
    let state = Mutex::new(State::recover(&*store, clock.now(), clock.monotonic())?);
    let monitor = Arc::new(Monitor {
        id: config.id,
        cluster: identity.id,
        pid: std::process::id(),
        node: node()?.id,
        store,
        raft,
        log,
        clock,
        state,
        vault,
        changed: Notify::new(),
        orphaned: Notify::new(),
        short_of_room: AtomicBool::new(room::is_short(&config.dir)?),
        dir: config.dir,
    });
    let mut chores = tokio::spawn(background::run(Arc::clone(&monitor), shutdown.clone()));
    let mut serving = tokio::spawn(listener.serve(
        config.credentials,
        identity.incarnation,
        Arc::clone(&monitor),
        shutdown.clone(),
    ));
    ready(address);
    let ended = tokio::select! {
        // The sender lives in the caller; if it is gone, there is nobody left to run for.
        _ = shutdown.wait_for(|stop| *stop) => Ok(()),
        why = stopped(&monitor.raft) => Err(RunError::Stopped(why)),
        // Without either of them it would be a monitor that looks alive and is not.
        ended = &mut chores => Err(RunError::Stopped(format!("its chores ended: {ended:?}"))),
        ended = &mut serving => Err(RunError::Stopped(format!("it serves no more: {ended:?}"))),
    };
    // All of them end when they are asked to: whichever was seen first.
    let is_asked = *shutdown.borrow() || shutdown.has_changed().is_err();
    let ended = if is_asked { Ok(()) } else { ended };
    serving.abort();
    chores.abort();
    monitor.raft.shutdown().await?;
    monitor.store.persist()?;
    ended
}

/// Waits until this monitor leads: a single voter elects itself as soon as its vote is on disk.
async fn lead(raft: &Raft) -> Result<(), ProposeError> {
    let mut leadership = raft.leadership();
    let decided =
        leadership.wait_for(|now| now.role == MonitorRole::Leader || now.stopped.is_some());
    // Whether it leads after that time is for the next line to say.
    drop(tokio::time::timeout(ELECTION, decided).await);
    raft.confirm_leadership().await
}

/// Resolves, saying why, when the log can go on no more.
async fn stopped(raft: &Raft) -> String {
    let mut leadership = raft.leadership();
    let found = leadership.wait_for(|now| now.stopped.is_some()).await;
    found.ok().and_then(|now| now.stopped.clone()).unwrap_or_else(|| "its task ended".to_owned())
}

/// The first commands of every start: they do nothing where they have been done before.
async fn introduce(log: &Batcher, config: &Config, address: SocketAddr) -> Result<(), RunError> {
    let Bootstrap { cluster, incarnation, width, min_copies } = config.bootstrap;
    log.submit(Action::Bootstrap { cluster, incarnation, width, min_copies }).await?;
    log.submit(Action::SetMonitor { id: config.id, address: address.to_string() }).await?;
    if let Some(founding) = founding::find(&config.dir)? {
        log.submit(Action::Trust(TrustAction::Found(founding))).await?;
        founding::remove(&config.dir)?;
    }
    Ok(())
}

impl State {
    /// What a new leader knows from the replicated state.
    fn recover(store: &dyn Store, started: Timestamp, now: Duration) -> Result<Self, StoreError> {
        let volume = query::volume(store)?.expect("the first command made it");
        let mut servers = Servers::new(volume.width, volume.min_copies, started);
        for (id, server) in query::servers(store)? {
            let Register { address, domain, usage, .. } = server.info;
            servers.known(id, server.epoch, address, domain, usage, now);
        }
        let sessions = query::sessions(store)?.into_iter().map(|(id, _)| id);
        Ok(Self {
            sessions: Sessions::recover(sessions, now),
            pins: Pins::default(),
            servers,
            callers: HashMap::new(),
            restricted: HashMap::new(),
            registered: HashMap::new(),
        })
    }
}

impl Monitor {
    /// Puts one action into the log, now; the future waits until it is applied.
    fn submit(
        &self,
        action: Action,
    ) -> impl Future<Output = Result<Outcome, Refusal>> + Send + use<> {
        let submitted = self.log.submit(action);
        async move {
            submitted.await.map_err(|error| match error {
                ProposeError::TooLong => Refusal::Malformed(error.to_string()),
                error => {
                    log::warn!("a command was not taken: {error}");
                    Refusal::NoLeader
                }
            })
        }
    }

    /// Waits until `ready` gives something; it is asked again whenever anything has [`Self::changed`], and
    /// now and then to be safe.
    async fn wait_until<T>(
        &self,
        mut ready: impl FnMut() -> Result<Option<T>, Refusal>,
    ) -> Result<T, Refusal> {
        const AT_LEAST: Duration = Duration::from_millis(500);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(found) = ready()? {
                return Ok(found);
            }
            tokio::time::timeout(AT_LEAST, changed).await.ok();
        }
    }
}

/// A store that cannot be read is a monitor that cannot answer.
fn unreadable(error: StoreError) -> Refusal {
    log::error!("{error}: this monitor cannot answer; look at its disk, then restart it");
    Refusal::NoLeader
}
