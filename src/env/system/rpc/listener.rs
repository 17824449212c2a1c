//! The accepting end: a port, and a service that answers calls.
//!
//! Members of the cluster are served for as long as they like. A monitor also lets **guests** in, who have no
//! valid certificate: they come to get one. They are few at a time, for a short time, one small call after
//! another, and what they say reaches a method of its own ([`Service::guest_call`]), so that nothing which is meant for
//! members can be reached by them.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::complaints::Complaints;
use super::errors::BindError;
use super::link::{Link, ReceiveError, Stream, buffered};
use super::{
    CONNECTIONS_MAX, GUEST_CALL_BYTES_MAX, GUEST_TIME, GUESTS_MAX, HELLO_TIMEOUT, IN_FLIGHT_BYTES,
    call_cost, hello, socket,
};
use crate::crypto::{Credentials, Identity, Peer, Role};
use crate::types::{Incarnation, Levels};
use crate::wire::frame::{FrameError, Kind, Prefix};
use crate::wire::hello::{Hello, Welcome, clocks_agree};

/// How long accepting rests when the system has no descriptors or memory left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What answers the calls that arrive at a [`Listener`].
pub trait Service: Send + Sync + 'static {
    /// Answers one call: an encoded header and a payload in page-aligned memory. Calls run side by side, each
    /// as a task of its own, and go on to their end when their connection is lost.
    fn call(
        self: Arc<Self>,
        caller: Arc<Caller>,
        header: Vec<u8>,
        payload: Bytes,
    ) -> impl Future<Output = Answer> + Send;

    /// Answers one call of a guest; `None` shows it out. Only monitors have guests.
    fn guest_call(
        self: Arc<Self>,
        guest: Arc<Guest>,
        header: Vec<u8>,
    ) -> impl Future<Output = Option<Answer>> + Send {
        log::debug!("a call of {} bytes by a guest at {}", header.len(), guest.address);
        async { None }
    }

    /// What is spoken here with somebody of that role; with `None`, a guest.
    fn levels(&self, role: Option<Role>) -> Levels {
        let _ = role;
        Levels::OURS
    }

    /// A connection has said hello: said once for each, before its first call.
    fn opened(&self, caller: &Arc<Caller>) {
        let _ = caller;
    }

    /// A connection is gone: said once for each. Calls of it may still be running.
    fn closed(&self, caller: &Caller) {
        let _ = caller;
    }
}

/// The answer to a call.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Encoded header.
    pub header: Vec<u8>,
    /// Payload, sent as if it were one piece.
    pub payload: Vec<Bytes>,
}

/// The other end of an accepted connection.
pub struct Caller {
    /// Who it is, by its verified certificate.
    pub identity: Identity,
    /// The connection, unique in this process's listener.
    pub id: u64,
    /// Where it connects from.
    pub address: SocketAddr,
    /// The level that both ends speak: nothing newer may be sent.
    pub level: u32,
    link: Arc<Link>,
}

/// The other end of an accepted connection, when it has no valid certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guest {
    /// Who it was until its certificate expired; `None` when it showed no certificate.
    pub identity: Option<Identity>,
    /// Where it connects from.
    pub address: SocketAddr,
}

impl Caller {
    /// Tells the other end something; does nothing when the connection is gone. Notices are small and few:
    /// they are not held back when the other end does not read.
    pub fn notify(&self, notice: Vec<u8>) {
        self.link.send(Kind::Notice, 0, &notice, Vec::new());
    }

    /// Closes the connection.
    pub fn close(&self) {
        self.link.close();
    }

    /// Resolves when the connection is gone.
    pub async fn closed(&self) {
        self.link.closed().await;
    }

    /// Whether the connection is gone.
    pub fn is_closed(&self) -> bool {
        self.link.is_closed()
    }
}

