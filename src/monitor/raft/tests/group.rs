//! A group of members in one process, on a network in memory whose links can be cut, each direction by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::watch;

use super::super::elections::Timing;
use super::super::log::LogConfig;
use super::super::{
    Gauge, Keeper, Leadership, Machine, ProposeError, Raft, RaftConfig, Transport, Tuning,
    Unreached,
};
use super::{Ledger, command, ledger};
use crate::env::disk::Room;
use crate::monitor::namespace::command::{Action, Command, Outcome};
use crate::monitor::store::Store;
use crate::monitor::store::disk::DiskStore;
use crate::monitor::store::memory::MemoryStore;
use crate::types::MonitorId;
use crate::wire::peers::{Answer, Ask};

/// Nothing takes so long unless it never comes.
const LONG: Duration = Duration::from_secs(30);

/// The links between all members.
#[derive(Default)]
pub(super) struct Net {
    members: Mutex<BTreeMap<u64, Raft>>,
    /// From whom nothing reaches whom.
    cut: Mutex<BTreeSet<(u64, u64)>>,
    /// Whether messages with entries are lost, and only those.
    loses_entries: AtomicBool,
}

impl Net {
    /// Nothing that `from` says reaches `to` any more.
    pub(super) fn cut(&self, from: u64, to: u64) {
        self.cut.lock().insert((from, to));
    }

    /// Nothing passes between `one` and the others.
    pub(super) fn isolate(&self, one: u64) {
        for other in 1..=9 {
            self.cut(one, other);
            self.cut(other, one);
        }
    }

    /// Nothing is added to anybody's log any more.
    pub(super) fn lose_entries(&self) {
        self.loses_entries.store(true, Ordering::Relaxed);
    }

    pub(super) fn heal(&self) {
        self.cut.lock().clear();
        self.loses_entries.store(false, Ordering::Relaxed);
    }

    fn loses(&self, ask: &Ask) -> bool {
        let has_entries = matches!(ask, Ask::Append { entries, .. } if !entries.is_empty());
        has_entries && self.loses_entries.load(Ordering::Relaxed)
    }

    fn passes(&self, from: u64, to: u64) -> bool {
        !self.cut.lock().contains(&(from, to))
    }
}

/// The network as one member has it.
struct Port {
    me: u64,
    net: Arc<Net>,
}

impl Transport for Port {
    fn ask(
        &self,
        to: MonitorId,
        _: &str,
        ask: Ask,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Answer, Unreached>> {
        let (net, me) = (Arc::clone(&self.net), self.me);
        Box::pin(async move {
            let target = net.members.lock().get(&to.0).cloned();
            let asked = async {
                // What is cut is not refused: it is silence.
                if let Some(target) = target
                    && net.passes(me, to.0)
                    && !net.loses(&ask)
                {
                    // As over a connection: what was sent is carried out even if the asker gives up.
                    let answered =
                        tokio::spawn(async move { target.answer(MonitorId(me), ask).await });
                    let answer = answered.await.expect("no panic");
                    if net.passes(to.0, me) {
                        return answer;
                    }
                }
                std::future::pending().await
            };
            tokio::time::timeout(timeout, asked).await.map_err(|_| Unreached("silence".into()))
        })
    }

    fn address(&self, _: MonitorId) -> Option<String> {
        None
    }
}

/// One member.
pub(super) struct Member {
    pub(super) raft: Raft,
    pub(super) store: Arc<dyn Store>,
    pub(super) persisted: watch::Receiver<Option<openraft::LogId<u64>>>,
}

/// All of them. Directories outlive members that are killed.
pub(super) struct Members {
    pub(super) net: Arc<Net>,
    pub(super) live: BTreeMap<u64, Member>,
    dir: TempDir,
    /// Whether stores are on disk.
    disk: bool,
    /// How many of 1,600 bytes are free on the disk of each member.
    free: Arc<Mutex<BTreeMap<u64, u64>>>,
}

impl Members {
    /// A group of voters `1..=count`.
    pub(super) async fn of(count: u64, disk: bool) -> Self {
        let dir = TempDir::new().unwrap();
        let (net, live, free) = (Arc::default(), BTreeMap::new(), Arc::default());
        let mut group = Self { net, live, dir, disk, free };
        for id in 1..=count {
            group.start(id).await;
        }
        group.live[&1].raft.bootstrap().await.unwrap();
        let leader = group.leader().await;
        for id in 2..=count {
            leader.add_learner(MonitorId(id), "").await.unwrap();
        }
        leader.set_voters(&(1..=count).map(MonitorId).collect()).await.unwrap();
        group
    }

    /// Starts a member on its directory.
    pub(super) async fn start(&mut self, id: u64) {
        self.start_with(id, Arc::new(Ledger::default())).await;
    }

