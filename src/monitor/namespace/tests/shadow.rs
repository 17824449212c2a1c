//! What the namespace should be, kept in the simplest way: directories are maps of names, files are maps of
//! blocks, and everything that can be derived is derived.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Where a block is: stripe, block of the stripe, and how many bytes of it count.
pub(super) type Place = (StripeId, u64, u64);

#[derive(Default)]
pub(super) struct Shadow {
    pub(super) directories: BTreeMap<Ino, Directory>,
    pub(super) files: BTreeMap<Ino, File>,
    /// Removed directories, and the sessions that have them open.
    pub(super) removed: BTreeMap<Ino, BTreeSet<SessionId>>,
}

pub(super) struct Directory {
    pub(super) parent: Ino,
    pub(super) entries: BTreeMap<String, Ino>,
}

#[derive(Default)]
pub(super) struct File {
    pub(super) is_regular: bool,
    pub(super) nlink: u32,
    pub(super) size: u64,
    pub(super) dv: u64,
    pub(super) blocks: BTreeMap<u64, Place>,
    pub(super) pins: BTreeSet<SessionId>,
    pub(super) holder: Option<SessionId>,
    /// Who may give it its first name.
    linkable_by: Option<SessionId>,
}

impl File {
    /// Bytes of `from..to` count no more; `to` is a whole block.
    fn cut(&mut self, from: u64, to: u64) {
        let (first, last) = (from / BLOCK, to.div_ceil(BLOCK));
        let ragged = from % BLOCK;
        let kept = self.blocks.get(&first).copied().filter(|_| ragged > 0);
        self.blocks.retain(|block, _| !(first..last).contains(block));
        if let Some((stripe, at, bytes)) = kept {
            self.blocks.insert(first, (stripe, at, bytes.min(ragged)));
        }
    }
}

impl Shadow {
    pub(super) fn new() -> Self {
        let mut shadow = Self::default();
        shadow.add_directory(Ino::ROOT, Ino::ROOT);
        shadow
    }

    fn add_directory(&mut self, ino: Ino, parent: Ino) {
        let entries = BTreeMap::new();
        self.directories.insert(ino, Directory { parent, entries });
    }

    fn entries(&mut self, dir: Ino) -> &mut BTreeMap<String, Ino> {
        &mut self.directories.get_mut(&dir).unwrap().entries
    }

    fn lookup(&self, dir: Ino, name: &str) -> Option<Ino> {
        self.directories[&dir].entries.get(name).copied()
    }

    fn is_directory(&self, ino: Ino) -> bool {
        self.directories.contains_key(&ino)
    }

    /// Which inodes others hold of what an operation touches.
    pub(super) fn held(&self, session: SessionId, op: &Op) -> BTreeSet<Ino> {
        let name = |dir, name: &[u8]| self.lookup(dir, std::str::from_utf8(name).unwrap());
        let touched = match op {
            Op::Unlink { parent, name: n } => vec![name(*parent, n)],
            Op::Rename(r) => vec![name(r.parent, &r.name), name(r.new_parent, &r.new_name)],
            Op::Link { ino, .. } | Op::Acquire { ino } => vec![Some(*ino)],
            _ => Vec::new(),
        };
        let held = touched.into_iter().flatten().filter(|ino| {
            let holder = self.files.get(ino).and_then(|file| file.holder);
            holder.is_some_and(|holder| holder != session)
        });
        held.collect()
    }

    pub(super) fn create(&mut self, session: SessionId, c: &Create) -> Result<(), Errno> {
        let name = String::from_utf8(c.name.clone()).unwrap();
        if self.lookup(c.parent, &name).is_some() {
            return Err(Errno::Exists);
        }
        self.entries(c.parent).insert(name, c.ino);
        if c.kind == FileKind::Directory {
            self.add_directory(c.ino, c.parent);
            return Ok(());
        }
        let file = File {
            is_regular: c.kind == FileKind::Regular,
            nlink: 1,
            size: c.target.len() as u64,
            holder: c.open.then_some(session),
            ..File::default()
        };
        self.files.insert(c.ino, file);
        Ok(())
    }

    pub(super) fn create_nameless(&mut self, session: SessionId, ino: Ino, linkable: bool) {
        let file = File {
            is_regular: true,
            pins: BTreeSet::from([session]),
            holder: Some(session),
            linkable_by: linkable.then_some(session),
            ..File::default()
        };
        self.files.insert(ino, file);
    }

