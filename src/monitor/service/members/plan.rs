//! One step from who is a member to who should be.
//!
//! Rules, in the order in which they matter:
//!
//! 1. A change that was begun is ended first.
//! 2. Nobody votes who has not caught up, and no change is begun without a healthy majority before and after it.
//! 3. There are 1, 3 or 5 voters: an even number survives no more failures than the odd one below it, and waits
//!    for more. So the second monitor copies everything and votes only when there is a third.
//! 4. Who votes goes on voting while others come and go: a monitor that is away for an hour is not a reason to
//!    move votes about. Only who is to leave loses its vote.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::monitor::namespace::records::MonitorState;
use crate::monitor::raft::Group;
use crate::types::MonitorId;

/// Most voters.
const VOTERS_MAX: usize = 5;
/// Who has been silent for so long counts as not healthy.
const SILENT: Duration = Duration::from_secs(2);

/// A step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Let it copy the log.
    AddLearner(MonitorId),
    /// Let exactly these vote.
    SetVoters(BTreeSet<MonitorId>),
    /// Send it nothing any more.
    RemoveLearner(MonitorId),
    /// It was to go, and is no member any more.
    Forget(MonitorId),
}

/// The next step, if there is one. `me` leads, and `wish` is what the records say.
pub(super) fn next(
    me: MonitorId,
    wish: &BTreeMap<MonitorId, MonitorState>,
    group: &Group,
) -> Option<Step> {
    let voters = match group.voters.as_slice() {
        [voters] => voters,
        [.., last] => return Some(Step::SetVoters(last.clone())),
        [] => return None,
    };
    let plan = Plan { me, wish, group, voters };
    let is_member = |id: &MonitorId| voters.contains(id) || group.learners.contains(id);
    let mut leaving = wish.iter().filter(|(_, state)| is_leaving(**state));
    if let Some((id, _)) = leaving.find(|(id, _)| !is_member(id)) {
        return Some(Step::Forget(*id));
    }
    let mut members = wish.iter().filter(|(_, state)| **state == MonitorState::Member);
    if let Some((id, _)) = members.find(|(id, _)| !is_member(id)) {
        return Some(Step::AddLearner(*id));
    }
    let wanted = plan.wanted_voters();
    if wanted != *voters && plan.is_healthy(voters) && plan.is_healthy(&wanted) {
        return Some(Step::SetVoters(wanted));
    }
    let unwanted = group.learners.iter().find(|id| !plan.stays(**id));
    unwanted.map(|id| Step::RemoveLearner(*id))
}

fn is_leaving(state: MonitorState) -> bool {
    matches!(state, MonitorState::Leaving | MonitorState::Replaced)
}

struct Plan<'a> {
    me: MonitorId,
    wish: &'a BTreeMap<MonitorId, MonitorState>,
    group: &'a Group,
    voters: &'a BTreeSet<MonitorId>,
}

impl Plan<'_> {
    fn stays(&self, id: MonitorId) -> bool {
        self.wish.get(&id) == Some(&MonitorState::Member)
    }

    fn answers(&self, id: MonitorId) -> bool {
        id == self.me || self.group.heard.get(&id).is_some_and(|heard| heard.silent < SILENT)
    }

    fn is_healthy(&self, voters: &BTreeSet<MonitorId>) -> bool {
        2 * voters.iter().filter(|id| self.answers(**id)).count() > voters.len()
    }

    /// An odd number of those who may vote, the best first.
    fn wanted_voters(&self) -> BTreeSet<MonitorId> {
        let rank = |id: MonitorId| -> Option<u8> {
            let votes = self.voters.contains(&id);
            let ready = self.answers(id) && self.group.caught_up.contains(&id);
            match (votes, self.stays(id)) {
                (true, true) if id == self.me => Some(0),
                (true, true) if self.answers(id) => Some(1),
                (true, true) => Some(2),
                (false, true) if ready => Some(3),
                // It votes until there are enough without it.
                (true, false) if self.wish.get(&id) == Some(&MonitorState::Replaced) => Some(4),
                _ => None,
            }
        };
        let members = self.voters.iter().chain(&self.group.learners);
        let mut ranked: Vec<_> =
            members.filter_map(|id| rank(*id).map(|rank| (rank, *id))).collect();
        ranked.sort_unstable();
        let most = ranked.len().min(VOTERS_MAX);
        let odd = most - usize::from(most > 0 && most.is_multiple_of(2));
        ranked.truncate(odd);
        ranked.into_iter().map(|(_, id)| id).collect()
    }
}

