//! What a server says to the monitors, and when: the pure part.
//!
//! A server's life as a member of the cluster:
//!
//! ```text
//!            ┌───────────── told to, or the monitors do not know that epoch ─────────────┐
//!            ▼                                                                           │
//!       Unregistered ──Register──▶ Member(server, epoch) ──Beat, once a second───────────┤
//!                                     └──Inventory, in portions, when asked to list──────┘
//! ```
//!
//! One call is under way at a time. What a beat reports (shards reaped, shards lost) is kept until that beat is
//! answered, so nothing goes unreported when the leader changes; reporting twice is harmless.
//!
//! Two rules hold a server back (DESIGN, identities and fences):
//!
//! * *Silence.* Who has not been heard for ten seconds may have been replaced meanwhile: no puts and no deletes then.
//!   Time counts from the sending of the last call that was answered.
//! * *The past.* Monitors that are at an older state than this server has seen were perhaps restored from a
//!   backup, and what they call garbage may be live data that they have forgotten: nothing is deleted. A new
//!   leader may lag behind for a moment; after half a minute it is no lag any more, and only an administrator
//!   can allow deleting again.

use std::collections::HashSet;
use std::time::Duration;

use crate::types::{Epoch, OpSeq, ServerId};
use crate::wire::servers::{Beaten, Registered};
use crate::wire::shards::ShardId;

/// How often a server says that it lives.
const BEAT: Duration = Duration::from_secs(1);
/// How soon a call that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How long without an answer until a server only reads.
const SILENCE: Duration = Duration::from_secs(10);
/// How long monitors may be behind what they said before.
const LAG: Duration = Duration::from_secs(30);
/// Most shards of a kind that one beat reports.
const REPORTED_MAX: usize = 16_384;

/// What is to be said next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Nothing, for so long.
    Wait(Duration),
    /// Register.
    Register,
    /// That this server lives, and this.
    Beat {
        /// As whom.
        member: Member,
        /// Shards that are durably deleted.
        reaped: Vec<ShardId>,
        /// Shards that were found damaged or gone.
        lost: Vec<ShardId>,
    },
    /// List a portion of what is there.
    List {
        /// As whom.
        member: Member,
        /// Where the portion begins.
        from: ShardId,
    },
}

/// Who this server is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its id.
    pub server: ServerId,
    /// Its epoch.
    pub epoch: Epoch,
}

/// Whether the monitors' word to delete is followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deleting {
    /// Yes.
    Allowed,
    /// No: the monitors are behind what they said before, perhaps only for a moment.
    Waiting,
    /// No, until an administrator says so.
    Held,
}

/// What others in the process need to know: whether this server may change anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Who this server is.
    pub member: Member,
    /// When the last call was sent that the monitors answered.
    pub heard: Duration,
    /// Whether deleting is allowed.
    pub deleting: Deleting,
}

/// A server's membership. Times are those of a monotonic clock.
#[derive(Debug)]
pub struct Membership {
    member: Option<Member>,
    heard: Duration,
    next_call: Duration,
    listing: Option<ShardId>,
    /// What the monitors have told at most.
    seen: OpSeq,
    behind_since: Option<Duration>,
    is_held: bool,
    reaped: Reports,
    lost: Reports,
}

/// Shards to report: not sent yet, and in the beat under way.
#[derive(Default, Debug)]
struct Reports {
    waiting: Vec<ShardId>,
    sent: usize,
}

impl Standing {
    /// Whether shards may be put.
    pub fn may_put(&self, now: Duration) -> bool {
        now.saturating_sub(self.heard) < SILENCE
    }

    /// Whether shards may be deleted.
    pub fn may_delete(&self, now: Duration) -> bool {
        self.may_put(now) && self.deleting == Deleting::Allowed
    }
}

impl Membership {
    /// Of a server that starts. `seen` is the latest metadata state that it has been told in its life, `is_held`
    /// whether it was deleting nothing.
    pub fn new(seen: OpSeq, is_held: bool) -> Self {
        Self {
            member: None,
            heard: Duration::ZERO,
            next_call: Duration::ZERO,
            listing: None,
            seen,
            behind_since: None,
            is_held,
            reaped: Reports::default(),
            lost: Reports::default(),
        }
    }

    /// What to say now. Unless it is [`Step::Wait`], the outcome must be told before the next call of this.
    pub fn next(&mut self, now: Duration) -> Step {
        let Some(member) = self.member else {
            return match self.next_call.checked_sub(now) {
                Some(rest) if !rest.is_zero() => Step::Wait(rest),
                _ => Step::Register,
            };
        };
        if now >= self.next_call {
            let (reaped, lost) = (self.reaped.send(), self.lost.send());
            return Step::Beat { member, reaped, lost };
        }
        match self.listing {
            Some(from) => Step::List { member, from },
            None => Step::Wait(self.next_call - now),
        }
    }

    /// Shards that are durably deleted: they go with the next beat.
    pub fn report_reaped(&mut self, shards: Vec<ShardId>) {
        self.reaped.waiting.extend(shards);
    }

