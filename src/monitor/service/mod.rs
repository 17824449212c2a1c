//! The monitor as a process: it answers clients, servers and administrators.
//!
//! The namespace knows what is true, Raft makes it true on a majority; this folder is what stands between
//! them and the connections. Its own state is small, lives in the leader's memory only and can be lost at
//! any moment, because its owners tell it again: which sessions are alive ([`sessions`]), what they have open
//! ([`pins`]), who waits for a lock ([`waits`]) or a file ([`turns`]), how the servers are doing ([`servers`]). Those
//! are pure, and they live and die with a [`reign`], which is one leadership of this monitor. The rest of the folder is
//! edge:
//!
//! * [`calls`] takes a call from the wire, checks who asks, and hands it on: to the reign, or, where another
//!   monitor leads, through [`forward`] to that one; [`origin`] is who asks, wherever connected, and [`owners`] what
//!   of all that a call names is the asker's;
//! * [`audience`] tells everybody who is connected which monitor leads;
//! * [`consensus`] is what all this needs of Raft;
//! * [`mutate`] does changes: recall what somebody else holds, put the change into the log, answer; [`order`]
//!   says which of a request goes first;
//! * [`ask`] answers questions the same way, without the log;
//! * [`locks`] looks after who waits for a lock; the queues are [`waits`];
//! * [`clients`] and [`storage`] look after sessions and servers;
//! * [`peers`], [`links`], [`start`] and [`members`] are about the other monitors: what they ask and how they are
//!   reached, how this one comes into the group, and who is in it;
//! * [`trust`] lets machines join and renews certificates, [`policy`] keeps clients to what they may do, [`tickets`]
//!   tells the storage servers what that is;
//! * [`status`] and [`admin`] tell administrators how everything is;
//! * [`room`] keeps a part of the monitors' disks for what must go on;
//! * [`spares`] replaces a monitor that is lost for good;
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
mod clearing;
mod clients;
mod consensus;
mod forward;
#[cfg(test)]
mod group_tests;
mod links;
mod locks;
mod members;
mod mutate;
mod order;
mod origin;
mod owners;
mod peers;
mod pins;
mod policy;
mod reign;
mod room;
mod servers;
mod sessions;
mod siblings;
mod spares;
mod start;
mod status;
mod storage;
#[cfg(test)]
mod tests;
mod tickets;
mod trust;
mod turns;
mod waits;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use self::audience::Audience;
use self::consensus::{Consensus, Group};
use self::forward::Forwarding;
use self::links::Links;
use self::origin::Relays;
use self::peers::{Door, Peers};
use self::reign::Reign;
pub use self::start::{Milestone, Remember};
use self::trust::Vault;
use crate::crypto::Credentials;
use crate::crypto::seal::SealError;
use crate::env::clock::{Clock, SystemClock};
use crate::env::random::{Random, SystemRandom};
use crate::env::system::lock::{DirLock, LockError};
use crate::env::system::rpc::{BindError, ConnectError, Listener};
use crate::monitor::namespace;
use crate::monitor::namespace::query;
use crate::monitor::raft::batch::Batcher;
use crate::monitor::raft::{Gauge, ProposeError, Raft, RaftConfig, RaftError};
use crate::monitor::store::disk::DiskStore;
use crate::monitor::store::{Store, StoreError};
use crate::types::{ClusterId, Incarnation, Levels, MonitorId, OpSeq, Program, Width};
use crate::wire::metadata::Refusal;

/// How long a monitor that starts waits for a leader before it answers anybody.
const ELECTION: Duration = Duration::from_secs(10);

