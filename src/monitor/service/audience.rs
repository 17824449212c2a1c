//! Everybody who is connected to this monitor, whoever leads: they are told who does, and where all monitors are.
//! So whoever has reached one can go on with the others, also with those that there were not yet when it began.
//!
//! All of them speak the cluster's level. When it rises they are shown out; they come again at once, and find out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::peers::Peers;
use crate::crypto::Role;
use crate::env::system::rpc::Caller;
use crate::monitor::namespace::query;
use crate::wire::encode;
use crate::wire::metadata::Notice;

/// How often the cluster's level is looked at.
const LOOK: Duration = Duration::from_secs(1);

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

    /// Shows everybody out who speaks another level than the cluster: a lower one since before the rise, or a higher one
    /// since before this monitor knew the cluster's.
    fn show_out_all_but(&self, level: u32) {
        let state = self.state.lock();
        let is_other =
            |caller: &&Arc<Caller>| caller.identity.role != Role::Monitor && caller.level != level;
        state.callers.values().filter(is_other).for_each(|caller| caller.close());
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

/// Tells everybody where the monitors are, now and whenever that changes; and that the cluster's level has risen.
pub(super) async fn keep_introduced(peers: Arc<Peers>, audience: Arc<Audience>) {
    let mut changes = peers.links.changes();
    loop {
        audience.introduce(peers.links.addresses());
        match query::level(&*peers.store) {
            Ok(level) => audience.show_out_all_but(level),
            Err(error) => log::error!("{error}: the cluster's level cannot be read"),
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK) => {}
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
