//! Tests of the namespace: a small world to act in, rules one by one, and a model that knows better.

mod attrs;
mod content;
mod fences;
mod formats;
mod level;
mod locks;
mod model;
mod monitors;
mod shadow;
mod tree;
mod trust;
mod volumes;

use super::apply;
use super::caps;
use super::check::{Checked, check, state_hash};
use super::command::{Action, Command, Outcome};
use super::command::{Applied, Removal};
use super::query;
use crate::monitor::store::{Read, Store, memory::MemoryStore};
use crate::types::*;
use crate::wire::metadata::*;
use crate::wire::servers::{Register, Usage};
use crate::wire::shards::ShardId;

const BLOCK: u64 = limits::BLOCK as u64;

/// A state, the log that led to it, and clients that act on it.
struct World {
    store: MemoryStore,
    log: Vec<Command>,
    servers: Vec<ServerId>,
    clients: Vec<Client>,
}

struct Client {
    session: SessionId,
    seq: u64,
    inodes: std::ops::Range<u64>,
    stripes: std::ops::Range<u64>,
}

impl World {
    /// A cluster of three servers and as many clients as asked for.
    fn new(clients: usize) -> Self {
        let mut world = Self {
            store: MemoryStore::new(),
            log: Vec::new(),
            servers: Vec::new(),
            clients: Vec::new(),
        };
        world.act(bootstrap());
        for name in ["one", "two", "three"] {
            let server = world.register(name, name);
            world.servers.push(server);
        }
        for _ in 0..clients {
            let client = world.open_session();
            world.clients.push(client);
        }
        world
    }

    fn act(&mut self, action: Action) -> Outcome {
        let command = Command {
            term: 1,
            time: Timestamp { seconds: 1_000 + self.log.len() as i64, nanos: 0 },
            actions: vec![action],
        };
        let mut applied = apply(&self.store, &command).unwrap();
        assert!(applied.batch.len() <= limits::COMMAND_RECORDS_MAX);
        self.store.write(&applied.batch).unwrap();
        self.log.push(command);
        applied.outcomes.remove(0)
    }

    fn register(&mut self, name: &str, domain: &str) -> ServerId {
        let register = Register {
            address: format!("{name}:1"),
            domain: domain.to_owned(),
            node: String::new(),
            pid: 1,
            instance: self.log.len() as u64,
            dir: String::new(),
            usage: Usage { used_bytes: 300, capacity_bytes: 3_000 },
            program: Program::this(),
        };
        // Another each time, as a leader makes it.
        let (name, key) = (name.to_owned(), TicketKey([self.log.len() as u8; 32]));
        match self.act(Action::RegisterServer { name, register, key }) {
            Outcome::Server { server, .. } => server,
            other => panic!("{other:?}"),
        }
    }

    fn open_session(&mut self) -> Client {
        let info = ClientInfo {
            node: String::new(),
            boot: String::new(),
            run_lock: String::new(),
            host: String::new(),
            mountpoint: String::new(),
            pid: 1,
            program: Program::this(),
        };
        let nonce = self.log.len() as u128;
        let owner = "mount".to_owned();
        match self.act(Action::OpenSession { owner, client: info, nonce }) {
            Outcome::Session(session) => Client { session, seq: 0, inodes: 0..0, stripes: 0..0 },
            other => panic!("{other:?}"),
        }
    }

    fn session(&self, client: usize) -> SessionId {
        self.clients[client].session
    }

    /// Proposes an operation once.
    fn propose(&mut self, client: usize, op: Op, pinned_by: &[SessionId]) -> Outcome {
        let Client { session, seq, .. } = self.clients[client];
        let removed = caps::removed_by_op(&self.store, &op).unwrap();
        let removes = removed.map(|ino| Removal { ino, pinned_by: pinned_by.to_vec() });
        let moves = caps::moved_by_op(&self.store, &op).unwrap();
        let mutation = Mutation { slot: Slot(3), seq: SlotSeq(seq + 1), op };
        let outcome = self.act(Action::Mutate { session, mutation, removes, moves });
        if matches!(outcome, Outcome::Mutated(_)) {
            self.clients[client].seq += 1;
        }
        outcome
    }

