//! Who is a member in fact: what the log says, and how a leader changes it.
//!
//! A new member is a learner first: it gets every entry and counts for nothing. Voters change through a joint
//! configuration, in which both majorities are needed, so that there is never a moment with two.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::error::{ClientWriteError, RaftError as CoreError};

use super::Raft;
use super::pulse::Heard;
use super::types::Peer;
use crate::types::{DiskRoom, MonitorId};

/// How long one change may take before it is looked at again.
const CHANGE: Duration = Duration::from_secs(5);
/// A member that lacks at most so many entries of the log has caught up: what one message carries. (In bytes that is
/// a few at most; and whether it is there at all, and not since when, the plan of the members asks.)
const CAUGHT_UP: u64 = super::MESSAGE_ENTRIES;

/// The members, as a leader sees them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Group {
    /// The sets of voters; two while they change.
    pub voters: Vec<BTreeSet<MonitorId>>,
    /// Members that are no voters.
    pub learners: BTreeSet<MonitorId>,
    /// Members whose log is nearly the leader's.
    pub caught_up: BTreeSet<MonitorId>,
    /// What was last heard of the other members.
    pub heard: BTreeMap<MonitorId, Heard>,
    /// The last entry that this member has applied.
    pub applied: u64,
    /// How much room this member's disk has.
    pub room: DiskRoom,
}

/// A change of the members was not made, or not yet: another is under way, or no majority agrees.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the group of monitors was not changed: {0}")]
pub struct ChangeError(String);

impl Raft {
    /// The members. What is said of other members' progress is empty unless this one leads.
    pub fn group(&self) -> Group {
        let metrics = self.inner.metrics.borrow();
        let membership = metrics.membership_config.membership();
        let last = metrics.last_log_index.unwrap_or(0);
        let replicated = metrics.replication.iter().flatten();
        let caught_up =
            replicated.filter(|(_, at)| at.is_some_and(|at| at.index + CAUGHT_UP >= last));
        let set = |ids: &BTreeSet<u64>| ids.iter().copied().map(MonitorId).collect();
        Group {
            voters: membership.get_joint_config().iter().map(set).collect(),
            learners: membership.learner_ids().map(MonitorId).collect(),
            caught_up: caught_up.map(|(id, _)| MonitorId(*id)).collect(),
            heard: self.inner.heart.heard(),
            applied: metrics.last_applied.map_or(0, |id| id.index),
            room: self.inner.heart.room(),
        }
    }

    /// Makes a monitor a member without a vote.
    ///
    /// # Errors
    ///
    /// [`ChangeError`]; ask again later.
    pub async fn add_learner(&self, id: MonitorId, address: &str) -> Result<(), ChangeError> {
        let peer = Peer { address: address.to_owned() };
        self.change(ChangeMembers::AddNodes(BTreeMap::from([(id.0, peer)]))).await
    }

    /// Makes these members the voters; those that are voters now and not among them become learners.
    ///
    /// # Errors
    ///
    /// [`ChangeError`]; ask again later. The group may be left in between: the same call ends it.
    pub async fn set_voters(&self, voters: &BTreeSet<MonitorId>) -> Result<(), ChangeError> {
        self.change(ChangeMembers::ReplaceAllVoters(voters.iter().map(|id| id.0).collect())).await
    }

    /// Lets a member go that is no voter.
    ///
    /// # Errors
    ///
    /// [`ChangeError`]; ask again later.
    pub async fn remove_learner(&self, id: MonitorId) -> Result<(), ChangeError> {
        self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id.0]))).await
    }

    async fn change(&self, change: ChangeMembers<u64, Peer>) -> Result<(), ChangeError> {
        let changed = self.inner.core.change_membership(change, true);
        match tokio::time::timeout(CHANGE, changed).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(CoreError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                Err(ChangeError("this monitor leads no more".into()))
            }
            Ok(Err(error)) => Err(ChangeError(error.to_string())),
            Err(_) => Err(ChangeError(format!("no majority agreed within {CHANGE:?}"))),
        }
    }
}
