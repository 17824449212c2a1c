//! `okapifs up`: one command, and a real cluster is mounted on this machine.
//!
//! It composes what can be done by hand: `init` makes what is missing, and an agent runs it, each process by itself
//! and talking to the others over TCP. With `--detach` that agent is a process too, else it is this one. Where an
//! agent runs already it is asked to look at what was added. Either way this command is done when everything works.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::admin::{self, Admin};
use super::agent::{self, Restarts};
use super::agent_link::AgentLink;
use super::cluster_dir::{self, AGENT, ClusterDir, mount_unit};
use super::config::{ClusterFile, ConfigFile, MountEntry, MountsFile};
use super::ports::{self, ANY_PORT};
use super::{down, find, init, node, say};
use crate::agent::stages::{Role, Unit};
use crate::fuse;
use crate::types::{MonitorRole, ServerState, Width, limits};
use crate::wire::admin::MonitorStatus;
use crate::wire::agent::{UnitState, UnitStatus};

/// How long everything may take until it is ready.
const READY: Duration = Duration::from_secs(45);
/// How often it is looked at meanwhile.
const POLL: Duration = Duration::from_millis(20);
/// What the monitors are as long as nobody says otherwise.
const MONITORS: [&str; 3] = ["1", "3", "5"];

/// Make a cluster under DIR (the first time), start what is missing of it, and mount it.
///
/// What dies or hangs from then on is started again. Stays until Ctrl-C, which unmounts and stops everything in
/// order, or returns with `--detach`; `okapifs down DIR` stops it then.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// Where the cluster keeps everything.
    dir: PathBuf,

    /// Mount it here too (may be given several times), from now on; made if it is not there.
    #[arg(long, value_name = "MNT")]
    mount: Vec<PathBuf>,

    /// Storage servers [default: 3, later as many as there are].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    servers: Option<u32>,

    /// Data shards of a stripe [default: 2].
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=i64::from(limits::DATA_SHARDS_MAX)))]
    data: Option<u8>,

    /// Parity shards of a stripe: how many servers may be lost [default: 1].
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=i64::from(limits::PARITY_SHARDS_MAX)))]
    parity: Option<u8>,

    /// Monitors [default: 1, later as many as there are].
    #[arg(long, value_parser = MONITORS)]
    monitors: Option<String>,

    /// Return when everything works.
    #[arg(long)]
    detach: bool,

    #[command(flatten)]
    restarts: Restarts,
}

/// Who runs the processes.
enum Supervision {
    /// An agent that ran before.
    Found,
    /// An agent that was started for this, and goes on when this command is done.
    Started,
    /// This process, until it is told to end.
    Here { end: watch::Sender<bool>, agent: JoinHandle<anyhow::Result<()>> },
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let dir = ClusterDir::new(&arguments.dir)?;
    let mountpoints = mountpoints(&dir, &arguments.mount)?;
    init::make_dir(dir.root(), 0o755)?;
    let lock = dir.lock()?;
    prepare(&dir, arguments, &mountpoints)?;
    let before: Vec<Unit> = dir.running().into_iter().map(|(unit, _)| unit).collect();
    admin::block_on(async {
        let mut supervision = supervise(&dir, arguments).await?;
        let works = tokio::select! {
            works = wait_until_all_works(&dir) => works,
            error = supervision.failed() => Err(error),
            asked = admin::asked_to_end() => asked.and_then(|()| Err(anyhow!("it was interrupted"))),
        };
        let broken = match works {
            Ok(broken) => broken,
            Err(error) => {
                supervision.give_up(&dir, &before).await?;
                return Err(error);
            }
        };
        report(&dir, &supervision).await?;
        drop(lock);
        supervision.stay(&dir, &broken).await
    })
}

/// The mountpoints as absolute paths, made where they are not there.
///
/// One where a mount of this cluster runs is not looked at: the mount would answer only when its monitor is
/// there, which may be what is to be started.
fn mountpoints(dir: &ClusterDir, wanted: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in wanted {
        let path = match fuse::resolve(path) {
            Ok(path) if dir.process(&mount_unit(&path).name).is_some() => path,
            _ => {
                fuse::clear_dead(path)?;
                init::make_dir(path, 0o755)?;
                fuse::usable(path, fuse::Wanted::default())?
            }
        };
        found.push(path);
    }
    Ok(found)
}