/// What a monitor needs to begin.
pub struct Config {
    /// Its data directory.
    pub dir: PathBuf,
    /// `host:port` to listen on; port 0 takes a free one.
    pub listen: String,
    /// Its id; none until it is a member.
    pub id: Option<MonitorId>,
    /// `host:port` of other monitors: where it asks to become a member.
    pub monitors: Vec<String>,
    /// `host:port` of the agent that starts it, if there is one.
    pub agent: Option<String>,
    /// The number of this start, counted by its agent; 0 where nobody counts.
    pub start: u64,
    /// For how long a monitor is missed before another takes its place; `None` leaves that to people.
    pub replace_after: Option<Duration>,
    /// The level above which this monitor, and with it the cluster, does not go.
    pub hold_level: Option<u32>,
    /// Its certificate.
    pub credentials: Credentials,
    /// What the cluster is to be, if this is its first monitor and it has not begun yet.
    pub bootstrap: Option<Bootstrap>,
    /// Keeps what must not be forgotten: it is in the next start's `id` and `bootstrap`.
    pub remember: Remember,
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
    /// What the leader sent to open the authority's key with is no such thing.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The log did not take the first command.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The machine does not say who it is, or the runtime could not take the socket over.
    #[error(transparent)]
    System(#[from] io::Error),
    /// It has an id and no log: what it has acknowledged is lost with its disk.
    #[error(
        "this monitor has the id {id}, but its data in {} are gone, and with them what it had promised the others: put another in its place (okapifs monitor replace {name}), then remove this directory", .dir.display()
    )]
    DataGone {
        /// Its id.
        id: MonitorId,
        /// Its name.
        name: String,
        /// Its directory.
        dir: PathBuf,
    },
    /// It was removed from the cluster, for good.
    #[error(
        "{name} was removed from the cluster for good, by change {by}: its directory {} may be removed; `okapifs monitor add` makes another monitor", .dir.display()
    )]
    Removed {
        /// Its name.
        name: String,
        /// The command by which it left.
        by: OpSeq,
        /// Its directory.
        dir: PathBuf,
    },
    /// The other monitors will not have it.
    #[error("{0}")]
    Refused(String),
    /// None of the monitors that it was told of is one of its cluster.
    #[error(transparent)]
    Strangers(ConnectError),
    /// It has been at work with a newer release.
    #[error(
        "the cluster is at level {level}, and this okapifs ({}) goes up to level {} only: upgrade it on this machine",
        env!("CARGO_PKG_VERSION"),
        Levels::OURS.newest
    )]
    TooOld {
        /// The cluster's level.
        level: u32,
    },
    /// The level at which it is to stay is one of the past.
    #[error(
        "`hold_level = {held}` is too low, this okapifs begins with level {}: take it out of monitor.toml, or start the release before",
        Levels::OURS.oldest
    )]
    HeldTooLow {
        /// Where it is to stay.
        held: u32,
    },
    /// The cluster is beyond the level at which it is to stay.
    #[error(
        "`hold_level = {held}` comes too late, the cluster is at level {level} already: take it out of monitor.toml"
    )]
    HeldTooLate {
        /// Where it is to stay.
        held: u32,
        /// The cluster's level.
        level: u32,
    },
    /// What must not be forgotten could not be written down.
    #[error("monitor.toml cannot be written: {0}")]
    Remember(#[source] io::Error),
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
    vault: Vault,
    /// For how long a monitor is missed before another takes its place.
    replace_after: Option<Duration>,
    /// Whether so many monitors have nearly full disks that what grows is refused; kept by a leader.
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
    let gauge = Arc::new(Gauge::of(&config.dir));
    tokio::select! {
        () = room::wait_to_begin(&config.dir, &gauge) => {}
        _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
    }
    let store: Arc<dyn Store> = Arc::new(DiskStore::open(&config.dir.join("store"))?);
    start::check_level(&config, &*store)?;
    let program = Program::this().held_at(config.hold_level.unwrap_or(u32::MAX));
    let vault = Vault::new(&config.dir, config.credentials.clone());
    vault.renew_own(&*store);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let peers = Arc::new(Peers {
        links: Links::new(config.credentials.clone()),
        store: Arc::clone(&store),
        clock: Arc::clone(&clock),
        dir: config.dir.clone(),
        name: config.credentials.identity().name.clone(),
        profile: peers::profile(address, config.agent.clone(), config.start, program)?,
        instance: SystemRandom.u128(),
        member: OnceLock::new(),
    });
    let begun = tokio::select! {
        begun = begin(&config, listener, &peers, gauge, shutdown.clone()) => begun?,
        _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
    };
    let Begun { id, raft, door, mut serving, company } = begun;
    let stamp = Arc::clone(&clock);
    let log = Batcher::start(raft.clone(), move || stamp.now());

    let identity = query::cluster(&*store)?.expect("it was waited for");
    let expected = config.credentials.identity().cluster;
    if identity.id != expected {
        return Err(RunError::OtherCluster { found: identity.id, expected });
    }
    let member = Member {
        id,
        cluster: identity.id,
        vault,
        short_of_room: AtomicBool::new(false),
        replace_after: config.replace_after,
    };
    let consensus = Arc::new(Group { raft: raft.clone(), log });
    let credentials = (config.credentials.clone(), identity.incarnation);
    let monitor = Arc::new(Monitor::new(member, Arc::clone(&store), clock, consensus, credentials));
    let mut following = tokio::spawn(reign::follow(Arc::clone(&monitor)));
    let renewing = tokio::spawn(trust::keep_renewed(Arc::clone(&monitor)));
    let introducing =
        tokio::spawn(audience::keep_introduced(Arc::clone(&peers), Arc::clone(&monitor.audience)));
    door.open(Arc::clone(&monitor));
    ready(address);
    let ended = tokio::select! {
        // The sender lives in the caller; if it is gone, there is nobody left to run for.
        _ = shutdown.wait_for(|stop| *stop) => Ok(()),
        why = stopped(&raft) => Err(RunError::Stopped(why)),
        why = expelled(&peers, &config) => Err(why),
        // Without either of them it would be a monitor that looks alive and is not.
        ended = &mut following => Err(RunError::Stopped(format!("it cannot lead: {ended:?}"))),
        ended = &mut serving => Err(RunError::Stopped(format!("it serves no more: {ended:?}"))),
    };
    // All of them end when they are asked to: whichever was seen first.
    let is_asked = *shutdown.borrow() || shutdown.has_changed().is_err();
    let ended = if is_asked { Ok(()) } else { ended };
    drop(company);
    serving.abort();
    following.abort();
    renewing.abort();
    introducing.abort();
    monitor.abdicate();
    raft.shutdown().await?;
    store.persist()?;
    ended
}

