//! Servers that stalled or failed lately get no new data until they answer again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::link::Shards;
use crate::types::ServerId;

/// How long a server is left alone before it is asked whether it is well.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// See the module.
pub(crate) struct Avoided {
    shards: Arc<dyn Shards>,
    servers: Mutex<HashSet<ServerId>>,
    /// A server is to be used again.
    pub(crate) forgiven: Notify,
}

impl Avoided {
    /// None yet.
    pub(crate) fn new(shards: Arc<dyn Shards>) -> Arc<Self> {
        Arc::new(Self { shards, servers: Mutex::default(), forgiven: Notify::new() })
    }

    /// Leaves `server` alone, and asks after it from time to time.
    pub(crate) fn add(self: &Arc<Self>, server: ServerId) {
        if self.servers.lock().insert(server) {
            log::warn!(
                "server {server} stalls or fails: it gets no new data until it answers again"
            );
            tokio::spawn(Arc::clone(self).probe(server));
        }
    }

    /// Whether it is to be left alone.
    pub(crate) fn contains(&self, server: ServerId) -> bool {
        self.servers.lock().contains(&server)
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<ServerId> {
        self.servers.lock().iter().copied().collect()
    }

    async fn probe(self: Arc<Self>, server: ServerId) {
        loop {
            tokio::time::sleep(PROBE_EVERY).await;
            if self.shards.ping(server).await.is_ok() {
                break;
            }
        }
        self.servers.lock().remove(&server);
        log::info!("server {server} answers again");
        self.forgiven.notify_waiters();
    }
}
