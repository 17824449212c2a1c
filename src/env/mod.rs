//! The world outside the process: time, randomness, disks, the network.
//!
//! Everything that decides anything is a pure core elsewhere; what it needs of the world it gets through the
//! small interfaces of this folder. [`system`] is the real world, [`sim`] a seeded one for tests, each
//! interface's twin beside it.

pub mod clock;
pub mod disk;
pub mod random;
pub mod sim;
pub mod system;
