//! Stand-ins: monitors that keep one client's files in memory, and servers that keep shards in memory and fail
//! when told to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::client::link::{Monitors, ShardError, Shards};
use crate::codec::shard::Head;
use crate::types::limits::BLOCK;
use crate::types::{
    Attr, ClientPolicy, ClusterId, DataVersion, Epoch, Errno, Extent, FileKind, Incarnation, Ino,
    OpSeq, PlacementMap, ServerEntry, ServerId, ServerState, SessionId, ShardHash, StripeId,
    StripeRecord, Timestamp, VolumeEntry, VolumeId, VolumePolicy, Width,
};
use crate::wire::leases::{Aftermath, Leased};
use crate::wire::metadata::{
    self, Answer, CloneRange, Commit, CommitPiece, Extents, MapSlice, Op, PieceOutcome, Query,
    Renew, Renewed, Reply, Request, Response, SessionOpened, Space,
};
use crate::wire::shards::{Refusal, ShardId};

/// Monitors of a 2+1 cluster of three servers that know one client.
#[derive(Default)]
pub(super) struct FakeMonitors {
    state: Mutex<State>,
    ops: AtomicU64,
    /// So many commits are refused as a whole.
    pub(super) refuse_commits: AtomicU32,
    /// Sessions that were evicted.
    evicted: AtomicU64,
}

#[derive(Default)]
struct State {
    files: BTreeMap<Ino, FakeFile>,
    stripes: BTreeMap<StripeId, StripeRecord>,
    next: u64,
}

struct FakeFile {
    attr: Attr,
    name: Vec<u8>,
    extents: BTreeMap<u64, Extent>,
    held: bool,
}

impl FakeMonitors {
    /// Stripes that exist, by width.
    pub(super) fn widths(&self) -> Vec<(u8, u8)> {
        let width = |record: &StripeRecord| (record.width.data, record.width.parity);
        self.state.lock().stripes.values().map(width).collect()
    }

    /// Whether the exclusive grant of a file is out.
    pub(super) fn is_held(&self, ino: Ino) -> bool {
        self.state.lock().files[&ino].held
    }

    /// A file's attributes, as everybody else sees them.
    pub(super) fn attr(&self, ino: Ino) -> Attr {
        self.state.lock().files[&ino].attr.clone()
    }

    /// Gives the client's session up, and all that it holds.
    pub(super) fn evict(&self) {
        let mut state = self.state.lock();
        self.evicted.fetch_add(1, Ordering::Relaxed);
        state.files.values_mut().for_each(|file| file.held = false);
    }

    /// Another client cuts that file to nothing.
    pub(super) fn cut_by_another(&self, ino: Ino) {
        let mut state = self.state.lock();
        let file = state.files.get_mut(&ino).expect("it is there");
        assert!(!file.held);
        file.extents.clear();
        file.attr.size = 0;
        file.attr.dv = file.attr.dv.next();
    }

    /// Another client removes that file.
    pub(super) fn remove_by_another(&self, ino: Ino) {
        self.state.lock().files.remove(&ino);
    }

    /// The client's session.
    pub(super) fn session(&self) -> SessionId {
        SessionId(1 + self.evicted.load(Ordering::Relaxed))
    }

    fn placement() -> PlacementMap {
        let server = |id| ServerEntry {
            id: ServerId(id),
            epoch: Epoch(1),
            address: String::new(),
            domain: id.to_string(),
            state: ServerState::Up,
            free_bytes: 1 << 40,
        };
        let servers = (1..=3).map(server).collect();
        let policy = VolumePolicy::of_width(Width { data: 2, parity: 1 });
        let volumes = vec![VolumeEntry::new(VolumeId::ROOT, &policy)];
        PlacementMap { version: 1, volumes, servers }
    }

