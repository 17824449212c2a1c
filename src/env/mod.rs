//! The world outside: what a pure core must not reach for by itself.

pub mod disk;
pub mod sim;
pub mod system;
