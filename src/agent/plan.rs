//! Which processes should run, and what to do about those that do not: decided here, from values alone.
//!
//! # The life of a unit
//!
//! Server-2 is started; its process is there, but reads its directory first and is not ready. When it is, the agent
//! asks it every second whether it is alive, and it answers. One day it is killed: it is started again at once, and
//! if that happens often, after a growing pause ([`backoff`](super::backoff)). Another day it hangs: the process is
//! there and answers nothing. That looks the same to everybody who waits for it, so after ten seconds of silence it
//! is killed, and then as above.
//!
//! ```text
//!           tick                ready
//!   Due ──────────► Starting ──────────► Up
//!    ▲                 │ silent           │ silent, or silent for a moment and a sibling asks
//!    │                 └────────► Killed ◄┘
//!    └──────── died, from any of the three; an unmounted mount, which was meant to end: Ended;
//!              one that the cluster has let go for good, a monitor that was replaced: Retired
//! ```
//!
//! # Whom to believe
//!
//! * *Silence* is counted only while the agent itself was awake: after a pause of the agent or of the whole machine
//!   everybody gets the time anew. It takes time *and* missed answers.
//! * *A process that starts* may take as long as it takes: a monitor may have much to load, a server waits for its
//!   monitor. It is asked nothing; only if it was stopped (SIGSTOP) does it count as silent.
//! * *A sibling* that asks for a restart is told no while the process answers its agent, which is nearer to it.
//!
//! # Once
//!
//! Each start has a number, and the edge writes the number of [`Action::Start`] down before it starts the process.
//! Whoever asks for a restart names the start that it saw last ([`Plan::asked`]); if the unit is beyond that, or on
//! the way, there is nothing to do. So any number of askers have a dead process started once, also when the agent
//! itself dies between writing the number down and starting the process: that number is then never used.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use super::backoff::Backoff;
use super::stages::{Role, Unit};
use crate::wire::agent::{Outcome, UnitState};

/// [`Plan::tick`] is called at least so often.
pub const TICK: Duration = Duration::from_secs(1);
/// A tick that comes so much too late means that the agent, or its machine, stood still.
const LATE: Duration = Duration::from_secs(2);
/// Who answers nothing for so long has hung.
const SILENCE: Duration = Duration::from_secs(10);
/// Silence that proves nothing by itself, but does when somebody else misses the process too.
const DOUBT: Duration = Duration::from_secs(3);
/// And so many questions must have remained unanswered.
const MISSES: u32 = 3;
/// How long servers wait for monitors, and mounts for both, when a node starts. They could do it by themselves; in
/// order it is quicker, and their logs have fewer complaints.
const IN_ORDER: Duration = Duration::from_secs(10);

/// What the agent does when a process dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// It is started again, and one that hangs is killed.
    Restart,
    /// It stays dead until somebody asks for it; for tests of what others do meanwhile.
    Leave,
}

/// What happened to a unit's process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// It works.
    Ready,
    /// It answered.
    Answered,
    /// It did not answer.
    Missed,
    /// It could not be started.
    NotStarted,
    /// It is dead.
    Died {
        /// Whether it ended in good order, having been asked to.
        orderly: bool,
    },
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Write this number down as the unit's, then start it.
    Start {
        /// The unit.
        unit: Unit,
        /// One more than its last.
        start: u64,
    },
    /// Kill its process; it does not answer.
    Kill(Unit),
}

/// The units of a node and how they are.
#[derive(Debug)]
pub struct Plan {
    policy: Policy,
    /// When units were last asked to start in order.
    began: Duration,
    ticked: Duration,
    units: BTreeMap<Unit, Machine>,
    actions: Vec<Action>,
}

#[derive(Debug)]
struct Machine {
    /// Number of its latest start.
    start: u64,
    state: State,
    /// Whether it waits for what starts before it: the first time only.
    is_in_order: bool,
    /// One that should not run any more may do so until it ends by itself.
    is_wanted: bool,
    backoff: Backoff,
}

#[derive(Debug)]
enum State {
    Due { at: Duration },
    Starting(Quiet),
    Up(Quiet),
    Killed { by_request: bool },
    Ended,
    Retired,
}

/// Since when, and how many questions long, a process is silent.
#[derive(Clone, Copy, Debug)]
struct Quiet {
    heard: Duration,
    misses: u32,
}

impl Plan {
    /// No units yet.
    pub fn new(policy: Policy, now: Duration) -> Self {
        Self { policy, began: now, ticked: now, units: BTreeMap::new(), actions: Vec::new() }
    }

