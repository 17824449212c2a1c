//! One leadership of this monitor, from the moment it may speak for the cluster until it may not.
//!
//! What a leader keeps only in memory (who is attached, who has what open, which names are being removed, how
//! the servers are) is true for one reign and worth nothing in the next: between two reigns of this monitor
//! another may have led, and have let a file go that nobody had open there. So all of it lives in a [`Reign`],
//! made when leadership begins and thrown away when it ends, and everything that belongs to it carries its
//! **term**: a call holds the reign it began under and fails with it; what it puts into the log is labelled with
//! the term and not applied under another ([`Outcome::Superseded`]); the chores of time end with it.
//!
//! ```text
//!   elected in term 7 ──▶ confirm: a majority says so, and all that was committed before is applied here
//!        ▲                     │
//!        │                     ▼
//!   another leads,   ◀── Reign 7: recovered from the store; clients attach, servers beat
//!   or term 9 begins           calls under way answer NoLeader, chores end, fences fall
//! ```
//!
//! Recovering reads the tables of sessions, servers and volumes, nothing that grows with the
//! number of files: it takes as long with a thousand million files as with none.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::audience::Leader;
use super::consensus::Consensus;
use super::origin::{Origin, OriginId};
use super::pins::Pins;
use super::policy::Restriction;
use super::servers::Servers;
use super::sessions::Sessions;
use super::spares::Spares;
use super::turns::Turns;
use super::waits::Waits;
use super::{Member, Monitor, background, unreadable};
use crate::env::clock::Clock;
use crate::env::system::rpc::Complaints;
use crate::monitor::leases::Leases;
use crate::monitor::namespace::command::{Action, Outcome};
use crate::monitor::namespace::query;
use crate::monitor::namespace::records::{self, MonitorState};
use crate::monitor::raft::{self, Leadership, ProposeError};
use crate::monitor::store::{Store, StoreError};
use crate::types::{Epoch, MonitorId, ServerId, SessionId, TicketKey};
use crate::wire::metadata::Refusal;
use crate::wire::servers::Register;

/// How long an elected leader waits before it asks again whether it has a majority, or its store what is in it.
const PAUSE: Duration = Duration::from_millis(20);
/// A call that comes when leadership has just begun waits so long for the reign.
const INAUGURATION: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Reign {
    pub(super) term: u64,
    pub(super) member: Arc<Member>,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) state: Mutex<State>,
    /// Rings whenever something that a call may wait for has changed: a grant, a fence, a session, grace.
    pub(super) changed: Notify,
    /// Rings when an inode may wait to be freed.
    pub(super) orphaned: Notify,
    /// About callers that name what is not their own.
    pub(super) strangers: Complaints,
    consensus: Arc<dyn Consensus>,
    over: watch::Sender<bool>,
}

/// What a leader keeps in memory only.
pub(super) struct State {
    pub(super) sessions: Sessions,
    pub(super) pins: Pins,
    pub(super) leases: Leases,
    pub(super) waits: Waits,
    pub(super) turns: Turns,
    pub(super) servers: Servers,
    pub(super) spares: Spares,
    /// Where each attached session is.
    pub(super) callers: HashMap<SessionId, Origin>,
    /// What attached sessions are kept to, of those that may not do everything.
    pub(super) restricted: HashMap<SessionId, Arc<Restriction>>,
    /// What tickets for each server are signed with.
    pub(super) ticket_keys: BTreeMap<ServerId, TicketKey>,
    /// Which server speaks at a connection.
    pub(super) registered: HashMap<OriginId, (ServerId, Epoch)>,
}

