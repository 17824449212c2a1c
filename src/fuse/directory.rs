//! Reading directories: from portions of the filesystem to replies of the kernel's size.
//!
//! The kernel asks for 4 KiB of entries at a time, the monitors are asked for [`PORTION`] entries at a time,
//! and the two meet here: each open directory keeps the portion it fetched last and serves from it until it
//! is used up. A position is the offset that the kernel got with the entry before: 0 is the beginning, 1 is
//! after ".", 2 after "..", and everything above is [`DirEntry::next`]. So a program may seek, and a position
//! that is not in the portion is fetched anew.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::client::fs::{Fs, Listing};
use crate::types::{Attr, Errno, FileKind, Ino};
use crate::wire::metadata::DirEntry;

/// Entries fetched at a time.
const PORTION: u32 = 1024;

/// Offsets of "." and "..", and of the first real entry.
const BEGINNING: u64 = 0;
const AFTER_DOT: u64 = 1;
const AFTER_DOTS: u64 = 2;

/// The open directories, by the number that the kernel knows each by.
#[derive(Default)]
pub(super) struct Directories {
    last: AtomicU64,
    open: Mutex<HashMap<u64, Arc<tokio::sync::Mutex<Directory>>>>,
}

impl Directories {
    /// Opens one.
    pub(super) fn open(&self, ino: Ino) -> u64 {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.lock().insert(number, Arc::new(tokio::sync::Mutex::new(Directory::new(ino))));
        number
    }

    /// Hands entries of one, after `offset`, to `add` until it says that the reply is full. Fewer are handed
    /// over where a portion ends; none, only where the directory ends.
    pub(super) async fn read(
        &self,
        fs: &Fs,
        number: u64,
        offset: u64,
        with_attrs: bool,
        add: impl FnMut(&Row<'_>) -> bool,
    ) -> Result<(), Errno> {
        let directory = self.get(number)?;
        let mut directory = directory.lock().await;
        directory.fetch(fs, offset, with_attrs).await?;
        directory.serve(fs.root(), offset, add);
        Ok(())
    }

    fn get(&self, number: u64) -> Result<Arc<tokio::sync::Mutex<Directory>>, Errno> {
        self.open.lock().get(&number).cloned().ok_or(Errno::BadHandle)
    }

    /// Closes one.
    pub(super) fn close(&self, number: u64) {
        self.open.lock().remove(&number);
    }
}

/// An open directory and what was last fetched of it.
struct Directory {
    ino: Ino,
    portion: Option<Portion>,
}

struct Portion {
    /// Where it begins.
    after: u64,
    /// Whether the entries have their attributes.
    with_attrs: bool,
    listing: Listing,
}

/// An entry as the kernel gets it.
pub(super) struct Row<'a> {
    /// The directory.
    pub dir: Ino,
    /// Its inode.
    pub ino: Ino,
    /// Its type.
    pub kind: FileKind,
    /// Its name.
    pub name: &'a [u8],
    /// Where to go on after it.
    pub next: u64,
    /// Its attributes; never of "." and "..".
    pub attr: Option<&'a Attr>,
}

impl Directory {
    fn new(ino: Ino) -> Self {
        Self { ino, portion: None }
    }

    /// Sees to it that the portion can go on at `offset`. From the beginning it always begins anew.
    async fn fetch(&mut self, fs: &Fs, offset: u64, with_attrs: bool) -> Result<(), Errno> {
        let after = portion_offset(offset);
        if offset == BEGINNING || !self.has(after, with_attrs) {
            let listing = fs.readdir(self.ino, after, PORTION, with_attrs).await?;
            self.portion = Some(Portion { after, with_attrs, listing });
        }
        Ok(())
    }

    /// Whether the portion can go on at `after`.
    fn has(&self, after: u64, with_attrs: bool) -> bool {
        self.portion.as_ref().is_some_and(|portion| {
            (portion.with_attrs || !with_attrs)
                && portion
                    .entries_after(after)
                    .is_some_and(|entries| !entries.is_empty() || portion.listing.end)
        })
    }

    fn serve(&self, root: Ino, offset: u64, mut add: impl FnMut(&Row<'_>) -> bool) {
        let Some(portion) = &self.portion else { return };
        let entries = portion.entries_after(portion_offset(offset)).unwrap_or_default();
        let parent = if self.ino == root { root } else { portion.listing.parent };
        let dot = |ino, name, next| Row::directory((self.ino, ino), name, next);
        let dots = [dot(self.ino, b".", AFTER_DOT), dot(parent, b"..", AFTER_DOTS)];
        let dots_passed = usize::try_from(offset).map_or(dots.len(), |dot| dot.min(dots.len()));
        let mut rows = dots
            .into_iter()
            .skip(dots_passed)
            .chain(entries.iter().map(|entry| Row::entry(self.ino, entry)));
        let _full = rows.any(|row| add(&row));
    }
}

impl Portion {
    /// The entries after that position, if it is one of this portion.
    fn entries_after(&self, after: u64) -> Option<&[DirEntry]> {
        let entries = &self.listing.entries;
        if after == self.after {
            return Some(entries);
        }
        let before = entries.iter().position(|entry| entry.next == after)?;
        Some(&entries[before + 1..])
    }
}

impl<'a> Row<'a> {
    fn directory((dir, ino): (Ino, Ino), name: &'a [u8], next: u64) -> Self {
        Self { dir, ino, kind: FileKind::Directory, name, next, attr: None }
    }

