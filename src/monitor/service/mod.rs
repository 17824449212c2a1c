//! The monitor as a process: it answers clients, servers and administrators.
//!
//! The namespace knows what is true, Raft makes it true on a majority; this folder is what stands between
//! them and the connections. Its own state is small, lives in the leader's memory only and can be lost at
//! any moment, because its owners tell it again: which sessions are alive ([`sessions`]), what they have open
//! ([`pins`]), how the servers are doing ([`servers`]). Those three are pure, and they live and die with a
//! [`reign`], which is one leadership of this monitor. The rest of the folder is edge:
//!
//! * [`calls`] takes a call from the wire, checks who asks, and hands it on: to the reign, or, where another
//!   monitor leads, through [`forward`] to that one; [`origin`] is who asks, wherever connected;
//! * [`audience`] tells everybody who is connected which monitor leads;
//! * [`consensus`] is what all this needs of Raft;
//! * [`mutate`] does changes: recall what somebody else holds, put the change into the log, answer; [`order`]
//!   says which of a request goes first;
//! * [`ask`] answers questions the same way, without the log;
//! * [`clients`] and [`storage`] look after sessions and servers;
//! * [`trust`] lets machines join and renews certificates, [`policy`] keeps clients to what they may do;
//! * [`status`] and [`admin`] tell administrators how everything is;
//! * [`room`] keeps a part of the monitor's own disk for what must go on;
//! * [`siblings`] asks the agent of a monitor that is missed to start it again;
//! * [`background`] does what time brings: evictions, freeing, the state of servers.
//!
//! **The life of a recall.** Client B asks for the attributes of a file that client A writes. `W/ino` says
//! that A holds the exclusive grant: size and content are in A's memory. B's call waits; A gets a notice,
//! commits all that it has buffered, and gives the grant back in the same command or the next; when that is
//! applied, B's call goes on and finds what A wrote. If A is dead, its session expires; if A lives but shows
//! no progress, it is evicted. So B's wait has an end.

mod admin;
mod ask;
mod audience;
mod background;
mod calls;
mod clients;
mod consensus;
mod forward;
mod mutate;
mod order;
mod origin;
mod pins;
mod policy;
mod reign;
mod room;
mod servers;
mod sessions;
pub mod siblings;
mod status;
mod storage;
#[cfg(test)]
mod tests;
mod trust;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::watch;

use self::audience::Audience;
use self::consensus::{Consensus, Group};
use self::forward::Forwarding;
use self::origin::Relays;
use self::reign::Reign;
use self::trust::Vault;
use crate::crypto::Credentials;
use crate::env::clock::{Clock, SystemClock};
use crate::env::system::lock::{DirLock, LockError};
use crate::env::system::node;
use crate::env::system::rpc::{BindError, Listener};
use crate::monitor::founding;
use crate::monitor::namespace;
use crate::monitor::namespace::command::Action;
use crate::monitor::namespace::query;
use crate::monitor::namespace::trust::TrustAction;
use crate::monitor::raft::batch::Batcher;
use crate::monitor::raft::{ProposeError, Raft, RaftConfig, RaftError};
use crate::monitor::store::disk::DiskStore;
use crate::monitor::store::{Store, StoreError};
use crate::types::{ClusterId, Incarnation, MonitorId, MonitorRole, Width};
use crate::wire::metadata::Refusal;

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
    /// The number of this start, as its agent counts; 0 if nobody does. Siblings that miss it name it.
    pub start: u64,
    /// `host:port` of the agent that looks after it.
    pub agent: Option<String>,
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

/// A running monitor, whether or not it leads.
struct Monitor {
    member: Arc<Member>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    consensus: Arc<dyn Consensus>,
    /// What is there only while it leads.
    reign: watch::Sender<Option<Arc<Reign>>>,
    audience: Arc<Audience>,
    forwarding: Arc<Forwarding>,
    relays: Relays,
}

/// Which monitor this is.
struct Member {
    id: MonitorId,
    cluster: ClusterId,
    pid: u32,
    node: String,
    vault: Vault,
    dir: PathBuf,
    /// Whether only the reserve of this monitor's disk is left.
    short_of_room: AtomicBool,
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
    introduce(&raft, &log, &config, address).await?;

    let identity = query::cluster(&*store)?.expect("the first command made it");
    let expected = config.credentials.identity().cluster;
    if identity.id != expected {
        return Err(RunError::OtherCluster { found: identity.id, expected });
    }
    let member = Member {
        id: config.id,
        cluster: identity.id,
        pid: std::process::id(),
        node: node()?.id,
        vault,
        short_of_room: AtomicBool::new(room::is_short(&config.dir)?),
        dir: config.dir,
    };
    let consensus = Arc::new(Group { raft: raft.clone(), log });
    let credentials = (config.credentials.clone(), identity.incarnation);
    let monitor = Arc::new(Monitor::new(member, Arc::clone(&store), clock, consensus, credentials));
    let mut following = tokio::spawn(reign::follow(Arc::clone(&monitor)));
    let renewing = tokio::spawn(trust::keep_renewed(Arc::clone(&monitor)));
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
        why = stopped(&raft) => Err(RunError::Stopped(why)),
        // Without either of them it would be a monitor that looks alive and is not.
        ended = &mut following => Err(RunError::Stopped(format!("it cannot lead: {ended:?}"))),
        ended = &mut serving => Err(RunError::Stopped(format!("it serves no more: {ended:?}"))),
    };
    // All of them end when they are asked to: whichever was seen first.
    let is_asked = *shutdown.borrow() || shutdown.has_changed().is_err();
    let ended = if is_asked { Ok(()) } else { ended };
    serving.abort();
    following.abort();
    renewing.abort();
    monitor.abdicate();
    raft.shutdown().await?;
    store.persist()?;
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
async fn introduce(
    raft: &Raft,
    log: &Batcher,
    config: &Config,
    address: SocketAddr,
) -> Result<(), RunError> {
    let Bootstrap { cluster, incarnation, width, min_copies } = config.bootstrap;
    let term = raft.leadership().borrow().term;
    log.submit(term, Action::Bootstrap { cluster, incarnation, width, min_copies }).await?;
    let address = address.to_string();
    log.submit(term, Action::SetMonitor { id: config.id, address }).await?;
    if let Some(founding) = founding::find(&config.dir)? {
        log.submit(term, Action::Trust(TrustAction::Found(founding))).await?;
        founding::remove(&config.dir)?;
    }
    Ok(())
}

impl Monitor {
    fn new(
        member: Member,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        consensus: Arc<dyn Consensus>,
        (credentials, incarnation): (Credentials, Incarnation),
    ) -> Self {
        let audience = Arc::new(Audience::default());
        Self {
            member: Arc::new(member),
            store,
            clock,
            consensus,
            reign: watch::Sender::new(None),
            forwarding: Forwarding::new(credentials, incarnation, Arc::clone(&audience)),
            audience,
            relays: Relays::default(),
        }
    }
}

/// A store that cannot be read is a monitor that cannot answer.
fn unreadable(error: StoreError) -> Refusal {
    log::error!("{error}: this monitor cannot answer; look at its disk, then restart it");
    Refusal::NoLeader
}
