//! When a member asks to lead, and when a leader gives up: decided here, done elsewhere.
//!
//! openraft's own election timer draws its timeout once a process, deposes a healthy leader when a member comes
//! back from behind a cut, and never lets a leader go that nobody hears. So it is switched off, and this one
//! decides instead. It adds three things to the paper's rules:
//!
//! * **The pulse.** A leader shows itself with messages of their own, which wait neither for a disk nor behind
//!   entries on their way. A follower that hears none for a while, drawn anew each time, wants an election.
//! * **The poll** (pre-vote in Ongaro's thesis, §9.6). It first asks the others whether they would vote for it.
//!   Who has heard a leader lately, or has more in its log, would not. Only with a majority behind it a member
//!   raises the term. A member promises itself to one asker at a time, so that two rarely stand at once.
//! * **Abdication** (§6.2 of the thesis). A leader whose pulses a majority has not answered for a while, because
//!   it is cut off, even if only in one direction, steps down for good in its term. The others may have elected
//!   one by then, and who asks here is told the truth: nobody leads.
//!
//! And one of ours: a leader whose disk is nearly full **yields**, if a majority has room: they can go on when it
//! cannot. Who has no room lets the others have their turn first.
//!
//! Times are of a clock that only goes on. A gap between two steps is a pause of this process (a stopped
//! virtual machine, say), not silence of the others: nobody is judged by it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::env::random::Random;
use crate::types::{DiskRoom, Position};

/// How long is long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// A leader pulses this often.
    pub(super) pulse: Duration,
    /// Who has heard a pulse within this time votes for nobody else.
    pub(super) loyal: Duration,
    /// After a silence between these a follower polls.
    pub(super) silence: (Duration, Duration),
    /// How long the answers of a poll are waited for, and how long a promise holds.
    pub(super) poll: Duration,
    /// How long votes are waited for.
    pub(super) vote: Duration,
    /// A leader that no majority has answered for this long abdicates.
    pub(super) deaf: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            pulse: Duration::from_millis(150),
            loyal: Duration::from_millis(500),
            silence: (Duration::from_millis(700), Duration::from_millis(1100)),
            poll: Duration::from_millis(250),
            vote: Duration::from_millis(500),
            deaf: Duration::from_millis(1000),
        }
    }
}

/// What Raft says at the moment.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// Whether this member leads.
    pub(super) leads: bool,
    /// The sets of voters, of each of which a majority is needed; two while the group changes.
    pub(super) voters: Vec<BTreeSet<u64>>,
    /// What room this member's disk has. Where it is full, a leader stays one: that it leads no more is written down.
    pub(super) room: DiskRoom,
    /// Of the others, those that answer this leader and have room.
    pub(super) roomy: BTreeSet<u64>,
}

impl View {
    /// Whether these are a majority of every set of voters.
    pub(super) fn is_majority(&self, members: &BTreeSet<u64>) -> bool {
        !self.voters.is_empty()
            && self.voters.iter().all(|set| 2 * set.intersection(members).count() > set.len())
    }
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Decision {
    /// Ask the other voters whether they would vote for this member.
    Poll,
    /// Raise the term and ask for votes.
    Stand,
    /// Lead no more.
    Abdicate,
}

/// ```text
///            silence               majority would             votes
/// Waiting ─────────────► Polling ─────────────────► Standing ──────► Leading
///    ▲ pulse, or no answers │      pulse, or no votes │        deaf     │
///    └──────────────────────┴─────────────────────────┴─────────────────┘
/// ```
#[derive(Debug)]
enum State {
    /// Hears a leader, or gives the others their turn.
    Waiting { until: Duration },
    /// Has asked who would vote for it.
    Polling { yes: BTreeSet<u64>, until: Duration },
    /// Has asked for votes.
    Standing { until: Duration },
    /// Leads: when it last heard each of the others.
    Leading { heard: BTreeMap<u64, Duration> },
}

/// The election timer of one member.
pub(super) struct Elections {
    me: u64,
    timing: Timing,
    random: Box<dyn Random>,
    state: State,
    last_step: Duration,
    last_pulse: Option<Duration>,
    /// Who was told that it would get this member's vote, and until when that holds.
    promised: Option<(u64, Duration)>,
}

impl Elections {
    /// The timer of member `me`, at the time `now`.
    pub(super) fn new(me: u64, timing: Timing, random: Box<dyn Random>, now: Duration) -> Self {
        let state = State::Waiting { until: now };
        let mut elections =
            Self { me, timing, random, state, last_step: now, last_pulse: None, promised: None };
        elections.wait_for_silence(now);
        elections
    }

