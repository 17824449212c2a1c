//! What openraft's types are here, and how they become bytes.
//!
//! A command travels through openraft as bytes that are encoded once, by the proposer, and decoded once, by
//! apply. The body of a log entry is one byte that says what it is, and:
//!
//! ```text
//! 0  nothing: a new leader's first entry
//! 1  an encoded Command
//! 2  an encoded Members
//! ```

#![expect(clippy::result_large_err, reason = "the error is openraft's")]

use std::collections::{BTreeMap, BTreeSet};

use bincode::{Decode, Encode};
use bytes::Bytes;
use openraft::{
    AnyError, CommittedLeaderId, EntryPayload, LeaderId, LogId, Membership, StorageIOError,
    StoredMembership,
};

use super::log::{Position, Record};
use super::snapshot::StateImage;
use crate::monitor::namespace::command::{Command, Outcome};
use crate::wire::peers::{self, NOBODY, Vote};
use crate::wire::{self, DecodeError};

openraft::declare_raft_types!(
    /// OkapiFS in the words of openraft.
    pub(super) TypeConfig:
        D = Proposal,
        R = Vec<Outcome>,
        NodeId = u64,
        Node = Peer,
        SnapshotData = StateImage,
);

pub(super) type Entry = openraft::Entry<TypeConfig>;
pub(super) type StorageError = openraft::StorageError<u64>;

const BLANK: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERS: u8 = 2;

/// A member of the group.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Peer {
    /// `host:port`.
    pub(super) address: String,
}

/// A command on its way through the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Proposal(Bytes);

impl Proposal {
    /// Encodes a command.
    pub(super) fn new(command: &Command) -> Self {
        Self([&[COMMAND], wire::encode(command).as_slice()].concat().into())
    }

    /// The command.
    pub(super) fn command(&self) -> Result<Command, DecodeError> {
        wire::decode(&self.0[1..])
    }
}

/// Who is a member, as bytes.
#[derive(Debug, Encode, Decode)]
pub(super) struct Members {
    /// Sets of voters; two while the group changes.
    configs: Vec<Vec<u64>>,
    /// All members and their addresses.
    nodes: Vec<(u64, String)>,
}

impl Members {
    /// Openraft's membership.
    pub(super) fn of(membership: &Membership<u64, Peer>) -> Self {
        let configs = membership.get_joint_config().iter();
        Self {
            configs: configs.map(|set| set.iter().copied().collect()).collect(),
            nodes: membership.nodes().map(|(id, peer)| (*id, peer.address.clone())).collect(),
        }
    }

    /// Openraft's membership.
    pub(super) fn membership(self) -> Membership<u64, Peer> {
        let configs: Vec<BTreeSet<u64>> =
            self.configs.into_iter().map(|set| set.into_iter().collect()).collect();
        let nodes: BTreeMap<u64, Peer> =
            self.nodes.into_iter().map(|(id, address)| (id, Peer { address })).collect();
        Membership::new(configs, nodes)
    }
}

/// The membership that the state has, as bytes in the store.
#[derive(Debug, Encode, Decode)]
pub(super) struct StoredMembers {
    at: Option<Position>,
    members: Members,
}

impl StoredMembers {
    /// Of openraft's membership.
    pub(super) fn of(stored: &StoredMembership<u64, Peer>) -> Self {
        Self { at: stored.log_id().map(position), members: Members::of(stored.membership()) }
    }

    /// Openraft's membership.
    pub(super) fn stored(self) -> StoredMembership<u64, Peer> {
        let at = self.at.map(log_id);
        StoredMembership::new(at, self.members.membership())
    }
}

/// The record of an entry.
pub(super) fn record(entry: Entry) -> Record {
    let body = match entry.payload {
        EntryPayload::Blank => Bytes::from_static(&[BLANK]),
        EntryPayload::Normal(proposal) => proposal.0,
        EntryPayload::Membership(membership) => {
            let members = wire::encode(&Members::of(&membership));
            [&[MEMBERS], members.as_slice()].concat().into()
        }
    };
    Record { position: position(entry.log_id), body }
}

/// The entry of a record.
pub(super) fn entry(record: Record) -> Result<Entry, StorageError> {
    let payload = match record.body.first() {
        Some(&BLANK) => EntryPayload::Blank,
        Some(&COMMAND) => EntryPayload::Normal(Proposal(record.body)),
        Some(&MEMBERS) => {
            let members: Members = wire::decode(&record.body[1..])
                .map_err(|error| unreadable(record.position.index, error))?;
            EntryPayload::Membership(members.membership())
        }
        _ => {
            return Err(unreadable(record.position.index, "an entry of unknown kind"));
        }
    };
    Ok(Entry { log_id: log_id(record.position), payload })
}

/// An entry as it is sent.
pub(super) fn sent_entry(entry: Entry) -> peers::Entry {
    let Record { position, body } = record(entry);
    peers::Entry { position, body: body.to_vec() }
}

/// An entry as it was sent.
pub(super) fn received_entry(sent: peers::Entry) -> Result<Entry, StorageError> {
    entry(Record { position: sent.position, body: sent.body.into() })
}

fn unreadable(index: u64, error: impl ToString) -> StorageError {
    StorageIOError::read_log_at_index(index, AnyError::error(error)).into()
}

/// Openraft's log id as a position.
pub(super) fn position(id: LogId<u64>) -> Position {
    Position { term: id.leader_id.term, index: id.index }
}

/// A position as openraft's log id.
pub(super) fn log_id(at: Position) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(at.term, NOBODY), at.index)
}

/// Openraft's vote as bytes know it.
pub(super) fn vote(vote: &openraft::Vote<u64>) -> Vote {
    let leader = vote.leader_id.voted_for.unwrap_or(NOBODY);
    Vote { term: vote.leader_id.term, leader, committed: vote.committed }
}

/// A vote as openraft knows it.
pub(super) fn openraft_vote(vote: Vote) -> openraft::Vote<u64> {
    let voted_for = (vote.leader != NOBODY).then_some(vote.leader);
    let leader_id = LeaderId { term: vote.term, voted_for };
    openraft::Vote { leader_id, committed: vote.committed }
}
