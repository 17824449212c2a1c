//! A monitor that is lost for good is replaced by a node that has none.
//!
//! A monitor that dies comes back within a second, and a machine that boots within minutes. One that has been
//! missed for [`Member::replace_after`](super::Member) is taken for lost: of three monitors one is missing, and the
//! next failure would stop everything. If there is another monitor that only copies, it takes the lost one's vote.
//! Else a **spare** is looked for: agents beat, and say whether their node would run a monitor. One of them is told
//! so in the answer to its next beat; it makes a key, asks for the certificate ([`Enroll`](crate::wire::trust)), and
//! starts the monitor, which then joins under a name and an id of its own. With the certificate the lost one becomes
//! one that is to go when another can take its place, and the group does the rest (`members`).
//!
//! **Exactly one.** Only the leader orders, one order at a time; whoever is awaited is given as long to come as the
//! lost one was. All of this is in its memory: a new leader waits for the whole time again, and what an old one has
//! put into the log too late is not applied.
//!
//! [`Spares`] decides; the rest of this file carries it out.

use std::collections::BTreeMap;
use std::time::Duration;

use super::reign::Reign;
use super::unreadable;
use crate::crypto::Identity;
use crate::monitor::namespace::command::{Action, Outcome};
use crate::monitor::namespace::query;
use crate::monitor::namespace::records::MonitorState;
use crate::types::MonitorId;
use crate::wire::metadata::{AgentBeat, AgentBeaten, Refusal, Response};

/// How often it is looked for lost monitors.
const TICK: Duration = Duration::from_secs(1);
/// Between two looks that are further apart than this, this monitor stood still, and has missed nobody.
const STOOD_STILL: Duration = Duration::from_secs(5);
/// A monitor that has not answered for this long is missed.
const SILENT: Duration = Duration::from_secs(2);
/// An agent that has not beaten for this long may be gone: they beat every five seconds.
const AGENT_SILENT: Duration = Duration::from_secs(15);
/// How long an agent that has taken an order may ask again, because the answer was lost.
const TAKEN: Duration = Duration::from_secs(30);

/// A monitor, as the leader sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    pub(super) id: MonitorId,
    pub(super) state: MonitorState,
    pub(super) answers: bool,
    pub(super) votes: bool,
}

/// Which monitors are missed, and who could take their place.
#[derive(Debug, Default)]
pub(super) struct Spares {
    agents: BTreeMap<String, Agent>,
    missed: BTreeMap<MonitorId, Duration>,
    ticked: Option<Duration>,
    order: Option<Order>,
}

#[derive(Clone, Copy, Debug)]
struct Agent {
    is_spare: bool,
    heard: Duration,
}

/// That agent is to make a monitor that takes the place of that one.
#[derive(Clone, Debug)]
struct Order {
    agent: String,
    lost: MonitorId,
    taken: Option<Duration>,
}

impl Spares {
    /// An agent lives. Which monitor it is to replace, if it is the one that was chosen.
    fn beat(&mut self, agent: &str, is_spare: bool, now: Duration) -> Option<MonitorId> {
        self.agents.insert(agent.to_owned(), Agent { is_spare, heard: now });
        let order = self.order.as_ref()?;
        let is_meant = order.agent == agent && order.taken.is_none() && is_spare;
        is_meant.then_some(order.lost)
    }

    /// An agent carries out its order. Whether it has one.
    fn take(&mut self, agent: &str, lost: MonitorId, now: Duration) -> bool {
        match &mut self.order {
            Some(order) if order.agent == agent && order.lost == lost => {
                order.taken.get_or_insert(now);
                true
            }
            _ => false,
        }
    }

    /// Looks at all monitors. Gives one that is to go because another that only copies can take its place.
    fn tick(&mut self, all: &[Seen], after: Duration, now: Duration) -> Option<MonitorId> {
        let ticked = self.ticked.replace(now);
        if ticked.is_some_and(|ticked| now.saturating_sub(ticked) >= STOOD_STILL) {
            self.missed.clear();
        }
        self.miss(all, now);
        self.agents.retain(|_, agent| now.saturating_sub(agent.heard) < AGENT_SILENT);
        if self.order.as_ref().and_then(|order| order.taken).is_some_and(|at| now < at + TAKEN) {
            return None;
        }
        self.order = None;
        let is_late = |seen: &&Seen| {
            self.missed.get(&seen.id).is_some_and(|since| now.saturating_sub(*since) >= after)
        };
        let is_awaited = |seen: &Seen| seen.state == MonitorState::Joining && !is_late(&seen);
        let copies =
            |seen: &Seen| seen.state == MonitorState::Member && seen.answers && !seen.votes;
        if all.iter().any(is_awaited) {
            return None;
        }
        let mut lost =
            all.iter().filter(is_late).filter(|seen| seen.state != MonitorState::Joining);
        let lost = lost.next()?;
        if all.iter().any(copies) {
            return (lost.state == MonitorState::Member).then_some(lost.id);
        }
        let (agent, _) = self.agents.iter().find(|(_, agent)| agent.is_spare)?;
        self.order = Some(Order { agent: agent.clone(), lost: lost.id, taken: None });
        None
    }

