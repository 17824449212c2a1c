//! The namespace: names, inodes, extents, stripes, sessions and servers, as a pure function.
//!
//! Every monitor has the same log of [commands](command) and must come to the same state. So the heart of a
//! monitor is a function: [`apply()`] takes a state and a command and gives back what came of it and which
//! pairs of the store change. It asks no clock, no network and no randomness; time and ids come with the
//! command. Everything else a monitor does (agreeing on the log, keeping pairs on disk, talking to clients)
//! is built around it, and any of its failures can be replayed from the log alone.
//!
//! # The life of a command
//!
//! A command is a batch of actions. Each gets an `OpSeq` and works on an overlay (`txn`) over what those
//! before it did. A client's change goes through three gates: its session is open, it is its slot's next one,
//! and nobody else holds exclusively what it touches ([`caps`]). Then the operation itself runs: on the tree
//! (`tree`, `rename`), on attributes (`attrs`), on content (`content`, `commit`, both by the surgery of
//! `extents`). What a change of content does to stripes is settled at its end (`stripes`). Its answer goes
//! into its slot together with its changes: sent again, it is answered again and done once.
//!
//! # Where to look
//!
//! * `keys` draws the key space, [`records`] says what the pairs mean, `txn` reads and writes them.
//! * [`query`] answers questions; [`check`] proves the invariants on a live state.
//! * `sessions`, `servers`, [`monitors`], [`trust`], [`locks`], `orphans`, `usage`: the other things a state holds.
//!
//! # Invariants
//!
//! [`check`] tests each of these, and the model test runs it after every few actions:
//!
//! 1. Every name leads to an inode, and the inode knows the name (`D` ↔ `I`, `LP`).
//! 2. An inode has as many names as `nlink` says; a directory has one, counts its entries and
//!    subdirectories, and lies below the root.
//! 3. An inode without a name is kept by the sessions that it counts, or is being freed.
//! 4. Extents of a file are disjoint, begin on a block, lie inside the file and inside a live stripe, and add
//!    up to what the inode says is stored.
//! 5. The references of a stripe (`F`) are exactly a recount of the extents in it, and `S` counts them.
//! 6. A live stripe has an `R` record for each shard and no `G`; a dead one has a `G` for each shard that is
//!    not gone, and neither `R` nor `F`.
//! 7. A grant is held by a session that exists, on a regular file that exists.
//! 8. Usage counters equal a recount.
//! 9. A lock is held by a session that exists, on an inode that exists, and no two exclude one another.
//!
//! # Not here
//!
//! History (`H`, `L`, `N`, `V`, `T`), moves of shards (`Z`), inline extents, further volumes and
//! quotas: every record has its `birth`, which is what they will be built on.

mod apply;
mod attrs;
pub mod caps;
pub mod check;
pub mod command;
mod commit;
mod content;
mod extents;
mod fail;
mod inodes;
mod keys;
mod level;
pub mod locks;
mod monitors;
mod orphans;
pub mod query;
pub mod records;
mod rename;
mod servers;
mod sessions;
mod stripes;
#[cfg(test)]
mod tests;
mod tree;
pub mod trust;
mod txn;
mod usage;

pub use apply::apply;
pub use sessions::REPLIES_KEPT;
