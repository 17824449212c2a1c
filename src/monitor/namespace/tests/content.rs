//! Maps, and what happens to stripes.

use std::collections::BTreeSet;

use super::super::txn::get;
use super::super::{keys, stripes};
use super::*;
use crate::wire::admin::StripesStatus;

#[test]
fn a_commit_cuts_what_it_overlaps() {
    let mut world = World::new(1);
    let file = world.file(0, "f");
    let (old, _) = world.write(0, &[piece(file, 0, 10 * BLOCK, 0)]);
    let (new, _) = world.write(0, &[piece(file, 3 * BLOCK, 2 * BLOCK, 0)]);
    let b = BLOCK;
    let expected = [
        (0, 3 * b as u32, old, 0),
        (3 * b, 2 * b as u32, new, 0),
        (5 * b, 5 * b as u32, old, 5 * b as u32),
    ];
    assert_eq!(world.map(file), expected);
    assert_eq!(world.stat(file).stored, 10 * BLOCK);
    world.verify();
    world.write(0, &[piece(file, 0, 10 * BLOCK, 0)]);
    assert_eq!(world.live_stripes().len(), 1);
    world.verify();
}

#[test]
fn what_follows_a_ragged_end_begins_on_a_block() {
    let mut world = World::new(1);
    let file = world.file(0, "f");
    let (far, _) = world.write(0, &[piece(file, BLOCK, BLOCK, 0)]);
    // Written when the file ended at 100, committed after the block behind it.
    let (near, _) = world.write(0, &[piece(file, 0, 100, 0)]);
    let block = BLOCK as u32;
    assert_eq!(world.map(file), [(0, 100, near, 0), (BLOCK, block, far, 0)]);
    assert_eq!(world.stat(file).size, 2 * BLOCK);
    let (over, _) = world.write(0, &[piece(file, 0, BLOCK + 10, 0)]);
    assert_eq!(world.map(file), [(0, block + 10, over, 0)]);
    world.verify();
}

#[test]
fn pieces_of_one_stripe_may_overlap() {
    let mut world = World::new(1);
    let file = world.file(0, "f");
    let pieces = [piece(file, 0, 2 * BLOCK, 0), piece(file, 0, 2 * BLOCK, 2 * BLOCK)];
    let (id, outcomes) = world.write(0, &pieces);
    assert!(outcomes.iter().all(is_accepted));
    let expected = [(0, 2 * BLOCK as u32, id, 2 * BLOCK as u32)];
    assert_eq!(world.map(file), expected);
    assert_eq!(world.stat(file).dv, DataVersion(2));
    world.verify();
}

#[test]
fn a_piece_counts_in_every_window_it_crosses() {
    let mut world = World::new(1);
    let file = world.file(0, "f");
    let window = 16 << 20;
    world.write(0, &[piece(file, window - BLOCK, 2 * BLOCK, 0)]);
    let references = |world: &World| {
        let pairs = world.pairs();
        pairs.iter().filter(|(key, _)| key.starts_with(b"F/")).count()
    };
    assert_eq!(references(&world), 2);
    world.verify();
    world.op(0, truncate(file, window)).unwrap();
    assert_eq!(references(&world), 1);
    world.verify();
    world.op(0, truncate(file, 5)).unwrap();
    assert_eq!((references(&world), world.live_stripes().len()), (0, 0));
    world.verify();
}

#[test]
fn truncate_cuts_to_the_byte_and_growing_makes_a_hole() {
    let mut world = World::new(1);
    let file = world.file(0, "f");
    let (id, _) = world.write(0, &[piece(file, 0, 2 * BLOCK, 0)]);
    world.op(0, truncate(file, BLOCK + 1)).unwrap();
    world.op(0, truncate(file, 9 * BLOCK)).unwrap();
    let attr = world.stat(file);
    assert_eq!((attr.size, attr.stored), (9 * BLOCK, BLOCK + 1));
    assert_eq!(world.map(file), [(0, BLOCK as u32 + 1, id, 0)]);
    let too_big = truncate(file, limits::FILE_BYTES_MAX + 1);
    assert_eq!(world.op(0, too_big), Err(Errno::FileTooBig));
    world.verify();
}

