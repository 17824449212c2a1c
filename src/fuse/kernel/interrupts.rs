//! Which requests are under way, and whose programs have to be looked at. Pure: the time comes in.
//!
//! Only requests that could not be answered at once are here. The kernel says once of each that its program
//! got a signal (FUSE_INTERRUPT), whatever the signal was, and nothing when a worse one follows; of reads and
//! writes that it splits it says nothing at all. So everything here that was interrupted is looked at again
//! and again, and so is everything that has waited for [`PATIENCE`].
//!
//! A signal may be read by another thread before the request it is for has been entered here: until then its
//! number is kept. It may also be read after the answer was sent; numbers are never used again, so nothing
//! comes of it, and it is forgotten when many others have followed.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::process::Fate;

/// How long a request waits before its program is looked at without a word of the kernel.
const PATIENCE: Duration = Duration::from_millis(300);

/// How long a program that we cannot look at waits after a signal. It may be one that it would rather not have
/// noticed, so whoever answers in time should win; but it may also be SIGKILL.
const UNSEEN_PATIENCE: Duration = Duration::from_millis(700);

/// How long a program waits that has ended by itself: nobody can end its wait.
const EXIT_PATIENCE: Duration = Duration::from_secs(5);

/// Signals for requests that are not here (yet) which are kept.
const EARLY_MAX: usize = 256;

/// See the module. `R` stands for a request.
#[derive(Debug)]
pub(super) struct UnderWay<R> {
    requests: HashMap<u64, Waiting<R>>,
    early: VecDeque<u64>,
}

#[derive(Debug)]
struct Waiting<R> {
    request: R,
    since: Instant,
    interrupted: Option<Instant>,
}

/// A request whose program is to be looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Suspect<R> {
    /// The request.
    pub(super) request: R,
    /// For how long it has waited.
    pub(super) waited_for: Duration,
    /// How long ago its program got a signal, if it is known to have got one.
    pub(super) interrupted_for: Option<Duration>,
}

impl<R: Clone> UnderWay<R> {
    /// Nothing is.
    pub(super) fn new() -> Self {
        Self { requests: HashMap::new(), early: VecDeque::new() }
    }

    /// Whether nothing is.
    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// A request begins to wait; whether its program has got a signal already.
    pub(super) fn enter(&mut self, unique: u64, request: R, now: Instant) -> bool {
        let early = self.early.iter().position(|interrupted| *interrupted == unique);
        if let Some(early) = early {
            self.early.remove(early);
        }
        let interrupted = early.map(|_| now);
        self.requests.insert(unique, Waiting { request, since: now, interrupted });
        interrupted.is_some()
    }

    /// It was answered.
    pub(super) fn leave(&mut self, unique: u64) {
        self.requests.remove(&unique);
    }

    /// Its program got a signal; gives the request if it is here.
    pub(super) fn interrupt(&mut self, unique: u64, now: Instant) -> Option<R> {
        match self.requests.get_mut(&unique) {
            Some(waiting) => {
                waiting.interrupted.get_or_insert(now);
                Some(waiting.request.clone())
            }
            None => {
                self.early.push_back(unique);
                if self.early.len() > EARLY_MAX {
                    self.early.pop_front();
                }
                None
            }
        }
    }

    /// All whose programs are to be looked at.
    pub(super) fn suspects(&self, now: Instant) -> Vec<Suspect<R>> {
        let suspicious = |waiting: &&Waiting<R>| {
            waiting.interrupted.is_some()
                || now.saturating_duration_since(waiting.since) >= PATIENCE
        };
        let suspect = |waiting: &Waiting<R>| Suspect {
            request: waiting.request.clone(),
            waited_for: now.saturating_duration_since(waiting.since),
            interrupted_for: waiting.interrupted.map(|at| now.saturating_duration_since(at)),
        };
        self.requests.values().filter(suspicious).map(suspect).collect()
    }
}

