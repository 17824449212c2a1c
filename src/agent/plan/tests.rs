//! What the plan does, and that it never does it twice.

use proptest::prelude::*;

use super::*;

const RANDOM: u64 = 25;

fn unit(name: &str) -> Unit {
    let role = match name.split('-').next() {
        Some("monitor") => Role::Monitor,
        Some("server") => Role::Server,
        _ => Role::Mount,
    };
    Unit { role, name: name.to_owned() }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A plan, its clock, and what it did.
struct Node {
    plan: Plan,
    now: Duration,
}

impl Node {
    fn new(names: &[&str]) -> Self {
        Self::with(Policy::Restart, names)
    }

    fn with(policy: Policy, names: &[&str]) -> Self {
        let mut plan = Plan::new(policy, Duration::ZERO);
        plan.want(names.iter().map(|name| (unit(name), 0)), Duration::ZERO);
        Self { plan, now: Duration::ZERO }
    }

    /// One that runs and works.
    fn running(name: &str) -> Self {
        let mut node = Self::new(&[name]);
        assert_eq!(node.tick(), [format!("{name}: start 1")]);
        node.event(name, Event::Ready);
        node
    }

    fn tick(&mut self) -> Vec<String> {
        let actions = self.plan.tick(self.now).into_iter().map(|action| match action {
            Action::Start { unit, start } => format!("{}: start {start}", unit.name),
            Action::Kill(unit) => format!("{}: kill", unit.name),
        });
        actions.collect()
    }

    /// Time passes, as an agent that is awake sees it.
    fn pass(&mut self, time: Duration) -> Vec<String> {
        let end = self.now + time;
        let mut done = Vec::new();
        while self.now < end {
            self.now = end.min(self.now + TICK);
            done.extend(self.tick());
        }
        done
    }

    fn event(&mut self, name: &str, event: Event) {
        self.plan.event(&unit(name), event, self.now, RANDOM);
    }

    fn die(&mut self, name: &str) {
        self.event(name, Event::Died { orderly: false });
    }

    fn asked(&mut self, seen: u64) -> Outcome {
        self.plan.asked("monitor-1", seen, self.now)
    }

    fn state(&self, name: &str) -> UnitState {
        let mut units = self.plan.units();
        units.find(|(unit, ..)| unit.name == name).expect("a unit").1
    }
}

#[test]
fn a_node_starts_in_order() {
    let mut node = Node::new(&["mount-a", "server-2", "monitor-1", "server-1"]);
    assert_eq!(node.tick(), ["monitor-1: start 1"]);
    assert!(node.tick().is_empty(), "the others wait for it");
    node.event("monitor-1", Event::Ready);
    assert_eq!(node.tick(), ["server-1: start 1", "server-2: start 1"]);
    node.event("server-1", Event::Ready);
    assert!(node.tick().is_empty() && !node.plan.is_settled());
    node.event("server-2", Event::Ready);
    assert_eq!(node.tick(), ["mount-a: start 1"]);
    node.event("mount-a", Event::Ready);
    assert!(node.plan.is_settled());
}

#[test]
fn nobody_waits_for_ever_nor_for_what_fails() {
    let mut node = Node::new(&["monitor-1", "server-1", "mount-a"]);
    node.tick();
    assert!(node.pass(seconds(9)).is_empty());
    assert_eq!(node.pass(seconds(1)), ["server-1: start 1", "mount-a: start 1"]);

    let mut node = Node::new(&["monitor-1", "server-1"]);
    node.tick();
    node.die("monitor-1");
    assert_eq!(node.tick(), ["monitor-1: start 2", "server-1: start 1"]);
}

#[test]
fn what_dies_is_started_at_once_and_what_fails_again_later() {
    let mut node = Node::running("server-1");
    node.die("server-1");
    assert_eq!(node.tick(), ["server-1: start 2"]);
    node.die("server-1");
    assert!(node.tick().is_empty());
    assert_eq!(node.plan.next(node.now), node.now + seconds(1));
    assert_eq!(node.pass(seconds(1)), ["server-1: start 3"]);
    for _ in 0..3 {
        node.event("server-1", Event::NotStarted);
        node.pass(seconds(6));
    }
    assert!(node.plan.is_failing(&unit("server-1")));
    assert_eq!(node.state("server-1"), UnitState::Due);
    assert_eq!(node.pass(seconds(30)).len(), 1, "it is tried slowly");
    node.event("server-1", Event::Ready);
    node.pass(seconds(601));
    node.die("server-1");
    assert_eq!(node.tick().len(), 1, "all is forgotten");
}

#[test]
fn the_silent_are_killed_and_started_again() {
    let mut node = Node::running("server-1");
    for _ in 0..3 {
        node.event("server-1", Event::Missed);
        assert!(node.pass(seconds(3)).is_empty());
    }
    assert_eq!(node.pass(seconds(1)), ["server-1: kill"]);
    assert!(node.pass(seconds(60)).is_empty(), "a second one would be one too many");
    node.die("server-1");
    assert_eq!(node.tick(), ["server-1: start 2"]);
}

#[test]
fn one_answer_is_enough_to_live() {
    let mut node = Node::running("server-1");
    for _ in 0..40 {
        node.event("server-1", Event::Missed);
        node.event("server-1", Event::Missed);
        node.event("server-1", Event::Missed);
        assert!(node.pass(seconds(8)).is_empty());
        node.event("server-1", Event::Answered);
    }
    // Long ago, but it was not asked since.
    assert!(node.pass(seconds(100)).is_empty());
}

#[test]
fn while_the_agent_stood_still_nobody_could_be_heard() {
    let mut node = Node::running("server-1");
    for _ in 0..3 {
        node.event("server-1", Event::Missed);
    }
    node.now += seconds(3600);
    assert!(node.tick().is_empty());
    assert!(node.pass(seconds(30)).is_empty(), "the misses of before count no more");
}

#[test]
fn a_slow_start_is_no_silence_but_a_stopped_one_is() {
    let mut node = Node::new(&["monitor-1"]);
    node.tick();
    for _ in 0..600 {
        node.event("monitor-1", Event::Answered);
        assert!(node.pass(seconds(1)).is_empty());
    }
    for _ in 0..8 {
        node.event("monitor-1", Event::Missed);
        assert!(node.pass(seconds(1)).is_empty());
    }
    node.event("monitor-1", Event::Missed);
    assert_eq!(node.pass(seconds(1)), ["monitor-1: kill"]);
}

#[test]
fn what_was_unmounted_stays_so_until_somebody_asks() {
    let mut node = Node::running("mount-a");
    node.event("mount-a", Event::Died { orderly: true });
    assert!(node.pass(seconds(60)).is_empty());
    assert_eq!(node.state("mount-a"), UnitState::Ended);
    node.plan.refresh(node.now);
    assert_eq!(node.tick(), ["mount-a: start 2"]);
    // A server has no such end.
    let mut node = Node::running("server-1");
    node.event("server-1", Event::Died { orderly: true });
    assert_eq!(node.tick(), ["server-1: start 2"]);
}

#[test]
fn without_restarts_the_dead_and_the_silent_are_left_alone() {
    let mut node = Node::with(Policy::Leave, &["server-1", "server-2"]);
    node.tick();
    node.event("server-1", Event::Ready);
    node.event("server-2", Event::Ready);
    node.die("server-1");
    for _ in 0..20 {
        node.event("server-2", Event::Missed);
        assert!(node.pass(seconds(1)).is_empty());
    }
    node.plan.refresh(node.now);
    assert_eq!(node.tick(), ["server-1: start 2"]);
}

#[test]
fn what_runs_already_is_not_started() {
    let mut node = Node::new(&["monitor-1", "server-1"]);
    node.plan.found(&unit("monitor-1"), 7, true, node.now);
    node.plan.found(&unit("server-1"), 3, false, node.now);
    assert!(node.tick().is_empty());
    node.die("monitor-1");
    assert_eq!(node.tick(), ["monitor-1: start 8"]);
}

#[test]
fn what_is_no_longer_wanted_runs_to_its_end() {
    let mut node = Node::running("server-1");
    node.plan.want([(unit("server-2"), 4)], node.now);
    assert_eq!(node.tick(), ["server-2: start 5"]);
    assert_eq!(node.plan.units().count(), 2);
    node.die("server-1");
    assert!(node.pass(seconds(60)).is_empty(), "nobody wants it");
    assert_eq!(node.plan.units().count(), 1);
    node.die("server-2");
    node.plan.want([], node.now);
    assert_eq!(node.plan.units().count(), 0);
}

#[test]
fn of_all_who_ask_one_has_it_started() {
    let mut node = Node::running("monitor-1");
    assert_eq!(node.plan.asked("monitor-9", 1, node.now), Outcome::NotMine);
    assert_eq!(node.asked(1), Outcome::Alive(1), "it answers its agent");
    node.die("monitor-1");
    node.die("monitor-1");
    assert!(node.tick().is_empty(), "it waits");
    assert_eq!(node.asked(1), Outcome::Started(2));
    assert_eq!(node.tick(), ["monitor-1: start 2"]);
    assert_eq!(node.asked(1), Outcome::Already(2));
    assert_eq!(node.asked(2), Outcome::Already(2), "it is on its way");
    assert!(node.tick().is_empty());
    assert_eq!(node.asked(0), Outcome::Already(2), "that was long ago");
}

#[test]
fn who_is_missed_by_siblings_too_is_killed_sooner() {
    let mut node = Node::running("monitor-1");
    node.event("monitor-1", Event::Missed);
    node.pass(seconds(2));
    assert_eq!(node.asked(1), Outcome::Alive(1), "one late answer proves nothing");
    node.pass(seconds(1));
    assert_eq!(node.asked(1), Outcome::Started(2));
    assert_eq!(node.asked(1), Outcome::Already(2));
    assert_eq!(node.tick(), ["monitor-1: kill"]);
    node.die("monitor-1");
    assert_eq!(node.tick(), ["monitor-1: start 2"]);
}

#[test]
fn haste_of_others_does_not_help_what_fails_again_and_again() {
    let mut node = Node::running("monitor-1");
    for _ in 0..5 {
        node.die("monitor-1");
    }
    assert_eq!(node.asked(1), Outcome::Already(2));
    assert!(node.tick().is_empty());
}

#[test]
fn a_start_beyond_what_the_agent_remembers_is_not_given_again() {
    let mut node = Node::running("monitor-1");
    node.die("monitor-1");
    assert_eq!(node.asked(8), Outcome::Started(9));
    assert_eq!(node.tick(), ["monitor-1: start 9"]);
}

/// A machine with one monitor, its agent, and two siblings elsewhere that miss it; every step of each may come at
/// any time, and the agent may die between any two of its own.
struct Machines {
    /// What the agent wrote down.
    written: u64,
    /// The processes that live, by number; there must never be two.
    alive: Vec<u64>,
    /// All numbers that ever were a process's.
    born: Vec<u64>,
    /// How often a process died.
    deaths: usize,
    agent: Option<Agent>,
    /// The start that each sibling saw last.
    seen: [u64; 2],
    now: Duration,
}

struct Agent {
    plan: Plan,
    /// Written down and not started yet.
    underway: Option<u64>,
    to_start: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The monitor dies.
    Die,
    /// The agent hears what happened.
    Hear,
    /// A sibling asks for a restart.
    Ask(usize),
    /// A sibling talks to the monitor, if it lives.
    See(usize),
    /// The agent does one thing: write a number down, or start what is written down.
    Act,
    /// The agent dies.
    Crash,
    /// The agent is started, if it is dead.
    Recover,
    /// Time passes.
    Pass,
}

impl Machines {
    fn new() -> Self {
        let mut machines = Self {
            written: 0,
            alive: Vec::new(),
            born: Vec::new(),
            deaths: 0,
            agent: None,
            seen: [0; 2],
            now: Duration::ZERO,
        };
        machines.settle();
        machines
    }

    fn step(&mut self, step: Step) {
        let name = unit("monitor-1");
        match step {
            Step::Die if self.alive.pop().is_some() => self.deaths += 1,
            Step::See(sibling) => {
                self.seen[sibling] = self.alive.last().copied().unwrap_or(self.seen[sibling]);
            }
            Step::Crash => self.agent = None,
            Step::Recover if self.agent.is_none() => self.recover(),
            Step::Pass => self.now += seconds(1),
            _ => {}
        }
        let (now, is_alive) = (self.now, !self.alive.is_empty());
        let Some(agent) = &mut self.agent else { return };
        match step {
            Step::Hear if is_alive => agent.plan.event(&name, Event::Ready, now, RANDOM),
            Step::Hear if agent.has_process() => {
                agent.plan.event(&name, Event::Died { orderly: false }, now, RANDOM);
            }
            Step::Ask(sibling) => {
                if let Outcome::Started(start) =
                    agent.plan.asked("monitor-1", self.seen[sibling], now)
                {
                    assert!(start > self.written, "{start} was given before");
                }
            }
            Step::Act => self.act(),
            _ => {}
        }
    }

    /// As `Supervisor::act` does it: find what runs, write the number down, start.
    fn act(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        if let Some(start) = agent.underway.take() {
            assert!(!self.born.contains(&start), "{start} is given twice");
            self.alive.push(start);
            self.born.push(start);
            return;
        }
        for action in agent.plan.tick(self.now) {
            match action {
                Action::Start { start, .. } => agent.to_start.push(start),
                Action::Kill(_) => panic!("it never was silent"),
            }
        }
        if let Some(start) = agent.to_start.pop() {
            assert!(start > self.written);
            self.written = start;
            agent.underway = Some(start);
        }
    }

    fn recover(&mut self) {
        let mut plan = Plan::new(Policy::Restart, self.now);
        plan.want([(unit("monitor-1"), self.written)], self.now);
        if !self.alive.is_empty() {
            plan.found(&unit("monitor-1"), self.written, true, self.now);
        }
        self.agent = Some(Agent { plan, underway: None, to_start: Vec::new() });
    }

    /// Nothing happens any more but what the agent does.
    fn settle(&mut self) {
        for _ in 0..100 {
            for step in [Step::Recover, Step::Hear, Step::Act, Step::Act, Step::Pass] {
                self.step(step);
            }
        }
    }
}

impl Agent {
    /// Whether the agent believes in a process that may have died: not in one that it is just starting.
    fn has_process(&self) -> bool {
        let (_, state, ..) = self.plan.units().next().expect("one unit");
        let is_starting = self.underway.is_some() || !self.to_start.is_empty();
        !is_starting && matches!(state, UnitState::Starting | UnitState::Up)
    }
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Die),
        4 => Just(Step::Hear),
        4 => (0..2usize).prop_map(Step::Ask),
        2 => (0..2usize).prop_map(Step::See),
        6 => Just(Step::Act),
        1 => Just(Step::Crash),
        2 => Just(Step::Recover),
        2 => Just(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn whoever_asks_and_whatever_crashes_there_is_one_process_and_each_once(
        steps in proptest::collection::vec(steps(), 0..200)
    ) {
        let mut machines = Machines::new();
        for step in steps {
            machines.step(step);
            prop_assert!(machines.alive.len() <= 1, "two processes: {:?}", machines.alive);
        }
        machines.settle();
        prop_assert_eq!(machines.alive.len(), 1);
        prop_assert_eq!(machines.born.len(), machines.deaths + 1, "each death is made up for once");
    }
}
