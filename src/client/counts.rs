//! How often this client has asked anybody anything: proof that it does not when it need not.
//!
//! Both links are counted from the outside, so that no call can be forgotten. Renewals, by which a session lives,
//! are counted apart: they are sent every other second whatever programs do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;

use super::link::{Monitors, ShardError, Shards};
use crate::types::{Epoch, Incarnation, PlacementMap, ServerId, ShardHash};
use crate::wire::metadata::{Request, Response};
use crate::wire::shards::ShardId;

/// Messages so far.
#[derive(Default, Debug)]
pub(crate) struct Counts {
    /// Calls to monitors, but for renewals.
    pub(crate) monitors: AtomicU64,
    /// Renewals.
    pub(crate) renewals: AtomicU64,
    /// Calls to servers.
    pub(crate) servers: AtomicU64,
}

/// Something that is counted.
pub(crate) struct Counted<T: ?Sized> {
    inner: Arc<T>,
    counts: Arc<Counts>,
}

impl<T: ?Sized> Counted<T> {
    /// Counts the calls of `inner`.
    pub(crate) fn new(inner: Arc<T>, counts: &Arc<Counts>) -> Arc<Self> {
        Arc::new(Self { inner, counts: Arc::clone(counts) })
    }
}

impl Monitors for Counted<dyn Monitors> {
    fn call<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Response> {
        let counter = match request {
            Request::Renew(_) => &self.counts.renewals,
            _ => &self.counts.monitors,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.inner.call(request)
    }

    fn incarnation(&self) -> Incarnation {
        self.inner.incarnation()
    }
}

impl Shards for Counted<dyn Shards> {
    fn put(
        &self,
        server: ServerId,
        shard: ShardId,
        image: Vec<Bytes>,
    ) -> BoxFuture<'static, Result<(ShardHash, Epoch), ShardError>> {
        self.counts.servers.fetch_add(1, Ordering::Relaxed);
        self.inner.put(server, shard, image)
    }

    fn get(
        &self,
        server: ServerId,
        shard: ShardId,
        first: u32,
        count: u32,
    ) -> BoxFuture<'static, Result<(Vec<u32>, Bytes), ShardError>> {
        self.counts.servers.fetch_add(1, Ordering::Relaxed);
        self.inner.get(server, shard, first, count)
    }

    fn ping(&self, server: ServerId) -> BoxFuture<'static, Result<(), ShardError>> {
        self.counts.servers.fetch_add(1, Ordering::Relaxed);
        self.inner.ping(server)
    }

    fn update(&self, placement: &PlacementMap) {
        self.inner.update(placement);
    }
}
