//! One TLS connection as both ends use it: a queue of frames out, frames in.
//!
//! The TLS session encrypts and decrypts, so both directions need it and it is behind a mutex that is held for
//! one step at a time, never across an await. Frames to be sent wait in a queue with a mutex of its own, so
//! that queueing never waits for encryption.
//!
//! Whoever queues a small frame on an idle connection sends it there and then ([`Link::send`]): no other task
//! has to be woken first. All else is left to the **pump**, a task that sends what is queued, as much at once
//! as the socket takes. Both use the pump's waker, so it is always the pump that goes on when the socket has
//! room again, and a caller may be dropped at any moment without leaving half a frame.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsStream;

use super::payload::Buffer;
use crate::types::limits::{FRAME_HEADER_MAX, FRAME_PAYLOAD_MAX};
use crate::wire::frame::{FrameError, Kind, PREFIX_BYTES, Prefix};

/// TLS over TCP. The TLS library reads 4 KiB at a time; the buffer below it makes large reads of them.
pub(super) type Stream = TlsStream<BufReader<TcpStream>>;

/// Size of one read from a socket, in bytes.
const READ_BYTES: usize = 128 << 10;
/// How much the TLS session encrypts before it waits for the socket, in bytes. The more, the fewer times the two
/// ends wake one another.
const ENCRYPTED_BYTES_MAX: usize = 1 << 20;
/// How much is sent before the other direction gets its turn, in bytes.
const TURN_BYTES: usize = 1 << 20;
/// A frame with a longer payload is left to the pump, in bytes.
const SEND_INLINE_MAX: usize = 32 << 10;
/// Parts of frames that one write takes.
const SLICES_MAX: usize = 32;

/// Prepares a socket for TLS.
pub(super) fn buffered(stream: TcpStream) -> BufReader<TcpStream> {
    BufReader::with_capacity(READ_BYTES, stream)
}

/// Why nothing more can be read from a connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReceiveError {
    #[error("the connection is closed")]
    Closed,
    #[error(transparent)]
    Broken(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// See the module.
pub(super) struct Link {
    /// `None` once the connection is closed.
    io: Mutex<Option<Io>>,
    queue: Mutex<VecDeque<Queued>>,
    pump: Arc<Pump>,
    pump_waker: Waker,
    closed: watch::Sender<bool>,
}

struct Io {
    stream: Stream,
    /// Frames that left the queue; the first may be partly sent.
    sending: VecDeque<Bytes>,
    /// How long they are, in bytes.
    sending_bytes: usize,
}

struct Queued {
    id: u64,
    /// Prefix and header in one, then the payload's parts.
    parts: Vec<Bytes>,
}

struct Pump(Notify);

impl Wake for Pump {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_one();
    }
}

impl Link {
    /// Takes over a connection on which both ends have said hello, and starts its pump.
    pub(super) fn start(mut stream: Stream) -> Arc<Self> {
        match &mut stream {
            TlsStream::Client(tls) => tls.get_mut().1.set_buffer_limit(Some(ENCRYPTED_BYTES_MAX)),
            TlsStream::Server(tls) => tls.get_mut().1.set_buffer_limit(Some(ENCRYPTED_BYTES_MAX)),
        }
        let pump = Arc::new(Pump(Notify::new()));
        let link = Arc::new(Self {
            io: Mutex::new(Some(Io { stream, sending: VecDeque::new(), sending_bytes: 0 })),
            queue: Mutex::new(VecDeque::new()),
            pump_waker: Waker::from(Arc::clone(&pump)),
            pump,
            closed: watch::Sender::new(false),
        });
        tokio::spawn(Arc::clone(&link).run_pump());
        link
    }

    /// Queues a frame, and sends it at once where that is cheap. On a closed connection it does nothing.
    ///
    /// # Panics
    ///
    /// When header or payload are longer than the limits of a frame: senders bound their messages.
    pub(super) fn send(&self, kind: Kind, id: u64, header: &[u8], payload: Vec<Bytes>) {
        let payload_len = payload.iter().map(Bytes::len).sum();
        let mut parts = Vec::with_capacity(1 + payload.len());
        parts.push(frame_head(kind, id, header, payload_len));
        parts.extend(payload.into_iter().filter(|part| !part.is_empty()));

        let was_idle = {
            let mut queue = self.queue.lock();
            queue.push_back(Queued { id, parts });
            queue.len() == 1
        };
        if was_idle && payload_len <= SEND_INLINE_MAX {
            self.send_if_idle();
        } else {
            self.pump_waker.wake_by_ref();
        }
    }

    /// Forgets a frame that is still queued: its sender no longer wants it sent.
    pub(super) fn unsend(&self, id: u64) {
        self.queue.lock().retain(|queued| queued.id != id);
    }

    /// Waits for the fixed part of the next frame. Checks it; nothing is allocated for what it announces.
    pub(super) async fn receive_prefix(&self) -> Result<Prefix, ReceiveError> {
        let mut bytes = [0; PREFIX_BYTES];
        self.read_exact(&mut bytes).await?;
        Ok(Prefix::from_bytes(&bytes)?)
    }

