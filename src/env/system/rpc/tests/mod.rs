//! Two ends over loopback: what they say when all is well, and what when one of them goes or hangs.

mod guests;
mod strangers;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::link::{Stream, buffered};
use super::*;
use crate::crypto::{Authority, Credentials, Identity, Role};
use crate::env::clock::{Clock, SystemClock};
use crate::env::random::Random;
use crate::env::sim::SeededRandom;
use crate::types::limits::FRAME_PAYLOAD_MAX;
use crate::types::{ClusterId, Incarnation, Levels, Timestamp};
use crate::wire::frame::{Kind, PREFIX_BYTES, Prefix};
use crate::wire::hello::{Hello, Welcome};

/// Long enough that only a call that is never answered takes it.
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(200);

fn now() -> Timestamp {
    SystemClock::new().now()
}

fn authority(cluster: u128) -> Authority {
    Authority::create(ClusterId(cluster), now()).expect("an authority")
}

/// Credentials of a member of `ca`'s cluster who trusts `trusted`.
fn issued(trusted: &Authority, ca: &Authority, role: Role, at: Timestamp) -> Credentials {
    let issued = ca.issue(role, "member", at).expect("issued");
    Credentials::from_pem(trusted.cert_pem(), &issued.cert_pem, &issued.key_pem).expect("fits")
}

fn member(ca: &Authority, role: Role) -> Credentials {
    issued(ca, ca, role, now())
}

/// Answers `echo` with what came, `hold` when a permit is there, `hang` never, `notify` after a notice.
struct TestService {
    permits: Semaphore,
    counts: Mutex<Counts>,
    levels: Levels,
    ended: mpsc::UnboundedSender<Identity>,
}

#[derive(Default)]
struct Counts {
    held: usize,
    held_max: usize,
}

impl Service for TestService {
    async fn call(self: Arc<Self>, caller: Arc<Caller>, header: Vec<u8>, payload: Bytes) -> Answer {
        assert_eq!(payload.as_ptr().align_offset(4096) * payload.len().min(1), 0, "aligned");
        match header.as_slice() {
            b"hold" => self.hold().await,
            b"panic" => panic!("on purpose"),
            b"hang" => std::future::pending().await,
            b"notify" => caller.notify(b"noticed".to_vec()),
            _ => {}
        }
        let middle = payload.len() / 2;
        Answer { header, payload: vec![payload.slice(..middle), payload.slice(middle..)] }
    }

    async fn guest_call(self: Arc<Self>, guest: Arc<Guest>, header: Vec<u8>) -> Option<Answer> {
        let who = guest.identity.as_ref().map_or("nobody", |identity| &identity.name);
        let header = [who.as_bytes(), b" says ", &header].concat();
        Some(Answer { header, payload: Vec::new() })
    }

    fn levels(&self, _: Option<Role>) -> Levels {
        self.levels
    }

    fn closed(&self, caller: &Caller) {
        drop(self.ended.send(caller.identity.clone()));
    }
}

impl TestService {
    async fn hold(&self) {
        {
            let mut counts = self.counts.lock();
            counts.held += 1;
            counts.held_max = counts.held_max.max(counts.held);
        }
        let permit = self.permits.acquire().await.expect("never closed");
        self.counts.lock().held -= 1;
        permit.forget();
    }
}

/// A listener that is being served.
struct Served {
    address: SocketAddr,
    service: Arc<TestService>,
    ended: mpsc::UnboundedReceiver<Identity>,
    shutdown: watch::Sender<bool>,
    task: JoinHandle<io::Result<()>>,
}

impl Served {
    fn start(credentials: Credentials, incarnation: u32) -> Self {
        Self::speaking(Levels::OURS, credentials, incarnation)
    }

    fn speaking(levels: Levels, credentials: Credentials, incarnation: u32) -> Self {
        let listener = Listener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_address();
        let (shutdown, requested) = watch::channel(false);
        let (sender, ended) = mpsc::unbounded_channel();
        let service = Arc::new(TestService {
            permits: Semaphore::new(0),
            counts: Mutex::default(),
            levels,
            ended: sender,
        });
        let incarnation = Incarnation(incarnation);
        let serving = listener.serve(credentials, incarnation, Arc::clone(&service), requested);
        Self { address, service, ended, shutdown, task: tokio::spawn(serving) }
    }

    async fn connect(&self, credentials: &Credentials) -> Connection {
        let opened = open(self.address, credentials, Role::Monitor).await;
        opened.expect("a connection")
    }
}

async fn open(
    address: SocketAddr,
    credentials: &Credentials,
    expect: Role,
) -> Result<Connection, ConnectError> {
    let address = address.to_string();
    let opened = Connection::open(&address, credentials, expect, Incarnation(0), LONG).await;
    opened.map(|(connection, _)| connection)
}

