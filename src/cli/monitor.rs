//! `okapifs monitor`: the processes that own the namespace.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::watch;

use super::admin::{Admin, unexpected};
use super::cluster_dir::ClusterDir;
use super::config::{ClusterFile, ConfigFile, MonitorFile};
use super::{admin, find, new_monitor, say, status};
use crate::agent::processes::Running;
use crate::monitor::{self, Bootstrap, Config, Milestone, RunError};
use crate::types::{Incarnation, MonitorId};
use crate::wire::admin::{Request, Response};

/// For how long a monitor is missed before another takes its place, unless the file says otherwise.
const REPLACE_AFTER_S: u64 = 600;

/// The monitors, which own the names and maps of all files.
#[derive(clap::Subcommand, Debug)]
pub(super) enum Command {
    Run(Run),
    /// Show the monitors: who leads, who votes, who lags.
    List,
    Add(Add),
    Remove(Remove),
    Replace(Replace),
}

impl Command {
    /// See [`super::Command::is_daemon`].
    pub(super) fn is_daemon(&self) -> bool {
        matches!(self, Self::Run(_))
    }
}

/// Run a monitor until it is told to end.
///
/// Its directory is made by `okapifs init`, `okapifs join`, `okapifs up` or `okapifs monitor add`. The first of a cluster founds
/// it; any other joins the monitors that its monitor.toml names, when it is started for the first time.
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

/// Add a monitor on this machine, which is a node already.
///
/// The monitors are asked for its certificate, so this needs a client that may administrate; the agent starts it, and
/// it joins by itself. With two monitors the second only copies; from three on the loss of one stops nothing.
#[derive(clap::Args, Debug)]
pub(super) struct Add {
    /// The node's directory, which `okapifs init`, `okapifs join` or `okapifs up` has made.
    #[arg(default_value = find::NODE_DIR)]
    dir: PathBuf,

    /// HOST:PORT where it will listen; all others reach it there [default: port 7001, or a free one, of the host
    /// where the node's agent listens].
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
}

/// Let a monitor go, for good.
///
/// Its certificate and its name are worth nothing from then on. Its directory can be removed.
#[derive(clap::Args, Debug)]
pub(super) struct Remove {
    /// Its name (`okapifs monitor list`).
    name: String,
}

/// Let a monitor go as soon as another can take its place, and add that one on this machine.
#[derive(clap::Args, Debug)]
pub(super) struct Replace {
    /// The name of the one that is to go.
    name: String,

    #[command(flatten)]
    by: Add,
}

pub(super) fn run(command: &Command, cluster: Option<&str>) -> anyhow::Result<()> {
    match command {
        Command::Run(arguments) => serve_dir(arguments),
        Command::List => list(cluster),
        Command::Add(arguments) => add(arguments),
        Command::Remove(arguments) => {
            remove(&arguments.name, false, cluster)?;
            say::line(format_args!("{} goes for good; next: remove its directory", arguments.name));
            Ok(())
        }
        Command::Replace(arguments) => {
            remove(&arguments.name, true, cluster)?;
            say::line(format_args!(
                "{} goes when the new one has caught up; remove its directory then",
                arguments.name
            ));
            add(&arguments.by)
        }
    }
}

fn list(cluster: Option<&str>) -> anyhow::Result<()> {
    let cluster = find::cluster(cluster)?;
    let status = admin::block_on(async { Admin::connect(&cluster).await?.status().await })?;
    say::table(&status::monitors(&status));
    Ok(())
}

fn add(arguments: &Add) -> anyhow::Result<()> {
    if let Some(listen) = &arguments.listen {
        admin::refuse_wildcard(listen)?;
    }
    let dir = ClusterDir::existing(&arguments.dir)?;
    let (name, is_started) = new_monitor::add(&dir, arguments.listen.as_deref())?;
    let home = dir.of(&name);
    match is_started {
        true => say::line(format_args!("made {}; its agent starts it", home.display())),
        false => say::line(format_args!(
            "made {}; next: okapifs agent {}",
            home.display(),
            dir.root().display()
        )),
    }
    Ok(())
}

