//! Random actions of three sessions, compared with the shadow.
//!
//! Seeds are fixed; `OKAPIFS_SEEDS=from..to` runs others, and a failure names its seed.

use std::collections::BTreeMap;

use super::shadow::{Place, Shadow};
use super::*;

const CLIENTS: usize = 3;
const STEPS: usize = 250;

/// SplitMix64 (Steele, Lea & Flood 2014).
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

struct Run {
    random: Random,
    world: World,
    shadow: Shadow,
    /// The last operation that was done, and what came of it.
    last: Option<(Action, Outcome)>,
}

impl Run {
    fn new(seed: u64) -> Self {
        Self { random: Random(seed), world: World::new(CLIENTS), shadow: Shadow::new(), last: None }
    }

    fn name(&mut self) -> String {
        self.random.pick(&["a", "b", "c", "d", "e"]).to_owned()
    }

    fn directory(&mut self) -> Ino {
        let all: Vec<Ino> = self.shadow.directories.keys().copied().collect();
        self.random.pick(&all)
    }

    /// Some file, or now and then something that is none.
    fn file(&mut self) -> Ino {
        let all: Vec<Ino> = self.shadow.files.keys().copied().collect();
        if all.is_empty() || self.random.one_in(30) {
            return Ino(99);
        }
        self.random.pick(&all)
    }

    fn offset(&mut self) -> u64 {
        // Around the end of a window as well as at the beginning.
        let base = self.random.pick(&[0, 0, 0, 4090]);
        (base + self.random.below(12)) * BLOCK
    }

    fn sessions(&mut self) -> Vec<SessionId> {
        let all: Vec<SessionId> = self.world.clients.iter().map(|c| c.session).collect();
        let mut some = Vec::new();
        for session in all {
            if self.random.one_in(4) {
                some.push(session);
            }
        }
        some
    }

    /// Proposes an operation; what others hold of it is released first.
    fn mutate(&mut self, client: usize, op: Op, pins: &[SessionId]) -> Result<Reply, Errno> {
        let session = self.world.session(client);
        let held = self.shadow.held(session, &op);
        if !held.is_empty() {
            let found = match self.world.propose(client, op.clone(), pins) {
                Outcome::Held(found) => found.into_iter().collect(),
                other => panic!("{held:?} are held: {other:?}"),
            };
            assert_eq!(held, found);
            for ino in held {
                let holder = self.shadow.files[&ino].holder.unwrap();
                let mut clients = self.world.clients.iter();
                let by = clients.position(|c| c.session == holder).unwrap();
                self.world.op(by, Op::Release { ino }).unwrap();
                self.shadow.release(holder, ino);
            }
        }
        match self.world.propose(client, op, pins) {
            Outcome::Mutated(reply) => {
                let action = self.world.log.last().unwrap().actions[0].clone();
                self.last = Some((action, Outcome::Mutated(reply.clone())));
                reply
            }
            other => panic!("{other:?}"),
        }
    }

    /// Proposes an operation of which the shadow expects that.
    fn expect(
        &mut self,
        client: usize,
        op: Op,
        pins: &[SessionId],
        expected: impl FnOnce(&mut Shadow, SessionId) -> Result<(), Errno>,
    ) {
        let told = format!("{op:?}");
        let reply = self.mutate(client, op, pins);
        let session = self.world.session(client);
        let expected = expected(&mut self.shadow, session);
        assert_eq!(reply.as_ref().map(|_| ()), expected.as_ref().copied(), "{told}");
    }

    fn step(&mut self) {
        let client = self.random.below(CLIENTS as u64) as usize;
        match self.random.below(100) {
            0..16 => self.create(client),
            16..18 => self.create_nameless(client),
            18..24 => self.link(client),
            24..36 => self.unlink(client),
            36..40 => self.rmdir(client),
            40..50 => self.rename(client),
            50..72 => self.commit(client),
            72..78 => self.truncate(client),
            78..82 => self.punch(client),
            82..88 => self.clone(client),
            88..92 => self.acquire_or_release(client),
            92..95 => self.unpin(client),
            95..97 => self.reap(),
            97..99 => self.give_up_stripes(client),
            _ => self.replace_session(client),
        }
        if self.random.one_in(8) {
            self.repeat_last();
        }
    }

    fn create(&mut self, client: usize) {
        let kinds = [
            FileKind::Regular,
            FileKind::Regular,
            FileKind::Regular,
            FileKind::Directory,
            FileKind::Symlink,
        ];
        let kind = self.random.pick(&kinds);
        let (parent, name) = (self.directory(), self.name());
        let ino = self.world.inode_number(client);
        let op = create(parent, &name, ino, kind);
        let Op::Create(what) = op.clone() else { unreachable!() };
        self.expect(client, op, &[], |shadow, session| shadow.create(session, &what));
    }