impl<R> Suspect<R> {
    /// Whether its program is to get an answer although there is none: it would not live to use a better one.
    pub(super) fn must_end(&self, fate: Fate) -> bool {
        match fate {
            Fate::Dies => true,
            Fate::Lives => false,
            Fate::Exits => self.waited_for >= EXIT_PATIENCE,
            Fate::Unknown => self.interrupted_for.is_some_and(|since| since >= UNSEEN_PATIENCE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    fn names(suspects: Vec<Suspect<&'static str>>) -> Vec<&'static str> {
        let mut names: Vec<_> = suspects.into_iter().map(|suspect| suspect.request).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn the_interrupted_are_looked_at_at_once_and_the_others_after_a_while() {
        let start = Instant::now();
        let mut under_way = UnderWay::new();
        assert!(!under_way.enter(2, "read", start));
        assert!(!under_way.enter(4, "write", start));
        assert_eq!(names(under_way.suspects(start)), [""; 0]);
        assert_eq!(under_way.interrupt(4, start), Some("write"));
        assert_eq!(names(under_way.suspects(start)), ["write"]);
        assert_eq!(names(under_way.suspects(start + PATIENCE)), ["read", "write"]);
        under_way.leave(4);
        assert_eq!(names(under_way.suspects(start + PATIENCE)), ["read"]);
        under_way.leave(2);
        assert!(under_way.is_empty());
    }

    #[test]
    fn a_signal_may_come_before_its_request() {
        let now = Instant::now();
        let mut under_way = UnderWay::new();
        assert_eq!(under_way.interrupt(6, now), None);
        assert!(!under_way.enter(4, "other", now));
        assert!(under_way.enter(6, "interrupted", now));
        assert_eq!(names(under_way.suspects(now)), ["interrupted"]);
        under_way.leave(6);
        assert!(!under_way.enter(6, "a signal counts once", now));
    }

    #[test]
    fn signals_after_the_answer_do_not_pile_up() {
        let now = Instant::now();
        let mut under_way = UnderWay::<&str>::new();
        for unique in 0..10 * EARLY_MAX as u64 {
            under_way.interrupt(unique, now);
        }
        assert_eq!(under_way.early.len(), EARLY_MAX);
        assert!(under_way.enter(10 * EARLY_MAX as u64 - 1, "the last one counts", now));
    }

    #[test]
    fn who_dies_gets_an_answer_and_who_is_not_seen_after_a_while() {
        let suspect =
            |waited_for, interrupted_for| Suspect { request: (), waited_for, interrupted_for };
        let interrupted_for = |since| suspect(Duration::ZERO, since);
        let never = interrupted_for(None);
        assert!(never.must_end(Fate::Dies));
        assert!(!never.must_end(Fate::Lives) && !never.must_end(Fate::Unknown));
        assert!(!suspect(EXIT_PATIENCE - MOMENT, None).must_end(Fate::Exits));
        assert!(suspect(EXIT_PATIENCE, None).must_end(Fate::Exits));
        let now = interrupted_for(Some(UNSEEN_PATIENCE - MOMENT));
        assert!(now.must_end(Fate::Dies));
        assert!(!now.must_end(Fate::Lives) && !now.must_end(Fate::Unknown));
        let long_ago = interrupted_for(Some(UNSEEN_PATIENCE));
        assert!(long_ago.must_end(Fate::Unknown) && !long_ago.must_end(Fate::Lives));
    }

    #[test]
    fn a_second_signal_does_not_begin_the_wait_anew() {
        let start = Instant::now();
        let mut under_way = UnderWay::new();
        under_way.enter(2, "read", start);
        under_way.interrupt(2, start);
        under_way.interrupt(2, start + UNSEEN_PATIENCE / 2);
        let suspects = under_way.suspects(start + UNSEEN_PATIENCE);
        assert!(suspects[0].must_end(Fate::Unknown));
    }
}
