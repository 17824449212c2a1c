//! Locks of programs: who may have what, and when it ends.

use std::collections::BTreeMap;

use super::model::Random;
use super::*;
use crate::wire::locks::SetLock;

const BYTES: u64 = 16;

fn request(ino: Ino, owner: u64, (start, end): (u64, u64), mode: Option<LockMode>) -> LockRequest {
    let (kind, range) = (LockKind::Posix, LockRange { start, end });
    LockRequest { ino, kind, owner: LockOwner(owner), pid: 7, range, mode }
}

fn lock(request: LockRequest) -> Op {
    Op::Lock(SetLock { request, ticket: None })
}

impl World {
    fn lock(&mut self, client: usize, request: LockRequest) -> Result<(), Errno> {
        self.op(client, lock(request)).map(|_| ())
    }

    fn in_the_way(&self, client: usize, request: LockRequest) -> Option<Conflict> {
        match self.ask(&Query::Lock { session: self.session(client), request }) {
            Ok(Answer::Lock(conflict)) => conflict,
            other => panic!("{other:?}"),
        }
    }
}

/// Who has a byte of one kind in which way: the slow and obvious truth.
#[derive(Default)]
struct Bytes(BTreeMap<(LockKind, u64), BTreeMap<(SessionId, LockOwner), LockMode>>);

impl Bytes {
    fn of(
        &mut self,
        request: &LockRequest,
        at: u64,
    ) -> &mut BTreeMap<(SessionId, LockOwner), LockMode> {
        self.0.entry((request.kind, at)).or_default()
    }

    /// The first byte that somebody else has in a way that excludes this.
    fn in_the_way(&mut self, session: SessionId, request: &LockRequest) -> Option<u64> {
        let mode = request.mode?;
        let mut at = request.range.start..=request.range.end;
        at.find(|at| {
            let mut holders = self.of(request, *at).iter();
            holders.any(|(holder, held)| *holder != (session, request.owner) && held.excludes(mode))
        })
    }

    fn set(&mut self, session: SessionId, request: &LockRequest) {
        for at in request.range.start..=request.range.end {
            let holders = self.of(request, at);
            match request.mode {
                Some(mode) => holders.insert((session, request.owner), mode),
                None => holders.remove(&(session, request.owner)),
            };
        }
    }

    fn close(&mut self, session: SessionId) {
        for holders in self.0.values_mut() {
            holders.retain(|(of, _), _| *of != session);
        }
    }
}

fn run(seed: u64) {
    let mut random = Random(seed);
    let mut world = World::new(3);
    let file = world.file(0, "f");
    world.op(0, Op::Release { ino: file }).unwrap();
    let mut bytes = Bytes::default();
    for step in 0..300 {
        let client = random.below(3) as usize;
        let session = world.session(client);
        if random.one_in(40) {
            let evicted = random.one_in(2);
            let close = Action::CloseSession { session, evicted };
            while world.act(close.clone()) == Outcome::Partly {}
            bytes.close(session);
            world.clients[client] = world.open_session();
            continue;
        }
        let (a, b) = (random.below(BYTES), random.below(BYTES));
        let mode = random.pick(&[None, Some(LockMode::Shared), Some(LockMode::Exclusive)]);
        let owner = random.below(2);
        let kind = random.pick(&[LockKind::Posix, LockKind::Posix, LockKind::Flock]);
        let request = LockRequest { kind, ..request(file, owner, (a.min(b), a.max(b)), mode) };
        let expected = bytes.in_the_way(session, &request);
        let found = world.in_the_way(client, request);
        assert_eq!(found.is_some(), expected.is_some(), "step {step}: {request:?}");
        if let (Some(found), Some(expected)) = (found, expected) {
            // A lock may begin before what is asked about.
            assert_eq!(found.range.start.max(request.range.start), expected, "step {step}");
        }
        let answer = if expected.is_some() { Err(Errno::WouldBlock) } else { Ok(()) };
        assert_eq!(world.lock(client, request), answer, "step {step}: {request:?}");
        if expected.is_none() {
            bytes.set(session, &request);
        }
        world.verify();
    }
}

#[test]
fn locks_are_what_each_byte_says() {
    for seed in 0..30 {
        if let Err(panic) = std::panic::catch_unwind(|| run(seed)) {
            let text = panic.downcast_ref::<String>().cloned();
            panic!("seed {seed}: {}", text.unwrap_or_default());
        }
    }
}

