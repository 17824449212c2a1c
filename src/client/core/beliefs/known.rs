//! What is believed of one inode.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::Forgotten;
use crate::types::{Attr, Errno, FileKind, Ino, LeaseStamp};
use crate::wire::metadata::{Answer, DirEntry};

/// Under the lease of one inode. Most have nothing but attributes.
#[derive(Default, Debug)]
pub(super) struct Known {
    /// When the lease was heard of last.
    pub(super) heard: LeaseStamp,
    /// Since when the lease is ours, by the clock of tickets.
    pub(super) since: u64,
    /// Rises with each use of any inode.
    pub(super) used: u64,
    pub(super) attr: Option<Attr>,
    /// The kernel may believe the attributes until then.
    pub(super) attr_until: Duration,
    /// The kernel may believe names in it until then.
    pub(super) names_until: Duration,
    more: Option<Box<More>>,
}

/// What only some inodes have.
#[derive(Default, Debug)]
struct More {
    /// Of a directory: where names lead; `None`, to nothing.
    names: HashMap<Vec<u8>, Option<Ino>>,
    /// Of a directory: whether all of its names are known. Then a name that is not among them leads to nothing, unless
    /// it is `unsure`.
    complete: bool,
    /// Of a directory: names that we have changed, and where they lead is to be asked.
    unsure: HashSet<Vec<u8>>,
    /// Of a directory: names that we have changed while the kernel may have believed something of them.
    ours: HashSet<Vec<u8>>,
    /// Of a directory: parts of its listing, by where they begin.
    listing: BTreeMap<u64, Part>,
    target: Option<Vec<u8>>,
    /// `None` for one that is not there.
    xattrs: HashMap<Vec<u8>, Option<Vec<u8>>>,
    xattr_names: Option<Vec<Vec<u8>>>,
}

#[derive(Debug)]
struct Part {
    parent: Ino,
    rows: Vec<Row>,
    end: bool,
}

#[derive(Debug)]
struct Row {
    name: Box<[u8]>,
    ino: Ino,
    kind: FileKind,
    next: u64,
}

impl Known {
    /// Nothing yet, under a lease that is ours since then.
    pub(super) fn since(since: u64) -> Self {
        Self { since, ..Self::default() }
    }

    /// Names and rows that it keeps.
    pub(super) fn weight(&self) -> usize {
        self.more.as_ref().map_or(0, |more| {
            let rows: usize = more.listing.values().map(|part| part.rows.len()).sum();
            more.names.len() + more.unsure.len() + rows + more.xattrs.len()
        })
    }

    /// Where a name leads, if that is known.
    pub(super) fn name(&self, name: &[u8]) -> Option<Option<Ino>> {
        let more = self.more.as_ref()?;
        let is_absent = || more.complete && !more.unsure.contains(name);
        more.names.get(name).copied().or_else(|| is_absent().then_some(None))
    }

    /// Whether that name itself is among what is known, not only that all names are.
    pub(super) fn is_by_name(&self, name: &[u8]) -> bool {
        self.more.as_ref().is_some_and(|more| more.names.contains_key(name))
    }

    /// The target of a symbolic link, if it is known.
    pub(super) fn target(&self) -> Option<Vec<u8>> {
        self.more.as_ref()?.target.clone()
    }

    /// What is answered to a question for an extended attribute, if it is known.
    pub(super) fn xattr(&self, name: &[u8]) -> Option<Result<Answer, Errno>> {
        let value = self.more.as_ref()?.xattrs.get(name)?.clone();
        Some(value.map(Answer::Bytes).ok_or(Errno::NoAttribute))
    }

    /// The names of all extended attributes, if they are known.
    pub(super) fn xattr_names(&self) -> Option<Vec<Vec<u8>>> {
        self.more.as_ref()?.xattr_names.clone()
    }