    fn answer(&self, request: &Request) -> Response {
        match request {
            Request::Renew(Renew { session, .. })
            | Request::Mutate { session, .. }
            | Request::Query { session, .. }
                if *session != self.session() =>
            {
                Response::Refused(metadata::Refusal::SessionClosed)
            }
            Request::OpenSession { .. } => Response::Session(SessionOpened {
                session: self.session(),
                cluster: ClusterId(7),
                monitors: vec![],
                lease_ms: 12_000,
                placement: Self::placement(),
                credit_bytes: 1 << 40,
                policy: ClientPolicy::default(),
                tickets: vec![],
            }),
            Request::OldReplies { operations, .. } => {
                Response::OldReplies(vec![None; operations.len()])
            }
            Request::Renew(_) => Response::Renewed(Renewed {
                placement: None,
                credit_bytes: 1 << 40,
                space: Space {
                    total_bytes: 1 << 40,
                    free_bytes: 1 << 40,
                    inodes: 1,
                    inodes_free: None,
                },
                prolonged: true,
                tickets: None,
            }),
            Request::Mutate { mutations, .. } => Response::Mutated(
                mutations.iter().map(|mutation| self.mutate(&mutation.op)).collect(),
                Aftermath::default(),
            ),
            Request::Query { queries, .. } => {
                let answers = queries.iter().map(|query| self.query(query)).collect();
                Response::Answers(answers, Leased::default())
            }
            _ => Response::Done,
        }
    }

    fn mutate(&self, op: &Op) -> Result<Reply, Errno> {
        let birth = OpSeq(self.ops.fetch_add(1, Ordering::Relaxed));
        let mut state = self.state.lock();
        match op {
            Op::LeaseInodes | Op::LeaseStripes { .. } => {
                state.next += 1000;
                Ok(Reply::Range { first: state.next, count: 1000 })
            }
            Op::Create(create) => {
                let file = FakeFile {
                    attr: new_file(create.ino, create.mode),
                    name: create.name.clone(),
                    extents: BTreeMap::new(),
                    held: create.open,
                };
                let attr = file.attr.clone();
                state.files.insert(create.ino, file);
                Ok(Reply::Inode(attr))
            }
            Op::Acquire { ino } => {
                let file = state.files.get_mut(ino).ok_or(Errno::Stale)?;
                assert!(!file.held, "it is acquired only when it is not held");
                file.held = true;
                Ok(Reply::Inode(file.attr.clone()))
            }
            Op::Release { ino } => {
                state.files.get_mut(ino).ok_or(Errno::Stale)?.held = false;
                Ok(Reply::Done)
            }
            Op::Truncate { ino, size, mtime } => {
                let file = state.files.get_mut(ino).ok_or(Errno::Stale)?;
                assert!(file.held);
                cut(&mut file.extents, *size, u64::MAX);
                file.attr.size = *size;
                file.attr.mtime = mtime.unwrap_or(file.attr.mtime);
                file.attr.dv = file.attr.dv.next();
                Ok(Reply::Inode(file.attr.clone()))
            }
            Op::SetAttr { ino, changes } => {
                let file = state.files.get_mut(ino).ok_or(Errno::Stale)?;
                file.attr.mtime = changes.mtime.unwrap_or(file.attr.mtime);
                Ok(Reply::Inode(file.attr.clone()))
            }
            Op::Clone(range) => {
                let CloneRange { from, from_offset, to, to_offset, length, mtime } = *range;
                assert!(state.files[&from].held && state.files[&to].held);
                let mut extents = state.files[&from].extents.clone();
                cut(&mut extents, 0, from_offset);
                cut(&mut extents, from_offset + length, u64::MAX);
                let file = state.files.get_mut(&to).ok_or(Errno::Stale)?;
                cut(&mut file.extents, to_offset, to_offset + length);
                for extent in extents.into_values() {
                    let offset = extent.offset - from_offset + to_offset;
                    file.extents.insert(offset, Extent { offset, birth, ..extent });
                }
                file.attr.size = file.attr.size.max(to_offset + length);
                file.attr.mtime = mtime;
                file.attr.dv = file.attr.dv.next();
                Ok(Reply::Inode(file.attr.clone()))
            }
            Op::Commit(commit) => self.commit(&mut state, commit, birth),
            _ => Err(Errno::NotSupported),
        }
    }

