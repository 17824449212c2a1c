//! The order in which stripes are committed, and when.
//!
//! Stripes are numbered as they are frozen. They become durable in any order, but are committed in that one:
//! a later stripe may carry newer bytes of the same blocks. A stream does not need a commit for each stripe,
//! so those that are ready wait a moment for company, unless somebody waits for them.

use std::collections::VecDeque;
use std::time::Duration;

/// How long a stripe that is ready waits for others.
const LINGER: Duration = Duration::from_millis(400);
/// With this many bytes ready, none waits.
const ENOUGH_BYTES: u64 = 48 << 20;
/// Most stripes and pieces in one request.
const BATCH_STRIPES: usize = 32;
const BATCH_PIECES: usize = 8192;

/// Number of a frozen stripe, rising in the order of freezing.
pub(crate) type FreezeSeq = u64;

/// Frozen stripes that are not committed yet, `T` being what to commit.
#[derive(Debug)]
pub(crate) struct CommitQueue<T> {
    entries: VecDeque<Entry<T>>,
    urgent: Option<FreezeSeq>,
    sending: bool,
}

#[derive(Debug)]
struct Entry<T> {
    seq: FreezeSeq,
    bytes: u64,
    pieces: usize,
    ready: Option<(Duration, T)>,
}

impl<T> Default for CommitQueue<T> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), urgent: None, sending: false }
    }
}

impl<T> CommitQueue<T> {
    /// A stripe was frozen.
    pub(crate) fn frozen(&mut self, seq: FreezeSeq, bytes: u64, pieces: usize) {
        debug_assert!(self.entries.back().is_none_or(|last| last.seq < seq));
        self.entries.push_back(Entry { seq, bytes, pieces, ready: None });
    }

    /// All its shards are durable.
    pub(crate) fn ready(&mut self, seq: FreezeSeq, now: Duration, commit: T) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.seq == seq) {
            entry.ready = Some((now, commit));
        }
    }

    /// Its commit was refused: it is to be placed and committed again, before everything later.
    pub(crate) fn refused(&mut self, seq: FreezeSeq, bytes: u64, pieces: usize) {
        self.entries.push_front(Entry { seq, bytes, pieces, ready: None });
        self.hurry(seq);
    }

    /// It is not to be committed any more.
    pub(crate) fn drop_entry(&mut self, seq: FreezeSeq) {
        self.entries.retain(|entry| entry.seq != seq);
    }

    /// Somebody waits for everything frozen up to `seq`.
    pub(crate) fn hurry(&mut self, seq: FreezeSeq) {
        self.urgent = self.urgent.max(Some(seq));
    }

    /// The request that [`Self::next_batch`] gave was answered.
    pub(crate) fn answered(&mut self) {
        self.sending = false;
    }

    /// What to send now. Only one request is under way at a time; what becomes ready meanwhile goes with the
    /// next.
    pub(crate) fn next_batch(&mut self, now: Duration) -> Vec<(FreezeSeq, T)> {
        if self.sending || !self.is_due(now) {
            return Vec::new();
        }
        let count = self.sendable();
        self.sending = count > 0;
        let batch = self.entries.drain(..count);
        batch.filter_map(|entry| entry.ready.map(|(_, commit)| (entry.seq, commit))).collect()
    }

    /// When [`Self::next_batch`] has to be asked again if nothing else happens.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let (since, _) = self.entries.front()?.ready.as_ref()?;
        (!self.sending).then_some(*since + LINGER)
    }

    fn is_due(&self, now: Duration) -> bool {
        let Some(Entry { seq, ready: Some((since, _)), .. }) = self.entries.front() else {
            return false;
        };
        let hurried = self.urgent.is_some_and(|urgent| *seq <= urgent);
        let bytes = || self.entries.iter().take_while(|entry| entry.ready.is_some());
        hurried
            || now >= *since + LINGER
            || bytes().map(|entry| entry.bytes).sum::<u64>() >= ENOUGH_BYTES
    }

    /// How many from the front are ready and fit in one request.
    fn sendable(&self) -> usize {
        let mut pieces = 0;
        self.entries
            .iter()
            .take(BATCH_STRIPES)
            .take_while(|entry| {
                let first = pieces == 0;
                pieces += entry.pieces;
                entry.ready.is_some() && (first || pieces <= BATCH_PIECES)
            })
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Duration = Duration::from_secs(9);

    fn seqs(batch: &[(FreezeSeq, char)]) -> Vec<FreezeSeq> {
        batch.iter().map(|(seq, _)| *seq).collect()
    }

    #[test]
    fn a_stripe_waits_for_every_earlier_one() {
        let mut queue = CommitQueue::default();
        for seq in 1..=3 {
            queue.frozen(seq, 8 << 20, 1);
        }
        queue.hurry(3);
        queue.ready(2, T0, 'b');
        queue.ready(3, T0, 'c');
        assert_eq!(queue.deadline(), None);
        assert!(queue.next_batch(T0 + LINGER).is_empty());
        queue.ready(1, T0, 'a');
        assert_eq!(seqs(&queue.next_batch(T0)), [1, 2, 3]);
    }

    #[test]
    fn without_hurry_stripes_gather() {
        let mut queue = CommitQueue::default();
        for seq in 1..=7 {
            queue.frozen(seq, 8 << 20, 1);
            queue.ready(seq, T0, 'x');
            if seq < 6 {
                assert!(queue.next_batch(T0).is_empty());
            }
        }
        assert_eq!(seqs(&queue.next_batch(T0)).len(), 7);
        queue.frozen(8, 8 << 20, 1);
        queue.ready(8, T0, 'y');
        assert!(queue.next_batch(T0 + LINGER).is_empty(), "one request at a time");
        queue.answered();
        assert_eq!(queue.deadline(), Some(T0 + LINGER));
        assert_eq!(seqs(&queue.next_batch(T0 + LINGER)), [8]);
    }

    #[test]
    fn a_request_is_bounded_but_never_empty() {
        let mut queue = CommitQueue::default();
        for seq in 1..=6 {
            queue.frozen(seq, 100, 2048);
            queue.ready(seq, T0, 'x');
        }
        queue.hurry(6);
        assert_eq!(seqs(&queue.next_batch(T0)), [1, 2, 3, 4]);
        queue.answered();
        assert_eq!(seqs(&queue.next_batch(T0)), [5, 6]);
    }
}
