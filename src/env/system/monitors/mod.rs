//! The way to the monitors, for everybody who asks them: clients, servers, commands.
//!
//! There is a connection to every monitor that is known, kept for ever and made again with growing pauses. The
//! others are not for balance but for news: a leader that hangs answers nothing and does not say so, but the
//! one elected in its place is announced on all connections, within moments of its election. Then
//! [`MonitorLinks::target`] changes, and whoever waits for an answer of the old one asks the new one at once.
//! Whom to talk to is decided in [`route`]; this is the edge of it.
//!
//! [`MonitorLinks::ask`] is for those who have nothing to tell a new leader first.

#[cfg(test)]
pub(crate) mod fake;
mod route;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::route::{Choice, Route};
use crate::crypto::{Credentials, Role};
use crate::env::random::{Random, SystemRandom};
use crate::env::system::rpc::{CallError, ConnectError, Connection};
use crate::types::Incarnation;
use crate::wire::metadata::{Notice, Refusal, Request, Response};
use crate::wire::{decode, encode};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(2);
/// Pauses while there is no leader.
const ELECTION_FIRST: Duration = Duration::from_millis(20);
const ELECTION_MOST: Duration = Duration::from_millis(200);

/// Connections to all monitors that are known. They end when this is dropped.
pub struct MonitorLinks(Arc<Shared>);

struct Shared {
    credentials: Credentials,
    incarnation: AtomicU32,
    state: Mutex<State>,
    target: watch::Sender<Option<Target>>,
    failure: watch::Sender<Option<ConnectError>>,
    notices: mpsc::UnboundedSender<Notice>,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct State {
    route: Route,
    links: HashMap<String, Link>,
    choice: Option<Choice>,
    changes: u64,
}

struct Link {
    connection: Option<Connection>,
    /// Rings when it should be tried now.
    hurry: Arc<Notify>,
    /// It cannot be connected to, and waiting will not help.
    hopeless: Option<ConnectError>,
}

/// Where calls should go.
#[derive(Clone, Debug)]
pub struct Target {
    /// The connection.
    pub connection: Connection,
    /// Another number: another monitor, another connection, or another reign of the same one. What the monitors
    /// keep only in memory has to be told again, and what is unanswered has to be asked again.
    pub number: u64,
    address: String,
}

/// Why monitors did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// None is connected.
    #[error(transparent)]
    Unreachable(#[from] ConnectError),
    /// The one that was asked is silent.
    #[error("the monitor does not answer: check that it is not overloaded, and its log")]
    Silent,
    /// They have not elected a leader.
    #[error("{}: check that most of them run", Refusal::NoLeader)]
    NoLeader,
    /// What was answered is no answer.
    #[error(
        "the monitor's answer makes no sense: use the same version of okapifs on both machines"
    )]
    Garbage,
}

/// A pause that grows, a little more or less each time, so that those who wait together do not come together.
pub struct Pause {
    next: Duration,
    most: Duration,
}

impl Pause {
    /// The first is about `first`, none is much longer than `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { next: first, most }
    }

    /// For who waits for an election.
    pub fn for_election() -> Self {
        Self::new(ELECTION_FIRST, ELECTION_MOST)
    }

    /// The next pause.
    pub fn take(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(self.most);
        now.mul_f64(0.75 + (SystemRandom.u64() % 1024) as f64 / 2048.0)
    }

    /// Waits for the next pause.
    pub async fn rest(&mut self) {
        tokio::time::sleep(self.take()).await;
    }
}

