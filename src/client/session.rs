//! The session: what makes a client one client in the eyes of the monitors, however often connections break.
//!
//! It lives by renewals, sent every ~2 s; each that is answered lets the client serve what it holds for
//! another lease, counted from its sending (unless it has sat too long on what others wait for). When the monitors are away, calls wait; what is held is not served
//! beyond the lease. When they have given the session up meanwhile (or closed it as a dead process's), a new
//! one is opened; whatever the old one held is lost, and the owner is told.
//!
//! Changes go through numbered slots, so that one whose answer was lost can be sent again and is done once.
//! Numbers for new inodes and stripes are leased ahead; the tickets that the servers want to see come with renewals.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::core::ids::{LeasedIds, OpenStripes};
use super::core::owners::Owners;
use super::core::slots::{Slots, Taken};
use super::leases::Leases;
use super::link::Monitors;
use super::tickets::Tickets;
use crate::env::clock::Clock;
use crate::env::random::{Random, SystemRandom};
use crate::types::limits::{INODE_RANGE, STRIPE_RANGE};
use crate::types::{
    Attr, ClusterId, Errno, Incarnation, Ino, PlacementMap, ServerId, SessionId, StripeId,
    Timestamp,
};
use crate::wire::locks::{Awaited, LockWait};
use crate::wire::metadata::{
    Answer, ClientInfo, Mutation, Op, Query, Refusal, Renew, Renewed, Reply, Request, Response,
    SessionOpened,
};

const RENEW_EVERY: Duration = Duration::from_secs(2);
/// Renewals for the sake of tickets keep this distance.
const RENEW_PAUSE: Duration = Duration::from_millis(100);
/// Most changes in one request: what fits in the slots beside others.
const MUTATIONS_AT_ONCE: usize = 64;

/// See the module.
pub(crate) struct Session {
    monitors: Arc<dyn Monitors>,
    clock: Arc<dyn Clock>,
    owners: Owners,
    leases: Arc<Leases>,
    client: ClientInfo,
    cluster: ClusterId,
    state: Mutex<State>,
    slots_freed: Notify,
    ids_leased: Notify,
    /// When the lease ends, in milliseconds of the monotonic clock.
    lease_end_ms: watch::Sender<u64>,
    placement: watch::Sender<Arc<PlacementMap>>,
    stalled: Mutex<Vec<ServerId>>,
    tickets: Arc<Tickets>,
    credit: Credit,
    /// One reopening at a time.
    reopening: tokio::sync::Mutex<()>,
    /// What the last session held is still being given up: no lease holds.
    mourning: AtomicBool,
    lost: mpsc::UnboundedSender<Lost>,
}

/// A session that the monitors have given up. Nothing is served under the new one until `mourned` is told, or
/// dropped: what the old one held must be forgotten before.
#[derive(Debug)]
pub(crate) struct Lost {
    /// Which one.
    pub(crate) session: SessionId,
    /// To be told when nothing is held by it any more.
    pub(crate) mourned: oneshot::Sender<()>,
}

struct State {
    slots: Slots,
    inodes: LeasedIds,
    stripes: LeasedIds,
    open_stripes: OpenStripes,
    lease_ms: u64,
}

/// Raw bytes the client may have buffered, and what it has committed since it was told.
#[derive(Default)]
struct Credit {
    granted: AtomicU64,
    spent: AtomicU64,
}

/// Which kind of numbers.
#[derive(Clone, Copy)]
enum Kind {
    Inodes,
    Stripes,
}

