//! `okapifs server`: the processes that store shards.

use std::path::PathBuf;

use anyhow::{Context, bail};
use tokio::sync::watch;

use super::config::{ConfigFile, ServerFile};
use super::monitor::{announce, retract, until_asked};
use super::{admin, find};
use crate::server::{self, Config};

/// The storage servers, which keep shards of stripes.
#[derive(clap::Subcommand, Debug)]
pub(super) enum Command {
    Run(Run),
}

impl Command {
    /// See [`super::Command::is_daemon`].
    pub(super) fn is_daemon(&self) -> bool {
        matches!(self, Self::Run(_))
    }
}

/// Run a storage server until it is told to end.
///
/// Its directory is made by `okapifs init` or `okapifs up`.
#[derive(clap::Args, Debug)]
pub(super) struct Run {
    /// The server's directory.
    dir: PathBuf,

    /// A value that is stronger than the one in the file (`okapifs config` shows all); may be given several
    /// times.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Write {pid, started, address, start} to this file when it is ready.
    #[arg(long, hide = true, value_name = "FILE")]
    ready: Option<PathBuf>,

    /// Which start this is, as its agent counts.
    #[arg(long, hide = true, value_name = "N", default_value_t = 0)]
    start: u64,
}

pub(super) fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Run(arguments) => serve_dir(arguments),
    }
}

fn serve_dir(arguments: &Run) -> anyhow::Result<()> {
    let (file, _) = ServerFile::in_force(&arguments.dir, &arguments.set)?;
    admin::refuse_wildcard(file.advertise.as_ref().unwrap_or(&file.listen))?;
    let config = config(arguments, &file)?;
    admin::serving_runtime()?.block_on(serve(config, arguments))
}

fn config(arguments: &Run, file: &ServerFile) -> anyhow::Result<Config> {
    let credentials = find::credentials(&arguments.dir)?;
    let (cluster, certified) = (file.id()?, credentials.identity().cluster);
    if certified != cluster {
        bail!(
            "{} belongs to cluster {cluster}, but its certificate is of cluster {certified}; they were mixed up",
            arguments.dir.display()
        );
    }
    Ok(Config {
        dir: std::path::absolute(&arguments.dir)?,
        listen: file.listen.clone(),
        advertise: file.advertise.clone(),
        domain: file.domain.clone(),
        monitors: file.monitors.clone(),
        credentials,
        capacity: file.capacity_bytes,
    })
}

async fn serve(config: Config, arguments: &Run) -> anyhow::Result<()> {
    let (end, shutdown) = watch::channel(false);
    let dir = config.dir.clone();
    let announce = announce(arguments.ready.clone(), arguments.start);
    let serving = server::run(config, |address, _| announce(address), shutdown);
    until_asked(serving, end)
        .await?
        .with_context(|| format!("the server in {} cannot go on", dir.display()))?;
    retract(arguments.ready.clone())
}
