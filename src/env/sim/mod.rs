//! A world for tests in which nothing happens by chance: every twin is driven by the test or by a seed.

mod clock;
pub mod disk;
mod random;

pub use clock::ManualClock;
pub use random::SeededRandom;
