//! Carrying out the [`plan`](super::plan): one task owns it, hears everything, and acts.
//!
//! Each process has a task that watches it (`watch`) and tells what it sees; whoever wants something asks through
//! a [`Handle`]. All of it arrives at one loop, so that nothing happens at the same time: an ask for a restart is
//! decided, its number written down and the process started before the next one is looked at.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::notify::Notifier;
use super::plan::{Action, Event, Plan, Policy};
use super::probes;
use super::processes::{self, Launch, Running};
use super::stages::{Role, Unit};
use super::starts::Starts;
use super::watch::{Seen, Watched, What, watch};
use crate::crypto::Credentials;
use crate::env::clock::{Clock, SystemClock};
use crate::env::random::{Random, SystemRandom};
use crate::wire::agent::{Outcome, UnitState, UnitStatus};

/// When the service manager is told that the node is ready although something of it is not: what waits for the
/// node must not wait for ever.
const READY_AT_LAST: Duration = Duration::from_secs(60);
/// Requests that may wait for the loop.
const ASKS: usize = 64;

/// What a node has. Both are asked again whenever they matter: the answers may change while an agent runs.
pub trait Node: Send + Sync + 'static {
    /// The units that should run.
    ///
    /// # Errors
    ///
    /// A sentence, when the node's directory cannot be read.
    fn units(&self) -> Result<Vec<Unit>, String>;

    /// How one of them is started.
    ///
    /// # Errors
    ///
    /// A sentence, when its configuration makes no sense.
    fn launch(&self, unit: &Unit) -> Result<Launch, String>;

    /// Why one of them is never to be started again, a sentence, if the cluster has let it go for good.
    fn retired(&self, unit: &Unit) -> Option<String>;
}

/// What a supervisor needs.
pub(super) struct Parts {
    pub(super) node: Box<dyn Node>,
    pub(super) starts: Starts,
    pub(super) policy: Policy,
    /// With which units are asked whether they live.
    pub(super) credentials: Credentials,
    pub(super) notifier: Notifier,
}

/// See the module.
pub(super) struct Supervisor {
    parts: Parts,
    plan: Plan,
    processes: BTreeMap<Unit, Process>,
    /// Those that have given way to another, and end by themselves.
    former: Vec<(Unit, Process)>,
    /// Why units failed last, a sentence each.
    troubles: BTreeMap<Unit, String>,
    clock: SystemClock,
    tell: mpsc::UnboundedSender<Seen>,
    seen: mpsc::UnboundedReceiver<Seen>,
    asks: mpsc::Receiver<Ask>,
    /// What the service manager was told.
    told: String,
    is_ready: bool,
}

/// A process of a unit.
struct Process {
    launch: Launch,
    running: Running,
    is_ready: bool,
    /// `None` when it was adopted.
    child: Option<Child>,
    watcher: AbortHandle,
}

