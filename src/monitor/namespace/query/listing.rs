//! Listing a directory.
//!
//! Entries are told in the order of their names' hashes, and a reader goes on after the position of the last
//! one it has seen: entries that come and go meanwhile disturb no others. Names with equal hashes are numbered
//! in the position's low bits, so that it is unique and a reader may stop between any two.

use super::super::fail::Fail;
use super::super::inodes::named;
use super::super::keys::{self, Keyed, RANK_BITS};
use super::super::records::Entry;
use super::super::txn::{get, scan};
use crate::monitor::store::{Read, StoreError};
use crate::types::{Errno, FileKind, Ino};
use crate::wire::metadata::{Answer, DirEntry};

/// Most entries in one answer.
const ENTRIES_MAX: u32 = 1024;

const RANK_MASK: u64 = (1 << RANK_BITS) - 1;
const ENTRY_BYTES: usize = 40;
const ATTR_BYTES: usize = 192;

/// A name at its position.
struct Listed {
    name: Vec<u8>,
    entry: Entry,
    position: u64,
}

/// Entries of a directory that come after that position.
fn entries_after(
    read: &dyn Read,
    dir: Ino,
    after: u64,
) -> impl Iterator<Item = Result<Listed, StoreError>> {
    let mut hash_before = 0;
    let mut rank = 0;
    let number = move |found: Result<(<Entry as Keyed>::Id, Entry), StoreError>| {
        found.map(|((_, hash, name), entry)| {
            rank = if hash == hash_before { rank + 1 } else { 0 };
            hash_before = hash;
            Listed { name, entry, position: hash | RANK_MASK.min(rank) }
        })
    };
    scan(read, &keys::entries_from(dir, after & !RANK_MASK))
        .map(number)
        .skip_while(move |found| found.as_ref().is_ok_and(|listed| listed.position <= after))
}

/// A part of a directory.
pub(super) fn read_directory(
    read: &dyn Read,
    dir: Ino,
    after: u64,
    (limit, attrs): (u32, bool),
    mut budget: usize,
) -> Result<Answer, Fail> {
    let directory = get(read, &keys::inode(dir))?.ok_or(Errno::Stale)?;
    if !directory.is_directory() {
        return Err(Errno::NotDirectory.into());
    }
    let most = limit.clamp(1, ENTRIES_MAX) as usize;
    let mut entries = Vec::new();
    let mut end = true;
    for listed in entries_after(read, dir, after) {
        let listed = listed?;
        if entries.len() == most || budget == 0 && !entries.is_empty() {
            end = false;
            break;
        }
        let ino = listed.entry.ino;
        let attr = match attrs {
            true => Some(named(read, ino)?.attr(ino)),
            false => None,
        };
        let bytes = ENTRY_BYTES + listed.name.len() + usize::from(attrs) * ATTR_BYTES;
        budget = budget.saturating_sub(bytes);
        entries.push(DirEntry {
            name: listed.name,
            ino,
            kind: listed.entry.kind,
            next: listed.position,
            attr,
        });
    }
    Ok(Answer::Entries { parent: directory.parent, entries, end })
}

/// The regular files that [`read_directory`] may tell of.
pub(in super::super) fn files_listed(
    read: &dyn Read,
    dir: Ino,
    after: u64,
    limit: u32,
) -> Result<Vec<Ino>, StoreError> {
    let most = limit.clamp(1, ENTRIES_MAX) as usize;
    let mut files = Vec::new();
    for listed in entries_after(read, dir, after).take(most) {
        let entry = listed?.entry;
        if entry.kind == FileKind::Regular {
            files.push(entry.ino);
        }
    }
    Ok(files)
}
