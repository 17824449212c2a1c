//! Whose turn it is to take a file exclusively.
//!
//! Two hosts write one file. Whoever gives it up wants it back for its next write, and finds it free, while the other one
//! still waits for the pages that the first has of it. So the first would get it again, and again: its own pages are in
//! nobody's way. Hence they come in turns, in the order in which they asked, each until its change is in the log.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::reign::Reign;
use super::unreadable;
use crate::monitor::namespace::caps;
use crate::types::{Ino, SessionId};
use crate::wire::metadata::Refusal;

/// Who waits for which file, in order.
#[derive(Default)]
pub(super) struct Turns {
    next: u64,
    waiting: HashMap<Ino, VecDeque<u64>>,
}

impl Turns {
    fn queue(&mut self, ino: Ino) -> u64 {
        self.next += 1;
        self.waiting.entry(ino).or_default().push_back(self.next);
        self.next
    }

    fn is_next(&self, ino: Ino, number: u64) -> bool {
        self.waiting.get(&ino).is_some_and(|waiting| waiting.front() == Some(&number))
    }

    /// Somebody does not wait any more; whether others do.
    fn leave(&mut self, ino: Ino, number: u64) -> bool {
        let Some(waiting) = self.waiting.get_mut(&ino) else { return false };
        waiting.retain(|other| *other != number);
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
    /// Waits until everybody who asked before has the file, or gave up; or until the session has it already, and has only
    /// not heard of it: the next one may be waiting for just that session to give it up.
    pub(super) async fn wait(
        reign: &Arc<Reign>,
        session: SessionId,
        ino: Ino,
    ) -> Result<Self, Refusal> {
        let number = reign.state.lock().turns.queue(ino);
        let turn = Self { reign: Arc::clone(reign), ino, number };
        let is_next = || reign.state.lock().turns.is_next(ino, number);
        let holder = || caps::holder(&*reign.store, ino).map_err(unreadable);
        reign.wait_until(|| Ok((is_next() || holder()? == Some(session)).then_some(()))).await?;
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
    fn they_come_in_the_order_in_which_they_asked() {
        let (mut turns, file, other) = (Turns::default(), Ino(7), Ino(8));
        let [first, second, third] = [(); 3].map(|()| turns.queue(file));
        let elsewhere = turns.queue(other);
        assert!(turns.is_next(file, first) && turns.is_next(other, elsewhere));
        assert!(turns.leave(file, second), "who gives up waiting is passed over");
        assert!(!turns.is_next(file, third));
        assert!(turns.leave(file, first));
        assert!(turns.is_next(file, third));
        assert!(!turns.leave(file, third) && !turns.leave(other, elsewhere));
        assert!(turns.waiting.is_empty());
    }
}