impl Session {
    /// Opens a session. The receiver tells of sessions that were lost (a new one is open by then).
    pub(crate) async fn open(
        monitors: Arc<dyn Monitors>,
        clock: Arc<dyn Clock>,
        client: ClientInfo,
    ) -> Result<(Arc<Self>, mpsc::UnboundedReceiver<Lost>), Refusal> {
        let sent = clock.monotonic();
        let opened = call_open(&*monitors, &client).await?;
        let (lost, lost_events) = mpsc::unbounded_channel();
        let session = Arc::new(Self {
            clock,
            client,
            cluster: opened.cluster,
            owners: Owners::new(opened.policy.clone()),
            leases: Arc::default(),
            state: Mutex::new(State {
                slots: Slots::new(opened.session),
                inodes: LeasedIds::new(INODE_RANGE),
                stripes: LeasedIds::new(STRIPE_RANGE / 2),
                open_stripes: OpenStripes::default(),
                lease_ms: opened.lease_ms,
            }),
            slots_freed: Notify::new(),
            ids_leased: Notify::new(),
            lease_end_ms: watch::Sender::new(0),
            placement: watch::Sender::new(Arc::new(opened.placement.clone())),
            stalled: Mutex::default(),
            tickets: Arc::default(),
            credit: Credit::default(),
            reopening: tokio::sync::Mutex::default(),
            mourning: AtomicBool::new(false),
            lost,
            monitors,
        });
        session.begin(&opened, sent);
        Ok((session, lost_events))
    }

    /// The current session's id.
    pub(crate) fn id(&self) -> SessionId {
        self.state.lock().slots.session()
    }

    /// Whether the cluster lets this client change nothing.
    pub(crate) fn read_only(&self) -> bool {
        self.owners.read_only()
    }

    /// The cluster.
    pub(crate) fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The cluster's incarnation.
    pub(crate) fn incarnation(&self) -> Incarnation {
        self.monitors.incarnation()
    }

    /// What it believes under shared leases.
    pub(crate) fn leases(&self) -> &Arc<Leases> {
        &self.leases
    }

    /// The time of day.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Time since the client started.
    pub(crate) fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Where new data may go.
    pub(crate) fn placement(&self) -> Arc<PlacementMap> {
        Arc::clone(&self.placement.borrow())
    }

    /// Follows [`Self::placement`].
    pub(crate) fn watch_placement(&self) -> watch::Receiver<Arc<PlacementMap>> {
        self.placement.subscribe()
    }

    /// What the servers want to see.
    pub(crate) fn tickets(&self) -> Arc<Tickets> {
        Arc::clone(&self.tickets)
    }

    /// The monitors are to know that this server stalled us.
    pub(crate) fn report_stalled(&self, server: ServerId) {
        let mut stalled = self.stalled.lock();
        if !stalled.contains(&server) {
            stalled.push(server);
        }
    }

    /// Whether what the session holds may be served without asking.
    pub(crate) fn lease_holds(&self) -> bool {
        millis(self.clock.monotonic()) < *self.lease_end_ms.borrow()
    }

    /// When [`Self::lease_holds`] ends unless it is renewed, by the client's own clock.
    pub(crate) fn lease_end(&self) -> Duration {
        Duration::from_millis(*self.lease_end_ms.borrow())
    }

    /// An inode's attributes, as far as they are known without asking.
    pub(crate) fn believed(&self, ino: Ino) -> Option<Attr> {
        if self.lease_holds() { self.leases.attr(ino) } else { None }
    }

    /// Waits until [`Self::lease_holds`].
    pub(crate) async fn wait_for_lease(&self) {
        let mut ends = self.lease_end_ms.subscribe();
        while !self.lease_holds() {
            if ends.changed().await.is_err() {
                return;
            }
        }
    }

    /// Raw bytes that may be buffered and not committed.
    pub(crate) fn credit(&self) -> u64 {
        let granted = self.credit.granted.load(Ordering::Relaxed);
        granted.saturating_sub(self.credit.spent.load(Ordering::Relaxed))
    }

    /// Raw bytes were committed: they are not to be had again until the monitors say so.
    pub(crate) fn spend_credit(&self, raw_bytes: u64) {
        self.credit.spent.fetch_add(raw_bytes, Ordering::Relaxed);
    }

    /// The answer to a question, if it is known without asking.
    pub(crate) fn known(&self, query: &Query) -> Option<Result<Answer, Errno>> {
        if self.lease_holds() { self.leases.answer(query) } else { None }
    }

    /// The answer to a question: the monitors are asked only if it is not known.
    pub(crate) async fn learn(&self, query: Query) -> Result<Answer, Errno> {
        match self.known(&query) {
            Some(answer) => answer,
            None => self.query(query).await,
        }
    }

    /// Asks the monitors one question.
    pub(crate) async fn query(&self, query: Query) -> Result<Answer, Errno> {
        let mut answers = self.query_all(vec![query]).await;
        answers.pop().unwrap_or(Err(Errno::Io))
    }