/// Makes the cluster, or checks that it is the one that is wanted, and adds what is missing.
fn prepare(dir: &ClusterDir, arguments: &Arguments, mount: &[PathBuf]) -> anyhow::Result<()> {
    let (begun, servers) = match dir.exists() {
        true => (None, check_shape(dir, arguments)?),
        false => {
            let (begun, servers) = begin(dir, arguments)?;
            (Some(begun), servers)
        }
    };
    init::add_agent(dir, ANY_PORT)?;
    let monitors = arguments.monitors.as_deref().map_or(Ok(1), str::parse)?;
    init::add_monitors(dir, monitors, ANY_PORT)?;
    let servers = u32::try_from(servers)?;
    // Each counts as failing by itself: so a cluster of one machine shows what several do.
    init::add_servers(dir, servers, str::to_owned, |_| ANY_PORT.to_owned())?;
    if let Some(begun) = begun {
        begun.found(dir, None)?;
    }
    add_mounts(dir, mount)?;
    init::make_dir(&dir.run(), 0o755)?;
    init::make_dir(&dir.logs(), 0o755)?;
    ports::settle(dir)
}

/// How many servers an existing cluster is to have.
fn check_shape(dir: &ClusterDir, arguments: &Arguments) -> anyhow::Result<usize> {
    let cluster = ClusterFile::load(dir.root())?;
    let differs = |wanted: Option<u8>, is: u8| wanted.is_some_and(|wanted| wanted != is);
    if differs(arguments.data, cluster.data) || differs(arguments.parity, cluster.parity) {
        bail!(
            "the cluster in {} was made with stripes of {}, which cannot be changed here: leave out --data and --parity (`okapifs volume set MNT` changes those of new data)",
            dir.root().display(),
            cluster.width()
        );
    }
    let there = dir.live_monitors()?.len();
    let monitors: Option<usize> = arguments.monitors.as_deref().map(str::parse).transpose()?;
    if monitors.is_some_and(|wanted| wanted < there) {
        bail!("the cluster has {there} monitors; `okapifs monitor remove` takes one away");
    }
    let there = dir.servers()?.len();
    let servers = arguments.servers.map_or(there, |wanted| wanted as usize);
    if servers < there {
        bail!("the cluster has {there} servers; none can be taken away, because they hold data");
    }
    Ok(servers)
}

/// Begins a new cluster; how many servers it is to have.
fn begin(dir: &ClusterDir, arguments: &Arguments) -> anyhow::Result<(init::Begun, usize)> {
    let width = Width { data: arguments.data.unwrap_or(2), parity: arguments.parity.unwrap_or(1) };
    let servers = arguments.servers.unwrap_or(3) as usize;
    if width.parity > 0 && servers < 2 {
        bail!(
            "with one server nothing can be stored twice; use --servers 2 or more, or --parity 0"
        );
    }
    Ok((init::begin(dir, width, ANY_PORT)?, servers))
}

/// Adds mounts to those of the node; the mountpoints of all of them are there then.
fn add_mounts(dir: &ClusterDir, mountpoints: &[PathBuf]) -> anyhow::Result<()> {
    let mut mount = dir.mounts()?;
    for known in &mount {
        if dir.process(&mount_unit(&known.at).name).is_none() {
            fuse::clear_dead(&known.at)?;
            init::make_dir(&known.at, 0o755)?;
        }
    }
    let known: Vec<PathBuf> = mount.iter().map(|mount| mount.at.clone()).collect();
    let added = mountpoints.iter().filter(|at| !known.contains(at));
    mount.extend(added.map(|at| MountEntry { at: at.clone(), ..MountEntry::default() }));
    if mount.len() == known.len() {
        return Ok(());
    }
    MountsFile { mount }.save(dir.root())
}

