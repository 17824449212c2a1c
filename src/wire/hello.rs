//! The first frame each way on a connection.
//!
//! TLS has already proved that the other end holds a certificate of this cluster's CA, and which role and
//! name it was given. The hello settles what certificates cannot: which level the two speak, the incarnation of
//! the cluster, and whether the two agree about what time it is: certificates and tokens expire by the clock, and
//! files get their times from it. Its encoding never changes, so that two versions can always tell one another
//! that they do not match.
//!
//! What is said after it is of the level that [`Welcome::Accepted`] names: neither end *sends* anything newer.
//! What it receives each end decodes as the newest level that it knows has it, because a level only adds
//! (docs/formats.md says how).

use std::time::Duration;

use bincode::{Decode, Encode};

use crate::types::{ClusterId, Incarnation, Levels, Timestamp};

/// How far the clocks of two ends may be apart.
pub const CLOCKS_APART_MAX: Duration = Duration::from_secs(5 * 60);

/// What a connecting process says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Hello {
    /// What the sender can speak.
    pub levels: Levels,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The cluster's incarnation as the sender knows it; 0 when it does not know it yet.
    pub incarnation: Incarnation,
    /// What time it is there.
    pub time: Timestamp,
}

/// What the accepting process answers.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Welcome {
    /// Go on.
    Accepted {
        /// What both speak from here on.
        level: u32,
        /// The cluster's incarnation as the acceptor knows it.
        incarnation: Incarnation,
    },
    /// The two have no level in common.
    OtherLevels {
        /// What the acceptor can speak, or, being a monitor, what its cluster speaks.
        ours: Levels,
    },
    /// The acceptor belongs to another cluster.
    OtherCluster {
        /// Its cluster.
        ours: ClusterId,
    },
    /// The acceptor knows another incarnation of the cluster.
    OtherIncarnation {
        /// Its incarnation.
        ours: Incarnation,
    },
    /// The clocks of the two ends are further apart than [`CLOCKS_APART_MAX`].
    OtherTime {
        /// What time it is at the acceptor.
        ours: Timestamp,
    },
}

/// Whether two clocks agree well enough.
pub fn clocks_agree(ours: Timestamp, theirs: Timestamp) -> bool {
    ours.seconds.abs_diff(theirs.seconds) <= CLOCKS_APART_MAX.as_secs()
}
