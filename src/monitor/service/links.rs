//! The ways from this monitor to its siblings, on which Raft's messages travel.
//!
//! There is one connection to each, of its own for Raft, so that a forwarded request of a client is never in a
//! pulse's way. It is made by a task that nobody's impatience ends: questions wait for it for as long as they
//! have time, the next ones find it there. A connection on which nothing was answered for a while is given up
//! for a new one, because TCP would take seconds to notice that a cut has healed.
//!
//! Where a sibling is, is known from the replicated records of all monitors ([`Links::learn`]); the address that
//! the group saw when it became a member is only where to begin.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::crypto::{Credentials, Role};
use crate::env::system::rpc::{CallError, Connection};
use crate::monitor::namespace::records::{Monitor, MonitorState};
use crate::monitor::raft::{Transport, Unreached};
use crate::types::{Incarnation, MonitorId, OpSeq};
use crate::wire::peers::{Answer, Ask, Request, Response};
use crate::wire::{decode, encode};

/// How long one attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How long rests after an attempt that failed.
const REST: Duration = Duration::from_millis(100);
/// A connection on which nothing was answered for this long, although something was asked, is given up.
const MUTE: Duration = Duration::from_secs(2);

/// The ways to all siblings. Cheap to clone.
#[derive(Clone)]
pub(super) struct Links(Arc<Inner>);

struct Inner {
    credentials: Credentials,
    /// 0 while it is not known.
    incarnation: AtomicU32,
    me: OnceLock<MonitorId>,
    book: RwLock<BTreeMap<MonitorId, Monitor>>,
    /// Rings when the book has changed.
    changed: watch::Sender<()>,
    /// Where somebody was seen since its record was written.
    seen: RwLock<BTreeMap<MonitorId, String>>,
    links: Mutex<BTreeMap<MonitorId, Arc<Link>>>,
    /// Why this monitor has no place in the group any more.
    expelled: watch::Sender<Option<Expulsion>>,
}

/// Why a monitor has to end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Expulsion {
    /// It was removed from the cluster, by that command.
    Removed(OpSeq),
    /// The others will not have it; a sentence.
    Refused(String),
}

/// The way to one sibling.
struct Link(watch::Sender<State>);

#[derive(Clone)]
enum State {
    Idle,
    Connecting,
    Up(Arc<Up>),
    Failed { at: Instant, why: String },
}

/// A connection, and when the first question was asked on it of those that wait for an answer since the last one
/// came. (Not when the last answer came: after an idle hour, one late answer would end a connection that is well, and
/// with it the vote that is on its way.)
struct Up {
    connection: Connection,
    address: String,
    unanswered: Mutex<Option<Instant>>,
}

impl Links {
    /// No connections yet.
    pub(super) fn new(credentials: Credentials) -> Self {
        Self(Arc::new(Inner {
            credentials,
            incarnation: AtomicU32::new(0),
            me: OnceLock::new(),
            book: RwLock::default(),
            changed: watch::Sender::default(),
            seen: RwLock::default(),
            links: Mutex::default(),
            expelled: watch::Sender::new(None),
        }))
    }

    /// This monitor's id is known now.
    pub(super) fn is_member(&self, id: MonitorId) {
        self.0.me.get_or_init(|| id);
    }

    /// The cluster's incarnation is known now.
    pub(super) fn at_incarnation(&self, incarnation: Incarnation) {
        self.0.incarnation.store(incarnation.0, Ordering::Relaxed);
    }

    /// What the replicated records say of all monitors.
    pub(super) fn learn(&self, monitors: Vec<(MonitorId, Monitor)>) {
        let monitors: BTreeMap<_, _> = monitors.into_iter().collect();
        self.0.links.lock().retain(|id, _| {
            monitors.get(id).is_none_or(|monitor| monitor.state != MonitorState::Gone)
        });
        let before = std::mem::replace(&mut *self.0.book.write(), monitors.clone());
        // A record that was written since knows better.
        self.0.seen.write().retain(|id, _| {
            let profile = |book: &BTreeMap<_, Monitor>| book.get(id).map(|one| one.profile.clone());
            profile(&before) == profile(&monitors)
        });
        if before != monitors {
            self.0.changed.send_replace(());
        }
    }

    /// That monitor was just seen there: when all of them move at the same time, nobody leads who could write it
    /// down.
    pub(super) fn saw(&self, id: MonitorId, address: &str) {
        self.0.seen.write().insert(id, address.to_owned());
    }

    /// The record of that monitor, as far as it is known.
    pub(super) fn record(&self, id: MonitorId) -> Option<Monitor> {
        self.0.book.read().get(&id).cloned()
    }

    /// Changes whenever what is known of the monitors does.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Where all monitors are, as far as it is known.
    pub(super) fn addresses(&self) -> Vec<String> {
        let book = self.0.book.read();
        let is_here = |monitor: &&Monitor| {
            // One that is awaited has no address yet.
            monitor.state != MonitorState::Gone && !monitor.profile.address.is_empty()
        };
        book.values().filter(is_here).map(|monitor| monitor.profile.address.clone()).collect()
    }

    /// Which monitor had that name, if it is gone for ever, and the command by which it went.
    pub(super) fn gone(&self, name: &str) -> Option<(MonitorId, OpSeq)> {
        let book = self.0.book.read();
        let mut of_name = book.iter().filter(|(_, monitor)| monitor.name == name);
        let gone = of_name.find(|(_, monitor)| monitor.state == MonitorState::Gone);
        gone.map(|(id, monitor)| (*id, monitor.birth))
    }