impl State {
    /// What a new leader knows from the replicated state.
    fn recover(store: &dyn Store, term: u64, now: Duration) -> Result<Self, StoreError> {
        let volumes = query::volume_entries(store)?;
        if volumes.is_empty() {
            return Err(StoreError("the cluster has no volume yet".to_owned()));
        }
        let mut servers = Servers::new(volumes, term);
        let mut ticket_keys = BTreeMap::new();
        for (id, server) in query::servers(store)? {
            ticket_keys.insert(id, server.key);
            let Register { address, domain, usage, .. } = server.info;
            servers.known(id, server.epoch, address, domain, usage, now);
        }
        let sessions = query::sessions(store)?.into_iter().map(|(id, _)| id);
        Ok(Self {
            sessions: Sessions::recover(sessions, now),
            pins: Pins::default(),
            leases: Leases::new(term),
            waits: Waits::default(),
            turns: Turns::default(),
            servers,
            spares: Spares::default(),
            callers: HashMap::new(),
            restricted: HashMap::new(),
            ticket_keys,
            registered: HashMap::new(),
        })
    }
}

impl Reign {
    fn recover(monitor: &Monitor, term: u64) -> Result<Self, StoreError> {
        let state = State::recover(&*monitor.store, term, monitor.clock.monotonic())?;
        Ok(Self {
            term,
            member: Arc::clone(&monitor.member),
            store: Arc::clone(&monitor.store),
            clock: Arc::clone(&monitor.clock),
            state: Mutex::new(state),
            changed: Notify::new(),
            orphaned: Notify::new(),
            strangers: Complaints::default(),
            consensus: Arc::clone(&monitor.consensus),
            over: watch::Sender::new(false),
        })
    }

    /// Puts one action into the log, now; the future waits until it is applied. In the log of another reign it
    /// does nothing.
    pub(super) fn submit(
        &self,
        action: Action,
    ) -> impl Future<Output = Result<Outcome, Refusal>> + Send + use<> {
        let submitted = self.consensus.submit(self.term, action);
        async move {
            match submitted.await {
                Ok(Outcome::Superseded) => Err(Refusal::NoLeader),
                Ok(outcome) => Ok(outcome),
                Err(error @ (ProposeError::TooLong | ProposeError::TooNew)) => {
                    Err(Refusal::Malformed(error.to_string()))
                }
                Err(error) => {
                    log::debug!("a command was not taken: {error}");
                    Err(Refusal::NoLeader)
                }
            }
        }
    }

    /// Proof that this reign goes on, as of a moment after the call.
    pub(super) async fn confirm_leadership(&self) -> Result<(), Refusal> {
        let confirmed = self.consensus.confirm().await.map_err(|error| {
            log::debug!("this monitor could not confirm that it leads: {error}");
            Refusal::NoLeader
        })?;
        // It may lead again, in another term, and this reign not know yet that it is over.
        (confirmed == self.term).then_some(()).ok_or(Refusal::NoLeader)
    }

    /// Waits until `ready` gives something; it is asked again whenever anything has [`Self::changed`], and
    /// now and then to be safe.
    pub(super) async fn wait_until<T>(
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
            if *self.over.borrow() {
                return Err(Refusal::NoLeader);
            }
            tokio::time::timeout(AT_LEAST, changed).await.ok();
        }
    }

    /// Resolves when the reign is over.
    pub(super) async fn ended(&self) {
        let mut over = self.over.subscribe();
        // The sender is in `self`: this resolves only when it says so.
        drop(over.wait_for(|over| *over).await);
    }

    /// The members of the group of monitors.
    pub(super) fn group(&self) -> raft::Group {
        self.consensus.group()
    }

    /// Addresses of all monitors.
    pub(super) fn monitors(&self) -> Result<Vec<String>, Refusal> {
        let monitors = query::monitors(&*self.store).map_err(unreadable)?;
        let is_here = |(_, monitor): &(MonitorId, records::Monitor)| {
            // One that is awaited has no address yet.
            monitor.state != MonitorState::Gone && !monitor.profile.address.is_empty()
        };
        Ok(monitors.into_iter().filter(is_here).map(|(_, one)| one.profile.address).collect())
    }

    /// A caller's connection is gone.
    pub(super) fn closed(&self, origin: OriginId) {
        let mut state = self.state.lock();
        let State { callers, restricted, .. } = &mut *state;
        callers.retain(|_, attached| attached.id() != origin);
        restricted.retain(|session, _| callers.contains_key(session));
        if let Some((server, epoch)) = state.registered.remove(&origin) {
            let is_back = state.registered.values().any(|other| *other == (server, epoch));
            if !is_back {
                state.servers.disconnected(server, epoch);
            }
        }
    }

    fn end(&self) {
        self.over.send_replace(true);
        self.changed.notify_waiters();
    }
}