fn remove(name: &str, once_replaced: bool, cluster: Option<&str>) -> anyhow::Result<()> {
    let cluster = find::cluster(cluster)?;
    let request = Request::RemoveMonitor { name: name.to_owned(), once_replaced };
    admin::block_on(async {
        match Admin::connect(&cluster).await?.ask(&request).await? {
            Response::Done => Ok(()),
            _ => Err(unexpected()),
        }
    })
}

fn serve_dir(arguments: &Run) -> anyhow::Result<()> {
    let (file, _) = MonitorFile::in_force(&arguments.dir, &arguments.set)?;
    if file.removed {
        bail!(
            "the monitor in {0} was removed from the cluster and cannot come back: remove {0}; `okapifs monitor add` makes another",
            arguments.dir.display()
        );
    }
    let config = config(arguments, &file)?;
    admin::refuse_wildcard(&file.listen)?;
    admin::serving_runtime()?.block_on(serve(config, arguments.ready.clone()))
}

fn config(arguments: &Run, file: &MonitorFile) -> anyhow::Result<Config> {
    let credentials = find::credentials(&arguments.dir)?;
    let found = |new: &ClusterFile| -> anyhow::Result<Bootstrap> {
        let (cluster, certified) = (new.id()?, credentials.identity().cluster);
        if certified != cluster {
            bail!(
                "{} belongs to cluster {cluster}, but its certificate is of cluster {certified}; they were mixed up",
                arguments.dir.display()
            );
        }
        Ok(Bootstrap {
            cluster,
            incarnation: Incarnation(new.incarnation),
            width: new.width(),
            min_copies: new.min_copies,
        })
    };
    let bootstrap = file.new_cluster.as_ref().map(found).transpose()?;
    if file.id.is_none() && bootstrap.is_none() && file.monitors.is_empty() {
        bail!(
            "{} has neither an `id` nor `monitors`: write the addresses of the cluster's monitors into {}",
            arguments.dir.display(),
            MonitorFile::NAME
        );
    }
    let dir = arguments.dir.clone();
    Ok(Config {
        dir: arguments.dir.clone(),
        listen: file.listen.clone(),
        id: file.id.map(MonitorId),
        monitors: file.monitors.clone(),
        agent: file.agent.clone(),
        replace_after: match file.replace_after_s.unwrap_or(REPLACE_AFTER_S) {
            0 => None,
            seconds => Some(Duration::from_secs(seconds)),
        },
        start: arguments.start,
        hold_level: file.hold_level,
        credentials,
        bootstrap,
        remember: Box::new(move |milestone| {
            remember(&dir, milestone).map_err(|error| io::Error::other(format!("{error:#}")))
        }),
    })
}

/// Keeps in monitor.toml what must not be forgotten.
fn remember(dir: &Path, milestone: Milestone) -> anyhow::Result<()> {
    let mut file = MonitorFile::load(dir)?;
    match milestone {
        Milestone::Member(id) => file.id = Some(id.0),
        Milestone::Founded => file.new_cluster = None,
    }
    file.save(dir)
}

/// Keeps in monitor.toml that there is no point in starting it again: its agent does not.
fn mark_removed(dir: &Path) -> anyhow::Result<()> {
    let mut file = MonitorFile::load(dir)?;
    file.removed = true;
    file.save(dir)
}

async fn serve(config: Config, run_file: Option<PathBuf>) -> anyhow::Result<()> {
    let (end, shutdown) = watch::channel(false);
    let dir = config.dir.clone();
    let ready = announce(run_file.clone(), config.start);
    let serving = monitor::run(config, ready, shutdown);
    let ended = until_asked(serving, end).await?;
    if let Err(RunError::Removed { .. }) = &ended {
        mark_removed(&dir)?;
    }
    ended.with_context(|| format!("the monitor in {} cannot go on", dir.display()))?;
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
