//! Both stores against one sorted map, and the store on disk against crashes.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use proptest::prelude::*;

use super::disk::DiskStore;
use super::memory::MemoryStore;
use super::{Batch, Pair, Read, Store, journal};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Debug)]
enum Step {
    Write(Batch),
    Scan(Vec<u8>, Vec<u8>),
    Snapshot,
    Persist,
    Replace(Map),
    Reopen,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(0u8..4, 1..4)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..20)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => proptest::collection::btree_map(key(), proptest::option::of(value()), 0..8)
            .prop_map(Step::Write),
        4 => (key(), key()).prop_map(|(from, to)| Step::Scan(from, to)),
        1 => Just(Step::Snapshot),
        1 => Just(Step::Persist),
        1 => proptest::collection::btree_map(key(), value(), 0..8).prop_map(Step::Replace),
        1 => Just(Step::Reopen),
    ]
}

fn everything(read: &dyn Read) -> Map {
    read.scan(&[], &[9]).collect::<Result<_, _>>().unwrap()
}

fn write(model: &mut Map, batch: &Batch) {
    for (key, value) in batch {
        match value {
            Some(value) => model.insert(key.clone(), value.clone()),
            None => model.remove(key),
        };
    }
}

fn check_scan(store: &dyn Store, model: &Map, from: &[u8], to: &[u8]) {
    let expected: Vec<Pair> = model
        .iter()
        .filter(|(key, _)| key.as_slice() >= from && key.as_slice() < to)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let up: Vec<Pair> = store.scan(from, to).collect::<Result<_, _>>().unwrap();
    assert_eq!(up, expected);
    let mut down: Vec<Pair> = store.scan(from, to).rev().collect::<Result<_, _>>().unwrap();
    down.reverse();
    assert_eq!(down, expected);

    let mut both = store.scan(from, to);
    let mut met = 0;
    while let Some(pair) = if met % 2 == 0 { both.next() } else { both.next_back() } {
        assert!(expected.contains(&pair.unwrap()));
        met += 1;
    }
    assert_eq!(met, expected.len(), "from both ends, each pair once");
}

