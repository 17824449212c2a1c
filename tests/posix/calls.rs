//! System calls that the standard library does not have, as functions that give `io::Result`.

use std::ffi::CString;
use std::fs::{File, Metadata};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::ptr;

/// A path as C takes it.
fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no zero byte in it")
}

fn name_of(attribute: &str) -> CString {
    CString::new(attribute).expect("no zero byte in it")
}

fn done(result: impl Into<i64>) -> io::Result<i64> {
    let result = result.into();
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The number of an error, 0 if there is none.
pub(crate) fn errno<T>(result: io::Result<T>) -> i32 {
    result.err().map_or(0, |error| error.raw_os_error().expect("a system call failed"))
}

/// fallocate(2).
pub(crate) fn fallocate(file: &File, mode: i32, offset: i64, length: i64) -> io::Result<()> {
    // SAFETY: the descriptor is open; no memory is touched.
    done(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, length) }).map(drop)
}

/// lseek(2), where it begins and what for.
pub(crate) fn seek(file: &File, offset: i64, whence: i32) -> io::Result<i64> {
    // SAFETY: the descriptor is open; no memory is touched.
    done(unsafe { libc::lseek(file.as_raw_fd(), offset, whence) })
}

/// copy_file_range(2) until all is copied.
pub(crate) fn copy_range(from: (&File, i64), to: (&File, i64), length: usize) -> io::Result<()> {
    let ((from, mut from_at), (to, mut to_at)) = (from, to);
    let mut left = length;
    while left > 0 {
        // SAFETY: both descriptors are open, and both offsets live as long as the call.
        let copied = done(unsafe {
            let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
            libc::copy_file_range(from, &raw mut from_at, to, &raw mut to_at, left, 0) as i64
        })?;
        if copied == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= copied as usize;
    }
    Ok(())
}

/// renameat2(2).
pub(crate) fn rename(from: &Path, to: &Path, flags: u32) -> io::Result<()> {
    let (from, to) = (c(from), c(to));
    // SAFETY: both strings end with a zero byte and live as long as the call.
    let result = unsafe {
        libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags)
    };
    done(result).map(drop)
}

/// linkat(2) of an open file, by its number.
pub(crate) fn link_open(file: &File, to: &Path) -> io::Result<()> {
    let (from, to) = (c(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd()))), c(to));
    let (here, flags) = (libc::AT_FDCWD, libc::AT_SYMLINK_FOLLOW);
    // SAFETY: both strings end with a zero byte and live as long as the call.
    done(unsafe { libc::linkat(here, from.as_ptr(), here, to.as_ptr(), flags) }).map(drop)
}

/// mknod(2) of a FIFO, a socket or a device.
pub(crate) fn mknod(path: &Path, mode: u32, device: u64) -> io::Result<()> {
    let path = c(path);
    // SAFETY: the string ends with a zero byte and lives as long as the call.
    done(unsafe { libc::mknod(path.as_ptr(), mode, device) }).map(drop)
}

/// fcntl(F_SETFL).
pub(crate) fn set_flags(file: &File, flags: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open; no memory is touched.
    done(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags) }).map(drop)
}

/// utimensat(2): atime and mtime in nanoseconds since 1970. Does not follow symbolic links.
pub(crate) fn set_times(path: &Path, atime: i128, mtime: i128) -> io::Result<()> {
    let time = |nanos: i128| libc::timespec {
        tv_sec: nanos.div_euclid(1_000_000_000) as i64,
        tv_nsec: nanos.rem_euclid(1_000_000_000) as i64,
    };
    let (path, times) = (c(path), [time(atime), time(mtime)]);
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: the string ends with a zero byte; it and both times live as long as the call.
    let result = unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), flags) };
    done(result).map(drop)
}

/// Times in nanoseconds since 1970: atime, mtime, ctime.
pub(crate) fn times(stat: &Metadata) -> [i128; 3] {
    let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    [
        nanos(stat.atime(), stat.atime_nsec()),
        nanos(stat.mtime(), stat.mtime_nsec()),
        nanos(stat.ctime(), stat.ctime_nsec()),
    ]
}

/// lsetxattr(2) by another user, of that group and, beside it, of those.
pub(crate) fn set_xattr_as(
    (user, group): (u32, u32),
    groups: &[u32],
    path: &Path,
    (name, value): (&str, &[u8]),
) -> io::Result<()> {
    let (path, name, value, groups) = (c(path), name_of(name), value.to_vec(), groups.to_vec());
    let call = move || {
        // SAFETY: what is pointed to lives as long as each call and is as long as is said.
        unsafe {
            done(libc::setgroups(groups.len(), groups.as_ptr()))?;
            done(libc::setgid(group))?;
            done(libc::setuid(user))?;
            let (name, bytes) = (name.as_ptr(), value.as_ptr().cast());
            done(libc::lsetxattr(path.as_ptr(), name, bytes, value.len(), 0)).map(drop)
        }
    };
    let mut command = Command::new("true");
    // SAFETY: it makes only system calls, which is allowed between fork and exec.
    unsafe { command.current_dir("/").pre_exec(call) };
    command.spawn()?.wait().map(drop)
}

