//! A disk in memory that crashes.
//!
//! Everything is kept twice: as running programs see it, and as it lies on the medium. A sync copies from the one
//! to the other. [`SimDisk::crash`] is a power cut: of each unsynced change, made since, a seeded die says whether
//! it had reached the medium anyhow; a long write may have reached it in part (in sectors, in any order), a file may
//! end anywhere between its old and its new end, and a new file whose data was never synced may be there empty. Then
//! programs see what the medium has. Handles from before a crash only fail.
//!
//! [`SimDisk::fail_after`] makes the disk die after so many changes or syncs, in the middle of any call, so that a
//! test can crash at each of them in turn.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::env::disk::{Access, DirItem, Disk, DiskFile, Room};

const SECTOR: usize = 512;

/// A disk in memory. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    files: BTreeMap<u64, Contents>,
    next_file: u64,
    /// What programs see: path to file, `None` for a directory.
    names: BTreeMap<String, Option<u64>>,
    /// What is on the medium.
    durable_names: BTreeMap<String, Option<u64>>,
    /// Changes of names since the last sync of their directory, in order.
    name_changes: Vec<NameChange>,
    generation: u64,
    steps_left: Option<u64>,
    steps: u64,
    is_sync_lost: bool,
    capacity: u64,
}

#[derive(Default)]
struct Contents {
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// Changes since the last sync, in order.
    writes: Vec<Write>,
    /// Bytes that can no longer be read.
    bad: Vec<usize>,
}

enum Write {
    Bytes { offset: usize, bytes: Vec<u8> },
    Cut,
}

/// A change of names in one directory, atomic.
#[derive(Clone)]
struct NameChange {
    dir: String,
    removed: Option<String>,
    added: Option<(String, Option<u64>)>,
}

impl SimDisk {
    /// An empty disk for that many bytes.
    pub fn new(capacity: u64) -> Self {
        let root = BTreeMap::from([(String::new(), None)]);
        Self {
            state: Arc::new(Mutex::new(State {
                files: BTreeMap::new(),
                next_file: 1,
                names: root.clone(),
                durable_names: root,
                name_changes: Vec::new(),
                generation: 0,
                steps_left: None,
                steps: 0,
                is_sync_lost: false,
                capacity,
            })),
        }
    }

    /// A power cut. The seed decides which unsynced changes survive.
    pub fn crash(&self, seed: u64) {
        let mut state = self.state.lock();
        let mut dice = Dice(seed);
        let state = &mut *state;
        for change in std::mem::take(&mut state.name_changes) {
            if dice.throw() {
                change.apply(&mut state.durable_names);
            }
        }
        for contents in state.files.values_mut() {
            contents.crash(&mut dice);
        }
        let named: Vec<u64> = state.durable_names.values().flatten().copied().collect();
        state.files.retain(|file, _| named.contains(file));
        state.names = state.durable_names.clone();
        state.generation += 1;
        state.steps_left = None;
    }

    /// Lets the disk fail at the change or sync number `steps` from now on (0: the very next), and at
    /// all after it, until it is crashed.
    pub fn fail_after(&self, steps: u64) {
        self.state.lock().steps_left = Some(steps);
    }

    /// How many changes and syncs there were since the disk was made.
    pub fn steps(&self) -> u64 {
        self.state.lock().steps
    }

    /// Flips a bit of a file, as rot does: neither seen nor synced by anybody.
    ///
    /// # Panics
    ///
    /// When there is no such file, or it is shorter.
    pub fn flip(&self, path: &str, byte: usize, bit: u32) {
        let mut state = self.state.lock();
        let file = state.names[path].expect("a file");
        let contents = state.files.get_mut(&file).expect("its contents");
        contents.seen[byte] ^= 1 << bit;
        if let Some(durable) = contents.durable.get_mut(byte) {
            *durable ^= 1 << bit;
        }
    }

    /// Lets a byte of a file, and whatever is read together with it, become unreadable.
    ///
    /// # Panics
    ///
    /// When there is no such file.
    pub fn break_sector(&self, path: &str, byte: usize) {
        let mut state = self.state.lock();
        let file = state.names[path].expect("a file");
        state.files.get_mut(&file).expect("its contents").bad.push(byte);
    }

