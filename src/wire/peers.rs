//! What monitors say to one another.
//!
//! Clients and servers may ask any monitor; only the leader can answer. So a monitor that does not lead passes
//! a call on, whole, over a connection of its own to the leader, and passes back what the leader answers and,
//! unasked, what it has to tell that caller. To the leader each caller behind another monitor is an **origin**:
//! a number that the other monitor chose, never twice on one connection. Identities are believed: whoever
//! connects as a monitor has proved to be one, and monitors check the certificates of their own callers.

use bincode::{Decode, Encode};

use super::metadata::Refusal;

/// A call of one monitor to another.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Request {
    /// A call of somebody else, an encoded [`super::metadata::Request`], is the payload of this frame. Answered
    /// by [`Response::Forwarded`].
    Forward(Forward),
    /// A call of somebody without a valid certificate, an encoded [`super::metadata::Request`], is the payload of
    /// this frame. It has no origin: nothing is kept about guests. Answered by [`Response::Forwarded`].
    ForwardGuest {
        /// Who it was until its certificate expired, as in [`Forward::identity`]; `None` if it has none.
        identity: Option<String>,
    },
    /// The connection of that origin is gone; the number is not used again. Answered by [`Response::Done`].
    ForwardClosed {
        /// Which.
        origin: u64,
    },
}

/// Whose call is passed on.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Forward {
    /// The caller's number, unique on this connection.
    pub origin: u64,
    /// Who it is, by its certificate: `<name>.<role>.<cluster>.okapifs`.
    pub identity: String,
}

/// The answer to a [`Request`].
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Response {
    /// The answer, an encoded [`super::metadata::Response`], is the payload of this frame.
    Forwarded,
    /// Nothing more to say.
    Done,
    /// The call was refused as a whole.
    Refused(Refusal),
}

/// What a leader has to tell a caller of the monitor at the other end.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Notice {
    /// Which caller.
    pub origin: u64,
    /// An encoded [`super::metadata::Notice`], to be passed on as it is.
    pub notice: Vec<u8>,
}
