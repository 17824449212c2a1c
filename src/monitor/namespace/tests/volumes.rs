//! Volumes and their quotas.

use super::*;

const KEEP: VolumeChanges =
    VolumeChanges { data: None, parity: None, min_copies: None, bytes_max: None, files_max: None };

/// A quota on bytes.
fn bytes(most: u64) -> VolumeChanges {
    VolumeChanges { bytes_max: Some(Limit::AtMost(most)), ..KEEP }
}

impl World {
    /// A volume below the root.
    fn volume(&mut self, name: &str, changes: VolumeChanges) -> (Ino, VolumeId) {
        let directory = self.directory(Ino::ROOT, name);
        let outcome = self.act(Action::CreateVolume { directory, changes });
        assert_eq!(outcome, Outcome::Done);
        (directory, VolumeId::of(directory))
    }

    fn set(&mut self, directory: Ino, changes: VolumeChanges) -> Outcome {
        self.act(Action::SetVolume { directory, changes })
    }

    fn reserve(&mut self, client: usize, volume: VolumeId, bytes: u64, ahead: u64) -> u64 {
        match self.op(client, Op::Reserve(Reserve { volume, bytes, ahead })) {
            Ok(Reply::Reserved { bytes }) => bytes,
            other => panic!("{other:?}"),
        }
    }

    /// (inodes, bytes, reserved) of a volume.
    fn used(&self, volume: VolumeId) -> (u64, u64, u64) {
        let used = query::usage(&self.store, volume).unwrap();
        (used.inodes, used.bytes, used.reserved)
    }

    /// Writes blocks `from..to` of a file; whether the volume took them.
    fn write_blocks(&mut self, client: usize, ino: Ino, blocks: std::ops::Range<u64>) -> bool {
        let length = (blocks.end - blocks.start) * BLOCK;
        let (_, outcomes) = self.write(client, &[piece(ino, blocks.start * BLOCK, length, 0)]);
        match outcomes[..] {
            [PieceOutcome::Accepted { .. }] => true,
            [PieceOutcome::OverQuota] => false,
            ref other => panic!("{other:?}"),
        }
    }

    /// Time passes.
    fn wait(&mut self, seconds: usize) {
        for _ in 0..seconds {
            self.act(bootstrap());
        }
    }

    fn paths(&self) -> Vec<String> {
        let volumes = query::volumes(&self.store).unwrap();
        volumes.into_iter().map(|volume| volume.path).collect()
    }
}

fn is_refused(outcome: &Outcome, part: &str) -> bool {
    matches!(outcome, Outcome::Refused(why) if why.contains(part))
}

#[test]
fn what_is_made_below_a_volume_belongs_to_it_and_counts_in_it() {
    let mut world = World::new(1);
    let wide = VolumeChanges { data: Some(1), parity: Some(2), ..KEEP };
    let (dir, volume) = world.volume("v", wide);
    let below = world.directory(dir, "below");
    let file = world.create(0, below, "f", FileKind::Regular);
    assert!(world.write_blocks(0, file, 0..3));
    assert_eq!(world.stat(file).volume, volume);
    assert_eq!(world.used(volume), (3, 3 * BLOCK, 0));
    assert_eq!(world.used(VolumeId::ROOT), (1, 0, 0));
    let entries = query::volume_entries(&world.store).unwrap();
    assert_eq!(entries[1].width, Width { data: 1, parity: 2 });
    assert_eq!((entries[0].min_copies, entries[1].min_copies), (2, 2));
    assert_eq!(world.paths(), ["/", "/v"]);
    world.verify();
}

#[test]
fn nothing_crosses_the_border() {
    let mut world = World::new(1);
    let (dir, _) = world.volume("v", KEEP);
    let out = world.file(0, "out");
    let inside = world.create(0, dir, "in", FileKind::Regular);
    for mode in [RenameMode::Replace, RenameMode::NoReplace] {
        let moved = world.op(0, rename(Ino::ROOT, "out", dir, "new", mode));
        assert_eq!(moved, Err(Errno::CrossVolume));
    }
    let link = Op::Link { ino: out, parent: dir, name: b"link".to_vec() };
    assert_eq!(world.op(0, link), Err(Errno::CrossVolume));
    assert!(world.write_blocks(0, out, 0..1));
    let (from, to, length, mtime) = (out, inside, BLOCK, Timestamp::default());
    let clone = CloneRange { from, from_offset: 0, to, to_offset: 0, length, mtime };
    assert_eq!(world.op(0, Op::Clone(clone)), Err(Errno::CrossVolume));
    // Nor does a stripe.
    let commit = world.commit(0, &[piece(out, 0, BLOCK, 0), piece(inside, 0, BLOCK, BLOCK)]);
    assert_eq!(world.op(0, Op::Commit(commit)), Err(Errno::Invalid));
    // A volume is moved as any directory is, in the volume around it.
    world.op(0, rename(Ino::ROOT, "v", Ino::ROOT, "w", RenameMode::Replace)).unwrap();
    assert_eq!(world.paths(), ["/", "/w"]);
    world.verify();
}

