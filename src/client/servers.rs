//! Connections to the storage servers: made when first needed, kept, made again with growing pauses. Over each the
//! client's tickets are shown before anything else, and again whenever there are new ones.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::link::{Monitors, ShardError, Shards};
use super::tickets::Tickets;
use crate::crypto::{Credentials, Role};
use crate::env::system::rpc::{CallError, Connection};
use crate::types::limits::BLOCK;
use crate::types::{Epoch, Incarnation, PlacementMap, ServerId, ShardHash};
use crate::wire;
use crate::wire::shards::{Refusal, Request, Response, ShardId};

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
    tickets: Arc<Tickets>,
    servers: Mutex<HashMap<ServerId, Arc<Server>>>,
}

struct Server {
    id: ServerId,
    address: String,
    epoch: Epoch,
    open: Mutex<Option<Open>>,
    /// Held while connecting.
    retry: tokio::sync::Mutex<Retry>,
}

/// A connection, and which tickets were shown over it.
#[derive(Clone)]
struct Open {
    connection: Connection,
    shown: Arc<AtomicU64>,
}

/// What is asked of a server.
struct Call {
    server: Arc<Server>,
    credentials: Credentials,
    incarnation: Incarnation,
    tickets: Arc<Tickets>,
    needs_ticket: bool,
    header: Vec<u8>,
    payload: Vec<Bytes>,
    timeout: Duration,
}

struct Retry {
    not_before: Instant,
    pause: Duration,
}

impl ServerLinks {
    /// No connections yet; `monitors` know the incarnation.
    pub(crate) fn new(
        credentials: Credentials,
        monitors: Arc<dyn Monitors>,
        tickets: Arc<Tickets>,
    ) -> Self {
        Self { credentials, monitors, tickets, servers: Mutex::default() }
    }

    fn call(
        &self,
        server: ServerId,
        request: &Request,
        payload: Vec<Bytes>,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<(Response, Bytes), ShardError>> {
        let Some(server) = self.servers.lock().get(&server).map(Arc::clone) else {
            return futures::future::ready(Err(ShardError::Unreachable)).boxed();
        };
        let call = Call {
            server,
            credentials: self.credentials.clone(),
            incarnation: self.monitors.incarnation(),
            tickets: Arc::clone(&self.tickets),
            needs_ticket: *request != Request::Ping,
            header: wire::encode(request),
            payload,
            timeout,
        };
        call.answered().boxed()
    }
}

impl Call {
    /// Asks; once more with new tickets when those that there are do not do.
    async fn answered(self) -> Result<(Response, Bytes), ShardError> {
        let number = self.tickets.number();
        match self.ask().await {
            Err(ShardError::Refused(Refusal::NoTicket | Refusal::Expired))
                if self.tickets.later_than(number).await =>
            {
                self.ask().await
            }
            answer => answer,
        }
    }

    async fn ask(&self) -> Result<(Response, Bytes), ShardError> {
        let open = self.server.open(&self.credentials, self.incarnation).await?;
        if self.needs_ticket && open.shown.load(Ordering::Acquire) < self.tickets.number() {
            self.show_tickets(&open).await?;
        }
        self.say(&open, self.header.clone(), self.payload.clone()).await
    }

    /// Several calls may do this at the same time: it is short, and does no harm.
    async fn show_tickets(&self, open: &Open) -> Result<(), ShardError> {
        let (number, tickets) = self.tickets.of(self.server.id);
        self.say(open, wire::encode(&Request::Admit(tickets)), Vec::new()).await?;
        open.shown.fetch_max(number, Ordering::AcqRel);
        Ok(())
    }

    async fn say(
        &self,
        open: &Open,
        header: Vec<u8>,
        payload: Vec<Bytes>,
    ) -> Result<(Response, Bytes), ShardError> {
        let answer = open.connection.call(header, payload, self.timeout).await;
        let (header, payload) = answer.map_err(|error| match error {
            CallError::Timeout => ShardError::Silent,
            CallError::Closed => ShardError::Unreachable,
        })?;
        match wire::decode(&header) {
            Ok(Response::Refused(refusal)) => Err(ShardError::Refused(refusal)),
            Ok(response) => Ok((response, payload)),
            Err(error) => {
                let server = self.server.id;
                log::error!("server {server} answered something incomprehensible: {error}");
                open.connection.close();
                Err(ShardError::Unreachable)
            }
        }
    }
}

impl Server {
    fn new(id: ServerId, address: String, epoch: Epoch) -> Self {
        let retry = Retry { not_before: Instant::now(), pause: RETRY_FIRST };
        let retry = tokio::sync::Mutex::new(retry);
        Self { id, address, epoch, open: Mutex::default(), retry }
    }

    async fn open(
        &self,
        credentials: &Credentials,
        incarnation: Incarnation,
    ) -> Result<Open, ShardError> {
        if let Some(open) = self.live() {
            return Ok(open);
        }
        let mut retry = self.retry.lock().await;
        if let Some(open) = self.live() {
            return Ok(open);
        }
        if Instant::now() < retry.not_before {
            return Err(ShardError::Unreachable);
        }
        let role = Role::Server;
        let opened =
            Connection::open(&self.address, credentials, role, incarnation, CONNECT_TIMEOUT).await;
        match opened {
            Ok((connection, _notices)) => {
                let open = Open { connection, shown: Arc::default() };
                *self.open.lock() = Some(open.clone());
                retry.pause = RETRY_FIRST;
                Ok(open)
            }
            Err(error) => {
                log::debug!("a storage server cannot be reached: {error}");
                retry.not_before = Instant::now() + retry.pause;
                retry.pause = (retry.pause * 2).min(RETRY_MOST);
                Err(ShardError::Unreachable)
            }
        }
    }

    fn live(&self) -> Option<Open> {
        self.open.lock().clone().filter(|open| !open.connection.is_closed())
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
                let server = Server::new(entry.id, entry.address.clone(), entry.epoch);
                servers.insert(entry.id, Arc::new(server));
            }
        }
    }
}
