//! The client.

pub mod fs;
