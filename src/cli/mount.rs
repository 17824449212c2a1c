//! `okapifs mount`: the cluster becomes a directory.
//!
//! A mount in the background is this very program started again with `-f`, not a fork: a process that has
//! threads cannot be forked safely. The first process waits at a pipe for one line: that the mount works, or
//! why it does not; so `mount` succeeds only when the directory can be used, and can say what is wrong. In the same
//! way a mount has a newer program take its place ([`successor`](super::successor)).

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tokio::sync::oneshot;

use super::cluster_dir::mount_unit;
use super::find::{self, Cluster};
use super::mount_options::{Options, Source, default_run_dir};
use super::{admin, init, say, successor};
use crate::agent;
use crate::agent::processes::{Running, in_own_session};
use crate::client::{self, ConnectError, Fs};
use crate::fuse;
use crate::wire::metadata::Refusal;

/// What mount(8) expects of a mount that failed.
pub(super) const EXIT_FAILURE: u8 = 32;
/// How long a cluster may take to answer while a mount begins.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is tried again when it may take for ever.
const RETRY: Duration = Duration::from_millis(500);
/// How long programs that still use a mount may go on with it when it is to end.
const IN_USE: Duration = Duration::from_secs(2);
/// What the process in the background says when the mount works.
const READY: &str = "ready";

/// Mount a cluster at a directory; goes to the background when it works.
///
/// Options (-o): config=DIR (client configuration, else --cluster, OKAPIFS_CLUSTER or /etc/okapifs), ro,
/// nosuid, nodev, noexec, noatime, nonempty, sync_on_close (closing a file waits until it is durable), log=FILE,
/// run_dir=DIR; what fstab says to others (_netdev, nofail, x-…) is accepted. `umount DIRECTORY` ends it. SIGUSR2
/// has the program as it is now take its place: files that are open stay with the older process until they are closed.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// HOST[:PORT][,HOST…]:/[SUBDIR]: monitors, and the directory of the filesystem to mount.
    source: String,

    /// Where; an empty directory.
    mountpoint: PathBuf,

    /// Stay in the foreground.
    #[arg(short, long)]
    foreground: bool,

    /// Mount options, separated by commas.
    #[arg(short, value_name = "OPTIONS")]
    options: Vec<String>,

    /// Write {pid, started, address, start} to this file when it works.
    #[arg(long, hide = true, value_name = "FILE")]
    pub(super) ready: Option<PathBuf>,

    /// Run for an agent, as the start of that number: wait for the monitors as long as it takes, and tell the
    /// agent, when it asks in the run directory, that this process is alive.
    #[arg(long, hide = true, value_name = "N")]
    pub(super) start: Option<u64>,

    /// Say on standard output, in one line, that it works or why not.
    #[arg(long, hide = true)]
    announce: bool,

    /// Take the place of the okapifs that is mounted there.
    #[arg(long, hide = true)]
    pub(super) replace: bool,
}

/// A mount said neither that it works nor why not.
#[derive(Debug, thiserror::Error)]
#[error("the mount ended without a word")]
struct Wordless;

pub(super) fn run(arguments: &Arguments, cluster: Option<&str>) -> anyhow::Result<()> {
    let options = Options::parse(&arguments.options)?;
    let source = Source::parse(&arguments.source)?;
    if arguments.foreground {
        let result = serve(arguments, &options, source, cluster);
        if let (true, Err(error)) = (arguments.announce, &result) {
            say::line(format_args!("{error:#}"));
        }
        return result;
    }
    // What can be said at once is said at once.
    let at = fuse::usable(&arguments.mountpoint, wanted(arguments, &options))?;
    credentials(&options, &source, cluster)?;
    go_to_background(arguments, &options, &at, cluster)
}

fn wanted(arguments: &Arguments, options: &Options) -> fuse::Wanted {
    fuse::Wanted { nonempty: options.nonempty, replace: arguments.replace }
}

/// The client configuration, with the monitors of the source.
fn credentials(
    options: &Options,
    source: &Source,
    chosen: Option<&str>,
) -> anyhow::Result<Cluster> {
    let configured = match &options.config {
        Some(dir) if dir.is_dir() => find::configured(&find::config_dir(dir)?)?,
        Some(dir) => bail!("there is no configuration directory {}", dir.display()),
        None => find::cluster(chosen)?,
    };
    Ok(Cluster { monitors: source.monitors.clone(), ..configured })
}

