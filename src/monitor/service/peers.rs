//! What siblings ask this monitor, and what only a leader can do for them.
//!
//! A monitor is known by the name in its certificate. A message of Raft is taken only from the member of that
//! name, and only when it means this one: an address may belong to another member by now. One that was removed
//! is told so, and ends.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use super::Monitor;
use super::links::Links;
use crate::crypto::Role;
use crate::env::clock::Clock;
use crate::env::system::rpc::{Answer, Caller, Guest, Service};
use crate::env::system::{credentials, node};
use crate::monitor::namespace::command::{Action, Command, Outcome};
use crate::monitor::namespace::query;
use crate::monitor::namespace::records::{self, MonitorState};
use crate::monitor::raft::{ProposeError, Raft};
use crate::monitor::store::Store;
use crate::types::{Levels, MonitorId, Program};
use crate::wire::metadata::{self, Refusal};
use crate::wire::peers::{self, Profile, Request, Response};
use crate::wire::{decode, encode};

/// How long a monitor is given to say whether it runs.
const PROBE: Duration = Duration::from_secs(1);

/// This monitor as its siblings see it.
pub(super) struct Peers {
    pub(super) links: Links,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    /// Its data directory.
    pub(super) dir: PathBuf,
    /// The name in its certificate.
    pub(super) name: String,
    /// What it says of itself.
    pub(super) profile: Profile,
    /// Drawn at its start.
    pub(super) instance: u128,
    /// Its id and its Raft, once it is a member.
    pub(super) member: OnceLock<(MonitorId, Raft)>,
}

impl Peers {
    /// Answers a sibling.
    pub(super) async fn answer(&self, name: &str, request: Request) -> Response {
        match request {
            Request::Raft { from, to, ask } => match self.check_sender(name, from, to) {
                Ok(raft) => Response::Raft(raft.answer(from, ask).await),
                Err(response) => response,
            },
            Request::Who => Response::Who {
                id: self.member.get().map(|(id, _)| *id),
                instance: self.instance,
                leader: self.leader(),
            },
            Request::Join(profile) => {
                // While a cluster is being founded there is nothing to join: its founder comes first.
                match query::cluster(&*self.store) {
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return self.not_leader(),
                }
                let action = Action::AddMonitor { name: name.to_owned(), profile };
                self.lead(name, action).await
            }
            Request::Introduce { id, instance, profile } => {
                if let Some(refused) = self.check_single(id, instance, &profile).await {
                    return refused;
                }
                if self.links.record(id).is_some_and(|record| record.name == name) {
                    self.links.saw(id, &profile.address);
                }
                if self.knows(id, name, &profile) {
                    return Response::Introduced;
                }
                let action = Action::IntroduceMonitor { id, name: name.to_owned(), profile };
                self.lead(name, action).await
            }
            // Only somebody who has a state can lead, and only a member speaks for others (`Door`).
            Request::Forward(_) | Request::ForwardClosed { .. } | Request::ForwardGuest { .. } => {
                let later = "this monitor does not serve yet: ask another".to_owned();
                self.removed(name).unwrap_or(Response::Unable(later))
            }
        }
    }

    /// Puts an action into the log, if this monitor leads.
    pub(super) async fn propose(&self, action: Action) -> Result<Outcome, ProposeError> {
        let mut outcomes = self.propose_all(vec![action]).await?;
        Ok(outcomes.pop().expect("one outcome an action"))
    }

    /// Puts actions into the log as one: nothing comes between them.
    pub(super) async fn propose_all(
        &self,
        actions: Vec<Action>,
    ) -> Result<Vec<Outcome>, ProposeError> {
        let (_, raft) = self.member.get().ok_or(ProposeError::NotLeader { leader: None })?;
        let term = raft.leadership().borrow().term;
        let outcomes = raft.propose(&Command { term, time: self.clock.now(), actions }).await?;
        // It was elected again in between: none of it was done.
        if outcomes.contains(&Outcome::Superseded) {
            return Err(ProposeError::NotLeader { leader: None });
        }
        Ok(outcomes)
    }

