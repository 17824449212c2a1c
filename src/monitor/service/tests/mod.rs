//! A whole monitor over loopback, with small clients that say what the test wants.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

mod crowds;
mod doors;
mod expulsion;
mod locks;
mod owners;
mod reigns;
mod tickets;
mod trust;

use super::*;
use crate::crypto::{Authority, Role};
use crate::env::clock::{Clock, SystemClock};
use crate::env::system::rpc::Connection;
use crate::types::{
    Codec, DataVersion, Epoch, Errno, FileKind, Ino, Program, ServerId, SessionId, ShardHash,
    ShardPlace, Slot, SlotSeq, StripeId, StripePiece, StripeRecord, Timestamp,
};
use crate::wire::admin;
use crate::wire::leases::{Aftermath, GiveBack};
use crate::wire::metadata::{
    Answer, Attach, ClientInfo, Commit, CommitPiece, Create, Mutation, Notice, Op, PieceOutcome,
    Query, Removed, Reply, Request, Response, XattrMode,
};
use crate::wire::servers::{Register, Usage};
use crate::wire::{decode, encode};

const LONG: Duration = Duration::from_secs(30);
const CLUSTER: ClusterId = ClusterId(0xabc);
const WIDTH: Width = Width { data: 1, parity: 1 };
const MIB: usize = 1 << 20;

fn now() -> Timestamp {
    SystemClock::new().now()
}

/// A cluster: its certificates, and the directory of its monitor.
struct Cluster {
    authority: Authority,
    dir: tempfile::TempDir,
}

impl Cluster {
    fn new() -> Self {
        let authority = Authority::create(CLUSTER, now()).unwrap();
        Self { authority, dir: tempfile::tempdir().unwrap() }
    }

    fn credentials(&self, role: Role, name: &str) -> Credentials {
        let issued = self.authority.issue(role, name, now()).unwrap();
        let ca = self.authority.cert_pem();
        Credentials::from_pem(ca, &issued.cert_pem, &issued.key_pem).unwrap()
    }

    async fn start(&self) -> Running {
        self.start_in(self.dir.path()).await
    }

    async fn start_in(&self, dir: &Path) -> Running {
        self.start_with(dir, self.credentials(Role::Monitor, "one")).await
    }

    async fn start_as(&self, credentials: Credentials) -> Running {
        self.start_with(self.dir.path(), credentials).await
    }

    async fn start_with(&self, dir: &Path, credentials: Credentials) -> Running {
        let (incarnation, min_copies) = (Incarnation(1), 2);
        let config = Config {
            dir: dir.to_owned(),
            listen: "127.0.0.1:0".to_owned(),
            id: None,
            monitors: Vec::new(),
            agent: None,
            start: 0,
            replace_after: None,
            hold_level: None,
            credentials,
            bootstrap: Some(Bootstrap { cluster: CLUSTER, incarnation, width: WIDTH, min_copies }),
            remember: Box::new(|_| Ok(())),
        };
        let (tell, told) = oneshot::channel();
        let (shutdown, stop) = watch::channel(false);
        let ready = move |address| tell.send(address).unwrap();
        let task = tokio::spawn(run(config, ready, stop));
        Running { address: told.await.unwrap(), shutdown, task }
    }
}

struct Running {
    address: SocketAddr,
    shutdown: watch::Sender<bool>,
    task: JoinHandle<Result<(), RunError>>,
}

impl Running {
    async fn stop(self) {
        self.shutdown.send_replace(true);
        self.task.await.unwrap().unwrap();
    }
}

/// One connection.
struct Peer {
    connection: Connection,
    notices: mpsc::UnboundedReceiver<Vec<u8>>,
}

impl Peer {
    async fn connect(cluster: &Cluster, at: &Running, role: Role, name: &str) -> Self {
        Self::connect_as(&cluster.credentials(role, name), at).await
    }

    async fn connect_as(credentials: &Credentials, at: &Running) -> Self {
        let (address, any) = (at.address.to_string(), Incarnation(0));
        let opened = Connection::open(&address, credentials, Role::Monitor, any, LONG).await;
        let (connection, notices) = opened.unwrap();
        Self { connection, notices }
    }

