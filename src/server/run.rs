//! A server's life: lock the directory, read it, serve, and stay a member of the cluster.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use super::member::{self, MemberTask};
use super::reaper::Reaper;
use super::service::{Service, Shared};
use super::store::{OpenError, Store};
use crate::crypto::Credentials;
use crate::env::clock::{Clock, SystemClock};
use crate::env::random::{Random, SystemRandom};
use crate::env::system::disk::SystemDisk;
use crate::env::system::lock::{DirLock, LockError};
use crate::env::system::renewal::Renewal;
use crate::env::system::rpc::{BindError, Listener};
use crate::env::system::{Node, node, raise_descriptor_limit};
use crate::types::ServerId;

pub use super::member::JoinError;

/// How a server is set up.
pub struct Config {
    /// Its directory, which exists.
    pub dir: PathBuf,
    /// `HOST:PORT` to listen at; port 0 takes any free one.
    pub listen: String,
    /// `HOST:PORT` that others find it at, if it is not the one where it listens.
    pub advertise: Option<String>,
    /// Its failure domain: no two shards of a stripe go into one.
    pub domain: String,
    /// `HOST:PORT` of the monitors.
    pub monitors: Vec<String>,
    /// Its certificate, which also names it.
    pub credentials: Credentials,
    /// Most bytes of shards to take; as many as the disk holds when `None`.
    pub capacity: Option<u64>,
}

/// Why a server ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another process has the directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The directory cannot be used.
    #[error("{}: {error}", .dir.display())]
    Store {
        /// The directory.
        dir: PathBuf,
        /// Why.
        error: OpenError,
    },
    /// The address cannot be used.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The cluster does not take it.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The operating system did not give what a server needs.
    #[error("the server cannot run: {0}")]
    System(#[from] io::Error),
}

/// Runs a server until `shutdown` becomes true. `ready` is called once, when it serves and is registered with the
/// monitors; it waits for them as long as it takes.
///
/// # Errors
///
/// [`RunError`], a sentence each.
pub async fn run(
    config: Config,
    ready: impl FnOnce(SocketAddr, ServerId) + Send,
    shutdown: watch::Receiver<bool>,
) -> Result<(), RunError> {
    let _lock = DirLock::take(&config.dir)?;
    if let Err(error) = raise_descriptor_limit() {
        log::warn!("the limit of open files stays as it is: {error}");
    }
    let node = node()?;
    let listener = Listener::bind(&config.listen)?;
    let address = listener.local_address();
    let shared = Arc::new(Shared {
        store: open_store(&config).await?,
        clock: Arc::new(SystemClock::new()) as Arc<dyn Clock>,
        standing: Default::default(),
        admission: Default::default(),
    });
    let service = Arc::new(Service::new(Arc::clone(&shared))?);
    let (credentials, monitors) = (config.credentials.clone(), config.monitors.clone());
    let renewal = Renewal::new(credentials, config.dir.join("tls"), monitors);
    let task = MemberTask {
        register: member::Register {
            address: advertised(&config, address, &node),
            domain: config.domain,
            node: node.id,
            instance: SystemRandom.u64(),
            dir: config.dir.display().to_string(),
        },
        monitors: config.monitors,
        credentials: config.credentials.clone(),
        reaper: Reaper::start(Arc::clone(&shared))?,
        shared,
    };
    let incarnation = task.shared.store.identity().incarnation;
    let serving = listener.serve(config.credentials, incarnation, service, shutdown.clone());
    let joined = stay_member(task, renewal, |server| ready(address, server), shutdown);
    // Serving ends by itself at the shutdown; when the membership cannot go on, neither can serving.
    tokio::pin!(serving, joined);
    tokio::select! {
        served = &mut serving => {
            served?;
            joined.await?;
        }
        ended = &mut joined => {
            ended?;
            serving.await?;
        }
    }
    Ok(())
}

/// Is a member, with a valid certificate, until `shutdown` becomes true.
async fn stay_member(
    task: MemberTask,
    renewal: Renewal,
    ready: impl FnOnce(ServerId) + Send,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), JoinError> {
    tokio::select! {
        () = renewal.until_valid() => {}
        _ = shutdown.wait_for(|is_over| *is_over) => return Ok(()),
    }
    tokio::select! {
        ended = task.run(ready, shutdown) => ended,
        () = renewal.keep() => Ok(()),
    }
}

/// Reads the directory, which may take a while, on a thread that may wait.
async fn open_store(config: &Config) -> Result<Store, RunError> {
    let disk = Arc::new(SystemDisk::new(&config.dir));
    let (cluster, capacity) = (config.credentials.identity().cluster, config.capacity);
    let opening = tokio::task::spawn_blocking(move || Store::open(disk, cluster, capacity));
    let opened = opening.await.map_err(io::Error::other)?;
    opened.map_err(|error| RunError::Store { dir: config.dir.clone(), error })
}

/// Where others find this server: by the host's name when it listens everywhere.
fn advertised(config: &Config, address: SocketAddr, node: &Node) -> String {
    match &config.advertise {
        Some(advertise) => advertise.clone(),
        None if address.ip().is_unspecified() => format!("{}:{}", node.host, address.port()),
        None => address.to_string(),
    }
}
