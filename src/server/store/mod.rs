//! The store: immutable shards in a directory.
//!
//! A shard comes once, whole, and is never changed; it is read in part, many times; one day it is deleted. The
//! store promises four things, power cuts included:
//!
//! 1. what [`Store::put`] has acknowledged is there, whole, until it is deleted;
//! 2. what [`Store::delete`] has called gone never comes back;
//! 3. one id has one content, for ever: the same again is fine, another is refused;
//! 4. nothing is given out as whole that is not.
//!
//! Large shards are a file each (`files`); small ones share files (`packs`, `segment`). The list of them
//! is in memory (`index`) and comes from the directory alone (`scan`). Everything stands above the trait
//! [`Disk`], so that tests can crash it at each of its steps. All calls block; any number of threads may call.

mod claims;
mod files;
mod group;
mod identity;
mod index;
mod packs;
mod room;
mod scan;
pub(super) mod segment;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use quick_cache::sync::Cache;

use self::claims::Claims;
use self::files::Files;
pub use self::identity::Identity;
use self::index::{Condition, Entry, Index, Place, Record};
use self::packs::{PACKS, Packs};
use self::room::Room;
use crate::codec::checksum;
use crate::codec::shard::Head;
use crate::env::disk::{Disk, is_bad_sector};
use crate::types::limits::BLOCK;
use crate::types::{ClusterId, ShardHash};
use crate::wire::servers::Usage;
use crate::wire::shards::{Refusal, ShardId, Verdict};

/// Longer images get a file of their own.
const PACKED_BYTES_MAX: usize = 256 << 10;
/// Checksum tables kept in memory, so that a small read is one read. A table is at most 8 KiB.
const TABLES_MAX: usize = 8192;

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its shards are not ours.
    #[error(
        "this directory belongs to cluster {theirs}, and this server to cluster {ours}: give the server another \
         directory, or the certificate of that cluster"
    )]
    OtherCluster {
        /// The cluster of the directory.
        theirs: ClusterId,
        /// The cluster of the server's certificate.
        ours: ClusterId,
    },
    /// The disk does not do what is needed.
    #[error("the server's directory cannot be read or written: {0}")]
    Disk(#[from] io::Error),
}

/// A write that failed.
#[derive(Debug)]
struct WriteFailed {
    error: io::Error,
    /// Whether it is certain that nothing of it will ever be found.
    is_undone: bool,
}

/// Immutable shards in a directory.
pub struct Store {
    disk: Arc<dyn Disk>,
    cluster: ClusterId,
    files: Files,
    packs: Packs,
    index: RwLock<Index>,
    claims: Claims,
    room: Room,
    tables: Cache<ShardId, Arc<Vec<u32>>>,
    lost: Mutex<Vec<ShardId>>,
    /// Shards that were not stored and yet may be there after a crash: the disk failed in the middle.
    unsure: Mutex<HashSet<ShardId>>,
    identity: Mutex<Identity>,
    /// What the disk said when it last failed to take a write, until it takes one again.
    trouble: Mutex<Option<String>>,
}

impl Store {
    /// Opens the store on a disk, or makes a new one there: `cluster` is the cluster that the server belongs to,
    /// `capacity` the most bytes of shards to take.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; a directory of another cluster is not changed.
    pub fn open(
        disk: Arc<dyn Disk>,
        cluster: ClusterId,
        capacity: Option<u64>,
    ) -> Result<Self, OpenError> {
        let identity = Identity::read(&*disk)?;
        check_owner(&*disk, cluster, identity)?;
        disk.make_dir(PACKS)?;
        files::make_directories(&*disk)?;
        disk.sync_dir("")?;
        let identity = match identity {
            // Not written again: a server whose disk is full can start and give out what it has.
            Some(identity) => identity,
            None => {
                let new = Identity::new(cluster);
                new.write(&*disk)?;
                new
            }
        };
        let found = scan::scan(&disk, cluster)?;
        log::info!(
            "{} shards in {} bytes, {} damaged",
            found.index.len(),
            found.index.used_bytes(),
            found.lost.len()
        );
        Ok(Self {
            files: Files::new(Arc::clone(&disk)),
            packs: Packs::new(Arc::clone(&disk), cluster, &found.segments),
            disk,
            cluster,
            index: RwLock::new(found.index),
            claims: Claims::default(),
            room: Room::new(capacity),
            tables: Cache::new(TABLES_MAX),
            lost: Mutex::new(found.lost),
            unsure: Mutex::default(),
            identity: Mutex::new(identity),
            trouble: Mutex::default(),
        })
    }

