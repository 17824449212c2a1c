//! The connecting end: calls out, answers and notices in.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_rustls::{TlsConnector, TlsStream};

use super::errors::{CallError, ConnectError, Target};
use super::link::{Link, ReceiveError, Stream, buffered};
use super::{hello, socket};
use crate::crypto::{Credentials, Invited, Role};
use crate::types::{ClusterId, Incarnation, Levels, Timestamp};
use crate::wire::frame::{FrameError, Kind};
use crate::wire::hello::{Hello, Welcome};

/// A connection to a monitor or a server, on which any number of calls can be under way. Clones are the same
/// connection; it is closed when the last is dropped.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    link: Arc<Link>,
    pending: Arc<Pending>,
    next_id: AtomicU64,
    agreed: Agreed,
}

/// What the two ends found out about one another.
#[derive(Clone, Copy)]
struct Agreed {
    level: u32,
    incarnation: Incarnation,
}

impl Connection {
    /// Connects to `address` (`HOST:PORT`), where a member of our cluster in the role `expect` must answer
    /// within `timeout`. `incarnation` is the cluster's as far as it is known, else 0.
    ///
    /// The receiver gets the notices of the other end, and ends with the connection.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], which says in one sentence what is wrong and what to do.
    pub async fn open(
        address: &str,
        credentials: &Credentials,
        expect: Role,
        incarnation: Incarnation,
        timeout: Duration,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Vec<u8>>), ConnectError> {
        let target = Target { address, expect, cluster: credentials.identity().cluster };
        let greeted = greet(target, credentials, incarnation);
        Self::open_within(timeout, address, greeted).await
    }

    /// Connects to a monitor as somebody who has no certificate yet, to join its cluster.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]; it is [`ConnectError::OtherCluster`] when the monitor's cluster is not the one that
    /// sent the invitation.
    pub async fn open_invited(
        address: &str,
        invited: &Invited,
        timeout: Duration,
    ) -> Result<Self, ConnectError> {
        let target = Target { address, expect: Role::Monitor, cluster: ClusterId(0) };
        let greeted = greet_invited(target, invited);
        let opened = Self::open_within(timeout, address, greeted).await;
        opened.map(|(connection, _notices)| connection)
    }

    async fn open_within(
        timeout: Duration,
        address: &str,
        greeted: impl Future<Output = Result<(Stream, Agreed), ConnectError>>,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Vec<u8>>), ConnectError> {
        match tokio::time::timeout(timeout, greeted).await {
            Ok(greeted) => greeted.map(|(stream, agreed)| Self::start(stream, agreed)),
            Err(_) => Err(ConnectError::TimedOut { address: address.to_owned(), timeout }),
        }
    }