    /// Whether it is "." or "..".
    pub(super) fn is_dot(&self) -> bool {
        matches!(self.name, b"." | b"..")
    }

    fn entry(dir: Ino, entry: &'a DirEntry) -> Self {
        Self {
            dir,
            ino: entry.ino,
            kind: entry.kind,
            name: &entry.name,
            next: entry.next,
            attr: entry.attr.as_ref(),
        }
    }
}

/// The filesystem's position for one of the kernel's: it knows nothing of "." and "..".
fn portion_offset(offset: u64) -> u64 {
    if offset <= AFTER_DOTS { BEGINNING } else { offset }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Ino = Ino(3);
    const PARENT: Ino = Ino(9);

    fn entry(number: u64) -> DirEntry {
        DirEntry {
            name: format!("file-{number}").into_bytes(),
            ino: Ino(100 + number),
            kind: FileKind::Regular,
            next: 1000 + number,
            attr: None,
        }
    }

    /// A directory that has fetched entries `range` of `count`.
    fn fetched(range: std::ops::Range<u64>, count: u64) -> Directory {
        let after = if range.start == 0 { 0 } else { 1000 + range.start - 1 };
        let listing = Listing {
            parent: PARENT,
            end: range.end == count,
            entries: range.map(entry).collect(),
        };
        Directory { ino: Ino(5), portion: Some(Portion { after, with_attrs: false, listing }) }
    }

    /// What a reply with room for `room` entries gets.
    fn served(directory: &Directory, offset: u64, room: usize) -> Vec<(String, u64)> {
        let mut rows = Vec::new();
        directory.serve(ROOT, offset, |row| {
            if rows.len() == room {
                return true;
            }
            rows.push((String::from_utf8_lossy(row.name).into_owned(), row.next));
            false
        });
        rows
    }

    #[test]
    fn small_replies_together_show_every_entry_once() {
        let directory = fetched(0..10, 10);
        for room in 1..=13 {
            let mut offset = 0;
            let mut names = Vec::new();
            loop {
                assert!(directory.has(portion_offset(offset), false));
                let rows = served(&directory, offset, room);
                let Some((_, next)) = rows.last() else { break };
                offset = *next;
                names.extend(rows.into_iter().map(|(name, _)| name));
            }
            let mut expected = vec![".".to_owned(), "..".to_owned()];
            expected.extend((0..10).map(|number| format!("file-{number}")));
            assert_eq!(names, expected, "room for {room}");
        }
    }

    #[test]
    fn a_used_up_portion_is_followed_by_another() {
        let first = fetched(0..4, 10);
        assert!(first.has(1002, false) && !first.has(1003, false) && !first.has(77, false));
        let second = fetched(4..10, 10);
        assert!(second.has(1003, false) && second.has(1009, false));
        assert_eq!(served(&second, 1003, 1), [("file-4".to_owned(), 1004)]);
        assert_eq!(served(&second, 1009, 1), []);
    }

    #[test]
    fn attributes_that_were_not_fetched_are_fetched() {
        let mut directory = fetched(0..4, 10);
        assert!(!directory.has(0, true));
        directory.portion.as_mut().unwrap().with_attrs = true;
        assert!(directory.has(0, true) && directory.has(0, false));
    }

    #[test]
    fn an_empty_directory_has_two_entries() {
        let directory = fetched(0..0, 0);
        assert_eq!(served(&directory, 0, 9), [(".".to_owned(), 1), ("..".to_owned(), 2)]);
        assert!(directory.has(portion_offset(2), false));
        assert_eq!(served(&directory, 2, 9), []);
    }

    #[test]
    fn the_root_of_a_mount_is_its_own_parent() {
        let mut directory = fetched(0..0, 0);
        let parent = |directory: &Directory| {
            let mut parent = None;
            directory.serve(ROOT, 1, |row| {
                parent = Some(row.ino);
                false
            });
            parent
        };
        assert_eq!(parent(&directory), Some(PARENT));
        directory.ino = ROOT;
        assert_eq!(parent(&directory), Some(ROOT));
    }

    #[test]
    fn open_directories_are_told_apart() {
        let directories = Directories::default();
        let (one, two) = (directories.open(Ino(1)), directories.open(Ino(1)));
        assert_ne!(one, two);
        directories.close(one);
        assert_eq!(directories.get(one).err(), Some(Errno::BadHandle));
        assert!(directories.get(two).is_ok());
    }
}
