//! Sums that the check carries from record to record: a directory's entries, a file's bytes, a volume's usage.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};

use super::super::keys;
use super::super::records::{Entry, Usage};
use super::super::txn::{exists, get};
use crate::monitor::store::{Read, StoreError};
use crate::types::{Extent, FileKind, Ino, VolumeId};

/// All that is being summed up.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub(super) struct Sums {
    directory: Option<Directory>,
    file: Option<File>,
    usage: BTreeMap<VolumeId, Used>,
    /// Something was applied in between: what began before it proves nothing.
    interrupted: bool,
}

#[derive(Clone, Debug, Encode, Decode)]
struct Directory {
    ino: Ino,
    entries: u64,
    subdirectories: u32,
    whole: bool,
}

#[derive(Clone, Debug, Encode, Decode)]
struct File {
    ino: Ino,
    stored: u64,
    end: u64,
    whole: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
struct Used {
    inodes: u64,
    bytes: u64,
    stripes: u64,
    thin: u64,
    reserved: u64,
}

impl Sums {
    /// Something was applied since the last record.
    pub(super) fn interrupt(&mut self) {
        self.interrupted = true;
        if let Some(directory) = &mut self.directory {
            directory.whole = false;
        }
        if let Some(file) = &mut self.file {
            file.whole = false;
        }
    }

    /// A record of an inode.
    pub(super) fn count_inode(&mut self, volume: VolumeId) {
        self.usage.entry(volume).or_default().inodes += 1;
    }

    /// A record of a live stripe.
    pub(super) fn count_stripe(&mut self, volume: VolumeId, thin: bool) {
        let used = self.usage.entry(volume).or_default();
        used.stripes += 1;
        used.thin += u64::from(thin);
    }

    /// What a session has reserved.
    pub(super) fn count_reservation(&mut self, volume: VolumeId, bytes: u64) {
        self.usage.entry(volume).or_default().reserved += bytes;
    }

    /// An entry of a directory; those of one directory follow one another.
    pub(super) fn count_entry(
        &mut self,
        read: &dyn Read,
        parent: Ino,
        entry: &Entry,
        problems: &mut Vec<String>,
    ) -> Result<(), StoreError> {
        if self.directory.as_ref().is_none_or(|open| open.ino != parent) {
            self.close_directory(read, problems)?;
        }
        let directory = self.directory.get_or_insert(Directory {
            ino: parent,
            entries: 0,
            subdirectories: 0,
            whole: true,
        });
        directory.entries += 1;
        directory.subdirectories += u32::from(entry.kind == FileKind::Directory);
        Ok(())
    }

    /// An extent of a file; those of one file follow one another.
    pub(super) fn count_extent(
        &mut self,
        read: &dyn Read,
        (ino, volume): (Ino, VolumeId),
        extent: &Extent,
        problems: &mut Vec<String>,
    ) -> Result<(), StoreError> {
        self.usage.entry(volume).or_default().bytes += u64::from(extent.length);
        if self.file.as_ref().is_none_or(|open| open.ino != ino) {
            self.close_file(read, problems)?;
        }
        let file = self.file.get_or_insert(File { ino, stored: 0, end: 0, whole: true });
        if file.whole && extent.offset < file.end {
            problems.push(format!(
                "inode {ino}: the extent at {} overlaps the one before it",
                extent.offset
            ));
        }
        file.stored += u64::from(extent.length);
        file.end = extent.end();
        Ok(())
    }

    /// A record of neither kind: the directory and the file before it are complete.
    pub(super) fn close(
        &mut self,
        read: &dyn Read,
        problems: &mut Vec<String>,
    ) -> Result<(), StoreError> {
        self.close_directory(read, problems)?;
        self.close_file(read, problems)
    }

    fn close_directory(
        &mut self,
        read: &dyn Read,
        problems: &mut Vec<String>,
    ) -> Result<(), StoreError> {
        let Some(counted) = self.directory.take().filter(|directory| directory.whole) else {
            return Ok(());
        };
        let ino = counted.ino;
        match get(read, &keys::inode(ino))? {
            Some(inode) => {
                let says = (inode.size, inode.nlink);
                let is = (counted.entries, counted.subdirectories + 2);
                if says != is {
                    problems.push(format!(
                        "directory {ino} has (entries, links) {is:?} and says {says:?}"
                    ));
                }
            }
            None => problems.push(format!("directory {ino} has entries and no inode")),
        }
        Ok(())
    }

    fn close_file(
        &mut self,
        read: &dyn Read,
        problems: &mut Vec<String>,
    ) -> Result<(), StoreError> {
        let Some(counted) = self.file.take().filter(|file| file.whole) else {
            return Ok(());
        };
        let (ino, is) = (counted.ino, counted.stored);
        let says = get(read, &keys::inode(ino))?.map_or(0, |inode| inode.stored);
        if is != says {
            problems.push(format!("inode {ino} has {is} bytes in extents and says {says}"));
        }
        Ok(())
    }

    /// The end: compares the usage of all volumes.
    pub(super) fn finish(
        &mut self,
        read: &dyn Read,
        problems: &mut Vec<String>,
    ) -> Result<(), StoreError> {
        self.close(read, problems)?;
        if self.interrupted {
            return Ok(());
        }
        for (&volume, is) in &self.usage {
            let says = get(read, &keys::usage(volume))?.map(Used::from);
            if says.as_ref() != Some(is) {
                problems.push(format!("volume {volume} uses {is:?} and says {says:?}"));
            }
            if !exists(read, &keys::volume(volume))? {
                problems.push(format!("volume {volume} is used, but does not exist"));
            }
        }
        Ok(())
    }
}

impl From<Usage> for Used {
    fn from(usage: Usage) -> Self {
        let Usage { inodes, bytes, stripes, thin, reserved } = usage;
        Self { inodes, bytes, stripes, thin, reserved }
    }
}
