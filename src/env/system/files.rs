//! Small files that are replaced as a whole: after a crash there is the old one or the new one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Mode of files that everybody may read.
pub const PUBLIC: u32 = 0o644;
/// Mode of files with secrets.
pub const SECRET: u32 = 0o600;

/// Writes `bytes` to `path`, durably and atomically: to a temporary file beside it, which is synced and
/// renamed, and then the directory is synced. The file never exists with another mode than `mode`.
///
/// Two writers of the same path at the same time get in one another's way: the caller holds a lock.
///
/// # Errors
///
/// With the path in the message; the old file is untouched then.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let written = try_write_atomic(path, bytes, mode);
    written.map_err(|error| {
        let message = format!("{} cannot be written: {error}", path.display());
        io::Error::new(error.kind(), message)
    })
}

/// Makes the entries of a directory durable: files created, renamed or removed there.
///
/// # Errors
///
/// Those of opening and syncing it.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn try_write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = temporary_path(path)?;
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    // One left over by a crash has its old mode, and the umask may have taken bits away.
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    sync_dir(parent(path))
}

fn temporary_path(path: &Path) -> io::Result<PathBuf> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".tmp");
    Ok(path.with_file_name(name))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("node.key");
        std::fs::write(dir.path().join("node.key.tmp"), "left over").expect("written");
        for content in ["first", "second, and longer", "3"] {
            write_atomic(&path, content.as_bytes(), SECRET).expect("written");
            assert_eq!(std::fs::read_to_string(&path).expect("read"), content);
        }
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o7777, SECRET);
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1);
    }

    #[test]
    fn an_error_names_the_path() {
        let error =
            write_atomic(Path::new("/proc/none/file"), b"", PUBLIC).expect_err("no such directory");
        assert!(error.to_string().contains("/proc/none/file"), "{error}");
    }
}
