//! The state, as openraft asks for it: apply, and the snapshot that is always there.
//!
//! **Apply** runs on a thread of its own, because it reads and writes the store. Each entry is one batch, which
//! also says that the entry was applied: the two cannot part in a crash. The store does not wait for the disk,
//! so after a crash it may be some entries back, and openraft applies those again from the log.
//!
//! **A snapshot** is not a file. The store itself is the snapshot: openraft is told of one "up to entry n" when
//! a persist has finished that began after n was applied, and may then forget the log up to n. Only a member
//! that lags behind the log ever needs the pairs themselves: a [`StateImage`] is a frozen view of the store,
//! read while it is sent, and installed by [`Store::replace`], which switches to the new state atomically and
//! durably before openraft forgets a log entry.

#![expect(clippy::result_large_err, reason = "the error is openraft's")]

use std::collections::BTreeSet;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use bincode::{Decode, Encode};
use openraft::storage::RaftStateMachine;
use openraft::{
    AnyError, EntryPayload, LogId, OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta,
    StorageIOError, StoredMembership,
};
use tokio::sync::{oneshot, watch};

use super::Machine;
use super::hashes::{self, Hashes};
use super::snapshot::StateImage;
use super::types::{self, Entry, Peer, StorageError, StoredMembers, TypeConfig};
use crate::monitor::namespace::command::{Command, Outcome};
use crate::monitor::store::{Batch, Read, Store, StoreError};
use crate::types::{MonitorId, Position};
use crate::wire;
use crate::wire::peers::StateHash;

/// The last applied entry.
const APPLIED: &[u8] = b"meta/raft/applied";
/// The last applied membership.
const MEMBERS: &[u8] = b"meta/raft/members";

/// The hash of everything that was ever applied, see `hashes`.
const HASH: &[u8] = b"meta/raft/hash";

/// First byte of these records.
const RECORD_VERSION: u8 = 1;

type AppliedState = (Option<LogId<u64>>, StoredMembership<u64, Peer>);
type Meta = SnapshotMeta<u64, Peer>;

/// Where a state is in the history.
pub(super) fn applied_state(read: &dyn Read) -> Result<AppliedState, StoreError> {
    let applied = get(read, APPLIED)?.map(types::log_id);
    let members = get(read, MEMBERS)?.map(StoredMembers::stored);
    Ok((applied, members.unwrap_or_default()))
}

/// The members whose vote counts whatever happens next: those in every set of voters that is committed. A leader
/// that has begun to change them, or has ended the change in its own log only, may be gone in the next moment, and
/// then the others go by what was committed.
///
/// # Errors
///
/// When the state cannot be read.
pub fn certain_voters(read: &dyn Read) -> Result<BTreeSet<MonitorId>, StoreError> {
    let (_, members) = applied_state(read)?;
    let sets = members.membership().get_joint_config().iter();
    let certain = sets.cloned().reduce(|some, more| &some & &more);
    Ok(certain.into_iter().flatten().map(MonitorId).collect())
}

/// Reads one of our records.
fn get<T: Decode<()>>(read: &dyn Read, key: &[u8]) -> Result<Option<T>, StoreError> {
    read.get(key)?.map(|bytes| decoded(key, &bytes)).transpose()
}

/// What [`encoded`] wrote.
fn decoded<T: Decode<()>>(key: &[u8], bytes: &[u8]) -> Result<T, StoreError> {
    let undecodable = |what: String| {
        let key = String::from_utf8_lossy(key);
        StoreError(format!("{key} is not what was written: {what}"))
    };
    match bytes {
        [RECORD_VERSION, record @ ..] => {
            wire::decode(record).map_err(|error| undecodable(error.to_string()))
        }
        _ => Err(undecodable("unknown version".into())),
    }
}

/// One of our records.
fn encoded(record: &impl Encode) -> Vec<u8> {
    [&[RECORD_VERSION], wire::encode(record).as_slice()].concat()
}

fn meta(read: &dyn Read) -> Result<Meta, StoreError> {
    let (last_log_id, last_membership) = applied_state(read)?;
    let snapshot_id = last_log_id.map_or_else(|| "empty".to_owned(), |id| id.to_string());
    Ok(SnapshotMeta { last_log_id, last_membership, snapshot_id })
}

/// The state in openraft's hands.
pub(super) struct StateMachine {
    store: Arc<dyn Store>,
    persisted: watch::Sender<Option<LogId<u64>>>,
    jobs: mpsc::Sender<Job>,
}

