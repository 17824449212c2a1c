//! What administration commands ask the monitors.
//!
//! The JSON of [`Status`] is an interface: scripts and dashboards read it. `docs/operations.md` describes it.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::metadata::MapSlice;
use super::trust;
use crate::types::{
    ClusterId, DiskRoom, Health, Ino, MonitorId, MonitorRole, PlacementMap, Program, ServerId,
    ServerState, SessionId, SignedTicket, StripeId, StripeRecord, Width,
};

/// A question of an administrator.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Request {
    /// How is everything? Answered by [`Response::Status`].
    Status {
        /// The asker's node (machine id): processes of that node are answered with their pid.
        node: String,
    },
    /// A part of a file's map, whoever holds it. Answered by [`Response::Map`].
    Where {
        /// The file.
        ino: Ino,
        /// First byte.
        offset: u64,
    },
    /// Where are the servers? Answered by [`Response::Placement`].
    Placement,
    /// What shows the servers that the asker may read all shards. Answered by [`Response::Tickets`].
    Tickets,
    /// Live stripes in ascending order. Answered by [`Response::Stripes`].
    Stripes {
        /// Only those above this one.
        after: StripeId,
        /// At most this many, at most 1,024.
        limit: u32,
    },
    /// Check references, link counts and maps of a part of the namespace. Answered by [`Response::Checked`].
    Check {
        /// Where the part before ended; empty at the beginning.
        cursor: Vec<u8>,
    },
    /// Paths of inodes. Answered by [`Response::Paths`].
    Paths(Vec<Ino>),
    /// Let a monitor go. Answered by [`Response::Done`]: it will, and [`Request::Status`] shows when it has.
    RemoveMonitor {
        /// Its name.
        name: String,
        /// Not before another can take its place.
        once_replaced: bool,
    },
    /// About tokens and clients. Answered by [`Response::Trust`].
    Trust(trust::Request),
}

/// The answer to a [`Request`].
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Response {
    /// See [`Request::Status`].
    Status(Box<Status>),
    /// See [`Request::Where`].
    Map(MapSlice),
    /// See [`Request::Placement`].
    Placement(PlacementMap),
    /// See [`Request::Tickets`]: one a server.
    Tickets(Vec<SignedTicket>),
    /// See [`Request::Stripes`].
    Stripes {
        /// The stripes, each with the inodes of files that have bytes in it (at most 16).
        stripes: Vec<(StripeRecord, Vec<Ino>)>,
        /// Whether there are no more after them.
        end: bool,
    },
    /// See [`Request::Check`].
    Checked {
        /// Records looked at.
        records: u64,
        /// What is wrong, a sentence each.
        problems: Vec<String>,
        /// Where to go on; `None` at the end.
        cursor: Option<Vec<u8>>,
    },
    /// By inode asked for: its path from the root, `None` when it has no name.
    Paths(Vec<Option<Vec<u8>>>),
    /// See [`Request::Trust`].
    Trust(trust::Response),
    /// It does not exist.
    NotFound,
    /// It is decided.
    Done,
}

/// How everything is.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct Status {
    /// The cluster's id, 32 hex digits.
    #[serde(with = "cluster_hex")]
    pub cluster: ClusterId,
    /// The worst of what follows.
    pub health: Health,
    /// Why it is not `ok`, a sentence each, worst first.
    pub reasons: Vec<String>,
    /// Width of stripes when every server is up.
    pub width: StatusWidth,
    /// The level of the cluster.
    pub level: u32,
    /// Who is to be upgraded before it rises; `None` when nobody can do more.
    pub rise: Option<RiseStatus>,
    /// The monitors.
    pub monitors: Vec<MonitorStatus>,
    /// The servers.
    pub servers: Vec<ServerStatus>,
    /// The mounts.
    pub clients: Vec<ClientStatus>,
    /// The stripes.
    pub stripes: StripesStatus,
}

/// What the cluster's level could rise to.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct RiseStatus {
    /// The highest level that somebody can do.
    pub to: u32,
    /// Who cannot, a few words each.
    pub waits_for: Vec<String>,
}

/// k and m of the root volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct StatusWidth {
    /// Data shards.
    pub data: u8,
    /// Parity shards.
    pub parity: u8,
}

/// A monitor.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct MonitorStatus {
    /// Its id.
    pub id: MonitorId,
    /// Its name.
    pub name: String,
    /// `host:port`.
    pub address: String,
    /// What it does in the group.
    pub role: MonitorRole,
    /// Whether it answers the leader.
    pub state: ServerState,
    /// The last entry of the log that it has applied, as far as the leader knows.
    pub applied: u64,
    /// How many entries that is behind the leader.
    pub lag: u64,
    /// How much room its disk has, as far as the leader knows.
    pub room: DiskRoom,
    /// Its process, when it runs on the asker's node.
    pub pid: Option<u32>,
    /// What it runs.
    pub program: Program,
}

/// A server.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Its id.
    pub id: ServerId,
    /// Its name.
    pub name: String,
    /// `host:port`.
    pub address: String,
    /// Its failure domain.
    pub domain: String,
    /// How it is doing.
    pub state: ServerState,
    /// Its process, when it runs on the asker's node.
    pub pid: Option<u32>,
    /// What it runs.
    pub program: Program,
    /// Its directory.
    pub dir: String,
    /// Bytes that its shards take.
    pub used_bytes: u64,
    /// Bytes of shards that it could hold.
    pub capacity_bytes: u64,
    /// What its disk says, if it does not take writes (for another reason than being full).
    pub trouble: Option<String>,
}

/// A mount.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct ClientStatus {
    /// Its session.
    pub id: SessionId,
    /// Its name, as in its certificate.
    pub name: String,
    /// Host name.
    pub host: String,
    /// Where it is mounted.
    pub mountpoint: String,
    /// Its process, when it runs on the asker's node.
    pub pid: Option<u32>,
    /// What it runs.
    pub program: Program,
}

/// The stripes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize, Deserialize)]
pub struct StripesStatus {
    /// Live stripes.
    pub total: u64,
    /// Of them, those with a shard that is missing or on a server that is not up, or written with less
    /// parity than the volume asks for.
    pub at_risk: u64,
    /// Shards missing or on servers that are not up.
    pub missing_shards: u64,
}

impl From<Width> for StatusWidth {
    fn from(width: Width) -> Self {
        Self { data: width.data, parity: width.parity }
    }
}

mod cluster_hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::types::ClusterId;

    pub(super) fn serialize<S: Serializer>(id: &ClusterId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ClusterId, D::Error> {
        ClusterId::parse(&String::deserialize(from)?)
            .ok_or_else(|| D::Error::custom("not a cluster id"))
    }
}
