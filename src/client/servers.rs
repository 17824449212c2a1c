//! Connections to the storage servers: made when first needed, kept, made again with growing pauses.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::link::{Monitors, ShardError, Shards};
use crate::crypto::{Credentials, Role};
use crate::env::system::rpc::{CallError, Connection};
use crate::types::limits::BLOCK;
use crate::types::{Epoch, Incarnation, PlacementMap, ServerId, ShardHash};
use crate::wire;
use crate::wire::shards::{Request, Response, ShardId};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(2);
const PUT_TIMEOUT: Duration = Duration::from_secs(30);
const GET_TIMEOUT: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct ServerLinks {
    credentials: Credentials,
    monitors: Arc<dyn Monitors>,
    servers: Mutex<HashMap<ServerId, Arc<Server>>>,
}

struct Server {
    address: String,
    epoch: Epoch,
    connection: Mutex<Option<Connection>>,
    /// Held while connecting.
    retry: tokio::sync::Mutex<Retry>,
}

struct Retry {
    not_before: Instant,
    pause: Duration,
}

impl ServerLinks {
    /// No connections yet; `monitors` know the incarnation.
    pub(crate) fn new(credentials: Credentials, monitors: Arc<dyn Monitors>) -> Self {
        Self { credentials, monitors, servers: Mutex::default() }
    }

    fn call(
        &self,
        server: ServerId,
        request: &Request,
        payload: Vec<Bytes>,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<(Response, Bytes), ShardError>> {
        let Some(link) = self.servers.lock().get(&server).map(Arc::clone) else {
            return futures::future::ready(Err(ShardError::Unreachable)).boxed();
        };
        let header = wire::encode(request);
        let (credentials, incarnation) = (self.credentials.clone(), self.monitors.incarnation());
        async move {
            let connection = link.connection(&credentials, incarnation).await?;
            let answer = connection.call(header, payload, timeout).await;
            let (header, payload) = answer.map_err(|error| match error {
                CallError::Timeout => ShardError::Silent,
                CallError::Closed => ShardError::Unreachable,
            })?;
            match wire::decode(&header) {
                Ok(Response::Refused(refusal)) => Err(ShardError::Refused(refusal)),
                Ok(response) => Ok((response, payload)),
                Err(error) => {
                    log::error!("server {server} answered something incomprehensible: {error}");
                    connection.close();
                    Err(ShardError::Unreachable)
                }
            }
        }
        .boxed()
    }
}

impl Server {
    fn new(address: String, epoch: Epoch) -> Self {
        let retry = Retry { not_before: Instant::now(), pause: RETRY_FIRST };
        Self { address, epoch, connection: Mutex::default(), retry: tokio::sync::Mutex::new(retry) }
    }

    async fn connection(
        &self,
        credentials: &Credentials,
        incarnation: Incarnation,
    ) -> Result<Connection, ShardError> {
        if let Some(connection) = self.live() {
            return Ok(connection);
        }
        let mut retry = self.retry.lock().await;
        if let Some(connection) = self.live() {
            return Ok(connection);
        }
        if Instant::now() < retry.not_before {
            return Err(ShardError::Unreachable);
        }
        let role = Role::Server;
        let opened =
            Connection::open(&self.address, credentials, role, incarnation, CONNECT_TIMEOUT).await;
        match opened {
            Ok((connection, _notices)) => {
                *self.connection.lock() = Some(connection.clone());
                retry.pause = RETRY_FIRST;
                Ok(connection)
            }
            Err(error) => {
                log::debug!("a storage server cannot be reached: {error}");
                retry.not_before = Instant::now() + retry.pause;
                retry.pause = (retry.pause * 2).min(RETRY_MOST);
                Err(ShardError::Unreachable)
            }
        }
    }

    fn live(&self) -> Option<Connection> {
        self.connection.lock().clone().filter(|connection| !connection.is_closed())
    }
}

impl Shards for ServerLinks {
    fn put(
        &self,
        server: ServerId,
        shard: ShardId,
        image: Vec<Bytes>,
    ) -> BoxFuture<'static, Result<(ShardHash, Epoch), ShardError>> {
        let call = self.call(server, &Request::Put(shard), image, PUT_TIMEOUT);
        async move {
            match call.await?.0 {
                Response::Stored { hash, epoch } => Ok((hash, epoch)),
                _ => Err(ShardError::Damaged),
            }
        }
        .boxed()
    }

    fn get(
        &self,
        server: ServerId,
        shard: ShardId,
        first: u32,
        count: u32,
    ) -> BoxFuture<'static, Result<(Vec<u32>, Bytes), ShardError>> {
        let request = Request::Get { shard, first, count };
        let call = self.call(server, &request, Vec::new(), GET_TIMEOUT);
        async move {
            match call.await? {
                (Response::Blocks { checksums }, blocks)
                    if checksums.len() == count as usize
                        && blocks.len() == (count * BLOCK) as usize =>
                {
                    Ok((checksums, blocks))
                }
                _ => Err(ShardError::Damaged),
            }
        }
        .boxed()
    }

    fn ping(&self, server: ServerId) -> BoxFuture<'static, Result<(), ShardError>> {
        let call = self.call(server, &Request::Ping, Vec::new(), PING_TIMEOUT);
        async move {
            match call.await?.0 {
                Response::Alive { server: who, .. } if who == server => Ok(()),
                _ => Err(ShardError::Damaged),
            }
        }
        .boxed()
    }

    fn update(&self, placement: &PlacementMap) {
        let mut servers = self.servers.lock();
        servers.retain(|id, _| placement.servers.iter().any(|entry| entry.id == *id));
        for entry in &placement.servers {
            let same = |server: &Arc<Server>| {
                server.address == entry.address && server.epoch == entry.epoch
            };
            if !servers.get(&entry.id).is_some_and(same) {
                let server = Server::new(entry.address.clone(), entry.epoch);
                servers.insert(entry.id, Arc::new(server));
            }
        }
    }
}
