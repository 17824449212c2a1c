//! Exactly once, fences, grants, and what is garbage.

use super::*;
use crate::monitor::namespace::caps;
use crate::monitor::namespace::query::{garbage, missing, range_closed};
use crate::monitor::namespace::records::Session;

#[test]
fn an_operation_sent_again_is_answered_again_and_done_once() {
    let mut world = World::new(1);
    let ino = world.inode_number(0);
    let session = world.session(0);
    let mutate = |slot, seq, op| Action::Mutate {
        session,
        mutation: Mutation { slot: Slot(slot), seq: SlotSeq(seq), op },
        removes: None,
        moves: Vec::new(),
    };
    let create = create(Ino::ROOT, "f", ino, FileKind::Regular);
    let first = world.act(mutate(0, 1, create.clone()));
    let before = world.pairs();
    assert_eq!(world.act(mutate(0, 1, create)), first);
    assert_eq!(world.pairs(), before);
    // An error is an answer too, although the same would succeed now.
    let none = mutate(0, 2, unlink(Ino::ROOT, "g"));
    let refused = Outcome::Mutated(Err(Errno::NotFound));
    assert_eq!(world.act(none.clone()), refused);
    let rename = rename(Ino::ROOT, "f", Ino::ROOT, "g", RenameMode::Replace);
    assert!(matches!(world.op(0, rename), Ok(Reply::Renamed { .. })));
    assert_eq!(world.act(none), refused);

    let before = world.pairs();
    let stale = Outcome::Mutated(Err(Errno::Stale));
    assert_eq!(world.act(mutate(0, 1, Op::LeaseInodes)), stale);
    assert_eq!(world.act(mutate(0, 4, Op::LeaseInodes)), stale);
    assert_eq!(world.act(mutate(7, 2, Op::LeaseInodes)), stale);
    assert_eq!(world.act(mutate(7, 0, Op::LeaseInodes)), stale);
    let invalid = Outcome::Mutated(Err(Errno::Invalid));
    assert_eq!(world.act(mutate(256, 1, Op::LeaseInodes)), invalid);
    assert_eq!(world.pairs(), before);
}

#[test]
fn a_change_refused_for_want_of_room_is_not_done_and_its_slot_moves_on() {
    let mut world = World::new(1);
    let ino = world.inode_number(0);
    let session = world.session(0);
    let refuse = Action::Refuse { session, slot: Slot(9), seq: SlotSeq(1), errno: Errno::NoSpace };
    let full = Outcome::Mutated(Err(Errno::NoSpace));
    assert_eq!(world.act(refuse.clone()), full);
    let mutate = |seq| Action::Mutate {
        session,
        mutation: Mutation {
            slot: Slot(9),
            seq: SlotSeq(seq),
            op: create(Ino::ROOT, "f", ino, FileKind::Regular),
        },
        removes: None,
        moves: Vec::new(),
    };
    // The answer was lost, and there is room by now: one operation has one answer.
    assert_eq!(world.act(mutate(1)), full);
    assert!(matches!(world.act(mutate(2)), Outcome::Mutated(Ok(_))));
    // And what was done is not refused afterwards.
    let late = Action::Refuse { session, slot: Slot(9), seq: SlotSeq(2), errno: Errno::NoSpace };
    assert!(matches!(world.act(late), Outcome::Mutated(Ok(_))));
    world.verify();
}

