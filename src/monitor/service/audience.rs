//! Everybody who is connected to this monitor, whoever leads: they are told who does, and where all monitors are.
//! So whoever has reached one can go on with the others, also with those that there were not yet when it began.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::links::Links;
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
    /// `host:port` of all monitors; empty while that is not known.
    monitors: Vec<String>,
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
        if !state.monitors.is_empty() {
            tell(caller, &Notice::Monitors(state.monitors.clone()));
        }
        if let Some(leader) = &state.leader {
            tell(caller, &leader.notice());
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
            state.tell_all(&leader.notice());
            state.leader = Some(leader);
        }
    }

    /// Tells everybody where the monitors are, if that is news.
    pub(super) fn introduce(&self, monitors: Vec<String>) {
        let mut state = self.state.lock();
        if state.monitors != monitors {
            state.tell_all(&Notice::Monitors(monitors.clone()));
            state.monitors = monitors;
        }
    }
}

/// Tells everybody where the monitors are, now and whenever that changes.
pub(super) async fn keep_introduced(links: Links, audience: Arc<Audience>) {
    let mut changes = links.changes();
    loop {
        audience.introduce(links.addresses());
        if changes.changed().await.is_err() {
            return;
        }
    }
}

impl State {
    fn tell_all(&self, notice: &Notice) {
        self.callers.values().for_each(|caller| tell(caller, notice));
    }
}

impl Leader {
    fn notice(&self) -> Notice {
        Notice::Leader { term: self.term, address: self.address.clone() }
    }
}

/// Monitors know all of it by themselves.
fn tell(caller: &Caller, notice: &Notice) {
    if caller.identity.role != Role::Monitor {
        caller.notify(encode(notice));
    }
}
