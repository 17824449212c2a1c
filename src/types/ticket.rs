//! The permission to ask a storage server for something, as the monitors write it. `crypto::ticket` says how it
//! is signed.

use std::fmt;
use std::time::Duration;

use bincode::{Decode, Encode};

use super::{ServerId, SessionId, StripeId, Timestamp};

/// For how long a ticket is good: a client that is to be kept out is out after that.
pub const TICKET_LIFE: Duration = Duration::from_secs(60);

/// Most tickets that anybody has for one server.
pub const TICKETS_MAX: usize = 256;

/// The secret between the monitors and one storage server.
#[derive(Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct TicketKey(pub [u8; 32]);

/// What is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Encode, Decode)]
pub enum Operation {
    /// Read and verify shards.
    Read,
    /// Put shards.
    Write,
}

/// Says that its holder may do something with some stripes on one server for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Encode, Decode)]
pub struct Ticket {
    /// Where.
    pub server: ServerId,
    /// The session that it was given to; 0 when it was none's (an administrator's, say).
    pub session: SessionId,
    /// What.
    pub operation: Operation,
    /// With the stripes from this one ...
    pub from: StripeId,
    /// ... up to but without this one.
    pub to: StripeId,
    /// Until when, by the monitors' clock.
    pub expires: Timestamp,
}

/// A ticket and the proof that the monitors wrote it, for one holder.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Encode, Decode)]
pub struct SignedTicket {
    /// What it says.
    pub ticket: Ticket,
    /// HMAC-SHA256 with the server's key.
    pub mac: [u8; 32],
}

impl Ticket {
    /// Whether it is about this.
    pub fn covers(&self, operation: Operation, stripe: StripeId) -> bool {
        self.operation == operation && (self.from..self.to).contains(&stripe)
    }

    /// Whether it is good no more, for somebody whose clock may be off by `slack`.
    pub fn has_expired(&self, now: Timestamp, slack: Duration) -> bool {
        let slack = i64::try_from(slack.as_secs()).unwrap_or(i64::MAX);
        now.seconds > self.expires.seconds.saturating_add(slack)
    }
}

/// Never the secret.
impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKey")
    }
}
