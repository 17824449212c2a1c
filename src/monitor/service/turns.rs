//! Whose turn it is to take a file exclusively.
//!
//! Two hosts write one file. Whoever gives it up wants it back for its next write, and finds it free, while the other one
//! still waits for the pages that the first has of it. So the first would get it again, and again: its own pages are in
//! nobody's way. That is well for a while: many writes in a row are quicker than a file that changes hands for each.
//! But who has waited for [`LONG`] comes next, in the order in which they asked.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::reign::Reign;
use super::unreadable;
use crate::monitor::namespace::caps;
use crate::types::{Ino, SessionId};
use crate::wire::metadata::Refusal;

/// How long others may be faster.
const LONG: Duration = Duration::from_millis(500);

/// Who waits for which file, and since when, in order.
#[derive(Default)]
pub(super) struct Turns {
    next: u64,
    waiting: HashMap<Ino, VecDeque<(u64, Duration)>>,
}

impl Turns {
    fn queue(&mut self, ino: Ino, now: Duration) -> u64 {
        self.next += 1;
        self.waiting.entry(ino).or_default().push_back((self.next, now));
        self.next
    }

    /// Whether nobody has to be let go first.
    fn may_go(&self, ino: Ino, number: u64, now: Duration) -> bool {
        let first = self.waiting.get(&ino).and_then(|waiting| waiting.front());
        first.is_none_or(|(first, since)| *first == number || now < *since + LONG)
    }

    /// Somebody does not wait any more; whether others do.
    fn leave(&mut self, ino: Ino, number: u64) -> bool {
        let Some(waiting) = self.waiting.get_mut(&ino) else { return false };
        waiting.retain(|(other, _)| *other != number);
        let others = !waiting.is_empty();
        if !others {
            self.waiting.remove(&ino);
        }
        others
    }
}

/// A place in the queue for a file, until it is dropped.
pub(super) struct Turn {
    reign: Arc<Reign>,
    ino: Ino,
    number: u64,
}

impl Turn {
    /// Waits until everybody who has waited for long has the file, or gave up; or until the session has it already, and has only
    /// not heard of it: the next one may be waiting for just that session to give it up.
    pub(super) async fn wait(
        reign: &Arc<Reign>,
        session: SessionId,
        ino: Ino,
    ) -> Result<Self, Refusal> {
        let now = || reign.clock.monotonic();
        let number = reign.state.lock().turns.queue(ino, now());
        let turn = Self { reign: Arc::clone(reign), ino, number };
        let may_go = || reign.state.lock().turns.may_go(ino, number, now());
        let holder = || caps::holder(&*reign.store, ino).map_err(unreadable);
        reign.wait_until(|| Ok((may_go() || holder()? == Some(session)).then_some(()))).await?;
        Ok(turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let others = self.reign.state.lock().turns.leave(self.ino, self.number);
        if others {
            self.reign.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_waited_for_long_comes_next() {
        let (mut turns, file, other) = (Turns::default(), Ino(7), Ino(8));
        let later = LONG + Duration::from_millis(1);
        let [first, second, third] = [0, 0, 1].map(|at| turns.queue(file, later * at));
        let elsewhere = turns.queue(other, later);
        assert!(turns.may_go(file, second, Duration::ZERO), "nobody has waited for long");
        assert!(turns.may_go(file, first, later) && turns.may_go(other, elsewhere, later));
        assert!(!turns.may_go(file, second, later) && !turns.may_go(file, third, later));
        assert!(turns.leave(file, first));
        assert!(turns.may_go(file, second, later) && !turns.may_go(file, third, later));
        assert!(turns.leave(file, second), "who gives up waiting is passed over");
        assert!(turns.may_go(file, third, later));
        assert!(!turns.leave(file, third) && !turns.leave(other, elsewhere));
        assert!(turns.waiting.is_empty());
    }
}
