//! The store's promises, most of them on a disk that crashes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use super::*;
use crate::codec::shard::{StripeIdent, build};
use crate::codec::tests::Random;
use crate::env::disk::Access;
use crate::env::sim::disk::SimDisk;
use crate::env::system::disk::SystemDisk;
use crate::env::system::rpc::payload::Buffer;
use crate::types::{Incarnation, ServerId, ShardIndex, StripeId, Width};
use crate::wire::formats::{check, of_bytes};

const CLUSTER: ClusterId = ClusterId(0xc1);
const SMALL: usize = 30_000;
const LARGE: usize = 300_000;

fn id(stripe: u64) -> ShardId {
    ShardId { stripe: StripeId(stripe), index: ShardIndex(1) }
}

/// The mirror shard of a stripe with that many random bytes, drawn from `seed`.
fn image_of(stripe: u64, length: usize, seed: u64) -> Bytes {
    let ident = StripeIdent {
        cluster: CLUSTER,
        incarnation: Incarnation(0),
        stripe: StripeId(stripe),
        width: Width { data: 1, parity: 1 },
    };
    let payload = Bytes::from(Random(seed).bytes(length));
    let image = build(ident, &payload, &[]).remove(1);
    let parts: Vec<Bytes> = std::iter::once(image.head).chain(image.data).collect();
    Bytes::from(parts.concat())
}

fn image(stripe: u64, length: usize) -> Bytes {
    image_of(stripe, length, stripe)
}

fn hash_of(image: &Bytes) -> ShardHash {
    Head::parse(image).unwrap().header.hash
}

fn open(disk: &SimDisk) -> Store {
    Store::open(Arc::new(disk.clone()), CLUSTER, None).unwrap()
}

fn listed(store: &Store) -> Vec<u64> {
    let (shards, rest) = store.list(ShardId::default(), usize::MAX);
    assert_eq!(rest, None);
    shards.iter().map(|(id, _)| id.stripe.0).collect()
}

fn assert_whole(store: &Store, id: ShardId, image: &Bytes) {
    let hash = hash_of(image);
    assert_eq!(store.verify(id, true), Verdict::Present { hash }, "{id:?}");
    let head = Head::parse(image).unwrap();
    let (sums, data) = store.get(id, 0, head.header.blocks()).unwrap();
    assert_eq!(sums, head.checksums);
    assert_eq!(data, image[head.header.head_bytes() as usize..]);
}

fn packs_of(disk: &SimDisk) -> Vec<String> {
    let files = disk.files().into_iter();
    files.filter(|path| path.starts_with(PACKS)).collect()
}

#[test]
fn shards_come_go_and_come_back_after_a_restart() {
    let disk = SimDisk::new(1 << 30);
    let store = open(&disk);
    for (stripe, length) in [(1, SMALL), (2, LARGE), (3, 1), (4, 4 << 20)] {
        let image = image(stripe, length);
        assert_eq!(store.put(id(stripe), &image), Ok(hash_of(&image)));
        assert_eq!(store.put(id(stripe), &image), Ok(hash_of(&image)));
        assert_whole(&store, id(stripe), &image);
    }
    let (sums, data) = store.get(id(2), 7, 2).unwrap();
    let head_bytes = image(2, LARGE).len() - 74 * BLOCK as usize;
    assert_eq!(data, image(2, LARGE)[head_bytes..][7 * 4096..9 * 4096]);
    assert_eq!(sums.len(), 2);
    assert_eq!(store.get(id(2), 74, 1), Err(Refusal::Malformed));
    assert_eq!(store.get(id(2), 0, 0), Err(Refusal::Malformed));
    assert_eq!(store.get(id(2), u32::MAX, 2), Err(Refusal::Malformed));
    assert_eq!(store.get(id(9), 0, 1), Err(Refusal::NotFound));
    let used: usize = [(1, SMALL), (2, LARGE), (3, 1), (4, 4 << 20)]
        .map(|(stripe, length)| image(stripe, length).len())
        .iter()
        .sum();
    assert_eq!(store.usage().unwrap().used_bytes, used as u64);
    assert_eq!(store.delete(&[id(2), id(3), id(9)]).len(), 3);
    for store in [store, open(&disk)] {
        assert_eq!(listed(&store), [1, 4]);
        assert_eq!(store.verify(id(2), true), Verdict::Missing);
        assert_eq!(store.get(id(3), 0, 1), Err(Refusal::NotFound));
        assert_whole(&store, id(1), &image(1, SMALL));
        assert_whole(&store, id(4), &image(4, 4 << 20));
        assert_eq!(store.take_lost(), []);
    }
}