    pub(super) fn link(
        &mut self,
        session: SessionId,
        ino: Ino,
        dir: Ino,
        name: &str,
    ) -> Result<(), Errno> {
        let file = self.files.get(&ino).ok_or(Errno::Stale)?;
        let is_first = file.linkable_by == Some(session);
        if file.nlink == 0 && !is_first {
            return Err(Errno::NotFound);
        }
        if self.lookup(dir, name).is_some() {
            return Err(Errno::Exists);
        }
        self.entries(dir).insert(name.to_owned(), ino);
        let file = self.files.get_mut(&ino).unwrap();
        if file.linkable_by.take().is_some() {
            file.pins.clear();
        }
        file.nlink += 1;
        Ok(())
    }

    pub(super) fn unlink(&mut self, dir: Ino, name: &str, pins: &[SessionId]) -> Result<(), Errno> {
        let ino = self.lookup(dir, name).ok_or(Errno::NotFound)?;
        if self.is_directory(ino) {
            return Err(Errno::IsDirectory);
        }
        self.remove(dir, name, pins);
        Ok(())
    }

    pub(super) fn rmdir(&mut self, dir: Ino, name: &str, pins: &[SessionId]) -> Result<(), Errno> {
        let ino = self.lookup(dir, name).ok_or(Errno::NotFound)?;
        let directory = self.directories.get(&ino).ok_or(Errno::NotDirectory)?;
        if !directory.entries.is_empty() {
            return Err(Errno::NotEmpty);
        }
        self.remove(dir, name, pins);
        Ok(())
    }

    fn remove(&mut self, dir: Ino, name: &str, pins: &[SessionId]) {
        let ino = self.entries(dir).remove(name).unwrap();
        if self.directories.remove(&ino).is_some() {
            self.removed.insert(ino, pins.iter().copied().collect());
        }
        if let Some(file) = self.files.get_mut(&ino) {
            file.nlink -= 1;
            if file.nlink == 0 {
                file.pins.extend(pins);
            }
        }
        self.sweep();
    }

    fn sweep(&mut self) {
        self.files.retain(|_, file| file.nlink > 0 || !file.pins.is_empty());
        self.removed.retain(|_, pins| !pins.is_empty());
    }

    fn is_below(&self, mut dir: Ino, ancestor: Ino) -> bool {
        loop {
            if dir == ancestor {
                return true;
            }
            if dir == Ino::ROOT {
                return false;
            }
            dir = self.directories[&dir].parent;
        }
    }

    pub(super) fn rename(&mut self, r: &Rename, pins: &[SessionId]) -> Result<(), Errno> {
        let (from, to) = (r.parent, r.new_parent);
        let name = String::from_utf8(r.name.clone()).unwrap();
        let new_name = String::from_utf8(r.new_name.clone()).unwrap();
        let moved = self.lookup(from, &name).ok_or(Errno::NotFound)?;
        let there = self.lookup(to, &new_name);
        if r.mode == RenameMode::NoReplace && there.is_some() {
            return Err(Errno::Exists);
        }
        if r.mode == RenameMode::Exchange && there.is_none() {
            return Err(Errno::NotFound);
        }
        if there == Some(moved) {
            return Ok(());
        }
        if self.is_directory(moved) && self.is_below(to, moved) {
            return Err(Errno::Invalid);
        }
        match there {
            Some(there) if r.mode == RenameMode::Exchange => {
                if self.is_directory(there) && self.is_below(from, there) {
                    return Err(Errno::Invalid);
                }
                self.place(from, name, there);
            }
            Some(there) => {
                self.check_replaceable(moved, there)?;
                self.remove(to, &new_name, pins);
                self.entries(from).remove(&name);
            }
            None => {
                self.entries(from).remove(&name);
            }
        }
        self.place(to, new_name, moved);
        Ok(())
    }

    fn place(&mut self, dir: Ino, name: String, ino: Ino) {
        self.entries(dir).insert(name, ino);
        if let Some(directory) = self.directories.get_mut(&ino) {
            directory.parent = dir;
        }
    }

    fn check_replaceable(&self, moved: Ino, there: Ino) -> Result<(), Errno> {
        match (self.is_directory(moved), self.directories.get(&there)) {
            (false, None) => Ok(()),
            (false, Some(_)) => Err(Errno::IsDirectory),
            (true, None) => Err(Errno::NotDirectory),
            (true, Some(directory)) if directory.entries.is_empty() => Ok(()),
            (true, Some(_)) => Err(Errno::NotEmpty),
        }
    }