    /// Asks several questions at once; an answer each, in order.
    pub(crate) async fn query_all(&self, queries: Vec<Query>) -> Vec<Result<Answer, Errno>> {
        let count = queries.len();
        let asking = self.leases.ask();
        let mut session = self.id();
        let mut request = Request::Query { session, queries };
        loop {
            match self.monitors.call(&request).await {
                Response::Answers(answers, leased) if answers.len() == count => {
                    let answers = self.owners.answers(answers);
                    if let Request::Query { queries, .. } = &request {
                        asking.answered(queries, &answers, &leased);
                    }
                    return answers;
                }
                Response::Refused(Refusal::SessionClosed) => {
                    self.reopen(session).await;
                    if self.id() == session {
                        // No new one is to be had: this client was revoked, say.
                        return vec![Err(Errno::Stale); count];
                    }
                    session = self.id();
                    if let Request::Query { session: asker, .. } = &mut request {
                        *asker = session;
                    }
                }
                other => return vec![Err(unexpected(&other)); count],
            }
        }
    }

    /// Makes one change.
    pub(crate) async fn mutate(self: &Arc<Self>, op: Op) -> Result<Reply, Errno> {
        let mut replies = self.mutate_all(vec![op]).await;
        replies.pop().unwrap_or(Err(Errno::Io))
    }

    /// Makes several changes in order, each by itself; a reply each. Once begun they are carried through even
    /// if the caller stops waiting. [`Errno::Stale`] when the session was lost before they were done.
    pub(crate) async fn mutate_all(
        self: &Arc<Self>,
        mut ops: Vec<Op>,
    ) -> Vec<Result<Reply, Errno>> {
        let count = ops.len();
        self.owners.outgoing(&mut ops);
        let session = Arc::clone(self);
        let work = async move {
            let mut replies = Vec::with_capacity(ops.len());
            let mut ops = ops.into_iter().peekable();
            while ops.peek().is_some() {
                let portion: Vec<Op> = ops.by_ref().take(MUTATIONS_AT_ONCE).collect();
                replies.extend(session.mutate_portion(portion).await);
            }
            session.owners.replies(replies)
        };
        tokio::spawn(work).await.unwrap_or_else(|_| vec![Err(Errno::Io); count])
    }

    /// Tells the monitors something that is answered with `Done`.
    pub(crate) async fn tell(&self, request: &Request) {
        match self.monitors.call(request).await {
            Response::Done | Response::Refused(Refusal::SessionClosed) => {}
            other => {
                unexpected(&other);
            }
        }
    }

    /// Says for which locks programs wait; an answer each. `None` when the session is another by now.
    pub(crate) async fn await_locks(&self, waits: Vec<LockWait>) -> Option<Vec<Awaited>> {
        let (session, count) = (self.id(), waits.len());
        match self.monitors.call(&Request::AwaitLocks { session, waits }).await {
            Response::LocksAwaited(answers) if answers.len() == count => Some(answers),
            Response::Refused(Refusal::SessionClosed) => {
                self.reopen(session).await;
                None
            }
            other => Some(vec![Awaited::Refused(unexpected(&other)); count]),
        }
    }

    /// A fresh inode number.
    pub(crate) async fn next_inode(self: &Arc<Self>) -> Ino {
        Ino(self.next_id(Kind::Inodes).await)
    }

    /// A fresh stripe id; [`Self::stripe_done`] must follow.
    pub(crate) async fn next_stripe(self: &Arc<Self>) -> StripeId {
        StripeId(self.next_id(Kind::Stripes).await)
    }

    /// The stripe's commit was answered, or it was given up.
    pub(crate) fn stripe_done(&self, stripe: StripeId) {
        self.state.lock().open_stripes.end(stripe.0);
    }

    /// Renews the session for ever.
    pub(crate) async fn keep_alive(self: Arc<Self>) {
        loop {
            let is_wanted = tokio::select! {
                () = self.tickets.wanted() => true,
                () = tokio::time::sleep(RENEW_EVERY) => false,
            };
            self.renew().await;
            if is_wanted {
                tokio::time::sleep(RENEW_PAUSE).await;
            }
        }
    }

