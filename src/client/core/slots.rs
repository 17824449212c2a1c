//! Exactly once: each mutation goes into a slot of the session, with a number one above the slot's last.
//!
//! An answer that was lost is asked for again with the same slot and number, and the monitors, which keep
//! each slot's last answer, give it without doing the operation twice. A slot is free again only when its
//! operation was answered.

use crate::types::limits::SESSION_SLOTS;
use crate::types::{SessionId, Slot, SlotSeq};

/// A slot, taken for one operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Taken {
    /// The session it belongs to.
    pub(crate) session: SessionId,
    /// The slot.
    pub(crate) slot: Slot,
    /// The operation's number in it.
    pub(crate) seq: SlotSeq,
}

/// The session's slots.
#[derive(Debug)]
pub(crate) struct Slots {
    session: SessionId,
    /// Each with the number its next operation gets.
    free: Vec<(Slot, SlotSeq)>,
}

impl Slots {
    /// All slots of a new session.
    pub(crate) fn new(session: SessionId) -> Self {
        let free = (0..SESSION_SLOTS).rev().map(|slot| (Slot(slot), SlotSeq(1))).collect();
        Self { session, free }
    }

    /// The session whose slots these are.
    pub(crate) fn session(&self) -> SessionId {
        self.session
    }

    /// Takes `count` slots, all or none.
    pub(crate) fn take(&mut self, count: usize) -> Option<Vec<Taken>> {
        let keep = self.free.len().checked_sub(count)?;
        let session = self.session;
        let taken = self.free.drain(keep..);
        Some(taken.map(|(slot, seq)| Taken { session, slot, seq }).collect())
    }

    /// The operations in them were answered.
    pub(crate) fn give_back(&mut self, taken: &[Taken]) {
        let ours = taken.iter().filter(|taken| taken.session == self.session);
        self.free.extend(ours.map(|taken| (taken.slot, SlotSeq(taken.seq.0 + 1))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise_by_one_in_each_slot() {
        let mut slots = Slots::new(SessionId(7));
        let all = slots.take(usize::from(SESSION_SLOTS)).unwrap();
        assert_eq!(slots.take(1), None);
        assert!(all.iter().all(|taken| taken.seq == SlotSeq(1)));
        slots.give_back(&all[3..4]);
        let again = slots.take(1).unwrap();
        assert_eq!((again[0].slot, again[0].seq), (all[3].slot, SlotSeq(2)));
    }

    #[test]
    fn slots_of_an_old_session_do_not_come_back() {
        let mut old = Slots::new(SessionId(7));
        let taken = old.take(1).unwrap();
        let mut new = Slots::new(SessionId(8));
        new.take(usize::from(SESSION_SLOTS)).unwrap();
        new.give_back(&taken);
        assert_eq!(new.take(1), None);
    }
}
