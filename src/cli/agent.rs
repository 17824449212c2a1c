//! `okapifs agent`: the supervisor of a node.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::sync::watch;

use super::cluster_dir::{AGENT, ClusterDir};
use super::config::{AgentFile, ConfigFile};
use super::monitor::{announce, retract, until_asked};
use super::node::{self, NodeDir};
use super::{admin, down, find, init};
use crate::agent::notify::Notifier;
use crate::agent::plan::Policy;
use crate::agent::{self, Config};

/// Run everything that a node's directory has: monitors, servers, mounts; start again what dies or hangs.
///
/// DIR holds monitor-*, server-*, agent, client and mounts.toml, as `okapifs init`, `join` and `up` make them. What
/// runs already is taken over. When the agent ends, what it runs goes on; `okapifs down DIR` ends all of it.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// The node's directory.
    #[arg(default_value = find::NODE_DIR)]
    dir: PathBuf,

    /// When asked to end (SIGTERM), stop everything in order first.
    #[arg(long)]
    stop_all: bool,

    #[command(flatten)]
    restarts: Restarts,

    /// Write {pid, started, address, start} to this file when it answers.
    #[arg(long, hide = true, value_name = "FILE")]
    ready: Option<PathBuf>,

    /// Which start this is; nobody counts those of agents.
    #[arg(long, hide = true, value_name = "N", default_value_t = 0)]
    start: u64,
}

/// What is done about the dead.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(super) struct Restarts {
    /// Leave what dies or hangs as it is, until somebody asks for it.
    #[arg(long, hide = true)]
    pub(super) no_restart: bool,
}

impl From<Restarts> for Policy {
    fn from(restarts: Restarts) -> Self {
        if restarts.no_restart { Self::Leave } else { Self::Restart }
    }
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let dir = ClusterDir::new(&arguments.dir)?;
    let ready = arguments.ready.clone().unwrap_or_else(|| dir.run_file(AGENT));
    admin::serving_runtime()?.block_on(async {
        let (end, shutdown) = watch::channel(false);
        let serving = serve(&dir, arguments.restarts.into(), &ready, shutdown);
        until_asked(serving, end).await?
    })?;
    match arguments.stop_all {
        true => down::stop(&dir, dir.started()),
        false => Ok(()),
    }
}

/// Runs the agent of `dir` until `shutdown` turns true. What it runs goes on.
pub(super) async fn serve(
    dir: &ClusterDir,
    policy: Policy,
    ready: &Path,
    shutdown: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let (file, _) = AgentFile::in_force(&dir.agent(), &[])?;
    admin::refuse_wildcard(&file.listen)?;
    init::make_dir(&dir.run(), 0o755)?;
    init::make_dir(&dir.logs(), 0o755)?;
    let notifier = match std::env::var_os("NOTIFY_SOCKET") {
        Some(socket) => Notifier::new(Path::new(&socket)).context("NOTIFY_SOCKET is no socket")?,
        None => Notifier::default(),
    };
    let config = Config {
        dir: dir.agent(),
        listen: file.listen,
        credentials: find::credentials(&dir.agent())?,
        monitors: node::monitors(dir)?,
        node: Box::new(NodeDir(dir.clone())),
        site: Box::new(NodeDir(dir.clone())),
        policy,
        notifier,
    };
    let announce = announce(Some(ready.to_owned()), 0);
    agent::run(config, |address, _| announce(address), shutdown)
        .await
        .with_context(|| format!("the agent of {} cannot run", dir.root().display()))?;
    retract(Some(ready.to_owned()))
}