impl MonitorLinks {
    /// Begins to connect to `addresses` (`host:port`); more are learnt. The receiver gets what monitors say
    /// unasked. `incarnation` is the cluster's as far as it is known, else 0. Needs a tokio runtime.
    pub fn start(
        addresses: &[String],
        credentials: Credentials,
        incarnation: Incarnation,
    ) -> (Self, mpsc::UnboundedReceiver<Notice>) {
        let (notices, told) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            credentials,
            incarnation: AtomicU32::new(incarnation.0),
            state: Mutex::default(),
            target: watch::Sender::new(None),
            failure: watch::Sender::new(None),
            notices,
            tasks: Mutex::default(),
        });
        let links = Self(shared);
        links.learn(addresses);
        (links, told)
    }

    /// Waits until one is connected, at most for `patience`, and no longer than there is hope.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] of one of them.
    pub async fn connected(&self, patience: Duration) -> Result<(), ConnectError> {
        match tokio::time::timeout(patience, self.connected_or_hopeless()).await {
            Ok(connected) => connected,
            Err(_) => {
                let last = self.0.failure.borrow().clone();
                Err(last.unwrap_or_else(|| silent(patience)))
            }
        }
    }

    async fn connected_or_hopeless(&self) -> Result<(), ConnectError> {
        let (mut target, mut failure) = (self.target(), self.failure());
        loop {
            if target.borrow_and_update().is_some() {
                return Ok(());
            }
            if let Some(error) = self.hopeless() {
                return Err(error);
            }
            tokio::select! {
                // Both senders are in `self`.
                _ = target.changed() => {}
                _ = failure.changed() => {}
            }
        }
    }

    /// Where calls should go; `None` while no monitor is connected.
    pub fn target(&self) -> watch::Receiver<Option<Target>> {
        self.0.target.subscribe()
    }

    /// Why the last attempt to connect failed.
    pub fn failure(&self) -> watch::Receiver<Option<ConnectError>> {
        self.0.failure.subscribe()
    }

    /// The cluster's incarnation, as the last monitor that was connected to knew it.
    pub fn incarnation(&self) -> Incarnation {
        self.0.incarnation()
    }

    /// There are these monitors.
    pub fn learn(&self, addresses: &[String]) {
        addresses.iter().for_each(|address| self.0.learn(address));
    }

    /// It does not answer: its connection is made anew, and another monitor is asked meanwhile.
    pub fn silent(&self, target: &Target) {
        target.connection.close();
        self.0.lost(&target.address, &target.connection);
    }

    /// It answered that there is no leader.
    pub fn refused(&self, target: &Target) {
        self.0.state.lock().route.refused(&target.address);
        self.0.choose();
    }

    /// Asks whoever leads, again and again until there is an answer. A monitor that does not answer in `attempt` is
    /// left for another; while there is none to ask, or no leader, this goes on for `patience`. The answer is
    /// never `Refused(NoLeader)`.
    ///
    /// # Errors
    ///
    /// [`AskError`] when there was none in that time.
    pub async fn ask(
        &self,
        request: &Request,
        attempt: Duration,
        patience: Duration,
    ) -> Result<Response, AskError> {
        let (header, deadline) = (encode(request), Instant::now() + patience);
        let (mut targets, mut pause) = (self.target(), Pause::for_election());
        loop {
            let Some(target) = targets.borrow_and_update().clone() else {
                self.connected(deadline.saturating_duration_since(Instant::now())).await?;
                continue;
            };
            let answer = tokio::select! {
                biased;
                () = changed(&mut targets) => continue,
                answer = target.connection.call(header.clone(), Vec::new(), attempt) => answer,
            };
            let why = match answer {
                Ok((answer, _)) => match decode(&answer) {
                    Ok(Response::Refused(Refusal::NoLeader)) => {
                        self.refused(&target);
                        pause.rest().await;
                        AskError::NoLeader
                    }
                    Ok(answer) => return Ok(answer),
                    Err(_) => return Err(AskError::Garbage),
                },
                Err(CallError::Timeout | CallError::Closed) => {
                    self.silent(&target);
                    AskError::Silent
                }
            };
            if Instant::now() >= deadline {
                return Err(why);
            }
        }
    }

    /// If none can be connected to and no waiting will help: why.
    fn hopeless(&self) -> Option<ConnectError> {
        let state = self.0.state.lock();
        if state.links.is_empty() {
            return Some(nobody_named());
        }
        let all: Option<Vec<&ConnectError>> =
            state.links.values().map(|link| link.hopeless.as_ref()).collect();
        all?.first().map(|error| (*error).clone())
    }
}

impl Drop for MonitorLinks {
    fn drop(&mut self) {
        self.0.tasks.lock().abort_all();
    }
}

