//! The kernel's FUSE protocol: requests in, replies out, and what becomes of programs that are killed meanwhile.
//!
//! ```text
//!   /dev/fuse ─▶ device ─▶ request ─▶ session ─▶ Handler (the adapter)
//!       ▲                                │            │
//!       │                          interrupts         ▼
//!       └─────────── encode ◀── watch ──────────▶  reply        notify: unasked
//! ```
//!
//! [`abi`] has the numbers, [`request`] and [`encode`] turn bytes into values and values into bytes, and decide
//! nothing. [`session`] reads; each request that it reads gets a [`reply`], which is sent exactly once.
//!
//! # A program is killed while it waits
//!
//! A program that waits for us sleeps in the kernel until we answer, SIGKILL or not; with the cluster out of
//! reach that could be for ever. What the kernel does do is tell us that a signal came (FUSE_INTERRUPT): of any
//! signal, SIGCHLD like SIGKILL, once a request. What programs expect is that SIGCHLD has no effect on a
//! `read`, and that SIGKILL ends it. So
//!
//! * [`process`] looks whether the program dies; then it is answered EINTR at once, which it does not live to see;
//! * else it goes on to wait, and [`watch`] looks again a few times a second, for the kernel will say nothing
//!   more. It also looks at whatever has waited for a while, since it never says anything of direct reads and
//!   writes that it sends in pieces;
//! * a program that we cannot see (of another process namespace) gets EINTR when it had a signal and still waits
//!   most of a second later: a compromise between the two;
//! * waits that POSIX lets any signal end (for locks) end at [`reply::Reply::interrupted`].
//!
//! The operation goes on in the background, as it would on a server that got the request before its client
//! died: a file may be created by a program that is dead. Its answer is thrown away, and a handle that came
//! with it is closed: the kernel does not know of it and will never release it.
//!
//! A process that ends closes its files on its way out, and *that* wait no signal can end: the kernel takes none for
//! it any more. Where FLUSH waits for the cluster (`sync_on_close`), [`process`] tells those who end because they were
//! killed, who do not wait, from those who end by themselves, who wait for a few seconds. Elsewhere it must not wait.

mod abi;
mod device;
mod encode;
mod interrupts;
mod notify;
mod process;
mod reply;
mod request;
mod session;
mod watch;

pub(super) use abi::init as capability;
pub(super) use encode::{Agreement, Entries, Entry, FoundLock, NodeAttr, Opened, Pages, Room};
pub(super) use notify::Notifier;
pub(super) use reply::{Delivery, Question, Reply};
pub(super) use request::{
    CopyFileRange, Init, Lock, NodeId, Op, Request, SetAttr, TimeOrNow, Write,
};
pub(super) use session::{Handler, Session};
