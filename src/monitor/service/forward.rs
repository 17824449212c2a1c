//! A call that reached a monitor which does not lead goes on to the one that does.
//!
//! The call is passed on whole, unread, over a connection of its own (Raft's would have to wait behind it),
//! under a number by which the leader knows whose it is ([`super::origin`]). The answer comes back the same way,
//! and so do notices. The leader's opinion of a caller lives with this connection: when it breaks, because
//! the leader died or is none any more, everything under way is answered with [`Refusal::NoLeader`] at once,
//! and callers ask again. Nothing is kept here that could be wrong afterwards.
//!
//! **Calls that wait for one another.** The leader takes only so many calls of a connection that it has not answered
//! ([`IN_FLIGHT_BYTES`]), then it reads no more. Many of those that we pass on may wait for a holder to give
//! something back, and the holder may be a client of ours: its release must not be behind them. So a quarter of what
//! the leader takes is left to calls that make others go on ([`order::gives_back`]), and the rest wait here.
//!
//! [`Refusal::NoLeader`]: crate::wire::metadata::Refusal::NoLeader

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};
use tokio::time::Instant;

use super::audience::{Audience, Leader};
use super::order;
use crate::crypto::{Credentials, Identity, Role};
use crate::env::system::rpc::{Caller, Connection, IN_FLIGHT_BYTES, call_cost};
use crate::types::Incarnation;
use crate::wire::metadata;
use crate::wire::peers::{Forward, Notice, Request, Response};
use crate::wire::{decode, encode};

/// How long connecting to the leader may take.
const CONNECT: Duration = Duration::from_secs(1);
/// How long nobody tries again after that failed.
const PAUSE: Duration = Duration::from_millis(100);
/// Longer than callers wait: it is they who give up.
const ANSWER: Duration = Duration::from_secs(60);

/// What calls that may wait for others take of the leader's patience.
const WAITING_BYTES: usize = IN_FLIGHT_BYTES / 4 * 3;

/// See the module.
pub(super) struct Forwarding {
    credentials: Credentials,
    incarnation: Incarnation,
    audience: Arc<Audience>,
    /// The other monitor that leads.
    leader: watch::Sender<Option<Leader>>,
    link: Mutex<Option<Arc<Link>>>,
    /// Held while connecting: when to try at the earliest.
    connecting: tokio::sync::Mutex<Instant>,
}

/// The connection to the leader.
struct Link {
    leader: Leader,
    connection: Connection,
    /// Callers that it has heard of.
    known: Mutex<HashSet<u64>>,
    /// What calls that may wait have left of [`WAITING_BYTES`].
    credit: Semaphore,
}

impl Forwarding {
    /// Nobody leads yet. Notices go to those in `audience`.
    pub(super) fn new(
        credentials: Credentials,
        incarnation: Incarnation,
        audience: Arc<Audience>,
    ) -> Arc<Self> {
        Arc::new(Self {
            credentials,
            incarnation,
            audience,
            leader: watch::Sender::new(None),
            link: Mutex::default(),
            connecting: tokio::sync::Mutex::new(Instant::now()),
        })
    }

    /// Calls go to that monitor from now on; with `None` to nobody. Those under way elsewhere end.
    pub(super) fn follow(&self, leader: Option<Leader>) {
        let is_new = self.leader.send_if_modified(|known| {
            let is_new = *known != leader;
            known.clone_from(&leader);
            is_new
        });
        if is_new && let Some(link) = self.link.lock().take() {
            link.connection.close();
        }
    }

    /// Passes a call on. `None`: there is no leader to be reached.
    pub(super) async fn call(&self, caller: &Caller, header: Vec<u8>) -> Option<Vec<u8>> {
        self.at_leader(async |link| {
            let origin = caller.id;
            link.known.lock().insert(origin);
            // A connection closes before it is told here: from here on `closed` finds it.
            if caller.is_closed() {
                link.known.lock().remove(&origin);
                return None;
            }
            let identity = caller.identity.dns_name();
            link.pass_on(&Request::Forward(Forward { origin, identity }), header).await
        })
        .await
    }

    /// Passes the call of a guest on, and who that was until its certificate expired. The leader keeps nothing
    /// about guests. `None`: there is no leader to be reached.
    pub(super) async fn guest_call(
        &self,
        guest: Option<&Identity>,
        header: Vec<u8>,
    ) -> Option<Vec<u8>> {
        let identity = guest.map(Identity::dns_name);
        let request = Request::ForwardGuest { identity };
        self.at_leader(async |link| link.pass_on(&request, header).await).await
    }