impl Monitor {
    /// The reign, if this monitor leads. Waits a moment for one that is just beginning.
    pub(super) async fn reign(&self) -> Option<Arc<Reign>> {
        if let Some(reign) = &*self.reign.borrow() {
            return Some(Arc::clone(reign));
        }
        if !self.consensus.leadership().borrow().is_leader() {
            return None;
        }
        let mut reign = self.reign.subscribe();
        let begun = tokio::time::timeout(INAUGURATION, reign.wait_for(Option::is_some)).await;
        begun.ok()?.ok()?.clone()
    }

    /// Ends the reign, if there is one.
    pub(super) fn abdicate(&self) {
        if let Some(reign) = self.reign.send_replace(None) {
            log::info!("the reign of term {} is over", reign.term);
            reign.end();
        }
    }

    /// Makes a reign, as soon as what the store holds is everything that was committed before.
    async fn accede(&self, term: u64) -> Arc<Reign> {
        loop {
            let recovered = match self.consensus.confirm().await {
                Ok(confirmed) if confirmed == term => {
                    Reign::recover(self, term).map_err(|error| error.to_string())
                }
                Ok(newer) => Err(format!("it leads in term {newer} by now")),
                Err(error) => Err(error.to_string()),
            };
            match recovered {
                Ok(reign) => return Arc::new(reign),
                Err(why) => log::debug!("elected in term {term}, not ready to lead: {why}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Calls go to whoever leads, if it is another, and everybody is told, where it is reached now. This monitor
    /// is announced only when it reigns.
    fn defer(&self, now: &Leadership) {
        let leader = now.leader.clone().filter(|(_, address)| !address.is_empty());
        let (id, leader) =
            leader.map(|(id, address)| (id, Leader { term: now.term, address })).unzip();
        let is_here = id == Some(self.member.id);
        self.forwarding.follow(leader.clone().filter(|_| !is_here));
        let serves = !is_here || self.reign.borrow().is_some();
        leader.filter(|_| serves).into_iter().for_each(|leader| self.audience.announce(leader));
    }
}

/// Follows who leads: begins a reign and ends it, until Raft is gone or the reign's chores fail. Says why.
pub(super) async fn follow(monitor: Arc<Monitor>) -> String {
    let mut leadership = monitor.consensus.leadership();
    let mut chores = JoinSet::new();
    loop {
        let now = leadership.borrow_and_update().clone();
        let rules = monitor.reign.borrow().as_ref().map(|reign| reign.term);
        if rules.is_some() && !(now.is_leader() && rules == Some(now.term)) {
            monitor.abdicate();
            chores.shutdown().await;
        }
        monitor.defer(&now);
        let begins = now.is_leader() && monitor.reign.borrow().is_none();
        let changed = tokio::select! {
            reign = monitor.accede(now.term), if begins => {
                log::info!("this monitor leads, in term {}", now.term);
                chores.spawn(background::run(Arc::clone(&reign)));
                monitor.reign.send_replace(Some(reign));
                continue;
            }
            changed = leadership.changed() => changed,
            Some(ended) = chores.join_next() => return format!("its chores ended: {ended:?}"),
        };
        if changed.is_err() {
            return "Raft is gone".to_owned();
        }
    }
}
