//! A real directory.
//!
//! Two ways to the same bytes. What is large and read seldom twice (a big shard) goes past the page cache:
//! O_DIRECT saves the copy, and the touching of memory that the kernel would only throw away again. The rest goes
//! through it. A file opened for direct access has both kinds of descriptor, and each transfer takes the one that
//! fits it: whole blocks in aligned memory the direct one, a few bytes of a header the cached one. Where the
//! filesystem knows no O_DIRECT (tmpfs before Linux 6.6, some network filesystems), everything is cached.
//!
//! Memory for large reads is that of payloads, aligned and used again: it goes out as it is.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::rpc::payload::Buffer;
use crate::env::disk::{Access, DirItem, Disk, DiskFile, Room};

/// Unit of direct access: offset, length and memory are multiples of it.
const ALIGNMENT: usize = 4096;
/// Shorter reads go through the page cache, whose read-ahead and hits outweigh its copy there.
const DIRECT_READ_MIN: usize = 256 << 10;

/// The files below one directory.
pub struct SystemDisk {
    root: PathBuf,
}

impl SystemDisk {
    /// The disk whose root is that directory, which must exist.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Opens a file that is only looked at: it may be read-only, and lie anywhere.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn open_to_look(path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let cached = File::open(path)?;
        let direct = None;
        Ok(Arc::new(Opened { cached, direct }))
    }

    fn open_with(&self, path: &str, access: Access, options: &OpenOptions) -> io::Result<Opened> {
        let path = self.root.join(path);
        let cached = options.open(&path)?;
        let direct = match access {
            Access::Cached => None,
            Access::Direct => open_direct(&path)?,
        };
        Ok(Opened { cached, direct })
    }
}

impl Disk for SystemDisk {
    fn make_dir(&self, dir: &str) -> io::Result<()> {
        match fs::create_dir(self.root.join(dir)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            outcome => outcome,
        }
    }

    fn list(&self, dir: &str) -> io::Result<Vec<DirItem>> {
        let mut items = Vec::new();
        for entry in fs::read_dir(self.root.join(dir))? {
            let entry = entry?;
            // All our names are plain ASCII; what is not UTF-8 is not ours.
            if let Ok(name) = entry.file_name().into_string() {
                let is_dir = entry.file_type()?.is_dir();
                items.push(DirItem { name, is_dir });
            }
        }
        items.sort();
        Ok(items)
    }

    fn create(&self, path: &str, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        Ok(Arc::new(self.open_with(path, access, &options)?))
    }

    fn open(&self, path: &str, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        Ok(Arc::new(self.open_with(path, access, &options)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.root.join(path))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        File::open(self.root.join(dir))?.sync_all()
    }

    fn room(&self) -> io::Result<Room> {
        let root = File::open(&self.root)?;
        // SAFETY: all zeros is a value of this plain C struct.
        let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open and `stat` is ours to fill.
        if unsafe { libc::fstatvfs(root.as_raw_fd(), &raw mut stat) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Room {
            total_bytes: stat.f_blocks * stat.f_frsize,
            free_bytes: stat.f_bavail * stat.f_frsize,
        })
    }
}

/// An open file: one descriptor through the page cache, and where wanted and possible one past it.
struct Opened {
    cached: File,
    direct: Option<File>,
}

impl DiskFile for Opened {
    fn length(&self) -> io::Result<u64> {
        Ok(self.cached.metadata()?.len())
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let is_large = length >= DIRECT_READ_MIN;
        match &self.direct {
            Some(direct) if is_large && is_aligned(offset) && is_aligned(length as u64) => {
                let mut memory = Buffer::new(length);
                unless_refused(direct.read_exact_at(&mut memory, offset), || {
                    self.cached.read_exact_at(&mut memory, offset)
                })?;
                Ok(memory.freeze())
            }
            _ => {
                let mut bytes = vec![0; length];
                self.cached.read_exact_at(&mut bytes, offset)?;
                Ok(Bytes::from(bytes))
            }
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let memory = bytes.as_ptr().addr() as u64;
        let length = bytes.len() as u64;
        match &self.direct {
            Some(direct) if [memory, offset, length].into_iter().all(is_aligned) => {
                unless_refused(direct.write_all_at(bytes, offset), || {
                    self.cached.write_all_at(bytes, offset)
                })
            }
            _ => self.cached.write_all_at(bytes, offset),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.cached.sync_data()
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        let signed = |value: u64| {
            libc::off_t::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
        };
        let (offset, length) = (signed(offset)?, signed(length)?);
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: the descriptor is open; the call touches no memory of ours.
        match unsafe { libc::fallocate(self.cached.as_raw_fd(), mode, offset, length) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// A descriptor past the page cache; `None` where the filesystem has no such thing.
fn open_direct(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_DIRECT);
    match options.open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        Err(error) => Err(error),
    }
}

/// Some filesystems open a file for direct access and then refuse the transfer: do it the other way then.
fn unless_refused(
    outcome: io::Result<()>,
    otherwise: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => otherwise(),
        outcome => outcome,
    }
}

fn is_aligned(value: u64) -> bool {
    value.is_multiple_of(ALIGNMENT as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn direct_and_cached_access_see_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let disk = SystemDisk::new(dir.path());
        disk.make_dir("a").unwrap();
        disk.make_dir("a").unwrap();
        let file = disk.create("a/x", Access::Direct).unwrap();
        let mut pages = Buffer::new(512 << 10);
        for (at, byte) in pages.iter_mut().enumerate() {
            *byte = (at / 7) as u8;
        }
        file.write(4096, &pages[..]).unwrap();
        file.write(1, b"small").unwrap();
        file.sync().unwrap();
        disk.rename("a/x", "a/y").unwrap();
        disk.sync_dir("a").unwrap();
        let again = disk.open("a/y", Access::Direct).unwrap();
        assert_eq!(again.length().unwrap(), 4096 + (512 << 10));
        assert_eq!(again.read(4096, 512 << 10).unwrap(), &pages[..]);
        assert_eq!(again.read(5000, 300).unwrap(), pages[904..1204]);
        assert_eq!(&again.read(0, 7).unwrap()[..], b"\0small\0");
        let beyond = again.read(4096, 1 << 20).unwrap_err();
        assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(disk.list("a").unwrap()[0].name, "y");
        disk.remove("a/y").unwrap();
        assert_eq!(disk.list("a").unwrap(), []);
        assert_eq!(again.read(1, 1).unwrap()[0], b's');
    }
}