    /// Does that at whoever leads now, for as long as that one leads.
    async fn at_leader(&self, call: impl AsyncFnOnce(&Link) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
        let mut leaders = self.leader.subscribe();
        let leader = leaders.borrow_and_update().clone()?;
        let calling = async { call(&*self.link_to(&leader).await?).await };
        tokio::select! {
            answer = calling => answer,
            // The sender is in `self`: somebody else leads, or nobody.
            _ = leaders.changed() => None,
        }
    }

    /// A caller of ours is gone: the leader is told, if it has heard of it.
    pub(super) fn closed(&self, caller: &Caller) {
        let Some(link) = self.link.lock().clone() else { return };
        if link.known.lock().remove(&caller.id) {
            let request = encode(&Request::ForwardClosed { origin: caller.id });
            tokio::spawn(async move {
                // With the connection the leader forgets all of them.
                drop(link.connection.call(request, Vec::new(), ANSWER).await);
            });
        }
    }

    async fn link_to(&self, leader: &Leader) -> Option<Arc<Link>> {
        if let Some(link) = self.live(leader) {
            return Some(link);
        }
        let mut not_before = self.connecting.lock().await;
        if let Some(link) = self.live(leader) {
            return Some(link);
        }
        if Instant::now() < *not_before {
            return None;
        }
        let (address, credentials) = (&leader.address, &self.credentials);
        let opened =
            Connection::open(address, credentials, Role::Monitor, self.incarnation, CONNECT).await;
        match opened {
            Ok((connection, told)) => {
                let audience = Arc::clone(&self.audience);
                tokio::spawn(pass_back_while_it_answers(audience, connection.clone(), told));
                let (leader, known) = (leader.clone(), Mutex::default());
                let credit = Semaphore::new(WAITING_BYTES);
                let link = Arc::new(Link { leader, connection, known, credit });
                *self.link.lock() = Some(Arc::clone(&link));
                Some(link)
            }
            Err(error) => {
                log::warn!("the monitor that leads cannot be reached from here: {error}");
                *not_before = Instant::now() + PAUSE;
                None
            }
        }
    }

    fn live(&self, leader: &Leader) -> Option<Arc<Link>> {
        let link = self.link.lock().clone()?;
        (link.leader == *leader && !link.connection.is_closed()).then_some(link)
    }
}

impl Link {
    /// Waits until there is room for a call, unless others may wait for it.
    async fn credit_for(&self, bytes: usize, call: &[u8]) -> Option<SemaphorePermit<'_>> {
        let cost = call_cost(bytes as u64);
        if let Ok(permit) = self.credit.try_acquire_many(cost) {
            return Some(permit);
        }
        // Read only now: nearly always there is room.
        if decode::<metadata::Request>(call).is_ok_and(|request| order::gives_back(&request)) {
            return None;
        }
        Some(self.credit.acquire_many(cost).await.expect("it is never closed"))
    }

    /// Passes a call on, as what `request` says; its answer.
    async fn pass_on(&self, request: &Request, header: Vec<u8>) -> Option<Vec<u8>> {
        let request = encode(request);
        let _credit = self.credit_for(request.len() + header.len(), &header).await;
        let answer = self.connection.call(request, vec![header.into()], ANSWER).await;
        let (header, payload) = answer.ok()?;
        match decode(&header) {
            Ok(Response::Forwarded) => Some(payload.to_vec()),
            other => {
                log::error!(
                    "a call that was passed on to {} failed: {other:?}",
                    self.leader.address
                );
                None
            }
        }
    }
}

/// [`pass_back`], until the leader has fallen silent: then the connection is closed, and callers hear that it cannot
/// be reached from here.
async fn pass_back_while_it_answers(
    audience: Arc<Audience>,
    connection: Connection,
    told: mpsc::UnboundedReceiver<Vec<u8>>,
) {
    let question = encode(&Request::Who);
    tokio::select! {
        () = pass_back(audience, told) => {}
        () = connection.fell_silent(&question) => {
            log::warn!("the monitor that leads does not answer this one any more");
        }
    }
    connection.close();
}

/// Hands the leader's notices to those they are for, until the connection ends.
async fn pass_back(audience: Arc<Audience>, mut told: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(bytes) = told.recv().await {
        match decode::<Notice>(&bytes) {
            Ok(Notice { origin, notice }) => {
                if let Some(caller) = audience.caller(origin) {
                    caller.notify(notice);
                }
            }
            Err(error) => log::error!("the leading monitor said something unreadable: {error}"),
        }
    }
}