#[test]
fn a_list_comes_in_portions() {
    let store = open(&SimDisk::new(1 << 30));
    for stripe in 0..10 {
        store.put(id(stripe), &image(stripe, 1)).unwrap();
    }
    let (first, rest) = store.list(ShardId::default(), 4);
    assert_eq!((first.len(), rest), (4, Some(id(4))));
    let (second, rest) = store.list(id(4), 6);
    assert_eq!((second.len(), rest), (6, None));
}

#[test]
fn another_content_and_broken_images_are_refused() {
    let disk = SimDisk::new(1 << 30);
    let store = open(&disk);
    for length in [SMALL, LARGE] {
        let first = image_of(1, length, 1);
        store.put(id(1), &first).unwrap();
        let other = image_of(1, length, 2);
        assert_eq!(store.put(id(1), &other), Err(Refusal::OtherContent));
        assert_whole(&store, id(1), &first);
        assert_eq!(store.put(id(2), &first), Err(Refusal::Malformed));
        assert_eq!(store.put(id(1), &first.slice(..4096)), Err(Refusal::Malformed));
        assert_eq!(store.put(id(1), &Bytes::new()), Err(Refusal::Malformed));
        for at in [20, 100, first.len() - 1] {
            let mut broken = image_of(3, length, 3).to_vec();
            broken[at] ^= 4;
            assert_eq!(store.put(id(3), &broken.into()), Err(Refusal::Malformed));
        }
        store.delete(&[id(1)]);
    }
    let other = Store::open(Arc::new(SimDisk::new(1 << 30)), ClusterId(1), None).unwrap();
    assert_eq!(other.put(id(1), &image(1, 1)), Err(Refusal::Malformed));
}

#[test]
fn a_directory_of_another_cluster_is_refused_and_not_touched() {
    for length in [SMALL, LARGE] {
        let disk = SimDisk::new(1 << 30);
        open(&disk).put(id(1), &image(1, length)).unwrap();
        let refused = |disk: &SimDisk| {
            let before = disk.steps();
            let opened = Store::open(Arc::new(disk.clone()), ClusterId(7), None);
            let error = opened.err().expect("refused").to_string();
            assert!(error.contains(&CLUSTER.to_string()), "{error}");
            assert_eq!(disk.steps(), before, "nothing was changed");
        };
        refused(&disk);
        disk.remove("identity").unwrap();
        refused(&disk);
        let store = open(&disk);
        assert_whole(&store, id(1), &image(1, length));
        assert_eq!(store.identity(), Identity::new(CLUSTER));
    }
}

#[test]
fn the_identity_survives() {
    let disk = SimDisk::new(1 << 30);
    let identity = Identity { server: Some(ServerId(4)), ..Identity::new(CLUSTER) };
    open(&disk).set_identity(identity).unwrap();
    disk.crash(1);
    assert_eq!(open(&disk).identity(), identity);
}

