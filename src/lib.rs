//! OkapiFS.

pub mod agent;
pub mod cli;
pub mod client;
pub mod codec;
pub mod crypto;
pub mod env;
pub mod fuse;
pub mod monitor;
pub mod server;
pub mod types;
pub mod wire;
