//! The storage server.

pub mod store;
