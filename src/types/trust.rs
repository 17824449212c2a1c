//! What joining a cluster is about: tokens, keys, and what a client may do.

use bincode::{Decode, Encode};

use super::Timestamp;

/// SHA-256 of a public key (its `SubjectPublicKeyInfo`): by this the monitors know a member again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Encode, Decode)]
pub struct KeyHash(pub [u8; 32]);

/// SHA-256 of a token's secret: all that the cluster keeps of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Encode, Decode)]
pub struct TokenHash(pub [u8; 32]);

/// What whoever redeems a token becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Encode, Decode)]
pub enum TokenRole {
    /// A machine that stores shards: it gets certificates of an agent, a server, and a client that may
    /// administrate the cluster; maybe also of a monitor ([`MonitorGrant`]).
    Node,
    /// A machine that mounts.
    Client,
}

/// What a client may do, and as whom its users count. The default is what the one made by `okapifs init` may:
/// everything.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct ClientPolicy {
    /// Whether it may change the cluster itself: tokens, clients, members.
    pub admin: bool,
    /// Whether it may change nothing in the filesystem.
    pub read_only: bool,
    /// The directory that it may see, from the root without a slash at either end; empty for everything.
    pub subtree: Vec<u8>,
    /// Users and groups of the client that count as others in the cluster.
    pub id_map: Vec<IdRange>,
    /// Whether root of the client counts as nobody ([`NOBODY`]).
    pub root_squash: bool,
}

/// Whom a squashed root counts as: user and group.
pub const NOBODY: u32 = 65_534;

/// The user and group ids `local .. local + count` of a client are `cluster .. cluster + count` in the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct IdRange {
    /// First id on the client.
    pub local: u32,
    /// What it is in the cluster.
    pub cluster: u32,
    /// How many.
    pub count: u32,
}

/// What a token grants.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct TokenGrant {
    /// What its redeemer becomes.
    pub role: TokenRole,
    /// Its redeemer's name; what it calls itself when `None`.
    pub name: Option<String>,
    /// What its redeemer's client may do.
    pub policy: ClientPolicy,
    /// Whether its redeemer, a node, may run a monitor.
    pub monitor: MonitorGrant,
}

/// Whether a node may run a monitor: a monitor holds the names of all files, and can make members of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum MonitorGrant {
    /// Never.
    Never,
    /// It gets one when it joins as long as the cluster has fewer than three, and later when one is lost.
    WhileFew,
    /// It gets one when it joins.
    Always,
}

/// By whom and when a token was redeemed.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct TokenUse {
    /// The name that the redeemer got.
    pub name: String,
    /// When, by the leader's clock.
    pub time: Timestamp,
    /// The redeemer's public keys: who comes again with the same ones lost the answer and gets it again.
    pub keys: Vec<KeyHash>,
}

impl Default for ClientPolicy {
    fn default() -> Self {
        Self {
            admin: true,
            read_only: false,
            subtree: Vec::new(),
            id_map: Vec::new(),
            root_squash: false,
        }
    }
}

impl ClientPolicy {
    /// Of the users of a client: what is `local` there, in the cluster. What no range names stays as it is.
    pub fn to_cluster(&self, local: u32) -> u32 {
        if self.root_squash && local == 0 {
            return NOBODY;
        }
        let range = self.id_map.iter().find(|range| contains(range.local, range.count, local));
        range.map_or(local, |range| range.cluster + (local - range.local))
    }

    /// The way back of [`Self::to_cluster`].
    pub fn to_local(&self, cluster: u32) -> u32 {
        let range = self.id_map.iter().find(|range| contains(range.cluster, range.count, cluster));
        range.map_or(cluster, |range| range.local + (cluster - range.cluster))
    }
}

impl IdRange {
    /// Whether both ranges end below 2^32 - 1 (which stands for "leave it as it is").
    pub fn is_valid(self) -> bool {
        let fits = |first: u32| first.checked_add(self.count).is_some();
        self.count > 0 && fits(self.local) && fits(self.cluster)
    }

    /// Whether two ranges share an id on either side, so that one of them would be ambiguous.
    pub fn overlaps(self, other: Self) -> bool {
        let meet = |a: u32, b: u32| contains(a, self.count, b) || contains(b, other.count, a);
        meet(self.local, other.local) || meet(self.cluster, other.cluster)
    }
}

fn contains(first: u32, count: u32, id: u32) -> bool {
    id.checked_sub(first).is_some_and(|offset| offset < count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_mapped_there_and_back() {
        let range = IdRange { local: 1000, cluster: 5000, count: 10 };
        let policy = ClientPolicy { id_map: vec![range], ..ClientPolicy::default() };
        assert_eq!((policy.to_cluster(1009), policy.to_cluster(1010)), (5009, 1010));
        assert_eq!((policy.to_local(5000), policy.to_local(4999)), (1000, 4999));
        assert_eq!(policy.to_cluster(0), 0);
        let squashed = ClientPolicy { root_squash: true, ..policy };
        assert_eq!(squashed.to_cluster(0), NOBODY);
    }

    #[test]
    fn ranges_that_cannot_be_told_apart_are_noticed() {
        let range = |local, cluster, count| IdRange { local, cluster, count };
        assert!(range(0, 0, 10).overlaps(range(9, 100, 1)));
        assert!(range(0, 0, 10).overlaps(range(100, 5, 1)));
        assert!(!range(0, 0, 10).overlaps(range(10, 10, 5)));
        assert!(!range(0, u32::MAX, 1).is_valid() && !range(1, 1, 0).is_valid());
    }
}
