//! The store on disk: fjall, a log-structured merge tree.
//!
//! All pairs are in one keyspace (fjall keeps batches across keyspaces atomic only through its journal), and
//! the store runs without waiting for that journal: commands are durable through the Raft log. So a crash may
//! take the latest batches back, but only whole ones and only the latest (`journal` says why), and
//! Raft applies them again. [`Store::persist`], run now and then, bounds how many.
//!
//! ```text
//! DIR/current      the number of the state that counts, as text; replaced by rename
//! DIR/state.7/     a fjall database
//! ```
//!
//! A state that arrives from another monitor ([`Store::replace`]) is built beside the one that counts, synced,
//! and then `current` is switched: at every moment there is one whole state.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fjall::config::{PartitioningPolicy, PinningPolicy};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};
use parking_lot::RwLock;

use super::journal;
use super::syncer::{Syncer, sync_journals};
use super::{Batch, Incoming, Pairs, Read, Store, StoreError};

/// Blocks read from disk that are kept in memory, in bytes.
const CACHE_BYTES: u64 = 96 << 20;
/// Changes kept in memory before they are written to a table, in bytes; up to 5 times that while the disk is
/// behind, then writing waits for it.
const MEMTABLE_BYTES: u64 = 24 << 20;
/// fjall's journals on disk, in bytes.
const JOURNAL_BYTES: u64 = 128 << 20;
/// Threads that write tables and merge them. With more than one, fjall's first leaves merging to the others and
/// until they have time hands it back to its queue, again and again: a whole core for as long as they merge.
const WORKERS: usize = 1;
/// Pairs written at a time when a whole state is written.
const REPLACE_PAIRS: usize = 1024;

const CURRENT: &str = "current";

/// Pairs in a directory.
pub struct DiskStore {
    dir: PathBuf,
    state: RwLock<Arc<State>>,
}

impl DiskStore {
    /// Opens the store in `dir`, or makes an empty one there.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read or written, is in use by another process, or is damaged.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let failed = |error| io_failed(dir, &error);
        std::fs::create_dir_all(dir).map_err(failed)?;
        let current = read_current(dir)?;
        let number = match current {
            Some(number) => number,
            None => first_state(dir)?,
        };
        let state = State::open(dir.join(state_name(number)), number)?;
        if current.is_none() {
            switch(dir, number).map_err(failed)?;
        }
        remove_other_states(dir, number).map_err(failed)?;
        Ok(Self { dir: dir.to_owned(), state: RwLock::new(Arc::new(state)) })
    }

    fn state(&self) -> Arc<State> {
        self.state.read().clone()
    }
}

impl Read for DiskStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.state().keyspace().get(key).map_err(failed)?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan<'a>(&'a self, from: &[u8], to: &[u8]) -> Pairs<'a> {
        if from >= to {
            return Box::new(std::iter::empty());
        }
        pairs(self.state().keyspace().range(from..to))
    }
}

impl Store for DiskStore {
    fn write(&self, batch: &Batch) -> Result<(), StoreError> {
        let state = self.state();
        let keyspace = state.keyspace();
        let mut changes = state.database().batch();
        let mut bytes = 0;
        for (key, value) in batch {
            bytes += key.len() + value.as_ref().map_or(0, Vec::len);
            match value {
                Some(value) => changes.insert(keyspace, key.as_slice(), value.as_slice()),
                None => changes.remove(keyspace, key.as_slice()),
            }
        }
        changes.commit().map_err(failed)?;
        state.syncer.written(bytes as u64);
        state.begin_memtable_if_full(bytes as u64)
    }

    fn persist(&self) -> Result<(), StoreError> {
        self.state().persist()
    }

    fn snapshot(&self) -> Box<dyn Read + Send> {
        let state = self.state();
        Box::new(Frozen { snapshot: state.database().snapshot(), state })
    }

