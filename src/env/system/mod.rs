//! The real world: tokio, files, the kernel.

pub mod credentials;
mod descriptors;
pub mod disk;
pub mod files;
pub mod lock;
pub mod memory;
pub mod monitors;
mod node;
pub mod renewal;
pub mod rpc;

pub use credentials::{LoadError, load_credentials};
pub use descriptors::raise_descriptor_limit;
pub use node::{Node, node};
