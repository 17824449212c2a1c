//! A mount from its beginning to its end.
//!
//! The mount is made here rather than by the helper fusermount, which would lose the subtype (`findmnt -t
//! fuse.okapifs`): first the filesystem (fsopen(2), fsmount(2)), which nobody sees yet; it is put into the directory
//! tree (move_mount(2)) when the first words with the kernel are spoken. Somebody else may unmount at any time, and
//! mount something else in the same place: nothing is unmounted here that is not known to be ours.
//!
//! # In the place of another
//!
//! A daemon that takes over from an older one must leave no moment at which a program finds the bare directory below.
//! So its mount is put *beneath* the older one (Linux 6.5), and then that one is taken off the top: who looks at the
//! path sees one or the other. What programs have open stays with the mount they opened it on, which its daemon serves
//! until the last of it is closed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;

use parking_lot::Mutex;
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};
use tokio::runtime::Handle;

use super::adapter::Adapter;
use super::forget::Caches;
use super::kernel::Session;
use super::mountpoint::{self, FSTYPE, MountError, Place, SUBTYPE, Wanted};
use super::{capabilities, invalidate, mountinfo};
use crate::client::fs::Fs;

/// Most bytes of one read or write request: the kernel's own limit, 256 pages.
pub(super) const REQUEST_BYTES_MAX: u32 = 1 << 20;

/// How far the kernel reads ahead, in KiB: a few requests, so that all FUSE threads have some.
const READ_AHEAD_KIB: u32 = 4096;

/// FUSE threads even on a machine with one core: one may be waiting for a page of a program's buffer.
const THREADS_MIN: usize = 2;

/// What is mounted where, and how.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// What `findmnt` shows as the source: the words that named the cluster, as they were written.
    pub source: String,
    /// The directory.
    pub mountpoint: PathBuf,
    /// What may be there already.
    pub wanted: Wanted,
    /// The flags that every filesystem has.
    pub flags: MountFlags,
}

/// The flags of mount(2), by the names that mount(8) gives them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MountFlags(libc::c_ulong);

/// How an unmounting went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmounted {
    /// It is unmounted, and [`Mount::run`] returns.
    Now,
    /// It was in use. It is no longer seen in the directory tree, but programs keep what they have open, and
    /// [`Mount::run`] returns when the last of it is closed.
    WhenClosed,
}

/// A mounted filesystem. Shared by the thread that runs it and the one that unmounts it.
pub struct Mount {
    mountpoint: PathBuf,
    /// `major:minor`, by which the mount is told from a later one in the same place.
    device: String,
    /// Taken by [`Mount::run`].
    session: Mutex<Option<(Session, Adapter)>>,
}

impl Mount {
    /// Mounts `fs`. Requests are answered from [`Self::run`] on; until then they wait. What does not end at
    /// once goes on on `runtime`.
    ///
    /// # Errors
    /// All of [`MountError`]; nothing stays mounted then.
    pub fn new(fs: Arc<Fs>, runtime: Handle, options: &MountOptions) -> Result<Self, MountError> {
        let mountpoint = mountpoint::resolve(&options.mountpoint)?;
        let place = mountpoint::check(&mountpoint, options.wanted)?;
        let device = open_device()?;
        let filesystem =
            create(&device, options).map_err(|source| match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => MountError::NotPermitted,
                Some(libc::ENODEV) => MountError::NoDevice,
                _ => MountError::Mount { path: mountpoint.clone(), source },
            })?;
        let session = shake_hands(fs, runtime, device).map_err(MountError::Handshake)?;
        let device = attach(&filesystem, &mountpoint, place)?;
        raise_read_ahead(&device);
        Ok(Self { mountpoint, device, session: Mutex::new(Some(session)) })
    }

    /// Answers requests until the filesystem is unmounted, by whomever. What is buffered then is still
    /// buffered: flush it next (`Fs::shutdown`).
    ///
    /// # Errors
    /// When the connection to the kernel breaks; it is unmounted then, too.
    pub fn run(&self) -> io::Result<()> {
        let Some((session, adapter)) = self.session.lock().take() else {
            return Ok(());
        };
        let result = session.run(&adapter, threads());
        self.clean_up();
        result
    }

    /// Unmounts. To be called on a thread other than [`Self::run`]'s, which has requests to answer before.
    ///
    /// # Errors
    /// When the kernel refuses for a reason other than being in use.
    pub fn unmount(&self) -> io::Result<Unmounted> {
        if !self.is_mounted()? {
            return Ok(Unmounted::Now);
        }
        match umount2(&self.mountpoint, 0) {
            Ok(()) => Ok(Unmounted::Now),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                detach(&self.mountpoint).map(|()| Unmounted::WhenClosed)
            }
            Err(_) if !self.is_mounted()? => Ok(Unmounted::Now),
            Err(error) => Err(error),
        }
    }

    /// Whether this filesystem, not another one, is what is seen at the mountpoint.
    fn is_mounted(&self) -> io::Result<bool> {
        let entry = mountinfo::mounted_at(&self.mountpoint)?;
        Ok(entry.is_some_and(|entry| entry.device == self.device && entry.fstype == FSTYPE))
    }

    /// Leaves no mount behind that nobody answers.
    fn clean_up(&self) {
        let cleaned = self.is_mounted().and_then(|mounted| match mounted {
            true => detach(&self.mountpoint),
            false => Ok(()),
        });
        if let Err(error) = cleaned {
            log::warn!("cannot unmount {}: {error}", self.mountpoint.display());
        }
    }
}

