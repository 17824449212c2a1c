//! The heart of a member: a leader's signs of life, and what [`Elections`] decides.
//!
//! A leader pulses to every member, each in a task of its own, so that one that hangs delays nobody. A pulse
//! proves that the process runs and that its Raft gets through its work: a leader whose disk swallows a write
//! for seconds falls silent as if it were dead, and another takes over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::raft::VoteRequest;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::elections::{Decision, Elections, Timing, View};
use super::hashes::{self, Comparison, Hashes};
use super::log::Log;
use super::room::Gauge;
use super::transport::Transport;
use super::types;
use super::{Core, Metrics};
use crate::env::random::SystemRandom;
use crate::types::{DiskRoom, MonitorId, Position};
use crate::wire::peers::{Answer, Ask, NOBODY, Pulse, StateHash, Vote};

/// A Raft that has not got through its work for this long is taken for hung.
const CORE_HUNG: Duration = Duration::from_secs(3);
/// How often that is looked at.
const CORE_LOOK: Duration = Duration::from_millis(250);
/// How often is looked how much room the disk has.
const ROOM_LOOK: Duration = Duration::from_millis(250);

/// What a leader last heard of another member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heard {
    /// The last entry that it has applied.
    pub applied: u64,
    /// Since when it has not answered.
    pub silent: Duration,
    /// How much room its disk has.
    pub room: DiskRoom,
}

/// What a member said with its answer to a pulse.
struct Beat {
    /// When the pulse was sent.
    sent: Duration,
    applied: u64,
    room: DiskRoom,
}

/// The heart; shared by those who hear other members' messages.
pub(super) struct Heart {
    me: u64,
    core: Core,
    log: Arc<Log>,
    transport: Arc<dyn Transport>,
    timing: Timing,
    began: Instant,
    elections: Mutex<Elections>,
    comparison: Mutex<Comparison>,
    hashes: Arc<Hashes>,
    gauge: Arc<Gauge>,
    /// The last answer of each member.
    heard: Mutex<BTreeMap<u64, Beat>>,
    /// When the core last got through its work.
    core_seen: Mutex<Duration>,
    /// Rings when there may be something to decide.
    wake: Notify,
    fault: watch::Sender<Option<String>>,
}

impl Heart {
    /// A heart that does not beat yet.
    pub(super) fn new(
        core: Core,
        me: u64,
        log: Arc<Log>,
        transport: Arc<dyn Transport>,
        timing: Timing,
        hashes: Arc<Hashes>,
        gauge: Arc<Gauge>,
    ) -> Self {
        let random = Box::new(SystemRandom);
        Self {
            me,
            core,
            log,
            transport,
            timing,
            began: Instant::now(),
            elections: Mutex::new(Elections::new(me, timing, random, Duration::ZERO)),
            comparison: Mutex::default(),
            hashes,
            gauge,
            heard: Mutex::default(),
            core_seen: Mutex::new(Duration::ZERO),
            wake: Notify::new(),
            fault: watch::Sender::new(None),
        }
    }

