//! Who of this mount waits for a lock, and telling the leader so.
//!
//! A wait is a ticket in a table here and in the leader's queue. The leader hears of new ones at once, of all of
//! them when it is another, and of all of them now and then: it may have lost any. One task says it all, one request
//! after another, so that no older word arrives after a newer one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::client::session::Session;
use crate::types::{Errno, LockRequest};
use crate::wire::locks::{Awaited, Forgotten, LockWait, WAITS_MAX};
use crate::wire::metadata::Request;

/// How often all waits are said again.
const AGAIN: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct Waits {
    session: Arc<Session>,
    state: Mutex<State>,
    /// Rings when there is something to say.
    news: Notify,
}

#[derive(Default)]
struct State {
    last_ticket: u64,
    waiting: BTreeMap<u64, Waiting>,
    forgotten: Vec<Forgotten>,
}

struct Waiting {
    request: LockRequest,
    is_said: bool,
    /// Who sleeps: `Ok` to try again.
    wake: oneshot::Sender<Result<(), Errno>>,
}

impl State {
    fn wake(&mut self, ticket: u64, with: Result<(), Errno>) {
        if let Some(waiting) = self.waiting.remove(&ticket) {
            // Who does not sleep any more has forgotten the ticket.
            waiting.wake.send(with).ok();
        }
    }

    /// What the leader has not heard.
    fn unsaid(&mut self) -> Vec<LockWait> {
        let unsaid = self.waiting.iter_mut().filter(|(_, waiting)| !waiting.is_said);
        let said = unsaid.map(|(&ticket, waiting)| {
            waiting.is_said = true;
            LockWait { ticket, request: waiting.request }
        });
        said.collect()
    }
}

impl Waits {
    /// Nobody waits.
    pub(super) fn new(session: Arc<Session>) -> Arc<Self> {
        Arc::new(Self { session, state: Mutex::default(), news: Notify::new() })
    }

    /// Somebody who may have to wait.
    pub(super) fn waiter(self: &Arc<Self>, request: LockRequest) -> Waiter {
        let mut state = self.state.lock();
        state.last_ticket += 1;
        let ticket = state.last_ticket;
        Waiter { waits: Arc::clone(self), request, ticket, is_announced: false }
    }

    /// These may try.
    pub(super) fn free(&self, tickets: &[u64]) {
        let mut state = self.state.lock();
        tickets.iter().for_each(|ticket| state.wake(*ticket, Ok(())));
    }

    /// All may try.
    pub(super) fn all_try(&self) {
        let mut state = self.state.lock();
        for (_, waiting) in std::mem::take(&mut state.waiting) {
            waiting.wake.send(Ok(())).ok();
        }
    }

    /// The leader is another.
    pub(super) fn say_again(&self) {
        let mut state = self.state.lock();
        state.waiting.values_mut().for_each(|waiting| waiting.is_said = false);
        self.news.notify_one();
    }

    /// Says everything that is to be said, for ever.
    pub(super) async fn keep(&self) {
        loop {
            if tokio::time::timeout(AGAIN, self.news.notified()).await.is_err() {
                self.say_again();
            }
            self.say_forgotten().await;
            self.say_unsaid().await;
        }
    }

    async fn say_forgotten(&self) {
        let forgotten = std::mem::take(&mut self.state.lock().forgotten);
        for portion in forgotten.chunks(WAITS_MAX) {
            let (session, tickets) = (self.session.id(), portion.to_vec());
            self.session.tell(&Request::ForgetLocks { session, tickets }).await;
        }
    }

    async fn say_unsaid(&self) {
        let unsaid = self.state.lock().unsaid();
        for portion in unsaid.chunks(WAITS_MAX) {
            let Some(answers) = self.session.await_locks(portion.to_vec()).await else {
                // Another session: all of it is new to the monitors.
                return self.say_again();
            };
            let mut state = self.state.lock();
            for (wait, answer) in portion.iter().zip(answers) {
                match answer {
                    Awaited::Waiting => {}
                    Awaited::Free => state.wake(wait.ticket, Ok(())),
                    Awaited::Refused(errno) => state.wake(wait.ticket, Err(errno)),
                }
            }
        }
    }
}

/// Somebody who tries, waits and tries again. Dropped, it waits no more.
pub(super) struct Waiter {
    waits: Arc<Waits>,
    request: LockRequest,
    ticket: u64,
    /// Whether the leader may know the ticket.
    is_announced: bool,
}

impl Waiter {
    /// What the leader knows it by.
    pub(super) fn ticket(&self) -> u64 {
        self.ticket
    }

    /// It was refused. Returns when it should try again.
    pub(super) async fn wait(&mut self) -> Result<(), Errno> {
        let (wake, woken) = oneshot::channel();
        let waiting = Waiting { request: self.request, is_said: false, wake };
        self.is_announced = true;
        self.waits.state.lock().waiting.insert(self.ticket, waiting);
        self.waits.news.notify_one();
        // The sender is in the table until it is used.
        woken.await.unwrap_or(Err(Errno::Io))
    }

    /// It has got what it waited for, and the leader knows.
    pub(super) fn is_done(&mut self) {
        self.is_announced = false;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if self.is_announced {
            let mut state = self.waits.state.lock();
            state.waiting.remove(&self.ticket);
            state.forgotten.push((self.request.ino, self.ticket));
            self.waits.news.notify_one();
        }
    }
}