    fn create_nameless(&mut self, client: usize) {
        let (parent, linkable) = (self.directory(), self.random.one_in(2));
        let ino = self.world.inode_number(client);
        let op = nameless(parent, ino, linkable);
        self.expect(client, op, &[], |shadow, session| {
            shadow.create_nameless(session, ino, linkable);
            Ok(())
        });
    }

    fn link(&mut self, client: usize) {
        let (ino, parent, name) = (self.file(), self.directory(), self.name());
        let bytes = name.clone().into_bytes();
        let op = Op::Link { ino, parent, name: bytes };
        self.expect(client, op, &[], |shadow, session| shadow.link(session, ino, parent, &name));
    }

    fn unlink(&mut self, client: usize) {
        let (parent, name, pins) = (self.directory(), self.name(), self.sessions());
        self.expect(client, unlink(parent, &name), &pins, |shadow, _| {
            shadow.unlink(parent, &name, &pins)
        });
    }

    fn rmdir(&mut self, client: usize) {
        let (parent, name) = (self.directory(), self.name());
        let bytes = name.clone().into_bytes();
        let op = Op::Rmdir { parent, name: bytes };
        let pins = self.sessions();
        self.expect(client, op, &pins, |shadow, _| shadow.rmdir(parent, &name, &pins));
    }