    fn replace(&self, pairs: Incoming<'_>) -> Result<(), StoreError> {
        let number = self.state().number + 1;
        let dir = self.dir.join(state_name(number));
        let failed = |error| io_failed(&dir, &error);
        if dir.exists() {
            std::fs::remove_dir_all(&dir).map_err(failed)?;
        }
        let state = State::open(dir.clone(), number)?;
        state.fill(pairs)?;
        state.persist()?;
        switch(&self.dir, number).map_err(failed)?;
        let old = std::mem::replace(&mut *self.state.write(), Arc::new(state));
        old.retired.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// A snapshot, and the database that it is of.
struct Frozen {
    snapshot: Snapshot,
    state: Arc<State>,
}

impl Read for Frozen {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.snapshot.get(self.state.keyspace(), key).map_err(failed)?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan<'a>(&'a self, from: &[u8], to: &[u8]) -> Pairs<'a> {
        if from >= to {
            return Box::new(std::iter::empty());
        }
        pairs(self.snapshot.range(self.state.keyspace(), from..to))
    }
}

fn pairs<'a>(found: fjall::Iter) -> Pairs<'a> {
    Box::new(found.map(|guard| {
        let (key, value) = guard.into_inner().map_err(failed)?;
        Ok((key.to_vec(), value.to_vec()))
    }))
}

/// One fjall database; its directory goes with it once it is retired and nobody reads it any more.
struct State {
    number: u64,
    dir: PathBuf,
    open: Option<(Database, Keyspace)>,
    syncer: Syncer,
    /// Bytes written since the memtable was begun.
    in_memtable: AtomicU64,
    retired: AtomicBool,
}

impl State {
    fn open(dir: PathBuf, number: u64) -> Result<Self, StoreError> {
        let open = match open_database(&dir) {
            Err(fjall::Error::JournalRecovery(error)) => {
                let cut = journal::mend(&dir).map_err(|error| io_failed(&dir, &error))?;
                log::warn!(
                    "{}: the journal's unsynced end was torn ({error}); cut off {cut} bytes, Raft has them",
                    dir.display()
                );
                open_database(&dir)
            }
            other => other,
        };
        Ok(Self {
            number,
            open: Some(open.map_err(|error| explain(&dir, error))?),
            syncer: Syncer::start(dir.clone()).map_err(|error| io_failed(&dir, &error))?,
            dir,
            in_memtable: AtomicU64::new(0),
            retired: AtomicBool::new(false),
        })
    }

    fn database(&self) -> &Database {
        let (database, _) = self.open.as_ref().expect("taken only when dropped");
        database
    }

    fn keyspace(&self) -> &Keyspace {
        let (_, keyspace) = self.open.as_ref().expect("taken only when dropped");
        keyspace
    }

    /// fjall lets its worker decide when a memtable is full, which it does when it has finished merging, and
    /// lets writing wait only when there are many full ones. So that there is a bound, we decide.
    fn begin_memtable_if_full(&self, bytes: u64) -> Result<(), StoreError> {
        let before = self.in_memtable.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes < MEMTABLE_BYTES {
            return Ok(());
        }
        self.in_memtable.store(0, Ordering::Relaxed);
        self.keyspace().rotate_memtable().map(drop).map_err(failed)
    }

    fn fill(&self, pairs: Incoming<'_>) -> Result<(), StoreError> {
        let mut changes = self.database().batch();
        for pair in pairs {
            let (key, value) = pair?;
            changes.insert(self.keyspace(), key, value);
            if changes.len() >= REPLACE_PAIRS {
                let full = std::mem::replace(&mut changes, self.database().batch());
                full.commit().map_err(failed)?;
            }
        }
        changes.commit().map_err(failed)
    }

