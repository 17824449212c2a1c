//! A whole server over loopback, between a monitor that says what the test wants and a client.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::*;
use crate::codec::shard::{StripeIdent, build};
use crate::crypto::{Authority, Credentials, Role};
use crate::env::clock::{Clock, SystemClock};
use crate::env::system::rpc::{Answer, Caller, Connection, Listener, Service};
use crate::types::{
    ClusterId, Epoch, Incarnation, OpSeq, Operation, ServerId, SessionId, ShardIndex, StripeId,
    Ticket, TicketKey, Timestamp, Width,
};
use crate::wire::metadata;
use crate::wire::servers::{Beaten, Registered};
use crate::wire::shards::{Refusal, Request, Response, ShardId};
use crate::wire::{decode, encode};

const LONG: Duration = Duration::from_secs(30);
const CLUSTER: ClusterId = ClusterId(0xabc);
const KEY: TicketKey = TicketKey([5; 32]);
const ID: ShardId = ShardId { stripe: StripeId(77), index: ShardIndex(0) };

struct Cluster {
    authority: Authority,
}

impl Cluster {
    fn new(id: ClusterId) -> Self {
        let authority = Authority::create(id, now()).unwrap();
        Self { authority }
    }

    fn credentials(&self, role: Role, name: &str) -> Credentials {
        let issued = self.authority.issue(role, name, now()).unwrap();
        let ca = self.authority.cert_pem();
        Credentials::from_pem(ca, &issued.cert_pem, &issued.key_pem).unwrap()
    }
}

fn now() -> Timestamp {
    SystemClock::new().now()
}

/// A monitor that answers what it is told to, and hands on what it is asked.
struct FakeMonitor {
    register: Mutex<metadata::Response>,
    beaten: Mutex<Beaten>,
    asked: mpsc::UnboundedSender<metadata::Request>,
}

impl Service for FakeMonitor {
    async fn call(self: Arc<Self>, _: Arc<Caller>, header: Vec<u8>, _: Bytes) -> Answer {
        let request: metadata::Request = decode(&header).unwrap();
        let response = match &request {
            metadata::Request::Register(_) => self.register.lock().clone(),
            metadata::Request::Beat(_) => metadata::Response::Beaten(self.beaten.lock().clone()),
            metadata::Request::Inventory(_) => metadata::Response::Garbage(Vec::new()),
            other => panic!("{other:?}"),
        };
        // The test may have heard enough.
        drop(self.asked.send(request));
        Answer { header: encode(&response), payload: Vec::new() }
    }
}

struct Monitor {
    address: SocketAddr,
    fake: Arc<FakeMonitor>,
    asked: mpsc::UnboundedReceiver<metadata::Request>,
    _shutdown: watch::Sender<bool>,
}

fn registered(server: u64) -> metadata::Response {
    metadata::Response::Registered(Registered {
        server: ServerId(server),
        epoch: Epoch(2),
        key: KEY,
        state: OpSeq(100),
        monitors: vec![],
    })
}

fn monitor(cluster: &Cluster) -> Monitor {
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_address();
    let (sender, asked) = mpsc::unbounded_channel();
    let fake = Arc::new(FakeMonitor {
        register: Mutex::new(registered(7)),
        beaten: Mutex::new(Beaten {
            reap: Vec::new(),
            list: false,
            register: false,
            state: OpSeq(100),
            monitors: vec![],
        }),
        asked: sender,
    });
    let (shutdown, requested) = watch::channel(false);
    let credentials = cluster.credentials(Role::Monitor, "m");
    tokio::spawn(listener.serve(credentials, Incarnation(1), Arc::clone(&fake), requested));
    Monitor { address, fake, asked, _shutdown: shutdown }
}

struct Server {
    address: SocketAddr,
    shutdown: watch::Sender<bool>,
    task: JoinHandle<Result<(), RunError>>,
}

async fn start(cluster: &Cluster, monitor: SocketAddr, dir: &Path) -> Result<Server, RunError> {
    let config = Config {
        dir: dir.to_owned(),
        listen: "127.0.0.1:0".into(),
        advertise: None,
        domain: "here".into(),
        monitors: vec![monitor.to_string()],
        credentials: cluster.credentials(Role::Server, "s"),
        capacity: None,
    };
    let (shutdown, requested) = watch::channel(false);
    let (ready, is_ready) = oneshot::channel();
    let ready = move |address, id| ready.send((address, id)).expect("waited for");
    let mut task = tokio::spawn(run(config, ready, requested));
    tokio::select! {
        Ok((address, id)) = is_ready => {
            assert_eq!(id, ServerId(7));
            Ok(Server { address, shutdown, task })
        }
        ended = &mut task => Err(ended.unwrap().unwrap_err()),
    }
}

