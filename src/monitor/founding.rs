//! What a new cluster's first monitor finds in its directory, and brings into the replicated state.
//!
//! `okapifs init` makes the certificate authority, and nobody is there yet to keep it. So it leaves all that the
//! state is to begin with in `tls/founding` of the first monitor's directory: the authority (its key sealed), the
//! members that were made together with it, the first token. The monitor proposes it as one of its first
//! commands and removes the file when that is applied. A monitor that was killed in between proposes it again,
//! which does nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::env::system::files::{SECRET, sync_dir, write_atomic};
pub use crate::monitor::namespace::trust::{Founding, MemberKey};
use crate::wire::{decode, encode};

/// First byte of the file (*format*).
const VERSION: u8 = 1;

/// Leaves it for the monitor whose directory `dir` is; `dir/tls` is there.
///
/// # Errors
///
/// With the path in the message.
pub fn leave(dir: &Path, founding: &Founding) -> io::Result<()> {
    let mut bytes = vec![VERSION];
    bytes.extend(encode(founding));
    write_atomic(&path(dir), &bytes, SECRET)
}

/// What was left; `None` when there is nothing (any more).
pub(super) fn find(dir: &Path) -> io::Result<Option<Founding>> {
    let path = path(dir);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let founding = match bytes.split_first() {
        Some((&VERSION, founding)) => decode(founding).ok(),
        _ => None,
    };
    founding.map(Some).ok_or_else(|| {
        let why = format!("{} is damaged: make the cluster anew by `okapifs init`", path.display());
        io::Error::new(io::ErrorKind::InvalidData, why)
    })
}

/// Removes what was left: it is part of the state now.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    fs::remove_file(path(dir))?;
    sync_dir(&dir.join("tls"))
}

fn path(dir: &Path) -> PathBuf {
    dir.join("tls").join("founding")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_found_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tls")).unwrap();
        assert_eq!(find(dir.path()).unwrap(), None);
        let founding = Founding {
            authority: "PEM".to_owned(),
            sealed_key: vec![1, 2],
            members: Vec::new(),
            token: None,
        };
        leave(dir.path(), &founding).unwrap();
        assert_eq!(find(dir.path()).unwrap(), Some(founding));
        fs::write(path(dir.path()), [VERSION, 1]).unwrap();
        assert!(find(dir.path()).unwrap_err().to_string().contains("is damaged"));
        remove(dir.path()).unwrap();
        assert_eq!(find(dir.path()).unwrap(), None);
    }
}