/// What the thread that applies is asked for.
enum Job {
    Apply(Vec<Entry>, oneshot::Sender<Result<Vec<Vec<Outcome>>, StorageError>>),
    Install(Box<Meta>, Box<StateImage>, oneshot::Sender<Result<(), StorageError>>),
}

impl StateMachine {
    /// Starts the thread. It ends, and drops `ended`, when openraft has dropped the state machine.
    /// `persisted` is told up to where the state is durable, `hashes` every entry's hash.
    pub(super) fn start(
        store: Arc<dyn Store>,
        machine: Arc<dyn Machine>,
        hashes: Arc<Hashes>,
        persisted: watch::Sender<Option<LogId<u64>>>,
        ended: oneshot::Sender<()>,
    ) -> Result<(Self, JoinHandle<()>), StoreError> {
        let (jobs, waiting) = mpsc::channel();
        let hash = load_hash(store.as_ref(), &hashes)?;
        let applier = Applier { store: store.clone(), machine, hash, hashes };
        let thread = std::thread::Builder::new().name("raft-apply".into()).spawn(move || {
            applier.run(&waiting);
            drop(ended);
        });
        let thread = thread.map_err(|error| StoreError(format!("no thread to apply: {error}")))?;
        let machine = Self { store, persisted, jobs };
        Ok((machine, thread))
    }

    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, StorageError>>) -> Job,
    ) -> Result<T, StorageError> {
        let gone = || StorageIOError::write_state_machine(AnyError::error("apply has panicked"));
        let (answer, waiting) = oneshot::channel();
        self.jobs.send(job(answer)).map_err(|_| gone())?;
        waiting.await.map_err(|_| gone())?
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = Persister;

    async fn applied_state(&mut self) -> Result<AppliedState, StorageError> {
        applied_state(self.store.as_ref()).map_err(read_failed)
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Vec<Outcome>>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().collect();
        self.ask(|answer| Job::Apply(entries, answer)).await
    }

    async fn get_snapshot_builder(&mut self) -> Persister {
        Persister { store: self.store.clone(), persisted: self.persisted.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<StateImage>, StorageError> {
        let empty = crate::monitor::store::memory::MemoryStore::new();
        Ok(Box::new(StateImage::Frozen(Box::new(empty))))
    }

    async fn install_snapshot(
        &mut self,
        meta: &Meta,
        image: Box<StateImage>,
    ) -> Result<(), StorageError> {
        let meta = Box::new(meta.clone());
        self.ask(|answer| Job::Install(meta, image, answer)).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        let frozen = self.store.snapshot();
        let meta = meta(frozen.as_ref()).map_err(read_failed)?;
        Ok(meta
            .last_log_id
            .is_some()
            .then(|| Snapshot { meta, snapshot: Box::new(StateImage::Frozen(frozen)) }))
    }
}

/// "Builds a snapshot": makes the state durable, so that the log up to it may go.
pub(super) struct Persister {
    store: Arc<dyn Store>,
    persisted: watch::Sender<Option<LogId<u64>>>,
}

impl RaftSnapshotBuilder<TypeConfig> for Persister {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let store = self.store.clone();
        let persisted = tokio::task::spawn_blocking(move || {
            // What is told is read before the persist begins: all of it is covered.
            let frozen = store.snapshot();
            let meta = meta(frozen.as_ref())?;
            store.persist()?;
            Ok((meta, frozen))
        });
        let panicked = |panic| StorageIOError::write_snapshot(None, AnyError::new(&panic));
        let (meta, frozen) = persisted.await.map_err(panicked)?.map_err(|error: StoreError| {
            StorageIOError::write_snapshot(None, AnyError::new(&error))
        })?;
        self.persisted.send_replace(meta.last_log_id);
        Ok(Snapshot { meta, snapshot: Box::new(StateImage::Frozen(frozen)) })
    }
}

/// What the thread owns.
struct Applier {
    store: Arc<dyn Store>,
    machine: Arc<dyn Machine>,
    /// After the last entry.
    hash: u64,
    hashes: Arc<Hashes>,
}

impl Applier {
    fn run(mut self, waiting: &mpsc::Receiver<Job>) {
        while let Ok(job) = waiting.recv() {
            // An answer that nobody waits for any more: openraft is being shut down.
            match job {
                Job::Apply(entries, answer) => drop(answer.send(self.apply_all(entries))),
                Job::Install(meta, image, answer) => {
                    drop(answer.send(self.install(&meta, &image)));
                }
            }
        }
    }

    fn apply_all(&mut self, entries: Vec<Entry>) -> Result<Vec<Vec<Outcome>>, StorageError> {
        entries.into_iter().map(|entry| self.apply(entry)).collect()
    }

    fn apply(&mut self, entry: Entry) -> Result<Vec<Outcome>, StorageError> {
        let id = entry.log_id;
        let failed = |error: AnyError| StorageIOError::apply(id, error);
        let (outcomes, mut batch) = match entry.payload {
            EntryPayload::Blank => (Vec::new(), Batch::new()),
            EntryPayload::Normal(proposal) => {
                let command = proposal.command().map_err(|error| failed(AnyError::new(&error)))?;
                if command.term == id.leader_id.term {
                    let applied = self.machine.apply(self.store.as_ref(), &command);
                    let applied = applied.map_err(|error| failed(AnyError::new(&error)))?;
                    (applied.outcomes, applied.batch)
                } else {
                    (superseded(&command), Batch::new())
                }
            }
            EntryPayload::Membership(membership) => {
                let members = StoredMembers::of(&StoredMembership::new(Some(id), membership));
                let members = (MEMBERS.to_vec(), Some(encoded(&members)));
                (Vec::new(), Batch::from([members]))
            }
        };
        batch.insert(APPLIED.to_vec(), Some(encoded(&types::position(id))));
        let hash = hashes::chain(self.hash, &batch);
        batch.insert(HASH.to_vec(), Some(encoded(&hash)));
        let written = self.store.write(&batch);
        written.map_err(|error| failed(AnyError::new(&error)))?;
        self.hash = hash;
        self.hashes.push(StateHash { index: id.index, hash });
        Ok(outcomes)
    }

    fn install(&mut self, expected: &Meta, image: &StateImage) -> Result<(), StorageError> {
        let failed = |error: AnyError| StorageIOError::write_snapshot(None, error);
        let replaced = image.pairs().and_then(|pairs| self.store.replace(pairs));
        replaced.map_err(|error| failed(AnyError::new(&error)))?;
        let found = meta(self.store.as_ref()).map_err(read_failed)?;
        if found != *expected {
            let error = format!("the received state is {found}, not {expected}");
            return Err(failed(AnyError::error(error)).into());
        }
        self.hash = load_hash(self.store.as_ref(), &self.hashes).map_err(read_failed)?;
        Ok(())
    }
}

/// What comes of a command that was made under another term than it came into the log.
fn superseded(command: &Command) -> Vec<Outcome> {
    vec![Outcome::Superseded; command.actions.len()]
}

/// The hash of the state as it is; tells the others of this process.
fn load_hash(read: &dyn Read, hashes: &Hashes) -> Result<u64, StoreError> {
    let hash = get(read, HASH)?.unwrap_or(0);
    if let Some(at) = get::<Position>(read, APPLIED)? {
        hashes.push(StateHash { index: at.index, hash });
    }
    Ok(hash)
}

/// A membership as it is in the state.
pub(super) fn encoded_members(members: &StoredMembership<u64, Peer>) -> Vec<u8> {
    encoded(&StoredMembers::of(members))
}

/// What [`encoded_members`] wrote.
pub(super) fn decoded_members(bytes: &[u8]) -> Result<StoredMembership<u64, Peer>, StoreError> {
    decoded(MEMBERS, bytes).map(StoredMembers::stored)
}

fn read_failed(error: StoreError) -> StorageError {
    StorageIOError::read_state_machine(AnyError::new(&error)).into()
}

#[cfg(test)]
mod tests {
    use openraft::Membership;

    use super::*;
    use crate::monitor::store::memory::MemoryStore;

    #[test]
    fn while_voters_change_only_those_of_both_sets_are_certain() {
        let store = MemoryStore::new();
        assert_eq!(certain_voters(&store).unwrap(), BTreeSet::new());
        for (sets, certain) in [(vec![vec![1]], vec![1]), (vec![vec![1, 2], vec![2, 3]], vec![2])] {
            let sets: Vec<BTreeSet<u64>> =
                sets.into_iter().map(|set| set.into_iter().collect()).collect();
            let members = StoredMembership::new(None, Membership::new(sets, None));
            let batch = [(MEMBERS.to_vec(), Some(encoded_members(&members)))].into();
            store.write(&batch).unwrap();
            let certain = certain.into_iter().map(MonitorId).collect();
            assert_eq!(certain_voters(&store).unwrap(), certain);
        }
    }
}
