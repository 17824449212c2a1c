//! The decisions of a client, without the world: events, state and time go in, decisions come out.
//!
//! Nothing here waits, reads a clock or opens a socket. Time is a [`std::time::Duration`] since the client
//! started. What a module decides is carried out one folder up.
//!
//! * [`rooms`], [`pool`], [`buffer`], [`pack`]: a dirty byte until it is frozen into a stripe.
//! * [`placement`], [`placing`], [`commits`]: a frozen stripe until it is committed.
//! * [`stranded`]: what becomes of it when the session is lost.
//! * [`map`], [`layers`], [`plan`], [`readahead`]: a read.
//! * [`beliefs`]: what is answered without asking, under shared leases.
//! * [`slots`], [`ids`], [`latency`]: what the session and the connections count with; [`owners`]: whose files are whose.

pub(crate) mod beliefs;
pub(crate) mod buffer;
pub(crate) mod commits;
pub(crate) mod ids;
pub(crate) mod latency;
pub(crate) mod layers;
pub(crate) mod locks;
pub(crate) mod map;
pub(crate) mod owners;
pub(crate) mod pack;
pub(crate) mod placement;
pub(crate) mod placing;
pub(crate) mod plan;
pub(crate) mod pool;
pub(crate) mod readahead;
pub(crate) mod rooms;
pub(crate) mod slots;
pub(crate) mod stranded;

use std::ops::Range;

use crate::types::limits::BLOCK;

/// [`BLOCK`] as a file offset.
pub(crate) const BLOCK64: u64 = BLOCK as u64;

/// The first byte of the block that `offset` lies in.
pub(crate) fn block_start(offset: u64) -> u64 {
    offset - offset % BLOCK64
}

/// The part that two ranges share; empty when they share none.
pub(crate) fn shared(a: &Range<u64>, b: &Range<u64>) -> Range<u64> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}