/// lsetxattr(2).
pub(crate) fn set_xattr(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    let (path, name) = (c(path), name_of(name));
    // SAFETY: both strings end with a zero byte; all three live as long as the call.
    let result = unsafe {
        libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    done(result).map(drop)
}

/// lgetxattr(2).
pub(crate) fn xattr(path: &Path, name: &str) -> io::Result<Vec<u8>> {
    let (path, name) = (c(path), name_of(name));
    let mut value = vec![0; 70_000];
    // SAFETY: both strings end with a zero byte; the buffer is as long as is said.
    let length = done(unsafe {
        libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) as i64
    })?;
    value.truncate(length as usize);
    Ok(value)
}

/// llistxattr(2), sorted.
pub(crate) fn xattrs(path: &Path) -> io::Result<Vec<String>> {
    let path = c(path);
    let mut names = vec![0_u8; 70_000];
    // SAFETY: the string ends with a zero byte; the buffer is as long as is said.
    let length = done(unsafe {
        libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) as i64
    })?;
    names.truncate(length as usize);
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut names: Vec<String> =
        names.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    names.sort();
    Ok(names)
}

/// lremovexattr(2).
pub(crate) fn remove_xattr(path: &Path, name: &str) -> io::Result<()> {
    let (path, name) = (c(path), name_of(name));
    // SAFETY: both strings end with a zero byte and live as long as the call.
    done(unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) }).map(drop)
}

/// statvfs(3).
pub(crate) fn statvfs(path: &Path) -> io::Result<libc::statvfs> {
    let path = c(path);
    let mut said = MaybeUninit::uninit();
    // SAFETY: the string ends with a zero byte; the buffer is of the right type.
    done(unsafe { libc::statvfs(path.as_ptr(), said.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so it has filled the buffer.
    Ok(unsafe { said.assume_init() })
}

/// pwritev2(2) of one buffer.
pub(crate) fn write_with(file: &File, data: &[u8], offset: i64, flags: i32) -> io::Result<i64> {
    let part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: the buffer is as long as is said and is only read.
    done(unsafe { libc::pwritev2(file.as_raw_fd(), &raw const part, 1, offset, flags) as i64 })
}

/// Opens with flags that `OpenOptions` does not let through.
pub(crate) fn open(path: &Path, flags: i32) -> io::Result<File> {
    let path = c(path);
    let descriptor = done(unsafe_open(&path, flags))?;
    // SAFETY: it was just opened and nobody else has it.
    Ok(unsafe { File::from_raw_fd(descriptor as i32) })
}

fn unsafe_open(path: &CString, flags: i32) -> i32 {
    // SAFETY: the string ends with a zero byte and lives as long as the call.
    unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, 0o644) }
}

/// Memory that is a file, or pages that begin on a page's boundary.
pub(crate) struct Mapping {
    start: *mut u8,
    length: usize,
}

impl Mapping {
    /// Maps the beginning of a file, for reading and writing.
    pub(crate) fn of(file: &File, length: usize, flags: i32) -> io::Result<Self> {
        Self::new(file.as_raw_fd(), length, flags)
    }

    /// Zeros that O_DIRECT can read into and write from.
    pub(crate) fn anonymous(length: usize) -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        Self::new(-1, length, flags).expect("there is memory")
    }

    fn new(descriptor: i32, length: usize, flags: i32) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, at a place that the kernel chooses, touches no memory that is used.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, descriptor, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: start.cast(), length })
    }

    /// What it reads as now.
    pub(crate) fn bytes(&self, offset: usize, length: usize) -> Vec<u8> {
        assert!(offset + length <= self.length);
        let byte = |at: usize| {
            // SAFETY: it is within the mapping; volatile, because others change the file meanwhile.
            unsafe { self.start.add(offset + at).read_volatile() }
        };
        (0..length).map(byte).collect()
    }

    /// Changes it.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.length);
        for (at, byte) in bytes.iter().enumerate() {
            // SAFETY: it is within the mapping, which is writable.
            unsafe { self.start.add(offset + at).write_volatile(*byte) };
        }
    }

    /// msync(2).
    pub(crate) fn sync(&self) -> io::Result<()> {
        // SAFETY: exactly what was mapped.
        done(unsafe { libc::msync(self.start.cast(), self.length, libc::MS_SYNC) }).map(drop)
    }

    /// As a buffer for read(2) and write(2).
    pub(crate) fn slice(&mut self) -> &mut [u8] {
        // SAFETY: exactly what was mapped, borrowed from its owner.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped; nothing refers to it any more.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}