fn run<S: Store>(mut store: S, reopen: impl Fn(S) -> S, steps: &[Step]) {
    let mut model = Map::new();
    let mut snapshots: Vec<(Box<dyn Read + Send>, Map)> = Vec::new();
    for step in steps {
        match step {
            Step::Write(batch) => {
                store.write(batch).unwrap();
                write(&mut model, batch);
            }
            Step::Scan(from, to) => check_scan(&store, &model, from, to),
            Step::Snapshot => snapshots.push((store.snapshot(), model.clone())),
            Step::Persist => store.persist().unwrap(),
            Step::Replace(pairs) => {
                let new = pairs.clone().into_iter().map(Ok);
                store.replace(Box::new(new)).unwrap();
                model.clone_from(pairs);
            }
            Step::Reopen => {
                snapshots.clear();
                store = reopen(store);
            }
        }
        assert_eq!(everything(&store), model);
        for (snapshot, then) in &snapshots {
            assert_eq!(&everything(snapshot.as_ref()), then, "a snapshot changed");
        }
        for key in model.keys() {
            assert_eq!(store.get(key).unwrap().as_ref(), model.get(key));
        }
        assert_eq!(store.get(&[7]).unwrap(), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_memory_it_is_a_sorted_map(steps in proptest::collection::vec(step(), 0..40)) {
        run(MemoryStore::new(), |store| store, &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn on_disk_it_is_a_sorted_map(steps in proptest::collection::vec(step(), 0..25)) {
        let dir = tempfile::tempdir().unwrap();
        let open = || DiskStore::open(dir.path()).unwrap();
        run(open(), |store| { drop(store); open() }, &steps);
    }
}

/// What a process that is killed leaves: the files as they are, without what it had in memory.
fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Two keys that change together, and a value that spans several pages.
fn numbered(number: u64) -> Batch {
    let value = number.to_be_bytes().to_vec();
    let bulk = vec![number as u8 | 1; 20_000];
    Batch::from([
        (b"a".to_vec(), Some(value.clone())),
        (b"b".to_vec(), Some(bulk)),
        (b"c".to_vec(), Some(value)),
    ])
}

fn number(store: &DiskStore) -> u64 {
    let read = |key: &[u8]| store.get(key).unwrap().unwrap();
    assert_eq!(read(b"a"), read(b"c"), "half a batch");
    let number = u64::from_be_bytes(read(b"a").try_into().unwrap());
    assert_eq!(store.get(b"b").unwrap().unwrap()[0], number as u8 | 1);
    number
}

#[test]
fn a_killed_process_leaves_whole_batches_and_what_was_persisted() {
    let dir = tempfile::tempdir().unwrap();
    let store = DiskStore::open(&dir.path().join("live")).unwrap();
    for written in 0..40 {
        store.write(&numbered(written)).unwrap();
        if written == 20 {
            store.persist().unwrap();
        }
        if written >= 20 {
            let copy = dir.path().join(written.to_string());
            copy_dir(&dir.path().join("live"), &copy);
            let found = number(&DiskStore::open(&copy).unwrap());
            assert!((20..=written).contains(&found), "{found} after {written}");
        }
    }
}

#[test]
fn pages_missing_in_the_unsynced_end_of_the_journal_are_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let store = DiskStore::open(&live).unwrap();
    let journal_of = |dir: &Path| journal::journals(&dir.join("state.1")).unwrap()[0].1.clone();
    for written in 0..4 {
        store.write(&numbered(written)).unwrap();
    }
    store.persist().unwrap();
    let content = fs::read(journal_of(&live)).unwrap();
    let end = content.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let batch = end / 4;

    for page in batch.div_ceil(4096)..end.div_ceil(4096) {
        let torn = dir.path().join(page.to_string());
        copy_dir(&live, &torn);
        let file = OpenOptions::new().write(true).open(journal_of(&torn)).unwrap();
        file.write_all_at(&[0; 4096], page as u64 * 4096).unwrap();
        let found = number(&DiskStore::open(&torn).unwrap());
        let whole = (page * 4096 / batch) as u64;
        assert_eq!(found, whole - 1, "with page {page} missing");
    }
}

#[test]
fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _store = DiskStore::open(dir.path()).unwrap();
    let error = DiskStore::open(dir.path()).err().unwrap();
    assert!(error.to_string().contains("in use"), "{error}");
}

#[test]
fn a_replacement_that_was_not_finished_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = DiskStore::open(dir.path()).unwrap();
    store.write(&numbered(5)).unwrap();
    let broken = [Ok((b"a".to_vec(), Vec::new())), Err(super::StoreError("cut off".into()))];
    store.replace(Box::new(broken.into_iter())).unwrap_err();
    assert_eq!(number(&store), 5);
    drop(store);
    assert_eq!(number(&DiskStore::open(dir.path()).unwrap()), 5);
    assert!(!dir.path().join("state.2").exists());
}

#[test]
fn a_process_that_ended_while_it_made_the_store_is_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("state.1")).unwrap();
    fs::write(dir.path().join("state.1/0.jnl"), b"").unwrap();
    let store = DiskStore::open(dir.path()).unwrap();
    store.write(&numbered(3)).unwrap();
    drop(store);
    fs::remove_file(dir.path().join("current")).unwrap();
    assert_eq!(number(&DiskStore::open(dir.path()).unwrap()), 3);
    fs::remove_file(dir.path().join("current")).unwrap();
    copy_dir(&dir.path().join("state.1"), &dir.path().join("state.2"));
    let error = DiskStore::open(dir.path()).err().unwrap();
    assert!(error.to_string().contains("several states"), "{error}");
}