/// Sees to it that an agent runs and knows the directory as it is now.
async fn supervise(dir: &ClusterDir, arguments: &Arguments) -> anyhow::Result<Supervision> {
    if let Some(agent) = AgentLink::connect(dir).await? {
        agent.refresh().await?;
        return Ok(Supervision::Found);
    }
    if arguments.detach {
        let mut words = vec!["agent".into(), dir.root().into()];
        words.extend(arguments.restarts.no_restart.then(|| "--no-restart".into()));
        let launch = node::process(dir, AGENT, words)?;
        let mut child = launch.start(0)?;
        launch.ready(&mut child, READY).await?;
        return Ok(Supervision::Started);
    }
    let (end, shutdown) = watch::channel(false);
    let (dir, policy) = (dir.clone(), arguments.restarts.into());
    let agent =
        tokio::spawn(
            async move { agent::serve(&dir, policy, &dir.run_file(AGENT), shutdown).await },
        );
    Ok(Supervision::Here { end, agent })
}

impl Supervision {
    /// Resolves, saying why, if this process is the agent and cannot go on as such.
    async fn failed(&mut self) -> anyhow::Error {
        let Self::Here { agent, .. } = self else { return std::future::pending().await };
        match agent.await {
            Ok(Ok(())) => anyhow!("the agent has ended"),
            Ok(Err(error)) => error,
            Err(error) => error.into(),
        }
    }

    /// Stays as long as this process is the agent. Whoever waits for this command to end must hear of what is
    /// broken by its code.
    async fn stay(self, dir: &ClusterDir, broken: &[String]) -> anyhow::Result<()> {
        let Self::Here { end, mut agent } = self else {
            return match broken {
                [] => Ok(()),
                _ => Err(anyhow!("{}; all others work, and it is tried again", broken.join("; "))),
            };
        };
        broken.iter().for_each(say::note);
        tokio::select! {
            ended = &mut agent => return ended?,
            asked = admin::asked_to_end() => asked?,
        }
        say::note("stopping …");
        end.send_replace(true);
        agent.await??;
        down::stop(dir, dir.started())
    }

    /// Ends what was started for this command; what ran before goes on.
    async fn give_up(self, dir: &ClusterDir, before: &[Unit]) -> anyhow::Result<()> {
        match self {
            Self::Found => return Ok(()),
            Self::Started => down::stop_agent(dir)?,
            Self::Here { end, agent } => {
                end.send_replace(true);
                // One that has failed has said so.
                if !agent.is_finished() {
                    agent.await??;
                }
            }
        }
        let mut started = dir.started();
        started.retain(|(unit, _)| !before.contains(unit));
        down::stop(dir, started)
    }
}