    /// Lets the next sync of a file fail as Linux does it: what was written stays readable until a crash, and later
    /// syncs know nothing of it.
    pub fn lose_next_sync(&self) {
        self.state.lock().is_sync_lost = true;
    }

    /// Somebody else takes all space that is left, or with `false` gives it back.
    pub fn fill(&self, is_full: bool) {
        let mut state = self.state.lock();
        let used = state.used();
        state.capacity = if is_full { used } else { 1 << 40 };
    }

    /// All files, by path.
    pub fn files(&self) -> Vec<String> {
        let state = self.state.lock();
        let files = state.names.iter().filter(|(_, file)| file.is_some());
        files.map(|(path, _)| path.clone()).collect()
    }
}

impl State {
    /// Counts a change or sync; fails when the disk is to be dead by now.
    fn step(&mut self) -> io::Result<()> {
        self.steps += 1;
        match &mut self.steps_left {
            None => Ok(()),
            Some(0) => Err(io::Error::other("the simulated disk died")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.name_changes.push(change);
    }

    fn file(&self, path: &str) -> io::Result<u64> {
        let found = self.names.get(path).copied().flatten();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn require_parent(&self, path: &str) -> io::Result<()> {
        match self.names.get(parent(path)) {
            Some(None) => Ok(()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn used(&self) -> u64 {
        let named = self.names.values().flatten();
        named.map(|file| self.files[file].seen.len() as u64).sum()
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, Option<u64>>) {
        if let Some(removed) = &self.removed {
            names.remove(removed);
        }
        if let Some((added, file)) = &self.added {
            names.insert(added.clone(), *file);
        }
    }
}

impl Contents {
    fn sync(&mut self) {
        for write in std::mem::take(&mut self.writes) {
            match write {
                Write::Cut => self.durable.clear(),
                Write::Bytes { offset, bytes } => put(&mut self.durable, offset, &bytes),
            }
        }
    }

    fn crash(&mut self, dice: &mut Dice) {
        for write in std::mem::take(&mut self.writes) {
            match write {
                Write::Cut if dice.throw() => self.durable.clear(),
                Write::Cut => {}
                Write::Bytes { offset, bytes } => self.tear(offset, &bytes, dice),
            }
        }
        self.seen = self.durable.clone();
    }

    /// Lets any of the sectors of a write reach the medium.
    fn tear(&mut self, offset: usize, bytes: &[u8], dice: &mut Dice) {
        if dice.throw() {
            return;
        }
        let mut at = offset;
        while at < offset + bytes.len() {
            let end = ((at / SECTOR + 1) * SECTOR).min(offset + bytes.len());
            if dice.throw() {
                put(&mut self.durable, at, &bytes[at - offset..end - offset]);
            }
            at = end;
        }
    }
}

/// Seeded coin throws (splitmix64).
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) & 1 == 1
    }
}

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset..end].copy_from_slice(bytes);
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

impl Disk for SimDisk {
    fn make_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.require_parent(dir)?;
        if !state.names.contains_key(dir) {
            state.step()?;
            state.change(NameChange {
                dir: parent(dir).into(),
                removed: None,
                added: Some((dir.into(), None)),
            });
        }
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<DirItem>> {
        let state = self.state.lock();
        if state.names.get(dir) != Some(&None) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let inside = state
            .names
            .range(prefix.clone()..)
            .take_while(|(path, _)| path.starts_with(&prefix))
            .filter(|(path, _)| !path.is_empty() && parent(path) == dir);
        Ok(inside
            .map(|(path, file)| DirItem {
                name: path.rsplit('/').next().unwrap_or(path).to_owned(),
                is_dir: file.is_none(),
            })
            .collect())
    }

    fn create(&self, path: &str, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.require_parent(path)?;
        state.step()?;
        if let Ok(file) = state.file(path) {
            let contents = state.files.get_mut(&file).expect("named files exist");
            contents.seen.clear();
            contents.writes.push(Write::Cut);
        } else {
            let file = state.next_file;
            state.next_file += 1;
            state.files.insert(file, Contents::default());
            state.change(NameChange {
                dir: parent(path).into(),
                removed: None,
                added: Some((path.into(), Some(file))),
            });
        }
        drop(state);
        self.open(path, access)
    }

    fn open(&self, path: &str, _access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state.lock();
        Ok(Arc::new(Handle {
            disk: self.clone(),
            file: state.file(path)?,
            generation: state.generation,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let file = state.file(from)?;
        state.require_parent(to)?;
        state.step()?;
        state.change(NameChange {
            dir: parent(to).into(),
            removed: Some(from.into()),
            added: Some((to.into(), Some(file))),
        });
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.file(path)?;
        state.step()?;
        state.change(NameChange {
            dir: parent(path).into(),
            removed: Some(path.into()),
            added: None,
        });
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.step()?;
        let (synced, rest) = std::mem::take(&mut state.name_changes)
            .into_iter()
            .partition(|change| change.dir == dir);
        state.name_changes = rest;
        let synced: Vec<NameChange> = synced;
        for change in synced {
            change.apply(&mut state.durable_names);
        }
        Ok(())
    }

    fn room(&self) -> io::Result<Room> {
        let state = self.state.lock();
        Ok(Room {
            total_bytes: state.capacity,
            free_bytes: state.capacity.saturating_sub(state.used()),
        })
    }
}

struct Handle {
    disk: SimDisk,
    file: u64,
    generation: u64,
}

impl Handle {
    fn with<T>(
        &self,
        is_change: bool,
        act: impl FnOnce(&mut Contents, u64) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.disk.state.lock();
        if state.generation != self.generation {
            return Err(io::Error::other("the simulated machine was restarted"));
        }
        if is_change {
            state.step()?;
        }
        let free = state.capacity.saturating_sub(state.used());
        act(state.files.get_mut(&self.file).expect("kept until a crash"), free)
    }
}

impl DiskFile for Handle {
    fn length(&self) -> io::Result<u64> {
        self.with(false, |file, _| Ok(file.seen.len() as u64))
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        self.with(false, |file, _| {
            let from = offset as usize;
            if file.bad.iter().any(|bad| (from..from + length).contains(bad)) {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            let bytes = file.seen.get(from..from + length);
            let bytes = bytes.ok_or(io::ErrorKind::UnexpectedEof)?;
            Ok(Bytes::copy_from_slice(bytes))
        })
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.with(true, |file, free| {
            let offset = offset as usize;
            let growth = (offset + bytes.len()).saturating_sub(file.seen.len());
            if growth as u64 > free {
                return Err(io::ErrorKind::StorageFull.into());
            }
            put(&mut file.seen, offset, bytes);
            let bytes = bytes.to_vec();
            file.writes.push(Write::Bytes { offset, bytes });
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        let is_lost = std::mem::take(&mut self.disk.state.lock().is_sync_lost);
        self.with(true, |file, _| {
            if is_lost {
                file.writes.clear();
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            file.sync();
            Ok(())
        })
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.with(true, |file, _| {
            let end = (offset + length).min(file.seen.len() as u64) as usize;
            let offset = (offset as usize).min(end);
            let bytes = vec![0; end - offset];
            put(&mut file.seen, offset, &bytes);
            file.writes.push(Write::Bytes { offset, bytes });
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_synced_survives_and_the_rest_may_not() {
        let mut outcomes = std::collections::BTreeSet::new();
        for seed in 0..64 {
            let disk = SimDisk::new(1 << 20);
            let file = disk.create("a", Access::Cached).unwrap();
            file.write(0, b"synced").unwrap();
            file.sync().unwrap();
            disk.sync_dir("").unwrap();
            file.write(0, b"SYNCED").unwrap();
            disk.create("b", Access::Cached).unwrap();
            disk.crash(seed);
            file.read(0, 1).expect_err("a handle from before");
            let back = disk.open("a", Access::Cached).unwrap().read(0, 6).unwrap();
            outcomes.insert((back.to_vec(), disk.files().len()));
        }
        assert_eq!(outcomes.len(), 4, "{outcomes:?}");
    }

    #[test]
    fn a_renamed_file_keeps_its_name_or_gets_the_new_one() {
        for seed in 0..64 {
            let disk = SimDisk::new(1 << 20);
            disk.create("a", Access::Cached).unwrap();
            disk.sync_dir("").unwrap();
            disk.rename("a", "b").unwrap();
            disk.crash(seed);
            assert_eq!(disk.files().len(), 1);
        }
    }
}