    fn miss(&mut self, all: &[Seen], now: Duration) {
        let is_missed = |seen: &&Seen| match seen.state {
            MonitorState::Joining => true,
            MonitorState::Member | MonitorState::Replaced => !seen.answers,
            MonitorState::Leaving | MonitorState::Gone => false,
        };
        let missed: Vec<MonitorId> = all.iter().filter(is_missed).map(|seen| seen.id).collect();
        self.missed.retain(|id, _| missed.contains(id));
        for id in missed {
            self.missed.entry(id).or_insert(now);
        }
    }
}

impl Reign {
    /// An agent lives.
    pub(super) fn agent_beat(
        &self,
        agent: &Identity,
        beat: AgentBeat,
    ) -> Result<Response, Refusal> {
        let may = query::may_monitor(&*self.store, &agent.name).map_err(unreadable)?;
        let (is_spare, now) = (beat.is_spare && may, self.clock.monotonic());
        let replace = self.state.lock().spares.beat(&agent.name, is_spare, now);
        Ok(Response::AgentBeaten(AgentBeaten { monitors: self.monitors()?, replace }))
    }

    /// Refuses an agent that was not told to make a monitor.
    pub(super) fn check_ordered(
        &self,
        agent: &str,
        replaces: Option<MonitorId>,
    ) -> Result<(), Refusal> {
        let now = self.clock.monotonic();
        let is_ordered =
            replaces.is_some_and(|lost| self.state.lock().spares.take(agent, lost, now));
        is_ordered.then_some(()).ok_or(Refusal::Forbidden)
    }

    async fn look_for_lost(&self) -> Result<(), Refusal> {
        let Some(after) = self.member.replace_after else { return Ok(()) };
        let monitors = query::monitors(&*self.store).map_err(unreadable)?;
        let group = self.group();
        let seen = monitors.iter().map(|(id, record)| Seen {
            id: *id,
            state: record.state,
            answers: *id == self.member.id
                || group.heard.get(id).is_some_and(|heard| heard.silent < SILENT),
            votes: group.voters.iter().any(|voters| voters.contains(id)),
        });
        let seen: Vec<Seen> = seen.collect();
        let goes = self.state.lock().spares.tick(&seen, after, self.clock.monotonic());
        let goes = goes.and_then(|goes| monitors.into_iter().find(|(id, _)| *id == goes));
        let Some((_, record)) = goes else { return Ok(()) };
        log::warn!("{} is taken for lost: another monitor takes its place", record.name);
        let action = Action::RemoveMonitor { name: record.name, once_replaced: true };
        match self.submit(action).await? {
            Outcome::Refused(why) => Err(Refusal::Malformed(why)),
            _ => Ok(()),
        }
    }
}

/// Looks for lost monitors, for as long as it is polled.
pub(super) async fn run(reign: &Reign) {
    loop {
        tokio::time::sleep(TICK).await;
        if let Err(why) = reign.look_for_lost().await {
            log::warn!("a monitor that is missed is not replaced yet: {why}");
        }
    }
}

#[cfg(test)]
mod tests {
    use MonitorState::{Gone, Joining, Member, Replaced};

    use super::*;

    const AFTER: Duration = Duration::from_secs(600);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Voters, of whom only these do not answer.
    fn voters(states: &[MonitorState], silent: &[u64]) -> Vec<Seen> {
        let seen = |(id, state): (u64, &MonitorState)| {
            let answers = !silent.contains(&id) && *state != Joining;
            Seen { id: MonitorId(id), state: *state, answers, votes: true }
        };
        (1..).zip(states).map(seen).collect()
    }