    /// These units should run; each with the number of its latest start. Those that are new are due, in order.
    /// Those that are not among them are forgotten once they do not run.
    pub fn want(&mut self, units: impl IntoIterator<Item = (Unit, u64)>, now: Duration) {
        self.began = now;
        let wanted: BTreeMap<Unit, u64> = units.into_iter().collect();
        for (unit, machine) in &mut self.units {
            machine.is_wanted = wanted.contains_key(unit);
        }
        self.units.retain(|_, machine| machine.is_wanted || machine.has_process());
        for (unit, start) in wanted {
            self.units.entry(unit).or_insert_with(|| Machine {
                start,
                state: State::Due { at: now },
                is_in_order: true,
                is_wanted: true,
                backoff: Backoff::default(),
            });
        }
    }

    /// A unit turns out to run already, as its start of that number.
    pub fn found(&mut self, unit: &Unit, start: u64, is_ready: bool, now: Duration) {
        let Some(machine) = self.units.get_mut(unit) else { return };
        let quiet = Quiet { heard: now, misses: 0 };
        machine.start = start;
        machine.is_in_order = false;
        machine.state = if is_ready { State::Up(quiet) } else { State::Starting(quiet) };
    }

    /// Something happened. `random` spreads what would otherwise happen together.
    pub fn event(&mut self, unit: &Unit, event: Event, now: Duration, random: u64) {
        let Some(machine) = self.units.get_mut(unit) else { return };
        match (event, &mut machine.state) {
            (Event::Ready, State::Starting(_)) => {
                machine.state = State::Up(Quiet { heard: now, misses: 0 });
            }
            (Event::Answered, State::Starting(quiet) | State::Up(quiet)) => {
                *quiet = Quiet { heard: now, misses: 0 };
            }
            (Event::Missed, State::Starting(quiet) | State::Up(quiet)) => quiet.misses += 1,
            (Event::Ready | Event::Answered | Event::Missed, _) => {}
            (Event::Died { orderly: true }, _) if unit.role == Role::Mount => {
                machine.state = State::Ended;
            }
            (Event::Died { .. } | Event::NotStarted, _) => {
                machine.fail(self.policy, now, random);
            }
        }
        if !machine.is_wanted && !machine.has_process() {
            self.units.remove(unit);
        }
    }

    /// Somebody misses the unit of that name, of which it last saw the start number `seen`.
    pub fn asked(&mut self, name: &str, seen: u64, now: Duration) -> Outcome {
        let Some((unit, machine)) = self.units.iter_mut().find(|(unit, _)| unit.name == name)
        else {
            return Outcome::NotMine;
        };
        if machine.start > seen {
            return Outcome::Already(machine.start);
        }
        let next = machine.start.max(seen).saturating_add(1);
        match machine.state {
            State::Up(quiet) if !quiet.is_doubtful(now) => return Outcome::Alive(machine.start),
            State::Retired => return Outcome::NotMine,
            State::Starting(_) => return Outcome::Already(machine.start),
            State::Killed { .. } => return Outcome::Already(next),
            // It had its chances: somebody else's haste does not help it.
            State::Due { .. } if machine.backoff.is_failing() => return Outcome::Already(next),
            State::Up(_) => {
                self.actions.push(Action::Kill(unit.clone()));
                machine.state = State::Killed { by_request: true };
            }
            State::Due { .. } | State::Ended => {
                machine.is_in_order = false;
                machine.state = State::Due { at: now };
            }
        }
        // If the asker saw a later start than this agent remembers, its memory was lost.
        machine.start = next - 1;
        Outcome::Started(next)
    }

    /// Whatever should run and does not is due now, whatever happened before: somebody has looked.
    pub fn refresh(&mut self, now: Duration) {
        for machine in self.units.values_mut() {
            machine.backoff.clear();
            machine.is_in_order |= matches!(machine.state, State::Ended);
            if let State::Due { .. } | State::Ended = machine.state {
                machine.state = State::Due { at: now };
            }
        }
    }

    /// What is to be done now.
    pub fn tick(&mut self, now: Duration) -> Vec<Action> {
        self.excuse_pause(now);
        let due: Vec<Unit> =
            self.units.keys().filter(|unit| self.may_start(unit, now)).cloned().collect();
        for unit in due {
            let machine = self.units.get_mut(&unit).expect("it was just there");
            machine.start += 1;
            machine.is_in_order = false;
            machine.state = State::Starting(Quiet { heard: now, misses: 0 });
            self.actions.push(Action::Start { unit, start: machine.start });
        }
        for (unit, machine) in &mut self.units {
            machine.backoff.forget(now);
            let (State::Starting(quiet) | State::Up(quiet)) = machine.state else { continue };
            if self.policy == Policy::Restart && quiet.has_hung(now) {
                machine.state = State::Killed { by_request: false };
                self.actions.push(Action::Kill(unit.clone()));
            }
        }
        std::mem::take(&mut self.actions)
    }

