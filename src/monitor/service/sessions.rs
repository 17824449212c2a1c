//! Which clients are alive.
//!
//! A session lives by renewals: the client stops serving from its cache [`LEASE`] after it sent the last one
//! that was answered, the leader evicts it [`EVICTION`] after it arrived. The difference is what clocks may
//! drift and messages may take; because the client's clock starts earlier and runs shorter, it always stops
//! before anybody else is given what it held.
//!
//! A leader that has just started knows from the replicated state which sessions there are, but not what
//! they have open. Until every one of them has attached again, or was evicted, it is in **grace**: nothing
//! that somebody may have open is freed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::types::{Ino, SessionId};

/// How long after sending its last renewal a client may serve from its cache.
pub(super) const LEASE: Duration = Duration::from_secs(12);
/// How long after its last renewal a session is evicted.
pub(super) const EVICTION: Duration = Duration::from_secs(15);
/// How long a holder that was asked to release an inode may show no progress before it is evicted.
pub(super) const RECALL: Duration = Duration::from_secs(10);

/// How often a holder is told that an inode is recalled: each time somebody looks would be too much.
const NOTICE: Duration = Duration::from_millis(400);

/// The sessions of the cluster as the leader sees them. Times are the leader's monotonic clock.
#[derive(Default, Debug)]
pub(super) struct Sessions {
    live: BTreeMap<SessionId, Live>,
}

#[derive(Debug)]
struct Live {
    renewed: Duration,
    progressed: Duration,
    /// Inodes that it was asked to release and that somebody still waits for.
    recalled: BTreeMap<Ino, Recall>,
    attached: bool,
    /// Whether it is being ended: nothing brings it back, or its client would trust its cache again, for a whole
    /// lease, while others are given what it held.
    condemned: bool,
}

#[derive(Debug)]
struct Recall {
    since: Duration,
    /// When the session was told last.
    told: Option<Duration>,
    /// Calls that wait for it.
    waiting: usize,
}

impl Sessions {
    /// What a new leader begins with: the sessions of the replicated state, none of them attached.
    pub(super) fn recover(ids: impl IntoIterator<Item = SessionId>, now: Duration) -> Self {
        let mut sessions = Self::default();
        for id in ids {
            sessions.live.insert(id, Live::new(now, false));
        }
        sessions
    }

    /// A session was opened, or has told again what it has open. What it was told before is told again.
    pub(super) fn attached(&mut self, id: SessionId, now: Duration) {
        let live = self.live.entry(id).or_insert_with(|| Live::new(now, true));
        live.attached = true;
        live.progressed = now;
        live.recalled.values_mut().for_each(|recall| recall.told = None);
        self.renewed(id, now);
    }

    /// A renewal arrived. False when there is no such session.
    pub(super) fn renewed(&mut self, id: SessionId, now: Duration) -> bool {
        self.live.get_mut(&id).map(|live| live.renewed = now).is_some()
    }

    /// The session has committed or released something.
    pub(super) fn progressed(&mut self, id: SessionId, now: Duration) {
        if let Some(live) = self.live.get_mut(&id) {
            live.progressed = now;
        }
    }

    /// One more call waits for the session to release an inode; [`Self::settled`] must follow.
    pub(super) fn recalled(&mut self, id: SessionId, ino: Ino, now: Duration) {
        if let Some(live) = self.live.get_mut(&id) {
            let new = || Recall { since: now, told: None, waiting: 0 };
            live.recalled.entry(ino).or_insert_with(new).waiting += 1;
        }
    }

    /// Whether the session should be told (again) that an inode is recalled; it counts as told then.
    pub(super) fn wants_notice(&mut self, id: SessionId, ino: Ino, now: Duration) -> bool {
        let recall = self.live.get_mut(&id).and_then(|live| live.recalled.get_mut(&ino));
        recall.is_some_and(|recall| {
            let wants = recall.told.is_none_or(|told| now.saturating_sub(told) >= NOTICE);
            if wants {
                recall.told = Some(now);
            }
            wants
        })
    }

    /// A call waits no more for the session to release that inode: it has, or the call was given up.
    pub(super) fn settled(&mut self, id: SessionId, ino: Ino) {
        if let Some(live) = self.live.get_mut(&id)
            && let Some(recall) = live.recalled.get_mut(&ino)
        {
            recall.waiting -= 1;
            if recall.waiting == 0 {
                live.recalled.remove(&ino);
            }
        }
    }

    /// This process stood still for a while, and could hear nobody: that is held against nobody.
    pub(super) fn excuse(&mut self, pause: Duration) {
        for live in self.live.values_mut() {
            live.renewed += pause;
            live.progressed += pause;
        }
    }

    /// [`Self::expired`]; all of them are being evicted from now on.
    pub(super) fn condemn_expired(
        &mut self,
        now: Duration,
        servers_wanting: bool,
    ) -> Vec<SessionId> {
        let expired = self.expired(now, servers_wanting);
        expired.iter().for_each(|id| self.condemn(*id));
        expired
    }

    /// It is being ended from now on.
    pub(super) fn condemn(&mut self, id: SessionId) {
        if let Some(live) = self.live.get_mut(&id) {
            live.condemned = true;
        }
    }

    /// Whether it is being ended: it can be neither attached nor renewed.
    pub(super) fn is_condemned(&self, id: SessionId) -> bool {
        self.live.get(&id).is_some_and(|live| live.condemned)
    }

