//! The client: a filesystem made of calls to monitors and servers.
//!
//! [`Fs`] is what the FUSE adapter calls. Metadata goes to the monitors, bytes go straight to the storage
//! servers, under a grant from the monitors. Where to look:
//!
//! * *Operations*: [`fs`], a file each for names, attributes, handles, reading, writing, ranges.
//! * *What is believed without asking*: `core::beliefs`, under shared `leases`; `counts` shows that nobody is asked.
//! * *What is known and held of a file*: `file`, the table of them `files`, the exclusive grant `grants`.
//! * *The way of written bytes*: `admission`, `core::buffer` (dirty), `flusher`, `owner` and `freeze` (frozen into stripes),
//!   `placer` (durable on servers), `commit` (part of the file).
//! * *What was written when the session was lost*: `core::stranded`, `grants`, `parking`.
//! * *The way of read bytes*: `view` (what a range consists of), `blocks` (cache, servers, decoding).
//! * *Locks of programs*: `locks`.
//! * *The network*: `link` (what is needed of it), `session` over `monitors`, `servers` (which
//!   want to see `tickets`), `avoid`.
//! * *Decisions*: `core`, pure and tested by itself.
//!
//! Absent on purpose: anything that must survive the process (but for what is `parking`).

mod admission;
mod avoid;
mod blocks;
mod commit;
mod config;
mod connect;
mod core;
mod counts;
mod file;
mod files;
mod flusher;
mod freeze;
pub mod fs;
mod grants;
mod leases;
mod link;
mod locks;
mod monitors;
mod owner;
mod parking;
mod placer;
mod servers;
mod session;
mod tickets;
mod view;

pub use self::core::beliefs::{Beliefs, Forgotten, Ticket};
pub use config::{Config, ConnectError};
pub use fs::Fs;
pub use leases::{Kernel, Stale};

#[cfg(test)]
mod tests;
