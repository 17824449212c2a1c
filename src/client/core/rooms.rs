//! How much this client may buffer in each volume.
//!
//! A volume with a quota is not written to on trust: room is reserved at the monitors before bytes are buffered, so
//! that `write` itself says when there is none. Here is the account: what is buffered and not committed, what is
//! reserved, and what writers that were let in are about to buffer ([`Rooms::claim`]). Nobody is let in beyond
//! what is reserved, so nothing that was taken from a program is refused at its commit.
//!
//! What is reserved is never counted higher than the monitors count it. They take only what a commit adds out of a
//! reservation; here all of its bytes go, those that overwrote others included, and the difference comes back with
//! the next reservation, which names the whole sum that is wanted. A commit that is answered while a reservation
//! is under way may have been applied before it or after it: it is taken to have been after.

use std::collections::BTreeMap;

use crate::types::{PlacementMap, SessionId, VolumeId};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Rooms(BTreeMap<VolumeId, Room>);

#[derive(Debug, Default)]
struct Room {
    /// Bytes that are dirty or on their way.
    uncommitted: u64,
    /// Bytes that writers are about to buffer.
    claimed: u64,
    /// Bytes reserved at the monitors, at least ...
    reserved: u64,
    /// ... for this session. Those of another are gone with it.
    session: SessionId,
    /// Bytes committed, ever.
    spent: u64,
    /// Whether anything was written since [`Rooms::idle`] was asked last.
    used: bool,
}

/// A reservation that is to be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Asked {
    /// For so many bytes in all.
    pub(crate) bytes: u64,
    spent: u64,
}

impl Rooms {
    /// Bytes of that volume that are dirty have become more (or fewer).
    pub(crate) fn buffered(&mut self, volume: VolumeId, before: u64, now: u64) {
        let room = self.0.entry(volume).or_default();
        room.uncommitted = (room.uncommitted + now).saturating_sub(before);
        room.used = true;
    }

    /// Bytes are not to be committed any more, or are.
    pub(crate) fn done(&mut self, volume: VolumeId, bytes: u64) {
        let room = self.0.entry(volume).or_default();
        room.uncommitted = room.uncommitted.saturating_sub(bytes);
    }

    /// Bytes were committed: what was reserved for them is used up.
    pub(crate) fn spent(&mut self, volume: VolumeId, bytes: u64) {
        let room = self.0.entry(volume).or_default();
        room.spent += bytes;
        room.reserved = room.reserved.saturating_sub(bytes);
    }

    /// Bytes of that volume that are dirty or on their way.
    pub(crate) fn uncommitted(&self, volume: VolumeId) -> u64 {
        self.0.get(&volume).map_or(0, |room| room.uncommitted)
    }

    /// Raw bytes that everything uncommitted takes at the dearest width of its volume, (1, m).
    pub(crate) fn raw(&self, map: &PlacementMap) -> u64 {
        let raw = |(id, room): (&VolumeId, &Room)| {
            let parity = map.volume(*id).map_or(0, |volume| volume.width.parity);
            room.uncommitted.saturating_mul(1 + u64::from(parity))
        };
        self.0.iter().map(raw).fold(0, u64::saturating_add)
    }

    /// Lets a writer in that will buffer up to `bytes`, if so many are reserved. [`Self::unclaim`] must follow, after
    /// they are [`Self::buffered`].
    pub(crate) fn claim(&mut self, volume: VolumeId, session: SessionId, bytes: u64) -> bool {
        let room = self.0.entry(volume).or_default();
        let covered = room.uncommitted + room.claimed + bytes <= room.reserved_for(session);
        room.claimed += if covered { bytes } else { 0 };
        covered
    }

    /// A writer has buffered what it was let in for.
    pub(crate) fn unclaim(&mut self, volume: VolumeId, bytes: u64) {
        let room = self.0.entry(volume).or_default();
        room.claimed = room.claimed.saturating_sub(bytes);
    }

    /// What has to be reserved so that `bytes` more may be buffered.
    pub(crate) fn ask(&self, volume: VolumeId, bytes: u64) -> Asked {
        let room = self.0.get(&volume);
        let held = room.map_or(0, |room| room.uncommitted + room.claimed);
        Asked { bytes: held + bytes, spent: room.map_or(0, |room| room.spent) }
    }

    /// So much was granted to that session. Returns whether it is what was asked for.
    pub(crate) fn granted(
        &mut self,
        volume: VolumeId,
        session: SessionId,
        asked: Asked,
        bytes: u64,
    ) -> bool {
        let room = self.0.entry(volume).or_default();
        room.session = session;
        room.reserved = bytes.saturating_sub(room.spent - asked.spent);
        bytes >= asked.bytes
    }

    /// Volumes of which more is reserved than is buffered, and that nobody has written to since this was asked
    /// last. What is too much is not to be had any more: the monitors are to be told so.
    pub(crate) fn idle(&mut self, session: SessionId) -> Vec<(VolumeId, Asked)> {
        let mut idle = Vec::new();
        for (id, room) in &mut self.0 {
            let held = room.uncommitted + room.claimed;
            let is_idle = !std::mem::take(&mut room.used) && room.reserved_for(session) > held;
            if is_idle {
                room.reserved = held;
                idle.push((*id, Asked { bytes: held, spent: room.spent }));
            }
        }
        idle
    }
}

impl Room {
    fn reserved_for(&self, session: SessionId) -> u64 {
        if self.session == session { self.reserved } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V: VolumeId = VolumeId(7);
    const S: SessionId = SessionId(1);

    fn reserved(bytes: u64) -> Rooms {
        let mut rooms = Rooms::default();
        let asked = rooms.ask(V, bytes);
        assert!(rooms.granted(V, S, asked, bytes));
        rooms
    }

    #[test]
    fn nobody_is_let_in_beyond_what_is_reserved() {
        let mut rooms = reserved(100);
        assert!(rooms.claim(V, S, 60));
        assert!(!rooms.claim(V, S, 41), "the other is about to write");
        rooms.buffered(V, 0, 50);
        rooms.unclaim(V, 60);
        assert!(rooms.claim(V, S, 50));
        assert!(!rooms.claim(V, SessionId(2), 0), "the reservation is another session's");
        assert_eq!(rooms.ask(V, 10).bytes, 110);
    }

    #[test]
    fn a_commit_that_crosses_a_reservation_is_taken_to_follow_it() {
        let mut rooms = reserved(100);
        rooms.buffered(V, 0, 100);
        let asked = rooms.ask(V, 40);
        assert_eq!(asked.bytes, 140);
        rooms.spent(V, 100);
        rooms.done(V, 100);
        assert!(rooms.granted(V, S, asked, 140));
        assert!(rooms.claim(V, S, 40));
        assert!(!rooms.claim(V, S, 1));
    }

    #[test]
    fn what_nobody_uses_is_given_back_after_a_while() {
        let mut rooms = reserved(100);
        rooms.buffered(V, 0, 30);
        assert_eq!(rooms.idle(S), [], "it was written to");
        let asked = Asked { bytes: 30, spent: 0 };
        assert_eq!(rooms.idle(S), [(V, asked)]);
        assert!(!rooms.claim(V, S, 1), "from here on it is not to be had");
        assert_eq!(rooms.idle(S), [], "once is enough");
    }
}
