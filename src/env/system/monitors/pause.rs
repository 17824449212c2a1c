//! Pauses between attempts.

use std::time::Duration;

use crate::env::random::{Random, SystemRandom};

/// Pauses while there is no leader.
const ELECTION_FIRST: Duration = Duration::from_millis(20);
const ELECTION_MOST: Duration = Duration::from_millis(200);

/// A pause that grows, a little more or less each time, so that those who wait together do not come together.
pub struct Pause {
    next: Duration,
    most: Duration,
}

impl Pause {
    /// The first is about `first`, none is much longer than `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { next: first, most }
    }

    /// For who waits for an election.
    pub fn for_election() -> Self {
        Self::new(ELECTION_FIRST, ELECTION_MOST)
    }

    /// The next pause.
    pub fn take(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(self.most);
        now.mul_f64(0.75 + (SystemRandom.u64() % 1024) as f64 / 2048.0)
    }

    /// Waits for the next pause.
    pub async fn rest(&mut self) {
        tokio::time::sleep(self.take()).await;
    }
}