    /// Beats until Raft stops.
    pub(super) async fn run(self: Arc<Self>) {
        drop(tokio::spawn(Arc::clone(&self).watch_core()));
        let _watching_room = AbortOnDrop(tokio::spawn(watch_room(Arc::clone(&self.gauge))));
        let mut metrics = self.core.server_metrics();
        let mut ticks = tokio::time::interval(self.timing.pulse / 3);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pulsed = (0, Duration::ZERO);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.wake.notified() => {}
                changed = metrics.changed() => if changed.is_err() {
                    return;
                }
            }
            let (view, term) = {
                let metrics = self.core.metrics();
                let metrics = metrics.borrow();
                if metrics.running_state.is_err() {
                    return;
                }
                (self.view(&metrics), metrics.current_term)
            };
            let now = self.now();
            let decision = self.elections.lock().step(now, &view);
            if let Some(decision) = decision {
                self.carry_out(decision, &view).await;
            } else if view.leads && (pulsed.0 != term || now >= pulsed.1 + self.timing.pulse) {
                pulsed = (term, now);
                self.pulse(term, &view);
            }
        }
    }

    /// What was last heard of the others, if this member leads.
    pub(super) fn heard(&self) -> BTreeMap<MonitorId, Heard> {
        let now = self.now();
        let heard = self.heard.lock();
        let heard = heard.iter().map(|(id, Beat { sent, applied, room })| {
            let silent = now.saturating_sub(*sent);
            (MonitorId(*id), Heard { applied: *applied, silent, room: *room })
        });
        heard.collect()
    }

    /// How much room this member's disk has.
    pub(super) fn room(&self) -> DiskRoom {
        self.gauge.seen()
    }

    /// A leader has shown itself.
    pub(super) fn pulse_heard(&self, pulse: &Pulse) -> Answer {
        let (term, applied) = {
            let metrics = self.core.metrics();
            let metrics = metrics.borrow();
            (metrics.current_term, metrics.last_applied.map_or(0, |id| id.index))
        };
        if pulse.term >= term {
            self.elections.lock().pulse_heard(self.now());
            if let Some(verdict) = pulse.verdict {
                self.obey(verdict);
            }
        }
        let hash = pulse.check.and_then(|index| self.hashes.at(index));
        Answer::Pulsed { term, applied, hash, room: self.room() }
    }

    /// Whether this member would vote for that one.
    pub(super) fn would_vote(&self, from: u64, last: Option<Position>) -> bool {
        let mine = self.log.last();
        self.elections.lock().would_vote(self.now(), from, last, mine)
    }

    /// Why this member must not go on, if so.
    pub(super) fn fault(&self) -> watch::Receiver<Option<String>> {
        self.fault.subscribe()
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    async fn watch_core(self: Arc<Self>) {
        while self.core.with_raft_state(|_| ()).await.is_ok() {
            *self.core_seen.lock() = self.now();
            tokio::time::sleep(CORE_LOOK).await;
        }
    }

    async fn carry_out(self: &Arc<Self>, decision: Decision, view: &View) {
        match decision {
            Decision::Poll => self.poll(view),
            // When Raft has stopped, the next beat sees it.
            Decision::Stand => drop(self.core.trigger().elect().await),
            Decision::Abdicate => {
                let why = match view.room {
                    DiskRoom::Enough => "no majority of the monitors answers",
                    _ => "its disk is nearly full, or no majority of the monitors answers",
                };
                log::warn!("{why}: this monitor leads no more");
                self.abdicate().await;
            }
        }
    }

    /// Leads no more: agrees to the next term, in which it has voted for nobody yet.
    async fn abdicate(&self) {
        let term = self.core.metrics().borrow().current_term + 1;
        let vote = types::openraft_vote(Vote { term, leader: NOBODY, committed: false });
        let last = self.log.last().map(types::log_id);
        // Refused when it is out of date, and then it leads no more anyway.
        if let Err(error) = self.core.vote(VoteRequest::new(vote, last)).await {
            log::warn!("leadership could not be given up: {error}");
        }
    }

    /// Asks the other voters whether they would vote for this member.
    fn poll(self: &Arc<Self>, view: &View) {
        let last = self.log.last();
        for to in self.others(view.voters.iter().flatten()) {
            let heart = Arc::clone(self);
            drop(tokio::spawn(async move {
                let asked = heart.ask(to, Ask::Poll { last }, heart.timing.poll).await;
                if let Some(Answer::Polled(would)) = asked {
                    heart.elections.lock().poll_answered(to, would);
                    heart.wake.notify_one();
                }
            }));
        }
    }

    /// Shows every member that this one leads.
    fn pulse(self: &Arc<Self>, term: u64, view: &View) {
        let sent = self.now();
        if sent > *self.core_seen.lock() + CORE_HUNG {
            return;
        }
        let pulse = {
            let mut comparison = self.comparison.lock();
            let check = comparison.question(sent, self.me, self.hashes.last());
            Pulse { term, check, verdict: comparison.verdict() }
        };
        if let Some(verdict) = pulse.verdict {
            self.obey(verdict);
        }
        let members = self.members();
        self.heard.lock().retain(|id, _| members.contains(id));
        for to in self.others(members.iter()) {
            let (heart, ask, view) = (Arc::clone(self), Ask::Pulse(pulse.clone()), view.clone());
            drop(tokio::spawn(async move {
                if let Some(Answer::Pulsed { term: theirs, applied, hash, room }) =
                    heart.ask(to, ask, heart.timing.deaf).await
                {
                    let beat = Beat { sent, applied, room };
                    heart.pulse_answered(to, (term, theirs), beat, &view, hash).await;
                }
            }));
        }
    }

    async fn pulse_answered(
        &self,
        from: u64,
        (term, theirs): (u64, u64),
        beat: Beat,
        view: &View,
        hash: Option<StateHash>,
    ) {
        if theirs > term {
            // Somebody has been elected, or tried to be, in a newer term.
            if view.leads && self.core.metrics().borrow().current_term == term {
                self.abdicate().await;
            }
            return;
        }
        self.elections.lock().pulse_answered(beat.sent, from);
        self.heard.lock().insert(from, beat);
        if let Some(hash) = hash {
            self.comparison.lock().answered(from, hash, view);
        }
    }

    /// Stops this member when most have another state.
    fn obey(&self, verdict: StateHash) {
        let differs = self.hashes.at(verdict.index).is_some_and(|mine| mine != verdict);
        if differs && self.fault.borrow().is_none() {
            let why = hashes::differs(verdict.index);
            log::error!("this monitor stops: {why}");
            self.fault.send_replace(Some(why));
            let core = self.core.clone();
            drop(tokio::spawn(async move {
                if let Err(panic) = core.shutdown().await {
                    log::error!("Raft panicked: {panic}");
                }
            }));
        }
    }

    async fn ask(&self, to: u64, ask: Ask, timeout: Duration) -> Option<Answer> {
        let hint = {
            let metrics = self.core.metrics();
            let metrics = metrics.borrow();
            let mut nodes = metrics.membership_config.nodes();
            nodes.find(|(id, _)| **id == to).map(|(_, peer)| peer.address.clone())
        };
        let asked = self.transport.ask(MonitorId(to), &hint.unwrap_or_default(), ask, timeout);
        // Who does not answer is silent, and that is what counts.
        asked.await.ok()
    }

    /// What elections go by.
    fn view(&self, metrics: &Metrics) -> View {
        let voters = metrics.membership_config.membership().get_joint_config().clone();
        let (now, heard) = (self.now(), self.heard.lock());
        let has_room = heard.iter().filter(|(_, beat)| {
            beat.room == DiskRoom::Enough && now < beat.sent + self.timing.deaf
        });
        View {
            leads: metrics.state.is_leader(),
            voters,
            // Just now: a disk that is filled by others is full in no time.
            room: if metrics.state.is_leader() { self.gauge.look() } else { self.room() },
            roomy: has_room.map(|(id, _)| *id).collect(),
        }
    }

    /// All members, voters or not.
    fn members(&self) -> BTreeSet<u64> {
        let metrics = self.core.metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.nodes().map(|(id, _)| *id).collect()
    }

    /// Each once, without this member.
    fn others<'a>(&self, members: impl Iterator<Item = &'a u64>) -> BTreeSet<u64> {
        members.copied().filter(|id| *id != self.me).collect()
    }
}

/// Looks at the disk for ever, on a thread that may wait for it.
async fn watch_room(gauge: Arc<Gauge>) {
    loop {
        let looking = Arc::clone(&gauge);
        // The next look will do as well.
        drop(tokio::task::spawn_blocking(move || looking.look()).await);
        tokio::time::sleep(ROOM_LOOK).await;
    }
}

/// A task that ends with whoever has it.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