    /// When which agent was told to replace which monitor.
    type Ordered = (u64, String, MonitorId);

    /// A second a tick, while these agents beat as spares; gives the orders that they got, and who is to go.
    fn pass(
        spares: &mut Spares,
        all: &[Seen],
        agents: &[&str],
        until: u64,
    ) -> (Vec<Ordered>, Vec<(u64, MonitorId)>) {
        let (mut orders, mut goes) = (Vec::new(), Vec::new());
        let from = spares.ticked.map_or(0, |ticked| ticked.as_secs() + 1);
        for now in from..=until {
            goes.extend(spares.tick(all, AFTER, seconds(now)).map(|id| (now, id)));
            for agent in agents {
                if let Some(lost) = spares.beat(agent, true, seconds(now)) {
                    orders.push((now, (*agent).to_owned(), lost));
                }
            }
        }
        (orders, goes)
    }

    #[test]
    fn one_spare_is_told_and_only_after_ten_minutes() {
        let mut spares = Spares::default();
        let all = voters(&[Member; 3], &[3]);
        let (orders, goes) = pass(&mut spares, &all, &["b", "c"], 605);
        let told: Vec<u64> = orders.iter().map(|(at, ..)| *at).collect();
        assert_eq!(told, [600, 601, 602, 603, 604, 605], "until it takes the order");
        assert!(orders.iter().all(|(_, agent, lost)| agent == "b" && *lost == MonitorId(3)));
        assert!(goes.is_empty());

        assert!(!spares.take("c", MonitorId(3), seconds(605)), "it was not told");
        assert!(!spares.take("b", MonitorId(2), seconds(605)));
        assert!(spares.take("b", MonitorId(3), seconds(605)));
        assert!(spares.take("b", MonitorId(3), seconds(606)), "its answer was lost");
        let all = voters(&[Member, Member, Replaced, Joining], &[3]);
        let (orders, _) = pass(&mut spares, &all, &["b", "c"], 1200);
        assert!(orders.is_empty(), "one is awaited: {orders:?}");
        // It never came.
        let (orders, _) = pass(&mut spares, &all, &["c"], 1220);
        assert_eq!(orders[0], (1215, "c".to_owned(), MonitorId(3)), "b is silent since 1200");
        let all = voters(&[Member, Member, Gone, Gone, Member], &[]);
        let (orders, goes) = pass(&mut spares, &all, &["c"], 3000);
        assert!(orders.is_empty() && goes.is_empty(), "all is well");
    }

    #[test]
    fn who_comes_back_in_time_is_not_lost() {
        let mut spares = Spares::default();
        let (away, back) = (voters(&[Member; 3], &[3]), voters(&[Member; 3], &[]));
        pass(&mut spares, &away, &["b"], 599);
        pass(&mut spares, &back, &["b"], 600);
        let (orders, _) = pass(&mut spares, &away, &["b"], 1199);
        assert!(orders.is_empty(), "{orders:?}");
    }

    #[test]
    fn who_stood_still_has_missed_nobody() {
        let mut spares = Spares::default();
        let away = voters(&[Member; 3], &[2, 3]);
        pass(&mut spares, &away, &["b"], 1);
        spares.tick(&away, AFTER, seconds(2000));
        assert_eq!(spares.beat("b", true, seconds(2000)), None);
        let (orders, _) = pass(&mut spares, &away, &["b"], 2599);
        assert!(orders.is_empty(), "{orders:?}");
    }

    #[test]
    fn without_a_living_spare_nothing_happens() {
        let mut spares = Spares::default();
        let away = voters(&[Member; 3], &[3]);
        spares.beat("gone", true, seconds(0));
        for now in 0..700 {
            assert_eq!(spares.tick(&away, AFTER, seconds(now)), None);
            assert_eq!(spares.beat("has one", false, seconds(now)), None);
        }
        assert!(spares.order.is_none());
    }

    #[test]
    fn a_monitor_that_copies_goes_before_a_spare() {
        let mut spares = Spares::default();
        let mut all = voters(&[Member; 4], &[3]);
        all[3].votes = false;
        let (orders, goes) = pass(&mut spares, &all, &["b"], 600);
        assert_eq!((orders.len(), goes), (0, vec![(600, MonitorId(3))]));
        all[2].state = Replaced;
        let (orders, goes) = pass(&mut spares, &all, &["b"], 700);
        assert!(orders.is_empty() && goes.is_empty(), "the group does the rest");
    }
}
