//! The frame: how messages lie on a connection.
//!
//! ```text
//!  0        4      5         6        8          16           20            24
//!  ┌────────┬──────┬─────────┬────────┬──────────┬────────────┬─────────────┬──────────┬───────────┐
//!  │ "OKFR" │ kind │ version │ zero   │ call id  │ header len │ payload len │ header   │ payload   │
//!  └────────┴──────┴─────────┴────────┴──────────┴────────────┴─────────────┴──────────┴───────────┘
//!             u8     u8        u16      u64 LE     u32 LE       u32 LE        encoded    raw bytes
//! ```
//!
//! The lengths come before what they measure, and both are checked against limits before a byte is
//! allocated. Many calls share one connection: an answer carries the id of its call, in any order.

use crate::types::limits::{FRAME_HEADER_MAX, FRAME_PAYLOAD_MAX};

/// Bytes of a frame before its header.
pub const PREFIX_BYTES: usize = 24;
const MAGIC: [u8; 4] = *b"OKFR";
const VERSION: u8 = 1;

/// What a frame is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A call; it will be answered.
    Request,
    /// The answer to the call with the same id.
    Response,
    /// Something the accepting end says by itself; it is not answered. Its id is 0.
    Notice,
}

/// The fixed part of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prefix {
    /// What it is for.
    pub kind: Kind,
    /// Which call it belongs to.
    pub id: u64,
    /// Bytes of encoded header that follow.
    pub header_len: u32,
    /// Bytes of raw payload after the header.
    pub payload_len: u32,
}

/// Bytes on a connection that are no frame: the connection cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// Not one of ours at all.
    #[error("what arrived is no OkapiFS frame: something else is talking to this port")]
    Garbage,
    /// Longer than we take.
    #[error("a frame of {0} bytes was announced, which is more than allowed")]
    TooLong(u32),
}

impl Prefix {
    /// The bytes on the connection.
    pub fn to_bytes(self) -> [u8; PREFIX_BYTES] {
        let mut bytes = [0; PREFIX_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = match self.kind {
            Kind::Request => 1,
            Kind::Response => 2,
            Kind::Notice => 3,
        };
        bytes[5] = VERSION;
        bytes[8..16].copy_from_slice(&self.id.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.header_len.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes
    }

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    ///
    /// [`FrameError`] when the bytes are no frame of ours, or announce more than the limits.
    pub fn from_bytes(bytes: &[u8; PREFIX_BYTES]) -> Result<Self, FrameError> {
        let (magic, rest) = bytes.split_at(4);
        let kind = match rest[0] {
            1 => Kind::Request,
            2 => Kind::Response,
            3 => Kind::Notice,
            _ => return Err(FrameError::Garbage),
        };
        if magic != MAGIC || rest[1] != VERSION || rest[2..4] != [0, 0] {
            return Err(FrameError::Garbage);
        }
        let field =
            |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let id = u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes"));
        let (header_len, payload_len) = (field(16), field(20));
        if header_len > FRAME_HEADER_MAX {
            return Err(FrameError::TooLong(header_len));
        }
        if payload_len > FRAME_PAYLOAD_MAX {
            return Err(FrameError::TooLong(payload_len));
        }
        Ok(Self { kind, id, header_len, payload_len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_reads_back() {
        for kind in [Kind::Request, Kind::Response, Kind::Notice] {
            let prefix =
                Prefix { kind, id: 1 << 40, header_len: 17, payload_len: FRAME_PAYLOAD_MAX };
            assert_eq!(Prefix::from_bytes(&prefix.to_bytes()), Ok(prefix));
        }
    }

    #[test]
    fn garbage_and_too_long_frames_are_refused() {
        assert_eq!(Prefix::from_bytes(b"GET / HTTP/1.1\r\nHost: me"), Err(FrameError::Garbage));
        let long = Prefix { kind: Kind::Request, id: 0, header_len: u32::MAX, payload_len: 0 };
        assert_eq!(Prefix::from_bytes(&long.to_bytes()), Err(FrameError::TooLong(u32::MAX)));
        let long = Prefix { kind: Kind::Request, id: 0, header_len: 0, payload_len: u32::MAX };
        assert_eq!(Prefix::from_bytes(&long.to_bytes()), Err(FrameError::TooLong(u32::MAX)));
    }
}
