//! What has to be out of the way before a change is made.
//!
//! Nobody else may hold exclusively what it touches, nobody else may believe anything of what it changes
//! ([`leases`](crate::monitor::leases)), and of an inode that loses a name must be known who has it open. [`Cleared`]
//! is the proof that all of it is so, and while it lives it stays so:
//!
//! ```text
//!   nobody holds it ──▶ fence: no new leases ──▶ recall leases, wait ──▶ fence: no new opens ──▶ into the log
//!      ▲                                            │                                                 │ applied
//!      └──── somebody holds it again ───────────────┘                      both fences fall ◀─────────┘
//! ```
//!
//! As long as an exclusive holder is waited for there is no fence: those who wait to read what it has written would get
//! no lease of it while others queue up to write.
//!
//! Who has waited for long to have a file exclusively comes next ([`turns`](super::turns)).
//!
//! Names may lead elsewhere by the time that everybody has given back; then it begins again. (They may even once
//! more before the change is applied: apply looks, too.)
//!
//! Whoever gives a lease of an open file back says with it that the file is open, so pins are looked at last.
//!
//! Nobody whose recall is waited for ever waits for this change: a fence holds up no question, only its lease, and
//! an exclusive holder is asked again and again. (What may hold up a client's answer is its own kernel; it gives up
//! waiting for that in time.)

use std::sync::Arc;
use std::time::Duration;

use super::reign::{Reign, State};
use super::sessions::Wanted;
use super::turns::Turn;
use super::unreadable;
use crate::monitor::namespace::caps;
use crate::monitor::namespace::command::Removal;
use crate::monitor::store::StoreError;
use crate::types::{Ino, SessionId};
use crate::wire::encode;
use crate::wire::metadata::{Notice, Op, Refusal};

/// See the module.
pub(super) struct Cleared {
    reign: Arc<Reign>,
    changed: Vec<Ino>,
    moves: Vec<Ino>,
    removal: Option<Removal>,
    /// Falls after the fences.
    turn: Option<Turn>,
}

impl Cleared {
    /// The inodes that a rename moves.
    pub(super) fn moves(&self) -> Vec<Ino> {
        self.moves.clone()
    }

    /// Which inode loses a name, and who has it open.
    pub(super) fn removes(&self) -> Option<Removal> {
        self.removal.clone()
    }

    /// Nobody gets a lease of what the operation changes, as names lead now.
    fn fence(reign: &Arc<Reign>, op: &Op) -> Result<Self, Refusal> {
        let changed = caps::changed_by_op(&*reign.store, op).map_err(unreadable)?;
        let moves = caps::moved_by_op(&*reign.store, op).map_err(unreadable)?;
        let mut cleared = Self::fence_inodes(reign, changed);
        cleared.moves = moves;
        Ok(cleared)
    }

    /// Nobody gets a lease of these.
    fn fence_inodes(reign: &Arc<Reign>, changed: Vec<Ino>) -> Self {
        reign.state.lock().leases.fence(&changed);
        Self { reign: Arc::clone(reign), changed, moves: Vec::new(), removal: None, turn: None }
    }

    /// Nobody opens what loses a name. `false`: names lead elsewhere by now.
    fn fence_opens(&mut self, op: &Op) -> Result<bool, Refusal> {
        let store = &*self.reign.store;
        if caps::changed_by_op(store, op).map_err(unreadable)? != self.changed {
            return Ok(false);
        }
        if let Some(ino) = caps::removed_by_op(store, op).map_err(unreadable)? {
            let pinned_by = self.reign.state.lock().pins.fence(ino);
            self.removal = Some(Removal { ino, pinned_by });
        }
        Ok(true)
    }
}

impl Drop for Cleared {
    fn drop(&mut self) {
        {
            let mut state = self.reign.state.lock();
            state.leases.unfence(&self.changed);
            if let Some(removal) = &self.removal {
                state.pins.unfence(removal.ino);
            }
        }
        if self.removal.is_some() {
            self.reign.changed.notify_waiters();
        }
    }
}

impl Reign {
    /// Waits until nothing is in the way of a change by `session`.
    pub(super) async fn clear(
        self: &Arc<Self>,
        session: SessionId,
        op: &Op,
    ) -> Result<Cleared, Refusal> {
        if caps::waits_for_grace(op) {
            self.wait_for_grace().await?;
        }
        let turn = match op {
            Op::Acquire { ino } => Some(Turn::wait(self, session, *ino).await?),
            _ => None,
        };
        let touched = || caps::touched_by_op(&*self.store, op);
        loop {
            self.wait_for_holders(session, touched).await?;
            let mut cleared = Cleared::fence(self, op)?;
            let is_free = self.wait_for_leases(session, &cleared.changed, touched).await?;
            if is_free && (!caps::names_anything(op) || cleared.fence_opens(op)?) {
                cleared.turn = turn;
                return Ok(cleared);
            }
        }
    }