    /// Proposes an operation until it is done.
    fn op(&mut self, client: usize, op: Op) -> Result<Reply, Errno> {
        loop {
            match self.propose(client, op.clone(), &[]) {
                Outcome::Mutated(reply) => return reply,
                Outcome::Partly => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn inode_number(&mut self, client: usize) -> Ino {
        if self.clients[client].inodes.is_empty() {
            self.clients[client].inodes = range(&self.op(client, Op::LeaseInodes).unwrap());
        }
        Ino(self.clients[client].inodes.next().unwrap())
    }

    fn stripe_id(&mut self, client: usize) -> StripeId {
        if self.clients[client].stripes.is_empty() {
            self.lease_stripes(client, StripeId(0));
        }
        StripeId(self.clients[client].stripes.next().unwrap())
    }

    fn lease_stripes(&mut self, client: usize, done_below: StripeId) {
        let reply = self.op(client, Op::LeaseStripes { done_below });
        self.clients[client].stripes = range(&reply.unwrap());
    }

    fn create(&mut self, client: usize, parent: Ino, name: &str, kind: FileKind) -> Ino {
        let ino = self.inode_number(client);
        let op = create(parent, name, ino, kind);
        attr(self.op(client, op)).ino
    }

    /// A file that the client holds exclusively.
    fn file(&mut self, client: usize, name: &str) -> Ino {
        self.create(client, Ino::ROOT, name, FileKind::Regular)
    }

    fn directory(&mut self, parent: Ino, name: &str) -> Ino {
        self.create(0, parent, name, FileKind::Directory)
    }

    /// A commit of 2+1 with these pieces, at current epochs.
    fn commit(&mut self, client: usize, pieces: &[CommitPiece]) -> Commit {
        let id = self.stripe_id(client);
        let place = |&server| ShardPlace { server, hash: ShardHash([id.0 as u8; 16]) };
        let end = |piece: &CommitPiece| piece.piece.stripe_offset + piece.piece.length;
        let known = query::servers(&self.store).unwrap();
        Commit {
            stripe: StripeRecord {
                id,
                width: Width { data: 2, parity: 1 },
                codec: Codec::ReedSolomon,
                length: pieces.iter().map(end).max().unwrap(),
                shards: self.servers.iter().map(place).collect(),
            },
            epochs: known.into_iter().map(|(_, server)| server.epoch).collect(),
            pieces: pieces.to_vec(),
        }
    }

    fn write(&mut self, client: usize, pieces: &[CommitPiece]) -> (StripeId, Vec<PieceOutcome>) {
        let commit = self.commit(client, pieces);
        let id = commit.stripe.id;
        match self.op(client, Op::Commit(commit)) {
            Ok(Reply::Committed(outcomes)) => (id, outcomes),
            other => panic!("{other:?}"),
        }
    }

    fn ask(&self, query: &Query) -> Result<Answer, Errno> {
        query::answer(&self.store, query).unwrap()
    }

    fn stat(&self, ino: Ino) -> Attr {
        match self.ask(&Query::Attr { ino }) {
            Ok(Answer::Attr(attr)) => attr,
            other => panic!("{other:?}"),
        }
    }

    /// All extents as (offset, length, stripe, offset in it).
    fn map(&self, ino: Ino) -> Vec<(u64, u32, StripeId, u32)> {
        let slice = query::map_of(&self.store, ino, 0).unwrap().unwrap();
        let extents = slice.extents.unwrap();
        assert_eq!(extents.to, u64::MAX);
        extents.extents.iter().map(|e| (e.offset, e.length, e.stripe, e.stripe_offset)).collect()
    }

    fn live_stripes(&self) -> Vec<StripeId> {
        let (stripes, end) = query::live_stripes(&self.store, StripeId(0), 10_000).unwrap();
        assert!(end);
        stripes.into_iter().map(|(stripe, _)| stripe.id).collect()
    }

    /// Lets every server report all its dead shards as gone.
    fn reap(&mut self) {
        for server in self.servers.clone() {
            let shards = self.reap_list(server);
            self.act(Action::Reaped { server, shards });
        }
    }

    fn reap_list(&self, server: ServerId) -> Vec<ShardId> {
        query::reap_list(&self.store, server, None, 10_000).unwrap()
    }

    /// Every invariant holds.
    fn verify(&self) {
        let checked = check(&self.store, &[], u64::MAX).unwrap();
        assert_eq!(checked.problems, Vec::<String>::new());
        assert_eq!(checked.cursor, None);
    }

    /// Everything but the bookkeeping.
    fn pairs(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let all = self.store.scan(b"A", b"[");
        all.collect::<Result<_, _>>().unwrap()
    }
}

fn bootstrap() -> Action {
    Action::Bootstrap {
        cluster: ClusterId(7),
        incarnation: Incarnation(1),
        width: Width { data: 2, parity: 1 },
        min_copies: 2,
    }
}

fn create(parent: Ino, name: &str, ino: Ino, kind: FileKind) -> Op {
    Op::Create(Create {
        parent,
        name: name.into(),
        ino,
        kind,
        mode: 0o644,
        uid: 1,
        gid: 2,
        umask: 0,
        rdev: 0,
        target: match kind {
            FileKind::Symlink => b"target".to_vec(),
            _ => Vec::new(),
        },
        open: kind == FileKind::Regular,
    })
}

fn nameless(parent: Ino, ino: Ino, linkable: bool) -> Op {
    Op::TmpFile(TmpFile { parent, ino, mode: 0o600, umask: 0, uid: 1, gid: 2, linkable })
}

fn unlink(parent: Ino, name: &str) -> Op {
    Op::Unlink { parent, name: name.into() }
}

fn truncate(ino: Ino, size: u64) -> Op {
    let mtime = None;
    Op::Truncate { ino, size, mtime }
}

fn rename(parent: Ino, name: &str, new_parent: Ino, new_name: &str, mode: RenameMode) -> Op {
    Op::Rename(Rename { parent, name: name.into(), new_parent, new_name: new_name.into(), mode })
}

/// `length` bytes at `offset` of a file, at `stripe_offset` of the stripe.
fn piece(ino: Ino, offset: u64, length: u64, stripe_offset: u64) -> CommitPiece {
    CommitPiece {
        piece: StripePiece {
            ino,
            file_offset: offset,
            stripe_offset: stripe_offset as u32,
            length: length as u32,
        },
        mtime: None,
        md5: None,
        release: false,
    }
}

fn range(reply: &Reply) -> std::ops::Range<u64> {
    match reply {
        Reply::Range { first, count } => *first..first + count,
        other => panic!("{other:?}"),
    }
}

fn attr(reply: Result<Reply, Errno>) -> Attr {
    match reply {
        Ok(Reply::Inode(attr)) => attr,
        other => panic!("{other:?}"),
    }
}

fn is_accepted(outcome: &PieceOutcome) -> bool {
    matches!(outcome, PieceOutcome::Accepted { .. })
}

#[test]
fn equal_logs_lead_to_equal_states() {
    let mut world = World::new(2);
    let file = world.file(0, "f");
    world.write(0, &[piece(file, 0, 3 * BLOCK, 0)]);
    world.op(0, unlink(Ino::ROOT, "f")).unwrap();

    let twin = MemoryStore::new();
    // The same actions, packed differently into entries, but at the same times.
    for command in &world.log {
        let Applied { batch, .. } = apply(&twin, command).unwrap();
        twin.write(&batch).unwrap();
    }
    assert_eq!(state_hash(&twin).unwrap(), state_hash(&world.store).unwrap());
}

#[test]
fn a_batch_is_its_actions_one_by_one() {
    let time = Timestamp::default();
    let info = ClientInfo {
        node: "n".into(),
        boot: "b".into(),
        run_lock: "l".into(),
        host: "h".into(),
        mountpoint: "m".into(),
        pid: 1,
        program: Program::this(),
    };
    let first = SessionId((1 << 44) + 1);
    let mutate = |slot, op| Action::Mutate {
        session: first,
        mutation: Mutation { slot: Slot(slot), seq: SlotSeq(1), op },
        removes: None,
        moves: Vec::new(),
    };
    let ino = Ino(1 << 44);
    let actions = vec![
        bootstrap(),
        Action::OpenSession { owner: "mount".into(), client: info, nonce: 1 },
        mutate(0, Op::LeaseInodes),
        mutate(1, create(Ino::ROOT, "d", ino, FileKind::Directory)),
        mutate(2, create(ino, "f", Ino(ino.0 + 1), FileKind::Regular)),
        mutate(3, create(ino, "f", Ino(ino.0 + 2), FileKind::Regular)),
        bootstrap(),
    ];
    let together = MemoryStore::new();
    let command = Command { term: 1, time, actions: actions.clone() };
    let applied = apply(&together, &command).unwrap();
    assert_eq!(applied.outcomes[1], Outcome::Session(first));
    assert_eq!(applied.outcomes[5], Outcome::Mutated(Err(Errno::Exists)));
    together.write(&applied.batch).unwrap();

    let apart = MemoryStore::new();
    for action in actions {
        let actions = vec![action];
        let applied = apply(&apart, &Command { term: 1, time, actions }).unwrap();
        apart.write(&applied.batch).unwrap();
    }
    assert_eq!(state_hash(&together).unwrap(), state_hash(&apart).unwrap());
    let op_seq = query::op_seq(&apart).unwrap();
    assert_eq!(op_seq, OpSeq((1 << 44) + 6));
}

/// Runs the check in portions of `budget` records.
fn check_in_portions(read: &dyn Read, budget: u64) -> Vec<String> {
    let mut problems = Vec::new();
    let mut cursor = Vec::new();
    loop {
        let Checked { records, problems: found, cursor: next } =
            check(read, &cursor, budget).unwrap();
        assert!(records <= budget);
        problems.extend(found);
        match next {
            Some(next) => cursor = next,
            None => return problems,
        }
    }
}

#[test]
fn the_check_notices_every_record_that_is_lost() {
    let mut world = World::new(2);
    let dir = world.directory(Ino::ROOT, "d");
    let file = world.file(0, "f");
    let other = world.file(0, "g");
    let gone = world.file(0, "h");
    let (name, parent) = (b"second".to_vec(), dir);
    world.op(0, Op::Link { ino: file, parent, name }).unwrap();
    let xattr = Op::SetXattr {
        ino: file,
        name: b"user.a".to_vec(),
        value: b"v".to_vec(),
        mode: XattrMode::Set,
        takes_setgid: false,
    };
    world.op(0, xattr).unwrap();
    world.write(0, &[piece(file, 0, 4 * BLOCK, 0), piece(other, 0, 100, 4 * BLOCK)]);
    world.write(0, &[piece(file, BLOCK, BLOCK, 0)]);
    world.write(0, &[piece(gone, BLOCK, BLOCK, 0)]);
    world.op(0, truncate(gone, 0)).unwrap();
    let pinned_by = [world.session(1)];
    world.propose(0, unlink(Ino::ROOT, "g"), &pinned_by);
    let bytes_max = Some(Limit::AtMost(1 << 20));
    let changes = VolumeChanges { bytes_max, ..VolumeChanges::default() };
    world.act(Action::SetVolume { directory: Ino::ROOT, changes });
    let wanted = Reserve { volume: VolumeId::ROOT, bytes: BLOCK, ahead: 0 };
    world.op(1, Op::Reserve(wanted)).unwrap();
    world.verify();
    assert_eq!(check_in_portions(&world.store, 1), Vec::<String>::new());

    // Losing one of these is no contradiction: a reply, a range, a grant, a member.
    let loose = [b'A', b'M', b'Q', b'W', b'Y'];
    let keys: Vec<Vec<u8>> = world.pairs().into_iter().map(|(key, _)| key).collect();
    let mut tried = 0;
    for key in keys.into_iter().filter(|key| !loose.contains(&key[0])) {
        let broken = MemoryStore::new();
        let pairs = world.pairs().into_iter().map(|(k, v)| (k, Some(v)));
        broken.write(&pairs.collect()).unwrap();
        broken.write(&[(key.clone(), None)].into()).unwrap();
        let found = check(&broken, &[], u64::MAX).unwrap().problems;
        // A session that has nothing may go; both have something here.
        assert!(!found.is_empty(), "lost {} unnoticed", key.escape_ascii());
        assert!(!check_in_portions(&broken, 2).is_empty());
        tried += 1;
    }
    assert!(tried > 20, "{tried}");
}

#[test]
fn who_missed_the_answer_gets_the_same_session() {
    let mut world = World::new(0);
    let client = ClientInfo {
        node: "n".into(),
        boot: "b".into(),
        run_lock: "l".into(),
        host: "h".into(),
        mountpoint: "m".into(),
        pid: 1,
        program: Program::this(),
    };
    let mut open = |nonce| {
        let action = Action::OpenSession { owner: "mount".into(), client: client.clone(), nonce };
        match world.act(action) {
            Outcome::Session(session) => session,
            other => panic!("{other:?}"),
        }
    };
    let first = open(7);
    assert_eq!(open(7), first);
    let second = open(8);
    assert_ne!(second, first, "one process may have several");
    world.act(Action::CloseSession { session: first, evicted: true });
    let mut open = |nonce| {
        world.act(Action::OpenSession { owner: "mount".into(), client: client.clone(), nonce })
    };
    assert_ne!(open(7), Outcome::Session(first), "what is closed stays closed");
    assert_eq!(open(8), Outcome::Session(second));
}
