//! OkapiFS.

pub mod client;
pub mod fuse;
pub mod monitor;
pub mod types;
pub mod wire;
