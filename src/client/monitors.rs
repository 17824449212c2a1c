//! The connection to the monitors: to any one of them, and to another when it is gone.
//!
//! Callers never see a broken connection: a call waits until there is one and is sent again when it broke.
//! That the monitors are away is logged once, and once when they are back. On each new connection the session
//! is attached first, so that a leader knows what this client has open before it answers anything.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::link::Monitors;
use crate::crypto::{Credentials, Role};
use crate::env::system::rpc::{CallError, ConnectError, Connection};
use crate::types::Incarnation;
use crate::wire;
use crate::wire::metadata::{Attach, Notice, Refusal, Request, Response};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(1);
/// A monitor that does not answer a renewal in this time is left for another.
const RENEW_TIMEOUT: Duration = Duration::from_secs(3);
/// Longer than the longest recall.
const CALL_TIMEOUT: Duration = Duration::from_secs(25);
const NO_LEADER_PAUSE: Duration = Duration::from_millis(50);

type AttachWith = Box<dyn Fn() -> Option<Attach> + Send + Sync>;

/// See the module.
pub(crate) struct MonitorLink {
    credentials: Credentials,
    addresses: Mutex<Vec<String>>,
    incarnation: AtomicU32,
    connection: watch::Sender<Option<Connection>>,
    attach: OnceLock<AttachWith>,
    notices: mpsc::UnboundedSender<Notice>,
}

type Connected = (Connection, mpsc::UnboundedReceiver<Vec<u8>>);

impl MonitorLink {
    /// Connects to the first of `addresses` that answers, trying for `patience`. The receiver gets what
    /// monitors say unasked. [`Self::keep`] must be running before anything is called.
    pub(crate) async fn connect(
        addresses: Vec<String>,
        credentials: Credentials,
        patience: Duration,
    ) -> Result<(Arc<Self>, mpsc::UnboundedReceiver<Notice>), ConnectError> {
        let (notices, told) = mpsc::unbounded_channel();
        let link = Arc::new(Self {
            credentials,
            addresses: Mutex::new(addresses),
            incarnation: AtomicU32::new(0),
            connection: watch::Sender::new(None),
            attach: OnceLock::new(),
            notices,
        });
        let connected = link.connect_within(patience).await?;
        tokio::spawn(Arc::clone(&link).keep(connected));
        Ok((link, told))
    }

    /// What to say first on each further connection.
    pub(crate) fn attach_with(&self, attach: AttachWith) {
        assert!(self.attach.set(attach).is_ok(), "it is set once");
    }