#[test]
fn a_full_disk_refuses_puts_and_still_deletes() {
    for length in [SMALL, LARGE] {
        let disk = SimDisk::new(4 << 20);
        let store = open(&disk);
        let full = (0..).find(|&stripe| {
            let put = store.put(id(stripe), &image(stripe, length));
            assert!(matches!(put, Ok(_) | Err(Refusal::Full)), "{put:?}");
            put.is_err()
        });
        let full = full.unwrap();
        assert!(full > 5);
        let usage = store.usage().unwrap();
        assert!(usage.used_bytes <= usage.capacity_bytes && usage.capacity_bytes < 4 << 20);
        let all: Vec<ShardId> = (0..full).map(id).collect();
        assert_eq!(store.delete(&all).len(), all.len());
        store.put(id(full), &image(full, length)).unwrap();
    }
    let disk = Arc::new(SimDisk::new(1 << 30));
    let store = Store::open(disk, CLUSTER, Some(100_000)).unwrap();
    assert_eq!(store.usage().unwrap().capacity_bytes, 100_000);
    store.put(id(1), &image(1, 80_000)).unwrap();
    assert_eq!(store.put(id(2), &image(2, 80_000)), Err(Refusal::Full));
}

#[test]
fn rot_is_reported_once_read_around_and_put_right() {
    for (length, path) in
        [(SMALL, "packs/00000000.pack"), (LARGE, "shards/00/0000000000000001-01.shard")]
    {
        let disk = SimDisk::new(1 << 30);
        let store = open(&disk);
        let image = image(1, length);
        store.put(id(1), &image).unwrap();
        let start = if length == SMALL { 4096 } else { 0 };
        disk.flip(path, start + 4096 + 2 * 4096 + 77, 3);
        let (sums, data) = store.get(id(1), 0, 5).unwrap();
        let bad = checksum::damaged_blocks(StripeId(1), ShardIndex(1), 0, &data, &sums);
        assert_eq!(bad, [2]);
        assert_eq!(store.take_lost(), [id(1)]);
        store.get(id(1), 0, 5).unwrap();
        assert_eq!(store.take_lost(), []);
        let verdict = Verdict::Damaged { blocks: vec![2] };
        assert_eq!(store.verify(id(1), false), verdict);
        assert!(listed(&store).is_empty());
        store.put(id(1), &image).unwrap();
        assert_whole(&store, id(1), &image);
        let store = open(&disk);
        assert_whole(&store, id(1), &image);
        assert_eq!(store.take_lost(), []);
    }
}

#[test]
fn files_that_somebody_removes_are_missed() {
    for (length, path) in
        [(SMALL, "packs/00000000.pack"), (LARGE, "shards/00/0000000000000001-01.shard")]
    {
        let disk = SimDisk::new(1 << 30);
        let store = open(&disk);
        let image = image(1, length);
        store.put(id(1), &image).unwrap();
        assert_whole(&store, id(1), &image);
        disk.remove(path).unwrap();
        assert_eq!(store.verify(id(1), true), Verdict::Damaged { blocks: Vec::new() });
        assert_eq!(store.take_lost(), [id(1)]);
        store.put(id(1), &image).unwrap();
        store.put(id(2), &image_of(2, length, 2)).unwrap();
        for store in [store, open(&disk)] {
            assert_whole(&store, id(1), &image);
            assert_eq!(listed(&store), [1, 2]);
        }
    }
}

#[test]
fn a_damaged_head_costs_one_shard_of_a_segment() {
    let disk = SimDisk::new(1 << 30);
    let store = open(&disk);
    // Enough to fill a segment, so that it is sealed.
    for stripe in 0..20 {
        store.put(id(stripe), &image(stripe, SMALL)).unwrap();
    }
    assert_eq!(packs_of(&disk).len(), 2);
    let record = image(0, SMALL).len();
    // In the header of one, in the checksums of another.
    disk.flip("packs/00000000.pack", 4096 + 3 * record + 40, 0);
    disk.flip("packs/00000000.pack", 4096 + 5 * record + 90, 0);
    let store = open(&disk);
    let expected: Vec<u64> = (0..20).filter(|stripe| ![3, 5].contains(stripe)).collect();
    assert_eq!(listed(&store), expected);
    assert_eq!(store.take_lost(), [id(5)]);
    for stripe in expected {
        assert_whole(&store, id(stripe), &image(stripe, SMALL));
    }
}

