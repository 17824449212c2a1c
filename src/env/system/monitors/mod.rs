//! The way to the monitors, for everybody who asks them: clients, servers, commands.
//!
//! There is a connection to every monitor that is known, kept for as long as that is one, and made again with growing pauses. The
//! others are not for balance but for news: a leader that hangs answers nothing and does not say so, but the
//! one elected in its place is announced on all connections, within moments of its election. Then
//! [`MonitorLinks::target`] changes, and whoever waits for an answer of the old one asks the new one at once.
//! A leader that leads on, but to whom only our cable is broken, is announced by nobody: its silence is noticed
//! ([`Connection::fell_silent`]), and another monitor passes calls on to it.
//! Whom to talk to is decided in [`route`]; this is the edge of it.
//!
//! [`MonitorLinks::ask`] is for those who have nothing to tell a new leader first.

mod ask;
#[cfg(test)]
pub(crate) mod fake;
mod pause;
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

pub use self::ask::AskError;
pub use self::pause::Pause;
use self::route::{Choice, Route};
use crate::crypto::{Credentials, Role};
use crate::env::system::rpc::{ConnectError, Connection};
use crate::types::Incarnation;
use crate::wire::metadata::{Notice, Request};
use crate::wire::{decode, encode};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// A program may wait for it, and every failed attempt has taken its time already.
const RETRY_MOST: Duration = Duration::from_secs(1);

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
    /// Whether it was named at the start: when all monitors move at the same time, that is where to find them.
    is_configured: bool,
    connection: Option<Connection>,
    /// Rings when it should be tried now.
    hurry: Arc<Notify>,
    /// Why it could not be connected to the last time.
    failure: Option<ConnectError>,
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
        addresses.iter().for_each(|address| links.0.learn(address, true));
        (links, told)
    }

    /// Waits until one is connected, at most for `patience`, and no longer than there is hope.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] of one of them.
    pub async fn connected(&self, patience: Duration) -> Result<(), ConnectError> {
        self.connected_unless(|error| !error.may_pass(), patience).await
    }

    /// [`Self::connected`], but without a second attempt: for somebody who would rather know.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] of one of them.
    pub async fn connected_at_once(&self, patience: Duration) -> Result<(), ConnectError> {
        self.connected_unless(|_| true, patience).await
    }

    /// Waits until one is connected, or all have failed for a reason with which there is no point in going on.
    async fn connected_unless(
        &self,
        is_final: impl Fn(&ConnectError) -> bool,
        patience: Duration,
    ) -> Result<(), ConnectError> {
        let waiting = async {
            let (mut target, mut failure) = (self.target(), self.failure());
            loop {
                if target.borrow_and_update().is_some() {
                    return Ok(());
                }
                if let Some(error) = self.all_failed(&is_final) {
                    return Err(error);
                }
                tokio::select! {
                    // Both senders are in `self`.
                    _ = target.changed() => {}
                    _ = failure.changed() => {}
                }
            }
        };
        match tokio::time::timeout(patience, waiting).await {
            Ok(connected) => connected,
            Err(_) => {
                let last = self.0.failure.borrow().clone();
                Err(last.unwrap_or_else(|| silent(patience)))
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

    /// The cluster's incarnation, as far as any monitor that was connected to knew it.
    pub fn incarnation(&self) -> Incarnation {
        self.0.incarnation()
    }

    /// There are these monitors, and no others: a monitor said so.
    pub fn learn(&self, addresses: &[String]) {
        self.0.learn_all(addresses);
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

    /// If none can be connected to, all for such reasons: one of them.
    fn all_failed(&self, is_final: impl Fn(&ConnectError) -> bool) -> Option<ConnectError> {
        let state = self.0.state.lock();
        if state.links.is_empty() {
            return Some(nobody_named());
        }
        let failures = state.links.values().map(|link| link.failure.as_ref());
        let failures: Option<Vec<&ConnectError>> =
            failures.map(|failure| failure.filter(|error| is_final(error))).collect();
        failures?.first().map(|error| (*error).clone())
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

    fn learn(self: &Arc<Self>, address: &str, is_configured: bool) {
        let mut state = self.state.lock();
        if !state.route.learn(address) {
            return;
        }
        let hurry = Arc::new(Notify::new());
        let link =
            Link { is_configured, connection: None, hurry: Arc::clone(&hurry), failure: None };
        state.links.insert(address.to_owned(), link);
        drop(state);
        self.tasks.lock().spawn(Arc::clone(self).keep(address.to_owned(), hurry));
    }

    /// There are these monitors. Others, learnt before, that cannot be reached were replaced, or have moved; one that can be may be
    /// too new for whoever told this.
    fn learn_all(self: &Arc<Self>, addresses: &[String]) {
        addresses.iter().for_each(|address| self.learn(address, false));
        if addresses.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        let State { route, links, .. } = &mut *state;
        links.retain(|address, link| {
            let is_named = link.is_configured || addresses.contains(address);
            let stays = is_named || link.connection.is_some();
            if !stays {
                route.forget(address);
                link.hurry.notify_one();
            }
            stays
        });
    }

    /// Whether that monitor is still one to be connected to, by its link's bell.
    fn is_known(&self, address: &str, hurry: &Arc<Notify>) -> bool {
        let state = self.state.lock();
        state.links.get(address).is_some_and(|link| Arc::ptr_eq(&link.hurry, hurry))
    }

    /// Keeps a connection to that monitor for as long as it is known.
    async fn keep(self: Arc<Self>, address: String, hurry: Arc<Notify>) {
        let mut pause = Pause::new(RETRY_FIRST, RETRY_MOST);
        let ping = encode(&Request::Ping);
        while self.is_known(&address, &hurry) {
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
                    tokio::select! {
                        () = self.listen(told) => {}
                        () = connection.fell_silent(&ping) => {
                            log::warn!("the monitor at {address} has fallen silent; trying another");
                        }
                    }
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
                Ok(Notice::Monitors(addresses)) => {
                    self.learn_all(&addresses);
                }
                // Nobody listens any more only while the process ends.
                Ok(notice) => drop(self.notices.send(notice)),
                Err(error) => log::error!("a monitor said something unreadable: {error}"),
            }
        }
    }

    fn connected(&self, address: &str, connection: &Connection) {
        // It only rises, and a monitor that has just joined does not know it yet.
        self.incarnation.fetch_max(connection.incarnation().0, Ordering::Relaxed);
        {
            let mut state = self.state.lock();
            state.route.connected(address);
            if let Some(link) = state.links.get_mut(address) {
                link.connection = Some(connection.clone());
                link.failure = None;
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
            link.failure = Some(error.clone());
        }
        self.failure.send_replace(Some(error));
    }

    /// Somebody says who leads.
    fn told(self: &Arc<Self>, term: u64, address: &str) {
        self.learn(address, false);
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

fn nobody_named() -> ConnectError {
    let reason = "no monitor was named".to_owned();
    ConnectError::Unresolvable { address: String::new(), reason }
}

fn silent(timeout: Duration) -> ConnectError {
    ConnectError::TimedOut { address: "the monitors".to_owned(), timeout }
}