    /// Stores a shard; it is durable on return. `image` is the whole image, and is checked: its head, its
    /// cluster, every block.
    ///
    /// # Errors
    ///
    /// [`Refusal`]; then nothing is promised about that shard.
    pub fn put(&self, id: ShardId, image: &Bytes) -> Result<ShardHash, Refusal> {
        let head = check_image(id, self.cluster, image)?;
        let hash = head.header.hash;
        let _claim = self.claims.take(vec![id]);
        match self.index.read().get_any(id) {
            Some(entry) if entry.hash != hash => return Err(Refusal::OtherContent),
            Some(entry) if entry.condition == Condition::Whole => return Ok(hash),
            // Its deletion did not get through to the disk: the disk is not well.
            Some(entry) if entry.condition == Condition::Doomed => return Err(Refusal::Disk),
            _ => {}
        }
        let used_bytes = self.index.read().used_bytes();
        let room = self.room.take(&*self.disk, used_bytes, image.len() as u64);
        let _room = room.map_err(|e| failed("measured", &e))?.ok_or(Refusal::Full)?;
        let place = self.write(id, image)?;
        let entry = Entry {
            hash,
            place,
            image_bytes: head.header.image_bytes(),
            head_bytes: head.header.head_bytes(),
            condition: Condition::Whole,
        };
        let before = self.index.write().insert(id, entry);
        self.tables.insert(id, Arc::new(head.checksums));
        if let Some(Place::Pack(record)) = before.map(|entry| entry.place) {
            let killed = self.packs.kill(vec![record]);
            if killed.is_empty() {
                // The damaged image may be taken for the shard at the next start, even after its deletion.
                self.unsure.lock().insert(id);
            }
            self.packs.bury(&killed);
        }
        Ok(hash)
    }

    /// Reads whole blocks of a shard: `count` from `first`, and their checksums as the writer made them. Blocks that
    /// do not agree with theirs are given out all the same (the reader checks too, and decodes around them), and
    /// the shard is noted as damaged.
    ///
    /// # Errors
    ///
    /// [`Refusal`].
    pub fn get(&self, id: ShardId, first: u32, count: u32) -> Result<(Vec<u32>, Bytes), Refusal> {
        let entry = self.index.read().get(id).ok_or(Refusal::NotFound)?;
        let blocks = first..first.checked_add(count).ok_or(Refusal::Malformed)?;
        if blocks.is_empty() || blocks.end > entry.blocks() {
            return Err(Refusal::Malformed);
        }
        let table = self.table(id, &entry)?;
        let checksums = table[blocks.start as usize..blocks.end as usize].to_vec();
        let offset = entry.head_bytes + first * BLOCK;
        let data = self.read(id, &entry, offset, count * BLOCK)?;
        let damaged = checksum::damaged_blocks(id.stripe, id.index, first, &data, &checksums);
        if !damaged.is_empty() {
            log::error!(
                "blocks {damaged:?} of shard {} of stripe {} are damaged on disk",
                id.index,
                id.stripe
            );
            if self.note_damage(id, &entry) == Refusal::NotFound {
                return Err(Refusal::NotFound);
            }
        }
        Ok((checksums, data))
    }