    /// Why this monitor is not wanted any more, when a sibling says so.
    pub(super) fn expelled(&self) -> watch::Receiver<Option<Expulsion>> {
        self.0.expelled.subscribe()
    }

    /// This monitor is not wanted any more.
    pub(super) fn expel(&self, why: Expulsion) {
        self.0.expelled.send_replace(Some(why));
    }

    /// Asks whoever is at that address, once and over a connection of its own.
    pub(super) async fn call(
        &self,
        address: &str,
        request: &Request,
        timeout: Duration,
    ) -> Result<Response, Unreached> {
        let asked = async {
            let connection = self.0.open(address, timeout).await?;
            self.at_incarnation(connection.incarnation());
            call(&connection, request, timeout)
                .await
                .map_err(|error| Unreached(format!("{address}: {error}")))?
        };
        let silence = |_| Err(Unreached(format!("{address} does not answer")));
        tokio::time::timeout(timeout, asked).await.unwrap_or_else(silence)
    }
}

impl Transport for Links {
    fn ask(
        &self,
        to: MonitorId,
        hint: &str,
        ask: Ask,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Answer, Unreached>> {
        let inner = Arc::clone(&self.0);
        let address = self.address(to).unwrap_or_else(|| hint.to_owned());
        Box::pin(async move {
            let asked = inner.ask(to, &address, ask, timeout);
            let silence = |_| Err(Unreached(format!("{address} does not answer")));
            tokio::time::timeout(timeout, asked).await.unwrap_or_else(silence)
        })
    }

    fn address(&self, member: MonitorId) -> Option<String> {
        let seen = self.0.seen.read().get(&member).cloned();
        let known = || self.0.book.read().get(&member).map(|one| one.profile.address.clone());
        seen.or_else(known)
    }
}

impl Inner {
    async fn ask(
        self: &Arc<Self>,
        to: MonitorId,
        address: &str,
        ask: Ask,
        timeout: Duration,
    ) -> Result<Answer, Unreached> {
        let from = *self.me.get().ok_or_else(|| Unreached("not a member yet".into()))?;
        let link = Arc::clone(
            self.links
                .lock()
                .entry(to)
                .or_insert_with(|| Arc::new(Link(watch::Sender::new(State::Idle)))),
        );
        let up = self.connected(&link, address).await?;
        up.unanswered.lock().get_or_insert_with(Instant::now);
        let response = call(&up.connection, &Request::Raft { from, to, ask }, timeout).await;
        match response {
            Ok(response) => {
                *up.unanswered.lock() = None;
                match response? {
                    Response::Raft(answer) => Ok(answer),
                    Response::Removed { id, by } if id == from => {
                        self.expelled.send_replace(Some(Expulsion::Removed(by)));
                        Err(Unreached("this monitor was removed".to_owned()))
                    }
                    Response::Unable(why) => Err(Unreached(format!("{address}: {why}"))),
                    _ => Err(Unreached(format!("the answer of {address} makes no sense"))),
                }
            }
            Err(error) => {
                if up.unanswered.lock().is_some_and(|since| since.elapsed() >= MUTE) {
                    up.connection.close();
                }
                Err(Unreached(format!("{address}: {error}")))
            }
        }
    }

    /// Waits for the connection of a link, and has it made if there is none.
    async fn connected(
        self: &Arc<Self>,
        link: &Arc<Link>,
        address: &str,
    ) -> Result<Arc<Up>, Unreached> {
        let mut watch = link.0.subscribe();
        loop {
            let begins = link.0.send_if_modified(|state| {
                let wanted = match state {
                    State::Idle => true,
                    State::Connecting => false,
                    State::Up(up) => up.connection.is_closed() || up.address != address,
                    State::Failed { at, .. } => at.elapsed() >= REST,
                };
                if wanted {
                    *state = State::Connecting;
                }
                wanted
            });
            if begins {
                let (inner, link) = (Arc::clone(self), Arc::clone(link));
                let address = address.to_owned();
                drop(tokio::spawn(async move { inner.connect(&link, address).await }));
            }
            match &*watch.borrow_and_update() {
                State::Up(up) => return Ok(Arc::clone(up)),
                State::Failed { why, .. } => return Err(Unreached(why.clone())),
                State::Idle | State::Connecting => {}
            }
            // The sender is in `link`.
            drop(watch.changed().await);
        }
    }

    async fn connect(&self, link: &Link, address: String) {
        let state = match self.open(&address, CONNECT).await {
            Ok(connection) => {
                let unanswered = Mutex::new(None);
                State::Up(Arc::new(Up { connection, address, unanswered }))
            }
            Err(Unreached(why)) => State::Failed { at: Instant::now(), why },
        };
        link.0.send_replace(state);
    }

    async fn open(&self, address: &str, timeout: Duration) -> Result<Connection, Unreached> {
        let incarnation = Incarnation(self.incarnation.load(Ordering::Relaxed));
        let opened =
            Connection::open(address, &self.credentials, Role::Monitor, incarnation, timeout);
        match opened.await {
            Ok((connection, _)) => Ok(connection),
            Err(error) => Err(Unreached(error.to_string())),
        }
    }
}

async fn call(
    connection: &Connection,
    request: &Request,
    timeout: Duration,
) -> Result<Result<Response, Unreached>, CallError> {
    let (answer, _) = connection.call(encode(request), Vec::new(), timeout).await?;
    Ok(decode(&answer).map_err(|error| Unreached(error.to_string())))
}
