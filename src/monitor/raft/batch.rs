//! Packs what many ask for at the same time into few log entries.
//!
//! An entry costs a sync of the disk whether it holds one action or five hundred. So while one is on its way,
//! what arrives is gathered: when the disk is idle an action goes at once, and the busier it is, the fuller the
//! entries are. Without any load the batcher adds nothing to an action's latency; with load it adds less than
//! the wait for the disk would.
//!
//! Actions are applied in the order in which [`Batcher::submit`] was called. An entry holds actions of one term:
//! what was made under one leadership is not applied under another.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::{ProposeError, Raft};
use crate::monitor::namespace::command::{Action, Command, Outcome};
use crate::types::Timestamp;
use crate::wire;

/// Most actions in an entry.
pub const ACTIONS_MAX: usize = 512;
/// Most bytes of encoded actions in an entry; a single action may be longer.
pub const BYTES_MAX: usize = 1 << 20;
/// Longest action that is taken, in bytes: an entry, with what is around the action, has to be encoded too.
pub const ACTION_BYTES_MAX: usize = 3 << 20;
/// Longest wait for company while another entry is on its way.
const WAIT: Duration = Duration::from_millis(1);
/// Most entries on their way: one that is applied while the next is synced, and one to spare.
const IN_FLIGHT_MAX: usize = 3;

type Answer = Result<Outcome, ProposeError>;

/// Packs actions into commands and proposes them. Cheap to clone; ends with its last clone.
#[derive(Clone)]
pub struct Batcher {
    queue: mpsc::UnboundedSender<Submitted>,
}

struct Submitted {
    term: u64,
    action: Action,
    /// Its encoded length.
    bytes: usize,
    answer: oneshot::Sender<Answer>,
}

impl Batcher {
    /// Starts packing for `raft`; `now` is the clock that stamps the commands. Needs a tokio runtime.
    pub fn start(raft: Raft, now: impl Fn() -> Timestamp + Send + 'static) -> Self {
        let (queue, waiting) = mpsc::unbounded_channel();
        let packer = Packer { raft, now, waiting, in_flight: Arc::new(watch::Sender::new(0)) };
        drop(tokio::spawn(packer.run()));
        Self { queue }
    }

    /// Submits an action that was made while this monitor led in `term`, now: it is in line even if the future
    /// is never polled.
    ///
    /// The future resolves when the action was applied, or superseded, or with an error when this monitor does not lead or
    /// has stopped. (After an error the action may still be applied by another leader: the reply slots of the
    /// sessions make a retry harmless.)
    pub fn submit(&self, term: u64, action: Action) -> impl Future<Output = Answer> + Send + use<> {
        let (answer, waiting) = oneshot::channel();
        match wire::try_encode(&action).map(|encoded| encoded.len()) {
            // When the packer is gone the answer's sender is dropped with the action.
            Some(bytes) if bytes <= ACTION_BYTES_MAX => {
                drop(self.queue.send(Submitted { term, action, bytes, answer }));
            }
            // The receiver is here still.
            _ => drop(answer.send(Err(ProposeError::TooLong))),
        }
        async {
            waiting.await.unwrap_or_else(|_| Err(ProposeError::Stopped("it was shut down".into())))
        }
    }
}

/// The next entry.
struct Pack {
    term: u64,
    actions: Vec<Action>,
    answers: Vec<oneshot::Sender<Answer>>,
    bytes: usize,
}

impl Pack {
    fn begun_with(first: Submitted) -> Self {
        let Submitted { term, action, bytes, answer } = first;
        Self { term, actions: vec![action], answers: vec![answer], bytes }
    }

    fn fits(&self, next: &Submitted) -> bool {
        self.term == next.term
            && self.actions.len() < ACTIONS_MAX
            && self.bytes + next.bytes <= BYTES_MAX
    }

    fn push(&mut self, submitted: Submitted) {
        self.actions.push(submitted.action);
        self.answers.push(submitted.answer);
        self.bytes += submitted.bytes;
    }
}

struct Packer<N> {
    raft: Raft,
    now: N,
    waiting: mpsc::UnboundedReceiver<Submitted>,
    in_flight: Arc<watch::Sender<usize>>,
}

impl<N: Fn() -> Timestamp + Send> Packer<N> {
    async fn run(mut self) {
        let mut next = self.waiting.recv().await;
        while let Some(first) = next.take() {
            let mut pack = Pack::begun_with(first);
            next = self.gather(&mut pack).await;
            self.send(pack).await;
            if next.is_none() {
                next = self.waiting.recv().await;
            }
        }
    }

    /// Adds to the pack until it should go. Gives the action that did not fit.
    async fn gather(&mut self, pack: &mut Pack) -> Option<Submitted> {
        let deadline = Instant::now() + WAIT;
        let mut in_flight = self.in_flight.subscribe();
        let mut left = None;
        loop {
            while left.is_none()
                && let Ok(submitted) = self.waiting.try_recv()
            {
                left = add(pack, submitted);
            }
            let full = left.is_some();
            let late = full || Instant::now() >= deadline;
            let now_in_flight = *in_flight.borrow_and_update();
            if now_in_flight == 0 || (late && now_in_flight < IN_FLIGHT_MAX) {
                return left;
            }
            tokio::select! {
                // The sender is ours: it cannot be gone.
                _ = in_flight.changed() => {}
                submitted = self.waiting.recv(), if !full => match submitted {
                    Some(submitted) => left = add(pack, submitted),
                    None => return None,
                },
                () = tokio::time::sleep_until(deadline), if !late => {}
            }
        }
    }

    /// Proposes the pack behind those before it, and lets a task wait for the outcomes.
    async fn send(&mut self, pack: Pack) {
        let command = Command { term: pack.term, time: (self.now)(), actions: pack.actions };
        let in_flight = self.in_flight.clone();
        in_flight.send_modify(|count| *count += 1);
        let proposed = self.raft.enqueue(&command).await;
        let landing = async move {
            let outcomes = match proposed {
                Ok(applied) => applied.await,
                Err(error) => Err(error),
            };
            in_flight.send_modify(|count| *count -= 1);
            answer(pack.answers, outcomes);
        };
        drop(tokio::spawn(landing));
    }
}

fn add(pack: &mut Pack, submitted: Submitted) -> Option<Submitted> {
    if pack.fits(&submitted) {
        pack.push(submitted);
        None
    } else {
        Some(submitted)
    }
}

/// Gives everybody their outcome. Who does not wait any more does not get one.
fn answer(answers: Vec<oneshot::Sender<Answer>>, outcomes: Result<Vec<Outcome>, ProposeError>) {
    match outcomes {
        Ok(outcomes) => {
            debug_assert_eq!(answers.len(), outcomes.len(), "one outcome an action");
            for (answer, outcome) in answers.into_iter().zip(outcomes) {
                drop(answer.send(Ok(outcome)));
            }
        }
        Err(error) => {
            for answer in answers {
                drop(answer.send(Err(error.clone())));
            }
        }
    }
}