/// A file of many extents: every second block of it, each stripe with up to 1,000 pieces.
fn fragmented(world: &mut World, name: &str, extents: u64) -> Ino {
    let file = world.file(0, name);
    let mut done = 0;
    while done < extents {
        let count = 1_000.min(extents - done);
        let pieces: Vec<CommitPiece> =
            (0..count).map(|n| piece(file, (done + n) * 2 * BLOCK, BLOCK, n * BLOCK)).collect();
        world.write(0, &pieces);
        done += count;
    }
    file
}

#[test]
fn a_long_truncate_goes_in_consistent_steps() {
    let mut world = World::new(1);
    let file = fragmented(&mut world, "f", 2_500);
    let size = world.stat(file).size;
    let first = world.propose(0, truncate(file, BLOCK), &[]);
    assert_eq!(first, Outcome::Partly);
    let half_way = world.stat(file).size;
    assert!(half_way < size && half_way > BLOCK);
    world.verify();
    let done = attr(world.op(0, truncate(file, BLOCK)));
    assert_eq!((done.size, done.stored), (BLOCK, BLOCK));
    world.verify();
}

#[test]
fn a_step_touches_no_more_records_when_stripes_are_wide() {
    let mut world = World::new(1);
    for n in world.servers.len()..40 {
        let server = world.register(&format!("server {n}"), &format!("domain {n}"));
        world.servers.push(server);
    }
    let file = world.file(0, "f");
    let stripes = 300;
    for n in 0..stripes {
        let mut commit = world.commit(0, &[piece(file, n * BLOCK, BLOCK, 0)]);
        commit.stripe.width = Width { data: 32, parity: 8 };
        let Ok(Reply::Committed(outcomes)) = world.op(0, Op::Commit(commit)) else {
            panic!("refused");
        };
        assert!(is_accepted(&outcomes[0]));
    }
    // Each of them dies with its only extent, and has 40 shards to be reaped. `act` checks the bound.
    assert_eq!(world.propose(0, truncate(file, 0), &[]), Outcome::Partly);
    world.op(0, truncate(file, 0)).unwrap();
    assert_eq!(world.live_stripes(), []);
    world.verify();
}

#[test]
fn a_long_punch_goes_in_steps_too() {
    let mut world = World::new(1);
    let file = fragmented(&mut world, "f", 2_500);
    let size = world.stat(file).size;
    let punch = Op::Punch {
        ino: file,
        offset: 2 * BLOCK,
        length: 4_900 * BLOCK,
        mtime: Timestamp::default(),
    };
    assert_eq!(world.propose(0, punch.clone(), &[]), Outcome::Partly);
    world.verify();
    let attr = attr(world.op(0, punch));
    assert_eq!((attr.size, attr.stored), (size, 50 * BLOCK));
    world.verify();
}

#[test]
fn a_big_file_is_freed_in_steps_that_nobody_sees() {
    let mut world = World::new(1);
    let file = fragmented(&mut world, "f", 4_500);
    world.op(0, unlink(Ino::ROOT, "f")).unwrap();
    assert_eq!(world.ask(&Query::Attr { ino: file }), Err(Errno::Stale));
    let outcomes = world.write(0, &[piece(file, 0, BLOCK, 0)]).1;
    assert_eq!(outcomes, [PieceOutcome::FileGone]);
    assert_eq!(query::doomed(&world.store, 9).unwrap(), [file]);
    let mut steps = 1;
    while world.act(Action::Free { ino: file }) == Outcome::Partly {
        world.verify();
        steps += 1;
    }
    assert_eq!(steps, 3);
    let usage = query::usage(&world.store, VolumeId::ROOT).unwrap();
    assert_eq!((usage.inodes, usage.bytes, usage.stripes), (1, 0, 0));
    world.verify();
}

