//! When to read ahead, and how far.
//!
//! A program that reads one range after another will want the next. The first such read fetches 256 KiB
//! ahead, each further one twice as much, up to four stripes; a jump begins anew. The kernel splits a program's
//! reads and hands the parts to several threads, so reads that are a little out of order are a stream too.

use std::ops::Range;

const FIRST: u64 = 256 << 10;
const MOST: u64 = 32 << 20;
/// Offsets this far from where the stream should be still belong to it.
const DISORDER: u64 = 2 << 20;

/// What a handle's reads look like.
#[derive(Debug, Default)]
pub(crate) struct ReadAhead {
    /// Where the stream goes on.
    next: u64,
    /// How far ahead to be; 0 when it is no stream.
    window: u64,
    /// Fetched or being fetched up to here.
    fetched: u64,
}

impl ReadAhead {
    /// A read begins; what to fetch ahead of it. A stream that begins at 0 is believed at once.
    pub(crate) fn on_read(&mut self, range: &Range<u64>, size: u64) -> Option<Range<u64>> {
        let stream = range.start <= self.next + DISORDER && self.next <= range.start + DISORDER;
        let begins = range.start == 0 || range.start == self.next;
        if !stream || (self.window == 0 && !begins) {
            *self = Self { next: range.end, window: 0, fetched: range.end };
            return None;
        }
        self.next = self.next.max(range.end);
        self.fetched = self.fetched.max(range.end);
        let ahead = self.fetched - range.end.min(self.fetched);
        if self.window > 0 && ahead > self.window / 2 {
            return None;
        }
        self.window = (self.window * 2).clamp(FIRST, MOST);
        let end = (range.end + self.window).next_multiple_of(FIRST).min(size);
        let fetch = self.fetched..end;
        (!fetch.is_empty()).then(|| {
            self.fetched = end;
            fetch
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_fetched_ahead_once_and_ever_further() {
        let (size, step) = (200u64 << 20, 128 << 10);
        let (mut ahead, mut fetched) = (ReadAhead::default(), 0);
        let mut longest = 0;
        for start in (0..size).step_by(step) {
            let read = start..start + step as u64;
            if let Some(fetch) = ahead.on_read(&read, size) {
                assert!(fetch.start >= fetched.min(read.end) && fetch.end <= size);
                assert!(fetch.start == fetched.max(read.end), "nothing twice, nothing left out");
                longest = longest.max(fetch.end - read.end);
                fetched = fetch.end;
            }
        }
        assert_eq!(fetched, size);
        assert!(longest >= MOST / 2, "{longest}");
    }

    #[test]
    fn random_reads_fetch_nothing_ahead() {
        let mut ahead = ReadAhead::default();
        for at in [7u64, 3, 90, 41, 12, 66] {
            let start = at * (10 << 20);
            assert_eq!(ahead.on_read(&(start..start + 4096), 1 << 40), None);
        }
    }

    #[test]
    fn reads_out_of_order_are_still_a_stream() {
        let mut ahead = ReadAhead::default();
        let step = 128u64 << 10;
        let mut last = 0;
        for at in [1u64, 0, 3, 2, 5, 4, 7, 6, 9, 8] {
            let read = at * step..(at + 1) * step;
            last = ahead.on_read(&read, 1 << 40).map_or(last, |fetch| fetch.end);
        }
        assert!(last > 1 << 20, "{last}");
    }
}
