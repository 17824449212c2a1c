//! Certificates on disk: `ca.crt`, `node.crt` and `node.key` in a directory `tls`; a monitor has the key there,
//! too, with which the authority's key is sealed in the replicated state: `seal.key`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::files::{PUBLIC, SECRET, write_atomic};
use crate::crypto::seal::{SealError, SealKey};
use crate::crypto::{Credentials, CredentialsError, Issued};

const AUTHORITY: &str = "ca.crt";
const CERTIFICATE: &str = "node.crt";
const KEY: &str = "node.key";
const SEAL_KEY: &str = "seal.key";

/// Why the certificates of a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file is not there.
    #[error(
        "{} is missing: name a directory that `okapifs init` or `okapifs up` has made, or copy the file \
         there",
        .0.display()
    )]
    Missing(PathBuf),
    /// A file is there and cannot be read.
    #[error("{} cannot be read: {error}", .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The files can be read and do not fit.
    #[error("the certificates in {} cannot be used: {error}", .dir.display())]
    Unusable {
        /// Where.
        dir: PathBuf,
        /// Why.
        error: CredentialsError,
    },
    /// The sealing key can be read and is none.
    #[error("{}: {error}", .path.display())]
    SealKey {
        /// Which.
        path: PathBuf,
        /// Why.
        error: SealError,
    },
}

/// Loads the credentials of the role whose directory `dir` is: the files in `dir/tls`.
///
/// # Errors
///
/// [`LoadError`] names the file and says what to do.
pub fn load_credentials(dir: &Path) -> Result<Credentials, LoadError> {
    load(&dir.join("tls"))
}

/// Loads the credentials that lie in `dir` itself.
///
/// # Errors
///
/// [`LoadError`] names the file and says what to do.
pub fn load(dir: &Path) -> Result<Credentials, LoadError> {
    let authority = read(dir.join(AUTHORITY))?;
    let certificate = read(dir.join(CERTIFICATE))?;
    let key = read(dir.join(KEY))?;
    Credentials::from_pem(&authority, &certificate, &key)
        .map_err(|error| LoadError::Unusable { dir: dir.to_owned(), error })
}

/// Writes credentials where [`load`] finds them, the key readable by its owner only. Makes `dir`, not its
/// parents.
///
/// # Errors
///
/// With the path in the message.
pub fn save(dir: &Path, authority_pem: &str, issued: &Issued) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            let message = format!("{} cannot be made: {error}", dir.display());
            return Err(io::Error::new(error.kind(), message));
        }
        _ => {}
    }
    write_atomic(&dir.join(KEY), issued.key_pem.as_bytes(), SECRET)?;
    write_atomic(&dir.join(CERTIFICATE), issued.cert_pem.as_bytes(), PUBLIC)?;
    write_atomic(&dir.join(AUTHORITY), authority_pem.as_bytes(), PUBLIC)
}

/// Replaces the certificate that lies in `dir`. Two processes may do so at the same time.
///
/// # Errors
///
/// With the path in the message; the old one is there then.
pub fn save_certificate(dir: &Path, cert_pem: &str) -> io::Result<()> {
    let path = dir.join(CERTIFICATE);
    // Held until the end of this function. What is locked is a file that nobody replaces.
    let lock = File::open(dir.join(KEY))?;
    lock.lock()?;
    write_atomic(&path, cert_pem.as_bytes(), PUBLIC)
}

/// The certificate that lies in `dir`, in PEM.
///
/// # Errors
///
/// [`LoadError`] names the file.
pub fn read_certificate(dir: &Path) -> Result<String, LoadError> {
    read(dir.join(CERTIFICATE))
}

/// The authority's certificate that lies in `dir`, in PEM.
///
/// # Errors
///
/// [`LoadError`] names the file.
pub fn read_authority(dir: &Path) -> Result<String, LoadError> {
    read(dir.join(AUTHORITY))
}

/// The sealing key of the monitor whose directory `dir` is; `None` when it has none yet.
///
/// # Errors
///
/// [`LoadError`] names the file and says what to do.
pub fn load_seal_key(dir: &Path) -> Result<Option<SealKey>, LoadError> {
    let path = dir.join("tls").join(SEAL_KEY);
    match read(path.clone()) {
        Ok(text) => {
            SealKey::from_hex(&text).map(Some).map_err(|error| LoadError::SealKey { path, error })
        }
        Err(LoadError::Missing(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes the sealing key where [`load_seal_key`] finds it, readable by its owner only.
///
/// # Errors
///
/// With the path in the message.
pub fn save_seal_key(dir: &Path, key: &SealKey) -> io::Result<()> {
    write_atomic(&dir.join("tls").join(SEAL_KEY), format!("{}\n", key.to_hex()).as_bytes(), SECRET)
}

fn read(path: PathBuf) -> Result<String, LoadError> {
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(LoadError::Missing(path)),
        Err(error) => Err(LoadError::Unreadable { path, error }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Authority, Role};
    use crate::types::{ClusterId, Timestamp};

    #[test]
    fn what_is_saved_is_loaded_and_what_is_missing_is_named() {
        let now = Timestamp { seconds: 1_790_000_000, nanos: 0 };
        let authority = Authority::create(ClusterId(3), now).expect("an authority");
        let issued = authority.issue(Role::Server, "a", now).expect("issued");
        let dir = tempfile::tempdir().expect("temporary directory");
        save(&dir.path().join("tls"), authority.cert_pem(), &issued).expect("saved");

        let loaded = load_credentials(dir.path()).expect("loaded");
        assert_eq!(loaded.identity().name, "a");

        fs::remove_file(dir.path().join("tls/node.key")).expect("removed");
        let error = load_credentials(dir.path()).expect_err("no key").to_string();
        assert!(error.contains("tls/node.key is missing"), "{error}");
        fs::write(dir.path().join("tls/node.key"), "garbage").expect("written");
        let error = load_credentials(dir.path()).expect_err("bad key").to_string();
        assert!(error.contains("private key cannot be read"), "{error}");
    }
}
