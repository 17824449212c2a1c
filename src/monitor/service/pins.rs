//! Which inodes are open, and where.
//!
//! A file that is removed while somebody has it open must stay until it is closed. The leader keeps the pins
//! in memory (clients tell them again after a failover) and names them in the command that removes the last
//! link. Between looking up the pins and applying that command nobody may add one unseen: an inode whose
//! name is being removed is *fenced*, and an open of it waits for the fence to fall.

use std::collections::{BTreeMap, HashMap};

use crate::types::{Ino, SessionId};

/// The open inodes of all sessions.
#[derive(Default, Debug)]
pub(super) struct Pins {
    pins: HashMap<Ino, BTreeMap<SessionId, u64>>,
    fences: HashMap<Ino, u32>,
}

/// An inode cannot be opened right now, because a name of it is being removed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fenced;

impl Pins {
    /// `session` opens `ino`; `generation` rises with each of its opens.
    pub(super) fn pin(
        &mut self,
        session: SessionId,
        ino: Ino,
        generation: u64,
    ) -> Result<(), Fenced> {
        if self.fences.contains_key(&ino) {
            return Err(Fenced);
        }
        self.restore(session, ino, generation);
        Ok(())
    }

    /// `session` says, after a failover, what it had open all along.
    pub(super) fn restore(&mut self, session: SessionId, ino: Ino, generation: u64) {
        let newest = self.pins.entry(ino).or_default().entry(session).or_default();
        *newest = generation.max(*newest);
    }

    /// `session` has closed `ino`, unless it has opened it again since. Whether there is no pin (any more: the
    /// leader before may have taken it away and not have come further).
    pub(super) fn unpin(&mut self, session: SessionId, ino: Ino, generation: u64) -> bool {
        let Some(sessions) = self.pins.get_mut(&ino) else { return true };
        if sessions.get(&session).is_some_and(|newest| *newest > generation) {
            return false;
        }
        sessions.remove(&session);
        if sessions.is_empty() {
            self.pins.remove(&ino);
        }
        true
    }

    /// A name of `ino` is about to be removed: who has it open? Nobody new can until [`Self::unfence`].
    pub(super) fn fence(&mut self, ino: Ino) -> Vec<SessionId> {
        *self.fences.entry(ino).or_default() += 1;
        self.pins.get(&ino).map(|sessions| sessions.keys().copied().collect()).unwrap_or_default()
    }

    /// The removal was applied, or given up.
    pub(super) fn unfence(&mut self, ino: Ino) {
        if let Some(count) = self.fences.get_mut(&ino) {
            *count -= 1;
            if *count == 0 {
                self.fences.remove(&ino);
            }
        }
    }

    /// `session` is gone.
    pub(super) fn closed(&mut self, session: SessionId) {
        self.pins.retain(|_, sessions| {
            sessions.remove(&session);
            !sessions.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Ino = Ino(7);
    const ONE: SessionId = SessionId(1);
    const TWO: SessionId = SessionId(2);

    #[test]
    fn an_unpin_that_crosses_a_newer_open_does_nothing() {
        let mut pins = Pins::default();
        pins.pin(ONE, FILE, 1).expect("not fenced");
        pins.pin(ONE, FILE, 2).expect("not fenced");
        assert!(!pins.unpin(ONE, FILE, 1));
        assert_eq!(pins.fence(FILE), [ONE]);
        pins.unfence(FILE);
        assert!(pins.unpin(ONE, FILE, 2));
        assert_eq!(pins.fence(FILE), []);
        assert!(pins.unpin(ONE, FILE, 2), "said again to the next leader");
    }

    #[test]
    fn nobody_opens_while_a_name_is_being_removed() {
        let mut pins = Pins::default();
        pins.pin(ONE, FILE, 1).expect("not fenced");
        assert_eq!(pins.fence(FILE), [ONE]);
        assert_eq!(pins.fence(FILE), [ONE]);
        assert_eq!(pins.pin(TWO, FILE, 1), Err(Fenced));
        pins.unfence(FILE);
        assert_eq!(pins.pin(TWO, FILE, 1), Err(Fenced));
        pins.unfence(FILE);
        assert_eq!(pins.pin(TWO, FILE, 1), Ok(()));
    }

    #[test]
    fn a_closed_session_has_nothing_open() {
        let mut pins = Pins::default();
        pins.pin(ONE, FILE, 1).expect("not fenced");
        pins.pin(TWO, FILE, 1).expect("not fenced");
        pins.closed(ONE);
        assert_eq!(pins.fence(FILE), [TWO]);
    }
}
