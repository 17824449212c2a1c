//! The answer that each request gets exactly once.
//!
//! ```text
//!              ┌── answered by its operation ──▶ the kernel takes it, or has nobody for it
//!   Question ──┼── abandoned: EINTR, since its program dies; the operation's answer finds nobody
//!              └── dropped unanswered (a panic): EIO
//! ```
//!
//! Whoever is first wins ([`Question::claim`]). An answer that makes the kernel owe us something later, the
//! release of a handle, tells by [`Delivery`] whether it got there.

use std::future::Future;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::abi::Body;
use super::device::Device;
use super::encode::{self, Entries, Entry, FoundLock, NodeAttr, Opened, Room};
use super::process::{self, Fate};
use super::watch::Watch;
use crate::types::Errno;

/// Most parts of one message; the system's own limit is 1,024.
const PARTS_MAX: usize = 1000;

/// Whether somebody took an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(in crate::fuse) enum Delivery {
    /// The kernel has it.
    Taken,
    /// Nobody waits for it any more: what was acquired for it is to be given back.
    Abandoned,
}

/// A request that waits for its answer.
#[derive(Debug)]
pub(in crate::fuse) struct Question {
    unique: u64,
    thread: u32,
    /// Where it came from; the answer has to go there.
    device: Arc<Device>,
    watch: Arc<Watch>,
    /// Somebody has answered, or is about to.
    answered: AtomicBool,
    /// Whoever asked dies, and was or is about to be told so.
    abandoned: AtomicBool,
    /// It is watched for interruptions.
    waits: AtomicBool,
    interrupted: Notify,
}

impl Question {
    /// Its number.
    pub(super) fn unique(&self) -> u64 {
        self.unique
    }

    /// Who asked; 0 is nobody whom we see.
    pub(super) fn thread(&self) -> u32 {
        self.thread
    }

    /// Whether its wait could be ended: who asked lives, or ends by itself, and is seen.
    pub(in crate::fuse) fn can_wait(&self) -> bool {
        matches!(process::fate(self.thread), Fate::Lives | Fate::Exits)
    }

    /// Whether the kernel may take it for failed, whatever comes of it.
    pub(in crate::fuse) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    /// From here on it may be that somebody waits for long, and dies meanwhile.
    pub(in crate::fuse) fn begin_to_wait(self: &Arc<Self>) {
        if !self.waits.swap(true, Ordering::AcqRel) {
            self.watch.enter(self);
        }
    }

    /// Wakes an operation that ends when its program gets a signal.
    pub(super) fn tell_interrupted(&self) {
        self.interrupted.notify_one();
    }

    /// Ends the wait of a program that dies.
    pub(super) fn abandon(&self) {
        self.tell_interrupted();
        self.abandoned.store(true, Ordering::Release);
        if self.send(libc::EINTR, &[]) == Delivery::Taken {
            log::debug!("request {} was abandoned: thread {} dies", self.unique, self.thread);
        }
        self.watch.leave(self.unique);
    }

    /// Whether the caller is the one to answer.
    fn claim(&self) -> bool {
        !self.answered.swap(true, Ordering::AcqRel)
    }

    fn send(&self, error: i32, body: &[&[u8]]) -> Delivery {
        if !self.claim() {
            return Delivery::Abandoned;
        }
        match self.try_send(error, body) {
            Ok(()) => Delivery::Taken,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    log::warn!("the kernel did not take an answer: {error}");
                }
                Delivery::Abandoned
            }
        }
    }

    fn try_send(&self, error: i32, body: &[&[u8]]) -> io::Result<()> {
        let body_bytes = body.iter().map(|part| part.len()).sum();
        let header = encode::reply_header(self.unique, error, body_bytes)
            .ok_or_else(|| io::Error::other("it is too long"))?;
        let mut parts = Vec::with_capacity(1 + body.len());
        parts.push(IoSlice::new(header.as_slice()));
        parts.extend(body.iter().map(|part| IoSlice::new(part)));
        self.device.send(&parts)
    }
}

