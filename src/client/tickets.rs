//! The client's tickets: what shows the storage servers that the monitors let it in.
//!
//! The life of a ticket: it comes with the session and with renewals, all that the client has at a time, and is
//! shown to its server before the next call there. After a third of its life the next renewal asks for new ones, so
//! that nobody ever waits for them. What can go wrong is mended by asking at once: a server that refuses a ticket
//! (its key is another, clocks were set) makes the call wait for the next set, and be asked again once.
//!
//! Every set has a number, and each connection knows which it has shown: that is all that a call looks at.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::types::{ServerId, SignedTicket, TICKET_LIFE};

/// How long a call waits for new tickets.
const PATIENCE: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Default)]
pub(crate) struct Tickets {
    held: watch::Sender<Held>,
    /// A server refused one of them.
    refused: AtomicBool,
    wanted: Notify,
}

#[derive(Default)]
struct Held {
    number: u64,
    /// When they were asked for.
    since: Duration,
    by_server: HashMap<ServerId, Vec<SignedTicket>>,
}

impl Tickets {
    /// The monitors have sent these, which are all, to who asked at `sent` (the client's monotonic clock). An answer
    /// that was overtaken by a later one says nothing.
    pub(crate) fn received(&self, tickets: Vec<SignedTicket>, sent: Duration) {
        if sent < self.held.borrow().since {
            return;
        }
        let mut by_server: HashMap<ServerId, Vec<SignedTicket>> = HashMap::new();
        for signed in tickets {
            by_server.entry(signed.ticket.server).or_default().push(signed);
        }
        self.refused.store(false, Ordering::SeqCst);
        self.held.send_modify(|held| {
            *held = Held { number: held.number + 1, since: sent, by_server };
        });
    }

    /// Whether it is time to ask for new ones.
    pub(crate) fn are_due(&self, now: Duration) -> bool {
        self.refused.load(Ordering::SeqCst)
            || now.saturating_sub(self.held.borrow().since) >= TICKET_LIFE / 3
    }

    /// Resolves when somebody waits for new ones.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// The number of the set that is held; 0 before the first.
    pub(crate) fn number(&self) -> u64 {
        self.held.borrow().number
    }

    /// Those for a server, and the number of the set.
    pub(crate) fn of(&self, server: ServerId) -> (u64, Vec<SignedTicket>) {
        let held = self.held.borrow();
        (held.number, held.by_server.get(&server).cloned().unwrap_or_default())
    }

    /// The set of that number was refused: waits for a later one, not for ever. Whether there is one.
    pub(crate) async fn later_than(&self, number: u64) -> bool {
        let mut held = self.held.subscribe();
        if held.borrow_and_update().number > number {
            return true;
        }
        self.refused.store(true, Ordering::SeqCst);
        self.wanted.notify_one();
        let later = held.wait_for(|held| held.number > number);
        tokio::time::timeout(PATIENCE, later).await.is_ok_and(|later| later.is_ok())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test]
    async fn new_ones_are_asked_for_in_time_or_when_old_ones_are_refused() {
        let tickets = Arc::new(Tickets::default());
        tickets.received(Vec::new(), at(100));
        assert!(!tickets.are_due(at(119)));
        assert!(tickets.are_due(at(120)));
        let waiting = Arc::clone(&tickets);
        let waits = tokio::spawn(async move { waiting.later_than(1).await });
        tickets.wanted().await;
        assert!(tickets.are_due(at(100)));
        tickets.received(Vec::new(), at(100));
        assert!(waits.await.unwrap());
        assert!(!tickets.are_due(at(100)), "these were refused by nobody");
        assert!(tickets.later_than(1).await, "it is there already");
        tickets.received(Vec::new(), at(99));
        assert_eq!(tickets.number(), 2, "overtaken");
    }
}