    /// Says where this monitor is, as the leader that it is.
    pub(super) async fn introduce_self(&self) -> Result<Outcome, ProposeError> {
        let introduction = self.introduction().ok_or(ProposeError::NotLeader { leader: None })?;
        self.propose(introduction).await
    }

    /// What a leader puts into the log to say where it is; nothing before it is a member.
    pub(super) fn introduction(&self) -> Option<Action> {
        let (id, _) = self.member.get()?;
        let (name, profile) = (self.name.clone(), self.profile.clone());
        Some(Action::IntroduceMonitor { id: *id, name, profile })
    }

    /// Who leads, as far as this monitor knows.
    pub(super) fn leader(&self) -> Option<(MonitorId, String)> {
        let (_, raft) = self.member.get()?;
        raft.leadership().borrow().leader.clone()
    }

    /// Looks up again where everybody is.
    pub(super) fn refresh(&self) {
        match query::monitors(&*self.store) {
            Ok(monitors) => self.links.learn(monitors),
            Err(error) => log::error!("{error}: the addresses of the monitors cannot be read"),
        }
    }

    /// What only a leader can do.
    async fn lead(&self, name: &str, action: Action) -> Response {
        match self.propose(action).await {
            Ok(Outcome::Monitor(id)) => {
                self.refresh();
                match credentials::load_seal_key(&self.dir) {
                    Ok(key) => Response::Joined { id, seal_key: key.map(|key| key.to_hex()) },
                    Err(error) => Response::Refused(error.to_string()),
                }
            }
            Ok(Outcome::Refused(why)) => {
                self.refresh();
                self.removed(name).unwrap_or(Response::Refused(why))
            }
            Ok(_) => {
                self.refresh();
                Response::Introduced
            }
            Err(_) => self.not_leader(),
        }
    }

    /// Ask another, or later. Who was deposed this moment knows no better than to name nobody.
    fn not_leader(&self) -> Response {
        let leads = self.leads();
        let here = self.member.get().map(|(id, _)| *id);
        Response::NotLeader { here, leader: self.leader().filter(|_| !leads) }
    }

    /// Whether this monitor leads, and there is nothing to write down.
    fn knows(&self, id: MonitorId, name: &str, profile: &Profile) -> bool {
        let is_settled = |record: records::Monitor| {
            record.name == name
                && record.profile == *profile
                && !matches!(record.state, MonitorState::Joining | MonitorState::Gone)
        };
        self.leads() && self.links.record(id).is_some_and(is_settled)
    }

    fn leads(&self) -> bool {
        self.member.get().is_some_and(|(_, raft)| raft.leadership().borrow().is_leader())
    }

    fn check_sender(&self, name: &str, from: MonitorId, to: MonitorId) -> Result<&Raft, Response> {
        let unable = |why: String| Response::Raft(peers::Answer::Unable(why));
        if let Some(removed) = self.removed(name) {
            return Err(removed);
        }
        if self.links.record(from).is_some_and(|record| record.name != name) {
            return Err(unable(format!("monitor {from} is not {name}")));
        }
        match self.member.get() {
            Some((id, raft)) if *id == to => Ok(raft),
            Some((id, _)) => Err(unable(format!("monitor {to} is not here, but {id}"))),
            None => Err(unable(format!("monitor {to} has not begun"))),
        }
    }

    /// What the monitor of that name is told, if it is gone for ever.
    fn removed(&self, name: &str) -> Option<Response> {
        self.links.gone(name).map(|(id, by)| Response::Removed { id, by })
    }

    /// The same member must not run twice, from a copied directory say: is the one that is known alive, and
    /// another process than the one that introduces itself?
    async fn check_single(
        &self,
        id: MonitorId,
        instance: u128,
        profile: &Profile,
    ) -> Option<Response> {
        let known = self.links.record(id)?.profile.address;
        let found = if self.member.get().is_some_and(|(me, _)| *me == id) {
            Some(self.instance)
        } else if known == profile.address {
            None
        } else {
            match self.links.call(&known, &Request::Who, PROBE).await {
                Ok(Response::Who { id: Some(found), instance, .. }) if found == id => {
                    Some(instance)
                }
                // It is not there any more, or somebody else is.
                _ => None,
            }
        };
        found.filter(|found| *found != instance).map(|_| {
            Response::Refused(format!(
                "this monitor runs already, at {known}: a monitor's directory must not be copied and started twice. End one of the two"
            ))
        })
    }
}