    /// Shards that were found damaged or gone: they go with the next beat.
    pub fn report_lost(&mut self, shards: Vec<ShardId>) {
        self.lost.waiting.extend(shards);
    }

    /// [`Step::Register`], sent at `sent`, was answered at `now`.
    pub fn registered(&mut self, sent: Duration, now: Duration, answer: &Registered) {
        self.member = Some(Member { server: answer.server, epoch: answer.epoch });
        self.hear(sent, now, answer.state);
        self.next_call = now;
    }

    /// [`Step::Beat`] was answered. Returns the shards to delete.
    pub fn beaten(&mut self, sent: Duration, now: Duration, answer: Beaten) -> Vec<ShardId> {
        if answer.register {
            // Nobody has listened to what that beat reported: it is said again.
            self.failed(now);
            self.member = None;
            self.listing = None;
            self.next_call = now;
            return Vec::new();
        }
        self.reaped.acknowledged();
        self.lost.acknowledged();
        self.next_call = sent + BEAT;
        self.hear(sent, now, answer.state);
        if answer.list {
            self.listing.get_or_insert_default();
        }
        self.if_allowed(answer.reap)
    }

    /// [`Step::List`] was answered; the next portion begins at `rest`. Returns the shards to delete.
    pub fn listed(&mut self, rest: Option<ShardId>, garbage: Vec<ShardId>) -> Vec<ShardId> {
        self.listing = rest;
        self.if_allowed(garbage)
    }

    /// The call under way failed, or was refused: what it said is said again.
    pub fn failed(&mut self, now: Duration) {
        self.reaped.sent = 0;
        self.lost.sent = 0;
        self.next_call = now + RETRY;
    }

    /// Whether the monitors' word to delete is followed.
    pub fn deleting(&self) -> Deleting {
        match (self.is_held, self.behind_since) {
            (true, _) => Deleting::Held,
            (false, Some(_)) => Deleting::Waiting,
            (false, None) => Deleting::Allowed,
        }
    }

    /// The latest metadata state that the monitors have told.
    pub fn seen(&self) -> OpSeq {
        self.seen
    }

    /// Who this server is and what it may do; `None` before it is registered.
    pub fn standing(&self) -> Option<Standing> {
        self.member.map(|member| Standing { member, heard: self.heard, deleting: self.deleting() })
    }

    /// The monitors have answered, and are at that state.
    fn hear(&mut self, sent: Duration, now: Duration, state: OpSeq) {
        self.heard = sent;
        if state >= self.seen {
            self.seen = state;
            self.behind_since = None;
            return;
        }
        let since = *self.behind_since.get_or_insert(now);
        self.is_held |= now.saturating_sub(since) >= LAG;
    }

    /// What of these is to be deleted. Not what is deleted already and only not yet acknowledged: once it is, the
    /// monitors may have the same shard put here again, and a second deletion, late, would take that one.
    fn if_allowed(&self, mut shards: Vec<ShardId>) -> Vec<ShardId> {
        match self.deleting() {
            Deleting::Allowed => {
                let gone: HashSet<&ShardId> = self.reaped.waiting.iter().collect();
                shards.retain(|shard| !gone.contains(shard));
                shards
            }
            Deleting::Waiting | Deleting::Held => Vec::new(),
        }
    }
}

impl Reports {
    fn send(&mut self) -> Vec<ShardId> {
        self.sent = self.waiting.len().min(REPORTED_MAX);
        self.waiting[..self.sent].to_vec()
    }

    fn acknowledged(&mut self) {
        self.waiting.drain(..std::mem::take(&mut self.sent));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ShardIndex, StripeId, TicketKey};

    const MEMBER: Member = Member { server: ServerId(9), epoch: Epoch(1) };

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn shard(stripe: u64) -> ShardId {
        ShardId { stripe: StripeId(stripe), index: ShardIndex(0) }
    }

    fn beaten(state: u64) -> Beaten {
        Beaten {
            reap: Vec::new(),
            list: false,
            register: false,
            state: OpSeq(state),
            monitors: Vec::new(),
        }
    }

    fn answer_at(state: u64) -> Registered {
        let Member { server, epoch } = MEMBER;
        let key = TicketKey([1; 32]);
        Registered { server, epoch, key, state: OpSeq(state), monitors: Vec::new() }
    }

    fn registered(seen: u64, state: u64) -> Membership {
        let mut membership = Membership::new(OpSeq(seen), false);
        assert_eq!(membership.next(at(0)), Step::Register);
        let answer = answer_at(state);
        membership.registered(at(0), at(10), &answer);
        membership
    }

    fn beat(reaped: &[ShardId], lost: &[ShardId]) -> Step {
        Step::Beat { member: MEMBER, reaped: reaped.to_vec(), lost: lost.to_vec() }
    }