    /// To be called often: what is to be done now?
    pub(super) fn step(&mut self, now: Duration, view: &View) -> Option<Decision> {
        self.excuse_pause(now);
        match (&self.state, view.leads) {
            (State::Leading { .. }, false) => self.wait_for_silence(now),
            (State::Leading { .. }, true) | (_, false) => {}
            (_, true) => self.state = State::Leading { heard: BTreeMap::new() },
        }
        if let State::Leading { heard } = &mut self.state {
            // Who has just become a voter has its time, too.
            for voter in view.voters.iter().flatten() {
                heard.entry(*voter).or_insert(now);
            }
            let yields = view.room == DiskRoom::Reserve && view.is_majority(&view.roomy);
            let leaves = view.room != DiskRoom::Full && (yields || self.is_deaf(now, view));
            return leaves.then(|| self.abdicate(now));
        }
        if !view.voters.iter().any(|set| set.contains(&self.me)) {
            self.wait_for_silence(now);
            return None;
        }
        self.seek(now, view)
    }

    /// A leader of this term, or of a newer one, has shown itself.
    pub(super) fn pulse_heard(&mut self, now: Duration) {
        self.last_pulse = Some(now);
        if !matches!(self.state, State::Leading { .. }) {
            self.wait_for_silence(now);
        }
    }

    /// A member has answered the pulse of this leader.
    pub(super) fn pulse_answered(&mut self, now: Duration, from: u64) {
        if let State::Leading { heard } = &mut self.state {
            heard.insert(from, now);
        }
    }

    /// A member has answered the poll.
    pub(super) fn poll_answered(&mut self, from: u64, would: bool) {
        if let State::Polling { yes, .. } = &mut self.state
            && would
        {
            yes.insert(from);
        }
    }

    /// Whether this member would vote for `from`, whose log ends with `theirs`; its own ends with `mine`.
    pub(super) fn would_vote(
        &mut self,
        now: Duration,
        from: u64,
        theirs: Option<Position>,
        mine: Option<Position>,
    ) -> bool {
        let is_loyal = self.last_pulse.is_some_and(|last| now < last + self.timing.loyal);
        let is_promised = self.promised.is_some_and(|(other, until)| other != from && now < until);
        let stands = match &self.state {
            State::Leading { .. } => return false,
            State::Polling { .. } | State::Standing { .. } => true,
            State::Waiting { .. } => false,
        };
        // Of two that poll each other at the same time one has to give way.
        let gives_way = !stands || (theirs, from) > (mine, self.me);
        if is_loyal || is_promised || theirs < mine || !gives_way {
            return false;
        }
        self.promised = Some((from, now + self.timing.poll));
        self.state = State::Waiting { until: now + self.timing.poll + self.timing.vote };
        true
    }

    /// Moves everything that is judged by time behind a pause of this process.
    fn excuse_pause(&mut self, now: Duration) {
        let pause = now.saturating_sub(self.last_step);
        self.last_step = now;
        if pause < self.timing.loyal {
            return;
        }
        match &mut self.state {
            State::Waiting { .. } => self.wait_for_silence(now),
            State::Polling { until, .. } | State::Standing { until } => *until += pause,
            State::Leading { heard } => heard.values_mut().for_each(|at| *at += pause),
        }
    }

    /// Follows no leader: is it time to become one?
    fn seek(&mut self, now: Duration, view: &View) -> Option<Decision> {
        let alone = view.is_majority(&BTreeSet::from([self.me]));
        let turn =
            if view.room != DiskRoom::Enough { self.timing.silence.1 * 2 } else { Duration::ZERO };
        match &self.state {
            State::Waiting { until } if now < *until + turn && !alone => None,
            State::Waiting { .. } if alone => Some(self.stand(now)),
            State::Waiting { .. } => {
                let yes = BTreeSet::from([self.me]);
                self.state = State::Polling { yes, until: now + self.timing.poll };
                Some(Decision::Poll)
            }
            State::Polling { yes, .. } if view.is_majority(yes) => Some(self.stand(now)),
            State::Polling { until, .. } | State::Standing { until } if now >= *until => {
                self.wait_a_little(now);
                None
            }
            State::Polling { .. } | State::Standing { .. } | State::Leading { .. } => None,
        }
    }

    fn stand(&mut self, now: Duration) -> Decision {
        self.state = State::Standing { until: now + self.timing.vote };
        Decision::Stand
    }

