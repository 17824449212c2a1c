//! Missing a sibling: when its agent is asked to start it again.
//!
//! A monitor that dies is started again by the agent of its node, within a second; its siblings need do nothing.
//! But an agent may be deceived: the process runs and answers it, and has lost the rest of the world; or it has
//! given up haste. So whoever has missed a sibling for five seconds asks that agent, naming the start that it saw
//! last. Any number of siblings may ask: the agent starts it once (`wire::agent`), so nobody has to agree with
//! anybody first, and it works without a majority.
//!
//! [`Asker`] decides, from what is known of the siblings and the time; [`run`] carries it out.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::crypto::{Credentials, Role};
use crate::env::clock::Clock;
use crate::env::random::{Random, SystemRandom};
use crate::env::system::rpc::Connection;
use crate::types::Incarnation;
use crate::wire::agent::{Outcome, Request, Response};
use crate::wire::{decode, encode};

const TICK: Duration = Duration::from_millis(500);
/// Its own agent brings a dead monitor back in less.
const MISSED: Duration = Duration::from_secs(5);
/// How long a monitor that is being started may take to be heard of.
const TO_START: Duration = Duration::from_secs(15);
/// When it is asked again about a monitor that answers its agent and not us: the network is to blame.
const TO_HEAL: Duration = Duration::from_secs(30);
/// When an agent is asked again that knows no such monitor: somebody has moved it.
const TO_MOVE: Duration = Duration::from_secs(300);
/// When an agent is asked again that did not answer: this, doubled with each try up to [`TO_ANSWER_MOST`].
const TO_ANSWER: Duration = Duration::from_secs(5);
const TO_ANSWER_MOST: Duration = Duration::from_secs(80);
/// How long an agent may take to be connected to, and to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// A sibling that this monitor should be hearing of: a leader hears of all members, the others of the leader.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sibling {
    /// The name in its certificate, by which its agent knows it.
    pub name: String,
    /// `host:port` of its agent, if it has one.
    pub agent: Option<String>,
    /// The number of its start, as it said when it introduced itself.
    pub start: u64,
    /// When it was heard of last, or became one that should be heard of; on this monitor's monotonic clock.
    pub heard: Duration,
}

/// A question to an agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ask {
    /// Where the agent is.
    pub agent: String,
    /// Whom to start again.
    pub name: String,
    /// The start that was seen last.
    pub seen_start: u64,
}

/// What was asked so far, and when to ask again.
#[derive(Clone, Debug, Default)]
pub struct Asker {
    ticked: Option<Duration>,
    /// Nobody was heard before this moment, because this monitor itself stood still.
    awake: Duration,
    missing: BTreeMap<String, Missing>,
}

#[derive(Clone, Copy, Debug)]
struct Missing {
    /// `None` while an answer is awaited.
    ask_at: Option<Duration>,
    /// Tries that brought no answer, in a row.
    unanswered: u32,
}

impl Asker {
    /// Whom to ask now. Each question is followed by [`Self::answered`]. To be called about every half second.
    pub fn tick(&mut self, siblings: &[Sibling], now: Duration) -> Vec<Ask> {
        let slept = self.ticked.replace(now).is_some_and(|ticked| now - ticked >= MISSED / 2);
        if slept {
            self.awake = now;
        }
        let awake = self.awake;
        let missed: Vec<&Sibling> = siblings
            .iter()
            .filter(|sibling| now.saturating_sub(sibling.heard.max(awake)) >= MISSED)
            .collect();
        self.missing.retain(|name, _| missed.iter().any(|sibling| sibling.name == *name));
        missed.into_iter().filter_map(|sibling| self.ask(sibling, now)).collect()
    }

    /// An agent has answered about that sibling, or not. `random` keeps askers apart from one another.
    pub fn answered(&mut self, name: &str, outcome: Option<Outcome>, now: Duration, random: u64) {
        // It may be back by now.
        let Some(missing) = self.missing.get_mut(name) else { return };
        let pause = match outcome {
            Some(Outcome::Started(_) | Outcome::Already(_)) => TO_START,
            Some(Outcome::Alive(_)) => TO_HEAL,
            Some(Outcome::NotMine) => TO_MOVE,
            None => TO_ANSWER_MOST.min(TO_ANSWER * (1 << missing.unanswered.min(8))),
        };
        missing.unanswered = if outcome.is_none() { missing.unanswered + 1 } else { 0 };
        let spread = u32::try_from(75 + random % 51).expect("at most 125");
        missing.ask_at = Some(now + pause * spread / 100);
    }

    fn ask(&mut self, sibling: &Sibling, now: Duration) -> Option<Ask> {
        let agent = sibling.agent.clone()?;
        let first = Missing { ask_at: Some(now), unanswered: 0 };
        let missing = self.missing.entry(sibling.name.clone()).or_insert(first);
        missing.ask_at.take_if(|at| *at <= now)?;
        Some(Ask { agent, name: sibling.name.clone(), seen_start: sibling.start })
    }
}

