//! Clients come, live and go.

use super::origin::Origin;
use super::reign::{Reign, State};
use super::sessions::Wanted;
use super::unreadable;
use crate::monitor::namespace::command::{Action, Outcome};
use crate::monitor::namespace::query;
use crate::monitor::namespace::records;
use crate::monitor::service::sessions::{LEASE, Renewal};
use crate::monitor::store::StoreError;
use crate::types::{Ino, SessionId, Slot, SlotSeq};
use crate::wire::leases::GiveBack;
use crate::wire::metadata::{
    Attach, ClientInfo, PINS_MAX, Refusal, Renew, Renewed, Response, SessionEntry, SessionOpened,
};

/// Of the free raw bytes, one part in this many is kept back for what mmap may have dirtied and for repair.
const RESERVE_PART: u64 = 32;

/// Longest path or name that a client says of itself, in bytes.
const CLIENT_TEXT_MAX: usize = 8 << 10;

impl Reign {
    pub(super) async fn open_session(
        &self,
        caller: &Origin,
        client: ClientInfo,
        nonce: u128,
    ) -> Result<Response, Refusal> {
        check_client(&client)?;
        log::info!("{} mounts the filesystem at {}", client.host, client.mountpoint);
        let owner = caller.identity().name.clone();
        match self.submit(Action::OpenSession { owner, client, nonce }).await? {
            Outcome::Session(session) => self.attached(caller, session),
            Outcome::Refused(why) => Err(Refusal::Malformed(why)),
            Outcome::NoSession => Err(Refusal::Revoked),
            other => Err(Refusal::Malformed(format!(
                "a session was asked for and answered with {other:?}"
            ))),
        }
    }

    pub(super) async fn attach(
        &self,
        caller: &Origin,
        attach: Attach,
    ) -> Result<Response, Refusal> {
        let Attach { session, pins, more } = attach;
        if pins.len() > PINS_MAX {
            return Err(Refusal::Malformed(format!("more than {PINS_MAX} pins at a time")));
        }
        self.check_open(caller, session).await?;
        {
            let mut state = self.state.lock();
            for (ino, generation) in pins {
                state.pins.restore(session, ino, generation);
            }
        }
        if more { Ok(Response::Done) } else { self.attached(caller, session) }
    }

    /// A session is used only over the connection that it is attached to, so that nobody speaks for another.
    pub(super) async fn check_attached(
        &self,
        caller: &Origin,
        session: SessionId,
    ) -> Result<(), Refusal> {
        let attached =
            self.state.lock().callers.get(&session).is_some_and(|at| at.id() == caller.id());
        if attached {
            return Ok(());
        }
        self.check_open(caller, session).await?;
        Err(Refusal::NotAttached)
    }

    /// The session is open, and the caller's. Whoever hears that its session is gone gives up what it holds: only who
    /// leads for certain says so.
    async fn check_open(&self, caller: &Origin, session: SessionId) -> Result<(), Refusal> {
        if self.open(session)?.is_none() {
            self.confirm_leadership().await?;
        }
        let record = self.open(session)?.ok_or(Refusal::SessionClosed)?;
        self.check_owner(caller, &record.owner, format_args!("session {session}"))
    }

    /// The session, if it is open.
    fn open(&self, session: SessionId) -> Result<Option<records::Session>, Refusal> {
        let record = query::session(&*self.store, session).map_err(unreadable)?;
        Ok(record.filter(|record| record.closing.is_none()))
    }

    fn attached(&self, caller: &Origin, session: SessionId) -> Result<Response, Refusal> {
        let monitors = self.monitors()?;
        let policy = self.policy_of(&caller.identity().name)?;
        let restriction = self.restriction(&policy)?;
        let tickets = self.tickets_of(caller.identity(), session)?;
        let opened = {
            let mut state = self.state.lock();
            state.check_not_condemned(session)?;
            state.restrict(session, restriction);
            state.sessions.attached(session, self.clock.monotonic());
            // It has forgotten all that it believed before it attached itself.
            state.leases.forget(session);
            state.callers.insert(session, caller.clone());
            SessionOpened {
                session,
                cluster: self.member.cluster,
                monitors,
                lease_ms: u64::try_from(LEASE.as_millis()).expect("twelve seconds"),
                placement: state.servers.placement(),
                credit_bytes: state.credit(),
                policy,
                tickets,
            }
        };
        self.changed.notify_waiters();
        Ok(Response::Session(opened))
    }

    pub(super) async fn renew(&self, caller: &Origin, renew: &Renew) -> Result<Response, Refusal> {
        self.check_attached(caller, renew.session).await?;
        // Only a leader that still has its majority may prolong a lease.
        self.confirm_leadership().await?;
        let (placement, credit_bytes, renewal) = {
            let mut state = self.state.lock();
            state.check_not_condemned(renew.session)?;
            let (now, wanting) = (self.clock.monotonic(), state.servers.wanting());
            let renewal = state.sessions.renewed(renew.session, now, wanting);
            let stale = renew.placement_version != state.servers.version();
            (stale.then(|| state.servers.placement()), state.credit(), renewal)
        };
        if renewal == Renewal::Gone {
            return Err(Refusal::SessionClosed);
        }
        let space = self.space(Ino::ROOT)?.map_err(|errno| {
            unreadable(StoreError(format!("how full the root volume is: {errno}")))
        })?;
        // With another map may come a server for which the client has no tickets yet.
        let wanted = renew.tickets || placement.is_some();
        let tickets = wanted.then(|| self.tickets_of(caller.identity(), renew.session));
        let (prolonged, tickets) = (renewal == Renewal::Prolonged, tickets.transpose()?);
        Ok(Response::Renewed(Renewed { placement, credit_bytes, space, prolonged, tickets }))
    }

