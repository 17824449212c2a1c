//! What a client is told, and why it may not start.

use std::io;
use std::path::PathBuf;

use crate::crypto::Credentials;
use crate::env::system::lock::LockError;
use crate::env::system::renewal::RenewError;
use crate::env::system::rpc;
use crate::types::Errno;
use crate::wire::metadata::Refusal;

/// What a client needs to start.
#[derive(Clone)]
pub struct Config {
    /// Addresses (`HOST:PORT`) of monitors; one that answers is enough.
    pub monitors: Vec<String>,
    /// Path, from the root of the filesystem, of the directory to show as root; empty or `/` for the root.
    pub subdir: Vec<u8>,
    /// Who we are.
    pub credentials: Credentials,
    /// Where it will be mounted, for people.
    pub mountpoint: String,
    /// A directory on a local disk, where a lock shows that this process lives.
    pub run_dir: PathBuf,
    /// The directory with the configuration, by which a program inside the mount finds the cluster.
    pub config_dir: PathBuf,
    /// Whether all changes are refused.
    pub read_only: bool,
    /// Whether reads are not written down (`noatime`).
    pub no_atime: bool,
    /// Whether closing a file waits until it is durable.
    pub sync_on_close: bool,
}

/// Why there is no filesystem.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No monitor can be talked to.
    #[error(transparent)]
    Unreachable(#[from] rpc::ConnectError),
    /// Our certificate has expired and cannot be renewed.
    #[error("the certificate of this client has expired: {0}")]
    Expired(#[from] RenewError),
    /// The monitors refuse us.
    #[error("the monitors refuse this client: {0}")]
    Refused(#[from] Refusal),
    /// The lock that shows that this process lives cannot be made.
    #[error(transparent)]
    RunLock(#[from] LockError),
    /// The machine does not say who it is.
    #[error("this machine cannot be identified: {0}; is /proc mounted?")]
    NoNode(#[source] io::Error),
    /// The directory to show is not there.
    #[error("{path} cannot be mounted: {errno}; make that directory first, or mount the root")]
    NoSubdir {
        /// As asked for.
        path: String,
        /// Why.
        errno: Errno,
    },
}
