//! Who may believe what without asking: the leader's table of shared leases.
//!
//! The life of a lease. A client asks something; its answer tells of a few inodes ([`told_of`]), and the client is
//! noted as having a lease of each. From then on it answers its programs by itself, until somebody wants to change
//! one of these inodes. The change is held back: the inode is **fenced**, so that nobody gets another lease of it,
//! and everybody else who has one is told to give it back. When all have (or were evicted, which takes longer than
//! any client trusts its cache), the change is made, its author is answered, and the fence falls.
//!
//! So at the moment of a change nobody but its author believes anything of what it changes, and nobody can be told
//! the new state by one client and the old one by another.
//!
//! An answer is read from a state that may have changed by the time its leases are noted. That is what **stamps**
//! are for: whoever reads looks at the clock of this table first, and gets no lease of an inode that was fenced
//! then or has been since ([`Leases::grant`]). Only the latest changes are remembered by inode; a reader slower than
//! that gets no lease.
//!
//! What was given back crosses what is given anew: a lease that is younger than what the client had heard of when
//! it gave back stays.
//!
//! All of it lives for one reign and is not replicated. Clients forget what they believe before they attach
//! themselves to another leader, so that leader begins with an empty table, however many files there are.
//!
//! [`told_of`]: crate::wire::leases::told_of

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::types::{Ino, LeaseStamp, SessionId};

/// Most leases of a session; a client gives some back long before.
const SESSION_MAX: usize = 1 << 18;
/// The clock of term t begins at t · 2^40: what was given back to another leader before says nothing here.
const REIGN_SHIFT: u32 = 40;
/// So many of the latest changes are remembered.
const CHANGES_MAX: usize = 8192;

/// See the module.
#[derive(Debug)]
pub struct Leases {
    clock: LeaseStamp,
    /// What each session has, and when it was given.
    sessions: BTreeMap<SessionId, HashMap<Ino, LeaseStamp>>,
    /// Inodes that are being changed, and by how many changes.
    fences: HashMap<Ino, u32>,
    changes: Changes,
}

/// When inodes were changed, the latest changes only.
#[derive(Default, Debug)]
struct Changes {
    latest: HashMap<Ino, LeaseStamp>,
    order: VecDeque<(Ino, LeaseStamp)>,
    /// Of changes up to then nothing is remembered.
    forgotten: LeaseStamp,
}

impl Leases {
    /// None yet, in the reign of that term.
    pub fn new(term: u64) -> Self {
        let clock = LeaseStamp(term << REIGN_SHIFT);
        let changes = Changes { forgotten: clock, ..Changes::default() };
        Self { clock, sessions: BTreeMap::new(), fences: HashMap::new(), changes }
    }

    /// The time, by this table's own clock.
    pub fn now(&self) -> LeaseStamp {
        self.clock
    }

    /// `session` is told of `ino` as it was at `since` or later. Whether it gets a lease.
    pub fn grant(&mut self, session: SessionId, ino: Ino, since: LeaseStamp) -> bool {
        if self.fences.contains_key(&ino) || self.changes.may_include(ino, since) {
            return false;
        }
        let leases = self.sessions.entry(session).or_default();
        if leases.len() >= SESSION_MAX && !leases.contains_key(&ino) {
            return false;
        }
        self.clock.0 += 1;
        leases.insert(ino, self.clock);
        true
    }

    /// These are about to be changed: nobody gets a lease of them until [`Self::unfence`].
    pub fn fence(&mut self, inos: &[Ino]) {
        for ino in inos {
            *self.fences.entry(*ino).or_default() += 1;
        }
    }

    /// The change was made, or was given up.
    pub fn unfence(&mut self, inos: &[Ino]) {
        for ino in inos {
            if let Some(count) = self.fences.get_mut(ino) {
                *count -= 1;
                if *count == 0 {
                    self.fences.remove(ino);
                }
            }
            self.clock.0 += 1;
            self.changes.add(*ino, self.clock);
        }
    }

    /// Who, besides `author`, has a lease of any of these.
    pub fn held_by_others(&self, author: SessionId, inos: &[Ino]) -> Vec<(Ino, SessionId)> {
        let others = self.sessions.iter().filter(|(session, _)| **session != author);
        others
            .flat_map(|(session, leases)| {
                let held = inos.iter().filter(|ino| leases.contains_key(ino));
                held.map(|ino| (*ino, *session))
            })
            .collect()
    }