#[cfg(test)]
mod tests {
    use MonitorState::{Gone, Joining, Leaving, Member, Replaced};

    use super::*;
    use crate::monitor::raft::Heard;
    use crate::types::DiskRoom;

    fn ids(ids: &[u64]) -> BTreeSet<MonitorId> {
        ids.iter().copied().map(MonitorId).collect()
    }

    fn wish(wish: &[(u64, MonitorState)]) -> BTreeMap<MonitorId, MonitorState> {
        wish.iter().map(|(id, state)| (MonitorId(*id), *state)).collect()
    }

    /// Voters and learners, of which these answer; all of them have caught up.
    fn group(voters: &[u64], learners: &[u64], answer: &[u64]) -> Group {
        let heard = Heard { applied: 5, silent: Duration::ZERO, room: DiskRoom::Enough };
        Group {
            voters: vec![ids(voters)],
            learners: ids(learners),
            caught_up: ids(answer),
            heard: answer.iter().map(|id| (MonitorId(*id), heard)).collect(),
            applied: 5,
            room: DiskRoom::Enough,
        }
    }

    fn step(wished: &[(u64, MonitorState)], group: &Group) -> Option<Step> {
        next(MonitorId(1), &wish(wished), group)
    }

    #[test]
    fn the_second_waits_for_the_third_and_both_vote_at_once() {
        let two = [(1, Member), (2, Member)];
        let add = Some(Step::AddLearner(MonitorId(2)));
        assert_eq!(step(&two, &group(&[1], &[], &[])), add);
        assert_eq!(step(&two, &group(&[1], &[2], &[2])), None);
        let three = [(1, Member), (2, Member), (3, Member)];
        assert_eq!(step(&three, &group(&[1], &[2, 3], &[2])), None, "3 has not caught up");
        let all = Some(Step::SetVoters(ids(&[1, 2, 3])));
        assert_eq!(step(&three, &group(&[1], &[2, 3], &[2, 3])), all);
        assert_eq!(step(&three, &group(&[1, 2, 3], &[], &[2])), None, "one may be away");
    }

    #[test]
    fn who_has_not_begun_is_no_member() {
        assert_eq!(step(&[(1, Member), (2, Joining)], &group(&[1], &[], &[])), None);
    }

    #[test]
    fn a_voter_is_replaced_only_when_another_has_caught_up() {
        let wished = [(1, Member), (2, Member), (3, Replaced)];
        assert_eq!(step(&wished, &group(&[1, 2, 3], &[], &[2])), None);
        let wished = [(1, Member), (2, Member), (3, Replaced), (4, Member)];
        let mut now = group(&[1, 2, 3], &[4], &[2]);
        assert_eq!(step(&wished, &now), None, "4 has not caught up");
        now = group(&[1, 2, 3], &[4], &[2, 4]);
        assert_eq!(step(&wished, &now), Some(Step::SetVoters(ids(&[1, 2, 4]))));
        now = group(&[1, 2, 4], &[3], &[2, 4]);
        assert_eq!(step(&wished, &now), Some(Step::RemoveLearner(MonitorId(3))));
        now = group(&[1, 2, 4], &[], &[2, 4]);
        assert_eq!(step(&wished, &now), Some(Step::Forget(MonitorId(3))));
        let wished = [(1, Member), (2, Member), (3, Gone), (4, Member)];
        assert_eq!(step(&wished, &now), None);
    }