impl Drop for Mount {
    /// A mount that never ran would let everybody wait who looks at it.
    fn drop(&mut self) {
        if self.session.get_mut().is_some() {
            self.clean_up();
        }
    }
}

impl MountFlags {
    /// Takes one of mount(8)'s options that are flags of mount(2), `ro` and `nosuid` say; whether it is one.
    /// Later ones win, so an `exec` after `user` allows execution.
    pub fn set(&mut self, option: &str) -> bool {
        const UNPRIVILEGED: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV;
        let (flags, on) = match option {
            "defaults" => (0, true),
            "ro" => (libc::MS_RDONLY, true),
            "rw" => (libc::MS_RDONLY, false),
            "nosuid" => (libc::MS_NOSUID, true),
            "suid" => (libc::MS_NOSUID, false),
            "nodev" => (libc::MS_NODEV, true),
            "dev" => (libc::MS_NODEV, false),
            "noexec" => (libc::MS_NOEXEC, true),
            "exec" => (libc::MS_NOEXEC, false),
            "noatime" => (libc::MS_NOATIME, true),
            "atime" => (libc::MS_NOATIME, false),
            "nodiratime" => (libc::MS_NODIRATIME, true),
            "diratime" => (libc::MS_NODIRATIME, false),
            "relatime" => (libc::MS_RELATIME, true),
            "norelatime" => (libc::MS_RELATIME, false),
            "sync" => (libc::MS_SYNCHRONOUS, true),
            "async" => (libc::MS_SYNCHRONOUS, false),
            "dirsync" => (libc::MS_DIRSYNC, true),
            "user" | "users" => (UNPRIVILEGED | libc::MS_NOEXEC, true),
            "owner" | "group" => (UNPRIVILEGED, true),
            _ => return false,
        };
        self.0 = if on { self.0 | flags } else { self.0 & !flags };
        true
    }

    /// Those that fsconfig(2) takes.
    fn of_filesystem(self) -> impl Iterator<Item = &'static &'static str> {
        let all = [
            (libc::MS_RDONLY, &"ro"),
            (libc::MS_SYNCHRONOUS, &"sync"),
            (libc::MS_DIRSYNC, &"dirsync"),
        ];
        all.into_iter().filter(move |(flag, _)| self.0 & flag != 0).map(|(_, name)| name)
    }

