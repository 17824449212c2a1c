//! OkapiFS.

pub mod client;
pub mod crypto;
pub mod env;
pub mod monitor;
pub mod types;
pub mod wire;