/// A monitor that is in its group.
struct Begun {
    id: MonitorId,
    raft: Raft,
    door: Arc<Door>,
    serving: JoinHandle<io::Result<()>>,
    /// What looks after its place in the group; ends with it.
    company: JoinSet<()>,
}

/// Serves its siblings, finds its place among them, and waits until there is a state to serve to others.
async fn begin(
    config: &Config,
    listener: Listener,
    peers: &Arc<Peers>,
    gauge: Arc<Gauge>,
    shutdown: watch::Receiver<bool>,
) -> Result<Begun, RunError> {
    let incarnation = start::incarnation(config, peers).await?;
    peers.links.at_incarnation(incarnation);
    let door = Arc::new(Door::new(Arc::clone(peers)));
    let credentials = config.credentials.clone();
    let serving =
        tokio::spawn(listener.serve(credentials, incarnation, Arc::clone(&door), shutdown));
    let log_dir = config.dir.join("raft");
    let id = start::settle(config, peers, &log_dir).await?;
    peers.links.is_member(id);
    let address = peers.profile.address.clone();
    let raft_config = RaftConfig { dir: log_dir, id, address, gauge };
    let (store, transport) = (Arc::clone(&peers.store), Arc::new(peers.links.clone()));
    let raft = Raft::start(raft_config, store, Arc::new(namespace::apply), transport).await?;
    // Nobody else sets it.
    drop(peers.member.set((id, raft.clone())));
    if let Some(bootstrap) = config.bootstrap {
        start::found(config, bootstrap, peers, &raft).await?;
    }
    let mut company = JoinSet::new();
    company.spawn(members::run(Arc::clone(peers), id, raft.clone()));
    let (introduced, monitors) = (Arc::clone(peers), config.monitors.clone());
    company.spawn(async move {
        let why = start::introduce(Arc::clone(&introduced), id, monitors).await;
        introduced.links.expel(why);
    });
    let (credentials, clock) = (config.credentials.clone(), Arc::clone(&peers.clock));
    company.spawn(siblings::run(Arc::clone(peers), id, raft.clone(), credentials, clock));
    tokio::select! {
        found = wait_for_state(peers, &raft) => found?,
        why = expelled(peers, config) => return Err(why),
        why = stopped(&raft) => return Err(RunError::Stopped(why)),
    }
    Ok(Begun { id, raft, door, serving, company })
}

/// Waits until this monitor has a state, and knows a leader or has given one its time.
async fn wait_for_state(peers: &Peers, raft: &Raft) -> Result<(), RunError> {
    const LOOK: Duration = Duration::from_millis(50);
    if query::cluster(&*peers.store)?.is_none() {
        while query::cluster(&*peers.store)?.is_none() {
            tokio::time::sleep(LOOK).await;
        }
        start::persist(peers).await?;
    }
    let mut leadership = raft.leadership();
    let known = leadership.wait_for(|now| now.leader.is_some());
    // Without one every call is answered so.
    drop(tokio::time::timeout(ELECTION, known).await);
    Ok(())
}

/// Resolves, saying why, when the other monitors will not have this one any more.
async fn expelled(peers: &Peers, config: &Config) -> RunError {
    let mut expelled = peers.links.expelled();
    let found = expelled.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
    match found {
        Some(why) => start::ended(why, peers, config),
        // The sender is in `peers`.
        None => std::future::pending().await,
    }
}

/// Resolves, saying why, when the log can go on no more.
async fn stopped(raft: &Raft) -> String {
    let mut leadership = raft.leadership();
    let found = leadership.wait_for(|now| now.stopped.is_some()).await;
    found.ok().and_then(|now| now.stopped.clone()).unwrap_or_else(|| "its task ended".to_owned())
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