#[test]
fn a_commit_is_fenced() {
    let mut world = World::new(2);
    let file = world.file(0, "f");
    let pieces = [piece(file, 0, BLOCK, 0)];
    let good = world.commit(0, &pieces);
    let stale = |world: &mut World, client, commit: Commit| {
        let before = world.live_stripes();
        assert_eq!(world.op(client, Op::Commit(commit)), Err(Errno::Stale));
        assert_eq!(world.live_stripes(), before);
    };
    stale(&mut world, 1, good.clone());

    let mut foreign = good.clone();
    foreign.stripe.id = StripeId(good.stripe.id.0 + limits::STRIPE_RANGE);
    stale(&mut world, 0, foreign);

    let mut twice = good.clone();
    twice.stripe.shards[1] = twice.stripe.shards[0];
    stale(&mut world, 0, twice);

    let mut unknown = good.clone();
    unknown.stripe.shards[1].server = ServerId(5);
    stale(&mut world, 0, unknown);

    // The server lost its disk in between, perhaps.
    world.register("two", "two");
    stale(&mut world, 0, good.clone());
    let mut now = good;
    now.epochs[1] = Epoch(2);
    world.op(0, Op::Commit(now.clone())).unwrap();
    stale(&mut world, 0, now);

    let mut close = world.commit(0, &pieces);
    world.register("three", "two");
    close.epochs[2] = Epoch(2);
    stale(&mut world, 0, close);
    world.verify();
}

#[test]
fn a_commit_that_makes_no_sense_is_refused() {
    let mut world = World::new(1);
    let file = world.file(0, "f");
    let good = world.commit(0, &[piece(file, 0, BLOCK, 0)]);
    let refuse = |world: &mut World, errno, break_it: &dyn Fn(&mut Commit)| {
        let mut commit = good.clone();
        break_it(&mut commit);
        assert_eq!(world.op(0, Op::Commit(commit)), Err(errno));
    };
    refuse(&mut world, Errno::Invalid, &|c| c.pieces.clear());
    refuse(&mut world, Errno::Invalid, &|c| c.epochs.truncate(2));
    refuse(&mut world, Errno::Invalid, &|c| c.stripe.width.data = 0);
    refuse(&mut world, Errno::Invalid, &|c| c.stripe.length = 4095);
    refuse(&mut world, Errno::Invalid, &|c| {
        c.pieces[0].piece.length = 0;
    });
    refuse(&mut world, Errno::Invalid, &|c| {
        c.pieces[0].piece.file_offset = 1;
    });
    refuse(&mut world, Errno::FileTooBig, &|c| {
        c.pieces[0].piece.file_offset = limits::FILE_BYTES_MAX;
    });
    refuse(&mut world, Errno::FileTooBig, &|c| {
        c.pieces[0].piece.file_offset = !4095;
    });
    refuse(&mut world, Errno::Invalid, &|c| {
        c.pieces[0].piece.stripe_offset = !4095;
    });
    world.verify();
}

#[test]
fn each_piece_is_judged_by_itself() {
    let mut world = World::new(2);
    let mine = world.file(0, "mine");
    let theirs = world.file(1, "theirs");
    let gone = world.file(0, "gone");
    world.op(0, unlink(Ino::ROOT, "gone")).unwrap();
    let release = CommitPiece { release: true, ..piece(mine, 0, 10, 0) };
    let pieces = [release, piece(theirs, 0, 10, BLOCK), piece(gone, 0, 10, 2 * BLOCK)];
    let (_, outcomes) = world.write(0, &pieces);
    assert!(is_accepted(&outcomes[0]));
    assert_eq!(outcomes[1], PieceOutcome::GrantRevoked);
    assert_eq!(outcomes[2], PieceOutcome::FileGone);
    assert_eq!(caps::holder(&world.store, mine).unwrap(), None);
    let again = world.write(0, &[piece(mine, 0, 10, 0)]).1;
    assert_eq!(again, [PieceOutcome::GrantRevoked]);
    world.verify();
}

