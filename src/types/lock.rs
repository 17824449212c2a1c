//! Locks on ranges of files, as programs take them with flock(2) and fcntl(2): the words, and the one piece of
//! arithmetic that monitors and clients have to do alike.
//!
//! A program that locks bytes 0-99 for writing and then unlocks 40-49 holds two locks; one that locks 0-9 and
//! 10-19 holds one. [`HeldRanges`] is what one owner holds of one file, and [`HeldRanges::set`] does what fcntl(2)
//! says of splitting, merging, upgrading and downgrading. The monitors keep it in the replicated state, where
//! it decides who may lock what; the client mirrors what its own programs hold, to know what is to be given up
//! when one of them closes the file.

use bincode::{Decode, Encode};

use super::{Ino, LockOwner, SessionId};

/// The two kinds of locks that Linux has. They know nothing of one another, as on a local filesystem.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub enum LockKind {
    /// fcntl(2): of ranges. What belongs to a process goes when it closes any descriptor of the file.
    Posix,
    /// flock(2): of whole files, belonging to an open file.
    Flock,
}

/// Who else may have the same bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Encode, Decode)]
pub enum LockMode {
    /// Others that are shared.
    Shared,
    /// Nobody.
    Exclusive,
}

/// Bytes of a file, both ends included, at most [`LockRange::LAST`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct LockRange {
    /// The first.
    pub start: u64,
    /// The last; [`LockRange::LAST`] is however far the file will ever reach.
    pub end: u64,
}

/// What a program wants of a file's locks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct LockRequest {
    /// The file.
    pub ino: Ino,
    /// Which kind of lock.
    pub kind: LockKind,
    /// Who is to have it, among the owners of one session.
    pub owner: LockOwner,
    /// The process, as its own host knows it.
    pub pid: u32,
    /// Which bytes.
    pub range: LockRange,
    /// How to lock them; `None` unlocks.
    pub mode: Option<LockMode>,
}

/// A lock in somebody's way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Conflict {
    /// Whose it is.
    pub session: SessionId,
    /// Who has it there.
    pub owner: LockOwner,
    /// The process, as its own host knows it.
    pub pid: u32,
    /// Which bytes it is on.
    pub range: LockRange,
    /// How it is locked.
    pub mode: LockMode,
}

/// The locks of one kind that one owner holds on one file: ascending, disjoint, and merged where they can be.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct HeldRanges(Vec<(LockRange, LockMode)>);

impl LockRange {
    /// The last byte that can be locked (`OFFSET_MAX` of Linux).
    pub const LAST: u64 = i64::MAX as u64;

    /// All that there is of a file.
    pub const WHOLE: Self = Self { start: 0, end: Self::LAST };

    /// Whether it is one: what comes from elsewhere may be nonsense.
    pub fn is_sound(self) -> bool {
        self.start <= self.end && self.end <= Self::LAST
    }

    /// Whether they have a byte in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    /// What they have in common.
    pub fn shared(self, other: Self) -> Option<Self> {
        let shared = Self { start: self.start.max(other.start), end: self.end.min(other.end) };
        (shared.start <= shared.end).then_some(shared)
    }

    /// What of it lies before `other`, and what behind.
    fn outside(self, other: Self) -> impl Iterator<Item = Self> {
        let before =
            other.start.checked_sub(1).map(|last| Self { end: self.end.min(last), ..self });
        let behind = Self { start: self.start.max(other.end.saturating_add(1)), ..self };
        [before, Some(behind)].into_iter().flatten().filter(|part| part.start <= part.end)
    }
}

impl LockMode {
    /// Whether two owners may not have the same byte in these ways.
    pub fn excludes(self, other: Self) -> bool {
        self == Self::Exclusive || other == Self::Exclusive
    }
}

impl LockRequest {
    /// Whether another owner's request cannot be met together with this one.
    pub fn excludes(&self, other: &Self) -> bool {
        let modes = self.mode.zip(other.mode);
        self.ino == other.ino
            && self.kind == other.kind
            && self.range.overlaps(other.range)
            && modes.is_some_and(|(ours, theirs)| ours.excludes(theirs))
    }
}