fn go_to_background(
    arguments: &Arguments,
    options: &Options,
    at: &Path,
    cluster: Option<&str>,
) -> anyhow::Result<()> {
    let log_path = log_path(options, at)?;
    let log = File::options()
        .create(true)
        .append(true)
        .open(&log_path)
        .with_context(|| format!("log {} cannot be written", log_path.display()))?;
    let mut command = Command::new(std::env::current_exe().context("/proc is not mounted")?);
    command
        .args(arguments_in_background(arguments, at, cluster)?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    in_own_session(&mut command);
    let mut child = command.spawn().context("the mount cannot be started")?;
    let said = child.stdout.take().expect("it is piped");
    hear(said).map_err(|error| match error.downcast_ref() {
        Some(Wordless) => error.context(format!("see {}", log_path.display())),
        None => error,
    })
}

/// Waits until a mount that was just started with `--announce` says that it works, or why not.
pub(super) fn hear(said: ChildStdout) -> anyhow::Result<()> {
    let mut line = String::new();
    BufReader::new(said).read_line(&mut line)?;
    match line.trim_end() {
        READY => Ok(()),
        "" => Err(Wordless.into()),
        error => Err(anyhow!(error.to_owned())),
    }
}

pub(super) fn arguments_in_background(
    arguments: &Arguments,
    at: &Path,
    cluster: Option<&str>,
) -> anyhow::Result<Vec<OsString>> {
    let mut all: Vec<OsString> = vec!["mount".into(), "--foreground".into(), "--announce".into()];
    if let Some(cluster) = cluster {
        all.extend(["--cluster".into(), cluster.into()]);
    }
    if let Some(ready) = &arguments.ready {
        all.extend(["--ready".into(), std::path::absolute(ready)?.into()]);
    }
    if let Some(start) = arguments.start {
        all.extend(["--start".into(), start.to_string().into()]);
    }
    if arguments.replace {
        all.push("--replace".into());
    }
    for list in &arguments.options {
        all.extend(["-o".into(), list.into()]);
    }
    all.extend(["--".into(), arguments.source.clone().into(), at.into()]);
    Ok(all)
}

fn run_dir(options: &Options) -> anyhow::Result<PathBuf> {
    let dir = options.run_dir.clone().unwrap_or_else(default_run_dir);
    init::make_dir(&dir, 0o755)?;
    Ok(dir)
}

fn log_path(options: &Options, at: &Path) -> anyhow::Result<PathBuf> {
    match &options.log {
        Some(path) => Ok(path.clone()),
        None => Ok(run_dir(options)?.join(format!("{}.log", mount_unit(at).name))),
    }
}

/// Mounts, and serves until it is unmounted.
fn serve(
    arguments: &Arguments,
    options: &Options,
    source: Source,
    chosen: Option<&str>,
) -> anyhow::Result<()> {
    let at = fuse::usable(&arguments.mountpoint, wanted(arguments, options))?;
    let cluster = credentials(options, &source, chosen)?;
    let runtime = admin::serving_runtime()?;
    let _answering = match arguments.start {
        Some(_) => Some(answer_agent(options, runtime.handle())?),
        None => None,
    };
    let this = successor::Predecessor::this_process(arguments, &at, chosen)?;
    let fs = runtime.block_on(connect(arguments, options, &source, cluster, &at))?;
    let served = mount(runtime.handle(), arguments, options, source, &at, &fs, &this);
    runtime.block_on(fs.shutdown());
    served?;
    this.leave()
}

fn answer_agent(
    options: &Options,
    runtime: &tokio::runtime::Handle,
) -> anyhow::Result<agent::Answering> {
    let dir = run_dir(options)?;
    let _inside = runtime.enter();
    Ok(agent::answer(&dir)?)
}

async fn connect(
    arguments: &Arguments,
    options: &Options,
    source: &Source,
    cluster: Cluster,
    at: &Path,
) -> anyhow::Result<Arc<Fs>> {
    let monitors = cluster.monitors.join(", ");
    let config = client::Config {
        monitors: cluster.monitors,
        subdir: source.subdir.clone(),
        credentials: cluster.credentials,
        mountpoint: at.to_string_lossy().into_owned(),
        run_dir: run_dir(options)?,
        config_dir: cluster.config_dir,
        read_only: options.flags.is_read_only(),
        no_atime: options.flags.is_no_atime(),
        sync_on_close: options.sync_on_close,
    };
    let cannot = || format!("{} cannot be mounted", source.text);
    if arguments.start.is_some() {
        return connect_when_possible(&config).await.with_context(cannot);
    }
    match tokio::time::timeout(PATIENCE, Fs::connect(config)).await {
        Ok(connected) => connected.with_context(cannot),
        Err(_) => bail!(
            "no monitor at {monitors} answers for {} s; is one running there?",
            PATIENCE.as_secs()
        ),
    }
}

/// Connects, if it has to wait for the monitors then for as long as it takes: when a whole cluster is switched on,
/// nobody can say which machine is last.
async fn connect_when_possible(config: &client::Config) -> Result<Arc<Fs>, ConnectError> {
    let mut is_complaining = false;
    loop {
        let error = match Fs::connect(config.clone()).await {
            Err(ConnectError::Unreachable(error)) if error.may_pass() => error.to_string(),
            Err(ConnectError::Refused(refusal @ Refusal::NoLeader)) => refusal.to_string(),
            connected => return connected,
        };
        if !std::mem::replace(&mut is_complaining, true) {
            log::warn!("waiting for the monitors: {error}");
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn mount(
    runtime: &tokio::runtime::Handle,
    arguments: &Arguments,
    options: &Options,
    source: Source,
    at: &Path,
    fs: &Arc<Fs>,
    this: &successor::Predecessor,
) -> anyhow::Result<()> {
    let wanted = fuse::MountOptions {
        source: source.text,
        mountpoint: at.to_owned(),
        wanted: wanted(arguments, options),
        flags: options.flags,
    };
    let mounted = Arc::new(fuse::Mount::new(fs.clone(), runtime.clone(), &wanted)?);
    let (ended, mut end) = oneshot::channel();
    let serving = mounted.clone();
    std::thread::Builder::new()
        .name("fuse".to_owned())
        .spawn(move || ended.send(serving.run()))
        .context("no thread for FUSE")?;
    runtime.block_on(async {
        // From now on it may be asked: whoever reads that it works may do so.
        let asked_to_give_way = successor::asks()?;
        let works = say_that_it_works(arguments, at);
        if works.is_ok() {
            tokio::select! {
                ended = &mut end => return ended?.context("the connection to the kernel broke"),
                asked = admin::asked_to_end() => asked?,
                () = this.give_way(asked_to_give_way) => {}
            }
        }
        unmount(mounted, fs, end).await?;
        works
    })
}

/// Unmounts, because we were asked to end. Who still has files open keeps us for a moment, not longer: what they
/// have written by now is made durable.
async fn unmount(
    mounted: Arc<fuse::Mount>,
    fs: &Fs,
    end: oneshot::Receiver<std::io::Result<()>>,
) -> anyhow::Result<()> {
    log::info!("asked to end: unmounting");
    // The kernel may ask us something before it has unmounted, so no thread of the runtime waits for it.
    let unmounted = tokio::task::spawn_blocking(move || mounted.unmount()).await?;
    if unmounted.context("it cannot be unmounted")? == fuse::Unmounted::WhenClosed {
        log::warn!("programs still have files open on it; they get an error from now on");
        fs.sync_all().await.context("not everything that was written is durable")?;
    }
    match tokio::time::timeout(IN_USE, end).await {
        Ok(ended) => ended?.context("the connection to the kernel broke"),
        Err(_) => Ok(()),
    }
}

/// Asks the mount itself for its root, as any program would, and passes on that it answered.
fn say_that_it_works(arguments: &Arguments, at: &Path) -> anyhow::Result<()> {
    fs::metadata(at)
        .with_context(|| format!("{} was mounted and does not answer", at.display()))?;
    log::info!("{} is mounted", at.display());
    if let Some(path) = &arguments.ready {
        Running::this_process(at.to_string_lossy().into_owned(), arguments.start.unwrap_or(0))
            .and_then(|this| this.write(path))
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    if arguments.announce {
        say::line(READY);
    }
    Ok(())
}