    /// Renews now, which also fetches a changed placement map.
    pub(crate) async fn renew(&self) {
        self.renew_with(self.tickets.are_due(self.clock.monotonic())).await;
    }

    async fn renew_with(&self, tickets: bool) {
        let session = self.id();
        let stalled = std::mem::take(&mut *self.stalled.lock());
        let placement_version = self.placement.borrow().version;
        let (sent, spent) = (self.clock.monotonic(), self.credit.spent.load(Ordering::Relaxed));
        let request = Request::Renew(Renew { session, placement_version, stalled, tickets });
        match self.monitors.call(&request).await {
            Response::Renewed(renewed) => self.renewed(renewed, sent, spent),
            Response::Refused(Refusal::SessionClosed) => self.reopen(session).await,
            other => {
                unexpected(&other);
            }
        }
    }

    /// Ends the session: everything is committed and released.
    pub(crate) async fn close(&self) {
        self.tell(&Request::CloseSession(self.id())).await;
    }

    fn renewed(&self, renewed: Renewed, sent: Duration, spent: u64) {
        // Before anybody goes to a server that is new in the map.
        if let Some(tickets) = renewed.tickets {
            self.tickets.received(tickets, sent);
        }
        if let Some(placement) = renewed.placement {
            self.placement.send_replace(Arc::new(placement));
        }
        self.leases.told_space(renewed.space);
        self.credit.granted.store(renewed.credit_bytes, Ordering::Relaxed);
        // Another renewal may have been under way and have taken the same off already.
        let less = |now: u64| Some(now.saturating_sub(spent));
        let counted = &self.credit.spent;
        counted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok();
        if renewed.prolonged {
            self.extend_lease(sent);
        }
    }

    fn extend_lease(&self, sent: Duration) {
        let end = millis(sent) + self.state.lock().lease_ms;
        self.lease_end_ms.send_if_modified(|now| {
            let holds = !self.mourning.load(Ordering::SeqCst);
            if holds {
                *now = end;
            }
            holds
        });
    }

    fn begin(&self, opened: &SessionOpened, sent: Duration) {
        self.state.lock().lease_ms = opened.lease_ms;
        self.credit.granted.store(opened.credit_bytes, Ordering::Relaxed);
        self.tickets.received(opened.tickets.clone(), sent);
        self.placement.send_replace(Arc::new(opened.placement.clone()));
        self.extend_lease(sent);
    }

    /// The monitors do not know `closed` any more: opens a new session, unless another task just did.
    async fn reopen(&self, closed: SessionId) {
        let _one = self.reopening.lock().await;
        if self.id() != closed {
            return;
        }
        log::error!("the monitors have closed this mount's session {closed}; opening a new one");
        let sent = self.clock.monotonic();
        let opened = match call_open(&*self.monitors, &self.client).await {
            Ok(opened) => opened,
            Err(refusal) => {
                log::error!("no new session could be opened: {refusal}");
                tokio::time::sleep(RENEW_EVERY).await;
                return;
            }
        };
        self.mourning.store(true, Ordering::SeqCst);
        self.lease_end_ms.send_replace(0);
        {
            let mut state = self.state.lock();
            state.slots = Slots::new(opened.session);
            state.inodes.reset();
            state.stripes.reset();
            state.open_stripes = OpenStripes::default();
        }
        self.slots_freed.notify_waiters();
        self.ids_leased.notify_waiters();
        let (mourned, is_mourned) = oneshot::channel();
        let session = closed;
        // Nobody listens any more only while the mount ends.
        if self.lost.send(Lost { session, mourned }).is_ok() {
            is_mourned.await.ok();
        }
        self.mourning.store(false, Ordering::SeqCst);
        self.begin(&opened, sent);
    }

