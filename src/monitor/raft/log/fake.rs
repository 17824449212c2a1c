//! A disk that loses its power.
//!
//! What was not synced may be there afterwards, or not, or in part: each 512-byte sector for itself, each name
//! for itself.

use std::collections::BTreeMap;
use std::io;

use parking_lot::Mutex;

use super::files::Files;

const SECTOR: usize = 512;

#[derive(Clone, Default)]
struct FakeFile {
    now: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Clone, Default)]
struct Disk {
    /// What programs see.
    names: BTreeMap<String, usize>,
    /// What the directory on disk says for sure.
    synced_names: BTreeMap<String, usize>,
    files: Vec<FakeFile>,
    /// Syncs until the power goes.
    syncs_left: Option<u32>,
    syncs: u32,
    /// Whether there is no room for what files grow by.
    is_full: bool,
}

/// Files in memory.
#[derive(Default)]
pub(super) struct FakeFiles {
    disk: Mutex<Disk>,
}

/// A small generator of random numbers, so that a seed tells the whole story.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

impl FakeFiles {
    /// Lets the power go at the sync that comes after so many.
    pub(super) fn cut_power_after(&self, syncs: u32) {
        self.disk.lock().syncs_left = Some(syncs);
    }

    /// Leaves no room for what files grow by, or some again.
    pub(super) fn fill_up(&self, is_full: bool) {
        self.disk.lock().is_full = is_full;
    }

    /// How many syncs there were.
    pub(super) fn syncs(&self) -> u32 {
        self.disk.lock().syncs
    }

    /// Flips a byte that was written.
    pub(super) fn flip(&self, name: &str, at: usize) {
        let mut disk = self.disk.lock();
        let file = disk.names[name];
        disk.files[file].now[at] ^= 0x40;
        disk.files[file].synced[at] ^= 0x40;
    }

    /// The disk of a process that was killed: what it had written is there, nothing was lost.
    pub(super) fn after_kill(&self) -> Self {
        let mut disk = self.disk.lock().clone();
        disk.syncs_left = None;
        Self { disk: Mutex::new(disk) }
    }

    /// The disk after a power cut.
    pub(super) fn after_power_cut(&self, random: &mut Random) -> Self {
        let disk = self.disk.lock();
        let mut names = disk.synced_names.clone();
        for (name, file) in &disk.names {
            if names.get(name) != Some(file) && random.below(2) == 0 {
                names.insert(name.clone(), *file);
            }
        }
        for name in disk.synced_names.keys() {
            if !disk.names.contains_key(name) && random.below(2) == 0 {
                names.remove(name);
            }
        }
        let files = disk.files.iter().map(|file| torn(file, random)).collect();
        Self {
            disk: Mutex::new(Disk {
                synced_names: names.clone(),
                names,
                files,
                syncs_left: None,
                syncs: 0,
                is_full: false,
            }),
        }
    }
}

fn torn(file: &FakeFile, random: &mut Random) -> FakeFile {
    let lengths = [file.synced.len(), file.now.len()];
    let (shorter, longer) = (lengths.iter().min().unwrap(), lengths.iter().max().unwrap());
    let length = match random.below(3) {
        0 => file.synced.len(),
        1 => file.now.len(),
        _ => shorter + random.below((longer - shorter) as u64 + 1) as usize,
    };
    let mut bytes = file.synced.clone();
    bytes.resize(length, 0);
    for sector in 0..length.div_ceil(SECTOR) {
        let end = ((sector + 1) * SECTOR).min(length).min(file.now.len());
        let start = (sector * SECTOR).min(end);
        if random.below(2) == 0 {
            bytes[start..end].copy_from_slice(&file.now[start..end]);
        }
    }
    FakeFile { now: bytes.clone(), synced: bytes }
}

impl Disk {
    fn check_power(&self) -> io::Result<()> {
        match self.syncs_left {
            Some(0) => Err(io::Error::other("the power is gone")),
            _ => Ok(()),
        }
    }

    /// Counts a sync; the one at which the power goes does nothing.
    fn count_sync(&mut self) -> io::Result<()> {
        self.check_power()?;
        self.syncs += 1;
        if let Some(left) = &mut self.syncs_left {
            *left -= 1;
        }
        self.check_power()
    }

    fn file(&mut self, name: &str) -> io::Result<&mut FakeFile> {
        let file = *self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(&mut self.files[file])
    }
}

impl Files for FakeFiles {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.disk.lock().names.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        Ok(self.disk.lock().file(name)?.now.clone())
    }

    fn read_at(&self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut disk = self.disk.lock();
        let bytes = &disk.file(name)?.now;
        let found = bytes.get(offset as usize..offset as usize + length);
        Ok(found.ok_or(io::ErrorKind::UnexpectedEof)?.to_vec())
    }

    fn write_at(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.check_power()?;
        if !disk.names.contains_key(name) {
            let file = disk.files.len();
            disk.files.push(FakeFile::default());
            disk.names.insert(name.to_owned(), file);
        }
        let is_full = disk.is_full;
        let now = &mut disk.file(name)?.now;
        // As a real one: what there is room for is written.
        let bytes = if is_full { &bytes[..bytes.len() / 2] } else { bytes };
        let end = offset as usize + bytes.len();
        now.resize(now.len().max(end), 0);
        now[offset as usize..end].copy_from_slice(bytes);
        if is_full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn truncate(&self, name: &str, length: u64) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.check_power()?;
        disk.file(name)?.now.resize(length as usize, 0);
        Ok(())
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.count_sync()?;
        let file = disk.file(name)?;
        file.synced = file.now.clone();
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.check_power()?;
        let file = disk.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.names.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.check_power()?;
        disk.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.count_sync()?;
        disk.synced_names = disk.names.clone();
        Ok(())
    }
}