    /// fjall holds the lock of its journal while it syncs, and no batch can be written meanwhile. So the
    /// journal's pages are brought to disk first, without the lock: what is left for fjall is little.
    fn persist(&self) -> Result<(), StoreError> {
        let database = self.database();
        database.persist(PersistMode::Buffer).map_err(failed)?;
        sync_journals(&self.dir).map_err(|error| io_failed(&self.dir, &error))?;
        database.persist(PersistMode::SyncAll).map_err(failed)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        drop(self.open.take());
        if self.retired.load(Ordering::Relaxed)
            && let Err(error) = std::fs::remove_dir_all(&self.dir)
        {
            log::warn!("{}: not removed: {error}", self.dir.display());
        }
    }
}

fn open_database(dir: &Path) -> Result<(Database, Keyspace), fjall::Error> {
    let database = Database::builder(dir)
        .cache_size(CACHE_BYTES)
        .max_journaling_size(JOURNAL_BYTES)
        .manual_journal_persist(true)
        .worker_threads(WORKERS)
        .open()?;
    let keyspace = database.keyspace("state", || {
        KeyspaceCreateOptions::default()
            .max_memtable_size(2 * MEMTABLE_BYTES)
            .manual_journal_persist(true)
            // A key that is looked for is in one table at most, and often in none: what says so of each table,
            // and where in it to look, is small, and never read again from the disk.
            .filter_block_pinning_policy(PinningPolicy::all(true))
            .filter_block_partitioning_policy(PartitioningPolicy::all(false))
            .index_block_pinning_policy(PinningPolicy::all(true))
            .index_block_partitioning_policy(PartitioningPolicy::all(false))
    })?;
    Ok((database, keyspace))
}

fn state_name(number: u64) -> String {
    format!("state.{number}")
}

fn read_current(dir: &Path) -> Result<Option<u64>, StoreError> {
    let path = dir.join(CURRENT);
    match std::fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(StoreError(format!("{}: not a number", path.display()))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_failed(&path, &error)),
    }
}

/// The state to begin with where none counts yet. A process that ended while it made the first one may have
/// left it, finished or not.
fn first_state(dir: &Path) -> Result<u64, StoreError> {
    let failed = |error| io_failed(dir, &error);
    let mut finished = Vec::new();
    for (number, path) in states(dir).map_err(failed)? {
        // fjall writes its version last.
        if path.join("version").exists() {
            finished.push(number);
        } else {
            std::fs::remove_dir_all(path).map_err(failed)?;
        }
    }
    match finished.as_slice() {
        [] => Ok(1),
        [number] => Ok(*number),
        several => Err(StoreError(format!(
            "{}: the file `{CURRENT}` is missing, and there are several states ({several:?})",
            dir.display()
        ))),
    }
}

/// All states, finished or not.
fn states(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let number =
            path.file_name().and_then(|name| name.to_str()?.strip_prefix("state.")?.parse().ok());
        found.extend(number.map(|number| (number, path)));
    }
    Ok(found)
}

/// Lets the state of that number count from now on, durably.
fn switch(dir: &Path, number: u64) -> io::Result<()> {
    let new = dir.join("current.new");
    std::fs::write(&new, format!("{number}\n"))?;
    File::open(&new)?.sync_all()?;
    File::open(dir)?.sync_all()?;
    std::fs::rename(&new, dir.join(CURRENT))?;
    File::open(dir)?.sync_all()
}

/// Removes states that were not finished, or not removed, when the process ended.
fn remove_other_states(dir: &Path, number: u64) -> io::Result<()> {
    for (other, path) in states(dir)? {
        if other != number {
            std::fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

fn io_failed(dir: &Path, error: &io::Error) -> StoreError {
    StoreError(format!("{}: {error}", dir.display()))
}

fn failed(error: fjall::Error) -> StoreError {
    StoreError(error.to_string())
}

fn explain(dir: &Path, error: fjall::Error) -> StoreError {
    let dir = dir.display();
    match error {
        fjall::Error::Locked => StoreError(format!("{dir} is in use by another process")),
        other => StoreError(format!("{dir} cannot be opened: {other}")),
    }
}