#[test]
fn a_stripe_of_which_nothing_is_accepted_is_reaped_and_stays_fenced() {
    let mut world = World::new(1);
    let file = world.file(0, "f");
    world.op(0, Op::Release { ino: file }).unwrap();
    let commit = world.commit(0, &[piece(file, 0, 10, 0)]);
    let id = commit.stripe.id;
    world.op(0, Op::Commit(commit.clone())).unwrap();
    assert_eq!(world.live_stripes(), []);
    for server in world.servers.clone() {
        assert_eq!(world.reap_list(server).len(), 1);
    }
    world.verify();
    world.reap();
    assert_eq!(world.reap_list(world.servers[0]), []);
    // Its shards are gone: the same commit in another slot must not bring it back.
    world.op(0, Op::Acquire { ino: file }).unwrap();
    assert_eq!(world.op(0, Op::Commit(commit.clone())), Err(Errno::Stale));
    let has_tombstone = |world: &World| world.pairs().iter().any(|(key, _)| key.starts_with(b"S/"));
    assert!(has_tombstone(&world));
    world.lease_stripes(0, StripeId(id.0 + 1));
    assert!(!has_tombstone(&world));
    assert_eq!(world.op(0, Op::Commit(commit)), Err(Errno::Stale));
    world.verify();
}

#[test]
fn a_tombstone_goes_with_the_last_shard_once_its_range_is_closed() {
    let mut world = World::new(1);
    let file = world.file(0, "f");
    world.write(0, &[piece(file, 0, 10, 0)]);
    world.op(0, truncate(file, 0)).unwrap();
    let session = world.session(0);
    let evicted = true;
    world.act(Action::CloseSession { session, evicted });
    world.verify();
    let stripes = |world: &World| {
        let pairs = world.pairs();
        pairs.iter().filter(|(key, _)| key.starts_with(b"S/")).count()
    };
    assert_eq!(stripes(&world), 1);
    world.reap();
    assert_eq!(stripes(&world), 0);
    world.verify();
}

#[test]
fn garbage_is_decided_and_not_guessed() {
    let mut world = World::new(1);
    let file = world.file(0, "f");
    let (live, _) = world.write(0, &[piece(file, 0, 10, 0)]);
    let (dead, _) = world.write(0, &[piece(file, BLOCK, 10, 0)]);
    world.op(0, truncate(file, 10)).unwrap();
    let uncommitted = world.stripe_id(0);
    let never = StripeId(uncommitted.0 + 10 * limits::STRIPE_RANGE);
    let shard = |stripe, index| ShardId { stripe, index: ShardIndex(index) };
    let hash = |stripe: StripeId| ShardHash([stripe.0 as u8; 16]);
    let present: Vec<(ShardId, ShardHash)> =
        [shard(live, 0), shard(live, 1), shard(dead, 0), shard(uncommitted, 0), shard(never, 0)]
            .map(|shard| (shard, hash(shard.stripe)))
            .to_vec();
    let server = world.servers[0];
    // Shard 1 of the live stripe belongs on another server.
    let found = garbage(&world.store, server, &present).unwrap();
    assert_eq!(found, [shard(live, 1), shard(dead, 0)]);

    world.lease_stripes(0, StripeId(uncommitted.0 + 1));
    assert!(range_closed(&world.store, uncommitted).unwrap());
    assert!(!range_closed(&world.store, StripeId(uncommitted.0 + 1)).unwrap());
    assert!(!range_closed(&world.store, never).unwrap());
    let found = garbage(&world.store, server, &present).unwrap();
    assert_eq!(found, [shard(live, 1), shard(dead, 0), shard(uncommitted, 0)]);

    let from = shard(StripeId(0), 0);
    let lost = |present: &[_], to| {
        missing(&world.store, server, from, to, OpSeq(u64::MAX), present).unwrap()
    };
    assert_eq!(lost(&present, None), []);
    assert_eq!(lost(&[], None), [shard(live, 0)]);
    assert_eq!(lost(&[], Some(shard(live, 0))), []);
    let young = missing(&world.store, server, from, None, OpSeq(0), &[]).unwrap();
    assert_eq!(young, [], "committed after the server made its list");
    let other = [(shard(live, 0), ShardHash([9; 16]))];
    assert_eq!(lost(&other, None), [shard(live, 0)]);
}

