//! The monitors: they own the namespace.

pub mod founding;
pub mod leases;
pub mod namespace;
pub mod raft;
mod service;
pub mod store;

pub use service::{Bootstrap, Config, Milestone, Remember, RunError, run};