    pub(super) async fn close_own_session(
        &self,
        caller: &Origin,
        session: SessionId,
    ) -> Result<Response, Refusal> {
        self.check_attached(caller, session).await?;
        self.close_session(session, false).await?;
        Ok(Response::Done)
    }

    /// Ends a session: whatever it held is free afterwards.
    pub(super) async fn close_session(
        &self,
        session: SessionId,
        evicted: bool,
    ) -> Result<(), Refusal> {
        self.state.lock().sessions.condemn(session);
        loop {
            match self.submit(Action::CloseSession { session, evicted }).await {
                Ok(Outcome::Partly) => {}
                Ok(_) => break,
                Err(refusal) => {
                    self.state.lock().sessions.pardon(session);
                    return Err(refusal);
                }
            }
        }
        {
            let mut state = self.state.lock();
            state.sessions.closed(session);
            state.pins.closed(session);
            state.leases.forget(session);
            state.callers.remove(&session);
            state.restricted.remove(&session);
        }
        self.locker_gone(session);
        self.changed.notify_waiters();
        self.orphaned.notify_one();
        Ok(())
    }

    /// What an evicted session of the same process was answered.
    pub(super) async fn old_replies(
        &self,
        session: SessionId,
        evicted: SessionId,
        operations: &[(Slot, SlotSeq)],
    ) -> Result<Response, Refusal> {
        self.confirm_leadership().await?;
        let record = query::session(&*self.store, session).map_err(unreadable)?;
        let asker = record.ok_or(Refusal::SessionClosed)?;
        if self.open(evicted)?.is_some() {
            return Err(Refusal::Malformed(format!("session {evicted} was not evicted")));
        }
        query::old_replies(&*self.store, evicted, &asker, operations)
            .map_err(unreadable)?
            .map(Response::OldReplies)
            .ok_or(Refusal::Forbidden)
    }

    pub(super) async fn sessions_of_node(
        &self,
        caller: &Origin,
        node: &str,
    ) -> Result<Response, Refusal> {
        self.confirm_leadership().await?;
        let mut sessions = self.sessions_of_client(&caller.identity().name)?;
        sessions.retain(|(_, record)| record.client.node == node);
        let entry = |(session, record): (SessionId, records::Session)| SessionEntry {
            session,
            client: record.client,
        };
        Ok(Response::Sessions(sessions.into_iter().map(entry).collect()))
    }

    pub(super) async fn evict_dead(
        &self,
        caller: &Origin,
        session: SessionId,
        node: &str,
    ) -> Result<Response, Refusal> {
        self.confirm_leadership().await?;
        let Some(record) = query::session(&*self.store, session).map_err(unreadable)? else {
            return Ok(Response::Done);
        };
        self.check_owner(caller, &record.owner, format_args!("session {session}"))?;
        let client = record.client;
        if client.node != node {
            return Err(Refusal::Forbidden);
        }
        log::warn!(
            "the process that mounted {} on {} is dead: its session is closed",
            client.mountpoint,
            client.host
        );
        self.close_session(session, true).await?;
        Ok(Response::Done)
    }

    /// A client believes nothing any more of these inodes.
    pub(super) fn given_back(&self, back: GiveBack) -> Result<Response, Refusal> {
        let GiveBack { session, leases, pins } = back;
        if leases.len().max(pins.len()) > PINS_MAX {
            return Err(Refusal::Malformed(format!("more than {PINS_MAX} leases at a time")));
        }
        {
            let mut state = self.state.lock();
            // In the same moment: who waits for the lease looks at the pins next.
            for (ino, generation) in pins {
                state.pins.restore(session, ino, generation);
            }
            for (ino, heard) in leases {
                state.leases.given_back(session, ino, heard);
                state.sessions.gave_back(session, ino, Wanted::Lease);
            }
            state.sessions.progressed(session, self.clock.monotonic());
        }
        self.changed.notify_waiters();
        Ok(Response::Done)
    }

    /// Inodes that a client has closed; those whose last name went meanwhile go now.
    pub(super) async fn unpin(
        &self,
        session: SessionId,
        pins: Vec<(Ino, u64)>,
    ) -> Result<Response, Refusal> {
        for (ino, generation) in pins {
            let gone = self.state.lock().pins.unpin(session, ino, generation);
            if gone && query::is_orphan(&*self.store, session, ino).map_err(unreadable)? {
                self.submit(Action::Unpin { session, ino }).await?;
                self.orphaned.notify_one();
            }
        }
        Ok(Response::Done)
    }
}

/// Sessions are told of together: none may take up all the room.
fn check_client(client: &ClientInfo) -> Result<(), Refusal> {
    let ClientInfo { node, boot, run_lock, host, mountpoint, pid: _, program } = client;
    let long = [node, boot, run_lock, host, mountpoint, &program.release]
        .map(String::len)
        .into_iter()
        .max();
    if long > Some(CLIENT_TEXT_MAX) {
        return Err(Refusal::Malformed("what the client says of itself is too long".to_owned()));
    }
    Ok(())
}

impl State {
    /// A session that is being ended is told so when it is true. Until then it has to ask again.
    fn check_not_condemned(&self, session: SessionId) -> Result<(), Refusal> {
        let is_condemned = self.sessions.is_condemned(session);
        (!is_condemned).then_some(()).ok_or(Refusal::NoLeader)
    }

    /// Raw bytes that each session may buffer: all of them together never more than there is room for.
    fn credit(&self) -> u64 {
        let free = self.servers.raw_free();
        let sessions = u64::try_from(self.sessions.count().max(1)).expect("few");
        (free - free / RESERVE_PART) / sessions
    }
}
