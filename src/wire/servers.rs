//! What servers tell of themselves.
//!
//! ```text
//!   server                                        leader
//!     │ Register (address, domain) ─────────────▶ │ the same id as ever, the next epoch
//!     │ Beat, every second (how full, lost) ────▶ │ what to delete; whether to list, or to register again
//!     │ Inventory, portion by portion ──────────▶ │ what of it nobody needs
//! ```

use bincode::{Decode, Encode};

use super::shards::ShardId;
use crate::types::{Epoch, OpSeq, Program, ServerId, ShardHash, TicketKey};

/// See [`Request::Register`](super::metadata::Request::Register). The server's name is the one in its certificate.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Register {
    /// `host:port` where it serves.
    pub address: String,
    /// Its failure domain.
    pub domain: String,
    /// The node it runs on (machine id).
    pub node: String,
    /// Its process on that node.
    pub pid: u32,
    /// Drawn at the start of its process: what is sent again, because its answer was lost, is known by it and raises
    /// no epoch.
    pub instance: u64,
    /// Its directory on that node.
    pub dir: String,
    /// How full it is.
    pub usage: Usage,
    /// What it runs.
    pub program: Program,
}

/// How full a server is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Usage {
    /// Bytes its shards take on disk.
    pub used_bytes: u64,
    /// Bytes of shards it could hold altogether.
    pub capacity_bytes: u64,
}

/// See [`Request::Register`](super::metadata::Request::Register).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Registered {
    /// The server's id: the same for the same name, for ever.
    pub server: ServerId,
    /// Its epoch from now on.
    pub epoch: Epoch,
    /// With this the monitors sign what they allow others to ask it for: the same for ever.
    pub key: TicketKey,
    /// The metadata state that the monitor is at: a server that has seen a later one deletes nothing.
    pub state: OpSeq,
    /// Addresses (`host:port`) of all monitors.
    pub monitors: Vec<String>,
}

/// See [`Request::Beat`](super::metadata::Request::Beat).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Beat {
    /// Who lives.
    pub server: ServerId,
    /// At which epoch.
    pub epoch: Epoch,
    /// How full it is.
    pub usage: Usage,
    /// What its disk says, if it does not take writes (for another reason than being full).
    pub trouble: Option<String>,
    /// Shards that it was told to delete and that are gone for good.
    pub reaped: Vec<ShardId>,
    /// Shards that it found damaged or gone.
    pub lost: Vec<ShardId>,
}

/// See [`Request::Beat`](super::metadata::Request::Beat).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Beaten {
    /// Shards to delete (again, until they are reported as reaped).
    pub reap: Vec<ShardId>,
    /// Whether the server is to list what it has.
    pub list: bool,
    /// The server must register again: it is not known at that epoch.
    pub register: bool,
    /// The metadata state that the monitor is at.
    pub state: OpSeq,
    /// Addresses (`host:port`) of all monitors.
    pub monitors: Vec<String>,
}

/// See [`Request::Inventory`](super::metadata::Request::Inventory).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Inventory {
    /// Who lists.
    pub server: ServerId,
    /// At which epoch.
    pub epoch: Epoch,
    /// The metadata state ([`Beaten::state`]) that the server knew of before it began to list: what was
    /// committed later may be missing from the list without being lost.
    pub as_of: OpSeq,
    /// Everything it has from here (the end of the portion before) ...
    pub from: ShardId,
    /// ... up to but without this; `None` at the end.
    pub to: Option<ShardId>,
    /// The shards in between, ascending.
    pub shards: Vec<(ShardId, ShardHash)>,
}
