//! Large shards: a file each.
//!
//! ```text
//! shards/3f/000000000003f001-02.shard     stripe and index in hexadecimal, below bits 8..16 of the stripe
//! shards/3f/000000000003f001-02.tmp       being written
//! quarantine/000000000003f001-02.shard    found damaged at start-up, kept for people to look at
//! ```
//!
//! A shard is written under a temporary name, synced, and then renamed: a file that has its final name is
//! whole. The stripes of one client follow one another, so they share a directory, and one sync of it
//! makes several renames durable.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use quick_cache::sync::Cache;

use super::WriteFailed;
use super::group::GroupSync;
use crate::env::disk::{Access, Disk, DiskFile};
use crate::types::{ShardIndex, StripeId};
use crate::wire::shards::ShardId;

/// Where the files are.
pub(super) const SHARDS: &str = "shards";
/// Where damaged ones are put aside.
pub(super) const QUARANTINE: &str = "quarantine";
/// End of the name of a file that is being written.
pub(super) const TEMPORARY: &str = ".tmp";
const SUFFIX: &str = ".shard";
const DIRECTORIES: usize = 256;
/// Files kept open; each is two descriptors.
const OPEN_MAX: usize = 128;

/// The files of large shards.
pub(super) struct Files {
    disk: Arc<dyn Disk>,
    open: Cache<ShardId, Arc<dyn DiskFile>>,
    syncs: Vec<GroupSync>,
}

impl Files {
    /// The files on that disk, whose directories [`make_directories`] has made.
    pub(super) fn new(disk: Arc<dyn Disk>) -> Self {
        Self {
            disk,
            open: Cache::new(OPEN_MAX),
            syncs: (0..DIRECTORIES).map(|_| GroupSync::default()).collect(),
        }
    }

    /// Stores an image; it is durable on return.
    pub(super) fn write(&self, id: ShardId, image: &[u8]) -> Result<(), WriteFailed> {
        let (temporary, path) = (path(id, TEMPORARY), path(id, SUFFIX));
        let written = self
            .disk
            .create(&temporary, Access::Direct)
            .and_then(|file| file.write(0, image).and_then(|()| file.sync()));
        if let Err(error) = written {
            if let Err(error) = self.disk.remove(&temporary) {
                log::warn!("{temporary} stays behind until the next start: {error}");
            }
            return Err(WriteFailed { error, is_undone: true });
        }
        let named = self
            .disk
            .rename(&temporary, &path)
            .and_then(|()| self.sync_directory(directory_of(id)));
        self.open.remove(&id);
        named.map_err(|error| WriteFailed { error, is_undone: self.remove(&[id]) == [id] })
    }

    /// The file of a shard.
    pub(super) fn open(&self, id: ShardId) -> io::Result<Arc<dyn DiskFile>> {
        let open = || self.disk.open(&path(id, SUFFIX), Access::Direct);
        self.open.get_or_insert_with(&id, open)
    }

    /// Opens a file anew when it is needed the next time.
    pub(super) fn forget(&self, id: ShardId) {
        self.open.remove(&id);
    }

    /// Removes files; one that is not there is fine. Those returned are durably gone.
    pub(super) fn remove(&self, ids: &[ShardId]) -> Vec<ShardId> {
        let mut unlinked = Vec::new();
        for &id in ids {
            match self.disk.remove(&path(id, SUFFIX)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    log::error!("{} cannot be removed: {error}", path(id, SUFFIX));
                }
                _ => unlinked.push(id),
            }
            // Last, for a reader may have opened it meanwhile: a descriptor kept would keep the space.
            self.open.remove(&id);
        }
        let touched: BTreeSet<usize> = unlinked.iter().map(|id| directory_of(*id)).collect();
        for number in touched {
            if let Err(error) = self.sync_directory(number) {
                log::error!("{} cannot be synced: {error}", directory(number));
                unlinked.retain(|id| directory_of(*id) != number);
            }
        }
        unlinked
    }

    fn sync_directory(&self, number: usize) -> io::Result<()> {
        self.syncs[number].run(|| self.disk.sync_dir(&directory(number)))
    }
}

/// Makes the directories that are missing.
pub(super) fn make_directories(disk: &dyn Disk) -> io::Result<()> {
    for dir in [SHARDS, QUARANTINE] {
        disk.make_dir(dir)?;
    }
    for number in 0..DIRECTORIES {
        disk.make_dir(&directory(number))?;
    }
    disk.sync_dir(SHARDS)
}

/// The shard that a file name stands for.
pub(super) fn parse_name(name: &str) -> Option<ShardId> {
    let (stripe, index) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    let id = ShardId {
        stripe: StripeId(u64::from_str_radix(stripe, 16).ok()?),
        index: ShardIndex(u8::from_str_radix(index, 16).ok()?),
    };
    (self::name(id, SUFFIX) == name).then_some(id)
}

fn name(id: ShardId, suffix: &str) -> String {
    format!("{:016x}-{:02x}{suffix}", id.stripe.0, id.index.0)
}

fn path(id: ShardId, suffix: &str) -> String {
    format!("{}/{}", directory(directory_of(id)), name(id, suffix))
}

fn directory(number: usize) -> String {
    format!("{SHARDS}/{number:02x}")
}

fn directory_of(id: ShardId) -> usize {
    (id.stripe.0 >> 8) as usize % DIRECTORIES
}