async fn echo(connection: &Connection, payload: Vec<Bytes>) -> Result<Bytes, CallError> {
    let answered = connection.call(b"echo".to_vec(), payload, LONG).await;
    answered.map(|(header, payload)| {
        assert_eq!(header, b"echo");
        payload
    })
}

#[tokio::test]
async fn a_call_that_panics_closes_its_connection_and_nothing_else() {
    let ca = authority(1);
    let served = Served::start(member(&ca, Role::Monitor), 1);
    let client = member(&ca, Role::Client);
    let (one, other) = (served.connect(&client).await, served.connect(&client).await);
    let panicked = one.call(b"panic".to_vec(), Vec::new(), LONG).await;
    assert_eq!(panicked.expect_err("no answer"), CallError::Closed);
    echo(&other, Vec::new()).await.expect("answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_at_once_get_their_own_answers() {
    let seed = 20_261_123;
    let random = SeededRandom::new(seed);
    let ca = authority(1);
    let served = Served::start(member(&ca, Role::Monitor), 1);
    let client = member(&ca, Role::Client);
    let connections = [served.connect(&client).await, served.connect(&client).await];
    let mut calls = JoinSet::new();
    for number in 0..200 {
        let connection = connections[number % 2].clone();
        let max = [1, 100, 5_000, 40_000, 3 << 20][number % 5];
        let mut payload = vec![0; usize::try_from(random.u64() % max).expect("short")];
        random.fill(&mut payload);
        let payload = Bytes::from(payload);
        let cut = payload.len() / 3;
        calls.spawn(async move {
            let parts = vec![payload.slice(..cut), Bytes::new(), payload.slice(cut..)];
            let echoed = echo(&connection, parts).await.expect("answered");
            assert!(echoed == payload, "call {number} of seed {seed}");
            assert_eq!(echoed.as_ptr().align_offset(4096) * echoed.len().min(1), 0, "aligned");
        });
    }
    while let Some(call) = calls.join_next().await {
        call.expect("no panic");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_in_any_order_and_the_longest_payload_passes() {
    let ca = authority(1);
    let served = Served::start(member(&ca, Role::Monitor), 1);
    let connection = served.connect(&member(&ca, Role::Client)).await;
    let held = connection.clone();
    let held = tokio::spawn(async move { held.call(b"hold".to_vec(), vec![], LONG).await });

    let longest = Bytes::from(vec![9; FRAME_PAYLOAD_MAX as usize]);
    let echoed = echo(&connection, vec![longest.clone()]).await.expect("answered");
    assert!(echoed == longest);

    served.service.permits.add_permits(1);
    let (header, payload) = held.await.expect("no panic").expect("answered");
    assert_eq!((header.as_slice(), payload.len()), (b"hold".as_slice(), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notices_and_incarnations_reach_the_connecting_end() {
    let ca = authority(1);
    let mut served = Served::start(member(&ca, Role::Monitor), 5);
    let client = member(&ca, Role::Client);
    let address = served.address.to_string();
    let opened = Connection::open(&address, &client, Role::Monitor, Incarnation(5), LONG).await;
    let (connection, mut notices) = opened.expect("a connection");
    assert_eq!(connection.incarnation(), Incarnation(5));
    let answered = connection.call(b"notify".to_vec(), vec![], LONG).await;
    answered.expect("answered");
    assert_eq!(notices.recv().await.as_deref(), Some(b"noticed".as_slice()));
    drop(connection);
    assert_eq!(notices.recv().await, None, "they end with the connection");
    assert_eq!(served.ended.recv().await.as_ref(), Some(client.identity()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_given_up_leaves_nothing_behind() {
    let ca = authority(1);
    let served = Served::start(member(&ca, Role::Monitor), 1);
    let connection = served.connect(&member(&ca, Role::Client)).await;
    let call = connection.call(b"hang".to_vec(), vec![], SHORT);
    assert_eq!(call.await.expect_err("never answered"), CallError::Timeout);
    let held = connection.call(b"hold".to_vec(), vec![], LONG);
    tokio::time::timeout(SHORT, held).await.expect_err("dropped while it waits");
    assert_eq!(connection.calls_pending(), 0);
    served.service.permits.add_permits(1);
    echo(&connection, vec![]).await.expect("a late answer harms nobody");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_an_end_that_says_nothing_at_all_to_somebody_who_waits() {
    let ca = authority(1);
    let served = Served::start(member(&ca, Role::Monitor), 1);
    let client = member(&ca, Role::Client);
    let (slow, dead) = (served.connect(&client).await, served.connect(&client).await);
    let idle = served.connect(&client).await;
    let (wait, no_answer) = (b"hang".to_vec(), LONG);
    let waiting = [&slow, &dead].map(|connection| {
        let (connection, wait) = (connection.clone(), wait.clone());
        tokio::spawn(async move { connection.call(wait, Vec::new(), no_answer).await })
    });
    tokio::select! {
        () = dead.fell_silent(b"hang") => {}
        () = slow.fell_silent(b"echo") => panic!("it answers other calls"),
        () = idle.fell_silent(b"hang") => panic!("nobody waits for an answer of it"),
        () = tokio::time::sleep(LONG / 2) => panic!("it was not noticed"),
    }
    served.shutdown.send_replace(true);
    tokio::time::timeout(LONG / 2, idle.fell_silent(b"hang")).await.expect("it is closed");
    for call in waiting {
        assert_eq!(call.await.expect("no panic"), Err(CallError::Closed));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_other_end_goes_all_calls_fail_at_once() {
    let ca = authority(1);
    let served = Served::start(member(&ca, Role::Monitor), 1);
    let connection = served.connect(&member(&ca, Role::Client)).await;
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let connection = connection.clone();
            tokio::spawn(async move { connection.call(b"hang".to_vec(), vec![], LONG).await })
        })
        .collect();
    echo(&connection, vec![]).await.expect("up to here it works");
    served.shutdown.send_replace(true);
    served.task.await.expect("no panic").expect("served");
    for call in calls {
        assert_eq!(call.await.expect("no panic"), Err(CallError::Closed));
    }
    connection.closed().await;
    assert_eq!(echo(&connection, vec![]).await, Err(CallError::Closed));
    let gone = open(served.address, &member(&ca, Role::Client), Role::Monitor).await;
    assert!(matches!(gone.err(), Some(ConnectError::Refused { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_takes_in_no_more_calls_than_its_credit() {
    let ca = authority(1);
    let served = Served::start(member(&ca, Role::Monitor), 1);
    let connection = served.connect(&member(&ca, Role::Client)).await;
    let payload = Bytes::from(vec![1; 8 << 20]);
    let fit = IN_FLIGHT_BYTES / (payload.len() + b"hold".len());
    let mut calls = JoinSet::new();
    for _ in 0..2 * fit {
        let (connection, payload) = (connection.clone(), payload.clone());
        calls.spawn(async move { connection.call(b"hold".to_vec(), vec![payload], LONG).await });
    }
    served.service.permits.add_permits(1);
    while let Some(call) = calls.join_next().await {
        let (_, echoed) = call.expect("no panic").expect("answered");
        assert_eq!(echoed.len(), payload.len());
        served.service.permits.add_permits(1);
    }
    assert!(served.service.counts.lock().held_max <= fit);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_read_costs_time_but_no_memory() {
    let ca = authority(1);
    let (address, _stalled) = fake(
        member(&ca, Role::Server),
        Welcome::Accepted { level: 1, incarnation: Incarnation(1) },
    )
    .await;
    let connection =
        open(address, &member(&ca, Role::Client), Role::Server).await.expect("a connection");
    let memory = Arc::new(vec![1; 8 << 20]);
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let connection = connection.clone();
            let payload = Bytes::from_owner(Payload(Arc::clone(&memory)));
            tokio::spawn(
                async move { connection.call(b"put".to_vec(), vec![payload], SHORT).await },
            )
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.expect("no panic"), Err(CallError::Timeout));
    }
    assert_eq!(connection.calls_pending(), 0);
    // Ours, and at most the one of which a part is sent.
    assert!(Arc::strong_count(&memory) <= 2);
}

struct Payload(Arc<Vec<u8>>);

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

async fn tls_connect(credentials: &Credentials, address: SocketAddr) -> Stream {
    let tcp = TcpStream::connect(address).await.expect("connected");
    let connector = TlsConnector::from(credentials.client_config());
    let name = Role::Monitor.server_name(credentials.identity().cluster);
    let tls = connector.connect(name, buffered(tcp)).await.expect("TLS");
    TlsStream::Client(tls)
}

/// An accepting end that welcomes one connection as told, and then does not read from it.
async fn fake(credentials: Credentials, welcome: Welcome) -> (SocketAddr, JoinHandle<Stream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let task = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.expect("accepted");
        let acceptor = TlsAcceptor::from(credentials.server_config());
        let tls = acceptor.accept(buffered(tcp)).await.expect("TLS");
        let mut stream = TlsStream::Server(tls);
        let _hello: Hello = hello::receive(&mut stream, Kind::Request).await.expect("hello");
        hello::send(&mut stream, Kind::Response, &welcome).await.expect("sent");
        stream
    });
    (address, task)
}
