//! Which clients are alive.
//!
//! A session lives by renewals: the client stops serving from its cache [`LEASE`] after it sent the last one
//! that was answered, the leader evicts it [`EVICTION`] after it arrived. The difference is what clocks may
//! drift and messages may take; because the client's clock starts earlier and runs shorter, it always stops
//! before anybody else is given what it held. That is the only way in which a session is evicted: one that renews
//! but does not release what others wait for is not prolonged any more, until it shows progress or its time is over.
//! (Evicting it at once would leave it serving what is not true any more, for as long as its lease lasts.)
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
/// How long a holder that was asked to release an inode may show no progress before its lease is not prolonged.
pub(super) const RECALL: Duration = Duration::from_secs(3);

/// How often a holder is told that an inode is recalled: each time somebody looks would be too much.
const NOTICE: Duration = Duration::from_millis(400);

/// The sessions of the cluster as the leader sees them. Times are the leader's monotonic clock.
#[derive(Default, Debug)]
pub(super) struct Sessions {
    live: BTreeMap<SessionId, Live>,
}

/// What a renewal brings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Renewal {
    /// The lease begins anew.
    Prolonged,
    /// It goes on to run out: others wait for what the session does not release.
    Withheld,
    /// There is no such session.
    Gone,
}

#[derive(Debug)]
struct Live {
    /// When its lease was prolonged last.
    renewed: Duration,
    progressed: Duration,
    /// Inodes that it was asked to release and that somebody still waits for.
    recalled: BTreeMap<Ino, Recall>,
    attached: bool,
    /// Whether it is being ended: nothing brings it back, or its client would trust its cache again, for a whole
    /// lease, while others are given what it held.
    condemned: bool,
}

/// What a session is asked to give back of an inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    /// The exclusive grant.
    Grant,
    /// The shared lease.
    Lease,
}