    fn is_deaf(&self, now: Duration, view: &View) -> bool {
        let State::Leading { heard } = &self.state else { return false };
        let answering = heard.iter().filter(|(_, at)| now < **at + self.timing.deaf);
        let mut members: BTreeSet<u64> = answering.map(|(id, _)| *id).collect();
        members.insert(self.me);
        // A leader that was voted out leads until that is committed; it counts only the others.
        !view.is_majority(&members)
    }

    fn abdicate(&mut self, now: Duration) -> Decision {
        self.wait_for_silence(now);
        Decision::Abdicate
    }

    fn wait_for_silence(&mut self, now: Duration) {
        let (least, most) = self.timing.silence;
        let until = now + self.between(least, most);
        self.state = State::Waiting { until };
    }

    /// After a try that failed: long enough for another member to get its turn.
    fn wait_a_little(&mut self, now: Duration) {
        let until = now + self.between(Duration::ZERO, self.timing.poll * 2);
        self.state = State::Waiting { until };
    }

    fn between(&self, least: Duration, most: Duration) -> Duration {
        let range = (most - least).as_micros().max(1);
        let drawn = u128::from(self.random.u64()) % range;
        least + Duration::from_micros(u64::try_from(drawn).expect("below a range of seconds"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::sim::SeededRandom;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn at(index: u64) -> Option<Position> {
        Some(Position { term: 1, index })
    }

    fn member(me: u64) -> Elections {
        Elections::new(me, Timing::default(), Box::new(SeededRandom::new(me)), ms(0))
    }

    fn view(leads: bool, voters: &[u64]) -> View {
        View { leads, voters: vec![voters.iter().copied().collect()], ..View::default() }
    }

    /// Steps every 50 ms from `from` until something is decided.
    fn until_decided(one: &mut Elections, from: u64, view: &View) -> (u64, Decision) {
        let decided = (from..from + 5000)
            .step_by(50)
            .find_map(|now| one.step(ms(now), view).map(|decision| (now, decision)));
        decided.expect("something within five seconds")
    }

    #[test]
    fn a_single_voter_stands_at_once_and_a_learner_never() {
        assert_eq!(member(1).step(ms(0), &view(false, &[1])), Some(Decision::Stand));
        let mut learner = member(4);
        for now in (0..60_000).step_by(50) {
            assert_eq!(learner.step(ms(now), &view(false, &[1, 2, 3])), None);
        }
    }

    #[test]
    fn silence_leads_to_a_poll_and_a_majority_to_an_election() {
        let (view, mut one) = (view(false, &[1, 2, 3]), member(1));
        let (now, decision) = until_decided(&mut one, 0, &view);
        assert_eq!(decision, Decision::Poll);
        assert!((700..=1150).contains(&now), "{now}");
        one.poll_answered(2, false);
        assert_eq!(one.step(ms(now + 50), &view), None);
        one.poll_answered(3, true);
        assert_eq!(one.step(ms(now + 100), &view), Some(Decision::Stand));
    }

    #[test]
    fn a_poll_that_nobody_answers_is_repeated_and_never_raises_the_term() {
        let (view, mut one) = (view(false, &[1, 2, 3]), member(1));
        let decided: Vec<_> =
            (0..10_000).step_by(50).filter_map(|now| one.step(ms(now), &view)).collect();
        assert!(decided.len() > 8, "{decided:?}");
        assert!(decided.iter().all(|decision| *decision == Decision::Poll));
    }

    #[test]
    fn who_hears_a_leader_votes_for_nobody_and_does_not_poll() {
        let (view, mut one) = (view(false, &[1, 2, 3]), member(1));
        for now in (0..20_000).step_by(50) {
            if now % 150 == 0 {
                one.pulse_heard(ms(now));
            }
            assert_eq!(one.step(ms(now), &view), None);
            assert!(!one.would_vote(ms(now), 2, at(9), at(1)), "at {now}");
        }
        assert!(one.would_vote(ms(20_600), 2, at(9), at(1)));
    }

    #[test]
    fn the_shorter_log_gets_no_vote_and_a_promise_is_for_one() {
        let mut one = member(1);
        assert!(!one.would_vote(ms(0), 2, at(4), at(5)));
        assert!(!one.would_vote(ms(0), 2, None, at(5)));
        assert!(one.would_vote(ms(0), 2, at(5), at(5)));
        assert!(!one.would_vote(ms(100), 3, at(5), at(5)), "promised to 2");
        assert!(one.would_vote(ms(100), 2, at(5), at(5)), "the same asks again");
        assert!(one.would_vote(ms(600), 3, at(5), at(5)));
    }

    #[test]
    fn of_two_that_poll_at_the_same_time_one_gives_way() {
        let view = view(false, &[1, 2, 3]);
        let (mut one, mut two) = (member(1), member(2));
        assert_eq!(until_decided(&mut one, 0, &view).1, Decision::Poll);
        assert_eq!(until_decided(&mut two, 0, &view).1, Decision::Poll);
        let now = ms(1100);
        let answers = (one.would_vote(now, 2, at(5), at(5)), two.would_vote(now, 1, at(5), at(5)));
        assert_eq!(answers, (true, false));
        two.poll_answered(1, true);
        one.poll_answered(2, false);
        assert_eq!(two.step(now, &view), Some(Decision::Stand));
        assert_eq!(one.step(now, &view), None);
    }

    #[test]
    fn a_leader_that_no_majority_answers_abdicates() {
        let (view, mut one) = (view(true, &[1, 2, 3]), member(1));
        for now in (0..5000).step_by(50) {
            one.pulse_answered(ms(now), 3);
            assert_eq!(one.step(ms(now), &view), None, "one of two others is enough");
        }
        let (now, decision) = until_decided(&mut one, 5000, &view);
        assert_eq!(decision, Decision::Abdicate);
        assert!((5900..=6050).contains(&now), "{now}");
    }

    #[test]
    fn a_leader_yields_while_it_can_write_that_down() {
        let decided = |room| {
            let view = View { room, roomy: [2, 3].into(), ..view(true, &[1, 2, 3]) };
            member(1).step(ms(0), &view)
        };
        assert_eq!(decided(DiskRoom::Enough), None);
        assert_eq!(decided(DiskRoom::Reserve), Some(Decision::Abdicate));
        assert_eq!(decided(DiskRoom::Full), None);
    }

    #[test]
    fn while_the_group_changes_both_majorities_are_needed() {
        let sets = [[1, 2, 3].into(), [1, 4, 5].into()];
        let (view, mut one) =
            (View { leads: true, voters: sets.to_vec(), ..View::default() }, member(1));
        for now in (0..900).step_by(50) {
            one.pulse_answered(ms(now), 2);
            assert_eq!(one.step(ms(now), &view), None);
        }
        one.pulse_answered(ms(950), 2);
        assert_eq!(until_decided(&mut one, 950, &view).1, Decision::Abdicate);
    }

    #[test]
    fn a_pause_of_this_process_is_nobodys_silence() {
        let (following, leading) = (view(false, &[1, 2, 3]), view(true, &[1, 2, 3]));
        let mut one = member(1);
        assert_eq!(one.step(ms(0), &following), None);
        assert_eq!(one.step(ms(60_000), &following), None);
        let (now, _) = until_decided(&mut one, 60_050, &following);
        assert!(now >= 60_700, "{now}");

        let mut leader = member(1);
        assert_eq!(leader.step(ms(0), &leading), None);
        assert_eq!(leader.step(ms(60_000), &leading), None);
    }

    /// Three members whose messages take 20 ms, and a leader that dies: somebody leads within the time that is
    /// promised, whatever the seed.
    #[test]
    fn three_members_elect_one_in_time() {
        for seed in 0..300 {
            let (view, mut members) = (view(false, &[1, 2, 3]), Vec::new());
            for me in [1, 2] {
                let random = Box::new(SeededRandom::new(seed * 2 + me));
                members.push(Elections::new(me, Timing::default(), random, ms(0)));
            }
            members.iter_mut().for_each(|member| member.pulse_heard(ms(0)));
            let mut polls = Vec::new();
            let elected = (0..3000).step_by(10).find(|now| {
                let now = *now;
                polls.retain(|(sent, from, to): &(u64, usize, usize)| {
                    if now == sent + 20 {
                        let from_id = members[*from].me;
                        let would = members[*to].would_vote(ms(now), from_id, at(5), at(5));
                        let to_id = members[*to].me;
                        members[*from].poll_answered(to_id, would);
                    }
                    now < sent + 20
                });
                (0..2).any(|each| match members[each].step(ms(now), &view) {
                    Some(Decision::Poll) => {
                        polls.push((now, each, 1 - each));
                        false
                    }
                    decision => decision == Some(Decision::Stand),
                })
            });
            assert!(elected.is_some_and(|now| now <= 1400), "seed {seed}: {elected:?}");
        }
    }
}
