//! The real world: tokio, files, the kernel.

pub mod credentials;
pub mod disk;
pub mod files;
pub mod lock;
pub mod memory;
mod node;
pub mod rpc;

pub use credentials::{LoadError, load_credentials};
pub use node::{Node, node};
