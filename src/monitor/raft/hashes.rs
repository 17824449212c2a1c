//! Equal index, equal state: how members find out that they differ.
//!
//! Every applied entry continues a hash over everything that any entry has ever changed. Members that have
//! applied the same entries have the same hash, unless one of them computed something else: a bug, a bit that
//! flipped in memory, a store that was tampered with. A monitor like that would answer nonsense, and the longer
//! it runs, the more of it.
//!
//! So the leader asks, with its pulses and about once a second, for everybody's hash at one entry
//! ([`Comparison`]). What a majority has is right. Who has something else is told so and stops; the leader too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use xxhash_rust::xxh3::Xxh3;

use super::elections::View;
use crate::monitor::store::Batch;
use crate::wire::peers::StateHash;

/// How many entries' hashes are kept.
const KEPT: usize = 1 << 14;
/// How long one comparison is open.
const COMPARE: Duration = Duration::from_secs(1);

/// The hash after a batch, given the one before it.
pub(super) fn chain(before: u64, batch: &Batch) -> u64 {
    let mut hash = Xxh3::with_seed(before);
    let mut field = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for (key, value) in batch {
        field(key);
        match value {
            Some(value) => field(value),
            // No value is so long.
            None => field(&[0xff; 3]),
        }
    }
    hash.digest()
}

/// The hashes after the latest entries.
#[derive(Default)]
pub(super) struct Hashes(Mutex<VecDeque<StateHash>>);

impl Hashes {
    /// Notes one. It follows the last, or the state was replaced as a whole.
    pub(super) fn push(&self, at: StateHash) {
        let mut kept = self.0.lock();
        if kept.back().is_some_and(|last| last.index + 1 != at.index) {
            kept.clear();
        }
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(at);
    }

    /// The hash at an entry, if it is applied and not long ago.
    pub(super) fn at(&self, index: u64) -> Option<StateHash> {
        let kept = self.0.lock();
        let first = kept.front()?.index;
        kept.get(usize::try_from(index.checked_sub(first)?).ok()?).copied()
    }

    /// The last one.
    pub(super) fn last(&self) -> Option<StateHash> {
        self.0.lock().back().copied()
    }
}

/// A leader's comparison of all members at one entry.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    open: Option<Open>,
    verdict: Option<StateHash>,
}

#[derive(Debug)]
struct Open {
    index: u64,
    since: Duration,
    hashes: BTreeMap<u64, u64>,
}

impl Comparison {
    /// Which entry to ask for. A new one, `mine`, when the last comparison has had its time.
    pub(super) fn question(
        &mut self,
        now: Duration,
        me: u64,
        mine: Option<StateHash>,
    ) -> Option<u64> {
        let is_over = self.open.as_ref().is_none_or(|open| now >= open.since + COMPARE);
        if is_over && let Some(StateHash { index, hash }) = mine {
            self.open = Some(Open { index, since: now, hashes: BTreeMap::from([(me, hash)]) });
        }
        self.open.as_ref().map(|open| open.index)
    }

    /// What a member has there.
    pub(super) fn answered(&mut self, from: u64, theirs: StateHash, view: &View) {
        let Some(open) = self.open.as_mut().filter(|open| open.index == theirs.index) else {
            return;
        };
        open.hashes.insert(from, theirs.hash);
        let same = open.hashes.iter().filter(|(_, hash)| **hash == theirs.hash);
        let members: BTreeSet<u64> = same.map(|(id, _)| *id).collect();
        if view.is_majority(&members) {
            self.verdict = Some(theirs);
        }
    }

    /// What most members have, at the entry that was compared last.
    pub(super) fn verdict(&self) -> Option<StateHash> {
        self.verdict
    }
}

/// What a member says that stops because its state is not that of the others.
pub(super) fn differs(index: u64) -> String {
    format!(
        "its state at entry {index} is not what most monitors have there: this monitor's disk or memory is damaged, or its okapifs is another one. Remove it from the group and add it anew with an empty directory"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64, hash: u64) -> StateHash {
        StateHash { index, hash }
    }

    #[test]
    fn every_difference_changes_the_hash() {
        let batch = |pairs: &[(&str, Option<&str>)]| -> Batch {
            let bytes = |text: &str| text.as_bytes().to_vec();
            pairs.iter().map(|(key, value)| (bytes(key), value.map(bytes))).collect()
        };
        let batches = [
            batch(&[]),
            batch(&[("a", Some("b"))]),
            batch(&[("a", Some("c"))]),
            batch(&[("a", Some(""))]),
            batch(&[("a", None)]),
            batch(&[("ab", Some(""))]),
            batch(&[("a", Some("b")), ("c", None)]),
        ];
        let hashes: BTreeSet<u64> = batches.iter().map(|batch| chain(1, batch)).collect();
        assert_eq!(hashes.len(), batches.len());
        assert_ne!(chain(1, &batches[1]), chain(2, &batches[1]));
    }

    #[test]
    fn the_latest_hashes_are_kept_and_forgotten_when_the_state_is_replaced() {
        let hashes = Hashes::default();
        for index in 5..5 + KEPT as u64 + 3 {
            hashes.push(at(index, index * 7));
        }
        assert_eq!(hashes.at(7), None);
        assert_eq!(hashes.at(8), Some(at(8, 56)));
        assert_eq!(hashes.at(1 << 40), None);
        hashes.push(at(1 << 41, 1));
        assert_eq!(hashes.at(8), None);
        assert_eq!(hashes.last(), Some(at(1 << 41, 1)));
    }

    #[test]
    fn what_a_majority_has_is_right_even_against_the_leader() {
        let view = View { leads: true, voters: vec![[1, 2, 3].into()], ..View::default() };
        let mut comparison = Comparison::default();
        let now = Duration::from_secs(5);
        assert_eq!(comparison.question(now, 1, None), None);
        assert_eq!(comparison.question(now, 1, Some(at(9, 90))), Some(9));
        assert_eq!(comparison.question(now, 1, Some(at(10, 91))), Some(9), "still open");
        comparison.answered(2, at(8, 80), &view);
        comparison.answered(2, at(9, 99), &view);
        assert_eq!(comparison.verdict(), None, "one against one");
        comparison.answered(3, at(9, 99), &view);
        assert_eq!(comparison.verdict(), Some(at(9, 99)));
        assert_eq!(comparison.question(now + COMPARE, 1, Some(at(12, 1))), Some(12));
    }
}
