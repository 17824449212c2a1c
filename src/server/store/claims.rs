//! One at a time for each shard: two puts of the same shard, or a put and its deletion, never run at once.

use std::collections::HashSet;

use parking_lot::{Condvar, Mutex};

use crate::wire::shards::ShardId;

/// Which shards are being changed.
#[derive(Default)]
pub(super) struct Claims {
    claimed: Mutex<HashSet<ShardId>>,
    released: Condvar,
}

/// The right to change some shards, until it is dropped.
pub(super) struct Claim<'a> {
    claims: &'a Claims,
    ids: Vec<ShardId>,
}

impl Claims {
    /// Waits until nobody else changes any of these, and claims them all at once (so nobody ever waits for
    /// one while holding another).
    pub(super) fn take(&self, mut ids: Vec<ShardId>) -> Claim<'_> {
        ids.sort_unstable();
        ids.dedup();
        let mut claimed = self.claimed.lock();
        while ids.iter().any(|id| claimed.contains(id)) {
            self.released.wait(&mut claimed);
        }
        claimed.extend(&ids);
        Claim { claims: self, ids }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut claimed = self.claims.claimed.lock();
        for id in &self.ids {
            claimed.remove(id);
        }
        self.claims.released.notify_all();
    }
}