    async fn mutate_portion(&self, ops: Vec<Op>) -> Vec<Result<Reply, Errno>> {
        let count = ops.len();
        let taken = self.take_slots(count).await;
        let session = taken[0].session;
        let mutation =
            |(op, taken): (Op, &Taken)| Mutation { slot: taken.slot, seq: taken.seq, op };
        let mutations = ops.into_iter().zip(&taken).map(mutation).collect();
        let request = Request::Mutate { session, mutations };
        let asking = self.leases.ask();
        match self.monitors.call(&request).await {
            Response::Mutated(replies) if replies.len() == count => {
                if let Request::Mutate { mutations, .. } = &request {
                    self.leases.changed(&asking, mutations, &replies, self.clock.monotonic());
                }
                self.state.lock().slots.give_back(&taken);
                self.slots_freed.notify_waiters();
                replies
            }
            Response::Refused(Refusal::SessionClosed) => {
                self.reopen(session).await;
                self.old_replies(session, &taken).await
            }
            other => {
                // Refused as a whole: nothing was done, so the slots keep their numbers' order by being
                // left alone. They come back with the next session.
                vec![Err(unexpected(&other)); count]
            }
        }
    }

    /// What became of changes that were under way when their session was lost. Those that were not done by then
    /// never will be.
    async fn old_replies(&self, evicted: SessionId, taken: &[Taken]) -> Vec<Result<Reply, Errno>> {
        let operations: Vec<_> = taken.iter().map(|taken| (taken.slot, taken.seq)).collect();
        let request = Request::OldReplies { session: self.id(), evicted, operations };
        match self.monitors.call(&request).await {
            Response::OldReplies(replies) if replies.len() == taken.len() => {
                replies.into_iter().map(|reply| reply.unwrap_or(Err(Errno::Stale))).collect()
            }
            other => {
                log::warn!("what was done in session {evicted} cannot be learnt: {other:?}");
                vec![Err(Errno::Stale); taken.len()]
            }
        }
    }

    async fn take_slots(&self, count: usize) -> Vec<Taken> {
        loop {
            let freed = self.slots_freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(taken) = self.state.lock().slots.take(count) {
                return taken;
            }
            freed.await;
        }
    }

    async fn next_id(self: &Arc<Self>, kind: Kind) -> u64 {
        loop {
            let leased = self.ids_leased.notified();
            tokio::pin!(leased);
            leased.as_mut().enable();
            let (id, refill) = {
                let mut state = self.state.lock();
                let ids = state.ids(kind);
                let id = ids.take();
                let refill = ids.wants_refill();
                if let (Kind::Stripes, Some(id)) = (kind, id) {
                    state.open_stripes.begin(id);
                }
                (id, refill)
            };
            if refill {
                tokio::spawn(Arc::clone(self).refill(kind));
            }
            match id {
                Some(id) => return id,
                None => leased.await,
            }
        }
    }

    async fn refill(self: Arc<Self>, kind: Kind) {
        let (session, op) = {
            let state = self.state.lock();
            let done_below = StripeId(state.open_stripes.done_below(state.stripes.peek()));
            let op = match kind {
                Kind::Inodes => Op::LeaseInodes,
                Kind::Stripes => Op::LeaseStripes { done_below },
            };
            (state.slots.session(), op)
        };
        let range = match self.mutate(op).await {
            Ok(Reply::Range { first, count }) => Some(first..first.saturating_add(count)),
            Ok(_) => None,
            Err(errno) => {
                log::warn!("no new numbers could be leased from the monitors: {errno}");
                tokio::time::sleep(Duration::from_millis(200)).await;
                None
            }
        };
        if let (Kind::Stripes, Some(_)) = (kind, &range) {
            // No server takes a stripe of them before it has seen a ticket for it.
            self.renew_with(true).await;
        }
        {
            let mut state = self.state.lock();
            if state.slots.session() == session {
                state.ids(kind).refilled(range);
            }
        }
        self.ids_leased.notify_waiters();
    }
}

impl State {
    fn ids(&mut self, kind: Kind) -> &mut LeasedIds {
        match kind {
            Kind::Inodes => &mut self.inodes,
            Kind::Stripes => &mut self.stripes,
        }
    }
}

async fn call_open(monitors: &dyn Monitors, client: &ClientInfo) -> Result<SessionOpened, Refusal> {
    let request = Request::OpenSession { client: client.clone(), nonce: SystemRandom.u128() };
    match monitors.call(&request).await {
        Response::Session(opened) => Ok(opened),
        Response::Refused(refusal) => Err(refusal),
        other => Err(Refusal::Malformed(format!("unexpected answer {other:?}"))),
    }
}

fn unexpected(response: &Response) -> Errno {
    log::error!("unexpected answer of a monitor: {response:?}");
    Errno::Io
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
