//! What a storage server is asked, by clients and by administration.
//!
//! Whoever reads or puts shows tickets first: [`Request::Admit`].

use bincode::{Decode, Encode};

use crate::types::{Epoch, ServerId, ShardHash, ShardIndex, SignedTicket, StripeId};

/// Names one shard of one stripe.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Encode, Decode)]
pub struct ShardId {
    /// The stripe.
    pub stripe: StripeId,
    /// Which of its shards.
    pub index: ShardIndex,
}

/// A call to a server.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Request {
    /// What the monitors allow the caller here: all the tickets that it has for this server, at most `TICKETS_MAX`.
    /// They are good on this connection, in place of those shown before. Answered by [`Response::Admitted`].
    Admit(Vec<SignedTicket>),
    /// Store this shard durably; needs a ticket to write. The payload is the shard's whole image (see `codec::shard`), header
    /// included: the server checks it and writes it as it came. Answered by [`Response::Stored`] once the
    /// shard would survive a power cut.
    Put(ShardId),
    /// Read whole blocks of a shard; needs a ticket to read. Answered by [`Response::Blocks`].
    Get {
        /// The shard.
        shard: ShardId,
        /// First block, counted from the start of the shard's data.
        first: u32,
        /// How many blocks, at least 1, all within the shard.
        count: u32,
    },
    /// Say of each of these shards whether it is there; needs a ticket to read; with `deep`, read and check every block.
    /// Answered by [`Response::Verdicts`] in the same order. At most 4,096 at a time (64 when deep).
    Verify {
        /// The shards.
        shards: Vec<ShardId>,
        /// Whether to read them.
        deep: bool,
    },
    /// Are you there? Answered by [`Response::Alive`].
    Ping,
}

/// What a server answers.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Response {
    /// The tickets are good.
    Admitted,
    /// The shard is durable.
    Stored {
        /// What was stored.
        hash: ShardHash,
        /// The server's epoch at which it was: named in the commit.
        epoch: Epoch,
    },
    /// The blocks are the payload; here are their checksums as the writer made them (CRC32C seeded with
    /// stripe, index and block number: `codec::checksum`). The reader checks them.
    Blocks {
        /// One a block.
        checksums: Vec<u32>,
    },
    /// One a shard asked for.
    Verdicts(Vec<Verdict>),
    /// Here I am.
    Alive {
        /// Who answers.
        server: ServerId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// The call was refused.
    Refused(Refusal),
}

/// Why a server refused a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode, thiserror::Error)]
pub enum Refusal {
    /// There is no such shard here.
    #[error("no such shard on this server")]
    NotFound,
    /// The shard is here, but what the disk gave back is not what was written.
    #[error("the shard is damaged on disk")]
    Damaged,
    /// Another content was stored under that id before.
    #[error("another content is stored under that stripe id")]
    OtherContent,
    /// The image or the range does not make sense.
    #[error("the request is malformed")]
    Malformed,
    /// The disk is full.
    #[error("the server's disk is full")]
    Full,
    /// The disk failed.
    #[error("the server's disk failed")]
    Disk,
    /// The server has not heard of a leader for ~10 s, and only reads; or it is not registered yet, and cannot
    /// tell good tickets from bad ones.
    #[error("the server has lost touch with the monitors and takes no writes")]
    NoLeader,
    /// The caller has shown no ticket for that, or one that the monitors have not made for it: it is to ask them
    /// for new ones.
    #[error("the monitors have not allowed that")]
    NoTicket,
    /// The caller's ticket has expired: it is to ask the monitors for a new one.
    #[error("what the monitors allowed has expired")]
    Expired,
    /// The caller's certificate does not allow it.
    #[error("that certificate does not allow this")]
    Forbidden,
}

/// How a shard is.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Verdict {
    /// It is there (and, when asked, every block agrees with its checksum).
    Present {
        /// What it is.
        hash: ShardHash,
    },
    /// It is not there.
    Missing,
    /// It is there and damaged.
    Damaged {
        /// Blocks whose checksum is wrong; empty when the header or the checksum table is.
        blocks: Vec<u32>,
    },
}