    /// Waits for the header and the payload that `prefix` announced.
    pub(super) async fn receive_rest(
        &self,
        prefix: Prefix,
    ) -> Result<(Vec<u8>, Bytes), ReceiveError> {
        let mut header = vec![0; prefix.header_len as usize];
        self.read_exact(&mut header).await?;
        let mut payload = Buffer::new(prefix.payload_len as usize);
        self.read_exact(&mut payload).await?;
        Ok((header, payload.freeze()))
    }

    /// Closes the connection, whatever is queued or on its way.
    pub(super) fn close(&self) {
        drop(self.io.lock().take());
        self.closed.send_replace(true);
        let unsent = std::mem::take(&mut *self.queue.lock());
        drop(unsent);
    }

    /// Resolves when the connection is closed, by either end.
    pub(super) async fn closed(&self) {
        let mut closed = self.closed.subscribe();
        let seen = closed.wait_for(|closed| *closed).await;
        drop(seen.expect("the sender lives in `self`"));
    }

    pub(super) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    async fn run_pump(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.pump.0.notified() => self.drive(),
                () = self.closed() => return,
            }
        }
    }

    /// Sends what was just queued, if nothing else is on its way. If somebody is at it, he may have looked into
    /// the queue too early, so the pump has to look again.
    fn send_if_idle(&self) {
        match self.io.try_lock() {
            Some(io) if io.as_ref().is_some_and(|io| io.sending.is_empty()) => {
                self.drive_locked(io);
            }
            _ => self.pump_waker.wake_by_ref(),
        }
    }

    fn drive(&self) {
        self.drive_locked(self.io.lock());
    }

    fn drive_locked(&self, mut guard: parking_lot::MutexGuard<'_, Option<Io>>) {
        let Some(io) = guard.as_mut() else {
            return;
        };
        let mut context = Context::from_waker(&self.pump_waker);
        if let Poll::Ready(Err(error)) = io.poll_send(&self.queue, &mut context) {
            drop(guard);
            log::debug!("a connection broke while sending: {error}");
            self.close();
        }
    }

    async fn read_exact(&self, bytes: &mut [u8]) -> Result<(), ReceiveError> {
        let mut unread = ReadBuf::new(bytes);
        while unread.remaining() > 0 {
            let before = unread.remaining();
            poll_fn(|context| self.poll_read(context, &mut unread)).await?;
            if unread.remaining() == before {
                return Err(ReceiveError::Closed);
            }
        }
        Ok(())
    }

    fn poll_read(
        &self,
        context: &mut Context<'_>,
        unread: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.io.lock().as_mut() {
            Some(io) => Pin::new(&mut io.stream).poll_read(context, unread),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl Io {
    /// Sends until all is sent (ready), the socket is full, or the turn is over (pending; the waker is or
    /// will be woken).
    fn poll_send(
        &mut self,
        queue: &Mutex<VecDeque<Queued>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut turn = TURN_BYTES;
        loop {
            self.refill(queue);
            if self.sending.is_empty() {
                return Pin::new(&mut self.stream).poll_flush(context);
            }
            if turn == 0 {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let sent = ready!(self.poll_write(context))?;
            turn = turn.saturating_sub(sent);
        }
    }

    /// Takes no more frames than the next write can send: what stays in the queue can still be given up.
    fn refill(&mut self, queue: &Mutex<VecDeque<Queued>>) {
        while self.sending.len() < SLICES_MAX && self.sending_bytes < ENCRYPTED_BYTES_MAX {
            let Some(frame) = queue.lock().pop_front() else {
                return;
            };
            self.sending_bytes += frame.parts.iter().map(Bytes::len).sum::<usize>();
            self.sending.extend(frame.parts);
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = slices.len().min(self.sending.len());
        for (slice, part) in slices.iter_mut().zip(&self.sending) {
            *slice = IoSlice::new(part);
        }
        let stream = Pin::new(&mut self.stream);
        let sent = ready!(stream.poll_write_vectored(context, &slices[..count]))?;
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(sent);
        Poll::Ready(Ok(sent))
    }

    fn advance(&mut self, mut sent: usize) {
        self.sending_bytes -= sent;
        while sent > 0 {
            let first = self.sending.front_mut().expect("no more is sent than there is");
            let of_first = sent.min(first.len());
            first.advance(of_first);
            sent -= of_first;
            if first.is_empty() {
                self.sending.pop_front();
            }
        }
    }
}

/// Prefix and header of a frame.
pub(super) fn frame_head(kind: Kind, id: u64, header: &[u8], payload_len: usize) -> Bytes {
    let bounded = |len: usize, max: u32| {
        u32::try_from(len).ok().filter(|len| *len <= max).expect("senders bound their messages")
    };
    let prefix = Prefix {
        kind,
        id,
        header_len: bounded(header.len(), FRAME_HEADER_MAX),
        payload_len: bounded(payload_len, FRAME_PAYLOAD_MAX),
    };
    let mut head = Vec::with_capacity(PREFIX_BYTES + header.len());
    head.extend(prefix.to_bytes());
    head.extend(header);
    head.into()
}
