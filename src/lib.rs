//! OkapiFS.

pub mod client;
pub mod monitor;
pub mod types;
pub mod wire;