/// A bound port, not served yet.
#[derive(Debug)]
pub struct Listener {
    socket: std::net::TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds `HOST:PORT`; port 0 takes any free one ([`Self::local_address`] says which).
    ///
    /// # Errors
    ///
    /// [`BindError`] when the port is in use or the address not ours.
    pub fn bind(address: &str) -> Result<Self, BindError> {
        let failed = |error: io::Error| BindError::new(address, &error);
        let socket = std::net::TcpListener::bind(address).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self { socket, address })
    }

    /// Where it listens.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` becomes true or its sender is dropped; then closes all connections. Must run in
    /// a tokio runtime. An `incarnation` of 0 (not known yet) accepts any.
    ///
    /// # Errors
    ///
    /// When the runtime cannot take the socket over; nothing has been served then.
    pub async fn serve<S: Service>(
        self,
        credentials: Credentials,
        incarnation: Incarnation,
        service: Arc<S>,
        mut shutdown: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let socket = TcpListener::from_std(self.socket)?;
        let port = Arc::new(Port {
            credentials,
            incarnation,
            service,
            guests: Semaphore::new(GUESTS_MAX),
            next_id: AtomicU64::new(1),
            complaints: Complaints::default(),
        });
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = requested(&mut shutdown) => break,
                Some(_) = connections.join_next() => {}
                accepted = socket.accept() => match accepted {
                    Ok(_) if connections.len() >= CONNECTIONS_MAX => {
                        port.complaints.warn("a connection was refused: there are too many already");
                    }
                    Ok((stream, address)) => {
                        let port = Arc::clone(&port);
                        connections.spawn(port.connection(stream, address, shutdown.clone()));
                    }
                    Err(error) => {
                        port.complaints.warn(&format!("a connection could not be accepted: {error}"));
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
        while connections.join_next().await.is_some() {}
        Ok(())
    }
}

/// What all connections of a listener share.
struct Port<S> {
    credentials: Credentials,
    incarnation: Incarnation,
    service: Arc<S>,
    guests: Semaphore,
    next_id: AtomicU64,
    complaints: Complaints,
}

impl<S: Service> Port<S> {
    /// One connection, from its first byte to its last.
    async fn connection(
        self: Arc<Self>,
        tcp: TcpStream,
        address: SocketAddr,
        mut shutdown: watch::Receiver<bool>,
    ) {
        let greeted = tokio::select! {
            greeted = tokio::time::timeout(HELLO_TIMEOUT, self.greet(tcp)) => greeted,
            () = requested(&mut shutdown) => return,
        };
        let greeted = greeted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let (stream, peer, level) = match greeted {
            Ok(Some(greeted)) => greeted,
            Ok(None) => return,
            Err(error) => {
                self.complaints.warn(&format!(
                    "a connection from {address} was dropped, it did not become one of this cluster: {error}"
                ));
                return;
            }
        };
        let identity = match peer {
            Peer::Member(identity) => identity,
            Peer::Guest(identity) => {
                let guest = Guest { identity, address };
                tokio::select! {
                    () = self.serve_guest(stream, guest) => {}
                    () = requested(&mut shutdown) => {}
                }
                return;
            }
        };
        let caller = Arc::new(Caller {
            identity,
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            address,
            level,
            link: Link::start(stream),
        });
        let _end = EndOnDrop { service: self.service.as_ref(), caller: &caller };
        self.service.opened(&caller);
        tokio::select! {
            ended = self.receive_calls(&caller) => self.note_end(&caller, ended),
            () = caller.closed() => {}
            () = requested(&mut shutdown) => {}
        }
    }

    /// TLS, hello and welcome. `None` when the other end was told why it cannot be served.
    async fn greet(&self, tcp: TcpStream) -> io::Result<Option<(Stream, Peer, u32)>> {
        socket::configure(&tcp)?;
        let acceptor = TlsAcceptor::from(self.credentials.server_config());
        let tls = acceptor.accept(buffered(tcp)).await?;
        let mut stream = TlsStream::Server(tls);
        let peer = self.peer(&stream)?;
        let hello: Hello = hello::receive(&mut stream, Kind::Request).await?;
        let welcome = self.welcome(&hello, &peer);
        hello::send(&mut stream, Kind::Response, &welcome).await?;
        if let Welcome::Accepted { level, .. } = welcome {
            return Ok(Some((stream, peer, level)));
        }
        self.complaints.warn(&format!("{peer:?} was not served: {welcome:?}, it said {hello:?}"));
        Ok(None)
    }

    fn peer(&self, stream: &Stream) -> io::Result<Peer> {
        let (_, session) = stream.get_ref();
        Peer::of_certificates(session.peer_certificates(), self.credentials.now())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    fn welcome(&self, hello: &Hello, peer: &Peer) -> Welcome {
        let (cluster, now) = (self.credentials.identity().cluster, self.credentials.now());
        let of_other_cluster = match peer {
            Peer::Member(identity) | Peer::Guest(Some(identity)) => identity.cluster != cluster,
            Peer::Guest(None) => false,
        };
        let known = |incarnation: Incarnation| incarnation != Incarnation::default();
        let role = match peer {
            Peer::Member(identity) => Some(identity.role),
            Peer::Guest(_) => None,
        };
        let ours = self.service.levels(role);
        let Some(level) = ours.common(hello.levels) else {
            return Welcome::OtherLevels { ours };
        };
        if hello.cluster != cluster || of_other_cluster {
            return Welcome::OtherCluster { ours: cluster };
        }
        if !clocks_agree(now, hello.time) {
            return Welcome::OtherTime { ours: now };
        }
        if known(hello.incarnation)
            && known(self.incarnation)
            && hello.incarnation != self.incarnation
        {
            return Welcome::OtherIncarnation { ours: self.incarnation };
        }
        Welcome::Accepted { level, incarnation: self.incarnation }
    }

    /// Reads calls and starts them, as many as the connection's credit allows.
    async fn receive_calls(&self, caller: &Arc<Caller>) -> Result<(), ReceiveError> {
        let credit = Arc::new(Semaphore::new(IN_FLIGHT_BYTES));
        loop {
            let prefix = caller.link.receive_prefix().await?;
            if prefix.kind != Kind::Request {
                return Err(FrameError::Garbage.into());
            }
            let credit = acquire(&credit, prefix).await;
            let (header, payload) = caller.link.receive_rest(prefix).await?;
            let bulk = !payload.is_empty();
            let service = Arc::clone(&self.service);
            let caller = Arc::clone(caller);
            tokio::spawn(async move {
                let _end = CloseOnPanic(&caller.link);
                let answer = service.call(Arc::clone(&caller), header, payload).await;
                let link = &caller.link;
                link.send(Kind::Response, prefix.id, &answer.header, answer.payload);
                drop(credit);
            });
            if bulk {
                // The call goes first: more to read may be there for a long time.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Answers a guest, call after call, for a short time.
    async fn serve_guest(&self, stream: Stream, guest: Guest) {
        let Ok(_place) = self.guests.try_acquire() else {
            let why = "somebody without a valid certificate was sent away: there are many of them";
            self.complaints.warn(why);
            return;
        };
        let guest = Arc::new(guest);
        let link = Link::start(stream);
        tokio::select! {
            ended = tokio::time::timeout(GUEST_TIME, self.receive_guest_calls(&link, &guest)) => {
                log::debug!("the visit of {guest:?} ended: {ended:?}");
            }
            () = link.closed() => {}
        }
        link.close();
    }

    async fn receive_guest_calls(
        &self,
        link: &Link,
        guest: &Arc<Guest>,
    ) -> Result<(), ReceiveError> {
        loop {
            let prefix = link.receive_prefix().await?;
            let is_small = prefix.header_len <= GUEST_CALL_BYTES_MAX && prefix.payload_len == 0;
            if prefix.kind != Kind::Request || !is_small {
                return Err(FrameError::Garbage.into());
            }
            let (header, _) = link.receive_rest(prefix).await?;
            let service = Arc::clone(&self.service);
            let Some(answer) = service.guest_call(Arc::clone(guest), header).await else {
                return Ok(());
            };
            link.send(Kind::Response, prefix.id, &answer.header, answer.payload);
        }
    }

    fn note_end(&self, caller: &Caller, ended: Result<(), ReceiveError>) {
        match ended {
            Err(ReceiveError::Frame(error)) => self.complaints.warn(&format!(
                "the connection of {} at {} was dropped: {error}",
                caller.identity, caller.address
            )),
            Err(error) => log::debug!("the connection of {} ended: {error}", caller.identity),
            Ok(()) => {}
        }
    }
}

/// A call that panics has no answer. Its caller is not left to wait for one until its time is over: the connection
/// is closed, which ends all calls of it.
struct CloseOnPanic<'a>(&'a Link);

impl Drop for CloseOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            log::error!("a call panicked; its connection is closed");
            self.0.close();
        }
    }
}

/// However a connection ends, by itself or because the whole listener is dropped: it is closed and the service
/// hears of it.
struct EndOnDrop<'a, S: Service> {
    service: &'a S,
    caller: &'a Caller,
}

impl<S: Service> Drop for EndOnDrop<'_, S> {
    fn drop(&mut self) {
        self.caller.link.close();
        self.service.closed(self.caller);
    }
}

/// Resolves when `shutdown` is true or can no longer become true.
async fn requested(shutdown: &mut watch::Receiver<bool>) {
    drop(shutdown.wait_for(|shutdown| *shutdown).await);
}

/// Waits until the calls in work leave room for the one that `prefix` announces.
async fn acquire(credit: &Arc<Semaphore>, prefix: Prefix) -> OwnedSemaphorePermit {
    let bytes = u64::from(prefix.header_len) + u64::from(prefix.payload_len);
    let credit = Arc::clone(credit).acquire_many_owned(call_cost(bytes)).await;
    credit.expect("the semaphore is never closed")
}
