//! How long a server took lately, to know when it is late.

use std::time::Duration;

const KEPT: usize = 32;
/// Below this, nothing is late.
const HEDGE_MIN: Duration = Duration::from_millis(50);
/// Above this, everything is.
const HEDGE_MAX: Duration = Duration::from_millis(300);
const LATE_FACTOR: u32 = 6;

/// The latest durations of one kind of call.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    recent: Vec<Duration>,
    next: usize,
}

impl Latency {
    /// A call took that long.
    pub(crate) fn record(&mut self, took: Duration) {
        if self.recent.len() < KEPT {
            self.recent.push(took);
        } else {
            self.recent[self.next] = took;
            self.next = (self.next + 1) % KEPT;
        }
    }

    /// After how long another server should be asked as well.
    pub(crate) fn hedge_after(&self) -> Duration {
        (median(&self.recent) * LATE_FACTOR).clamp(HEDGE_MIN, HEDGE_MAX)
    }
}

/// The middle one; zero of none.
pub(crate) fn median(durations: &[Duration]) -> Duration {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_is_relative_to_what_is_usual() {
        let mut latency = Latency::default();
        assert_eq!(latency.hedge_after(), HEDGE_MIN);
        for _ in 0..100 {
            latency.record(Duration::from_millis(30));
        }
        latency.record(Duration::from_secs(60));
        assert_eq!(latency.hedge_after(), Duration::from_millis(180));
    }
}
