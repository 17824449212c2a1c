//! The real world: threads, files, sockets.

pub mod disk;