#[test]
fn clone_shares_extents() {
    let mut world = World::new(1);
    let from = world.file(0, "from");
    let to = world.file(0, "to");
    let (id, _) = world.write(0, &[piece(from, 0, 4 * BLOCK + 10, 0)]);
    let (other, _) = world.write(0, &[piece(to, 0, 6 * BLOCK, 0)]);
    let range = CloneRange {
        from,
        from_offset: BLOCK,
        to,
        to_offset: 2 * BLOCK,
        length: 2 * BLOCK,
        mtime: Timestamp::default(),
    };
    world.op(0, Op::Clone(range)).unwrap();
    let (b, block) = (BLOCK, BLOCK as u32);
    let expected = [
        (0, 2 * block, other, 0),
        (2 * b, 2 * block, id, block),
        (4 * b, 2 * block, other, 4 * block),
    ];
    assert_eq!(world.map(to), expected);
    world.verify();
    // The ragged end of a file goes to the end of a file only.
    let ragged = CloneRange { from_offset: 4 * BLOCK, length: 10, ..range };
    assert_eq!(world.op(0, Op::Clone(ragged)), Err(Errno::Invalid));
    let ragged = CloneRange { to_offset: 6 * BLOCK, ..ragged };
    let attr = attr(world.op(0, Op::Clone(ragged)));
    assert_eq!(attr.size, 6 * BLOCK + 10);
    // The stripe lives as long as the copy does.
    world.op(0, unlink(Ino::ROOT, "from")).unwrap();
    assert!(world.live_stripes().contains(&id));
    world.op(0, unlink(Ino::ROOT, "to")).unwrap();
    assert_eq!(world.live_stripes(), []);
    world.verify();
}

#[test]
fn clone_within_a_file_and_its_limits() {
    let mut world = World::new(1);
    let file = fragmented(&mut world, "f", 2_001);
    let end = world.stat(file).size.next_multiple_of(2 * BLOCK);
    let range = |to_offset, length| {
        Op::Clone(CloneRange {
            from: file,
            from_offset: 0,
            to: file,
            to_offset,
            length,
            mtime: Timestamp::default(),
        })
    };
    let size = world.stat(file).size;
    assert_eq!(world.op(0, range(end, size)), Err(Errno::TooBig));
    assert_eq!(world.op(0, range(BLOCK, 2 * BLOCK)), Err(Errno::Invalid));
    world.op(0, range(end, 2_000 * BLOCK)).unwrap();
    assert_eq!(world.stat(file).stored, 3_001 * BLOCK);
    world.verify();
}

#[test]
fn an_md5_belongs_to_one_content() {
    let mut world = World::new(1);
    let file = world.file(0, "f");
    let md5 = [5; 16];
    world.write(0, &[piece(file, 0, BLOCK, 0)]);
    let set = |dv| Op::SetMd5 { ino: file, dv: DataVersion(dv), md5 };
    world.op(0, set(0)).unwrap();
    assert_eq!(world.stat(file).md5, None);
    world.op(0, set(1)).unwrap();
    assert_eq!(world.stat(file).md5, Some(md5));
    world.write(0, &[piece(file, 0, BLOCK, 0)]);
    assert_eq!(world.stat(file).md5, None);
    let with_md5 = CommitPiece { md5: Some(md5), ..piece(file, 0, BLOCK, 0) };
    world.write(0, &[with_md5]);
    assert_eq!(world.stat(file).md5, Some(md5));
    world.op(0, truncate(file, 0)).unwrap();
    assert_eq!(world.stat(file).md5, None);
}

