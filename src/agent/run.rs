//! An agent's life: lock the directory, adopt and start the units, answer who asks.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use super::beats::{self, Site};
use super::notify::Notifier;
use super::plan::Policy;
use super::service::Service;
use super::starts::Starts;
use super::supervisor::{Handle, Node, Parts, Supervisor};
use crate::crypto::Credentials;
use crate::env::system::lock::{DirLock, LockError};
use crate::env::system::renewal::Renewal;
use crate::env::system::rpc::{BindError, Listener};
use crate::types::Incarnation;

/// How an agent is set up.
pub struct Config {
    /// Its own directory, where it keeps the numbers of starts. One agent a directory.
    pub dir: PathBuf,
    /// `HOST:PORT` to listen at; port 0 takes any free one.
    pub listen: String,
    /// Its certificate.
    pub credentials: Credentials,
    /// `HOST:PORT` of the monitors, which renew its certificate.
    pub monitors: Vec<String>,
    /// What its node has.
    pub node: Box<dyn Node>,
    /// What the cluster may change there.
    pub site: Box<dyn Site>,
    /// What it does when something dies.
    pub policy: Policy,
    /// Who is told how it is.
    pub notifier: Notifier,
}

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another agent has the directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The address cannot be listened at.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The node's directory makes no sense.
    #[error("{0}")]
    Node(String),
    /// The numbers of starts cannot be read, or the runtime could not take the socket over.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Runs an agent until `shutdown` turns true; its units run on. `ready` is called when it answers, which is before
/// its units do.
///
/// # Errors
///
/// [`RunError`], a sentence each.
pub async fn run(
    config: Config,
    ready: impl FnOnce(SocketAddr, Handle) + Send,
    shutdown: watch::Receiver<bool>,
) -> Result<(), RunError> {
    let _lock = DirLock::take(&config.dir)?;
    let listener = Listener::bind(&config.listen)?;
    let address = listener.local_address();
    let (credentials, tls) = (config.credentials.clone(), config.dir.join("tls"));
    let renewal = Renewal::new(credentials, tls, config.monitors.clone());
    let parts = Parts {
        node: config.node,
        starts: Starts::open(config.dir.join("starts.json"))?,
        policy: config.policy,
        credentials: config.credentials.clone(),
        notifier: config.notifier,
    };
    let (supervisor, handle) = Supervisor::new(parts).map_err(RunError::Node)?;
    let name = config.credentials.identity().name.clone();
    let service = Arc::new(Service { handle: handle.clone(), node: name });
    let beating =
        beats::run(config.site, handle.clone(), config.credentials.clone(), &config.monitors);
    ready(address, handle);
    let any = Incarnation::default();
    let serving = listener.serve(config.credentials, any, service, shutdown.clone());
    let supervising = async {
        supervisor.run(shutdown).await;
        Ok(())
    };
    tokio::select! {
        ended = async { tokio::try_join!(serving, supervising) } => ended.map(drop)?,
        // Never: both go on for ever. An expired certificate hinders nobody from being started, monitors least.
        () = renewal.keep() => {}
        () = beating => {}
    }
    Ok(())
}
