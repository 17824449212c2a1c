//! Reads `/proc/self/mountinfo`: what is mounted where.
//!
//! A FUSE filesystem must never `stat` its own mountpoint to learn something: it would ask itself, before it
//! answers or after it has died. This file tells without asking.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mounted filesystem.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct MountEntry {
    /// Its number in this table.
    id: u64,
    /// That of the mount that it is mounted on.
    parent: u64,
    /// `major:minor`, unlike that of any other filesystem that is mounted at the time.
    pub device: String,
    /// Where.
    pub mountpoint: PathBuf,
    /// Type, subtype included.
    pub fstype: String,
}

/// The filesystem that is seen at `mountpoint`, if it is one.
pub(super) fn mounted_at(mountpoint: &Path) -> io::Result<Option<MountEntry>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(seen_at(mountpoint, parse(&table)))
}

/// Of those that are mounted there, one on the other, the one that has none on it; it need not be the youngest.
fn seen_at(mountpoint: &Path, table: impl Iterator<Item = MountEntry>) -> Option<MountEntry> {
    let stack: Vec<MountEntry> = table.filter(|entry| entry.mountpoint == mountpoint).collect();
    let is_covered = |below: &&MountEntry| stack.iter().any(|entry| entry.parent == below.id);
    stack.iter().rev().find(|entry| !is_covered(entry)).cloned()
}

/// `36 35 98:0 /root /mountpoint options optional-fields - type source options`, a line each.
fn parse(table: &[u8]) -> impl Iterator<Item = MountEntry> {
    table.split(|byte| *byte == b'\n').filter_map(parse_line)
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
    let (id, parent) = (number()?, number()?);
    let device = fields.next()?;
    let mountpoint = fields.nth(1)?;
    let fstype = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(MountEntry {
        id,
        parent,
        device: String::from_utf8_lossy(device).into_owned(),
        mountpoint: PathBuf::from(OsString::from_vec(unescape(mountpoint))),
        fstype: String::from_utf8_lossy(fstype).into_owned(),
    })
}

/// Blanks, tabs, newlines and backslashes are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        match (first, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', behind @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = behind;
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_and_without_optional_fields() {
        let table = b"22 1 0:21 / /proc rw - proc proc rw\n\
            40 22 0:57 / /mnt/with\\040a\\134blank rw,nosuid shared:9 master:1 - fuse.okapifs host:/ rw\n\
            rubbish\n";
        let entries: Vec<_> = parse(table).collect();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].fstype, "proc");
        assert_eq!(
            entries[1],
            MountEntry {
                id: 40,
                parent: 22,
                device: "0:57".to_owned(),
                mountpoint: PathBuf::from("/mnt/with a\\blank"),
                fstype: "fuse.okapifs".to_owned(),
            }
        );
    }

    #[test]
    fn what_is_on_top_is_seen_also_if_it_is_older() {
        let table = b"30 1 0:5 / /mnt rw - ext4 disk rw\n\
            40 50 0:57 / /mnt rw - fuse.okapifs older rw\n\
            50 30 0:58 / /mnt rw - fuse.okapifs beneath rw\n";
        assert_eq!(seen_at(Path::new("/mnt"), parse(table)).expect("mounted").device, "0:57");
        assert_eq!(seen_at(Path::new("/else"), parse(table)), None);
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(mounted_at(Path::new("/")).unwrap().is_some());
    }
}