#[test]
fn only_an_empty_directory_becomes_a_volume_and_only_once() {
    let mut world = World::new(1);
    let (dir, _) = world.volume("v", KEEP);
    let full = world.directory(Ino::ROOT, "full");
    world.directory(full, "d");
    let file = world.file(0, "f");
    let mut create = |directory| world.act(Action::CreateVolume { directory, changes: KEEP });
    assert!(is_refused(&create(dir), "volume already"));
    assert!(is_refused(&create(Ino::ROOT), "volume already"));
    assert!(is_refused(&create(full), "empty"));
    assert!(is_refused(&create(file), "no directory"));
    assert!(is_refused(&create(Ino(99)), "no directory"));
    assert!(is_refused(&world.set(full, KEEP), "no volume"));
    assert!(is_refused(&world.set(dir, VolumeChanges { data: Some(0), ..KEEP }), "--data"));
    assert_eq!(world.set(Ino::ROOT, KEEP), Outcome::Done);
    world.verify();
}

#[test]
fn a_volume_goes_with_the_last_of_its_inodes() {
    let mut world = World::new(2);
    let (dir, volume) = world.volume("v", bytes(1 << 20));
    let file = world.create(0, dir, "f", FileKind::Regular);
    assert!(world.write_blocks(0, file, 0..2));
    let pinned_by = [world.session(1)];
    world.propose(0, unlink(dir, "f"), &pinned_by);
    world.op(0, Op::Rmdir { parent: Ino::ROOT, name: b"v".to_vec() }).unwrap();
    assert_eq!(world.paths(), ["/"], "nobody finds it any more");
    assert_eq!(world.used(volume), (1, 2 * BLOCK, 0));
    world.verify();
    let session = world.session(1);
    world.act(Action::Unpin { session, ino: file });
    assert_eq!(query::volume_entries(&world.store).unwrap().len(), 1);
    assert_eq!(world.used(volume), (0, 0, 0));
    let late = Reserve { volume, bytes: 1, ahead: 0 };
    assert_eq!(world.op(0, Op::Reserve(late)), Err(Errno::Stale));
    world.verify();
}

#[test]
fn a_quota_of_files_counts_what_is_there() {
    let mut world = World::new(1);
    let (dir, _) = world.volume("v", VolumeChanges { files_max: Some(Limit::AtMost(2)), ..KEEP });
    world.create(0, dir, "one", FileKind::Symlink);
    let number = world.inode_number(0);
    let two = create(dir, "two", number, FileKind::Fifo);
    assert_eq!(world.op(0, two.clone()), Err(Errno::OverQuota));
    let outside = world.directory(Ino::ROOT, "outside");
    assert_eq!(world.stat(outside).volume, VolumeId::ROOT, "which has none");
    world.op(0, unlink(dir, "one")).unwrap();
    world.op(0, two).unwrap();
    let Ok(Answer::Space(space)) = world.ask(&Query::Space { ino: dir }) else { panic!() };
    assert_eq!((space.inodes, space.inodes_free), (2, Some(0)));
    world.verify();
}

#[test]
fn a_quota_of_bytes_is_met_to_the_byte_by_those_who_reserve() {
    let mut world = World::new(2);
    let (dir, volume) = world.volume("v", bytes(100 * BLOCK));
    let a = world.create(0, dir, "a", FileKind::Regular);
    let b = world.create(1, dir, "b", FileKind::Regular);
    assert_eq!(world.reserve(0, volume, 20 * BLOCK, 1 << 30), 25 * BLOCK, "a 16th of the rest");
    assert_eq!(world.reserve(1, volume, 76 * BLOCK, 0), 0, "that is one too many");
    assert_eq!(world.reserve(1, volume, 75 * BLOCK, 1 << 30), 75 * BLOCK);
    // Nobody else has any room, those who reserved it have.
    assert!(world.write_blocks(0, a, 0..25));
    assert!(!world.write_blocks(0, a, 25..26));
    assert!(world.write_blocks(1, b, 0..75));
    assert_eq!(world.used(volume), (3, 100 * BLOCK, 0));
    // What overwrites adds nothing.
    assert!(world.write_blocks(1, b, 10..20));
    assert!(!world.write_blocks(1, b, 70..76), "the last of these is new");
    assert_eq!(world.used(volume), (3, 100 * BLOCK, 0));
    // What is cut off is free at once.
    world.op(0, truncate(a, 20 * BLOCK)).unwrap();
    assert_eq!(world.reserve(1, volume, 5 * BLOCK, 0), 5 * BLOCK);
    assert_eq!(world.reserve(0, volume, BLOCK, 0), 0);
    assert_eq!(world.reserve(1, volume, 2 * BLOCK, 0), 2 * BLOCK, "some is given back");
    assert_eq!(world.reserve(0, volume, BLOCK, 0), BLOCK);
    world.verify();
    let Ok(Answer::Space(space)) = world.ask(&Query::Space { ino: b }) else { panic!() };
    assert_eq!(space.total_bytes, 100 * BLOCK);
}

