//! A single voter on a real directory: proposing, being killed, purging, batching. And openraft's own tests of a
//! storage.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use openraft::testing::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::batch::{ACTIONS_MAX, BYTES_MAX};
use super::*;
mod group;
mod groups;
use crate::env::disk::Room;
use crate::monitor::namespace::command::Action;
use crate::monitor::store::disk::DiskStore;
use crate::monitor::store::memory::MemoryStore;
use crate::monitor::store::{Batch, prefix_end};
use crate::types::{Ino, ServerId, SessionId, ShardIndex, StripeId, Timestamp};
use crate::wire;
use crate::wire::peers::{Answer, Ask};
use crate::wire::shards::ShardId;

/// No way to anybody: for groups of one.
struct Nobody;

impl Transport for Nobody {
    fn ask(
        &self,
        to: MonitorId,
        _: &str,
        _: Ask,
        _: Duration,
    ) -> BoxFuture<'static, Result<Answer, Unreached>> {
        Box::pin(async move { Err(Unreached(format!("monitor {to} is not there"))) })
    }

    fn address(&self, _: MonitorId) -> Option<String> {
        None
    }
}

fn small() -> Tuning {
    let log = LogConfig { segment_bytes: 4096, cache_bytes: 4096 };
    Tuning { log, timing: Timing::default() }
}

/// A disk with room.
fn roomy() -> Arc<Gauge> {
    Arc::new(Gauge::new(|| Ok(Room { total_bytes: 100, free_bytes: 100 })))
}

fn time(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanos: 0 }
}

fn action(number: u64) -> Action {
    Action::Unpin { session: SessionId(number), ino: Ino::ROOT }
}

fn command(numbers: std::ops::Range<u64>) -> Command {
    Command { term: 1, time: time(1), actions: numbers.map(action).collect() }
}

/// Writes down every action under the next number, which it reads from the store; counts commands.
#[derive(Default)]
struct Ledger {
    commands: AtomicU64,
}

fn count(read: &dyn Read) -> Result<u64, StoreError> {
    let count = read.get(b"count")?;
    Ok(count.map_or(0, |bytes| wire::decode(&bytes).unwrap()))
}

impl Machine for Ledger {
    fn apply(&self, read: &dyn Read, command: &Command) -> Result<Applied, StoreError> {
        self.commands.fetch_add(1, Ordering::Relaxed);
        let mut count = count(read)?;
        let mut batch = Batch::new();
        let mut outcomes = Vec::new();
        for action in &command.actions {
            let key = [b"a", count.to_be_bytes().as_slice()].concat();
            batch.insert(key, Some(wire::encode(action)));
            outcomes.push(Outcome::Session(SessionId(count)));
            count += 1;
        }
        batch.insert(b"count".to_vec(), Some(wire::encode(&count)));
        Ok(Applied { outcomes, batch })
    }
}

/// What the ledger has written down.
fn ledger(read: &dyn Read) -> Vec<Action> {
    let pairs = read.scan(b"a", &prefix_end(b"a"));
    pairs.map(|pair| wire::decode(&pair.unwrap().1).unwrap()).collect()
}

struct Node {
    raft: Raft,
    store: Arc<dyn Store>,
    machine: Arc<Ledger>,
    persisted: watch::Receiver<Option<LogId<u64>>>,
}

async fn try_start(dir: &Path) -> Result<Node, RaftError> {
    let store: Arc<dyn Store> = Arc::new(DiskStore::open(&dir.join("store"))?);
    let machine = Arc::new(Ledger::default());
    let config = RaftConfig {
        dir: dir.join("raft"),
        id: MonitorId(7),
        address: "127.0.0.1:1".into(),
        gauge: roomy(),
    };
    let (raft, persisted) =
        Raft::start_with(config, small(), store.clone(), machine.clone(), Arc::new(Nobody)).await?;
    raft.bootstrap().await?;
    let node = Node { raft, store, machine, persisted };
    node.lead().await;
    Ok(node)
}

async fn start(dir: &Path) -> Node {
    try_start(dir).await.unwrap()
}

impl Node {
    async fn lead(&self) {
        let mut leadership = self.raft.leadership();
        let leader = leadership.wait_for(Leadership::is_leader).await.unwrap();
        assert_eq!(leader.leader, Some((MonitorId(7), "127.0.0.1:1".into())));
        drop(leader);
        self.raft.confirm_leadership().await.unwrap();
    }

    fn term(&self) -> u64 {
        self.raft.leadership().borrow().term
    }

    fn command(&self, numbers: std::ops::Range<u64>) -> Command {
        Command { term: self.term(), ..command(numbers) }
    }

    async fn propose(&self, numbers: std::ops::Range<u64>) {
        let outcomes = self.raft.propose(&self.command(numbers.clone())).await.unwrap();
        let expected = numbers.map(|number| Outcome::Session(SessionId(number)));
        assert_eq!(outcomes, expected.collect::<Vec<_>>());
    }

