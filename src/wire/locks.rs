//! Waiting for locks.
//!
//! Taking a lock is a change like any other ([`Op::Lock`](super::metadata::Op::Lock)): it is done at once or
//! refused with [`Errno::WouldBlock`]. Waiting is not part of the replicated state, and no call stays open for
//! it:
//!
//! ```text
//!   client                                              leader
//!     │ Op::Lock(range, ticket 7) ──────────────────────▶ │ WouldBlock
//!     │ AwaitLocks [7] ─────────────────────────────────▶ │ Waiting: 7 is in the queue of that file
//!     │                                                   │ … whoever held it unlocks …
//!     │ ◀──────────────────────────── notice LocksFree [7] │ 7 is kept a place for a moment
//!     │ Op::Lock(range, ticket 7) ──────────────────────▶ │ done, 7 leaves the queue
//! ```
//!
//! The client says what it waits for again whenever it has attached to a leader, and now and then to be safe: a
//! queue may be lost at any moment. [`ForgetLocks`](super::metadata::Request::ForgetLocks) takes a ticket out of
//! it again.

use bincode::{Decode, Encode};

use crate::types::{Errno, Ino, LockRequest};

/// Most waits in one request.
pub const WAITS_MAX: usize = 512;

/// Take or give up a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct SetLock {
    /// What is wanted.
    pub request: LockRequest,
    /// The caller's number for its wait; `None` when it does not want to wait.
    pub ticket: Option<u64>,
}

/// Somebody waits for a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct LockWait {
    /// The caller's number for it, never used twice in a session.
    pub ticket: u64,
    /// What is wanted.
    pub request: LockRequest,
}

/// What came of announcing a wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Awaited {
    /// The ticket is in the queue; a notice follows.
    Waiting,
    /// Try now.
    Free,
    /// There is nothing to wait for.
    Refused(Errno),
}

/// A ticket that nobody waits with any more, and the file that it was for.
pub type Forgotten = (Ino, u64);
