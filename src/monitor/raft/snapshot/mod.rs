//! A member that lags behind the log is given the whole state.
//!
//! The leader freezes its store, which costs nothing, goes on serving, and reads the frozen pairs out while
//! they are sent ([`send`]), a [`Chunk`](crate::wire::peers::Chunk) at a time and each with a time limit of its
//! own: however large the state is, neither end has more than a few chunks of it in memory. The receiver
//! appends them to a file in its Raft directory ([`Receiver`]); when the last one has come and the checksum is
//! right, a new store is filled from the file and takes the place of the old one.
//!
//! A chunk whose answer was lost is sent again, and known by its offset. A receiver that was started anew knows
//! nothing of the transfer, says so, and it begins again from the first pair.
//!
//! ```text
//! spool   pairs in the order of their keys, each: key length u32 | value length u32 | key | value
//! ```

mod receive;
mod send;
mod spool;
#[cfg(test)]
mod tests;

pub(super) use receive::Receiver;
pub(super) use send::send;
use spool::Spool;

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::monitor::store::{Incoming, Read, StoreError, prefix_end};

/// A transfer that has not got on for this long does not count any more.
const STALLED: Duration = Duration::from_secs(10);

/// What this member is sending to others. The log behind a state that is under way must stay, or the receiver would
/// lag behind the log again as soon as it has the state.
#[derive(Default)]
pub(super) struct Transfers(Mutex<Option<Instant>>);

impl Transfers {
    /// One of them has got on.
    pub(super) fn advanced(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// Whether one is under way, or was a moment ago.
    pub(super) fn are_under_way(&self) -> bool {
        self.0.lock().is_some_and(|last| last.elapsed() < STALLED)
    }
}

/// All pairs at one moment.
pub(super) enum StateImage {
    /// Of this member's own store.
    Frozen(Box<dyn Read + Send>),
    /// As another member sent them.
    Spooled(Spool),
}

impl StateImage {
    /// The pairs, in the order of their keys.
    pub(super) fn pairs(&self) -> Result<Incoming<'_>, StoreError> {
        match self {
            Self::Frozen(read) => Ok(read.scan(&[], &prefix_end(&[]))),
            Self::Spooled(spool) => spool.pairs(),
        }
    }
}