#[test]
fn what_another_session_holds_is_not_touched() {
    let mut world = World::new(2);
    let file = world.file(0, "f");
    let other = world.file(1, "g");
    let changes = AttrChanges::default();
    let set = Op::SetAttr { ino: file, changes };
    let held = Outcome::Held(vec![file]);
    let parent = Ino::ROOT;
    let name = b"f".to_vec();
    for op in [
        set.clone(),
        Op::Acquire { ino: file },
        unlink(parent, "f"),
        rename(parent, "g", parent, "f", RenameMode::Replace),
        rename(parent, "f", parent, "h", RenameMode::Replace),
        Op::Link { ino: file, parent, name },
    ] {
        let before = world.pairs();
        assert_eq!(world.propose(1, op, &[]), held);
        assert_eq!(world.pairs(), before);
    }
    // Without the grant of one's own there is nothing to wait for.
    assert_eq!(world.op(1, truncate(file, 0)), Err(Errno::Stale));
    let list = |attrs| Query::ReadDir { dir: Ino::ROOT, after: 0, limit: 9, attrs };
    let touched = |query| {
        let inos = caps::touched_by_query(&world.store, &query).unwrap();
        caps::held_by_others(&world.store, world.session(1), &inos).unwrap()
    };
    let holder = world.session(0);
    assert_eq!(touched(list(true)), [(file, holder)]);
    assert_eq!(touched(list(false)), []);
    assert_eq!(touched(Query::Attr { ino: file }), [(file, holder)]);
    assert_eq!(touched(Query::Attr { ino: other }), []);
    assert_eq!(caps::holder(&world.store, file).unwrap(), Some(holder));

    world.op(0, Op::Release { ino: file }).unwrap();
    world.op(1, set).unwrap();
    world.op(1, Op::Acquire { ino: file }).unwrap();
    assert_eq!(world.op(0, truncate(file, 0)), Err(Errno::Stale));
    // Giving back what one does not hold takes it from nobody.
    world.op(0, Op::Release { ino: file }).unwrap();
    world.op(1, truncate(file, 0)).unwrap();
    world.verify();
}

#[test]
fn an_open_file_outlives_its_name() {
    let mut world = World::new(2);
    let file = world.file(0, "f");
    let (one, two) = (world.session(0), world.session(1));
    let outcome = world.propose(0, unlink(Ino::ROOT, "f"), &[one, two, SessionId(99)]);
    let Outcome::Mutated(Ok(Reply::Removed(removed))) = outcome else { panic!("{outcome:?}") };
    assert_eq!((removed.attr.ino, removed.attr.nlink), (file, 0));
    assert!(removed.open_elsewhere);
    assert!(is_accepted(&world.write(0, &[piece(file, 0, 10, 0)]).1[0]));
    let (parent, name) = (Ino::ROOT, b"again".to_vec());
    let link = Op::Link { ino: file, parent, name };
    assert_eq!(world.op(0, link), Err(Errno::NotFound));
    world.verify();
    let ino = file;
    world.act(Action::Unpin { session: two, ino });
    world.act(Action::Unpin { session: two, ino });
    assert_eq!(world.stat(file).size, 10);
    let evicted = false;
    world.act(Action::CloseSession { session: one, evicted });
    assert_eq!(world.ask(&Query::Attr { ino }), Err(Errno::Stale));
    assert_eq!(world.live_stripes(), []);
    world.verify();
}

#[test]
fn a_closed_session_leaves_nothing_and_changes_nothing() {
    let mut world = World::new(2);
    for n in 0..3_000 {
        world.file(0, &n.to_string());
    }
    world.stripe_id(0);
    let session = world.session(0);
    let close = Action::CloseSession { session, evicted: true };
    assert_eq!(world.act(close.clone()), Outcome::Partly);
    world.verify();
    let late = world.propose(0, Op::LeaseInodes, &[]);
    assert_eq!(late, Outcome::NoSession);
    while world.act(close.clone()) == Outcome::Partly {}
    assert_eq!(world.act(close), Outcome::NoSession);
    world.verify();
    assert_eq!(world.act(Action::ForgetSession { session }), Outcome::Done);
    let left = world.pairs().into_iter().filter(|(key, value)| {
        let id = session.0;
        let owned =
            matches!(key[0], b'A' | b'W') && value.windows(8).any(|b| b == id.to_le_bytes());
        let named = matches!(key[0], b'C' | b'J' | b'O' | b'Q') && key[2..10] == id.to_be_bytes();
        owned || named
    });
    assert_eq!(left.count(), 0);
    world.verify();
}