    fn rename(&mut self, client: usize) {
        let modes =
            [RenameMode::Replace, RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
        let what = Rename {
            parent: self.directory(),
            name: self.name().into_bytes(),
            new_parent: self.directory(),
            new_name: self.name().into_bytes(),
            mode: self.random.pick(&modes),
        };
        let pins = self.sessions();
        let op = Op::Rename(what.clone());
        self.expect(client, op, &pins, |shadow, _| shadow.rename(&what, &pins));
    }

    fn commit(&mut self, client: usize) {
        let mut pieces = Vec::new();
        let mut at = 0;
        for _ in 0..=self.random.below(5) {
            let ino = self.file();
            if self.shadow.files.get(&ino).is_none_or(|f| !f.is_regular) {
                continue;
            }
            if self.random.one_in(2) && self.shadow.files[&ino].holder.is_none() {
                self.expect(client, Op::Acquire { ino }, &[], |shadow, session| {
                    shadow.acquire(session, ino)
                });
            }
            let offset = self.offset();
            let mut length = (1 + self.random.below(4)) * BLOCK;
            // Whether it is the last of the file that is known to its writer.
            if offset + length >= self.shadow.files[&ino].size && self.random.one_in(2) {
                length -= self.random.below(BLOCK);
            }
            let mut next = piece(ino, offset, length, at);
            next.release = self.random.one_in(4);
            pieces.push(next);
            at += length.next_multiple_of(BLOCK);
        }
        if pieces.is_empty() {
            return;
        }
        let commit = self.world.commit(client, &pieces);
        let reply = self.mutate(client, Op::Commit(commit.clone()), &[]);
        let session = self.world.session(client);
        let expected = self.shadow.commit(session, &commit);
        let Ok(Reply::Committed(outcomes)) = reply else {
            panic!("{reply:?}");
        };
        let told = outcomes.iter().map(|outcome| match outcome {
            PieceOutcome::Accepted { .. } => "accepted",
            PieceOutcome::GrantRevoked => "revoked",
            PieceOutcome::FileGone => "gone",
            PieceOutcome::OverQuota => "over quota",
        });
        assert_eq!(told.collect::<Vec<_>>(), expected);
    }

    fn truncate(&mut self, client: usize) {
        let ino = self.file();
        let size = self.offset() + self.random.pick(&[0, 1, 100, BLOCK - 1]);
        self.expect(client, truncate(ino, size), &[], |shadow, session| {
            shadow.truncate(session, ino, size)
        });
    }

    fn punch(&mut self, client: usize) {
        let (ino, offset) = (self.file(), self.offset());
        let length = (1 + self.random.below(6)) * BLOCK;
        let op = Op::Punch { ino, offset, length, mtime: Timestamp::default() };
        self.expect(client, op, &[], |shadow, session| {
            shadow.punch(session, ino, offset..offset + length)
        });
    }

    fn clone(&mut self, client: usize) {
        let (from, to) = (self.file(), self.file());
        let (from_offset, to_offset) = (self.offset(), self.offset());
        let mut length = (1 + self.random.below(6)) * BLOCK;
        if let Some(file) = self.shadow.files.get(&from) {
            let rest = file.size.saturating_sub(from_offset);
            length = length.min(rest);
        }
        let range =
            CloneRange { from, from_offset, to, to_offset, length, mtime: Timestamp::default() };
        self.expect(client, Op::Clone(range), &[], |shadow, session| shadow.clone(session, &range));
    }

    fn acquire_or_release(&mut self, client: usize) {
        let ino = self.file();
        if self.random.one_in(2) {
            self.expect(client, Op::Acquire { ino }, &[], |shadow, session| {
                shadow.acquire(session, ino)
            });
        } else {
            self.expect(client, Op::Release { ino }, &[], |shadow, session| {
                shadow.release(session, ino);
                Ok(())
            });
        }
    }

    fn unpin(&mut self, client: usize) {
        let session = self.world.session(client);
        let removed: Vec<Ino> = self.shadow.removed.keys().copied().collect();
        let ino = match self.random.one_in(2) || removed.is_empty() {
            true => self.file(),
            false => self.random.pick(&removed),
        };
        self.world.act(Action::Unpin { session, ino });
        self.shadow.unpin(session, ino);
    }

    fn reap(&mut self) {
        let servers = self.world.servers.clone();
        let server = self.random.pick(&servers);
        let mut shards = self.world.reap_list(server);
        shards.retain(|_| !self.random.one_in(3));
        self.world.act(Action::Reaped { server, shards });
    }

    fn give_up_stripes(&mut self, client: usize) {
        let next = self.world.clients[client].stripes.start;
        let skip = self.random.below(3);
        self.world.lease_stripes(client, StripeId(next + skip));
    }

    fn replace_session(&mut self, client: usize) {
        let session = self.world.session(client);
        let evicted = self.random.one_in(2);
        let close = Action::CloseSession { session, evicted };
        while self.world.act(close.clone()) == Outcome::Partly {}
        self.shadow.close(session);
        self.world.clients[client] = self.world.open_session();
        self.last = None;
    }

    /// The last operation again: it gets its answer and changes nothing, if its slot has not moved on.
    fn repeat_last(&mut self) {
        let Some((action, outcome)) = self.last.take() else {
            return;
        };
        let before = self.world.pairs();
        let again = self.world.act(action);
        assert!(again == outcome || again == Outcome::Mutated(Err(Errno::Stale)));
        assert_eq!(self.world.pairs(), before);
    }

    fn compare(&self) {
        for (&ino, directory) in &self.shadow.directories {
            let query = Query::ReadDir { dir: ino, after: 0, limit: 1024, attrs: false };
            let Ok(Answer::Entries { parent, entries, .. }) = self.world.ask(&query) else {
                panic!("directory {ino} is lost");
            };
            assert_eq!(parent, directory.parent);
            let found: BTreeMap<String, Ino> =
                entries.into_iter().map(|e| (String::from_utf8(e.name).unwrap(), e.ino)).collect();
            assert_eq!(found, directory.entries);
        }
        for (&ino, file) in &self.shadow.files {
            let attr = self.world.stat(ino);
            let found = (attr.size, attr.nlink, attr.dv.0);
            assert_eq!(found, (file.size, file.nlink, file.dv), "inode {ino}");
            assert_eq!(self.blocks(ino), file.blocks, "inode {ino}");
        }
        assert_eq!(self.world.live_stripes(), self.shadow.live_stripes());
        let usage = query::usage(&self.world.store, VolumeId::ROOT).unwrap();
        let Shadow { directories, files, removed } = &self.shadow;
        let inodes = directories.len() + files.len() + removed.len();
        assert_eq!(usage.inodes, inodes as u64);
    }

    fn blocks(&self, ino: Ino) -> BTreeMap<u64, Place> {
        let mut blocks = BTreeMap::new();
        for (offset, length, stripe, stripe_offset) in self.world.map(ino) {
            let length = u64::from(length);
            for n in 0..length.div_ceil(BLOCK) {
                let bytes = BLOCK.min(length - n * BLOCK);
                let at = u64::from(stripe_offset) / BLOCK + n;
                let before = blocks.insert(offset / BLOCK + n, (stripe, at, bytes));
                assert_eq!(before, None, "inode {ino}: two extents at {offset}");
            }
        }
        blocks
    }
}

fn run(seed: u64) {
    let mut run = Run::new(seed);
    for step in 0..STEPS {
        run.step();
        if step % 10 == 9 {
            run.world.verify();
            run.compare();
        }
    }
    let twin = MemoryStore::new();
    for command in &run.world.log {
        twin.write(&apply(&twin, command).unwrap().batch).unwrap();
    }
    let hash = state_hash(&run.world.store).unwrap();
    assert_eq!(state_hash(&twin).unwrap(), hash);
}

#[test]
fn random_actions_agree_with_the_shadow() {
    let seeds = match std::env::var("OKAPIFS_SEEDS") {
        Ok(seeds) => {
            let (from, to) = seeds.split_once("..").unwrap();
            from.parse().unwrap()..to.parse().unwrap()
        }
        Err(_) => 0..40,
    };
    for seed in seeds {
        if let Err(panic) = std::panic::catch_unwind(|| run(seed)) {
            let text = panic.downcast_ref::<String>().cloned();
            panic!("seed {seed}: {}", text.unwrap_or_default());
        }
    }
}