    /// Those that fsmount(2) takes.
    fn of_mount(self) -> MountAttrFlags {
        let all = [
            (libc::MS_RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
            (libc::MS_NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
            (libc::MS_NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
            (libc::MS_NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
            (libc::MS_NOATIME, MountAttrFlags::MOUNT_ATTR_NOATIME),
            (libc::MS_NODIRATIME, MountAttrFlags::MOUNT_ATTR_NODIRATIME),
        ];
        all.into_iter()
            .filter(|(flag, _)| self.0 & flag != 0)
            .map(|(_, attribute)| attribute)
            .collect()
    }

    /// Whether nothing may be written.
    pub fn is_read_only(self) -> bool {
        self.0 & libc::MS_RDONLY != 0
    }

    /// Whether reads leave no time behind.
    pub fn is_no_atime(self) -> bool {
        self.0 & libc::MS_NOATIME != 0
    }
}

fn threads() -> usize {
    available_parallelism().map_or(1, usize::from).max(THREADS_MIN)
}

fn open_device() -> Result<OwnedFd, MountError> {
    match OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(device) => Ok(device.into()),
        Err(error) => match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Err(MountError::NotPermitted),
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Err(MountError::NoDevice),
            _ => Err(MountError::Mountpoint { path: "/dev/fuse".into(), source: error }),
        },
    }
}

/// Agrees with the kernel on protocol and capabilities.
fn shake_hands(fs: Arc<Fs>, runtime: Handle, device: OwnedFd) -> io::Result<(Session, Adapter)> {
    let (invalidations, queue) = invalidate::queue();
    let adapter = Adapter::new(Arc::clone(&fs), runtime.clone(), invalidations);
    let session = Session::begin(device, capabilities::agree)?;
    fs.kernel_is(Arc::new(Caches::new(session.notifier(), adapter.shared(), runtime)));
    invalidate::start(session.notifier(), queue)?;
    Ok((session, adapter))
}

/// The mounted filesystem, not in the directory tree yet: it is gone when the descriptor is closed.
fn create(device: &OwnedFd, options: &MountOptions) -> io::Result<OwnedFd> {
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context = context.as_fd();
    for (key, value) in [
        ("subtype", SUBTYPE),
        ("source", &options.source),
        ("fd", &device.as_raw_fd().to_string()),
        ("rootmode", "40000"),
        ("user_id", "0"),
        ("group_id", "0"),
        ("max_read", &REQUEST_BYTES_MAX.to_string()),
    ] {
        fsconfig_set_string(context, key, value)?;
    }
    // Only root gets here: the kernel lets nobody else mount.
    for flag in ["allow_other", "default_permissions"].iter().chain(options.flags.of_filesystem()) {
        fsconfig_set_flag(context, *flag)?;
    }
    fsconfig_create(context)?;
    Ok(fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, options.flags.of_mount())?)
}

/// Puts a filesystem into the directory tree. Its device, `major:minor`.
fn attach(filesystem: &OwnedFd, mountpoint: &Path, place: Place) -> Result<String, MountError> {
    let failed = |source| MountError::Mount { path: mountpoint.to_owned(), source };
    let from_here = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    match place {
        Place::Bare => {
            move_mount(filesystem, "", CWD, mountpoint, from_here)
                .map_err(|error| failed(error.into()))?;
        }
        Place::Mounted => {
            let older = look_at(mountpoint).map_err(failed)?;
            let beneath = MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH
                | MoveMountFlags::MOVE_MOUNT_BENEATH
                | from_here;
            move_mount(filesystem, "", &older, "", beneath).map_err(|error| match error {
                rustix::io::Errno::INVAL => MountError::NotBeneath(mountpoint.to_owned()),
                _ => failed(error.into()),
            })?;
            take_off(&older).map_err(failed)?;
        }
    }
    let entry = mountinfo::mounted_at(mountpoint).map_err(failed)?;
    let entry = entry.ok_or_else(|| failed(io::Error::other("it was unmounted at once")))?;
    Ok(entry.device)
}

/// The root of what is mounted at `path`, itself and not what may be there later.
fn look_at(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)
}

/// Takes that mount out of the directory tree, if it still is there; what is open on it goes on.
fn take_off(root: &File) -> io::Result<()> {
    let path = c_string(format!("/proc/self/fd/{}", root.as_raw_fd()).as_bytes())?;
    // SAFETY: the string ends with a zero byte and outlives the call.
    let result = unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    match io::Error::last_os_error() {
        _ if result == 0 => Ok(()),
        // Somebody else was quicker.
        error if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        error => Err(error),
    }
}

/// Takes the mount out of the directory tree even if it is in use.
pub(super) fn detach(mountpoint: &Path) -> io::Result<()> {
    umount2(mountpoint, libc::MNT_DETACH)
}

fn umount2(mountpoint: &Path, flags: libc::c_int) -> io::Result<()> {
    let target = c_string(mountpoint.as_os_str().as_bytes())?;
    // SAFETY: the string ends with a zero byte and outlives the call.
    let result = unsafe { libc::umount2(target.as_ptr(), flags | libc::UMOUNT_NOFOLLOW) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn c_string(bytes: &[u8]) -> io::Result<std::ffi::CString> {
    Ok(std::ffi::CString::new(bytes)?)
}

/// The protocol cannot raise it, only this file can. Where /sys is read-only, reading is slower.
fn raise_read_ahead(device: &str) {
    let setting = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = std::fs::write(&setting, READ_AHEAD_KIB.to_string()) {
        log::info!("cannot raise the kernel's read-ahead ({setting}): {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(options: &str) -> MountFlags {
        let mut flags = MountFlags::default();
        for option in options.split(',') {
            assert!(flags.set(option), "{option}");
        }
        flags
    }

    #[test]
    fn later_flags_win() {
        assert_eq!(flags("defaults,rw,suid,async"), MountFlags::default());
        assert!(flags("rw,ro").is_read_only() && !flags("ro,rw").is_read_only());
        assert_eq!(flags("user"), flags("nosuid,nodev,noexec"));
        assert_eq!(flags("user,exec"), flags("owner"));
    }

    #[test]
    fn what_is_no_flag_is_left_to_others() {
        let mut flags = MountFlags::default();
        for option in ["_netdev", "nofail", "config=/etc/okapifs", "x-systemd.automount", ""] {
            assert!(!flags.set(option), "{option}");
        }
        assert_eq!(flags, MountFlags::default());
    }
}
