//! `okapifs monitor`: the processes that own the namespace.

use std::path::PathBuf;

use anyhow::{Context, bail};
use tokio::sync::watch;

use super::config::{ConfigFile, MonitorFile};
use super::{admin, find};
use crate::agent::processes::Running;
use crate::monitor::{self, Bootstrap, Config};
use crate::types::{Incarnation, MonitorId};

/// The monitors, which own the names and maps of all files.
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

/// Run a monitor until it is told to end.
///
/// Its directory is made by `okapifs init` or `okapifs up`.
#[derive(clap::Args, Debug)]
pub(super) struct Run {
    /// The monitor's directory.
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
    let (file, _) = MonitorFile::in_force(&arguments.dir, &arguments.set)?;
    let config = config(arguments, &file)?;
    admin::refuse_wildcard(&file.listen)?;
    admin::serving_runtime()?.block_on(serve(config, arguments.ready.clone()))
}

fn config(arguments: &Run, file: &MonitorFile) -> anyhow::Result<Config> {
    let credentials = find::credentials(&arguments.dir)?;
    let Some(new_cluster) = &file.new_cluster else {
        bail!("{} begins no cluster and is no member of one yet", arguments.dir.display());
    };
    let cluster = new_cluster.id()?;
    let certified = credentials.identity().cluster;
    if certified != cluster {
        bail!(
            "{} belongs to cluster {cluster}, but its certificate is of cluster {certified}; they were mixed up",
            arguments.dir.display()
        );
    }
    Ok(Config {
        dir: arguments.dir.clone(),
        listen: file.listen.clone(),
        id: MonitorId(file.id.unwrap_or(1)),
        credentials,
        start: arguments.start,
        agent: file.agent.clone(),
        bootstrap: Bootstrap {
            cluster,
            incarnation: Incarnation(new_cluster.incarnation),
            width: new_cluster.width(),
            min_copies: new_cluster.min_copies,
        },
    })
}

async fn serve(config: Config, run_file: Option<PathBuf>) -> anyhow::Result<()> {
    let (end, shutdown) = watch::channel(false);
    let dir = config.dir.clone();
    let ready = announce(run_file.clone(), config.start);
    let serving = monitor::run(config, ready, shutdown);
    until_asked(serving, end)
        .await?
        .with_context(|| format!("the monitor in {} cannot go on", dir.display()))?;
    retract(run_file)
}

/// Runs a role until it ends by itself or, having been asked to, in good order.
pub(super) async fn until_asked<T>(
    serving: impl Future<Output = T>,
    end: watch::Sender<bool>,
) -> anyhow::Result<T> {
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return Ok(ended),
        asked = admin::asked_to_end() => asked?,
    }
    log::info!("asked to end");
    end.send_replace(true);
    Ok(serving.await)
}

/// What a role calls when it is ready: writes its run file.
pub(super) fn announce(
    run_file: Option<PathBuf>,
    start: u64,
) -> impl FnOnce(std::net::SocketAddr) + Send + 'static {
    move |address| {
        log::info!("ready at {address}");
        let Some(path) = run_file else { return };
        let this = Running::this_process(address.to_string(), start);
        let written = this.and_then(|this| this.write(&path));
        if let Err(error) = written {
            log::error!("{} cannot be written: {error}", path.display());
        }
    }
}

/// Removes the run file of a process that ends in good order.
pub(super) fn retract(run_file: Option<PathBuf>) -> anyhow::Result<()> {
    let Some(path) = run_file else { return Ok(()) };
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}