    fn commit(&self, state: &mut State, commit: &Commit, birth: OpSeq) -> Result<Reply, Errno> {
        let refuse = |left: u32| left.checked_sub(1);
        if self.refuse_commits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, refuse).is_ok() {
            return Err(Errno::Stale);
        }
        assert_eq!(commit.epochs.len(), commit.stripe.width.total());
        let known = state.stripes.insert(commit.stripe.id, commit.stripe.clone());
        assert!(known.is_none(), "a stripe id is used once");
        let State { files, .. } = state;
        let outcome = |piece: &CommitPiece| {
            let Some(file) = files.get_mut(&piece.piece.ino) else {
                return PieceOutcome::FileGone;
            };
            if !file.held {
                return PieceOutcome::GrantRevoked;
            }
            let (offset, length) = (piece.piece.file_offset, piece.piece.length);
            cut(&mut file.extents, offset, offset + u64::from(length));
            let (stripe, stripe_offset) = (commit.stripe.id, piece.piece.stripe_offset);
            file.extents.insert(offset, Extent { offset, length, stripe, stripe_offset, birth });
            file.attr.size = file.attr.size.max(offset + u64::from(length));
            file.attr.mtime = piece.mtime.unwrap_or(file.attr.mtime);
            file.attr.dv = file.attr.dv.next();
            file.attr.md5 = piece.md5;
            file.held = !piece.release;
            PieceOutcome::Accepted { dv: file.attr.dv, birth }
        };
        Ok(Reply::Committed(commit.pieces.iter().map(outcome).collect()))
    }

    fn query(&self, query: &Query) -> Result<Answer, Errno> {
        let state = self.state.lock();
        let file = |ino: &Ino| state.files.get(ino).ok_or(Errno::NotFound);
        match query {
            Query::Lookup { name, .. } => {
                let found = state.files.values().find(|file| file.name == *name);
                found.map(|file| Answer::Attr(file.attr.clone())).ok_or(Errno::NotFound)
            }
            Query::Attr { ino } => Ok(Answer::Attr(file(ino)?.attr.clone())),
            Query::Open { ino, .. } => Ok(Answer::Map(told(&state, file(ino)?, 0, None))),
            Query::Map { ino, offset, known, .. } => {
                Ok(Answer::Map(told(&state, file(ino)?, *offset, *known)))
            }
            _ => Err(Errno::NotSupported),
        }
    }
}

/// At most two extents at a time, so that maps come in portions.
fn told(state: &State, file: &FakeFile, from: u64, known: Option<DataVersion>) -> MapSlice {
    let attr = file.attr.clone();
    if known == Some(attr.dv) {
        return MapSlice { attr, extents: None };
    }
    let mut all = file.extents.values().filter(|extent| extent.end() > from);
    let extents: Vec<Extent> = all.by_ref().take(2).copied().collect();
    let to = all.next().map_or(u64::MAX, |extent| extent.offset);
    let names = |record: &&StripeRecord| extents.iter().any(|extent| extent.stripe == record.id);
    let stripes = state.stripes.values().filter(names).cloned().collect();
    MapSlice { attr, extents: Some(Extents { from, to, extents, stripes }) }
}

fn cut(extents: &mut BTreeMap<u64, Extent>, start: u64, end: u64) {
    for extent in std::mem::take(extents).into_values() {
        for part in [extent.offset..extent.end().min(start), extent.offset.max(end)..extent.end()] {
            if part.start < part.end {
                let skip = (part.start - extent.offset) as u32;
                let cut = Extent {
                    offset: part.start,
                    length: (part.end - part.start) as u32,
                    stripe_offset: extent.stripe_offset + skip,
                    ..extent
                };
                extents.insert(cut.offset, cut);
            }
        }
    }
}