#[test]
fn a_reservation_ends_with_its_session() {
    let mut world = World::new(2);
    let (_, volume) = world.volume("v", bytes(10 * BLOCK));
    assert_eq!(world.reserve(0, volume, 10 * BLOCK, 0), 10 * BLOCK);
    assert_eq!(world.reserve(1, volume, BLOCK, 0), 0);
    world.verify();
    let session = world.session(0);
    while world.act(Action::CloseSession { session, evicted: true }) == Outcome::Partly {}
    assert_eq!(world.reserve(1, volume, 10 * BLOCK, 0), 10 * BLOCK);
    world.verify();
}

#[test]
fn a_copy_by_reference_counts_and_is_refused_beyond_the_quota() {
    let mut world = World::new(1);
    let (dir, volume) = world.volume("v", bytes(5 * BLOCK));
    let from = world.create(0, dir, "a", FileKind::Regular);
    let to = world.create(0, dir, "b", FileKind::Regular);
    assert!(world.write_blocks(0, from, 0..3));
    let mtime = Timestamp::default();
    let clone =
        |length| Op::Clone(CloneRange { from, from_offset: 0, to, to_offset: 0, length, mtime });
    assert_eq!(world.op(0, clone(3 * BLOCK)), Err(Errno::OverQuota));
    world.op(0, clone(2 * BLOCK)).unwrap();
    assert_eq!(world.used(volume), (3, 5 * BLOCK, 0));
    world.op(0, clone(2 * BLOCK)).unwrap();
    world.verify();
}

#[test]
fn what_was_written_before_there_was_a_quota_is_not_lost() {
    let mut world = World::new(1);
    let (dir, volume) = world.volume("v", KEEP);
    let file = world.create(0, dir, "f", FileKind::Regular);
    assert!(world.write_blocks(0, file, 0..3));
    assert_eq!(world.set(dir, bytes(4 * BLOCK)), Outcome::Done);
    assert!(world.write_blocks(0, file, 3..6), "buffered before its client heard of the quota");
    assert_eq!(world.reserve(0, volume, BLOCK, 0), 0);
    world.wait(30);
    assert!(!world.write_blocks(0, file, 6..7));
    // Lowering a quota takes from nobody what he has reserved.
    assert_eq!(world.set(dir, bytes(10 * BLOCK)), Outcome::Done);
    assert_eq!(world.reserve(0, volume, 3 * BLOCK, 0), 3 * BLOCK);
    assert_eq!(world.set(dir, bytes(BLOCK)), Outcome::Done);
    assert_eq!(world.reserve(0, volume, 4 * BLOCK, 0), 3 * BLOCK);
    assert!(world.write_blocks(0, file, 6..9));
    assert!(!world.write_blocks(0, file, 9..10));
    assert_eq!(
        world.set(dir, VolumeChanges { bytes_max: Some(Limit::None), ..KEEP }),
        Outcome::Done
    );
    assert!(world.write_blocks(0, file, 9..10));
    world.verify();
}

/// What a client may count on, whatever the others do: a write that it has reserved room for is taken, and a quota
/// is never exceeded.
#[test]
fn random_writers_never_exceed_a_quota_nor_lose_what_they_reserved() {
    const BLOCKS: u64 = 60;
    for seed in 1..=20 {
        let mut random = SplitMix(seed);
        let mut world = World::new(3);
        let (dir, volume) = world.volume("v", bytes(BLOCKS * BLOCK));
        let files: Vec<Ino> = (0..3)
            .map(|client| world.create(client, dir, &client.to_string(), FileKind::Regular))
            .collect();
        // What each client knows to be reserved for it, in blocks.
        let mut reserved = [0; 3];
        for _ in 0..150 {
            let client = random.below(3) as usize;
            let file = files[client];
            let (at, count) = (random.below(30), 1 + random.below(6));
            match random.below(8) {
                0 => drop(world.op(client, truncate(file, at * BLOCK)).unwrap()),
                1 => reserved[client] = world.reserve(client, volume, 0, 0) / BLOCK,
                2 => {
                    let session = world.session(client);
                    while world.act(Action::CloseSession { session, evicted: true })
                        == Outcome::Partly
                    {}
                    world.clients[client] = world.open_session();
                    reserved[client] = 0;
                    world.op(client, Op::Acquire { ino: file }).unwrap();
                }
                3 | 4 => {
                    let wanted = reserved[client] + count;
                    let granted = world.reserve(client, volume, wanted * BLOCK, 9 * BLOCK);
                    assert!(granted >= reserved[client] * BLOCK, "seed {seed}");
                    reserved[client] = granted / BLOCK;
                }
                _ => {
                    let taken = world.write_blocks(client, file, at..at + count);
                    assert!(taken || reserved[client] < count, "seed {seed}");
                    reserved[client] -= if taken { count.min(reserved[client]) } else { 0 };
                }
            }
            let (_, stored, held) = world.used(volume);
            assert!(stored + held <= BLOCKS * BLOCK, "seed {seed}: {stored} + {held}");
        }
        world.verify();
    }
}

/// SplitMix64 (Steele, Lea & Flood 2014).
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}