/// The right and the duty to answer a request.
#[derive(Debug)]
pub(in crate::fuse) struct Reply(Arc<Question>);

impl Drop for Reply {
    fn drop(&mut self) {
        let Self(question) = self;
        if !question.answered.load(Ordering::Acquire)
            && question.send(libc::EIO, &[]) == Delivery::Taken
        {
            log::error!("a request met a bug and was answered with an input/output error");
        }
        if question.waits.load(Ordering::Acquire) {
            question.watch.leave(question.unique);
        }
    }
}

impl Reply {
    /// To a request that came through `device`.
    pub(super) fn new(unique: u64, thread: u32, device: &Arc<Device>, watch: &Arc<Watch>) -> Self {
        Self(Arc::new(Question {
            unique,
            thread,
            device: Arc::clone(device),
            watch: Arc::clone(watch),
            answered: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            interrupted: Notify::new(),
        }))
    }

    /// The request.
    pub(in crate::fuse) fn question(&self) -> Arc<Question> {
        Arc::clone(&self.0)
    }

    /// Ends when whoever waits has got a signal, any signal. For what a signal ends even if nobody dies, the wait
    /// for a lock say. To be awaited once.
    pub(in crate::fuse) fn interrupted(&self) -> impl Future<Output = ()> + Send + use<> {
        let question = self.question();
        async move { question.interrupted.notified().await }
    }

    /// It is done, and there is nothing to say.
    pub(in crate::fuse) fn ok(self) {
        self.finish(&[]);
    }

    /// It was refused.
    pub(in crate::fuse) fn error(self, errno: Errno) {
        self.refuse(errno.code());
    }

    /// It was refused with an errno that tells the kernel rather than programs: ENOSYS, "do not ask again".
    pub(in crate::fuse) fn refuse(self, code: i32) {
        // Whoever is not there any more does not mind.
        let _delivery = self.0.send(code, &[]);
    }

    /// An inode that was looked up or made; [`NodeId::NOTHING`](super::NodeId::NOTHING) if there is none of that name,
    /// which the kernel then may believe, too.
    pub(in crate::fuse) fn entry(self, entry: &Entry) {
        self.body(&encode::entry(entry));
    }

    /// Attributes, and how long they may be believed.
    pub(in crate::fuse) fn attr(self, attr: &NodeAttr, valid: Duration) {
        self.body(&encode::attr(attr, valid));
    }

    /// Attributes and the time of birth.
    pub(in crate::fuse) fn statx(self, attr: &NodeAttr, valid: Duration) {
        self.body(&encode::statx(attr, valid));
    }

    /// A file was opened.
    pub(in crate::fuse) fn opened(self, opened: Opened) -> Delivery {
        self.0.send(0, &[encode::opened(opened).as_slice()])
    }

    /// A file was made and opened.
    pub(in crate::fuse) fn created(self, entry: &Entry, opened: Opened) -> Delivery {
        self.0.send(0, &[encode::created(entry, opened).as_slice()])
    }

    /// A lock was taken or given up.
    pub(in crate::fuse) fn locked(self) -> Delivery {
        self.0.send(0, &[])
    }

    /// The lock in the way, if there is one.
    pub(in crate::fuse) fn lock(self, found: Option<FoundLock>) {
        self.body(&encode::lock(found));
    }

    /// Bytes.
    pub(in crate::fuse) fn data(self, bytes: &[u8]) {
        self.finish(&[bytes]);
    }

    /// Bytes that follow one another in several places.
    pub(in crate::fuse) fn parts(self, parts: &[Bytes]) {
        if parts.len() > PARTS_MAX {
            return self.data(&parts.concat());
        }
        let parts: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
        self.finish(&parts);
    }

    /// So many bytes were written.
    pub(in crate::fuse) fn written(self, bytes: u32) {
        self.body(&encode::size(bytes));
    }

    /// Where data or a hole was found.
    pub(in crate::fuse) fn offset(self, offset: u64) {
        self.body(&encode::offset(offset));
    }

