//! Where written bytes go that have no place in their file any more.
//!
//! Others have changed the file while this machine was cut off ([`super::core::stranded`]). Which of the two is wanted
//! only people know, so what was written here is laid down beside the run files: a file with each byte at its offset
//! and holes elsewhere, and one that lists which bytes those are. The log says where and what to do.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::config::Config;
use super::core::stranded::Stranded;
use crate::types::Ino;

/// See the module.
#[derive(Debug)]
pub(crate) struct Parking {
    dir: PathBuf,
    mountpoint: String,
}

impl Parking {
    /// In a directory below the run directory, which is made when it is needed.
    pub(crate) fn new(config: &Config) -> Self {
        Self { dir: config.run_dir.join("parked"), mountpoint: config.mountpoint.clone() }
    }

    /// Keeps what was written to a file, and says so.
    pub(crate) async fn park(&self, ino: Ino, stranded: Stranded) {
        let (dir, bytes) = (self.dir.clone(), stranded.bytes());
        let written = tokio::task::spawn_blocking(move || write(&dir, ino, &stranded)).await;
        let mountpoint = &self.mountpoint;
        match written.map_err(io::Error::other).flatten() {
            Ok(path) => log::error!(
                "inode {ino}: others have changed this file while this machine was cut off, so {bytes} bytes that \
                 programs had written here are not in it. They are kept in {path}, each at its offset; the lines of \
                 {path}.ranges, `OFFSET LENGTH`, say which they are. Find the file with `find {mountpoint} -inum \
                 {ino}`, take over what is wanted, and delete both",
                path = path.display()
            ),
            Err(error) => log::error!(
                "inode {ino}: others have changed this file while this machine was cut off, and {bytes} bytes that \
                 programs had written here are lost, because they cannot be kept in {}: {error}",
                self.dir.display()
            ),
        }
    }
}

/// Writes both files; the path of the first.
fn write(dir: &Path, ino: Ino, stranded: &Stranded) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let (path, file) = create(dir, ino)?;
    for (offset, bytes) in stranded.pieces() {
        file.write_all_at(bytes, offset)?;
    }
    file.sync_all()?;
    let mut ranges = private(&PathBuf::from(format!("{}.ranges", path.display())))?;
    for range in stranded.ranges() {
        writeln!(ranges, "{} {}", range.start, range.end - range.start)?;
    }
    ranges.sync_all()?;
    Ok(path)
}

/// A file that was not there.
fn create(dir: &Path, ino: Ino) -> io::Result<(PathBuf, File)> {
    let mut number = 0;
    loop {
        let path = dir.join(format!("inode-{ino}-{number}"));
        match private(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            created => return Ok((path, created?)),
        }
    }
}

/// What is in it is for whoever the mount runs as: its owner in the cluster may be anybody.
fn private(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::types::DataVersion;

    #[test]
    fn each_byte_is_kept_at_its_place_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let mut stranded = Stranded::new(DataVersion(1), 0, None, Duration::ZERO);
        stranded.add(1, vec![(4096, Bytes::from_static(b"old")), (8192, Bytes::from_static(b"x"))]);
        stranded.add(2, vec![(4096, Bytes::from_static(b"new"))]);
        let below = dir.path().join("run/parked");
        let paths: Vec<PathBuf> =
            (0..2).map(|_| write(&below, Ino(7), &stranded).unwrap()).collect();
        assert_ne!(paths[0], paths[1]);
        for path in paths {
            let bytes = fs::read(&path).unwrap();
            assert_eq!((bytes.len(), &bytes[4096..4099], bytes[8192]), (8193, &b"new"[..], b'x'));
            let ranges = fs::read_to_string(format!("{}.ranges", path.display())).unwrap();
            assert_eq!(ranges, "4096 3\n8192 1\n");
        }
    }
}
