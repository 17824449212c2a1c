//! OkapiFS.

pub mod agent;
pub mod cli;
pub mod client;
pub mod monitor;
pub mod types;
pub mod wire;