/// Asks a mount that was started from an older program to give way to one of the newer.
fn upgrade(unit: &Unit, running: &Running, program: &Path) {
    let (name, pid) = (&unit.name, running.pid);
    log::info!(
        "{name} (process {pid}) is older than {}: it is asked to give way",
        program.display()
    );
    if let Err(error) = running.signal(libc::SIGUSR2) {
        log::warn!("{name} (process {pid}) cannot be asked to give way: {error}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

enum Ask {
    Status(oneshot::Sender<Vec<UnitStatus>>),
    Restart { unit: String, seen_start: u64, reply: oneshot::Sender<Outcome> },
    Refresh(oneshot::Sender<Result<(), String>>),
}

/// Asks a supervisor. All answers are `None` when it has ended.
#[derive(Clone, Debug)]
pub struct Handle(mpsc::Sender<Ask>);

impl Handle {
    /// How the units are, in the order in which they start.
    pub async fn status(&self) -> Option<Vec<UnitStatus>> {
        self.ask(Ask::Status).await
    }

    /// Has a unit started again, unless it was since the start that the asker saw; see
    /// [`Request::Restart`](crate::wire::agent::Request::Restart).
    pub async fn restart(&self, unit: String, seen_start: u64) -> Option<Outcome> {
        self.ask(|reply| Ask::Restart { unit, seen_start, reply }).await
    }

    /// Has the node's directory looked at again, and whatever does not run started now.
    pub async fn refresh(&self) -> Option<Result<(), String>> {
        self.ask(Ask::Refresh).await
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.0.send(ask(reply)).await.ok()?;
        answer.await.ok()
    }
}

impl Supervisor {
    /// Adopts what runs; the rest is started by [`Self::run`].
    pub(super) fn new(parts: Parts) -> Result<(Self, Handle), String> {
        let clock = SystemClock::new();
        let (tell, seen) = mpsc::unbounded_channel();
        let (handle, asks) = mpsc::channel(ASKS);
        let mut supervisor = Self {
            plan: Plan::new(parts.policy, clock.monotonic()),
            parts,
            processes: BTreeMap::new(),
            former: Vec::new(),
            troubles: BTreeMap::new(),
            clock,
            tell,
            seen,
            asks,
            told: String::new(),
            is_ready: false,
        };
        supervisor.look_at_node()?;
        Ok((supervisor, Handle(handle)))
    }

    /// Looks after the units until `shutdown` turns true; then they are left as they are.
    pub(super) async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        loop {
            self.act();
            self.tell_manager();
            let now = self.clock.monotonic();
            let pause = self.plan.next(now).saturating_sub(now);
            tokio::select! {
                biased;
                _ = shutdown.wait_for(|is_over| *is_over) => break,
                Some(seen) = self.seen.recv() => self.hear(seen),
                Some(ask) = self.asks.recv() => self.answer(ask),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn look_at_node(&mut self) -> Result<(), String> {
        let units = self.parts.node.units()?;
        let starts = &self.parts.starts;
        let numbered = units.iter().map(|unit| (unit.clone(), starts.latest(&unit.name)));
        self.plan.want(numbered, self.clock.monotonic());
        for unit in &units {
            if self.processes.contains_key(unit) || self.retire(unit) {
                continue;
            }
            match self.parts.node.launch(unit) {
                Ok(launch) => {
                    self.adopt(unit, &launch);
                }
                // It is said again when it is to be started.
                Err(why) => log::debug!("{}: {why}", unit.name),
            }
        }
        Ok(())
    }

    /// Gives a unit up that the cluster has let go, and says so once. Whether that is so.
    fn retire(&mut self, unit: &Unit) -> bool {
        let Some(why) = self.parts.node.retired(unit) else { return false };
        if self.plan.retire(unit) {
            log::warn!("{}: {why}. It is not started any more", unit.name);
        }
        self.troubles.insert(unit.clone(), why);
        true
    }

    /// Takes over the unit's process, if it has one. Whether it had.
    fn adopt(&mut self, unit: &Unit, launch: &Launch) -> bool {
        let Some((running, is_ready)) = launch.find() else { return false };
        let start = self.parts.starts.latest(&unit.name).max(running.start);
        log::info!("{} runs already, as process {} (start {start})", unit.name, running.pid);
        self.plan.found(unit, start, is_ready, self.clock.monotonic());
        if unit.role == Role::Mount && is_ready && running.is_outdated(&launch.program) {
            upgrade(unit, &running, &launch.program);
        }
        self.track(unit, launch.clone(), running, is_ready, None);
        true
    }

    /// A process has given way to another.
    fn succeed(&mut self, unit: &Unit, successor: Running) {
        let Some(process) = self.processes.remove(unit) else { return };
        let (former, pid) = (process.running.pid, successor.pid);
        log::info!("{} is process {pid} now; {former} ends when what is open is closed", unit.name);
        process.watcher.abort();
        let launch = process.launch.clone();
        self.former.push((unit.clone(), process));
        self.plan.found(unit, successor.start, true, self.clock.monotonic());
        self.track(unit, launch, successor, true, None);
    }

    /// Forgets those that have given way and ended since.
    fn bury_former(&mut self) {
        self.former.retain_mut(|(unit, process)| {
            let status = process.child.as_mut().map(Child::try_wait);
            let pid = process.running.pid;
            let goes_on = process.running.is_alive() && !matches!(status, Some(Ok(Some(_))));
            if !goes_on {
                log::info!("process {pid}, which was {} before, has ended", unit.name);
                probes::forget(&process.launch.run_dir, pid);
                processes::forget_aside(&process.launch.run_dir, &unit.name, pid);
            }
            goes_on
        });
    }

    fn act(&mut self) {
        self.bury_former();
        for action in self.plan.tick(self.clock.monotonic()) {
            match action {
                Action::Start { unit, start } => {
                    if let Err(why) = self.start(&unit, start) {
                        self.event(&unit, Event::NotStarted);
                        self.complain(&unit, why);
                    }
                }
                Action::Kill(unit) => self.kill(&unit),
            }
        }
    }

    fn start(&mut self, unit: &Unit, start: u64) -> Result<(), String> {
        let launch = self.parts.node.launch(unit)?;
        if self.adopt(unit, &launch) {
            return Ok(());
        }
        self.parts.starts.write(&unit.name, start).map_err(|error| error.to_string())?;
        let child = launch.start(start).map_err(|error| error.to_string())?;
        let running = Running::unready(child.id());
        log::info!("{} is started, as process {} (start {start})", unit.name, child.id());
        self.track(unit, launch, running, false, Some(child));
        Ok(())
    }

    fn track(
        &mut self,
        unit: &Unit,
        launch: Launch,
        running: Running,
        is_ready: bool,
        child: Option<Child>,
    ) {
        let watched = Watched {
            unit: unit.clone(),
            process: running.clone(),
            is_ready,
            run_dir: launch.run_dir.clone(),
            run_file: launch.run_file(),
            credentials: self.parts.credentials.clone(),
        };
        let watcher = tokio::spawn(watch(watched, self.tell.clone())).abort_handle();
        let process = Process { launch, running, is_ready, child, watcher };
        self.processes.insert(unit.clone(), process);
    }

    fn kill(&self, unit: &Unit) {
        let Some(process) = self.processes.get(unit) else { return };
        let pid = process.running.pid;
        log::warn!("{} (process {pid}) does not answer: it is killed", unit.name);
        if let Err(error) = process.running.signal(libc::SIGKILL) {
            log::error!("{} (process {pid}) cannot be killed: {error}", unit.name);
        }
    }

    fn hear(&mut self, seen: Seen) {
        let Some(process) = self.processes.get_mut(&seen.unit) else { return };
        // What is said of a process that is gone does not matter any more.
        if process.running.pid != seen.pid {
            return;
        }
        match seen.what {
            What::Ready(running) => {
                log::info!("{} is ready at {}", seen.unit.name, running.address);
                process.running = running;
                process.is_ready = true;
                self.event(&seen.unit, Event::Ready);
            }
            What::Answered => self.event(&seen.unit, Event::Answered),
            What::Missed => self.event(&seen.unit, Event::Missed),
            What::Succeeded(successor) => self.succeed(&seen.unit, successor),
            What::Died => self.bury(&seen.unit),
        }
    }

    /// A process is dead. One that ended in good order took its run file along.
    fn bury(&mut self, unit: &Unit) {
        let Some(process) = self.processes.get(unit) else { return };
        if let Some((successor, true)) = process.launch.find() {
            return self.succeed(unit, successor);
        }
        let Some(mut process) = self.processes.remove(unit) else { return };
        let status = process.child.as_mut().and_then(|child| child.wait().ok());
        probes::forget(&process.launch.run_dir, process.running.pid);
        let orderly = process.is_ready && !process.launch.run_file().exists();
        self.event(unit, Event::Died { orderly });
        if self.retire(unit) {
            return;
        }
        if orderly {
            log::info!("{} has ended, as it was asked to", unit.name);
            return;
        }
        let status = status.map(|status| format!(" ({status})")).unwrap_or_default();
        let words = process.launch.last_words();
        self.complain(unit, format!("it died{status}; the last line of its log: {words}"));
    }

    fn event(&mut self, unit: &Unit, event: Event) {
        self.plan.event(unit, event, self.clock.monotonic(), SystemRandom.u64());
    }

    /// Notes why a unit failed, and says what will be done about it.
    fn complain(&mut self, unit: &Unit, why: String) {
        let pause = self.plan.due(unit).map(|at| at.saturating_sub(self.clock.monotonic()));
        let name = &unit.name;
        match pause {
            None => log::warn!("{name}: {why}. It is left as it is"),
            Some(pause) if self.plan.is_failing(unit) => log::error!(
                "{name} fails again and again: {why}. It is tried every {} s until that is mended",
                pause.as_secs()
            ),
            Some(Duration::ZERO) => log::warn!("{name}: {why}. It is started again"),
            Some(pause) => {
                log::warn!("{name}: {why}. It is started again in {:.1} s", pause.as_secs_f64());
            }
        }
        self.troubles.insert(unit.clone(), why);
    }

    fn answer(&mut self, ask: Ask) {
        // Who does not wait for the answer any more does not need it.
        match ask {
            Ask::Status(reply) => drop(reply.send(self.status())),
            Ask::Restart { unit, seen_start, reply } => {
                let outcome = self.plan.asked(&unit, seen_start, self.clock.monotonic());
                log::info!(
                    "a restart of {unit} beyond start {seen_start} was asked for: {outcome:?}"
                );
                self.act();
                reply.send(outcome).ok();
            }
            Ask::Refresh(reply) => {
                let looked = self.look_at_node();
                self.plan.refresh(self.clock.monotonic());
                self.act();
                drop(reply.send(looked));
            }
        }
    }

    fn status(&self) -> Vec<UnitStatus> {
        let units = self.plan.units();
        units
            .map(|(unit, state, start, failures)| {
                let process = self.processes.get(unit);
                let address = process.filter(|process| process.is_ready);
                let matters = failures > 0 || state == UnitState::Retired;
                let trouble = self.troubles.get(unit).filter(|_| matters);
                UnitStatus {
                    name: unit.name.clone(),
                    state,
                    start,
                    pid: process.map(|process| process.running.pid),
                    address: address.map(|process| process.running.address.clone()),
                    failures: u32::try_from(failures).unwrap_or(u32::MAX),
                    trouble: trouble.cloned().unwrap_or_default(),
                }
            })
            .collect()
    }

    /// Tells the service manager that the agent lives, and what has changed.
    fn tell_manager(&mut self) {
        let here = self.plan.units().filter(|(_, state, ..)| *state != UnitState::Retired);
        let all = here.count();
        let up = self.plan.units().filter(|(_, state, ..)| *state == UnitState::Up).count();
        let mut lines = format!("STATUS={up} of {all} units work");
        let is_late = self.clock.monotonic() >= READY_AT_LAST;
        if !self.is_ready && (self.plan.is_settled() || is_late) {
            self.is_ready = true;
            lines.push_str("\nREADY=1");
        }
        match lines == self.told {
            true => self.parts.notifier.tell("WATCHDOG=1"),
            false => self.parts.notifier.tell(&format!("{lines}\nWATCHDOG=1")),
        }
        self.told = lines;
    }
}

#[cfg(test)]
mod tests;
