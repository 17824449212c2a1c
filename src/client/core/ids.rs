//! Numbers leased ahead, so that no monitor is on the path of a create or a put.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

/// Ranges of numbers that belong to the session.
#[derive(Debug)]
pub(crate) struct LeasedIds {
    ranges: VecDeque<Range<u64>>,
    low: u64,
    refilling: bool,
}

impl LeasedIds {
    /// Nothing leased yet; wants more when fewer than `low` are left.
    pub(crate) fn new(low: u64) -> Self {
        Self { ranges: VecDeque::new(), low, refilling: false }
    }

    /// The next number.
    pub(crate) fn take(&mut self) -> Option<u64> {
        let range = self.ranges.front_mut()?;
        let id = range.next();
        if range.is_empty() {
            self.ranges.pop_front();
        }
        id
    }

    /// The number that [`Self::take`] would give.
    pub(crate) fn peek(&self) -> Option<u64> {
        self.ranges.front().map(|range| range.start)
    }

    /// Whether a range should be leased now; says so once until [`Self::refilled`].
    pub(crate) fn wants_refill(&mut self) -> bool {
        let left: u64 = self.ranges.iter().map(|range| range.end - range.start).sum();
        let wants = !self.refilling && left < self.low;
        self.refilling |= wants;
        wants
    }

    /// A range came, or could not be had.
    pub(crate) fn refilled(&mut self, range: Option<Range<u64>>) {
        self.refilling = false;
        self.ranges.extend(range.filter(|range| !range.is_empty()));
    }

    /// The session is another one: nothing of the old one may be used.
    pub(crate) fn reset(&mut self) {
        self.ranges.clear();
        self.refilling = false;
    }
}

/// Stripe ids that were used and whose fate is open: the session's watermark lies below them.
#[derive(Debug, Default)]
pub(crate) struct OpenStripes(BTreeSet<u64>);

impl OpenStripes {
    /// The id is going to be put.
    pub(crate) fn begin(&mut self, id: u64) {
        self.0.insert(id);
    }

    /// Its commit was answered, or it was given up.
    pub(crate) fn end(&mut self, id: u64) {
        self.0.remove(&id);
    }

    /// Every id below this one was answered or given up; `next` is the next unused one, if any is leased.
    pub(crate) fn done_below(&self, next: Option<u64>) -> u64 {
        self.0.first().copied().into_iter().chain(next).min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_given_once_and_refilled_ahead() {
        let mut ids = LeasedIds::new(2);
        assert!(ids.wants_refill());
        assert!(!ids.wants_refill(), "one request at a time");
        assert_eq!(ids.take(), None);
        ids.refilled(Some(10..13));
        assert_eq!(ids.take(), Some(10));
        assert!(!ids.wants_refill());
        assert_eq!(ids.take(), Some(11));
        assert!(ids.wants_refill());
        ids.refilled(Some(20..22));
        assert_eq!(
            [ids.take(), ids.take(), ids.take(), ids.take()],
            [Some(12), Some(20), Some(21), None]
        );
    }

    #[test]
    fn the_watermark_stays_below_open_stripes() {
        let mut open = OpenStripes::default();
        assert_eq!(open.done_below(None), 0, "nothing known: nothing closes");
        assert_eq!(open.done_below(Some(7)), 7);
        open.begin(5);
        open.begin(6);
        assert_eq!(open.done_below(Some(7)), 5);
        open.end(5);
        assert_eq!(open.done_below(Some(7)), 6);
    }
}
