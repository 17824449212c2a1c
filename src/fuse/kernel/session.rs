//! A connection to the kernel from its first word to its last.
//!
//! The first message is FUSE_INIT: version and capabilities, which [`Session::begin`] answers. Then as many
//! threads as there are cores read requests, each from a descriptor of its own and into a buffer of its own,
//! and hand them to a [`Handler`]. It may answer on the spot or keep the [`Reply`] for later, but it must not
//! wait: a thread that waits takes no requests. The connection ends when reading says ENODEV: somebody has
//! unmounted.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use super::abi::{self, Body};
use super::device::{Buffer, Device};
use super::encode::{self, Agreement};
use super::notify::Notifier;
use super::reply::Reply;
use super::request::{Header, Init, Message, NodeId, Request};
use super::watch::Watch;

/// Who answers requests.
pub(in crate::fuse) trait Handler: Sync {
    /// Answers, now or later; a reply that is dropped is an input/output error. Must not wait.
    fn handle(&self, request: Request<'_>, reply: Reply);

    /// The kernel knows an inode no longer. Must not wait.
    fn forget(&self, node: NodeId);
}

/// See the module.
#[derive(Debug)]
pub(in crate::fuse) struct Session {
    device: Arc<Device>,
    watch: Arc<Watch>,
    write_bytes_max: usize,
    /// Capabilities that both sides have ([`abi::init`]).
    agreed: u64,
}

impl Session {
    /// Waits for the kernel's first word on the device of a new mount and answers it with what `agree` makes of it.
    pub(in crate::fuse) fn begin(
        device: OwnedFd,
        agree: impl FnOnce(&Init) -> Agreement,
    ) -> io::Result<Self> {
        let device = Device::new(device);
        let (unique, offer) = first_word(&device)?;
        let agreement = agree(&offer);
        answer(&device, unique, 0, &encode::init(&offer, &agreement))?;
        Ok(Self {
            device: Arc::new(device),
            watch: Arc::new(Watch::new()),
            agreed: agreement.flags,
            write_bytes_max: usize::try_from(agreement.write_bytes_max)
                .map_err(io::Error::other)?,
        })
    }

    /// By which the kernel is told things unasked.
    pub(in crate::fuse) fn notifier(&self) -> Notifier {
        Notifier(Arc::clone(&self.device))
    }

    /// Has `handler` answer requests, on so many threads, until the filesystem is unmounted.
    pub(in crate::fuse) fn run(&self, handler: &impl Handler, threads: usize) -> io::Result<()> {
        let mut devices = vec![Arc::clone(&self.device)];
        for _ in 1..threads {
            devices.push(Arc::new(self.device.another()?));
        }
        thread::scope(|scope| {
            let spawn = |name: String| thread::Builder::new().name(name);
            spawn("fuse-watch".to_owned()).spawn_scoped(scope, || self.watch.run())?;
            let serving: io::Result<Vec<_>> = (0..)
                .zip(&devices)
                .map(|(number, device)| {
                    spawn(format!("fuse-{number}"))
                        .spawn_scoped(scope, || self.serve(handler, device))
                })
                .collect();
            let results = serving.map(|threads| {
                let ended = threads.into_iter().map(thread::ScopedJoinHandle::join);
                ended
                    .map(|end| end.unwrap_or_else(|_| Err(io::Error::other("it met a bug"))))
                    .fold(Ok(()), io::Result::and)
            });
            self.watch.end();
            results?
        })
    }

    /// The life of a FUSE thread.
    fn serve(&self, handler: &impl Handler, device: &Arc<Device>) -> io::Result<()> {
        let mut buffer = Buffer::new(self.write_bytes_max);
        while let Some(message) = device.receive(&mut buffer)? {
            let (header, body) = Header::parse(message).map_err(io::Error::other)?;
            let reply = || Reply::new(header.unique, header.pid, device, &self.watch);
            match Message::parse(&header, body, self.agreed) {
                Ok(Message::Request(request)) => hand_over(handler, request, reply()),
                Ok(Message::Interrupt(unique)) => self.watch.interrupt(unique),
                Ok(Message::Forget(nodes)) => nodes.for_each(|node| handler.forget(node)),
                Ok(Message::Destroy) => reply().ok(),
                Ok(Message::Init(_)) => reply().refuse(libc::EIO),
                Err(malformed) => {
                    log::error!("{malformed}");
                    reply().refuse(libc::EIO);
                }
            }
        }
        Ok(())
    }
}

/// A bug ends its request, not the thread.
fn hand_over(handler: &impl Handler, request: Request<'_>, reply: Reply) {
    // The panic itself was logged, and the reply sent, when it was dropped.
    let _panicked = catch_unwind(AssertUnwindSafe(|| handler.handle(request, reply)));
}

/// The number of the kernel's FUSE_INIT and what it says, once it speaks our version.
fn first_word(device: &Device) -> io::Result<(u64, Init)> {
    let mut buffer = Buffer::new(0);
    loop {
        let message = device.receive(&mut buffer)?;
        let message = message.ok_or_else(|| io::Error::other("it was unmounted at once"))?;
        let (header, body) = Header::parse(message).map_err(io::Error::other)?;
        let unique = header.unique;
        let Message::Init(offer) = Message::parse(&header, body, 0).map_err(io::Error::other)?
        else {
            return Err(io::Error::other("the kernel's first message is not FUSE_INIT"));
        };
        let Init { major, minor, .. } = offer;
        if major > abi::MAJOR {
            answer(device, unique, 0, &encode::init_version_only())?;
        } else if (major, minor) < (abi::MAJOR, abi::MINOR_MIN) {
            answer(device, unique, libc::EPROTO, &Body::new())?;
            let (ours, oldest) = (abi::MAJOR, abi::MINOR_MIN);
            return Err(io::Error::other(format!(
                "the kernel speaks version {major}.{minor} of the protocol and {ours}.{oldest} is needed: \
                 run Linux 4.20 or later"
            )));
        } else {
            return Ok((unique, offer));
        }
    }
}

/// Answers before there are replies.
fn answer(device: &Device, unique: u64, error: i32, body: &Body) -> io::Result<()> {
    let header = encode::reply_header(unique, error, body.as_slice().len());
    let header = header.ok_or_else(|| io::Error::other("it is too long"))?;
    device.send(&[IoSlice::new(header.as_slice()), IoSlice::new(body.as_slice())])
}
