//! The first frame each way on a connection.
//!
//! TLS has already proved that the other end holds a certificate of this cluster's CA, and which role and
//! name it was given. The hello settles what certificates cannot: the version of the protocol and the
//! incarnation of the cluster. Its encoding never changes, so that two versions can always tell one another
//! that they do not match.

use bincode::{Decode, Encode};

use crate::types::{ClusterId, Incarnation};

/// Version of everything in this folder. Two ends with different versions refuse one another.
pub const PROTOCOL: u32 = 1;

/// What a connecting process says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Hello {
    /// [`PROTOCOL`] of the sender.
    pub protocol: u32,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The cluster's incarnation as the sender knows it; 0 when it does not know it yet.
    pub incarnation: Incarnation,
}

/// What the accepting process answers.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Welcome {
    /// Go on.
    Accepted {
        /// The cluster's incarnation as the acceptor knows it.
        incarnation: Incarnation,
    },
    /// The other end speaks another version.
    OtherProtocol {
        /// [`PROTOCOL`] of the acceptor.
        ours: u32,
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
}