    async fn call(&self, request: &Request) -> Response {
        ask(self.connection.clone(), encode(request)).await
    }

    /// What a monitor says unasked, but for who leads and where all of them are.
    async fn noticed(&mut self) -> Vec<u8> {
        loop {
            let notice = tokio::time::timeout(LONG, self.notices.recv()).await.unwrap().unwrap();
            if !matches!(decode(&notice).unwrap(), Notice::Leader { .. } | Notice::Monitors(_)) {
                return notice;
            }
        }
    }

    async fn recalled(&mut self) -> Vec<Ino> {
        let notice = self.noticed().await;
        match decode(&notice).unwrap() {
            Notice::Recall(inos) => inos,
            other => panic!("{other:?}"),
        }
    }
}

async fn ask(connection: Connection, header: Vec<u8>) -> Response {
    let (answer, _) = connection.call(header, Vec::new(), LONG).await.expect("an answer");
    decode(&answer).unwrap()
}

/// A client with a session.
struct Client {
    peer: Peer,
    session: SessionId,
    sent: u64,
    inodes: std::ops::Range<u64>,
    stripes: std::ops::Range<u64>,
}

impl Client {
    async fn open(cluster: &Cluster, at: &Running) -> Self {
        Self::open_as(&cluster.credentials(Role::Client, "mount"), at).await
    }

    async fn open_as(credentials: &Credentials, at: &Running) -> Self {
        let peer = Peer::connect_as(credentials, at).await;
        let Response::Session(opened) = peer
            .call(&Request::OpenSession { client: client_info(), nonce: SystemRandom.u128() })
            .await
        else {
            panic!("no session");
        };
        let mut client =
            Self { peer, session: opened.session, sent: 0, inodes: 0..0, stripes: 0..0 };
        client.inodes = client.lease(Op::LeaseInodes).await;
        client.stripes = client.lease(Op::LeaseStripes { done_below: StripeId(0) }).await;
        client
    }

    async fn lease(&mut self, op: Op) -> std::ops::Range<u64> {
        let Ok(Reply::Range { first, count }) = self.mutate(op).await else { panic!("no range") };
        first..first + count
    }

    /// Each in the next slot.
    fn request(&mut self, ops: Vec<Op>) -> Request {
        let mut mutation = |op| {
            let (round, slot) = (self.sent / 256, self.sent % 256);
            self.sent += 1;
            Mutation { slot: Slot(slot as u16), seq: SlotSeq(round + 1), op }
        };
        let mutations = ops.into_iter().map(&mut mutation).collect();
        Request::Mutate { session: self.session, mutations }
    }

    async fn mutate_all(&mut self, ops: Vec<Op>) -> Vec<Result<Reply, Errno>> {
        let request = self.request(ops);
        match self.peer.call(&request).await {
            Response::Mutated(replies, after) => {
                self.believe_nothing(after).await;
                replies
            }
            other => panic!("{other:?}"),
        }
    }

    /// Whoever changes one of these later need not ask for the lease.
    async fn believe_nothing(&self, after: Aftermath) {
        let Aftermath { attrs, leased } = after;
        if !attrs.is_empty() {
            let leases = attrs.iter().map(|attr| (attr.ino, leased.stamp)).collect();
            let back = GiveBack { session: self.session, leases, pins: Vec::new() };
            assert_eq!(self.peer.call(&Request::GiveBack(back)).await, Response::Done);
        }
    }

    async fn mutate(&mut self, op: Op) -> Result<Reply, Errno> {
        self.mutate_all(vec![op]).await.remove(0)
    }

    async fn create(&mut self, name: &[u8]) -> Ino {
        let ino = Ino(self.inodes.next().unwrap());
        self.mutate(create(ino, Ino::ROOT, name)).await.unwrap();
        ino
    }

    async fn ask(&self, query: Query) -> Result<Answer, Errno> {
        let request = Request::Query { session: self.session, queries: vec![query] };
        match self.peer.call(&request).await {
            Response::Answers(mut answers, _) => answers.remove(0),
            other => panic!("{other:?}"),
        }
    }

    /// Asks and does not wait.
    fn begin(&self, request: &Request) -> JoinHandle<Response> {
        tokio::spawn(ask(self.peer.connection.clone(), encode(request)))
    }