#[test]
fn a_map_is_told_in_parts() {
    let mut world = World::new(1);
    let file = fragmented(&mut world, "f", 100);
    let dv = world.stat(file).dv;
    let ask = |offset, length, known, budget| {
        let ino = file;
        let query = Query::Map { ino, offset, length, known };
        match query::answer_within(&world.store, &query, budget).unwrap() {
            Ok(Answer::Map(slice)) => slice.extents,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask(0, 10, Some(dv), 1), None);
    let one = ask(0, u64::MAX, None, 1).unwrap();
    assert_eq!((one.extents.len(), one.to), (1, 2 * BLOCK));
    let part = ask(2 * BLOCK + 1, 3 * BLOCK, None, 10_000).unwrap();
    assert_eq!((part.extents.len(), part.to), (2, 6 * BLOCK));
    assert_eq!(part.stripes.len(), 1);
    // In a hole, the next extent is told.
    let hole = ask(BLOCK, 1, None, 10_000).unwrap();
    assert_eq!((hole.extents.len(), hole.to), (1, 4 * BLOCK));
    let last = ask(198 * BLOCK, 1, None, 10_000).unwrap();
    assert_eq!((last.extents.len(), last.to), (1, u64::MAX));
    let beyond = ask(500 * BLOCK, 1, None, 10_000).unwrap();
    assert_eq!((beyond.extents.len(), beyond.to), (0, u64::MAX));
}

/// What [`query::stripes_status`] says without looking at every stripe.
fn recount(world: &World, not_up: &BTreeSet<ServerId>, lost: &BTreeSet<ShardId>) -> StripesStatus {
    let mut status = StripesStatus::default();
    for id in world.live_stripes() {
        let stripe = get(&world.store, &keys::stripe(id)).unwrap().unwrap();
        let missing = stripes::shards(&stripe.record)
            .filter(|(shard, server)| not_up.contains(server) || lost.contains(shard))
            .count() as u64;
        status.total += 1;
        status.missing_shards += missing;
        status.at_risk += u64::from(missing > 0 || stripe.record.width.parity < 1);
    }
    status
}

#[test]
fn the_risk_of_stripes_is_told_without_looking_at_all() {
    let mut world = World::new(1);
    let file = world.file(0, "f");
    for n in 0..40 {
        let mut commit = world.commit(0, &[piece(file, n * BLOCK, BLOCK, 0)]);
        if n % 3 == 0 {
            // As many copies as there are servers: here on one or two of the three.
            commit.stripe.width = Width { data: 1 + (n % 2) as u8, parity: 0 };
            commit.stripe.shards.rotate_left(n as usize % 3);
            commit.stripe.shards.truncate(commit.stripe.width.total());
            commit.epochs.truncate(commit.stripe.width.total());
        }
        world.op(0, Op::Commit(commit)).unwrap();
    }
    world.op(0, truncate(file, 33 * BLOCK)).unwrap();
    world.verify();
    let stripes = world.live_stripes();
    assert_eq!(stripes.len(), 33);
    let shard = |at: usize, index| ShardId { stripe: stripes[at], index: ShardIndex(index) };
    // Of a dead stripe, of a thin one (which has no second shard), of others.
    let dead = ShardId { stripe: StripeId(stripes[32].0 + 1), index: ShardIndex(0) };
    let lost = BTreeSet::from([dead, shard(0, 0), shard(0, 1), shard(7, 0), shard(7, 2)]);
    let mut told = BTreeSet::new();
    for set in 0..8 {
        let member = |(at, server): (usize, &ServerId)| (set >> at & 1 == 1).then_some(*server);
        let not_up = world.servers.iter().enumerate().filter_map(member).collect();
        for lost in [&BTreeSet::new(), &lost] {
            let status = query::stripes_status(&world.store, &not_up, lost).unwrap();
            assert_eq!(status, recount(&world, &not_up, lost), "{not_up:?} {lost:?}");
            told.insert((status.at_risk, status.missing_shards));
        }
    }
    assert!(told.len() > 8, "{told:?}");
}
