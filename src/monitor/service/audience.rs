//! Everybody who is connected to this monitor, whoever leads: they are told who does.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::crypto::Role;
use crate::env::system::rpc::Caller;
use crate::wire::encode;
use crate::wire::metadata::Notice;

/// See the module.
#[derive(Default)]
pub(super) struct Audience {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    callers: HashMap<u64, Arc<Caller>>,
    leader: Option<Leader>,
}

/// Who leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Leader {
    /// In which term.
    pub(super) term: u64,
    /// `host:port`.
    pub(super) address: String,
}

impl Audience {
    /// Somebody has connected.
    pub(super) fn joined(&self, caller: &Arc<Caller>) {
        let mut state = self.state.lock();
        if let Some(leader) = &state.leader {
            tell(caller, leader);
        }
        state.callers.insert(caller.id, Arc::clone(caller));
    }

    /// Somebody is gone.
    pub(super) fn left(&self, caller: &Caller) {
        self.state.lock().callers.remove(&caller.id);
    }

    /// The connection with that number, if it is there still.
    pub(super) fn caller(&self, id: u64) -> Option<Arc<Caller>> {
        self.state.lock().callers.get(&id).map(Arc::clone)
    }

    /// Tells everybody who leads, if that is news.
    pub(super) fn announce(&self, leader: Leader) {
        let mut state = self.state.lock();
        let is_news = state.leader.as_ref().is_none_or(|known| {
            known.term < leader.term || (known.term == leader.term && *known != leader)
        });
        if is_news {
            state.callers.values().for_each(|caller| tell(caller, &leader));
            state.leader = Some(leader);
        }
    }
}

/// Monitors know by themselves who leads.
fn tell(caller: &Caller, leader: &Leader) {
    if caller.identity.role != Role::Monitor {
        let Leader { term, address } = leader.clone();
        caller.notify(encode(&Notice::Leader { term, address }));
    }
}