#[test]
fn an_unreadable_sector_costs_one_shard_and_not_the_start() {
    let disk = SimDisk::new(1 << 30);
    let store = open(&disk);
    for stripe in 0..20 {
        store.put(id(stripe), &image(stripe, SMALL)).unwrap();
    }
    for stripe in 20..23 {
        store.put(id(stripe), &image(stripe, LARGE)).unwrap();
    }
    let record = image(0, SMALL).len();
    // A head in a sealed segment; data in the one without a seal; the head of a large shard.
    disk.break_sector("packs/00000000.pack", 4096 + 3 * record + 90);
    disk.break_sector("packs/00000001.pack", 4096 + 5000);
    disk.break_sector("shards/00/0000000000000015-01.shard", 7);
    let first = (512 << 10) / record as u64;
    let store = open(&disk);
    let expected: Vec<u64> = (0..23).filter(|stripe| ![3, first, 21].contains(stripe)).collect();
    assert_eq!(listed(&store), expected);
    let mut lost = store.take_lost();
    lost.sort();
    assert_eq!(lost, [id(first), id(21)], "of the third not even the name can be read");
}

#[test]
fn a_full_disk_starts_and_reads() {
    let disk = SimDisk::new(1 << 30);
    let store = open(&disk);
    for (stripe, length) in [(1, SMALL), (2, LARGE)] {
        store.put(id(stripe), &image(stripe, length)).unwrap();
    }
    disk.fill(true);
    for _ in 0..2 {
        let store = open(&disk);
        assert_whole(&store, id(1), &image(1, SMALL));
        assert_whole(&store, id(2), &image(2, LARGE));
        assert_eq!(store.put(id(3), &image(3, SMALL)), Err(Refusal::Full));
    }
    assert_eq!(open(&disk).delete(&[id(1), id(2)]).len(), 2);
    disk.fill(false);
    let store = open(&disk);
    assert_eq!(listed(&store), [0u64; 0]);
    store.put(id(3), &image(3, SMALL)).unwrap();
}

