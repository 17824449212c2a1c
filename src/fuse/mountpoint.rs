//! Whether we may mount there, and a sentence with what to do if not.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::mountinfo;

/// What sort of FUSE filesystem ours is.
pub(super) const SUBTYPE: &str = "okapifs";
/// The type of our mounts.
pub(super) const FSTYPE: &str = "fuse.okapifs";

/// What may be at a mountpoint already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// Whether the directory may have files in it, which the mount then hides.
    pub nonempty: bool,
    /// Whether an okapifs may be mounted there, whose place the new one then takes.
    pub replace: bool,
}

/// What was found at a mountpoint that can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// A directory.
    Bare,
    /// An okapifs that is to be replaced.
    Mounted,
}

/// Why it was not mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Nothing has that name.
    #[error("mountpoint {} does not exist: make it first (mkdir -p)", .0.display())]
    Missing(PathBuf),
    /// It is something else.
    #[error("mountpoint {} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// It has files in it.
    #[error(
        "mountpoint {} is not empty, and its files would be hidden: choose another directory, or mount \
         with -o nonempty", .0.display()
    )]
    NotEmpty(PathBuf),
    /// There is one already.
    #[error("an okapifs is mounted on {} already: unmount it first (umount)", .0.display())]
    AlreadyMounted(PathBuf),
    /// The kernel cannot put a mount beneath that one.
    #[error(
        "the mount on {} cannot be replaced while it is in use (that needs Linux 6.5, and a directory that is \
         not the root): unmount it, and mount it again", .0.display()
    )]
    NotBeneath(PathBuf),
    /// It could not be looked at.
    #[error("cannot look at mountpoint {}: {source}", path.display())]
    Mountpoint {
        /// The mountpoint.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The system has no FUSE.
    #[error(
        "there is no /dev/fuse: load the kernel module (modprobe fuse), or give this container the device"
    )]
    NoDevice,
    /// Not root, or root without the right.
    #[error(
        "no permission to mount: run it as root (in a container: with CAP_SYS_ADMIN and /dev/fuse)"
    )]
    NotPermitted,
    /// The kernel refused.
    #[error("cannot mount on {}: {source}", path.display())]
    Mount {
        /// The mountpoint.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is mounted, but the first words between the kernel and us failed; it is unmounted again.
    #[error("the kernel's FUSE driver and okapifs do not understand one another: {0}")]
    Handshake(io::Error),
}

/// The absolute path of a directory on which a filesystem may be mounted. A mount of ours whose daemon has died
/// is taken away; nothing else is changed.
///
/// # Errors
/// Those of [`MountError`] that can be known before mounting.
pub fn usable(path: &Path, wanted: Wanted) -> Result<PathBuf, MountError> {
    let path = resolve(path)?;
    check(&path, wanted)?;
    match Path::new("/dev/fuse").exists() {
        true => Ok(path),
        false => Err(MountError::NoDevice),
    }
}

/// Takes away a mount that a daemon of ours has left behind at `path`, if there is one.
///
/// # Errors
/// When it is there and cannot be unmounted.
pub fn clear_dead(path: &Path) -> Result<(), MountError> {
    match resolve(path).and_then(|path| clear_dead_mount(&path)) {
        Ok(_) | Err(MountError::Missing(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The absolute path of `path`, without asking a filesystem that may be mounted there.
///
/// # Errors
/// When the directory that it is in is not there.
pub fn resolve(path: &Path) -> Result<PathBuf, MountError> {
    let resolved = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            std::fs::canonicalize(parent).map(|parent| parent.join(name))
        }
        _ => std::fs::canonicalize(path),
    };
    let resolved = resolved.map_err(|error| unusable(path, error))?;
    if resolved.read_link().is_ok() {
        return std::fs::canonicalize(path).map_err(|error| unusable(path, error));
    }
    Ok(resolved)
}

/// Whether a filesystem may be mounted on this resolved path.
pub(super) fn check(path: &Path, wanted: Wanted) -> Result<Place, MountError> {
    match clear_dead_mount(path)? {
        Place::Mounted if wanted.replace => return Ok(Place::Mounted),
        Place::Mounted => return Err(MountError::AlreadyMounted(path.to_owned())),
        Place::Bare => {}
    }
    let found = std::fs::metadata(path).map_err(|error| unusable(path, error))?;
    if !found.is_dir() {
        return Err(MountError::NotADirectory(path.to_owned()));
    }
    let mut entries = std::fs::read_dir(path).map_err(|error| unusable(path, error))?;
    if !wanted.nonempty && entries.next().is_some() {
        return Err(MountError::NotEmpty(path.to_owned()));
    }
    Ok(Place::Bare)
}

/// A daemon that was killed leaves its mount behind, and "transport endpoint is not connected" to everybody
/// who looks at it. The next one takes it away. What is there then.
fn clear_dead_mount(path: &Path) -> Result<Place, MountError> {
    let entry = mountinfo::mounted_at(path).map_err(|error| unusable(path, error))?;
    if entry.is_none_or(|entry| entry.fstype != FSTYPE) {
        return Ok(Place::Bare);
    }
    match ask(path) {
        // The second while the kernel is still cutting the connection of a daemon that was just killed.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)) => {
            log::info!("{} was left behind by a daemon that died: unmounting it", path.display());
            super::mount::detach(path)
                .map_err(|source| MountError::Mount { path: path.to_owned(), source })?;
            Ok(Place::Bare)
        }
        _ => Ok(Place::Mounted),
    }
}

/// Has the kernel ask the daemon of the mount at `path`. What `stat` says of the root may be remembered, and this is
/// not.
fn ask(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all zeros is a value of that type.
    let mut told: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero byte and `told` is a place for the answer.
    match unsafe { libc::statfs(path.as_ptr(), &raw mut told) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn unusable(path: &Path, source: io::Error) -> MountError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => MountError::Missing(path),
        io::ErrorKind::NotADirectory => MountError::NotADirectory(path),
        _ => MountError::Mountpoint { path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(path: &Path, nonempty: bool) -> Result<Place, MountError> {
        check(&resolve(path)?, Wanted { nonempty, replace: true })
    }

    #[test]
    fn each_bad_mountpoint_gets_its_own_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        assert!(outcome(path, false).is_ok());
        std::fs::write(path.join("file"), b"").unwrap();

        assert!(matches!(outcome(path, false), Err(MountError::NotEmpty(_))));
        assert!(outcome(path, true).is_ok());
        assert!(matches!(outcome(&path.join("none"), false), Err(MountError::Missing(_))));
        assert!(matches!(outcome(&path.join("none/of/it"), false), Err(MountError::Missing(_))));
        assert!(matches!(outcome(&path.join("file"), false), Err(MountError::NotADirectory(_))));
        assert!(matches!(outcome(&path.join("file/x"), false), Err(MountError::NotADirectory(_))));
    }

    #[test]
    fn paths_are_resolved_as_the_kernel_shows_them() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap().join("real");
        std::fs::create_dir(&real).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("real", &link).unwrap();
        assert_eq!(resolve(&link).unwrap(), real);
        assert_eq!(resolve(&real.join("../real/.")).unwrap(), real);
        assert_eq!(resolve(Path::new("/")).unwrap(), Path::new("/"));
    }
}