    /// Calls the other end and waits for its answer: an encoded header and a payload, which lies in
    /// page-aligned memory. `timeout` covers sending, too. Dropping the future forgets the call; it may be
    /// carried out all the same.
    ///
    /// # Errors
    ///
    /// [`CallError`] when no answer came. The call may have been carried out all the same.
    ///
    /// # Panics
    ///
    /// When header or payload are longer than a frame may be: senders bound their messages.
    pub async fn call(
        &self,
        header: Vec<u8>,
        payload: Vec<Bytes>,
        timeout: Duration,
    ) -> Result<(Vec<u8>, Bytes), CallError> {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let answer = self.0.pending.insert(id).ok_or(CallError::Closed)?;
        let _forget = ForgetOnDrop { connection: &self.0, id };
        self.0.link.send(Kind::Request, id, &header, payload);
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(CallError::Closed),
            Err(_) => Err(CallError::Timeout),
        }
    }

    /// The cluster's incarnation as the other end knows it.
    pub fn incarnation(&self) -> Incarnation {
        self.0.agreed.incarnation
    }

    /// The level that both ends speak: nothing newer may be sent.
    pub fn level(&self) -> u32 {
        self.0.agreed.level
    }

    /// Resolves when the connection is gone.
    pub async fn closed(&self) {
        self.0.link.closed().await;
    }

    /// Whether the connection is gone.
    pub fn is_closed(&self) -> bool {
        self.0.link.is_closed()
    }

    /// Since when the other end owes an answer and has said nothing; waits for a call if there is none. `None`
    /// when the connection is closed.
    pub(super) async fn quiet_since(&self) -> Option<Instant> {
        self.0.pending.quiet_since().await
    }

    /// Whether the other end has said anything after that time.
    pub(super) fn heard_since(&self, time: Instant) -> bool {
        self.0.pending.heard_since(time)
    }

    /// Whether they are clones of one another.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Closes the connection for all its clones; calls under way fail.
    pub fn close(&self) {
        self.0.link.close();
    }

    fn start(stream: Stream, agreed: Agreed) -> (Self, mpsc::UnboundedReceiver<Vec<u8>>) {
        let link = Link::start(stream);
        let pending = Arc::new(Pending::new());
        let (notices, received) = mpsc::unbounded_channel();
        tokio::spawn(receive(Arc::clone(&link), Arc::clone(&pending), notices));
        let inner = Inner { link, pending, next_id: AtomicU64::new(1), agreed };
        (Self(Arc::new(inner)), received)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

#[cfg(test)]
impl Connection {
    /// Calls that wait for an answer.
    pub(super) fn calls_pending(&self) -> usize {
        self.0.pending.waiting.lock().as_ref().map_or(0, |waiting| waiting.calls.len())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.link.close();
    }
}

/// TCP, TLS, hello and welcome, as a member.
async fn greet(
    target: Target<'_>,
    credentials: &Credentials,
    incarnation: Incarnation,
) -> Result<(Stream, Agreed), ConnectError> {
    let tcp = connect(target).await?;
    let connector = TlsConnector::from(credentials.client_config());
    let name = target.expect.server_name(target.cluster);
    let tls = connector.connect(name, buffered(tcp)).await;
    let stream = TlsStream::Client(tls.map_err(|error| target.failed(&error))?);
    let cluster = target.cluster;
    say_hello(target, stream, hello(cluster, incarnation, credentials.now())).await
}

/// The same, as somebody with nothing but an invitation.
async fn greet_invited(
    target: Target<'_>,
    invited: &Invited,
) -> Result<(Stream, Agreed), ConnectError> {
    let tcp = connect(target).await?;
    let connector = TlsConnector::from(invited.client_config());
    let tls = connector.connect(invited.server_name(), buffered(tcp)).await;
    let stream = TlsStream::Client(tls.map_err(|error| target.failed(&error))?);
    let (_, session) = stream.get_ref();
    let cluster = invited
        .cluster(session.peer_certificates())
        .map_err(|_| ConnectError::OtherCluster { address: target.address.to_owned() })?;
    say_hello(target, stream, hello(cluster, Incarnation(0), invited.now())).await
}

fn hello(cluster: ClusterId, incarnation: Incarnation, time: Timestamp) -> Hello {
    Hello { levels: Levels::OURS, cluster, incarnation, time }
}

async fn say_hello(
    target: Target<'_>,
    mut stream: Stream,
    hello: Hello,
) -> Result<(Stream, Agreed), ConnectError> {
    // When the other end refuses our certificate it has closed already, and sending may fail: what it said
    // before closing is the better reason.
    let sent = hello::send(&mut stream, Kind::Request, &hello).await;
    let welcome = match (hello::receive(&mut stream, Kind::Response).await, sent) {
        (Ok(welcome), _) => welcome,
        (Err(error), Ok(())) => return Err(target.failed(&error)),
        (Err(received), Err(sent)) => {
            let said_why = received.kind() == io::ErrorKind::InvalidData;
            return Err(target.failed(if said_why { &received } else { &sent }));
        }
    };
    accepted(target, &hello, welcome).map(|agreed| (stream, agreed))
}

async fn connect(target: Target<'_>) -> Result<TcpStream, ConnectError> {
    let unresolvable =
        |reason: String| ConnectError::Unresolvable { address: target.address.to_owned(), reason };
    let addresses = tokio::net::lookup_host(target.address)
        .await
        .map_err(|error| unresolvable(error.to_string()))?;
    let mut failure = unresolvable("the host has no address".to_owned());
    for address in addresses {
        let connected = TcpStream::connect(address).await;
        match connected.and_then(|tcp| socket::configure(&tcp).map(|()| tcp)) {
            Ok(tcp) => return Ok(tcp),
            Err(error) => failure = target.failed(&error),
        }
    }
    Err(failure)
}

fn accepted(target: Target<'_>, hello: &Hello, welcome: Welcome) -> Result<Agreed, ConnectError> {
    let address = target.address.to_owned();
    match welcome {
        Welcome::Accepted { level, incarnation } => Ok(Agreed { level, incarnation }),
        Welcome::OtherLevels { ours } => {
            Err(ConnectError::OtherLevels { address, ours: hello.levels, theirs: ours })
        }
        Welcome::OtherCluster { .. } => Err(ConnectError::OtherCluster { address }),
        Welcome::OtherIncarnation { ours } => {
            Err(ConnectError::OtherIncarnation { address, ours: hello.incarnation, theirs: ours })
        }
        Welcome::OtherTime { ours } => {
            Err(ConnectError::ClocksApart { address, ours: hello.time, theirs: ours })
        }
    }
}

/// Reads until the connection is gone, then fails all calls that still wait.
async fn receive(link: Arc<Link>, pending: Arc<Pending>, notices: mpsc::UnboundedSender<Vec<u8>>) {
    tokio::select! {
        result = receive_frames(&link, &pending, &notices) => {
            if let Err(error) = result {
                log::debug!("a connection ended: {error}");
            }
        }
        () = link.closed() => {}
    }
    link.close();
    pending.fail_all();
}

async fn receive_frames(
    link: &Link,
    pending: &Pending,
    notices: &mpsc::UnboundedSender<Vec<u8>>,
) -> Result<(), ReceiveError> {
    loop {
        let prefix = link.receive_prefix().await?;
        pending.heard();
        let (header, payload) = link.receive_rest(prefix).await?;
        let bulk = !payload.is_empty();
        match prefix.kind {
            Kind::Response => pending.answer(prefix.id, (header, payload)),
            // Nobody needs to listen: the receiver may be dropped.
            Kind::Notice => drop(notices.send(header)),
            Kind::Request => return Err(FrameError::Garbage.into()),
        }
        if bulk {
            // Whoever waits for it goes first: more to read may be there for a long time.
            tokio::task::yield_now().await;
        }
    }
}

type Reply = (Vec<u8>, Bytes);

/// Calls that wait for their answers.
struct Pending {
    /// `None` when the connection is gone.
    waiting: Mutex<Option<Waiting>>,
    /// Rings when the first one begins to wait, or the connection goes.
    changed: Notify,
}

struct Waiting {
    calls: HashMap<u64, oneshot::Sender<Reply>>,
    /// When the first of the calls began, or something was heard since.
    quiet_since: Instant,
    heard: Instant,
}

impl Pending {
    fn new() -> Self {
        let now = Instant::now();
        let waiting = Waiting { calls: HashMap::new(), quiet_since: now, heard: now };
        Self { waiting: Mutex::new(Some(waiting)), changed: Notify::new() }
    }

    fn insert(&self, id: u64) -> Option<oneshot::Receiver<Reply>> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        let waiting = waiting.as_mut()?;
        if waiting.calls.is_empty() {
            waiting.quiet_since = Instant::now();
            self.changed.notify_one();
        }
        waiting.calls.insert(id, sender);
        Some(receiver)
    }

    fn remove(&self, id: u64) -> Option<oneshot::Sender<Reply>> {
        self.waiting.lock().as_mut()?.calls.remove(&id)
    }

    fn heard(&self) {
        if let Some(waiting) = self.waiting.lock().as_mut() {
            waiting.heard = Instant::now();
            waiting.quiet_since = waiting.heard;
        }
    }

    fn heard_since(&self, time: Instant) -> bool {
        self.waiting.lock().as_ref().is_some_and(|waiting| waiting.heard >= time)
    }

    async fn quiet_since(&self) -> Option<Instant> {
        loop {
            {
                let waiting = self.waiting.lock();
                let waiting = waiting.as_ref()?;
                if !waiting.calls.is_empty() {
                    return Some(waiting.quiet_since);
                }
            }
            self.changed.notified().await;
        }
    }

    /// The answer to a call that was given up goes nowhere.
    fn answer(&self, id: u64, reply: Reply) {
        if let Some(waiting) = self.remove(id) {
            drop(waiting.send(reply));
        }
    }

    fn fail_all(&self) {
        let waiting = self.waiting.lock().take();
        drop(waiting);
        self.changed.notify_one();
    }
}

/// Whatever ends a call, its answer or its caller's patience: nothing of it stays behind.
struct ForgetOnDrop<'a> {
    connection: &'a Inner,
    id: u64,
}

impl Drop for ForgetOnDrop<'_> {
    fn drop(&mut self) {
        if self.connection.pending.remove(self.id).is_some() {
            self.connection.link.unsend(self.id);
        }
    }
}