/// An image as a later okapifs would write it.
fn of_version_2(image: &Bytes) -> Vec<u8> {
    let mut bytes = image.to_vec();
    bytes[8] = 2;
    let crc = crc_fast::crc32_iscsi(&bytes[8..76]);
    bytes[76..80].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn what_a_later_version_wrote_is_neither_removed_nor_put_aside() {
    let disk = SimDisk::new(1 << 30);
    open(&disk).put(id(1), &image(1, SMALL)).unwrap();
    let pack = disk.open("packs/00000000.pack", Access::Cached).unwrap();
    pack.write(4096, &of_version_2(&image(1, SMALL))).unwrap();
    assert_eq!(listed(&open(&disk)), [0u64; 0]);
    assert_eq!(packs_of(&disk), ["packs/00000000.pack"]);

    let disk = SimDisk::new(1 << 30);
    open(&disk).put(id(1), &image(1, LARGE)).unwrap();
    let path = "shards/00/0000000000000001-01.shard";
    let file = disk.open(path, Access::Cached).unwrap();
    file.write(0, &of_version_2(&image(1, LARGE))).unwrap();
    let error = Store::open(Arc::new(disk.clone()), CLUSTER, None).err().expect("refused");
    assert!(error.to_string().contains("format version 2"), "{error}");
    assert!(disk.files().iter().any(|file| file == path));
}

#[test]
fn a_cut_off_segment_names_what_it_lost() {
    let disk = SimDisk::new(1 << 30);
    let store = open(&disk);
    for stripe in 0..3 {
        store.put(id(stripe), &image(stripe, SMALL)).unwrap();
    }
    let record = image(0, SMALL).len();
    let path = "packs/00000000.pack";
    let whole = disk.open(path, Access::Cached).unwrap().read(0, 4096 + 3 * record).unwrap();
    let cut = disk.create(path, Access::Cached).unwrap();
    cut.write(0, &whole[..4096 + 2 * record + 9000]).unwrap();
    let store = open(&disk);
    assert_eq!(listed(&store), [0, 1]);
    assert_eq!(store.take_lost(), [id(2)]);
    // Marked: the next start has nothing new to say.
    assert_eq!(open(&disk).take_lost(), []);
}

#[test]
fn an_image_marked_as_dead_is_refused() {
    let store = open(&SimDisk::new(1 << 30));
    let mut bytes = image(1, SMALL).to_vec();
    bytes[..8].copy_from_slice(&crate::codec::shard::DEAD_MARK);
    assert_eq!(store.put(id(1), &bytes.into()), Err(Refusal::Malformed));
}

#[test]
fn damaged_files_go_into_quarantine() {
    let disk = SimDisk::new(1 << 30);
    let store = open(&disk);
    for stripe in 0..4 {
        store.put(id(stripe), &image(stripe, LARGE)).unwrap();
    }
    let path = |stripe: u64| format!("shards/00/{stripe:016x}-01.shard");
    disk.flip(&path(0), 50, 1);
    let cut = disk.create(&path(1), Access::Cached).unwrap();
    cut.write(0, &image(1, LARGE)[..200_000]).unwrap();
    disk.create("shards/00/0000000000000009-01.tmp", Access::Cached).unwrap();
    disk.rename(&path(2), &path(8)).unwrap();
    let store = open(&disk);
    assert_eq!(listed(&store), [3]);
    let mut lost = store.take_lost();
    lost.sort();
    assert_eq!(lost, [id(0), id(1), id(8)]);
    let files = disk.files();
    let aside = files.iter().filter(|path| path.starts_with("quarantine/"));
    assert_eq!(aside.count(), 3);
    assert!(!files.iter().any(|path| path.ends_with(".tmp")));
}

#[test]
fn a_dead_segment_is_removed_and_stays_away() {
    for seed in 0..8 {
        let disk = SimDisk::new(1 << 30);
        let store = open(&disk);
        for stripe in 0..40 {
            store.put(id(stripe), &image(stripe, SMALL)).unwrap();
        }
        let before = packs_of(&disk).len();
        let doomed: Vec<ShardId> = (0..30).map(id).collect();
        assert_eq!(store.delete(&doomed).len(), 30);
        assert!(packs_of(&disk).len() < before);
        disk.crash(seed);
        let store = open(&disk);
        assert_eq!(listed(&store), (30..40).collect::<Vec<u64>>());
    }
}

/// What the script below was promised before the disk died.
#[derive(Default)]
struct Promised {
    stored: BTreeMap<ShardId, Bytes>,
    gone: BTreeSet<ShardId>,
    tried: BTreeMap<ShardId, Bytes>,
}

/// The shards that the script puts: small and large, enough for several segments.
static IMAGES: LazyLock<Vec<Bytes>> = LazyLock::new(|| {
    let length_of = |stripe| if stripe % 5 == 4 { LARGE } else { 60_000 };
    (0..24).map(|stripe| image(stripe, length_of(stripe))).collect()
});

/// Puts and deletes.
fn script(store: &Store) -> Promised {
    let mut promised = Promised::default();
    for (stripe, image) in (0..).zip(&*IMAGES) {
        if store.put(id(stripe), image).is_ok() {
            promised.stored.insert(id(stripe), image.clone());
        }
        promised.tried.insert(id(stripe), image.clone());
        if stripe % 6 == 5 {
            let doomed = [id(stripe - 5), id(stripe - 3), id(stripe - 1)];
            for id in doomed {
                promised.stored.remove(&id);
            }
            promised.gone.extend(store.delete(&doomed));
        }
    }
    promised
}

fn assert_kept(store: &Store, promised: &Promised, case: &str) {
    for (id, image) in &promised.stored {
        assert_whole(store, *id, image);
    }
    let (shards, _) = store.list(ShardId::default(), usize::MAX);
    for (id, hash) in shards {
        assert!(!promised.gone.contains(&id), "{id:?} came back, {case}");
        assert_eq!(hash, hash_of(&promised.tried[&id]));
        assert_eq!(store.verify(id, true), Verdict::Present { hash }, "{case}");
    }
}

#[test]
fn promises_hold_when_the_disk_dies_at_any_step() {
    let disk = SimDisk::new(1 << 30);
    let store = open(&disk);
    let before = disk.steps();
    assert_eq!(script(&store).gone.len(), 12);
    let steps = disk.steps() - before;
    for step in 0..=steps {
        let case = format!("dead at step {step}, which is also the seed");
        let disk = SimDisk::new(1 << 30);
        let store = open(&disk);
        disk.fail_after(step);
        let promised = script(&store);
        disk.crash(step);
        let store = open(&disk);
        assert_kept(&store, &promised, &case);
        // What was not acknowledged is put again: it must be durable now, whatever lay there.
        let mut promised = promised;
        for (id, image) in &promised.tried {
            if !promised.gone.contains(id) && !promised.stored.contains_key(id) {
                assert_eq!(store.put(*id, image), Ok(hash_of(image)), "{case}");
                promised.stored.insert(*id, image.clone());
            }
        }
        disk.crash(step + 1);
        assert_kept(&open(&disk), &promised, &case);
    }
}

#[test]
fn promises_hold_when_the_disk_dies_while_it_starts() {
    for step in 0..12 {
        for seed in 0..6 {
            let disk = SimDisk::new(1 << 30);
            let store = open(&disk);
            disk.fail_after(40);
            let promised = script(&store);
            disk.crash(seed);
            disk.fail_after(step);
            let reopened = Store::open(Arc::new(disk.clone()), CLUSTER, None);
            drop(reopened);
            disk.crash(seed + 1);
            assert_kept(&open(&disk), &promised, &format!("step {step}, seed {seed}"));
        }
    }
}

#[test]
fn many_threads_on_a_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = || Arc::new(SystemDisk::new(dir.path()));
    let store = Store::open(disk(), CLUSTER, None).unwrap();
    let length_of = |stripe| if stripe % 8 == 0 { LARGE } else { 9000 };
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for stripe in thread * 20..thread * 20 + 20 {
                    let image = image(stripe, length_of(stripe));
                    let mut aligned = Buffer::new(image.len());
                    aligned.copy_from_slice(&image);
                    store.put(id(stripe), &aligned.freeze()).unwrap();
                    assert_whole(store, id(stripe), &image);
                    if stripe % 3 == 0 {
                        assert_eq!(store.delete(&[id(stripe)]), [id(stripe)]);
                    }
                }
            });
        }
    });
    drop(store);
    let store = Store::open(disk(), CLUSTER, None).unwrap();
    let expected: Vec<u64> = (0..160).filter(|stripe| stripe % 3 != 0).collect();
    assert_eq!(listed(&store), expected);
    for stripe in expected {
        assert_whole(&store, id(stripe), &image(stripe, length_of(stripe)));
    }
}

#[test]
fn a_disk_that_takes_no_writes_is_told_until_it_takes_one_again() {
    let disk = SimDisk::new(1 << 30);
    let store = open(&disk);
    assert_eq!(store.trouble(), None);
    disk.fail_after(0);
    assert_eq!(store.put(id(1), &image(1, LARGE)), Err(Refusal::Disk));
    assert!(store.trouble().is_some());
    assert!(store.trouble().is_some(), "it was tried again");
    disk.fail_after(u64::MAX);
    assert_eq!(store.trouble(), None);
}

#[test]
fn a_full_disk_is_no_trouble() {
    let disk = SimDisk::new(1 << 20);
    let store = open(&disk);
    assert_eq!(store.put(id(1), &image(1, 2 << 20)), Err(Refusal::Full));
    assert_eq!(store.trouble(), None);
}

#[test]
fn formats_of_a_servers_files_are_those_of_their_level() {
    let found = [
        ("a shard".to_owned(), of_bytes(&image(7, 5000))),
        ("the header of a segment".to_owned(), of_bytes(&segment::header(ClusterId(1), 2))),
        ("the seal of a segment".to_owned(), of_bytes(&segment::seal(ClusterId(1), 2))),
    ];
    check("server/store/formats.table", &found);
}