#[test]
fn the_end_of_a_session_looks_at_the_grants_of_others_a_portion_at_a_time() {
    let mut world = World::new(2);
    for n in 0..3_000 {
        world.file(0, &n.to_string());
    }
    let file = world.file(1, "behind all of them");
    let close = Action::CloseSession { session: world.session(1), evicted: true };
    assert_eq!(world.act(close.clone()), Outcome::Partly);
    assert_eq!(caps::holder(&world.store, file).unwrap(), Some(world.session(1)));
    assert_eq!(world.act(close.clone()), Outcome::Done);
    assert_eq!(caps::holder(&world.store, file).unwrap(), None);
    world.verify();
}

#[test]
fn an_evicted_session_can_learn_what_it_was_answered_and_one_that_ended_leaves_nothing() {
    let mut world = World::new(2);
    let (evicted, ended) = (world.session(0), world.session(1));
    let last = world.op(0, Op::LeaseInodes);
    let seq = world.clients[0].seq;
    world.act(Action::CloseSession { session: evicted, evicted: true });
    world.act(Action::CloseSession { session: ended, evicted: false });
    world.verify();
    let slots = |world: &World, session| {
        let owned = |key: &[u8]| key.starts_with(b"Q/") && key[2..10] == session_key(session);
        world.pairs().iter().filter(|(key, _)| owned(key)).count()
    };
    assert_eq!((slots(&world, evicted), slots(&world, ended)), (1, 0));
    let asked = [(Slot(3), SlotSeq(seq)), (Slot(3), SlotSeq(seq + 1)), (Slot(4), SlotSeq(1))];
    let replies = |world: &World, asker: &Session| {
        query::old_replies(&world.store, evicted, asker, &asked).unwrap()
    };
    let next = world.open_session().session;
    let asker = query::session(&world.store, next).unwrap().unwrap();
    assert_eq!(replies(&world, &asker), Some(vec![Some(last), None, None]));
    let mut another = asker.clone();
    another.client.pid += 1;
    assert_eq!(replies(&world, &another), None, "another process");
    let thief = Session { owner: "thief".to_owned(), ..asker.clone() };
    assert_eq!(replies(&world, &thief), None, "it says the same of itself");
    assert_eq!(query::evicted(&world.store).unwrap().len(), 1);
    world.act(Action::ForgetSession { session: evicted });
    assert_eq!(replies(&world, &asker), Some(vec![None, None, None]));
    assert_eq!(slots(&world, evicted), 0);
    world.verify();
}

fn session_key(session: SessionId) -> [u8; 8] {
    session.0.to_be_bytes()
}

#[test]
fn a_server_keeps_its_id_and_key_and_rises_in_epoch() {
    let mut world = World::new(0);
    let before = query::servers(&world.store).unwrap();
    let again = world.register("two", "elsewhere");
    assert_eq!(again, world.servers[1]);
    let servers = query::servers(&world.store).unwrap();
    assert_eq!(servers.len(), 3);
    assert_eq!(servers[1].1.epoch, Epoch(2));
    assert_eq!(servers[1].1.key, before[1].1.key);
    assert_ne!(servers[1].1.key, servers[2].1.key);
    let Ok(Answer::Space(space)) = world.ask(&Query::Space { ino: Ino::ROOT }) else { panic!() };
    assert_eq!((space.total_bytes, space.free_bytes, space.inodes), (6_000, 5_400, 1));

    // The same process, which did not hear the answer.
    let (name, key) = ("two".to_owned(), servers[1].1.key);
    let register = servers[1].1.info.clone();
    let same = Outcome::Server { server: again, epoch: Epoch(2), key };
    assert_eq!(world.act(Action::RegisterServer { name, register, key }), same);
}