async fn call(connection: &Connection, request: Request, payload: Vec<Bytes>) -> (Response, Bytes) {
    let (header, payload) = connection.call(encode(&request), payload, LONG).await.unwrap();
    (decode(&header).unwrap(), payload)
}

impl Monitor {
    /// Waits for a call of that kind.
    async fn hears<T>(&mut self, wanted: impl Fn(metadata::Request) -> Option<T>) -> T {
        loop {
            let asked = tokio::time::timeout(LONG, self.asked.recv()).await;
            if let Some(found) = wanted(asked.unwrap().unwrap()) {
                return found;
            }
        }
    }
}

#[tokio::test]
async fn a_server_joins_stores_lists_and_reaps() {
    let cluster = Cluster::new(CLUSTER);
    let mut monitor = monitor(&cluster);
    let dir = tempfile::tempdir().unwrap();
    let server = start(&cluster, monitor.address, dir.path()).await.unwrap();
    let client = cluster.credentials(Role::Client, "c");
    let address = server.address.to_string();
    let opened = Connection::open(&address, &client, Role::Server, Incarnation(0), LONG).await;
    let (connection, _notices) = opened.unwrap();

    let ticket = |operation| {
        let (session, server) = (SessionId(1), ServerId(7));
        let (from, to) = (ID.stripe, StripeId(ID.stripe.0 + 1));
        let ticket = Ticket { server, session, operation, from, to, expires: now() };
        KEY.sign(ticket, client.identity())
    };
    let get = Request::Get { shard: ID, first: 0, count: 256 };
    let refused = Response::Refused(Refusal::NoTicket);
    assert_eq!(call(&connection, get.clone(), Vec::new()).await.0, refused);
    let admit = Request::Admit(vec![ticket(Operation::Read), ticket(Operation::Write)]);
    assert_eq!(call(&connection, admit, Vec::new()).await.0, Response::Admitted);
    let ident = StripeIdent {
        cluster: CLUSTER,
        incarnation: Incarnation(1),
        stripe: ID.stripe,
        width: Width { data: 2, parity: 1 },
    };
    let image = build(ident, &Bytes::from(vec![3; 2 << 20]), &[]).remove(0);
    let mut payload = vec![image.head.clone()];
    payload.extend(image.data.clone());
    let stored = Response::Stored { hash: image.hash, epoch: Epoch(2) };
    assert_eq!(call(&connection, Request::Put(ID), payload).await.0, stored);
    let (_, data) = call(&connection, get.clone(), Vec::new()).await;
    assert!(data == image.data.concat());

    monitor.fake.beaten.lock().list = true;
    let listed = monitor.hears(|request| match request {
        metadata::Request::Inventory(inventory) => Some((inventory.shards, inventory.to)),
        _ => None,
    });
    assert_eq!(listed.await, (vec![(ID, image.hash)], None));
    *monitor.fake.beaten.lock() = Beaten {
        reap: vec![ID],
        list: false,
        register: false,
        state: OpSeq(101),
        monitors: vec![],
    };
    let reaped = monitor.hears(|request| match request {
        metadata::Request::Beat(beat) if !beat.reaped.is_empty() => Some(beat.reaped),
        _ => None,
    });
    assert_eq!(reaped.await, [ID]);
    let (gone, _) = call(&connection, get, Vec::new()).await;
    assert_eq!(gone, Response::Refused(Refusal::NotFound));

    server.shutdown.send(true).unwrap();
    server.task.await.unwrap().unwrap();
    let identity = std::fs::read_to_string(dir.path().join("identity")).unwrap();
    assert!(identity.contains("server 7\nstate 101\n"), "{identity}");

    *monitor.fake.register.lock() = registered(8);
    let error = start(&cluster, monitor.address, dir.path()).await.err().unwrap();
    assert!(error.to_string().contains("directory is that of server 7"), "{error}");
}

#[tokio::test]
async fn a_server_that_does_not_belong_here_says_so() {
    let (cluster, other) = (Cluster::new(CLUSTER), Cluster::new(ClusterId(1)));
    let monitor = monitor(&cluster);
    let dir = tempfile::tempdir().unwrap();
    let error = start(&other, monitor.address, dir.path()).await.err().unwrap();
    assert!(error.to_string().contains("of another cluster"), "{error}");
    let error = start(&cluster, monitor.address, dir.path()).await.err().unwrap();
    assert!(error.to_string().contains("this directory belongs to cluster"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    *monitor.fake.register.lock() = metadata::Response::Refused(metadata::Refusal::Forbidden);
    let error = start(&cluster, monitor.address, dir.path()).await.err().unwrap();
    assert!(error.to_string().contains("do not take this server"), "{error}");
}
