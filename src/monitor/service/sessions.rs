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

use crate::types::SessionId;

/// How long after sending its last renewal a client may serve from its cache.
pub(super) const LEASE: Duration = Duration::from_secs(12);
/// How long after its last renewal a session is evicted.
pub(super) const EVICTION: Duration = Duration::from_secs(15);
/// How long a holder that was asked to release an inode may show no progress before it is evicted.
pub(super) const RECALL: Duration = Duration::from_secs(10);

/// The sessions of the cluster as the leader sees them. Times are the leader's monotonic clock.
#[derive(Default, Debug)]
pub(super) struct Sessions {
    live: BTreeMap<SessionId, Live>,
}

#[derive(Debug)]
struct Live {
    renewed: Duration,
    progressed: Duration,
    /// When the oldest unanswered recall was sent.
    recalled: Option<Duration>,
    attached: bool,
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

    /// A session was opened, or has told again what it has open.
    pub(super) fn attached(&mut self, id: SessionId, now: Duration) {
        self.live.entry(id).or_insert_with(|| Live::new(now, true)).attached = true;
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

    /// The session was asked to release something.
    pub(super) fn recalled(&mut self, id: SessionId, now: Duration) {
        if let Some(live) = self.live.get_mut(&id) {
            live.recalled.get_or_insert(now);
        }
    }

    /// The session has released everything that it was asked for.
    pub(super) fn settled(&mut self, id: SessionId) {
        if let Some(live) = self.live.get_mut(&id) {
            live.recalled = None;
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
    pub(super) fn expired(&self, now: Duration, servers_wanting: bool) -> Vec<SessionId> {
        let stuck = |live: &Live| {
            !servers_wanting
                && live
                    .recalled
                    .is_some_and(|at| now.saturating_sub(at.max(live.progressed)) > RECALL)
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
        Self { renewed: now, progressed: now, recalled: None, attached }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: SessionId = SessionId(1);
    const TWO: SessionId = SessionId(2);

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
        sessions.recalled(ONE, at(1));
        sessions.recalled(ONE, at(9));
        sessions.renewed(ONE, at(12));
        assert_eq!(sessions.expired(at(12), false), [ONE], "counted from the first recall");
        assert_eq!(sessions.expired(at(12), true), [], "it waits for servers");
        sessions.progressed(ONE, at(11));
        assert_eq!(sessions.expired(at(12), false), []);
        sessions.settled(ONE);
        sessions.renewed(ONE, at(30));
        assert_eq!(sessions.expired(at(40), false), []);
    }
}
