//! The monitors: they own the namespace.

pub mod namespace;
pub mod store;