    fn attr(&self, ino: Ino) -> Request {
        Request::Query { session: self.session, queries: vec![Query::Attr { ino }] }
    }

    async fn reattach(
        &mut self,
        cluster: &Cluster,
        at: &Running,
        pins: Vec<(Ino, u64)>,
    ) -> Response {
        self.peer = Peer::connect(cluster, at, Role::Client, "mount").await;
        let attach = Attach { session: self.session, pins, more: false };
        self.peer.call(&Request::Attach(attach)).await
    }
}

fn client_info() -> ClientInfo {
    ClientInfo {
        node: "node".to_owned(),
        boot: "boot".to_owned(),
        run_lock: "/run/lock".to_owned(),
        host: "host".to_owned(),
        mountpoint: "/mnt".to_owned(),
        pid: 7,
        program: Program::this(),
    }
}

fn create(ino: Ino, parent: Ino, name: &[u8]) -> Op {
    Op::Create(Create {
        parent,
        name: name.to_vec(),
        ino,
        kind: FileKind::Regular,
        mode: 0o644,
        uid: 0,
        gid: 0,
        umask: 0,
        rdev: 0,
        target: Vec::new(),
        open: true,
    })
}

/// Whether the answer to one removal is that the file has no name left, and nobody else has it open.
fn is_last_name_of(file: Ino, replies: &[Result<Reply, Errno>]) -> bool {
    let [Ok(Reply::Removed(Removed { attr, open_elsewhere: false }))] = replies else {
        return false;
    };
    (attr.ino, attr.nlink) == (file, 0)
}

fn unlink(name: &[u8]) -> Op {
    Op::Unlink { parent: Ino::ROOT, name: name.to_vec() }
}

/// Two servers; commits may name them.
async fn servers(cluster: &Cluster, at: &Running) -> Vec<(Peer, ServerId, Epoch)> {
    let mut servers = Vec::new();
    for name in ["a", "b"] {
        let peer = Peer::connect(cluster, at, Role::Server, name).await;
        let register = Register {
            address: "127.0.0.1:1".to_owned(),
            domain: name.to_owned(),
            node: "node".to_owned(),
            pid: 1,
            instance: 1,
            dir: format!("/{name}"),
            usage: Usage { used_bytes: 0, capacity_bytes: 1 << 40 },
            program: Program::this(),
        };
        let Response::Registered(done) = peer.call(&Request::Register(register)).await else {
            panic!("not registered");
        };
        servers.push((peer, done.server, done.epoch));
    }
    servers
}