    #[test]
    fn it_registers_and_beats_each_second() {
        let mut membership = Membership::new(OpSeq(0), false);
        assert_eq!(membership.standing(), None);
        assert_eq!(membership.next(at(0)), Step::Register);
        membership.failed(at(100));
        assert_eq!(membership.next(at(200)), Step::Wait(at(400)));
        assert_eq!(membership.next(at(600)), Step::Register);
        let mut membership = registered(0, 5);
        assert_eq!(membership.next(at(10)), beat(&[], &[]));
        assert_eq!(membership.beaten(at(10), at(20), beaten(6)), []);
        assert_eq!(membership.next(at(20)), Step::Wait(at(990)));
        assert_eq!(membership.next(at(1010)), beat(&[], &[]));
        assert_eq!(membership.seen(), OpSeq(6));
    }

    #[test]
    fn reports_are_repeated_until_they_are_answered() {
        let mut membership = registered(0, 5);
        membership.report_reaped(vec![shard(1)]);
        membership.report_lost(vec![shard(2)]);
        assert_eq!(membership.next(at(10)), beat(&[shard(1)], &[shard(2)]));
        membership.report_reaped(vec![shard(3)]);
        membership.failed(at(20));
        let both = [shard(1), shard(3)];
        assert_eq!(membership.next(at(520)), beat(&both, &[shard(2)]));
        membership.report_reaped(vec![shard(4)]);
        membership.beaten(at(520), at(530), beaten(5));
        assert_eq!(membership.next(at(1520)), beat(&[shard(4)], &[]));
    }

    #[test]
    fn what_is_deleted_already_is_not_deleted_again() {
        let mut membership = registered(0, 5);
        membership.next(at(10));
        // Deleted while that beat was under way: its answer cannot know it yet, nor can a listing's.
        membership.report_reaped(vec![shard(1)]);
        let reap = Beaten { reap: vec![shard(1), shard(2)], ..beaten(5) };
        assert_eq!(membership.beaten(at(10), at(20), reap), [shard(2)]);
        assert_eq!(membership.listed(None, vec![shard(1), shard(3)]), [shard(3)]);
        assert_eq!(membership.next(at(1010)), beat(&[shard(1)], &[]));
        membership.beaten(at(1010), at(1020), beaten(6));
        assert_eq!(membership.listed(None, vec![shard(1)]), [shard(1)]);
    }

    #[test]
    fn it_lists_in_portions_between_beats() {
        let mut membership = registered(0, 5);
        membership.next(at(10));
        let answer = Beaten { list: true, ..beaten(5) };
        membership.beaten(at(10), at(20), answer.clone());
        let list = |from| Step::List { member: MEMBER, from };
        assert_eq!(membership.next(at(20)), list(ShardId::default()));
        assert_eq!(membership.listed(Some(shard(7)), vec![shard(3)]), [shard(3)]);
        assert_eq!(membership.next(at(1010)), beat(&[], &[]));
        // Asked again while it lists: it goes on.
        membership.beaten(at(1010), at(1020), answer);
        assert_eq!(membership.next(at(1020)), list(shard(7)));
        membership.failed(at(1030));
        assert_eq!(membership.next(at(1040)), list(shard(7)));
        membership.listed(None, vec![]);
        assert!(matches!(membership.next(at(1050)), Step::Wait(_)));
    }

    #[test]
    fn it_registers_again_when_it_is_told_to() {
        let mut membership = registered(0, 5);
        membership.report_lost(vec![shard(2)]);
        assert_eq!(membership.next(at(10)), beat(&[], &[shard(2)]));
        let answer = Beaten { register: true, reap: vec![shard(1)], ..beaten(0) };
        assert_eq!(membership.beaten(at(10), at(20), answer), []);
        assert_eq!(membership.standing(), None);
        assert_eq!(membership.next(at(20)), Step::Register);
        let answer = answer_at(5);
        membership.registered(at(20), at(30), &answer);
        assert_eq!(membership.next(at(30)), beat(&[], &[shard(2)]), "it was not heard before");
    }

    #[test]
    fn silence_ends_puts() {
        let mut membership = registered(0, 5);
        membership.next(at(10));
        membership.beaten(at(10), at(4000), beaten(5));
        let standing = membership.standing().unwrap();
        assert!(standing.may_put(at(10_009)) && standing.may_delete(at(10_009)));
        assert!(!standing.may_put(at(10_010)) && !standing.may_delete(at(10_010)));
    }

    #[test]
    fn monitors_from_the_past_delete_nothing() {
        let mut membership = registered(100, 99);
        assert_eq!(membership.deleting(), Deleting::Waiting);
        assert!(!membership.standing().unwrap().may_delete(at(20)));
        let reap = |state| Beaten { reap: vec![shard(1)], ..beaten(state) };
        membership.next(at(10));
        assert_eq!(membership.beaten(at(10), at(20), reap(99)), []);
        assert_eq!(membership.listed(None, vec![shard(1)]), []);
        membership.next(at(1010));
        assert_eq!(membership.beaten(at(1010), at(1020), reap(100)), [shard(1)]);
        membership.next(at(2010));
        membership.beaten(at(2010), at(2020), reap(50));
        membership.next(at(40_000));
        membership.beaten(at(40_000), at(40_010), reap(51));
        assert_eq!(membership.deleting(), Deleting::Held);
        membership.next(at(41_000));
        assert_eq!(membership.beaten(at(41_000), at(41_010), reap(200)), []);
    }
}
