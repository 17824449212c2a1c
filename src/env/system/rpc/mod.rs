//! Calls between processes.
//!
//! # The life of a call
//!
//! A client writes 1 MiB: half of it, a shard, has to be on a storage server soon. [`Connection::call`] takes
//! an encoded header and the shard as a list of [`Bytes`](bytes::Bytes), notes whose answer it waits for, and
//! queues a frame. Nothing of the shard is copied until TLS encrypts it, 16 KiB a record, many records a
//! system call. A small call does not even wait for another task: when the queue is empty, the caller's own
//! thread encrypts and sends it. At the other end a task per connection decrypts straight into page-aligned,
//! recycled memory ([`payload`]), hands the call to a task of its own, and goes on reading; the server can
//! write that memory to its disk as it is. Answers go back in the order in which they are ready.
//!
//! # What may go wrong
//!
//! * *A peer dies silently.* The kernel gives a connection up when sent bytes stay unacknowledged for ten
//!   seconds, probes of an idle one do, or the peer reads nothing for so long. All calls of the connection then
//!   fail with [`CallError::Closed`] at once. Who would rather turn to somebody else sooner looks out for
//!   [`Connection::fell_silent`].
//! * *A peer hangs.* Its calls fail with [`CallError::Timeout`], which covers sending too; a call that was
//!   given up while it was queued is never sent.
//! * *A peer floods us.* A connection may have [`IN_FLIGHT_BYTES`] of calls in work; then we stop reading, and
//!   TCP makes the peer wait. All lengths are checked before memory is taken for them.
//! * *Something else talks to the port.* TLS and the hello must be done within [`HELLO_TIMEOUT`]; garbage
//!   costs one line in the log and the connection.
//!
//! Every connection is TLS 1.3 with certificates on both ends (but for the guests of a monitor), then one [`Hello`](crate::wire::hello::Hello)
//! and one [`Welcome`](crate::wire::hello::Welcome), then calls from the end that connected, and answers and
//! notices from the end that accepted.

mod complaints;
mod connection;
mod errors;
mod hello;
mod link;
mod listener;
pub mod payload;
mod silence;
mod socket;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use complaints::Complaints;
pub use connection::Connection;
pub use errors::{BindError, CallError, ConnectError};
pub use listener::{Answer, Caller, Guest, Listener, Service};

/// How long an accepted connection may take for TLS and the hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How many connections a listener holds at a time.
pub const CONNECTIONS_MAX: usize = 1024;
/// How many of them may be guests, who have no valid certificate.
pub const GUESTS_MAX: usize = 32;
/// How long a guest may stay.
pub const GUEST_TIME: Duration = Duration::from_secs(20);
/// How long a guest's call may be, in bytes: it asks for a few certificates.
pub const GUEST_CALL_BYTES_MAX: u32 = 16 << 10;
/// How much of calls that are not yet answered a connection takes in before it stops reading, in bytes.
pub const IN_FLIGHT_BYTES: usize = 64 << 20;
/// What a call counts for at least against [`IN_FLIGHT_BYTES`]: it allows 4,096 small calls, far more than a
/// session has slots, so that calls which wait for one another cannot use up the connection.
pub const CALL_BYTES_MIN: usize = 16 << 10;

/// What a call with so many bytes of header and payload counts for against [`IN_FLIGHT_BYTES`].
pub fn call_cost(bytes: u64) -> u32 {
    u32::try_from(bytes.max(CALL_BYTES_MIN as u64)).expect("frames are limited")
}