    /// Names of a directory.
    pub(in crate::fuse) fn entries(self, entries: &Entries) {
        self.data(entries.as_slice());
    }

    /// Room and use.
    pub(in crate::fuse) fn room(self, room: &Room) {
        self.body(&encode::room(room));
    }

    /// An extended attribute, or its size if whoever asks has `room` for nothing.
    pub(in crate::fuse) fn xattr(self, value: &[u8], room: u32) {
        let size = u32::try_from(value.len()).unwrap_or(u32::MAX);
        if room == 0 {
            self.body(&encode::size(size));
        } else if size > room {
            self.error(Errno::TooSmallBuffer);
        } else {
            self.data(value);
        }
    }

    fn body(self, body: &Body) {
        self.finish(&[body.as_slice()]);
    }

    fn finish(self, body: &[&[u8]]) {
        let _delivery = self.0.send(0, body);
    }
}

#[cfg(test)]
impl Reply {
    /// To a request that nobody has made.
    pub(in crate::fuse) fn to_nobody() -> Self {
        let device = std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
        Self::new(2, 0, &Arc::new(Device::new(device.into())), &Arc::new(Watch::new()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read};

    use super::*;
    use crate::fuse::kernel::abi::Fields;
    use crate::fuse::kernel::encode::Pages;

    /// A reply, and the end from which the kernel would read.
    fn asked() -> (Reply, PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        let device = Arc::new(Device::new(writer.into()));
        (Reply::new(7, 0, &device, &Arc::new(Watch::new())), reader)
    }

    /// The error and the body of everything that was sent, one message.
    fn sent(mut reader: PipeReader) -> (i32, Vec<u8>) {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        let mut fields = Fields(&bytes);
        let (length, error, unique) = (fields.u32(), fields.i32(), fields.u64());
        assert_eq!(length.map(|length| length as usize), Some(bytes.len()), "one message");
        assert_eq!(unique, Some(7));
        (-error.unwrap(), fields.0.to_vec())
    }

    #[test]
    fn parts_become_one_message() {
        let (reply, reader) = asked();
        reply.parts(&[Bytes::from_static(b"ab"), Bytes::new(), Bytes::from_static(b"c")]);
        assert_eq!(sent(reader), (0, b"abc".to_vec()));
        let (reply, reader) = asked();
        reply.parts(&vec![Bytes::from_static(b"x"); 2 * PARTS_MAX]);
        assert_eq!(sent(reader), (0, vec![b'x'; 2 * PARTS_MAX]));
    }

    #[test]
    fn an_answer_that_came_first_is_the_answer() {
        let (reply, reader) = asked();
        let question = reply.question();
        question.begin_to_wait();
        let opened = Opened { handle: 3, pages: Pages::Bypassed };
        assert_eq!(reply.opened(opened), Delivery::Taken);
        question.abandon();
        drop(question);
        assert_eq!(sent(reader), (0, encode::opened(opened).as_slice().to_vec()));
    }

    #[test]
    fn who_comes_after_the_end_is_told_so() {
        let (reply, reader) = asked();
        let question = reply.question();
        question.begin_to_wait();
        question.abandon();
        drop(question);
        assert_eq!(reply.opened(Opened { handle: 3, pages: Pages::Bypassed }), Delivery::Abandoned);
        assert_eq!(sent(reader), (libc::EINTR, vec![]));
    }

    #[test]
    fn what_is_dropped_is_an_error() {
        let (reply, reader) = asked();
        drop(reply);
        assert_eq!(sent(reader), (libc::EIO, vec![]));
    }

    #[test]
    fn an_attribute_that_does_not_fit_tells_its_size_only_if_asked() {
        for (room, expected) in [
            (0, (0, Body::new().u32(3).u32(0).as_slice().to_vec())),
            (2, (libc::ERANGE, vec![])),
            (3, (0, b"abc".to_vec())),
        ] {
            let (reply, reader) = asked();
            reply.xattr(b"abc", room);
            assert_eq!(sent(reader), expected);
        }
    }
}