    /// Starts a member whose machine is another one.
    pub(super) async fn start_with(&mut self, id: u64, machine: Arc<dyn Machine>) {
        let dir = self.dir.path().join(id.to_string());
        let store: Arc<dyn Store> = if self.disk {
            Arc::new(DiskStore::open(&dir.join("store")).unwrap())
        } else {
            Arc::new(MemoryStore::new())
        };
        let address = format!("m{id}:1");
        let free = Arc::clone(&self.free);
        let measure = move || {
            let free_bytes = free.lock().get(&id).map_or(1600, |free| *free);
            Ok(Room { total_bytes: 1600, free_bytes })
        };
        let gauge = Arc::new(Gauge::new(measure));
        let config = RaftConfig { dir: dir.join("raft"), id: MonitorId(id), address, gauge };
        let log = LogConfig { segment_bytes: 4096, cache_bytes: 4096 };
        let tuning = Tuning { log, timing: Timing::default() };
        let port = Arc::new(Port { me: id, net: Arc::clone(&self.net) });
        let started = Raft::start_with(config, tuning, store.clone(), machine, port).await;
        let (raft, persisted) = started.unwrap();
        self.net.members.lock().insert(id, raft.clone());
        self.live.insert(id, Member { raft, store, persisted });
    }

    /// So many of 1,600 bytes are free on that member's disk from now on; it keeps 200, and 25 untouched.
    pub(super) fn frees(&self, id: u64, bytes: u64) {
        self.free.lock().insert(id, bytes);
    }

    /// A member is gone, with its process.
    pub(super) async fn stop(&mut self, id: u64) {
        self.net.members.lock().remove(&id);
        let member = self.live.remove(&id).unwrap();
        member.raft.shutdown().await.unwrap();
    }

    /// Waits until one of the live members leads and can prove it.
    pub(super) async fn leader(&self) -> Raft {
        self.leader_among(&self.live.keys().copied().collect::<Vec<_>>()).await
    }

    /// Waits until one of these leads and can prove it.
    pub(super) async fn leader_among(&self, ids: &[u64]) -> Raft {
        let found = until("somebody leads", async || {
            for id in ids {
                let raft = &self.live[id].raft;
                if raft.leadership().borrow().is_leader() && raft.confirm_leadership().await.is_ok()
                {
                    return Some(raft.clone());
                }
            }
            None
        });
        found.await
    }

    /// The id of the leader.
    pub(super) async fn leader_id(&self) -> u64 {
        self.leader().await.inner.id.0
    }

    /// Proposes one action and says under which number it was written down.
    pub(super) async fn write(&self, number: u64) {
        propose(&self.leader().await, number..number + 1).await.unwrap();
    }

    /// Waits until all live members have written down the same, and gives it.
    pub(super) async fn agreed(&self) -> Vec<Action> {
        until("all members have the same", async || {
            let leader = self.leader().await;
            let index = leader.group().applied;
            let all: Vec<_> = self.live.values().map(|member| member.store.as_ref()).collect();
            let same = self.live.values().all(|member| member.raft.group().applied >= index);
            let first = ledger(all[0]);
            (same && all.iter().all(|store| ledger(*store) == first)).then_some(first)
        })
        .await
    }

    /// The keeper of a member, which purges what `bytes` of log do not hold.
    pub(super) fn keeper(&self, id: u64, bytes: u64) -> Keeper {
        let member = &self.live[&id];
        let inner = &member.raft.inner;
        Keeper::new(
            inner.core.clone(),
            inner.log.clone(),
            member.persisted.clone(),
            inner.transfers.clone(),
        )
        .with_bytes(1, bytes, u64::MAX)
    }

    pub(super) async fn end(self) {
        for member in self.live.into_values() {
            member.raft.shutdown().await.unwrap();
        }
    }
}

/// Asks until there is an answer.
pub(super) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < LONG, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Proposes actions under the term that the member is in.
pub(super) async fn propose(
    raft: &Raft,
    numbers: std::ops::Range<u64>,
) -> Result<Vec<Outcome>, ProposeError> {
    let term = raft.leadership().borrow().term;
    raft.propose(&Command { term, ..command(numbers) }).await
}

/// Proposes until somebody takes it; some of it may have happened more than once.
pub(super) async fn write_somewhere(group: &Members, among: &[u64], number: u64) -> Vec<Outcome> {
    until("a write is taken", async || {
        let leader = group.leader_among(among).await;
        match propose(&leader, number..number + 1).await {
            Ok(outcomes) if outcomes.contains(&Outcome::Superseded) => None,
            Ok(outcomes) => Some(outcomes),
            Err(ProposeError::NotLeader { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    })
    .await
}

/// What a member says of the leader.
pub(super) fn leadership(group: &Members, id: u64) -> Leadership {
    group.live[&id].raft.leadership().borrow().clone()
}

/// A machine that is right until it is told to be wrong.
pub(super) fn wrong_after(
    right: u64,
) -> impl Fn(
    &dyn crate::monitor::store::Read,
    &Command,
) -> Result<crate::monitor::namespace::command::Applied, crate::monitor::store::StoreError>
+ Send
+ Sync
+ 'static {
    let ledger = Ledger::default();
    move |read, command| {
        let mut applied = ledger.apply(read, command)?;
        if super::count(read)? >= right {
            applied.batch.insert(b"b".to_vec(), Some(b"wrong".to_vec()));
        }
        Ok(applied)
    }
}