    pub(super) fn commit(&mut self, session: SessionId, commit: &Commit) -> Vec<&'static str> {
        let mut outcomes = Vec::new();
        for CommitPiece { piece, release, .. } in &commit.pieces {
            let Some(file) = self.files.get_mut(&piece.ino) else {
                outcomes.push("gone");
                continue;
            };
            if file.holder != Some(session) {
                outcomes.push("revoked");
                continue;
            }
            let end = piece.file_offset + u64::from(piece.length);
            file.cut(piece.file_offset, end);
            let blocks = u64::from(piece.length).div_ceil(BLOCK);
            for n in 0..blocks {
                let at = u64::from(piece.stripe_offset) / BLOCK + n;
                let bytes = BLOCK.min(u64::from(piece.length) - n * BLOCK);
                let block = piece.file_offset / BLOCK + n;
                file.blocks.insert(block, (commit.stripe.id, at, bytes));
            }
            file.size = file.size.max(end);
            file.dv += 1;
            if *release {
                file.holder = None;
            }
            outcomes.push("accepted");
        }
        outcomes
    }

    /// A file that the session may change the content of.
    fn held_file(&mut self, session: SessionId, ino: Ino) -> Result<&mut File, Errno> {
        let file = self.files.get_mut(&ino).ok_or(Errno::Stale)?;
        if !file.is_regular {
            return Err(Errno::Invalid);
        }
        match file.holder {
            Some(holder) if holder == session => Ok(file),
            _ => Err(Errno::Stale),
        }
    }

    pub(super) fn truncate(
        &mut self,
        session: SessionId,
        ino: Ino,
        size: u64,
    ) -> Result<(), Errno> {
        let file = self.held_file(session, ino)?;
        file.cut(size, u64::MAX);
        file.size = size;
        file.dv += 1;
        Ok(())
    }

    pub(super) fn punch(
        &mut self,
        session: SessionId,
        ino: Ino,
        range: std::ops::Range<u64>,
    ) -> Result<(), Errno> {
        let file = self.held_file(session, ino)?;
        file.cut(range.start, range.end);
        file.dv += 1;
        Ok(())
    }

    pub(super) fn clone(&mut self, session: SessionId, r: &CloneRange) -> Result<(), Errno> {
        let to_size = match self.files.get(&r.to) {
            Some(file) if file.is_regular => file.size,
            Some(_) if self.files.get(&r.from).is_some_and(|file| file.is_regular) => {
                return Err(Errno::Invalid);
            }
            _ => 0,
        };
        let from = self.held_file(session, r.from)?;
        let (from_end, to_end) = (r.from_offset + r.length, r.to_offset + r.length);
        let source: BTreeMap<u64, Place> = from.blocks.clone();
        let from_size = from.size;
        self.held_file(session, r.to)?;
        let ragged = !r.length.is_multiple_of(BLOCK);
        let apart = r.from != r.to
            || from_end.next_multiple_of(BLOCK) <= r.to_offset
            || to_end.next_multiple_of(BLOCK) <= r.from_offset;
        let fits = from_end <= from_size && r.length > 0;
        if !fits || !apart || ragged && (from_end != from_size || to_end < to_size) {
            return Err(Errno::Invalid);
        }
        let to = self.held_file(session, r.to)?;
        to.cut(r.to_offset, to_end.next_multiple_of(BLOCK));
        for n in 0..r.length.div_ceil(BLOCK) {
            if let Some(place) = source.get(&(r.from_offset / BLOCK + n)) {
                to.blocks.insert(r.to_offset / BLOCK + n, *place);
            }
        }
        to.size = to.size.max(to_end);
        to.dv += 1;
        Ok(())
    }

    pub(super) fn acquire(&mut self, session: SessionId, ino: Ino) -> Result<(), Errno> {
        let file = self.files.get_mut(&ino).ok_or(Errno::Stale)?;
        if !file.is_regular {
            return Err(Errno::Invalid);
        }
        file.holder = Some(session);
        Ok(())
    }

    pub(super) fn release(&mut self, session: SessionId, ino: Ino) {
        if let Some(file) = self.files.get_mut(&ino) {
            file.holder = file.holder.filter(|&holder| holder != session);
        }
    }

    pub(super) fn unpin(&mut self, session: SessionId, ino: Ino) {
        if let Some(file) = self.files.get_mut(&ino) {
            file.pins.remove(&session);
        }
        if let Some(pins) = self.removed.get_mut(&ino) {
            pins.remove(&session);
        }
        self.sweep();
    }

    pub(super) fn close(&mut self, session: SessionId) {
        for file in self.files.values_mut() {
            file.pins.remove(&session);
            file.holder = file.holder.filter(|&holder| holder != session);
        }
        for pins in self.removed.values_mut() {
            pins.remove(&session);
        }
        self.sweep();
    }

    /// The stripes that some file has bytes in.
    pub(super) fn live_stripes(&self) -> Vec<StripeId> {
        let places = self.files.values().flat_map(|file| file.blocks.values());
        let stripes: BTreeSet<StripeId> = places.map(|(stripe, ..)| *stripe).collect();
        stripes.into_iter().collect()
    }
}
