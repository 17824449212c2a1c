//! A world in memory for tests: seeded, and able to fail.

pub mod disk;