/// The monitor's port: siblings are answered from the first moment on, others as soon as there is a state.
pub(super) struct Door {
    peers: Arc<Peers>,
    others: OnceLock<Arc<Monitor>>,
    /// Who came before, and is still there. Held while `others` is set, so that nobody is missed.
    early: Mutex<HashMap<u64, Arc<Caller>>>,
}

impl Door {
    /// Open for siblings only.
    pub(super) fn new(peers: Arc<Peers>) -> Self {
        Self { peers, others: OnceLock::new(), early: Mutex::default() }
    }

    /// Opens for everybody, those who have waited before included.
    pub(super) fn open(&self, others: Arc<Monitor>) {
        let mut early = self.early.lock();
        early.drain().for_each(|(_, caller)| others.opened(&caller));
        // Done once a process.
        drop(self.others.set(others));
    }
}

impl Service for Door {
    async fn call(
        self: Arc<Self>,
        caller: Arc<Caller>,
        header: Vec<u8>,
        payload: bytes::Bytes,
    ) -> Answer {
        let others = self.others.get();
        if caller.identity.role == Role::Monitor {
            let response = match (decode::<Request>(&header), others) {
                (
                    Ok(
                        Request::Forward(_)
                        | Request::ForwardClosed { .. }
                        | Request::ForwardGuest { .. },
                    ),
                    Some(others),
                ) if self.peers.links.gone(&caller.identity.name).is_none() => {
                    return Arc::clone(others).call(caller, header, payload).await;
                }
                (Ok(request), _) => self.peers.answer(&caller.identity.name, request).await,
                (Err(error), _) => Response::Unable(error.to_string()),
            };
            return Answer { header: encode(&response), payload: Vec::new() };
        }
        match others {
            Some(others) => Arc::clone(others).call(caller, header, payload).await,
            None => not_yet(),
        }
    }

    async fn guest_call(self: Arc<Self>, guest: Arc<Guest>, header: Vec<u8>) -> Option<Answer> {
        match self.others.get() {
            Some(others) => Arc::clone(others).guest_call(guest, header).await,
            None => Some(not_yet()),
        }
    }

    /// The cluster's level and nothing else: any monitor may have to pass a call on to any other. Monitors among
    /// themselves may speak a newer one, but none takes part that does not know the cluster's. As long as the state
    /// is unknown, so is the level; who is connected by then and speaks another comes again (`audience`).
    fn levels(&self, role: Option<Role>) -> Levels {
        let store = &*self.peers.store;
        match (query::cluster(store), query::level(store)) {
            (Ok(Some(_)), Ok(level)) if role == Some(Role::Monitor) => {
                Levels { oldest: level, ..Levels::OURS }
            }
            (Ok(Some(_)), Ok(level)) => Levels::only(level),
            _ => Levels::OURS,
        }
    }

    fn opened(&self, caller: &Arc<Caller>) {
        let mut early = self.early.lock();
        match self.others.get() {
            Some(others) => others.opened(caller),
            None => drop(early.insert(caller.id, Arc::clone(caller))),
        }
    }

    fn closed(&self, caller: &Caller) {
        let mut early = self.early.lock();
        match self.others.get() {
            Some(others) => others.closed(caller),
            None => drop(early.remove(&caller.id)),
        }
    }
}

/// The answer of a monitor that is still starting: whoever gets it asks again.
fn not_yet() -> Answer {
    let refused = metadata::Response::Refused(Refusal::NoLeader);
    Answer { header: encode(&refused), payload: Vec::new() }
}

/// What a monitor says of itself.
pub(super) fn profile(
    address: SocketAddr,
    agent: Option<String>,
    start: u64,
    program: Program,
) -> io::Result<Profile> {
    let (address, node, pid) = (address.to_string(), node()?.id, std::process::id());
    Ok(Profile { address, agent, start, program, node, pid })
}