    /// Says how a shard is; `deep` reads all of it.
    pub fn verify(&self, id: ShardId, deep: bool) -> Verdict {
        let Some(entry) = self.index.read().get(id) else {
            return Verdict::Missing;
        };
        if !deep && entry.condition == Condition::Whole {
            return Verdict::Present { hash: entry.hash };
        }
        // A file that somebody removed is still read well through a descriptor from before.
        self.forget_descriptor(id, &entry);
        let blocks = match self.damaged_blocks(id, &entry) {
            Ok(blocks) if blocks.is_empty() => return Verdict::Present { hash: entry.hash },
            Ok(blocks) => blocks,
            Err(_) => Vec::new(),
        };
        match self.note_damage(id, &entry) {
            Refusal::NotFound => Verdict::Missing,
            _ => Verdict::Damaged { blocks },
        }
    }

    /// Deletes shards. Those returned are durably gone (or were never here); for others it is to be tried
    /// again, perhaps after a restart.
    pub fn delete(&self, ids: &[ShardId]) -> Vec<ShardId> {
        let _claim = self.claims.take(ids.to_vec());
        let (mut files, mut packed, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for &id in ids {
            let mut index = self.index.write();
            let Some(entry) = index.get_any(id) else {
                gone.push(id);
                continue;
            };
            index.mark(id, entry, Condition::Doomed);
            match entry.place {
                Place::File => files.push(id),
                Place::Pack(record) => packed.push((id, record)),
            }
        }
        let removed = self.files.remove(&files);
        let killed = self.packs.kill(packed.iter().map(|(_, record)| *record).collect());
        let is_dead = |record: &Record| killed.binary_search(record).is_ok();
        packed.retain(|(_, record)| is_dead(record));
        for id in removed.into_iter().chain(packed.into_iter().map(|(id, _)| id)) {
            self.index.write().remove(id);
            self.tables.remove(&id);
            gone.push(id);
        }
        self.packs.bury(&killed);
        let unsure = self.unsure.lock();
        gone.retain(|id| !unsure.contains(id));
        gone
    }

    /// At most `limit` shards from `from` on, ascending, and where the rest begins.
    pub fn list(
        &self,
        from: ShardId,
        limit: usize,
    ) -> (Vec<(ShardId, ShardHash)>, Option<ShardId>) {
        self.index.read().list(from, limit)
    }

    /// How full it is.
    ///
    /// # Errors
    ///
    /// What the operating system says when it is asked for the room on the disk.
    pub fn usage(&self) -> io::Result<Usage> {
        let used_bytes = self.index.read().used_bytes();
        Ok(Usage { used_bytes, capacity_bytes: self.room.capacity_bytes(&*self.disk, used_bytes)? })
    }

    /// Shards found damaged since it was last asked.
    pub fn take_lost(&self) -> Vec<ShardId> {
        std::mem::take(&mut self.lost.lock())
    }

    /// What is wrong with the disk, if it failed to take a write: it is tried again, so that the answer is true
    /// now even if nobody writes any more. A full disk is no trouble: [`Self::usage`] says that.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().as_ref()?;
        let written = self.identity.lock().write(&*self.disk);
        let trouble = written.err().filter(|error| !is_full(error)).map(|error| error.to_string());
        self.trouble.lock().clone_from(&trouble);
        trouble
    }

    /// What the directory says of itself.
    pub fn identity(&self) -> Identity {
        *self.identity.lock()
    }

    /// Changes what the directory says of itself; durable on return.
    ///
    /// # Errors
    ///
    /// What the disk says; then the old identity stays in force.
    pub fn set_identity(&self, to: Identity) -> io::Result<()> {
        let mut identity = self.identity.lock();
        to.write(&*self.disk)?;
        *identity = to;
        Ok(())
    }

    fn write(&self, id: ShardId, image: &[u8]) -> Result<Place, Refusal> {
        let written = if image.len() <= PACKED_BYTES_MAX {
            self.packs.append(image).map(Place::Pack)
        } else {
            self.files.write(id, image).map(|()| Place::File)
        };
        written.map_err(|failure| {
            if !failure.is_undone {
                self.unsure.lock().insert(id);
            }
            if !is_full(&failure.error) {
                *self.trouble.lock() = Some(failure.error.to_string());
            }
            failed("written", &failure.error)
        })
    }

