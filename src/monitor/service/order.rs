//! In which order the changes of one request are begun.
//!
//! A change that has to wait for a holder holds up those behind it. If one of those gives something back, and
//! the holder waits for just that in a request of its own, both would wait until one of them is evicted:
//!
//! ```text
//!   client A, who has y:   acquire x, release y
//!   client B, who has x:   acquire y, release x
//! ```
//!
//! So what gives something back, and needs nobody's permission, is begun first: releases, commits and unlocks, unless
//! something before them names the same file. Two changes of the same file always keep their order.

use std::collections::HashSet;

use crate::monitor::namespace::caps;
use crate::wire::metadata::{Mutation, Op, Request};

/// The changes in the order in which they are to be begun, each with its place in the request.
pub(super) fn of_work(mutations: Vec<Mutation>) -> Vec<(usize, Mutation)> {
    let mut named = HashSet::new();
    let (mut first, mut then) = (Vec::new(), Vec::new());
    for (place, mutation) in mutations.into_iter().enumerate() {
        let inos = caps::subjects(&mutation.op);
        if is_giving_back(&mutation.op) && !inos.iter().any(|ino| named.contains(ino)) {
            first.push((place, mutation));
        } else {
            named.extend(inos);
            then.push((place, mutation));
        }
    }
    first.append(&mut then);
    first
}

/// Whether calls of others may wait for this one: it gives something back, or shows that somebody lives.
pub(super) fn gives_back(request: &Request) -> bool {
    match request {
        Request::Mutate { mutations, .. } => {
            mutations.iter().any(|mutation| is_giving_back(&mutation.op))
        }
        Request::Attach(_)
        | Request::CloseSession(_)
        | Request::EvictDead { .. }
        | Request::Renew(_)
        | Request::Unpin { .. }
        | Request::GiveBack(_)
        | Request::ForgetLocks { .. }
        | Request::Register(_)
        | Request::Beat(_)
        | Request::AgentBeat(_)
        | Request::Ping => true,
        Request::OpenSession { .. }
        | Request::OldReplies { .. }
        | Request::Query { .. }
        | Request::AwaitLocks { .. }
        | Request::SessionsOfNode { .. }
        | Request::Inventory(_)
        | Request::Admin(_)
        | Request::RenewCertificate { .. }
        | Request::Enroll(_)
        | Request::Join(_) => false,
    }
}

fn is_giving_back(op: &Op) -> bool {
    match op {
        Op::Release { .. } | Op::Commit(_) => true,
        Op::Lock(lock) => lock.request.mode.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Ino, Slot, SlotSeq};

    fn order(ops: Vec<Op>) -> Vec<usize> {
        let mutation = |op| Mutation { slot: Slot(0), seq: SlotSeq(1), op };
        of_work(ops.into_iter().map(mutation).collect())
            .into_iter()
            .map(|(place, _)| place)
            .collect()
    }

    fn acquire(ino: u64) -> Op {
        Op::Acquire { ino: Ino(ino) }
    }

    fn release(ino: u64) -> Op {
        Op::Release { ino: Ino(ino) }
    }

    #[test]
    fn a_request_with_a_release_among_others_gives_back() {
        let request = |ops: Vec<Op>| {
            let mutation = |op| Mutation { slot: Slot(0), seq: SlotSeq(1), op };
            let mutations = ops.into_iter().map(mutation).collect();
            gives_back(&Request::Mutate { session: crate::types::SessionId(1), mutations })
        };
        assert!(request(vec![acquire(1), release(2)]));
        assert!(!request(vec![acquire(1), Op::LeaseInodes]));
    }

    #[test]
    fn what_gives_back_goes_first() {
        assert_eq!(order(vec![acquire(1), release(2), Op::LeaseInodes, release(3)]), [1, 3, 0, 2]);
    }

    #[test]
    fn changes_of_one_file_keep_their_order() {
        let ops = vec![acquire(1), release(1), acquire(2), release(1), release(2), release(3)];
        assert_eq!(order(ops), [5, 0, 1, 2, 3, 4]);
        assert_eq!(order(vec![release(1), release(1), acquire(1)]), [0, 1, 2]);
    }
}
