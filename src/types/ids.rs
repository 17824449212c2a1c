//! Identities. Each is a number of its own type, so that an inode can never be passed where a stripe is meant.

use std::fmt;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

id_type! {
    /// Position of a command in the replicated history: one per command, strictly rising. Also the
    /// `birth` of every value that the command wrote.
    OpSeq(u64)
}
id_type! {
    /// An inode number, from a range leased to a session; never used twice. Its top 16 bits name the
    /// metadata shard (0 today).
    Ino(u64)
}
id_type! {
    /// A stripe: one id, one content, for ever. From a range leased to a session.
    StripeId(u64)
}
id_type! {
    /// A storage server; the `OpSeq` of the command that created it, never used twice.
    ServerId(u64)
}
id_type! {
    /// A monitor.
    MonitorId(u64)
}
id_type! {
    /// A client's session with the monitors; the `OpSeq` of the command that opened it.
    SessionId(u64)
}
id_type! {
    /// A volume: the inode number of its root directory.
    VolumeId(u64)
}
id_type! {
    /// Rises by one with each registration of a server: an ack from an older epoch proves nothing,
    /// because the disk behind it may have been lost since.
    Epoch(u32)
}
id_type! {
    /// Rises when a cluster is brought back from a disaster. Every connection names it.
    Incarnation(u32)
}
id_type! {
    /// Rises by one with every content commit to an inode.
    DataVersion(u64)
}
id_type! {
    /// Which shard of a stripe: data shards are 0..k, parity shards k..k+m.
    ShardIndex(u8)
}
id_type! {
    /// A moment in a leader's table of shared leases: rises with everything that happens there. Worth nothing in
    /// another reign.
    LeaseStamp(u64)
}
id_type! {
    /// Who holds a lock on a file, among those of one session: a process or an open file, as the kernel of its host
    /// numbers them.
    LockOwner(u64)
}
id_type! {
    /// One of a session's reply slots; each has at most one operation in flight.
    Slot(u16)
}
id_type! {
    /// Sequence number of an operation within its slot, starting at 1, rising by one per operation. The
    /// same (session, slot, seq) sent again is the same operation and gets the same answer.
    SlotSeq(u64)
}

/// Identity of a cluster: 128 random bits made by `okapifs init`, shown as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
pub struct ClusterId(pub u128);

impl ClusterId {
    /// Reads the 32 hex digits that `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten().map(Self)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

impl Ino {
    /// The root directory of the filesystem (and of its first volume). The kernel calls it 1 as well.
    pub const ROOT: Self = Self(1);
}

impl VolumeId {
    /// The volume that every cluster starts with, mounted at `/`.
    pub const ROOT: Self = Self(Ino::ROOT.0);

    /// The volume whose own directory that is, if it is one.
    pub fn of(directory: Ino) -> Self {
        Self(directory.0)
    }

    /// Its own directory.
    pub fn directory(self) -> Ino {
        Ino(self.0)
    }
}

impl OpSeq {
    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl DataVersion {
    /// The version after one more content commit.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_id_reads_back_what_it_prints() {
        let id = ClusterId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        assert_eq!(ClusterId::parse(&id.to_string()), Some(id));
        assert_eq!(ClusterId::parse("12"), None);
        assert_eq!(ClusterId::parse(&"g".repeat(32)), None);
    }
}