    /// The checksums of a shard.
    fn table(&self, id: ShardId, entry: &Entry) -> Result<Arc<Vec<u32>>, Refusal> {
        self.tables.get_or_insert_with(&id, || {
            let head = self.head(id, entry)?;
            Ok(Arc::new(head.checksums))
        })
    }

    fn head(&self, id: ShardId, entry: &Entry) -> Result<Head, Refusal> {
        let bytes = self.read(id, entry, 0, entry.head_bytes)?;
        match Head::parse(&bytes) {
            Ok(head) if head.header.hash == entry.hash => Ok(head),
            _ => Err(self.note_damage(id, entry)),
        }
    }

    fn damaged_blocks(&self, id: ShardId, entry: &Entry) -> Result<Vec<u32>, Refusal> {
        let head = self.head(id, entry)?;
        let data = self.read(id, entry, entry.head_bytes, head.header.shard_bytes)?;
        Ok(head.damaged_blocks(0, &data))
    }

    /// Bytes of an image. What can no longer be read is damaged, or was deleted meanwhile.
    fn read(&self, id: ShardId, entry: &Entry, offset: u32, length: u32) -> Result<Bytes, Refusal> {
        let length = length as usize;
        let read = match entry.place {
            Place::File => self.files.open(id).and_then(|file| file.read(offset.into(), length)),
            Place::Pack(record) => self.packs.read(record, offset, length),
        };
        read.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => self.note_damage(id, entry),
            _ if is_bad_sector(&error) => self.note_damage(id, entry),
            _ => failed("read", &error),
        })
    }

    fn forget_descriptor(&self, id: ShardId, entry: &Entry) {
        match entry.place {
            Place::File => self.files.forget(id),
            Place::Pack(record) => self.packs.forget(record.segment),
        }
    }

    /// Notes that a shard is damaged, to be reported once; says what the reader is to be told.
    fn note_damage(&self, id: ShardId, seen: &Entry) -> Refusal {
        match self.index.write().mark(id, *seen, Condition::Damaged) {
            None => return Refusal::NotFound,
            Some(Condition::Whole) => self.lost.lock().push(id),
            Some(_) => {}
        }
        Refusal::Damaged
    }
}

/// Refuses a directory with the shards of another cluster.
fn check_owner(
    disk: &dyn Disk,
    ours: ClusterId,
    identity: Option<Identity>,
) -> Result<(), OpenError> {
    let owner = match identity {
        Some(identity) => Some(identity.cluster),
        None => match scan::peek_cluster(disk) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            owner => owner?,
        },
    };
    match owner {
        Some(theirs) if theirs != ours => Err(OpenError::OtherCluster { theirs, ours }),
        _ => Ok(()),
    }
}

/// Whether those bytes are that shard, whole.
fn check_image(id: ShardId, cluster: ClusterId, image: &[u8]) -> Result<Head, Refusal> {
    let head = Head::parse(image).map_err(|error| {
        log::warn!("a put of stripe {} was refused: {error}", id.stripe);
        Refusal::Malformed
    })?;
    let header = &head.header;
    let is_it = header.ident.stripe == id.stripe
        && header.index == id.index
        && header.ident.cluster == cluster
        && !header.dead
        && header.image_bytes() as usize == image.len();
    let is_whole = || {
        let data = &image[header.head_bytes() as usize..];
        head.damaged_blocks(0, data).is_empty()
    };
    if is_it && is_whole() { Ok(head) } else { Err(Refusal::Malformed) }
}

/// Whether the disk is well, only full.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Logs what the disk said, and says what the caller is to be told.
fn failed(what: &str, error: &io::Error) -> Refusal {
    if is_full(error) {
        return Refusal::Full;
    }
    log::error!("the server's disk could not be {what}: {error}");
    Refusal::Disk
}
