//! OkapiFS.

pub mod client;
pub mod codec;
pub mod crypto;
pub mod env;
pub mod monitor;
pub mod server;
pub mod types;
pub mod wire;