#[derive(Debug)]
struct Recall {
    since: Duration,
    /// When the session was told last that its grant is wanted.
    told_grant: Option<Duration>,
    /// Likewise its lease. Apart: a holder that has just released takes a lease right then, and who waits for both must not
    /// wait for the next notice.
    told_lease: Option<Duration>,
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
        for recall in live.recalled.values_mut() {
            (recall.told_grant, recall.told_lease) = (None, None);
        }
        live.renewed = now;
    }

    /// A renewal arrived. While all clients have to wait for servers (`servers_wanting`) nobody is blamed for it.
    pub(super) fn renewed(
        &mut self,
        id: SessionId,
        now: Duration,
        servers_wanting: bool,
    ) -> Renewal {
        match self.live.get_mut(&id) {
            Some(live) if live.is_stuck(now) && !servers_wanting => Renewal::Withheld,
            Some(live) => {
                live.renewed = now;
                Renewal::Prolonged
            }
            None => Renewal::Gone,
        }
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
            let new = || Recall { since: now, told_grant: None, told_lease: None, waiting: 0 };
            live.recalled.entry(ino).or_insert_with(new).waiting += 1;
        }
    }

    /// Whether the session should be told (again) what is wanted of an inode; it counts as told then.
    pub(super) fn wants_notice(
        &mut self,
        id: SessionId,
        ino: Ino,
        wanted: Wanted,
        now: Duration,
    ) -> bool {
        let recall = self.live.get_mut(&id).and_then(|live| live.recalled.get_mut(&ino));
        recall.is_some_and(|recall| {
            let told = match wanted {
                Wanted::Grant => &mut recall.told_grant,
                Wanted::Lease => &mut recall.told_lease,
            };
            let wants = told.is_none_or(|told| now.saturating_sub(told) >= NOTICE);
            if wants {
                *told = Some(now);
            }
            wants
        })
    }

    /// It has given that back. If it takes it again, it is told again, at once, that others want it.
    pub(super) fn gave_back(&mut self, id: SessionId, ino: Ino, what: Wanted) {
        let recall = self.live.get_mut(&id).and_then(|live| live.recalled.get_mut(&ino));
        if let Some(recall) = recall {
            match what {
                Wanted::Grant => recall.told_grant = None,
                Wanted::Lease => recall.told_lease = None,
            }
        }
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
    pub(super) fn condemn_expired(&mut self, now: Duration) -> Vec<SessionId> {
        let expired = self.expired(now);
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

    /// Sessions to evict now: what they held is not served by them any more.
    fn expired(&self, now: Duration) -> Vec<SessionId> {
        let silent = |live: &Live| now.saturating_sub(live.renewed) > EVICTION;
        self.live.iter().filter(|(_, live)| silent(live)).map(|(id, _)| *id).collect()
    }
}

impl Live {
    fn new(now: Duration, attached: bool) -> Self {
        let recalled = BTreeMap::new();
        Self { renewed: now, progressed: now, recalled, attached, condemned: false }
    }

    /// Whether it sits on a recall without any progress.
    fn is_stuck(&self, now: Duration) -> bool {
        let oldest = self.recalled.values().map(|recall| recall.since).min();
        self.attached
            && oldest.is_some_and(|at| now.saturating_sub(at.max(self.progressed)) > RECALL)
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
        assert_eq!(sessions.renewed(TWO, at(10), false), Renewal::Prolonged);
        assert_eq!(sessions.expired(at(15)), []);
        assert_eq!(sessions.expired(at(16)), [ONE]);
        sessions.closed(ONE);
        assert_eq!(sessions.renewed(ONE, at(16), false), Renewal::Gone);
        assert_eq!(sessions.count(), 1);
    }

    #[test]
    fn grace_ends_when_everybody_attached_or_is_gone() {
        let mut sessions = Sessions::recover([ONE, TWO], at(0));
        assert!(sessions.in_grace());
        sessions.attached(ONE, at(1));
        assert!(sessions.in_grace());
        assert_eq!(sessions.expired(at(16)), [TWO]);
        sessions.closed(TWO);
        assert!(!sessions.in_grace());
    }

    #[test]
    fn a_recall_is_answered_by_progress_or_ends_in_eviction() {
        let mut sessions = Sessions::default();
        sessions.attached(ONE, at(0));
        sessions.recalled(ONE, FILE, at(1));
        sessions.recalled(ONE, FILE, at(5));
        assert_eq!(sessions.renewed(ONE, at(4), false), Renewal::Prolonged);
        assert_eq!(
            sessions.renewed(ONE, at(6), false),
            Renewal::Withheld,
            "since the first recall"
        );
        assert_eq!(sessions.renewed(ONE, at(6), true), Renewal::Prolonged, "it waits for servers");
        sessions.progressed(ONE, at(7));
        assert_eq!(sessions.renewed(ONE, at(10), false), Renewal::Prolonged);
        sessions.settled(ONE, FILE);
        assert_eq!(sessions.renewed(ONE, at(12), false), Renewal::Withheld, "somebody waits still");
        assert_eq!(sessions.expired(at(25)), []);
        assert_eq!(sessions.expired(at(26)), [ONE]);
        sessions.settled(ONE, FILE);
        assert_eq!(sessions.renewed(ONE, at(26), false), Renewal::Prolonged);
        assert_eq!(sessions.expired(at(26)), []);
    }

    #[test]
    fn nobody_is_given_what_a_client_holds_that_may_still_serve_it() {
        // Cut off right after a renewal, and recalled.
        let mut sessions = Sessions::default();
        sessions.attached(ONE, at(0));
        assert_eq!(sessions.renewed(ONE, at(10), false), Renewal::Prolonged);
        sessions.recalled(ONE, FILE, at(10));
        assert_eq!(sessions.expired(at(10) + LEASE), []);
        // Or it renews and does nothing else: its last prolonged lease counts.
        for second in 10..40 {
            if sessions.renewed(ONE, at(second), false) == Renewal::Prolonged {
                assert_eq!(sessions.expired(at(second) + LEASE), []);
            }
        }
        assert_eq!(sessions.expired(at(40)), [ONE]);
    }

    #[test]
    fn what_was_released_does_not_hide_what_was_not() {
        let mut sessions = Sessions::default();
        sessions.attached(ONE, at(0));
        sessions.recalled(ONE, FILE, at(1));
        sessions.recalled(ONE, OTHER, at(3));
        sessions.settled(ONE, OTHER);
        assert_eq!(sessions.renewed(ONE, at(5), false), Renewal::Withheld);
    }

    #[test]
    fn a_session_that_has_yet_to_attach_has_until_it_counts_as_silent() {
        let mut sessions = Sessions::recover([ONE], at(0));
        sessions.recalled(ONE, FILE, at(1));
        assert_eq!(sessions.expired(at(15)), []);
        sessions.attached(ONE, at(15));
        assert!(sessions.wants_notice(ONE, FILE, Wanted::Grant, at(15)));
        assert!(!sessions.wants_notice(ONE, FILE, Wanted::Grant, at(15)));
        assert!(sessions.wants_notice(ONE, FILE, Wanted::Grant, at(16)));
        assert_eq!(sessions.renewed(ONE, at(18), false), Renewal::Prolonged);
        assert_eq!(sessions.renewed(ONE, at(19), false), Renewal::Withheld);
    }

    #[test]
    fn who_was_asked_for_its_grant_is_asked_for_its_lease_at_once() {
        let mut sessions = Sessions::default();
        sessions.attached(ONE, at(0));
        sessions.recalled(ONE, FILE, at(1));
        assert!(sessions.wants_notice(ONE, FILE, Wanted::Grant, at(1)));
        assert!(sessions.wants_notice(ONE, FILE, Wanted::Lease, at(1)));
        assert!(!sessions.wants_notice(ONE, FILE, Wanted::Grant, at(1)));
        assert!(!sessions.wants_notice(ONE, FILE, Wanted::Lease, at(1)));
        sessions.gave_back(ONE, FILE, Wanted::Lease);
        assert!(sessions.wants_notice(ONE, FILE, Wanted::Lease, at(1)), "it has taken it again");
        assert!(!sessions.wants_notice(ONE, FILE, Wanted::Grant, at(1)));
    }

    #[test]
    fn who_is_being_evicted_does_not_come_back_unless_that_fails() {
        let mut sessions = Sessions::default();
        sessions.attached(ONE, at(0));
        sessions.attached(TWO, at(9));
        assert_eq!(sessions.condemn_expired(at(16)), [ONE]);
        assert!(sessions.is_condemned(ONE) && !sessions.is_condemned(TWO));
        sessions.pardon(ONE);
        assert!(!sessions.is_condemned(ONE));
    }

    #[test]
    fn a_monitor_that_stood_still_evicts_nobody_for_it() {
        let mut sessions = Sessions::default();
        sessions.attached(ONE, at(0));
        sessions.excuse(at(100));
        assert_eq!(sessions.expired(at(101)), []);
        assert_eq!(sessions.expired(at(116)), [ONE]);
    }
}
