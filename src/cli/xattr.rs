//! Extended attributes of files on a mount: how a command asks the mount something about a file.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::Context;

/// Longest value that is asked for, in bytes.
const VALUE_MAX: usize = 64 << 10;

/// The value of an extended attribute of `path`. `None` when the filesystem there does not know it: the path is
/// on no OkapiFS mount.
pub(super) fn get(path: &Path, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let failed = || format!("{} cannot be read", path.display());
    let c_path = CString::new(path.as_os_str().as_bytes()).with_context(failed)?;
    let c_name = CString::new(name).expect("names of ours have no zero byte");
    let mut value = vec![0u8; VALUE_MAX];
    // SAFETY: both strings end with a zero byte and outlive the call, and the kernel writes at most
    // `value.len()` bytes to `value`.
    let length = unsafe {
        libc::getxattr(c_path.as_ptr(), c_name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    match usize::try_from(length) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(_) => match io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => {
                Ok(None)
            }
            error => Err(error).with_context(failed),
        },
    }
}