    async fn connect_within(&self, patience: Duration) -> Result<Connected, ConnectError> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            match self.try_all().await {
                Ok(connected) => return Ok(connected),
                Err(error) if !error.may_pass() || tokio::time::Instant::now() >= deadline => {
                    return Err(error);
                }
                Err(_) => tokio::time::sleep(RETRY_FIRST).await,
            }
        }
    }

    /// Keeps a connection for ever.
    async fn keep(self: Arc<Self>, mut connected: Connected) {
        loop {
            let (connection, told) = connected;
            if self.attach(&connection).await {
                self.connection.send_replace(Some(connection.clone()));
                self.listen(told).await;
                self.connection.send_replace(None);
            }
            connection.close();
            connected = self.reconnect().await;
        }
    }

    async fn reconnect(&self) -> Connected {
        let mut pause = RETRY_FIRST;
        let mut complained = false;
        loop {
            match self.try_all().await {
                Ok(connected) => {
                    if complained {
                        log::info!("the monitors are back");
                    }
                    return connected;
                }
                Err(error) if !complained => {
                    log::warn!("no monitor can be reached, waiting: {error}");
                    complained = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MOST);
        }
    }

    async fn try_all(&self) -> Result<Connected, ConnectError> {
        let addresses = self.addresses.lock().clone();
        let mut failure = None;
        for address in &addresses {
            let incarnation = self.incarnation();
            let (credentials, role) = (&self.credentials, Role::Monitor);
            match Connection::open(address, credentials, role, incarnation, CONNECT_TIMEOUT).await {
                Ok(connected) => {
                    self.incarnation.store(connected.0.incarnation().0, Ordering::Relaxed);
                    return Ok(connected);
                }
                Err(error) => failure = Some(error),
            }
        }
        // The next attempt begins with another one.
        self.addresses.lock().rotate_left(usize::from(!addresses.is_empty()));
        Err(failure.unwrap_or(ConnectError::Unresolvable {
            address: String::new(),
            reason: "no monitor was named".to_owned(),
        }))
    }

    /// Goes on with the session on this connection. `false`: better try another.
    async fn attach(&self, connection: &Connection) -> bool {
        let Some(attach) = self.attach.get().and_then(|attach| attach()) else {
            return true;
        };
        loop {
            let request = wire::encode(&Request::Attach(attach.clone()));
            match call_once(connection, request, CALL_TIMEOUT).await {
                // A closed session is noticed, and replaced, by the next call.
                Ok(response @ Response::Session(_)) => {
                    self.learn_addresses(&response);
                    return true;
                }
                Ok(Response::Refused(Refusal::SessionClosed | Refusal::Revoked)) => return true,
                Ok(Response::Refused(Refusal::Expired)) => {
                    log::warn!("this client's certificate has expired, waiting for a new one");
                    tokio::time::sleep(RETRY_MOST).await;
                    return false;
                }
                Ok(Response::Refused(Refusal::NoLeader)) => {
                    tokio::time::sleep(NO_LEADER_PAUSE).await;
                }
                Ok(other) => {
                    log::error!("unexpected answer of a monitor to a reattachment: {other:?}");
                    return false;
                }
                Err(_) => return false,
            }
        }
    }

    /// Whoever answers tells of all monitors when a session begins.
    fn learn_addresses(&self, response: &Response) {
        if let Response::Session(opened) = response
            && !opened.monitors.is_empty()
        {
            self.addresses.lock().clone_from(&opened.monitors);
        }
    }

    async fn listen(&self, mut told: mpsc::UnboundedReceiver<Vec<u8>>) {
        while let Some(bytes) = told.recv().await {
            match wire::decode(&bytes) {
                // Nobody listens any more only while the mount ends.
                Ok(notice) => drop(self.notices.send(notice)),
                Err(error) => log::error!("a monitor said something incomprehensible: {error}"),
            }
        }
    }

    async fn call_until_answered(&self, request: &Request) -> Response {
        let header = wire::encode(request);
        let timeout = match request {
            Request::Renew(_) => RENEW_TIMEOUT,
            _ => CALL_TIMEOUT,
        };
        let mut connections = self.connection.subscribe();
        loop {
            let connection = match connections.wait_for(Option::is_some).await {
                Ok(connection) => connection.clone(),
                // The sender is in `self`.
                Err(_) => None,
            };
            let Some(connection) = connection else {
                continue;
            };
            match call_once(&connection, header.clone(), timeout).await {
                Ok(Response::Refused(Refusal::NoLeader)) => {
                    tokio::time::sleep(NO_LEADER_PAUSE).await;
                }
                Ok(response) => {
                    self.learn_addresses(&response);
                    return response;
                }
                Err(error) => {
                    if error == CallError::Timeout {
                        log::warn!("the monitor does not answer; trying another");
                    }
                    connection.close();
                    let gone = |now: &Option<Connection>| {
                        now.as_ref().is_none_or(|connection| !connection.is_closed())
                    };
                    // Only fails when the sender, in `self`, is gone.
                    connections.wait_for(gone).await.ok();
                }
            }
        }
    }
}

impl Monitors for MonitorLink {
    fn call<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Response> {
        self.call_until_answered(request).boxed()
    }

    fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation.load(Ordering::Relaxed))
    }
}

async fn call_once(
    connection: &Connection,
    header: Vec<u8>,
    timeout: Duration,
) -> Result<Response, CallError> {
    let (answer, _) = connection.call(header, Vec::new(), timeout).await?;
    wire::decode(&answer).map_err(|error| {
        log::error!("a monitor answered something incomprehensible: {error}");
        CallError::Closed
    })
}