impl Shared {
    fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation.load(Ordering::Relaxed))
    }

    fn learn(self: &Arc<Self>, address: &str) {
        let mut state = self.state.lock();
        if !state.route.learn(address) {
            return;
        }
        let hurry = Arc::new(Notify::new());
        let link = Link { connection: None, hurry: Arc::clone(&hurry), hopeless: None };
        state.links.insert(address.to_owned(), link);
        drop(state);
        self.tasks.lock().spawn(Arc::clone(self).keep(address.to_owned(), hurry));
    }

    /// Keeps a connection to that monitor for ever.
    async fn keep(self: Arc<Self>, address: String, hurry: Arc<Notify>) {
        let mut pause = Pause::new(RETRY_FIRST, RETRY_MOST);
        loop {
            let (credentials, incarnation) = (&self.credentials, self.incarnation());
            let opened = Connection::open(
                &address,
                credentials,
                Role::Monitor,
                incarnation,
                CONNECT_TIMEOUT,
            );
            match opened.await {
                Ok((connection, told)) => {
                    pause = Pause::new(RETRY_FIRST, RETRY_MOST);
                    self.connected(&address, &connection);
                    self.listen(told).await;
                    connection.close();
                    self.lost(&address, &connection);
                }
                Err(error) => self.failed(&address, error),
            }
            tokio::select! {
                () = pause.rest() => {}
                () = hurry.notified() => {}
            }
        }
    }

    async fn listen(self: &Arc<Self>, mut told: mpsc::UnboundedReceiver<Vec<u8>>) {
        while let Some(bytes) = told.recv().await {
            match decode(&bytes) {
                Ok(Notice::Leader { term, address }) => self.told(term, &address),
                // Nobody listens any more only while the process ends.
                Ok(notice) => drop(self.notices.send(notice)),
                Err(error) => log::error!("a monitor said something unreadable: {error}"),
            }
        }
    }

    fn connected(&self, address: &str, connection: &Connection) {
        self.incarnation.store(connection.incarnation().0, Ordering::Relaxed);
        {
            let mut state = self.state.lock();
            state.route.connected(address);
            if let Some(link) = state.links.get_mut(address) {
                link.connection = Some(connection.clone());
                link.hopeless = None;
            }
        }
        self.choose();
    }

    fn lost(&self, address: &str, connection: &Connection) {
        {
            let mut state = self.state.lock();
            let State { route, links, .. } = &mut *state;
            let Some(link) = links.get_mut(address) else { return };
            // Perhaps there is a new one already.
            if link.connection.take_if(|known| known.is_same(connection)).is_some() {
                route.lost(address);
            }
        }
        self.choose();
    }

    fn failed(&self, address: &str, error: ConnectError) {
        log::debug!("a monitor cannot be reached: {error}");
        if let Some(link) = self.state.lock().links.get_mut(address) {
            link.hopeless = (!error.may_pass()).then(|| error.clone());
        }
        self.failure.send_replace(Some(error));
    }

    /// Somebody says who leads.
    fn told(self: &Arc<Self>, term: u64, address: &str) {
        self.learn(address);
        {
            let mut state = self.state.lock();
            if !state.route.told(term, address) {
                return;
            }
            if let Some(link) = state.links.get(address)
                && link.connection.is_none()
            {
                link.hurry.notify_one();
            }
        }
        self.choose();
    }

    /// Something has changed: perhaps the target, too.
    fn choose(&self) {
        let mut state = self.state.lock();
        let choice = state.route.choose();
        let State { links, changes, choice: known, .. } = &mut *state;
        let connection = choice
            .as_ref()
            .and_then(|choice| links.get(&choice.address))
            .and_then(|link| link.connection.clone());
        // Told under the lock, so that the last to be told is the last to be decided.
        self.target.send_if_modified(|target| {
            let same_connection = match (&*target, &connection) {
                (Some(old), Some(new)) => old.connection.is_same(new),
                (None, None) => true,
                _ => false,
            };
            if same_connection && choice == *known {
                return false;
            }
            *changes += 1;
            let number = *changes;
            let address = choice.as_ref().map_or_else(String::new, |choice| choice.address.clone());
            *target = connection.clone().map(|connection| Target { connection, number, address });
            true
        });
        *known = choice;
    }
}

async fn changed(targets: &mut watch::Receiver<Option<Target>>) {
    if targets.changed().await.is_err() {
        // The sender is where the receiver was made: it does not go first.
        std::future::pending::<()>().await;
    }
}

fn nobody_named() -> ConnectError {
    let reason = "no monitor was named".to_owned();
    ConnectError::Unresolvable { address: String::new(), reason }
}

fn silent(timeout: Duration) -> ConnectError {
    ConnectError::TimedOut { address: "the monitors".to_owned(), timeout }
}