impl HeldRanges {
    /// Locks a range, whatever was held of it before, or unlocks it.
    pub fn set(&mut self, range: LockRange, mode: Option<LockMode>) {
        let mut parts: Vec<_> = mode.map(|mode| (range, mode)).into_iter().collect();
        for (held, mode) in self.0.drain(..) {
            parts.extend(held.outside(range).map(|part| (part, mode)));
        }
        parts.sort_unstable_by_key(|(part, _)| part.start);
        for (part, mode) in parts {
            match self.0.last_mut() {
                Some((last, last_mode)) if *last_mode == mode && last.end + 1 == part.start => {
                    last.end = part.end;
                }
                _ => self.0.push((part, mode)),
            }
        }
    }

    /// What is held of a range, ascending.
    pub fn within(&self, range: LockRange) -> impl Iterator<Item = (LockRange, LockMode)> {
        let first = self.0.partition_point(|(held, _)| held.end < range.start);
        let parts = self.0[first..].iter();
        parts.map_while(move |(held, mode)| held.shared(range).map(|part| (part, *mode)))
    }

    /// The first lock that keeps another owner from locking `range` in that way.
    pub fn against(&self, range: LockRange, mode: LockMode) -> Option<(LockRange, LockMode)> {
        let first = self.0.partition_point(|(held, _)| held.end < range.start);
        let parts = self.0[first..].iter().take_while(|(held, _)| held.start <= range.end);
        parts.copied().find(|(_, held)| held.excludes(mode))
    }

    /// Whether a range is held exactly so already.
    pub fn is(&self, range: LockRange, mode: Option<LockMode>) -> bool {
        let mut within = self.within(range);
        match mode {
            None => within.next().is_none(),
            Some(mode) => within.next() == Some((range, mode)),
        }
    }

    /// How many locks there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 24;

    /// SplitMix64 (Steele, Lea & Flood 2014).
    struct Random(u64);

    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) % n
        }
    }

    fn range(start: u64, end: u64) -> LockRange {
        LockRange { start, end }
    }

    /// The same, a byte at a time.
    type Bytes = [Option<LockMode>; BYTES as usize];

    fn bytes_of(held: &HeldRanges) -> Bytes {
        std::array::from_fn(|at| {
            let at = at as u64;
            held.within(range(at, at)).next().map(|(_, mode)| mode)
        })
    }

    fn assert_sound(held: &HeldRanges) {
        for pair in held.0.windows(2) {
            let ((one, mode), (next, next_mode)) = (pair[0], pair[1]);
            assert!(one.end < next.start, "{held:?}");
            assert!(one.end + 1 < next.start || mode != next_mode, "not merged: {held:?}");
        }
        assert!(held.0.iter().all(|(range, _)| range.is_sound()), "{held:?}");
    }

    #[test]
    fn ranges_are_what_each_byte_says() {
        for seed in 0..300 {
            let mut random = Random(seed);
            let (mut held, mut bytes): (_, Bytes) = (HeldRanges::default(), [None; 24]);
            for _ in 0..60 {
                let (a, b) = (random.below(BYTES), random.below(BYTES));
                let at = range(a.min(b), a.max(b));
                let modes = [None, Some(LockMode::Shared), Some(LockMode::Exclusive)];
                let mode = modes[random.below(3) as usize];
                let slice = at.start as usize..=at.end as usize;
                assert_eq!(
                    held.is(at, mode),
                    bytes[slice.clone()].iter().all(|byte| *byte == mode),
                    "seed {seed}"
                );
                let wanted = mode.unwrap_or(LockMode::Shared);
                let blocks = |byte: &Option<LockMode>| byte.is_some_and(|by| by.excludes(wanted));
                assert_eq!(
                    held.against(at, wanted).is_some(),
                    bytes[slice.clone()].iter().any(blocks),
                    "seed {seed}"
                );
                held.set(at, mode);
                bytes[slice].fill(mode);
                assert_eq!(bytes_of(&held), bytes, "seed {seed}");
                assert_sound(&held);
            }
        }
    }

    #[test]
    fn the_last_byte_can_be_locked() {
        let mut held = HeldRanges::default();
        held.set(LockRange::WHOLE, Some(LockMode::Exclusive));
        held.set(range(LockRange::LAST, LockRange::LAST), Some(LockMode::Shared));
        assert_eq!(held.count(), 2);
        held.set(range(7, 7), None);
        assert_eq!(held.count(), 3);
        held.set(range(0, LockRange::LAST), None);
        assert!(held.is_empty());
        assert!(!range(0, LockRange::LAST + 1).is_sound() && !range(5, 4).is_sound());
    }
}
