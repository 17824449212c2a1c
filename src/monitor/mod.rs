//! The monitors: they own the namespace.

pub mod namespace;
pub mod raft;
pub mod store;