fn new_file(ino: Ino, mode: u16) -> Attr {
    let never = Timestamp::default();
    Attr {
        ino,
        kind: FileKind::Regular,
        mode,
        uid: 0,
        gid: 0,
        size: 0,
        stored: 0,
        nlink: 1,
        rdev: 0,
        atime: never,
        mtime: never,
        ctime: never,
        crtime: never,
        dv: DataVersion(1),
        birth: OpSeq(1),
        volume: VolumeId::ROOT,
        md5: None,
        xattrs: 0,
    }
}

impl Monitors for FakeMonitors {
    fn call<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Response> {
        async {
            tokio::task::yield_now().await;
            self.answer(request)
        }
        .boxed()
    }

    fn incarnation(&self) -> Incarnation {
        Incarnation(1)
    }
}

/// How a server behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    /// It fails every call.
    Dead,
    /// It answers no call.
    Hung,
    /// It flips a bit of every block it gives.
    Lying,
}

/// Servers, by id; each keeps whole images.
#[derive(Default)]
pub(super) struct FakeShards {
    shards: Arc<Mutex<HashMap<(ServerId, ShardId), Bytes>>>,
    moods: Mutex<HashMap<ServerId, Mood>>,
    /// Servers that were asked to store something.
    pub(super) written: Mutex<HashSet<ServerId>>,
}

impl FakeShards {
    /// From now on the server behaves like this.
    pub(super) fn set(&self, server: u64, mood: Mood) {
        self.moods.lock().insert(ServerId(server), mood);
    }

    /// From now on the server is well.
    pub(super) fn heal(&self, server: u64) {
        self.moods.lock().remove(&ServerId(server));
    }

    fn mood(&self, server: ServerId) -> Option<Mood> {
        self.moods.lock().get(&server).copied()
    }
}

impl Shards for FakeShards {
    fn put(
        &self,
        server: ServerId,
        shard: ShardId,
        image: Vec<Bytes>,
    ) -> BoxFuture<'static, Result<(ShardHash, Epoch), ShardError>> {
        self.written.lock().insert(server);
        let (mood, shards) = (self.mood(server), Arc::clone(&self.shards));
        async move {
            match mood {
                Some(Mood::Dead) => return Err(ShardError::Unreachable),
                Some(Mood::Hung) => std::future::pending().await,
                _ => {}
            }
            let hash = hash_of(&image);
            shards.lock().insert((server, shard), image.concat().into());
            Ok((hash, Epoch(1)))
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
        let (mood, shards) = (self.mood(server), Arc::clone(&self.shards));
        async move {
            match mood {
                Some(Mood::Dead) => return Err(ShardError::Unreachable),
                Some(Mood::Hung) => std::future::pending().await,
                _ => {}
            }
            let image = shards.lock().get(&(server, shard)).cloned();
            let image = image.ok_or(ShardError::Refused(Refusal::NotFound))?;
            let head = Head::parse(&image).expect("what was put parses");
            let data = head.header.head_bytes() as usize + (first * BLOCK) as usize;
            let mut blocks = image[data..data + (count * BLOCK) as usize].to_vec();
            if mood == Some(Mood::Lying) {
                blocks[17] ^= 4;
            }
            let checksums = head.checksums[first as usize..(first + count) as usize].to_vec();
            Ok((checksums, blocks.into()))
        }
        .boxed()
    }

    fn ping(&self, server: ServerId) -> BoxFuture<'static, Result<(), ShardError>> {
        let well = self.mood(server).is_none();
        async move { if well { Ok(()) } else { Err(ShardError::Silent) } }.boxed()
    }

    fn update(&self, _placement: &PlacementMap) {}
}

fn hash_of(image: &[Bytes]) -> ShardHash {
    Head::parse(&image.concat()).expect("what is put parses").header.hash
}