/// Asks for as long as it is polled: `siblings` tells, whenever it is called, whom this monitor should be hearing
/// of at the moment.
pub async fn run(
    siblings: impl Fn() -> Vec<Sibling>,
    credentials: Credentials,
    clock: impl AsRef<dyn Clock>,
) {
    let clock = clock.as_ref();
    let mut asker = Asker::default();
    let mut asking = JoinSet::new();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                for ask in asker.tick(&siblings(), clock.monotonic()) {
                    log::warn!("{} is missed: its agent at {} is asked", ask.name, ask.agent);
                    let credentials = credentials.clone();
                    asking.spawn(async move {
                        let outcome = restart(&ask, &credentials).await;
                        (ask.name, outcome)
                    });
                }
            }
            Some(Ok((name, outcome))) = asking.join_next() => {
                match &outcome {
                    Ok(outcome) => log::info!("the agent of {name} says: {outcome:?}"),
                    Err(why) => log::warn!("the agent of {name} does not help: {why}"),
                }
                asker.answered(&name, outcome.ok(), clock.monotonic(), SystemRandom.u64());
            }
        }
    }
}

/// Asks an agent; the error is a sentence.
async fn restart(ask: &Ask, credentials: &Credentials) -> Result<Outcome, String> {
    let any = Incarnation::default();
    let opened = Connection::open(&ask.agent, credentials, Role::Agent, any, PATIENCE).await;
    let (connection, _) = opened.map_err(|error| error.to_string())?;
    let request = Request::Restart { unit: ask.name.clone(), seen_start: ask.seen_start };
    let called = connection.call(encode(&request), Vec::new(), PATIENCE).await;
    let (answer, _) = called.map_err(|error| error.to_string())?;
    match decode(&answer).map_err(|error| error.to_string())? {
        Response::Restart(outcome) => Ok(outcome),
        Response::Refused(refusal) => Err(refusal.to_string()),
        other => Err(format!("its answer does not belong to the question: {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Leaves pauses as they are.
    const EVEN: u64 = 25;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn sibling(heard: Duration) -> Sibling {
        let agent = Some("b:7000".to_owned());
        Sibling { name: "monitor-2".to_owned(), agent, start: 5, heard }
    }

    /// Ticks until that moment; when it asked.
    fn until(
        asker: &mut Asker,
        sibling: &Sibling,
        end: Duration,
        answer: Option<Outcome>,
    ) -> Vec<u64> {
        let mut now = asker.ticked.unwrap_or_default();
        let mut asked = Vec::new();
        while now < end {
            now += TICK;
            for ask in asker.tick(std::slice::from_ref(sibling), now) {
                assert_eq!((ask.name.as_str(), ask.seen_start), ("monitor-2", 5));
                asked.push(now.as_secs());
                asker.answered(&ask.name, answer, now, EVEN);
            }
        }
        asked
    }

    #[test]
    fn its_own_agent_has_five_seconds_and_a_start_has_fifteen() {
        let mut asker = Asker::default();
        let dead = sibling(seconds(1));
        assert_eq!(until(&mut asker, &dead, seconds(40), Some(Outcome::Started(6))), [6, 21, 36]);
        // It is back, and dies again.
        let back = sibling(seconds(40));
        assert!(until(&mut asker, &back, seconds(44), None).is_empty());
        assert_eq!(until(&mut asker, &back, seconds(46), None), [45]);
    }

    #[test]
    fn each_answer_has_its_pause() {
        let asked = |answer, end| until(&mut Asker::default(), &sibling(seconds(0)), end, answer);
        assert_eq!(asked(Some(Outcome::Alive(5)), seconds(70)), [5, 35, 65]);
        assert_eq!(asked(Some(Outcome::NotMine), seconds(310)), [5, 305]);
        assert_eq!(asked(None, seconds(250)), [5, 10, 20, 40, 80, 160, 240]);
    }

    #[test]
    fn an_unanswered_question_is_not_asked_twice() {
        let mut asker = Asker::default();
        let dead = [sibling(seconds(0))];
        let ticks = (0..100).map(|tick| asker.tick(&dead, TICK * tick).len());
        assert_eq!(ticks.sum::<usize>(), 1);
    }

    #[test]
    fn who_has_no_agent_is_left_to_people() {
        let alone = Sibling { agent: None, ..sibling(seconds(0)) };
        assert!(until(&mut Asker::default(), &alone, seconds(60), None).is_empty());
    }

    #[test]
    fn who_stood_still_has_heard_nobody() {
        let mut asker = Asker::default();
        let quiet = sibling(seconds(0));
        until(&mut asker, &quiet, seconds(4), None);
        assert!(asker.tick(std::slice::from_ref(&quiet), seconds(100)).is_empty());
        assert_eq!(until(&mut asker, &quiet, seconds(106), None), [105]);
    }
}