    /// `session` believes nothing of `ino` any more that it heard of up to `heard`.
    pub fn given_back(&mut self, session: SessionId, ino: Ino, heard: LeaseStamp) {
        if let Some(leases) = self.sessions.get_mut(&session)
            && leases.get(&ino).is_some_and(|given| *given <= heard)
        {
            leases.remove(&ino);
        }
    }

    /// `session` is gone, or believes nothing any more.
    pub fn forget(&mut self, session: SessionId) {
        self.sessions.remove(&session);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.sessions.values().map(HashMap::len).sum()
    }
}

impl Changes {
    fn add(&mut self, ino: Ino, at: LeaseStamp) {
        self.latest.insert(ino, at);
        self.order.push_back((ino, at));
        if self.order.len() > CHANGES_MAX
            && let Some((ino, at)) = self.order.pop_front()
        {
            self.forgotten = at;
            if self.latest.get(&ino) == Some(&at) {
                self.latest.remove(&ino);
            }
        }
    }

    /// Whether `ino` may have been changed after `since`.
    fn may_include(&self, ino: Ino, since: LeaseStamp) -> bool {
        since < self.forgotten || self.latest.get(&ino).is_some_and(|at| *at > since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: SessionId = SessionId(1);
    const TWO: SessionId = SessionId(2);
    const FILE: Ino = Ino(7);
    const DIR: Ino = Ino(8);

    #[test]
    fn a_change_has_to_wait_for_everybody_but_its_author() {
        let mut leases = Leases::new(3);
        let since = leases.now();
        for session in [ONE, TWO] {
            assert!(leases.grant(session, FILE, since) && leases.grant(session, DIR, since));
        }
        assert_eq!(leases.held_by_others(ONE, &[FILE, DIR]), [(FILE, TWO), (DIR, TWO)]);
        let heard = leases.now();
        leases.given_back(TWO, FILE, heard);
        assert_eq!(leases.held_by_others(ONE, &[FILE]), []);
        leases.forget(TWO);
        assert_eq!(leases.held_by_others(ONE, &[DIR]), []);
        assert_eq!(leases.held_by_others(TWO, &[DIR]), [(DIR, ONE)]);
        assert_eq!(leases.count(), 2);
    }

    #[test]
    fn nobody_gets_a_lease_of_what_is_being_changed() {
        let mut leases = Leases::new(3);
        leases.fence(&[FILE]);
        leases.fence(&[FILE]);
        let since = leases.now();
        assert!(!leases.grant(ONE, FILE, since) && leases.grant(ONE, DIR, since));
        leases.unfence(&[FILE]);
        let since = leases.now();
        assert!(!leases.grant(ONE, FILE, since));
        leases.unfence(&[FILE]);
        assert!(!leases.grant(ONE, FILE, since), "read before the change was made");
        assert!(leases.grant(ONE, FILE, leases.now()));
    }

    #[test]
    fn who_reads_for_too_long_gets_no_lease() {
        let mut leases = Leases::new(3);
        let since = leases.now();
        for ino in 0..=CHANGES_MAX as u64 {
            leases.fence(&[Ino(100 + ino)]);
            leases.unfence(&[Ino(100 + ino)]);
        }
        assert!(!leases.grant(ONE, FILE, since), "it may have been changed");
        assert!(leases.grant(ONE, FILE, leases.now()));
        assert!(leases.changes.latest.len() <= CHANGES_MAX);
    }

    #[test]
    fn what_is_given_back_does_not_take_a_younger_lease_along() {
        let mut leases = Leases::new(3);
        let mut before = Leases::new(2);
        assert!((0..9).all(|_| before.grant(ONE, FILE, before.now())));
        assert!(leases.grant(ONE, FILE, leases.now()));
        let heard = leases.now();
        assert!(leases.grant(ONE, FILE, leases.now()));
        leases.given_back(ONE, FILE, heard);
        leases.given_back(ONE, FILE, before.now());
        assert_eq!(leases.held_by_others(TWO, &[FILE]), [(FILE, ONE)]);
        leases.given_back(ONE, FILE, leases.now());
        assert_eq!(leases.held_by_others(TWO, &[FILE]), []);
    }
}
