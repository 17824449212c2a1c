//! Ends the waits of programs that are about to die: the edge around [`super::interrupts`].
//!
//! A thread of its own looks at suspects every [`TICK`], as long as anything is under way; an idle mount wakes
//! nobody. A program that dies gets EINTR in the place of its answer. The operation itself goes on, since it
//! may have reached the cluster long ago; what it brings is thrown away when [`super::reply::Reply`] finds that
//! nobody takes it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::interrupts::{Suspect, UnderWay};
use super::process::{self, Fate};
use super::reply::Question;

/// How often suspects are looked at: a few times within the second that SIGKILL may take.
const TICK: Duration = Duration::from_millis(150);

/// See the module.
#[derive(Debug)]
pub(super) struct Watch {
    state: Mutex<State>,
    /// Told when there is something under way, and at the end.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    under_way: UnderWay<Arc<Question>>,
    /// The thread sleeps until it is told.
    idle: bool,
    ended: bool,
}

impl Watch {
    /// Over nothing yet.
    pub(super) fn new() -> Self {
        let state = State { under_way: UnderWay::new(), idle: false, ended: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// A question could not be answered at once.
    pub(super) fn enter(&self, question: &Arc<Question>) {
        let interrupted = {
            let mut state = self.state.lock();
            if state.idle {
                state.idle = false;
                self.changed.notify_one();
            }
            state.under_way.enter(question.unique(), Arc::clone(question), Instant::now())
        };
        if interrupted {
            was_interrupted(question);
        }
    }

    /// A question that had been entered was answered.
    pub(super) fn leave(&self, unique: u64) {
        self.state.lock().under_way.leave(unique);
    }

    /// Whoever asked this got a signal.
    pub(super) fn interrupt(&self, unique: u64) {
        let question = self.state.lock().under_way.interrupt(unique, Instant::now());
        if let Some(question) = question {
            was_interrupted(&question);
        }
    }

    /// Looks at suspects until [`Self::end`].
    pub(super) fn run(&self) {
        while self.wait() {
            let suspects = self.state.lock().under_way.suspects(Instant::now());
            end_waits(&suspects);
            self.pause();
        }
    }

    /// Waits until something is under way; false at the end.
    fn wait(&self) -> bool {
        let mut state = self.state.lock();
        while state.under_way.is_empty() && !state.ended {
            state.idle = true;
            self.changed.wait(&mut state);
        }
        !state.ended
    }

    /// Waits a tick, or for the end.
    fn pause(&self) {
        let mut state = self.state.lock();
        if !state.ended {
            self.changed.wait_for(&mut state, TICK);
        }
    }

    /// The mount is over.
    pub(super) fn end(&self) {
        self.state.lock().ended = true;
        self.changed.notify_all();
    }
}

/// A first look, at once: mostly the signal is SIGKILL, or as good as that.
fn was_interrupted(question: &Arc<Question>) {
    question.tell_interrupted();
    let (waited_for, interrupted_for) = (Duration::ZERO, Some(Duration::ZERO));
    let suspect = Suspect { request: question, waited_for, interrupted_for };
    if suspect.must_end(process::fate(question.thread())) {
        question.abandon();
    }
}

/// A thread may have asked for several things at a time, and is looked at once.
fn end_waits(suspects: &[Suspect<Arc<Question>>]) {
    let mut fates: HashMap<u32, Fate> = HashMap::new();
    for suspect in suspects {
        let thread = suspect.request.thread();
        let fate = *fates.entry(thread).or_insert_with(|| process::fate(thread));
        if suspect.must_end(fate) {
            suspect.request.abandon();
        }
    }
}
