//! What members of a cluster know of one another.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::{Epoch, ServerId, VolumeEntry, VolumeId};

/// How a server is doing, as the leader sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerState {
    /// Answers.
    Up,
    /// Has been silent for ~5 s: gets no new data, reads from it are hedged.
    Suspect,
    /// Has been silent for ~15 s.
    Down,
}

/// The place of an entry in the log that all monitors share. Ordered as the entries are.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Encode, Decode, Serialize, Deserialize,
)]
pub struct Position {
    /// The term of the leader that put it there; a term has one leader.
    pub term: u64,
    /// Its number: one more than that of the entry before.
    pub index: u64,
}

/// What a monitor does in the Raft group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MonitorRole {
    /// Orders all commands.
    Leader,
    /// Follows the leader.
    Follower,
    /// Catches up, has no vote yet.
    Learner,
}

/// How much room the disk of a monitor has.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Hash, Default, Encode, Decode, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum DiskRoom {
    /// More than it keeps for when there is none.
    #[default]
    Enough,
    /// Only what it keeps: with that, deleting goes on.
    Reserve,
    /// Nothing: it adds nothing to its log until there is room again.
    Full,
}

impl DiskRoom {
    /// What is to be done about the disk of that monitor, which is called so and is on that machine; `None` when it
    /// has room.
    pub fn advice(self, monitor: &str, machine: &str) -> Option<String> {
        match self {
            Self::Enough => None,
            Self::Reserve => Some(format!(
                "{monitor} has nearly no room on its disk: make room on it, at {machine}"
            )),
            Self::Full => Some(format!(
                "the disk of {monitor} is full, and it takes nothing more: make room on it, at {machine}; it goes on by itself then"
            )),
        }
    }
}

/// Overall health, worst reason first.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Encode, Decode, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Everything is as it should be.
    Ok,
    /// Everything works, but something is at risk.
    Warn,
    /// Something does not work.
    Error,
}

/// A server as a client needs to know it to place shards on it and to read them.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct ServerEntry {
    /// Its id.
    pub id: ServerId,
    /// Its current epoch; acks of older ones are refused at commit.
    pub epoch: Epoch,
    /// `host:port` where it serves.
    pub address: String,
    /// Its failure domain: no two shards of a stripe share one.
    pub domain: String,
    /// How it is doing.
    pub state: ServerState,
    /// Bytes it can still take.
    pub free_bytes: u64,
}

/// Where new data may go. Changes when a server comes, goes, or changes its state, and when the policy of a volume
/// changes.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct PlacementMap {
    /// Rises with every change.
    pub version: u64,
    /// All volumes, by id.
    pub volumes: Vec<VolumeEntry>,
    /// All servers of the cluster, by id.
    pub servers: Vec<ServerEntry>,
}

impl PlacementMap {
    /// What is known of a volume; `None` when it is younger than the map.
    pub fn volume(&self, id: VolumeId) -> Option<&VolumeEntry> {
        let found = self.volumes.binary_search_by_key(&id, |volume| volume.id);
        found.ok().map(|at| &self.volumes[at])
    }
}
