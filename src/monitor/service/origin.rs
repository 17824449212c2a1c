//! Who asks: somebody at a connection of this monitor, or at one of another monitor that passes the call on.
//!
//! To the leader both are an [`Origin`]: an identity, something to send notices to, and an end. The end of an
//! origin behind another monitor comes in one of two ways: that monitor says that its caller is gone, or the
//! connection to that monitor is gone, and with it all that were behind it. Calls run side by side, so the
//! news that an origin is gone may be looked at before a call of it that was sent earlier. [`Relays`]
//! therefore remembers for a while which have ended, so that such a call does not bring one back.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::crypto::Identity;
use crate::env::system::rpc::Caller;
use crate::wire::encode;
use crate::wire::peers::{Forward, Notice};

/// How many ended origins of a monitor are remembered: calls that cross the end of their connection are
/// microseconds apart, not so many connections.
const ENDED_MAX: usize = 1024;

/// See the module. Clones are the same caller.
#[derive(Clone)]
pub(super) enum Origin {
    /// At a connection of this monitor.
    Direct(Arc<Caller>),
    /// At a connection of another monitor.
    Relayed(Arc<Relayed>),
}

/// Tells origins apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum OriginId {
    /// The connection.
    Direct(u64),
    /// The connection of another monitor, and that one's number for its caller.
    Relayed { peer: u64, origin: u64 },
}

/// A caller behind another monitor.
pub(super) struct Relayed {
    peer: Arc<Caller>,
    origin: u64,
    identity: Identity,
    ended: watch::Sender<bool>,
}

impl Origin {
    /// Which.
    pub(super) fn id(&self) -> OriginId {
        match self {
            Self::Direct(caller) => OriginId::Direct(caller.id),
            Self::Relayed(relayed) => relayed.id(),
        }
    }

    /// Who it is, by its verified certificate.
    pub(super) fn identity(&self) -> &Identity {
        match self {
            Self::Direct(caller) => &caller.identity,
            Self::Relayed(relayed) => &relayed.identity,
        }
    }

    /// Tells it something: an encoded [`crate::wire::metadata::Notice`]. Does nothing when it is gone.
    pub(super) fn notify(&self, notice: Vec<u8>) {
        match self {
            Self::Direct(caller) => caller.notify(notice),
            Self::Relayed(relayed) => {
                relayed.peer.notify(encode(&Notice { origin: relayed.origin, notice }));
            }
        }
    }

    /// Resolves when it is gone.
    pub(super) async fn closed(&self) {
        match self {
            Self::Direct(caller) => caller.closed().await,
            Self::Relayed(relayed) => relayed.closed().await,
        }
    }

    /// Whether it is gone.
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Direct(caller) => caller.is_closed(),
            Self::Relayed(relayed) => *relayed.ended.borrow() || relayed.peer.is_closed(),
        }
    }
}

impl Relayed {
    fn id(&self) -> OriginId {
        OriginId::Relayed { peer: self.peer.id, origin: self.origin }
    }

    fn end(&self) -> OriginId {
        self.ended.send_replace(true);
        self.id()
    }

    async fn closed(&self) {
        let mut ended = self.ended.subscribe();
        tokio::select! {
            // The sender is in `self`: this resolves only when it says so.
            _ = ended.wait_for(|ended| *ended) => {}
            () = self.peer.closed() => {}
        }
    }
}

/// Whose name it is that `peer` passes on; `None` when that is none of this cluster.
pub(super) fn of_cluster(peer: &Caller, name: &str) -> Option<Identity> {
    Identity::parse(name).filter(|identity| identity.cluster == peer.identity.cluster)
}

/// All callers behind other monitors.
#[derive(Default)]
pub(super) struct Relays {
    peers: Mutex<HashMap<u64, Peer>>,
}

/// Those behind one connection.
#[derive(Default)]
struct Peer {
    live: HashMap<u64, Arc<Relayed>>,
    ended: VecDeque<u64>,
}

impl Relays {
    /// The origin of a call that `peer` passes on; `None` when it is gone, or is none of this cluster.
    pub(super) fn origin(&self, peer: &Arc<Caller>, forward: &Forward) -> Option<Origin> {
        let mut peers = self.peers.lock();
        // A connection closes before it is told here, under the same lock: none is added behind that.
        if peer.is_closed() {
            return None;
        }
        let behind = peers.entry(peer.id).or_default();
        if let Some(known) = behind.live.get(&forward.origin) {
            return Some(Origin::Relayed(Arc::clone(known)));
        }
        if behind.ended.contains(&forward.origin) {
            return None;
        }
        let identity = of_cluster(peer, &forward.identity)?;
        let (peer, ended) = (Arc::clone(peer), watch::Sender::new(false));
        let relayed = Arc::new(Relayed { peer, origin: forward.origin, identity, ended });
        behind.live.insert(forward.origin, Arc::clone(&relayed));
        Some(Origin::Relayed(relayed))
    }

    /// A caller of that monitor is gone: which, if it was known.
    pub(super) fn ended(&self, peer: u64, origin: u64) -> Option<OriginId> {
        let mut peers = self.peers.lock();
        let behind = peers.get_mut(&peer)?;
        behind.ended.push_back(origin);
        if behind.ended.len() > ENDED_MAX {
            behind.ended.pop_front();
        }
        behind.live.remove(&origin).map(|relayed| relayed.end())
    }

    /// A monitor's connection is gone: who was behind it.
    pub(super) fn peer_gone(&self, peer: u64) -> Vec<OriginId> {
        let gone = self.peers.lock().remove(&peer).unwrap_or_default();
        gone.live.into_values().map(|relayed| relayed.end()).collect()
    }
}