fn commit(servers: &[(Peer, ServerId, Epoch)], stripe: StripeId, ino: Ino) -> Op {
    let place = |(_, server, _): &(Peer, ServerId, Epoch)| ShardPlace {
        server: *server,
        hash: ShardHash::default(),
    };
    let shards = servers.iter().map(place).collect();
    let piece = StripePiece { ino, file_offset: 0, stripe_offset: 0, length: 4096 };
    Op::Commit(Commit {
        stripe: StripeRecord {
            id: stripe,
            width: WIDTH,
            codec: Codec::ReedSolomon,
            length: 4096,
            shards,
        },
        epochs: servers.iter().map(|(_, _, epoch)| *epoch).collect(),
        pieces: vec![CommitPiece { piece, mtime: None, md5: None, release: false }],
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_one_request_are_done_in_their_order() {
    let cluster = Cluster::new();
    let monitor = cluster.start().await;
    let servers = servers(&cluster, &monitor).await;
    let mut client = Client::open(&cluster, &monitor).await;
    let file = client.create(b"file").await;
    for _ in 0..20 {
        // The same bytes, written ten times: what was written last must win. Then the grant is given back.
        let stripes: Vec<StripeId> = client.stripes.by_ref().take(10).map(StripeId).collect();
        let mut ops: Vec<Op> = stripes.iter().map(|id| commit(&servers, *id, file)).collect();
        ops.push(Op::Release { ino: file });
        ops.push(Op::Acquire { ino: file });
        let replies = client.mutate_all(ops).await;
        let mut last = DataVersion(0);
        for reply in &replies[..10] {
            let Ok(Reply::Committed(pieces)) = reply else { panic!("{reply:?}") };
            let [PieceOutcome::Accepted { dv, .. }] = pieces[..] else { panic!("{pieces:?}") };
            assert!(dv > last, "{dv:?} after {last:?}");
            last = dv;
        }
        assert_eq!(replies[10], Ok(Reply::Done));
        assert!(replies[11].is_ok());
        let map = Query::Map { ino: file, offset: 0, length: 4096, known: None };
        let Ok(Answer::Map(map)) = client.ask(map).await else { panic!("no map") };
        assert_eq!(map.extents.unwrap().extents[0].stripe, *stripes.last().unwrap());
    }
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_overtakes_a_truncate_that_takes_several_commands() {
    let cluster = Cluster::new();
    let monitor = cluster.start().await;
    let servers = servers(&cluster, &monitor).await;
    let mut client = Client::open(&cluster, &monitor).await;
    let file = client.create(b"file").await;
    // More extents than one command cuts: every other block of two stripes.
    for part in 0..2u64 {
        let id = StripeId(client.stripes.next().unwrap());
        let Op::Commit(mut many) = commit(&servers, id, file) else { panic!("a commit") };
        let one = many.pieces[0];
        many.pieces = (0..900)
            .map(|at: u32| {
                let file_offset = (part * 900 + u64::from(at)) * 8192;
                let stripe_offset = at * 4096;
                CommitPiece {
                    piece: StripePiece { file_offset, stripe_offset, ..one.piece },
                    ..one
                }
            })
            .collect();
        many.stripe.length = 900 * 4096;
        client.mutate(Op::Commit(many)).await.unwrap();
    }
    let truncate = Op::Truncate { ino: file, size: 0, mtime: None };
    let replies = client.mutate_all(vec![truncate, Op::Release { ino: file }]).await;
    let Ok(Reply::Inode(attr)) = &replies[0] else { panic!("{replies:?}") };
    assert_eq!(attr.size, 0);
    assert_eq!(replies[1], Ok(Reply::Done));
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_too_long_for_the_store_are_refused_and_stop_nobody() {
    let cluster = Cluster::new();
    let monitor = cluster.start().await;
    let mut client = Client::open(&cluster, &monitor).await;
    let file = client.create(b"file").await;
    let long = vec![b'n'; 70_000];
    let ops = vec![
        unlink(&long),
        create(Ino(client.inodes.next().unwrap()), Ino::ROOT, &long),
        Op::Link { ino: file, parent: Ino::ROOT, name: long.clone() },
        Op::Rmdir { parent: Ino::ROOT, name: long.clone() },
        Op::RemoveXattr { ino: file, name: long.clone() },
        Op::SetXattr {
            ino: file,
            name: long.clone(),
            value: Vec::new(),
            mode: XattrMode::Set,
            takes_setgid: false,
        },
    ];
    for reply in client.mutate_all(ops).await {
        assert!(reply.is_err(), "{reply:?}");
    }
    let query = Query::Lookup { parent: Ino::ROOT, name: long.clone() };
    assert_eq!(client.ask(query).await, Err(Errno::NameTooLong));
    let query = Query::GetXattr { ino: file, name: long };
    assert_eq!(client.ask(query).await, Err(Errno::NoAttribute));
    client.create(b"another").await;
    monitor.stop().await;
    cluster.start().await.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_long_for_the_log_is_refused_and_stops_nobody() {
    let cluster = Cluster::new();
    let monitor = cluster.start().await;
    let mut client = Client::open(&cluster, &monitor).await;
    let file = client.create(b"file").await;
    let limit = crate::types::limits::FRAME_HEADER_MAX as usize;
    for spare in [200, 80, 70, MIB] {
        let value = vec![0; limit - spare];
        let op = Op::SetXattr {
            ino: file,
            name: b"user.a".to_vec(),
            value,
            mode: XattrMode::Set,
            takes_setgid: false,
        };
        let request = client.request(vec![op]);
        let Some(header) = crate::wire::try_encode(&request) else { continue };
        let answer = ask(client.peer.connection.clone(), header).await;
        assert!(
            matches!(answer, Response::Refused(Refusal::Malformed(_)))
                || matches!(&answer, Response::Mutated(no, _) if no == &[Err(Errno::TooBig)]),
            "{answer:?}"
        );
    }
    client.create(b"another").await;
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_too_long_is_refused_instead_of_never_coming() {
    let cluster = Cluster::new();
    let monitor = cluster.start().await;
    let mut client = Client::open(&cluster, &monitor).await;
    let (ino, name) = (client.create(b"file").await, b"user.a".to_vec());
    let value = vec![7; crate::types::limits::XATTR_VALUE_MAX];
    let set =
        Op::SetXattr { ino, name: name.clone(), value, mode: XattrMode::Set, takes_setgid: false };
    client.mutate(set).await.unwrap();
    let queries = vec![Query::GetXattr { ino, name }; 100];
    let request = Request::Query { session: client.session, queries };
    let answer = client.peer.call(&request).await;
    assert!(matches!(answer, Response::Refused(Refusal::Malformed(_))), "{answer:?}");
    let paths = Request::Admin(admin::Request::Paths(vec![ino; 500_000]));
    let answer = client.peer.call(&paths).await;
    assert!(matches!(answer, Response::Refused(Refusal::Malformed(_))), "{answer:?}");
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_waits_for_the_writer_to_release() {
    let cluster = Cluster::new();
    let monitor = cluster.start().await;
    let mut writer = Client::open(&cluster, &monitor).await;
    let reader = Client::open(&cluster, &monitor).await;
    let file = writer.create(b"file").await;
    let answer = reader.begin(&reader.attr(file));
    assert_eq!(writer.peer.recalled().await, [file]);
    assert!(!answer.is_finished());
    writer.mutate(Op::Release { ino: file }).await.unwrap();
    let Response::Answers(answers, _) = answer.await.unwrap() else { panic!("no answer") };
    assert!(matches!(answers[..], [Ok(Answer::Attr(_))]));
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_is_not_blamed_for_what_its_successor_holds() {
    let cluster = Cluster::new();
    let monitor = cluster.start().await;
    let mut first = Client::open(&cluster, &monitor).await;
    let mut second = Client::open(&cluster, &monitor).await;
    let reader = Client::open(&cluster, &monitor).await;
    let file = first.create(b"file").await;
    // The second comes to wait for the first, and the reader for whoever holds it.
    let acquire = second.request(vec![Op::Acquire { ino: file }]);
    let acquired = second.begin(&acquire);
    assert_eq!(first.peer.recalled().await, [file]);
    let answer = reader.begin(&reader.attr(file));
    first.mutate(Op::Release { ino: file }).await.unwrap();
    acquired.await.unwrap();
    if !answer.is_finished() {
        // Recalled from the second now; the first does nothing, alive, for longer than a recall may take.
        let until = tokio::time::Instant::now() + sessions::RECALL + Duration::from_secs(2);
        while tokio::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_secs(1)).await;
            for client in [&first, &reader] {
                let renew = crate::wire::metadata::Renew {
                    session: client.session,
                    placement_version: 0,
                    stalled: Vec::new(),
                    tickets: false,
                };
                let renewed = client.peer.call(&Request::Renew(renew)).await;
                let Response::Renewed(renewed) = renewed else { panic!("{renewed:?}") };
                assert!(renewed.prolonged);
            }
        }
    }
    answer.await.unwrap();
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_ends_with_its_connection_and_a_retry_is_done_once() {
    let cluster = Cluster::new();
    let monitor = cluster.start().await;
    let mut writer = Client::open(&cluster, &monitor).await;
    let mut other = Client::open(&cluster, &monitor).await;
    let file = writer.create(b"file").await;
    let remove = other.request(vec![unlink(b"file")]);
    let waiting = other.begin(&remove);
    assert_eq!(writer.peer.recalled().await, [file]);
    other.peer.connection.close();
    assert!(waiting.await.is_err(), "the connection is gone");
    let attached = other.reattach(&cluster, &monitor, Vec::new()).await;
    assert!(matches!(attached, Response::Session(_)), "{attached:?}");
    let again = other.begin(&remove);
    writer.mutate(Op::Release { ino: file }).await.unwrap();
    let Response::Mutated(replies, _) = again.await.unwrap() else { panic!("no reply") };
    let [Ok(Reply::Removed(removed))] = &replies[..] else { panic!("{replies:?}") };
    assert_eq!((removed.attr.ino, removed.attr.nlink), (file, 0));
    assert!(removed.open_elsewhere);
    let Response::Mutated(same, _) = other.peer.call(&remove).await else { panic!("no reply") };
    assert_eq!(same, replies);
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_created_and_open_outlives_its_name() {
    let cluster = Cluster::new();
    let monitor = cluster.start().await;
    let mut client = Client::open(&cluster, &monitor).await;
    let file = client.create(b"file").await;
    client.mutate(unlink(b"file")).await.unwrap();
    let Ok(Answer::Attr(attr)) = client.ask(Query::Attr { ino: file }).await else {
        panic!("it is open and gone");
    };
    assert_eq!(attr.nlink, 0);
    let unpin = Request::Unpin { session: client.session, pins: vec![(file, 1)] };
    assert_eq!(client.peer.call(&unpin).await, Response::Done);
    assert_eq!(client.ask(Query::Attr { ino: file }).await, Err(Errno::Stale));
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_removals_wait_until_everybody_is_back() {
    let cluster = Cluster::new();
    let monitor = cluster.start().await;
    let mut holder = Client::open(&cluster, &monitor).await;
    let mut other = Client::open(&cluster, &monitor).await;
    let file = holder.create(b"file").await;
    holder.mutate(Op::Release { ino: file }).await.unwrap();
    let Response::Session(before) = other.reattach(&cluster, &monitor, Vec::new()).await else {
        panic!("not attached");
    };
    monitor.stop().await;

    let monitor = cluster.start().await;
    let Response::Session(after) = other.reattach(&cluster, &monitor, Vec::new()).await else {
        panic!("not attached");
    };
    assert!(after.placement.version > before.placement.version);
    let removal = other.request(vec![unlink(b"file")]);
    let removed = other.begin(&removal);
    // It is in work before the one behind it is answered.
    other.ask(Query::Space { ino: Ino::ROOT }).await.unwrap();
    assert!(!removed.is_finished());
    holder.reattach(&cluster, &monitor, vec![(file, 1)]).await;
    removed.await.unwrap();
    assert!(holder.ask(Query::Attr { ino: file }).await.is_ok(), "it is open");

    // The leader dies again, and the holder closes the file: whether or not the leader before knew.
    monitor.stop().await;
    let monitor = cluster.start().await;
    holder.reattach(&cluster, &monitor, Vec::new()).await;
    let unpin = Request::Unpin { session: holder.session, pins: vec![(file, 1)] };
    assert_eq!(holder.peer.call(&unpin).await, Response::Done);
    assert_eq!(holder.ask(Query::Attr { ino: file }).await, Err(Errno::Stale));
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_a_client_that_does_not_return_holds_others_up_no_longer_than_a_lease() {
    let cluster = Cluster::new();
    let monitor = cluster.start().await;
    let mut dead = Client::open(&cluster, &monitor).await;
    let mut other = Client::open(&cluster, &monitor).await;
    let file = dead.create(b"file").await;
    monitor.stop().await;

    let monitor = cluster.start().await;
    let started = tokio::time::Instant::now();
    other.reattach(&cluster, &monitor, Vec::new()).await;
    let removal = other.request(vec![unlink(b"file")]);
    let removed = other.begin(&removal);
    let renewing = async {
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let renew = crate::wire::metadata::Renew {
                session: other.session,
                placement_version: 0,
                stalled: Vec::new(),
                tickets: false,
            };
            other.peer.call(&Request::Renew(renew)).await;
        }
    };
    let removed = tokio::select! {
        removed = removed => removed.unwrap(),
        () = renewing => unreachable!(),
    };
    let Response::Mutated(replies, _) = removed else { panic!("no reply: {removed:?}") };
    assert!(is_last_name_of(file, &replies), "{replies:?}");
    let took = started.elapsed();
    assert!(
        took > sessions::LEASE && took < sessions::EVICTION + Duration::from_secs(5),
        "{took:?}"
    );
    monitor.stop().await;
}
