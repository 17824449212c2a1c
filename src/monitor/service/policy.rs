//! What a client may not do, enforced where it asks.
//!
//! A client's policy says whether it may only read, and below which directory it is kept. Both are held here,
//! at every operation of its sessions: a change by a client that may only read is refused, and so is
//! everything that names an inode which does not lie below its directory. (Whoever knows the id of a stripe can
//! ask the servers for its bytes; ids are handed out in maps, and those come through here.)
//!
//! A client finds its directory by names, from the root: of the directories on that way it may look up the
//! one name that leads on, and nothing else.

use std::sync::Arc;

use super::reign::{Reign, State};
use super::unreadable;
use crate::monitor::namespace::{caps, query, records};
use crate::monitor::store::{Read, StoreError};
use crate::types::{ClientPolicy, Errno, Ino, LockMode, SessionId};
use crate::wire::metadata::{Answer, Op, Query, Refusal};

/// What the sessions of a client are kept to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Restriction {
    read_only: bool,
    subtree: Option<Subtree>,
}

/// A directory, and the way there.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Subtree {
    /// The directories above it, from the root on, and the name in each that leads on.
    way: Vec<(Ino, Vec<u8>)>,
    /// `None` when it is not there (any more).
    root: Option<Ino>,
}

impl Restriction {
    /// What that policy means at the moment; `None` when it allows everything.
    fn of(policy: &ClientPolicy, state: &dyn Read) -> Result<Option<Self>, StoreError> {
        let subtree = match policy.subtree.as_slice() {
            [] => None,
            path => Some(Subtree::find(path, state)?),
        };
        let is_any = policy.read_only || subtree.is_some();
        Ok(is_any.then_some(Self { read_only: policy.read_only, subtree }))
    }

    /// Why an operation is refused.
    fn forbids(&self, op: &Op, state: &dyn Read) -> Result<Option<Errno>, StoreError> {
        if self.read_only && changes(op) {
            return Ok(Some(Errno::ReadOnly));
        }
        self.keeps_out(&named_by_op(op), state)
    }

    /// Why a question is refused.
    fn hides(&self, query: &Query, state: &dyn Read) -> Result<Option<Errno>, StoreError> {
        let ino = named_by_query(query);
        let way = self.subtree.iter().flat_map(|subtree| &subtree.way);
        let leads_on = way.into_iter().any(|(dir, next)| match query {
            Query::Lookup { parent, name } => parent == dir && name == next,
            Query::Attr { ino } => ino == dir,
            _ => false,
        });
        if leads_on { Ok(None) } else { self.keeps_out(&[ino], state) }
    }

    fn keeps_out(&self, inos: &[Ino], state: &dyn Read) -> Result<Option<Errno>, StoreError> {
        let Some(subtree) = &self.subtree else { return Ok(None) };
        for ino in inos {
            if !query::lies_in(state, *ino, subtree.root)? {
                return Ok(Some(Errno::AccessDenied));
            }
        }
        Ok(None)
    }
}

impl Subtree {
    fn find(path: &[u8], state: &dyn Read) -> Result<Self, StoreError> {
        let mut subtree = Self { way: Vec::new(), root: Some(Ino::ROOT) };
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let Some(dir) = subtree.root else { break };
            subtree.way.push((dir, name.to_vec()));
            let query = Query::Lookup { parent: dir, name: name.to_vec() };
            subtree.root = match query::answer(state, &query)? {
                Ok(Answer::Attr(attr)) => Some(attr.ino),
                _ => None,
            };
        }
        Ok(subtree)
    }
}

impl Reign {
    /// What that client may do.
    pub(super) fn policy_of(&self, client: &str) -> Result<ClientPolicy, Refusal> {
        query::client_policy(&*self.store, client).map_err(unreadable)
    }

    /// What the sessions of that client are kept to.
    pub(super) fn restriction(
        &self,
        policy: &ClientPolicy,
    ) -> Result<Option<Arc<Restriction>>, Refusal> {
        Ok(Restriction::of(policy, &*self.store).map_err(unreadable)?.map(Arc::new))
    }

    /// Why an operation of that session is refused.
    pub(super) fn forbidden(&self, session: SessionId, op: &Op) -> Result<Option<Errno>, Refusal> {
        let restriction = self.state.lock().restricted.get(&session).cloned();
        let Some(restriction) = restriction else { return Ok(None) };
        restriction.forbids(op, &*self.store).map_err(unreadable)
    }

    /// Why a question of that session is refused.
    pub(super) fn hidden(
        &self,
        session: SessionId,
        query: &Query,
    ) -> Result<Option<Errno>, Refusal> {
        let restriction = self.state.lock().restricted.get(&session).cloned();
        let Some(restriction) = restriction else { return Ok(None) };
        restriction.hides(query, &*self.store).map_err(unreadable)
    }

    /// The policy of a client has changed: its sessions are kept to the new one.
    pub(super) fn restrict_sessions_of(&self, client: &str) -> Result<(), Refusal> {
        let restriction = self.restriction(&self.policy_of(client)?)?;
        let sessions = self.sessions_of_client(client)?;
        let mut state = self.state.lock();
        for (session, _) in sessions {
            state.restrict(session, restriction.clone());
        }
        Ok(())
    }

    /// The sessions that belong to that client.
    pub(super) fn sessions_of_client(
        &self,
        client: &str,
    ) -> Result<Vec<(SessionId, records::Session)>, Refusal> {
        let mut sessions = query::sessions(&*self.store).map_err(unreadable)?;
        sessions.retain(|(_, record)| record.owner == client);
        Ok(sessions)
    }
}

impl State {
    /// Keeps a session to that.
    pub(super) fn restrict(&mut self, session: SessionId, restriction: Option<Arc<Restriction>>) {
        match restriction {
            Some(restriction) => self.restricted.insert(session, restriction),
            None => self.restricted.remove(&session),
        };
    }
}

/// Whether an operation changes what others see, or keeps them from writing.
fn changes(op: &Op) -> bool {
    if let Op::Lock(lock) = op {
        return lock.request.mode == Some(LockMode::Exclusive);
    }
    !matches!(
        op,
        Op::Acquire { .. }
            | Op::Release { .. }
            | Op::SetMd5 { .. }
            | Op::Reserve(_)
            | Op::LeaseInodes
            | Op::LeaseStripes { .. }
    )
}

/// The inodes that an operation names and that are there already.
fn named_by_op(op: &Op) -> Vec<Ino> {
    let mut named = caps::directories(op);
    match op {
        Op::Create(_) => {}
        Op::TmpFile(file) => named.push(file.parent),
        _ => named.extend(caps::subjects(op)),
    }
    named
}

/// The inode that a question names.
fn named_by_query(query: &Query) -> Ino {
    match query {
        Query::Lookup { parent, .. } => *parent,
        Query::ReadDir { dir, .. } => *dir,
        Query::Attr { ino }
        | Query::Open { ino, .. }
        | Query::Map { ino, .. }
        | Query::ReadLink { ino }
        | Query::GetXattr { ino, .. }
        | Query::ListXattr { ino }
        | Query::Space { ino } => *ino,
        Query::Lock { request, .. } => request.ino,
    }
}
