//! The agent: one supervisor a node, which starts, watches and restarts the node's monitor, servers and mounts.
//!
//! # The life of a node
//!
//! The machine boots, and systemd starts `okapifs agent DIR` (on one machine `okapifs up` does). The agent takes
//! the directory's lock, looks which of its units run already (its predecessor may have died and left them), and
//! starts the others: monitors, then servers, then mounts. From then on it listens to them. One that dies is
//! started again, one that no longer answers is killed first. When the agent itself dies, nothing happens to its
//! units: they lead sessions of their own, and the next agent adopts them.
//!
//! When a whole process is missed by its siblings, they ask its agent ([`wire::agent`](crate::wire::agent)); of all
//! who ask, one has it started, and once.
//!
//! # Who does what
//!
//! * [`plan`] decides, from events and the time: pure. [`backoff`] knows how long to wait, [`stages`] the order.
//! * `supervisor` carries it out: one task that owns the plan and hears everything.
//! * [`processes`] starts, recognises and stops processes; `pidfd` hears of their end; `probes` asks them whether
//!   they are alive, and answers for a mount.
//! * [`starts`] keeps the numbers of starts on disk; that is all the state there is.
//! * `beats` tells the monitors that the node is there, and makes a monitor when one is lost elsewhere.
//! * [`run`](run()) listens for whoever asks (`service`), [`notify`] tells systemd.
//!
//! Which units a node has, and how each is started, is told by whoever knows its directory: [`Node`], [`Site`].

pub mod backoff;
mod beats;
pub mod notify;
mod pidfd;
pub mod plan;
mod probes;
pub mod processes;
mod run;
mod service;
pub mod stages;
pub mod starts;
mod supervisor;
mod watch;

pub use beats::Site;
pub use probes::{Answering, answer};
pub use run::{Config, RunError, run};
pub use service::ADMINISTRATOR;
pub use supervisor::{Handle, Node};
