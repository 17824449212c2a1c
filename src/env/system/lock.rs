//! Locks between processes: one process a data directory, and proof that a process is alive.
//!
//! Both are locks of an open file description (OFD, `F_OFD_SETLK`): the kernel drops them when the process
//! dies, however it dies, so there is no stale lock file to remove by hand; a copy of the descriptor in a
//! forked child keeps them, so a daemon that goes to the background does; and unlike the older POSIX locks
//! they are not lost when some other part of the process opens and closes the same file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Longest content of a lock file that is looked at, in bytes: a process id.
const PID_BYTES_MAX: u64 = 20;

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error(
        "{} is in use by {}: stop that process first, or choose another directory",
        .path.display(),
        .pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Held {
        /// The directory, or the lock file of a running process.
        path: PathBuf,
        /// Who holds it, where that can be read.
        pid: Option<u32>,
    },
    /// The lock file cannot be made or locked.
    #[error("{} cannot be locked: {error}", .path.display())]
    Failed {
        /// The directory, or the lock file of a running process.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// A data directory that belongs to this process until the value is dropped or the process ends.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes the lock `dir/lock` and writes the process's id into it. Does not wait.
    ///
    /// # Errors
    ///
    /// [`LockError::Held`] names the process that has the directory.
    pub fn take(dir: &Path) -> Result<Self, LockError> {
        let file = take(&dir.join("lock"), dir)?;
        Ok(Self { _file: file })
    }
}

/// Proof that this process is alive: a file that stays locked until the value is dropped or the process ends,
/// however it ends. Dropping removes the file.
#[derive(Debug)]
pub struct RunLock {
    path: PathBuf,
    _file: File,
}

impl RunLock {
    /// Makes the file and locks it. Does not wait.
    ///
    /// # Errors
    ///
    /// [`LockError::Held`] when another process holds it.
    pub fn create(path: &Path) -> Result<Self, LockError> {
        let file = take(path, path)?;
        Ok(Self { path: path.to_owned(), _file: file })
    }

    /// Whether nobody holds the lock at `path`, so that the process that made it is dead. What cannot be
    /// looked at counts as held: declaring a live process dead would lose its data.
    pub fn is_free(path: &Path) -> bool {
        match File::open(path) {
            Ok(file) => is_unlocked(&file).unwrap_or(false),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // Still locked: whoever opens the file from now on makes a new one. A file that stays is free.
        if let Err(error) = fs::remove_file(&self.path) {
            log::debug!("{} was not removed: {error}", self.path.display());
        }
    }
}

/// A lock that a process is born with: its parent takes it, the child inherits the descriptor, and the kernel lets
/// go of it when the last of both is gone. So whether the child lives can be asked at any moment, also by somebody
/// who was not there when it was started, and also if its parent died between starting it and writing that down.
#[derive(Debug)]
pub struct BirthLock {
    file: File,
}

impl BirthLock {
    /// Makes the file and locks it, for a child that is to be started. Does not wait. Dropping it leaves the lock
    /// to the child, if there is one.
    ///
    /// # Errors
    ///
    /// [`LockError::Held`] when a child that was started before still lives.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let failed = |error| LockError::Failed { path: path.to_owned(), error };
        let mut file = open(path).map_err(failed)?;
        if !try_lock(&file).map_err(failed)? {
            return Err(LockError::Held { path: path.to_owned(), pid: read_pid(&mut file) });
        }
        file.set_len(0).map_err(failed)?;
        Ok(Self { file })
    }

    /// The descriptor, for [`Self::hand_over`].
    pub fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// To be called in the child between fork and exec, with the [`Self::descriptor`] of a lock that its parent
    /// has taken: keeps it open beyond exec and writes the child's process id into the file. Nothing else that is
    /// open is kept, so that a parent's own lock does not live on in its children. Calls nothing that is not
    /// async-signal-safe and takes no memory.
    ///
    /// # Errors
    ///
    /// Those of close_range(2) (Linux 5.11), fcntl(2) and write(2).
    pub fn hand_over(descriptor: RawFd) -> io::Result<()> {
        let mut digits = [b'\n'; PID_BYTES_MAX as usize];
        let mut begin = digits.len() - 1;
        let mut rest = std::process::id();
        while rest > 0 {
            begin -= 1;
            digits[begin] = b'0' + u8::try_from(rest % 10).expect("a digit");
            rest /= 10;
        }
        let text = &digits[begin..];
        // SAFETY: all take numbers, and an open descriptor (else they fail); close_range(2) closes nothing before
        // exec; write(2) reads `text`, which lives as long as the call.
        let done = unsafe {
            libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) == 0
                && libc::fcntl(descriptor, libc::F_SETFD, 0) == 0
                && libc::write(descriptor, text.as_ptr().cast(), text.len()) >= 0
        };
        if done { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The process that holds the lock at `path`; `None` when none does.
    pub fn holder(path: &Path) -> Option<u32> {
        let mut file = File::open(path).ok()?;
        let is_held = !is_unlocked(&file).unwrap_or(true);
        if is_held { read_pid(&mut file) } else { None }
    }
}

/// Opens and locks the file at `path`; errors name `subject`.
fn take(path: &Path, subject: &Path) -> Result<File, LockError> {
    let failed = |error| LockError::Failed { path: subject.to_owned(), error };
    loop {
        let mut file = open(path).map_err(failed)?;
        if !try_lock(&file).map_err(failed)? {
            return Err(LockError::Held { path: subject.to_owned(), pid: read_pid(&mut file) });
        }
        // Its last holder may have removed it between our opening and locking it.
        if is_at(&file, path).map_err(failed)? {
            write_pid(&mut file).map_err(failed)?;
            return Ok(file);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Takes the write lock of the whole file; false when somebody else has it.
fn try_lock(file: &File) -> io::Result<bool> {
    match lock_call(file, libc::F_OFD_SETLK, &mut whole_file()) {
        Ok(()) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => Ok(false),
            _ => Err(error),
        },
    }
}

/// Whether [`try_lock`] would succeed; takes nothing.
fn is_unlocked(file: &File) -> io::Result<bool> {
    let mut lock = whole_file();
    lock_call(file, libc::F_OFD_GETLK, &mut lock)?;
    Ok(i32::from(lock.l_type) == libc::F_UNLCK)
}

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

fn lock_call(file: &File, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as `file` is borrowed, and `lock` is a valid structure that the
    // kernel reads and writes before it returns.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut *lock) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Locks of open file descriptions conflict within one process as they do between two.

    #[test]
    fn a_directory_has_one_process_and_the_error_names_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let lock = DirLock::take(dir.path()).expect("free");
        let error = DirLock::take(dir.path()).expect_err("held").to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        assert!(error.contains(&dir.path().display().to_string()), "{error}");
        drop(lock);
        drop(DirLock::take(dir.path()).expect("free again"));
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let error = DirLock::take(&dir.path().join("none")).expect_err("missing");
        assert!(matches!(error, LockError::Failed { .. }), "{error}");
    }

    #[test]
    fn a_child_is_born_with_its_lock_and_takes_it_along() {
        use std::os::unix::process::CommandExt;
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("child");
        assert_eq!(BirthLock::holder(&path), None, "not there");
        let lock = BirthLock::take(&path).expect("free");
        let descriptor = lock.descriptor();
        let mut sleep = std::process::Command::new("sleep");
        sleep.arg("60");
        // SAFETY: what is called between fork and exec is async-signal-safe, and `lock` is still open then.
        unsafe { sleep.pre_exec(move || BirthLock::hand_over(descriptor)) };
        let mut child = sleep.spawn().expect("there is a sleep(1)");
        drop(lock);
        assert_eq!(BirthLock::holder(&path), Some(child.id()));
        let inherited = std::fs::read_dir(format!("/proc/{}/fd", child.id())).expect("/proc");
        assert_eq!(inherited.count(), 4, "standard input, output, error, and the lock");
        assert!(matches!(BirthLock::take(&path), Err(LockError::Held { pid: Some(_), .. })));
        child.kill().expect("ours");
        child.wait().expect("ours");
        assert_eq!(BirthLock::holder(&path), None, "it died with the child");
        drop(BirthLock::take(&path).expect("free again"));
    }

    #[test]
    fn a_run_lock_is_free_when_its_process_is_gone() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("run");
        assert!(RunLock::is_free(&path), "not there");
        let lock = RunLock::create(&path).expect("free");
        assert!(!RunLock::is_free(&path), "held");
        assert!(!RunLock::is_free(&path), "looking does not take or break it");
        assert!(matches!(RunLock::create(&path), Err(LockError::Held { .. })));
        drop(lock);
        assert!(RunLock::is_free(&path) && !path.exists());
        fs::write(&path, "12345\n").expect("written");
        assert!(RunLock::is_free(&path), "left over by a process that was killed");
    }
}
