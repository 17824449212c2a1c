//! Whether something can be mounted at a place, and getting a dead mount out of the way.
//!
//! When a mount's process is killed, the kernel keeps the mount and answers "transport endpoint is not
//! connected" for ever. Nobody can want that: whoever mounts there again, or stops the cluster, detaches it.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// Makes sure that something can be mounted at `path`, and gives the path without links in it.
pub(super) fn check(path: &Path, nonempty: bool) -> anyhow::Result<PathBuf> {
    clear_dead(path)?;
    let shown = path.display();
    let path = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("mountpoint {shown} is not there; make it with: mkdir -p {shown}")
        }
        other => other.with_context(|| format!("mountpoint {shown} cannot be used"))?,
    };
    if is_mounted(&path)? {
        bail!("an OkapiFS is mounted at {shown} already; unmount it first with: umount {shown}");
    }
    if !path.is_dir() {
        bail!("mountpoint {shown} is not a directory");
    }
    let mut entries =
        fs::read_dir(&path).with_context(|| format!("mountpoint {shown} cannot be read"))?;
    if !nonempty && entries.next().is_some() {
        bail!(
            "mountpoint {shown} is not empty, and a mount would hide what is in it; \
             use an empty directory (or -o nonempty)"
        );
    }
    if !Path::new("/dev/fuse").exists() {
        bail!("there is no /dev/fuse on this machine; load the kernel module with: modprobe fuse");
    }
    Ok(path)
}

/// Detaches a mount of ours at `path` whose process is gone.
pub(super) fn clear_dead(path: &Path) -> anyhow::Result<()> {
    match fs::metadata(path) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {}
        _ => return Ok(()),
    }
    log::info!("detaching the dead mount at {}", path.display());
    detach(path).with_context(|| {
        format!(
            "a dead mount is in the way; remove it with: umount -l {}",
            path.display()
        )
    })
}

fn detach(path: &Path) -> io::Result<()> {
    let c_path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path ends with a zero byte and outlives the call.
    if unsafe { libc::umount2(c_path.as_ptr(), libc::MNT_DETACH) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() != Some(libc::EPERM) {
        return Err(error);
    }
    let status = Command::new("fusermount3")
        .args(["-u", "-z", "--"])
        .arg(path)
        .status()?;
    if status.success() { Ok(()) } else { Err(error) }
}

/// Whether an OkapiFS is mounted at exactly this path.
pub(super) fn is_mounted(path: &Path) -> anyhow::Result<bool> {
    let table = fs::read("/proc/self/mountinfo").context("/proc is not mounted")?;
    Ok(table
        .split(|byte| *byte == b'\n')
        .filter_map(mountinfo)
        .any(|(at, kind)| kind == b"fuse.okapifs" && at == path.as_os_str().as_bytes()))
}

/// Mountpoint and type of a line of `/proc/self/mountinfo`.
fn mountinfo(line: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut fields = line.split(|byte| *byte == b' ');
    let at = fields.nth(4)?;
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some((unescape(at), kind))
}

/// The kernel writes blanks and backslashes as `\040`.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let code = code.and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match code {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_understood() {
        let line = br"36 35 0:31 / /mnt/a\040b rw,nosuid shared:1 master:2 - fuse.okapifs h:/ rw";
        let (at, kind) = mountinfo(line).expect("a line");
        assert_eq!(at, b"/mnt/a b");
        assert_eq!(kind, b"fuse.okapifs");
        assert_eq!(mountinfo(b"garbage"), None);
    }

    #[test]
    fn a_mountpoint_must_be_an_empty_directory() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = dir.path().join("file");
        fs::write(&file, "x").expect("written");
        let sentence = |path: &Path| check(path, false).expect_err("refused").to_string();
        assert!(sentence(&dir.path().join("none")).contains("is not there"));
        assert!(sentence(&file).contains("is not a directory"));
        assert!(sentence(dir.path()).contains("is not empty"));
    }
}