#[test]
fn a_conflict_names_who_is_in_the_way() {
    let mut world = World::new(2);
    let file = world.file(0, "f");
    world.lock(0, request(file, 1, (10, 19), Some(LockMode::Shared))).unwrap();
    let wanted = request(file, 1, (0, LockRange::LAST), Some(LockMode::Exclusive));
    let found = Conflict {
        session: world.session(0),
        owner: LockOwner(1),
        pid: 7,
        range: LockRange { start: 10, end: 19 },
        mode: LockMode::Shared,
    };
    assert_eq!(world.in_the_way(1, wanted), Some(found));
    assert_eq!(world.in_the_way(0, wanted), None, "one's own");
    let shared = LockRequest { mode: Some(LockMode::Shared), ..wanted };
    assert_eq!(world.in_the_way(1, shared), None);
    let flock = LockRequest { kind: LockKind::Flock, ..wanted };
    assert_eq!(world.lock(1, flock), Ok(()), "the two kinds do not see one another");
}

#[test]
fn a_lock_that_was_refused_is_taken_by_the_next_try() {
    let mut world = World::new(2);
    let file = world.file(0, "f");
    let lock = |owner| request(file, owner, (0, 0), Some(LockMode::Exclusive));
    world.lock(0, lock(1)).unwrap();
    assert_eq!(world.lock(1, lock(1)), Err(Errno::WouldBlock));
    assert_eq!(
        world.lock(0, lock(2)),
        Err(Errno::WouldBlock),
        "another process of the same client"
    );
    world.lock(0, LockRequest { mode: None, ..lock(1) }).unwrap();
    world.lock(1, lock(1)).unwrap();
    assert_eq!(world.pairs().iter().filter(|(key, _)| key.starts_with(b"K/")).count(), 1);
    world.lock(1, LockRequest { mode: None, ..lock(1) }).unwrap();
    assert!(!world.pairs().iter().any(|(key, _)| key.starts_with(b"K/")));
}

#[test]
fn nonsense_is_refused_and_there_is_an_end_of_locks() {
    let mut world = World::new(1);
    let file = world.file(0, "f");
    let at = |start, end| request(file, 1, (start, end), Some(LockMode::Shared));
    assert_eq!(world.lock(0, at(5, 4)), Err(Errno::Invalid));
    assert_eq!(world.lock(0, at(0, LockRange::LAST + 1)), Err(Errno::Invalid));
    assert_eq!(world.lock(0, request(Ino(99), 1, (0, 0), None)), Err(Errno::Stale));
    for n in 0..limits::LOCKS_MAX as u64 {
        world.lock(0, at(2 * n, 2 * n)).unwrap();
    }
    let last = 2 * limits::LOCKS_MAX as u64;
    assert_eq!(world.lock(0, at(last, last)), Err(Errno::NoLocks));
    world.lock(0, at(last - 1, last - 1)).unwrap();
    world.lock(0, LockRequest { mode: None, ..at(0, LockRange::LAST) }).unwrap();
    world.lock(0, at(last, last)).unwrap();
}

#[test]
fn locks_end_with_their_session_however_many_there_are() {
    let mut world = World::new(2);
    let files: Vec<Ino> = (0..600).map(|n| world.file(1, &format!("f{n}"))).collect();
    let lock = |ino, owner| request(ino, owner, (0, 9), Some(LockMode::Shared));
    for &ino in &files {
        world.lock(0, lock(ino, 1)).unwrap();
        world.lock(1, lock(ino, 1)).unwrap();
    }
    let close = Action::CloseSession { session: world.session(0), evicted: true };
    let mut steps = 1;
    while world.act(close.clone()) == Outcome::Partly {
        steps += 1;
        world.verify();
    }
    assert!(steps >= 3, "{steps}");
    for &ino in &files {
        let theirs = LockRequest { mode: Some(LockMode::Exclusive), ..lock(ino, 1) };
        assert_eq!(world.in_the_way(1, theirs), None);
    }
    world.verify();
}

#[test]
fn locks_go_with_their_file() {
    let mut world = World::new(2);
    let file = world.file(0, "f");
    world.lock(0, request(file, 1, (0, 9), Some(LockMode::Shared))).unwrap();
    let session = world.session(0);
    world.propose(0, unlink(Ino::ROOT, "f"), &[session]);
    world.lock(0, request(file, 2, (0, 9), Some(LockMode::Shared))).unwrap();
    world.act(Action::Unpin { session, ino: file });
    assert!(!world.pairs().iter().any(|(key, _)| key.starts_with(b"K/")));
    world.verify();
}