/// Waits until the agent says of everything that it works, and the monitors of every server. A cluster outlives
/// some of its processes, so what fails is only waited for as long as for the others; a sentence for each.
async fn wait_until_all_works(dir: &ClusterDir) -> anyhow::Result<Vec<String>> {
    let since = Instant::now();
    let agent = agent(dir, since).await?;
    loop {
        let mut units = agent.status().await?;
        units.retain(|unit| unit.state != UnitState::Retired);
        let (failed, others): (Vec<_>, Vec<_>) = units.iter().partition(|unit| has_failed(unit));
        let broken: Vec<String> = failed
            .iter()
            .map(|unit| format!("{} does not work: {}", unit.name, unit.trouble))
            .collect();
        let lost = failed.iter().find(|unit| role(unit) == Some(Role::Monitor));
        let has_others = others.iter().any(|unit| role(unit) == Some(Role::Monitor));
        if let Some(lost) = lost.filter(|_| !has_others) {
            bail!("{} does not work: {}", lost.name, lost.trouble);
        }
        let Some(late) = others.iter().find(|unit| unit.state != UnitState::Up) else {
            let servers = others.iter().filter(|unit| role(unit) == Some(Role::Server));
            let servers = servers.map(|unit| unit.name.clone()).collect();
            return match (wait_for_members(dir, servers).await, broken.is_empty()) {
                (Err(_), false) => bail!("{}", broken.join("; ")),
                (waited, _) => waited.map(|()| broken),
            };
        };
        if since.elapsed() > READY {
            let (name, log) = (&late.name, dir.log_file(&late.name));
            let late =
                format!("{name} is not ready after {} s; see {}", READY.as_secs(), log.display());
            bail!("{}", broken.into_iter().chain([late]).collect::<Vec<String>>().join("; "));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The agent, as soon as it answers. A cluster that was off for months has expired certificates only, until its
/// monitor runs.
async fn agent(dir: &ClusterDir, since: Instant) -> anyhow::Result<AgentLink> {
    loop {
        match AgentLink::connect(dir).await {
            Ok(Some(link)) => return Ok(link),
            Ok(None) if since.elapsed() > READY => bail!("the agent does not answer"),
            Err(error) if since.elapsed() > READY => return Err(error),
            _ => tokio::time::sleep(POLL).await,
        }
    }
}

fn role(unit: &UnitStatus) -> Option<Role> {
    cluster_dir::unit(&unit.name).map(|unit| unit.role)
}

/// Whether it may never work.
fn has_failed(unit: &UnitStatus) -> bool {
    unit.failures > 0 && unit.state != UnitState::Up
}

/// Waits until the monitors themselves say that these servers are up, and that all monitors vote that are to.
async fn wait_for_members(dir: &ClusterDir, servers: Vec<String>) -> anyhow::Result<()> {
    let cluster = find::configured(&dir.client())?;
    let since = Instant::now();
    loop {
        let missing = match missing(&cluster, &servers).await {
            Ok(None) => return Ok(()),
            Ok(Some(missing)) => missing,
            Err(error) => format!("{error:#}"),
        };
        if since.elapsed() > READY {
            bail!("the cluster does not work: {missing}; see {}", dir.logs().display());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the monitors still wait for.
async fn missing(cluster: &find::Cluster, servers: &[String]) -> anyhow::Result<Option<String>> {
    let status = Admin::connect(cluster).await?.status().await?;
    let is_up = |name: &&String| {
        let mut servers = status.servers.iter();
        servers.any(|server| server.name == **name && server.state == ServerState::Up)
    };
    if let Some(name) = servers.iter().find(|name| !is_up(name)) {
        return Ok(Some(format!("{name} did not register")));
    }
    // Of an even number one waits for another.
    let learns = |monitor: &&MonitorStatus| {
        monitor.role == MonitorRole::Learner && monitor.state == ServerState::Up
    };
    let learner = status.monitors.iter().find(learns);
    let learner =
        learner.filter(|_| MONITORS.contains(&status.monitors.len().to_string().as_str()));
    Ok(learner.map(|monitor| format!("{} does not vote yet", monitor.name)))
}

/// What runs, where, and what to try.
async fn report(dir: &ClusterDir, supervision: &Supervision) -> anyhow::Result<()> {
    let cluster = find::configured(&dir.client())?;
    let status = Admin::connect(&cluster).await?.status().await?;
    let root = dir.root().display();
    let width = Width { data: status.width.data, parity: status.width.parity };
    say::line(format_args!("OkapiFS cluster {} in {root}", status.cluster));
    let mut processes = dir.running();
    processes.sort_by(|(left, _), (right, _)| left.cmp(right));
    let agent = dir.process(AGENT).map(|running| (AGENT, running));
    let units = processes.iter().map(|(unit, running)| (unit.name.as_str(), running.clone()));
    let rows = agent.into_iter().chain(units).map(|(name, running)| {
        vec![format!("  {name}"), running.address, format!("pid {}", running.pid)]
    });
    say::table(&rows.collect::<Vec<Vec<String>>>());
    say::line(format_args!(
        "Stripes are {width}: any {} of {} servers may be lost. Each server counts as a failure domain of its \
         own, although all of them are on this machine.",
        width.parity,
        status.servers.len()
    ));
    if status.servers.len() < width.total() {
        say::line(format_args!(
            "There are fewer than {} servers, so new data is written narrower and takes more space.",
            width.total()
        ));
    }
    for reason in &status.reasons {
        say::line(format_args!("Health: {reason}"));
    }
    match dir.mounts()?.first() {
        Some(mount) => say::line(format_args!("Try: cp -a /usr/share/doc {}", mount.at.display())),
        None => say::line(format_args!("Mount it with: okapifs up {root} --mount DIRECTORY")),
    }
    say::line(format_args!("     okapifs status --cluster {root}"));
    match supervision {
        Supervision::Here { .. } => say::line("Ctrl-C unmounts and stops everything."),
        _ => say::line(format_args!("     okapifs down {root}")),
    }
    Ok(())
}