    /// Its end failed; it may come back before the next try.
    pub(super) fn pardon(&mut self, id: SessionId) {
        if let Some(live) = self.live.get_mut(&id) {
            live.condemned = false;
        }
    }

    /// The session is gone.
    pub(super) fn closed(&mut self, id: SessionId) {
        self.live.remove(&id);
    }

    /// Whether some session has not attached since this leader started.
    pub(super) fn in_grace(&self) -> bool {
        self.live.values().any(|live| !live.attached)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.live.len()
    }

    /// Sessions to evict now: silent for too long, or, unless all clients have to wait for servers
    /// (`servers_wanting`), sitting on a recall without any progress.
    fn expired(&self, now: Duration, servers_wanting: bool) -> Vec<SessionId> {
        let stuck = |live: &Live| {
            let oldest = live.recalled.values().map(|recall| recall.since).min();
            !servers_wanting
                && live.attached
                && oldest.is_some_and(|at| now.saturating_sub(at.max(live.progressed)) > RECALL)
        };
        let silent = |live: &Live| now.saturating_sub(live.renewed) > EVICTION;
        self.live
            .iter()
            .filter(|(_, live)| silent(live) || stuck(live))
            .map(|(id, _)| *id)
            .collect()
    }
}

impl Live {
    fn new(now: Duration, attached: bool) -> Self {
        let recalled = BTreeMap::new();
        Self { renewed: now, progressed: now, recalled, attached, condemned: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: SessionId = SessionId(1);
    const TWO: SessionId = SessionId(2);
    const FILE: Ino = Ino(7);
    const OTHER: Ino = Ino(8);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_silent_session_expires_after_the_client_has_stopped_trusting_its_cache() {
        assert!(LEASE < EVICTION);
        let mut sessions = Sessions::default();
        sessions.attached(ONE, at(0));
        sessions.attached(TWO, at(0));
        assert!(sessions.renewed(TWO, at(10)));
        assert_eq!(sessions.expired(at(15), false), []);
        assert_eq!(sessions.expired(at(16), false), [ONE]);
        sessions.closed(ONE);
        assert!(!sessions.renewed(ONE, at(16)));
        assert_eq!(sessions.count(), 1);
    }

    #[test]
    fn grace_ends_when_everybody_attached_or_is_gone() {
        let mut sessions = Sessions::recover([ONE, TWO], at(0));
        assert!(sessions.in_grace());
        sessions.attached(ONE, at(1));
        assert!(sessions.in_grace());
        assert_eq!(sessions.expired(at(16), false), [TWO]);
        sessions.closed(TWO);
        assert!(!sessions.in_grace());
    }

    #[test]
    fn a_recall_is_answered_by_progress_or_ends_in_eviction() {
        let mut sessions = Sessions::default();
        sessions.attached(ONE, at(0));
        sessions.recalled(ONE, FILE, at(1));
        sessions.recalled(ONE, FILE, at(9));
        sessions.renewed(ONE, at(12));
        assert_eq!(sessions.expired(at(12), false), [ONE], "counted from the first recall");
        assert_eq!(sessions.expired(at(12), true), [], "it waits for servers");
        sessions.progressed(ONE, at(11));
        assert_eq!(sessions.expired(at(12), false), []);
        sessions.renewed(ONE, at(30));
        sessions.settled(ONE, FILE);
        assert_eq!(sessions.expired(at(40), false), [ONE], "somebody waits still");
        sessions.settled(ONE, FILE);
        assert_eq!(sessions.expired(at(40), false), []);
    }

    #[test]
    fn what_was_released_does_not_hide_what_was_not() {
        let mut sessions = Sessions::default();
        sessions.attached(ONE, at(0));
        sessions.recalled(ONE, FILE, at(1));
        sessions.recalled(ONE, OTHER, at(8));
        sessions.settled(ONE, OTHER);
        sessions.renewed(ONE, at(12));
        assert_eq!(sessions.expired(at(12), false), [ONE]);
    }

    #[test]
    fn a_session_that_has_yet_to_attach_has_until_it_counts_as_silent() {
        let mut sessions = Sessions::recover([ONE], at(0));
        sessions.recalled(ONE, FILE, at(1));
        assert_eq!(sessions.expired(at(15), false), []);
        sessions.attached(ONE, at(15));
        assert!(sessions.wants_notice(ONE, FILE, at(15)));
        assert!(!sessions.wants_notice(ONE, FILE, at(15)));
        assert!(sessions.wants_notice(ONE, FILE, at(16)));
        assert_eq!(sessions.expired(at(25), false), []);
        assert_eq!(sessions.expired(at(26), false), [ONE]);
    }

    #[test]
    fn who_is_being_evicted_does_not_come_back_unless_that_fails() {
        let mut sessions = Sessions::default();
        sessions.attached(ONE, at(0));
        sessions.attached(TWO, at(9));
        assert_eq!(sessions.condemn_expired(at(16), false), [ONE]);
        assert!(sessions.is_condemned(ONE) && !sessions.is_condemned(TWO));
        sessions.pardon(ONE);
        assert!(!sessions.is_condemned(ONE));
    }

    #[test]
    fn a_monitor_that_stood_still_evicts_nobody_for_it() {
        let mut sessions = Sessions::default();
        sessions.attached(ONE, at(0));
        sessions.excuse(at(100));
        assert_eq!(sessions.expired(at(101), false), []);
        assert_eq!(sessions.expired(at(116), false), [ONE]);
    }
}