    /// Waits until nobody at all believes anything of a directory: an administrator changes it.
    pub(super) async fn clear_directory(
        self: &Arc<Self>,
        directory: Ino,
    ) -> Result<Cleared, Refusal> {
        self.wait_for_grace().await?;
        let cleared = Cleared::fence_inodes(self, vec![directory]);
        // No client is the author, and nobody holds a directory exclusively.
        self.wait_for_leases(SessionId::default(), &cleared.changed, || Ok(Vec::new())).await?;
        Ok(cleared)
    }

    /// Returns when every session is attached or evicted.
    async fn wait_for_grace(&self) -> Result<(), Refusal> {
        self.wait_until(|| Ok((!self.state.lock().sessions.in_grace()).then_some(()))).await
    }

    /// Returns when no other session holds the exclusive grant of any of the inodes that `touched` names
    /// (names may move while this waits, so it is asked again each time).
    pub(super) async fn wait_for_holders(
        &self,
        session: SessionId,
        touched: impl Fn() -> Result<Vec<Ino>, StoreError>,
    ) -> Result<(), Refusal> {
        let mut waiting = Waiting { reign: self, recalled: Vec::new() };
        self.wait_until(|| {
            let inos = touched().map_err(unreadable)?;
            let held = caps::held_by_others(&*self.store, session, &inos).map_err(unreadable)?;
            let is_free = held.is_empty();
            waiting.recall(&held, &[]);
            Ok(is_free.then_some(()))
        })
        .await
    }

    /// Returns when nobody else has a shared lease of `changed`. `false`: somebody holds what is `touched`.
    async fn wait_for_leases(
        &self,
        session: SessionId,
        changed: &[Ino],
        touched: impl Fn() -> Result<Vec<Ino>, StoreError>,
    ) -> Result<bool, Refusal> {
        let mut waiting = Waiting { reign: self, recalled: Vec::new() };
        self.wait_until(|| {
            let inos = touched().map_err(unreadable)?;
            if !caps::held_by_others(&*self.store, session, &inos).map_err(unreadable)?.is_empty() {
                return Ok(Some(false));
            }
            let leased = self.state.lock().leases.held_by_others(session, changed);
            let is_free = leased.is_empty();
            waiting.recall(&[], &leased);
            Ok(is_free.then_some(true))
        })
        .await
    }
}

/// A call that waits for others. However its wait ends, they are not blamed for it any longer.
struct Waiting<'a> {
    reign: &'a Reign,
    recalled: Vec<(Ino, SessionId)>,
}

impl Waiting<'_> {
    /// Asks these, and no longer those before, to release what they hold exclusively and to give back what they
    /// believe.
    fn recall(&mut self, held: &[(Ino, SessionId)], leased: &[(Ino, SessionId)]) {
        if held.is_empty() && leased.is_empty() && self.recalled.is_empty() {
            return;
        }
        let mut wanted = [held, leased].concat();
        wanted.sort_unstable();
        wanted.dedup();
        let now = self.reign.clock.monotonic();
        let mut state = self.reign.state.lock();
        for &(ino, session) in self.recalled.iter().filter(|gone| !wanted.contains(gone)) {
            state.sessions.settled(session, ino);
        }
        for &(ino, session) in wanted.iter().filter(|new| !self.recalled.contains(new)) {
            state.sessions.recalled(session, ino, now);
        }
        for of_whom in &wanted {
            state.remind(*of_whom, now, held.contains(of_whom), leased.contains(of_whom));
        }
        self.recalled = wanted;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.recall(&[], &[]);
    }
}

impl State {
    /// Tells a session what is wanted of an inode, unless it was told a moment ago.
    fn remind(
        &mut self,
        (ino, session): (Ino, SessionId),
        now: Duration,
        held: bool,
        leased: bool,
    ) {
        let Some(caller) = self.callers.get(&session) else { return };
        if leased && self.sessions.wants_notice(session, ino, Wanted::Lease, now) {
            let stamp = self.leases.now();
            caller.notify(encode(&Notice::Invalidate { stamp, inos: vec![ino] }));
        }
        if held && self.sessions.wants_notice(session, ino, Wanted::Grant, now) {
            caller.notify(encode(&Notice::Recall(vec![ino])));
        }
    }
}
