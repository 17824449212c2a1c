//! Which version of what is said and kept a program knows.
//!
//! One number, the **level**, counts the versions of everything that two processes must understand alike: messages,
//! entries of the log, records. A program knows a range of levels, so that nodes can be upgraded one after another:
//! two processes speak the highest that both know, and the cluster as a whole is at a level that everybody
//! knows, which rises when the last one has been upgraded.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// The levels that a program knows, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Levels {
    /// The lowest.
    pub oldest: u32,
    /// The highest.
    pub newest: u32,
}

impl Levels {
    /// Those of this program. Level 2 is being made: nothing differs from level 1 yet.
    pub const OURS: Self = Self { oldest: 1, newest: 2 };

    /// Only that one.
    pub fn only(level: u32) -> Self {
        Self { oldest: level, newest: level }
    }

    /// The highest that both know.
    pub fn common(self, other: Self) -> Option<u32> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

/// The program that somebody runs, as the others know it.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct Program {
    /// Its release, for people.
    pub release: String,
    /// The highest level up to which it goes.
    pub level: u32,
}

impl Program {
    /// The program that is running here.
    pub fn this() -> Self {
        Self { release: env!("CARGO_PKG_VERSION").to_owned(), level: Levels::OURS.newest }
    }

    /// The same, kept at that level or below.
    pub fn held_at(self, level: u32) -> Self {
        Self { level: self.level.min(level), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_speak_the_highest_level_that_both_know() {
        let levels = |oldest, newest| Levels { oldest, newest };
        let cases = [
            (levels(1, 2), levels(1, 2), Some(2)),
            (levels(1, 2), levels(2, 3), Some(2)),
            (levels(1, 4), levels(2, 3), Some(3)),
            (levels(1, 2), levels(3, 4), None),
            (levels(1, 2), Levels::only(1), Some(1)),
        ];
        for (one, other, common) in cases {
            assert_eq!((one.common(other), other.common(one)), (common, common));
        }
    }
}