    #[test]
    fn who_is_to_leave_at_once_does() {
        let wished = [(1, Member), (2, Member), (3, Leaving)];
        let now = group(&[1, 2, 3], &[], &[2]);
        assert_eq!(step(&wished, &now), Some(Step::SetVoters(ids(&[1]))));
        let wished = [(1, Leaving), (2, Member), (3, Member), (4, Member)];
        let now = group(&[1, 2, 3], &[4], &[2, 3, 4]);
        assert_eq!(step(&wished, &now), Some(Step::SetVoters(ids(&[2, 3, 4]))));
    }

    #[test]
    fn nothing_is_changed_without_a_healthy_majority_before_and_after() {
        let wished = [(1, Member), (2, Leaving), (3, Member), (4, Member)];
        assert_eq!(
            step(&wished, &group(&[1, 2, 3], &[], &[])),
            Some(Step::AddLearner(MonitorId(4)))
        );
        assert_eq!(step(&wished, &group(&[1, 2, 3], &[4], &[])), None);
        assert_eq!(step(&wished, &group(&[1, 2, 3], &[4], &[4])), None, "1 alone decides nothing");
        let now = group(&[1, 2, 3], &[4], &[3, 4]);
        assert_eq!(step(&wished, &now), Some(Step::SetVoters(ids(&[1, 3, 4]))));
    }

    #[test]
    fn a_change_that_was_begun_is_ended() {
        let mut now = group(&[1], &[], &[]);
        now.voters = vec![ids(&[1]), ids(&[1, 2, 3])];
        assert_eq!(step(&[(1, Member)], &now), Some(Step::SetVoters(ids(&[1, 2, 3]))));
    }

    #[test]
    fn there_are_five_voters_at_most_and_the_rest_copies() {
        let wished: Vec<_> = (1..=7).map(|id| (id, Member)).collect();
        let now = group(&[1, 2, 3], &[4, 5, 6, 7], &[2, 3, 4, 5, 6, 7]);
        assert_eq!(step(&wished, &now), Some(Step::SetVoters(ids(&[1, 2, 3, 4, 5]))));
        let now = group(&[1, 2, 3, 4, 5], &[6, 7], &[2, 6, 7, 3]);
        assert_eq!(step(&wished, &now), None, "who is away keeps its vote");
    }

    /// Whatever is wished and whoever answers: followed to its end, the plan ends, with an odd number of voters
    /// who may vote, and takes no step on which the group could get stuck.
    #[test]
    fn every_wish_is_reached_in_safe_steps() {
        use crate::env::random::Random;
        for seed in 0..2000 {
            let random = crate::env::sim::SeededRandom::new(seed);
            let below = |n: u64| random.u64() % n;
            let mut wished: BTreeMap<MonitorId, MonitorState> = wish(&[(1, Member)]);
            for id in 2..=1 + below(6) {
                let states = [Member, Member, Member, Leaving, Replaced, Joining, Gone];
                wished.insert(MonitorId(id), states[below(7) as usize]);
            }
            let answer: Vec<u64> = (2..=7).filter(|_| below(4) > 0).collect();
            let mut now = group(&[1, 2, 3][..if below(2) == 0 { 1 } else { 3 }], &[], &answer);
            for steps in 0.. {
                assert!(steps < 40, "seed {seed}: it never ends: {wished:?} {now:?}");
                let Some(step) = next(MonitorId(1), &wished, &now) else { break };
                match step {
                    Step::AddLearner(id) => assert!(now.learners.insert(id), "seed {seed}"),
                    Step::RemoveLearner(id) => assert!(now.learners.remove(&id), "seed {seed}"),
                    Step::Forget(id) => assert!(wished.insert(id, Gone).is_some(), "seed {seed}"),
                    Step::SetVoters(voters) => {
                        let healthy =
                            voters.iter().filter(|id| id.0 == 1 || now.heard.contains_key(id));
                        assert!(2 * healthy.count() > voters.len(), "seed {seed}");
                        assert_eq!(voters.len() % 2, 1, "seed {seed}");
                        for old in now.voters[0].difference(&voters) {
                            now.learners.insert(*old);
                        }
                        now.learners.retain(|id| !voters.contains(id));
                        now.voters = vec![voters];
                    }
                }
            }
            assert!(now.voters[0].contains(&MonitorId(1)), "seed {seed}: it stays");
        }
    }
}