    /// A part of the directory without attributes, if it is known: its parent, the entries, whether it is the last.
    pub(super) fn listing(&self, after: u64) -> Option<(Ino, Vec<DirEntry>, bool)> {
        let part = self.more.as_ref()?.listing.get(&after)?;
        let entry = |row: &Row| DirEntry {
            name: row.name.to_vec(),
            ino: row.ino,
            kind: row.kind,
            next: row.next,
            attr: None,
        };
        Some((part.parent, part.rows.iter().map(entry).collect(), part.end))
    }

    pub(super) fn learn_attr(&mut self, attr: &Attr) {
        self.attr = Some(attr.clone());
        if attr.kind == FileKind::Directory && attr.size == 0 {
            self.learn_completeness();
        }
    }

    pub(super) fn learn_name(&mut self, name: &[u8], ino: Option<Ino>) {
        let more = self.more();
        more.unsure.remove(name);
        more.names.insert(name.to_vec(), ino);
    }

    pub(super) fn learn_target(&mut self, target: &[u8]) {
        self.more().target = Some(target.to_vec());
    }

    pub(super) fn learn_xattr(&mut self, name: &[u8], value: Option<&Vec<u8>>) {
        self.more().xattrs.insert(name.to_vec(), value.cloned());
    }

    pub(super) fn learn_xattr_names(&mut self, names: &[Vec<u8>]) {
        self.more().xattr_names = Some(names.to_vec());
    }

    pub(super) fn learn_listing(
        &mut self,
        after: u64,
        parent: Ino,
        entries: &[DirEntry],
        end: bool,
    ) {
        let more = self.more();
        more.names.extend(entries.iter().map(|entry| (entry.name.clone(), Some(entry.ino))));
        let row = |entry: &DirEntry| Row {
            name: entry.name.as_slice().into(),
            ino: entry.ino,
            kind: entry.kind,
            next: entry.next,
        };
        let rows = entries.iter().map(row).collect();
        more.listing.insert(after, Part { parent, rows, end });
        if more.is_listed() {
            self.learn_completeness();
        }
    }

    /// All names are known that others or answered changes of ours have made.
    fn learn_completeness(&mut self) {
        let more = self.more();
        more.complete = true;
        more.unsure.clear();
    }

    /// An entry was made, moved or removed by us.
    pub(super) fn entry_changed(&mut self, name: &[u8], now: Duration) {
        self.attr = None;
        let is_believed = now < self.names_until;
        if let Some(more) = &mut self.more {
            more.names.remove(name);
            if more.complete {
                more.unsure.insert(name.to_vec());
            }
            more.listing.clear();
            if is_believed {
                more.ours.insert(name.to_vec());
            } else {
                more.ours.clear();
            }
        }
    }

    /// Something other than its entries was changed by us.
    pub(super) fn attrs_changed(&mut self) {
        self.attr = None;
        if let Some(more) = &mut self.more {
            more.xattrs.clear();
            more.xattr_names = None;
            // A directory that was moved has another parent.
            more.listing.clear();
        }
    }

    /// It was read by us, and the monitors have taken note of that or of somebody else's read: all else is as it was.
    pub(super) fn accessed(&mut self, told: &Attr) {
        if let Some(attr) = self.attr.as_mut().filter(|attr| attr.birth < told.birth) {
            attr.atime = told.atime;
            attr.birth = told.birth;
        }
    }

    pub(super) fn is_believed_by_kernel(&self, now: Duration) -> bool {
        now < self.attr_until.max(self.names_until)
    }

    pub(super) fn forgotten(self, ino: Ino) -> Forgotten {
        let names = self.more.map(|more| more.names.into_keys().chain(more.ours).collect());
        Forgotten {
            ino,
            heard: self.heard,
            attr_until: self.attr_until,
            names: names.unwrap_or_default(),
            names_until: self.names_until,
        }
    }

    fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }
}

impl More {
    /// Whether the listing is known from its beginning to its end.
    fn is_listed(&self) -> bool {
        let mut after = 0;
        loop {
            match self.listing.get(&after) {
                Some(Part { end: true, .. }) => return true,
                Some(Part { rows, .. }) => match rows.last() {
                    Some(last) => after = last.next,
                    None => return false,
                },
                None => return false,
            }
        }
    }
}
