//! Who leads, as this member sees it.

use std::sync::Arc;

use openraft::ServerState;
use openraft::error::Fatal;
use tokio::sync::watch;

use super::transport::Transport;
use super::{Core, Metrics};
use crate::types::{MonitorId, MonitorRole};

/// Who leads, as this monitor sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leadership {
    /// What this monitor does.
    pub role: MonitorRole,
    /// Who leads, and where it is reached; it may be this monitor.
    pub leader: Option<(MonitorId, String)>,
    /// The term. A term has one leader, and one process of it: who leads in another term than before may have
    /// been replaced in between.
    pub term: u64,
    /// Why Raft has stopped, if it has: the process cannot go on.
    pub stopped: Option<String>,
}

impl Leadership {
    fn of(metrics: &Metrics, fault: Option<&String>, transport: &dyn Transport) -> Self {
        let role = match metrics.state {
            ServerState::Leader => MonitorRole::Leader,
            ServerState::Follower | ServerState::Candidate => MonitorRole::Follower,
            ServerState::Learner | ServerState::Shutdown => MonitorRole::Learner,
        };
        let leader = metrics.current_leader.map(MonitorId);
        let why = metrics.running_state.as_ref().err().map(Fatal::to_string);
        Self {
            role,
            leader: leader.map(|id| (id, address(metrics, transport, id))),
            term: metrics.current_term,
            stopped: fault.cloned().or(why),
        }
    }

    /// Whether this monitor leads. Another one may already have been elected: see
    /// [`Raft::confirm_leadership`](super::Raft::confirm_leadership).
    pub fn is_leader(&self) -> bool {
        self.role == MonitorRole::Leader && self.stopped.is_none()
    }
}

/// Where a member is reached: as the transport knows it, or where it was when it became a member.
fn address(metrics: &Metrics, transport: &dyn Transport, id: MonitorId) -> String {
    let known = || {
        let mut nodes = metrics.membership_config.nodes();
        nodes.find(|(node, _)| **node == id.0).map(|(_, peer)| peer.address.clone())
    };
    transport.address(id).or_else(known).unwrap_or_default()
}

/// Follows who leads; openraft's metrics change with every entry, this does not.
pub(super) fn follow(
    core: &Core,
    mut fault: watch::Receiver<Option<String>>,
    transport: Arc<dyn Transport>,
) -> watch::Receiver<Leadership> {
    let mut metrics = core.metrics();
    let first = Leadership::of(&metrics.borrow_and_update(), None, &*transport);
    let (tell, told) = watch::channel(first);
    let following = async move {
        loop {
            let changed = tokio::select! {
                changed = metrics.changed() => changed,
                changed = fault.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
            let now = Leadership::of(
                &metrics.borrow_and_update(),
                fault.borrow_and_update().as_ref(),
                &*transport,
            );
            tell.send_if_modified(|known| {
                let changed = *known != now;
                *known = now;
                changed
            });
        }
    };
    drop(tokio::spawn(following));
    told
}