    fn keeper(&self) -> Keeper {
        let inner = &self.raft.inner;
        Keeper::new(
            inner.core.clone(),
            inner.log.clone(),
            self.persisted.clone(),
            inner.transfers.clone(),
        )
    }
}

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_survives_a_kill_and_a_shutdown() {
    let dir = TempDir::new().unwrap();
    let live = dir.path().join("live");
    let node = start(&live).await;
    for number in 0..30 {
        node.propose(number * 10..number * 10 + 10).await;
        if number % 10 == 0 {
            let killed = dir.path().join(number.to_string());
            copy_dir(&live, &killed);
            let again = start(&killed).await;
            let expected = command(0..number * 10 + 10).actions;
            assert_eq!(ledger(again.store.as_ref()), expected);
            again.propose(number * 10 + 10..number * 10 + 15).await;
            again.raft.shutdown().await.unwrap();
        }
    }
    let term = node.term();
    node.raft.shutdown().await.unwrap();
    let error = node.raft.propose(&command(0..1)).await.unwrap_err();
    assert!(matches!(error, ProposeError::Stopped(_)), "{error}");
    drop(node);

    let began = Instant::now();
    let again = start(&live).await;
    assert!(again.term() > term, "a leadership that has lost its memory is another one");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(ledger(again.store.as_ref()), command(0..300).actions);
    again.propose(300..301).await;
    again.raft.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_lost_everything_unpersisted_is_brought_up_again() {
    let dir = TempDir::new().unwrap();
    let node = start(&dir.path().join("live")).await;
    node.propose(0..50).await;
    copy_dir(&dir.path().join("live/store"), &dir.path().join("cut/store"));
    node.propose(50..90).await;
    node.propose(90..95).await;
    copy_dir(&dir.path().join("live/raft"), &dir.path().join("cut/raft"));
    let again = start(&dir.path().join("cut")).await;
    assert_eq!(ledger(again.store.as_ref()), command(0..95).actions);
    again.raft.shutdown().await.unwrap();
    node.raft.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_purged_below_what_was_persisted_only() {
    let dir = TempDir::new().unwrap();
    let live = dir.path().join("live");
    let node = start(&live).await;
    copy_dir(&live.join("store"), &dir.path().join("old/store"));
    let mut keeper = node.keeper().with_bytes(20_000, 6000, 12_000);
    let log = node.raft.inner.log.clone();
    // A member that takes a state again and again, and never has it, holds up nothing for ever.
    let transfers = node.raft.inner.transfers.clone();
    for number in 0..200 {
        node.propose(number * 10..number * 10 + 10).await;
    }
    assert_eq!(log.purged(), None);
    let mut persisted = node.persisted.clone();
    persisted.borrow_and_update();
    keeper.tick().await.unwrap();
    persisted.changed().await.unwrap();
    let covered = persisted.borrow().unwrap().index;
    // openraft may learn of the persist after us: the keeper asks again with every tick.
    let purged_beyond = async |keeper: &mut Keeper, before| {
        let began = Instant::now();
        while log.purged() <= before {
            assert!(began.elapsed() < Duration::from_secs(30), "nothing is purged");
            transfers.advanced();
            keeper.tick().await.unwrap();
        }
        log.purged()
    };
    let little = purged_beyond(&mut keeper, None).await;
    keeper = keeper.with_bytes(20_000, 6000, 6000);
    purged_beyond(&mut keeper, little).await;
    assert!(log.purged().unwrap().index <= covered);
    assert!(log.purged().unwrap().index > 100, "{:?}", log.purged());
    node.propose(2000..2010).await;
    let killed = dir.path().join("killed");
    copy_dir(&live, &killed);
    node.raft.shutdown().await.unwrap();

    let again = start(&killed).await;
    assert_eq!(ledger(again.store.as_ref()), command(0..2010).actions);
    again.propose(2010..2011).await;
    again.raft.shutdown().await.unwrap();

    copy_dir(&live.join("raft"), &dir.path().join("old/raft"));
    let error = try_start(&dir.path().join("old")).await.err().unwrap();
    assert!(matches!(error, RaftError::StateTooOld { .. }), "{error}");
    copy_dir(&live.join("store"), &dir.path().join("alone/store"));
    let error = try_start(&dir.path().join("alone")).await.err().unwrap();
    assert!(matches!(error, RaftError::LogMissing { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_fails_stops_the_monitor_and_says_why() {
    let dir = TempDir::new().unwrap();
    let broken = |_: &dyn Read, _: &Command| Err(StoreError("the disk is on fire".into()));
    let config = RaftConfig {
        dir: dir.path().to_owned(),
        id: MonitorId(1),
        address: String::new(),
        gauge: roomy(),
    };
    let raft =
        Raft::start(config, Arc::new(MemoryStore::new()), Arc::new(broken), Arc::new(Nobody))
            .await
            .unwrap();
    let error = raft.confirm_leadership().await.unwrap_err();
    assert_eq!(error, ProposeError::NotLeader { leader: None });
    raft.bootstrap().await.unwrap();
    let mut leadership = raft.leadership();
    leadership.wait_for(Leadership::is_leader).await.unwrap();
    let term = leadership.borrow().term;
    let error = raft.propose(&Command { term, ..command(0..1) }).await.unwrap_err();
    assert!(matches!(error, ProposeError::Stopped(_)), "{error}");
    let stopped = leadership.wait_for(|now| now.stopped.is_some()).await.unwrap();
    assert!(stopped.stopped.as_ref().unwrap().contains("on fire"), "{stopped:?}");
    drop(stopped);
    raft.shutdown().await.unwrap();
}

/// On one thread all that is submitted in a row waits before anything is packed.
#[tokio::test]
async fn actions_are_packed_and_keep_their_order() {
    let dir = TempDir::new().unwrap();
    let node = start(dir.path()).await;
    let batcher = Batcher::start(node.raft.clone(), || time(42));
    let before = node.machine.commands.load(Ordering::Relaxed);
    let term = node.term();
    let waiting: Vec<_> = (0..5000).map(|number| batcher.submit(term, action(number))).collect();
    for (number, waiting) in waiting.into_iter().enumerate() {
        let outcome = waiting.await.unwrap();
        assert_eq!(outcome, Outcome::Session(SessionId(number as u64)));
    }
    assert_eq!(ledger(node.store.as_ref()), command(0..5000).actions);
    let entries = node.machine.commands.load(Ordering::Relaxed) - before;
    assert_eq!(entries, 5000u64.div_ceil(ACTIONS_MAX as u64));

    // Long actions fill an entry by their bytes, and one that is longer than an entry goes alone.
    let shard = ShardId { stripe: StripeId(1), index: ShardIndex(0) };
    let long = |bytes: usize| Action::Reaped {
        server: ServerId(1),
        shards: vec![shard; bytes / wire::encode(&shard).len()],
    };
    let waiting: Vec<_> = [BYTES_MAX / 2 - 100, BYTES_MAX / 2 - 100, BYTES_MAX, 100]
        .map(|bytes| batcher.submit(term, long(bytes)))
        .into();
    let before = node.machine.commands.load(Ordering::Relaxed);
    for waiting in waiting {
        waiting.await.unwrap();
    }
    let entries = node.machine.commands.load(Ordering::Relaxed) - before;
    assert_eq!(entries, 3);

    node.raft.shutdown().await.unwrap();
    let error = batcher.submit(term, action(0)).await.unwrap_err();
    assert!(matches!(error, ProposeError::Stopped(_)), "{error}");
}

#[tokio::test]
async fn what_was_made_under_another_term_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let node = start(dir.path()).await;
    node.propose(0..1).await;
    let stale = Command { term: node.term() - 1, ..command(1..3) };
    assert_eq!(node.raft.propose(&stale).await.unwrap(), vec![Outcome::Superseded; 2]);
    // The packer does not put actions of two terms into one entry, and keeps their order.
    let batcher = Batcher::start(node.raft.clone(), || time(42));
    let terms = [0, 1, 0, 0, 1].map(|ago| node.term() - ago);
    let waiting: Vec<_> =
        terms.iter().zip(1..).map(|(term, number)| batcher.submit(*term, action(number))).collect();
    let mut outcomes = Vec::new();
    for waiting in waiting {
        outcomes.push(waiting.await.unwrap());
    }
    let session = |number| Outcome::Session(SessionId(number));
    let stale = Outcome::Superseded;
    assert_eq!(outcomes, [session(1), stale.clone(), session(2), session(3), stale]);
    let applied: Vec<Action> = [0, 1, 3, 4].map(action).into();
    assert_eq!(ledger(node.store.as_ref()), applied);
    node.raft.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_are_pipelined_in_order() {
    let dir = TempDir::new().unwrap();
    let node = start(dir.path()).await;
    let mut waiting = Vec::new();
    for number in 0..100 {
        let command = node.command(number..number + 1);
        waiting.push(node.raft.enqueue(&command).await.unwrap());
    }
    for (number, waiting) in waiting.into_iter().enumerate() {
        let expected = vec![Outcome::Session(SessionId(number as u64))];
        assert_eq!(waiting.await.unwrap(), expected);
    }
    node.raft.shutdown().await.unwrap();
}

/// Makes fresh storages for openraft's own tests.
struct Builder;

impl StoreBuilder<TypeConfig, LogStorage, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStorage, StateMachine), types::StorageError> {
        let dir = TempDir::new().unwrap();
        let log = Log::open(dir.path(), LogConfig::default(), roomy()).unwrap();
        let store = Arc::new(MemoryStore::new());
        let (ended, _) = oneshot::channel();
        let (persisted, _) = watch::channel(None);
        let machine = Arc::new(Ledger::default());
        let (state, _) =
            StateMachine::start(store, machine, Arc::default(), persisted, ended).unwrap();
        Ok((dir, LogStorage(Arc::new(log), 1), state))
    }
}

#[test]
fn openraft_is_content_with_the_storage() {
    Suite::test_all(Builder).unwrap();
}

#[test]
fn formats_of_memberships_are_those_of_their_level() {
    let found = wire::formats::fingerprints![types::Members, types::StoredMembers];
    wire::formats::check("monitor/raft/formats.table", &found);
}