    /// When there is something to do next, if nothing happens before.
    pub fn next(&self, now: Duration) -> Duration {
        let due = self.units.iter().filter_map(|(unit, machine)| match machine.state {
            State::Due { at } if machine.is_in_order && self.must_wait(unit, now) => {
                Some(at.max(self.began + IN_ORDER))
            }
            State::Due { at } => Some(at),
            _ => None,
        });
        due.min().map_or(now + TICK, |at| at.min(now + TICK))
    }

    /// Whether every unit works, has ended for good or has failed at least once: whoever waits for the node to be
    /// ready waits no longer.
    pub fn is_settled(&self) -> bool {
        self.units.values().all(Machine::is_settled)
    }

    /// How the units are, in the order in which they start: state, start, failures that are remembered.
    pub fn units(&self) -> impl Iterator<Item = (&Unit, UnitState, u64, usize)> {
        self.units.iter().map(|(unit, machine)| {
            (unit, machine.state.for_others(), machine.start, machine.backoff.count())
        })
    }

    /// The cluster has let that unit go, for good: it is not started any more. Whether that is news.
    pub fn retire(&mut self, unit: &Unit) -> bool {
        let idle = self.units.get_mut(unit).filter(|machine| !machine.has_process());
        idle.is_some_and(|machine| {
            machine.backoff.clear();
            !matches!(std::mem::replace(&mut machine.state, State::Retired), State::Retired)
        })
    }

    /// Whether that unit failed so often that somebody should look.
    pub fn is_failing(&self, unit: &Unit) -> bool {
        self.units.get(unit).is_some_and(|machine| machine.backoff.is_failing())
    }

    /// When that unit is started again, if it does not run and is to.
    pub fn due(&self, unit: &Unit) -> Option<Duration> {
        match self.units.get(unit)?.state {
            State::Due { at } => Some(at),
            _ => None,
        }
    }

    /// While nobody looked, nobody could be heard.
    fn excuse_pause(&mut self, now: Duration) {
        let pause = now.saturating_sub(self.ticked);
        self.ticked = now;
        if pause <= TICK + LATE {
            return;
        }
        log::warn!("this agent stood still for {:.1} s", pause.as_secs_f64());
        for machine in self.units.values_mut() {
            if let State::Starting(quiet) | State::Up(quiet) = &mut machine.state {
                *quiet = Quiet { heard: now, misses: 0 };
            }
        }
    }

    fn may_start(&self, unit: &Unit, now: Duration) -> bool {
        let machine = &self.units[unit];
        let State::Due { at } = machine.state else { return false };
        at <= now && !(machine.is_in_order && self.must_wait(unit, now))
    }

    /// Whether something of an earlier stage is still on its way, and there is hope.
    fn must_wait(&self, unit: &Unit, now: Duration) -> bool {
        let mut earlier = self.units.iter().filter(|(other, _)| other.role < unit.role);
        now < self.began + IN_ORDER && earlier.any(|(_, machine)| !machine.is_settled())
    }
}

impl Machine {
    fn has_process(&self) -> bool {
        matches!(self.state, State::Starting(_) | State::Up(_) | State::Killed { .. })
    }

    fn is_settled(&self) -> bool {
        matches!(self.state, State::Up(_) | State::Ended | State::Retired)
            || self.backoff.count() > 0
    }

    fn fail(&mut self, policy: Policy, now: Duration, random: u64) {
        let pause = self.backoff.failed(now, random);
        self.state = match (policy, &self.state) {
            (_, State::Killed { by_request: true }) => State::Due { at: now },
            (Policy::Restart, _) => State::Due { at: now + pause },
            (Policy::Leave, _) => State::Ended,
        };
    }
}

impl Quiet {
    fn has_hung(self, now: Duration) -> bool {
        self.misses >= MISSES && now.saturating_sub(self.heard) >= SILENCE
    }

    fn is_doubtful(self, now: Duration) -> bool {
        self.misses > 0 && now.saturating_sub(self.heard) >= DOUBT
    }
}

impl State {
    fn for_others(&self) -> UnitState {
        match self {
            Self::Due { .. } => UnitState::Due,
            Self::Starting(_) => UnitState::Starting,
            Self::Up(_) => UnitState::Up,
            Self::Killed { .. } => UnitState::Killed,
            Self::Ended => UnitState::Ended,
            Self::Retired => UnitState::Retired,
        }
    }
}
