//! `okapifs up`: one command, and a real cluster is mounted on this machine.
//!
//! It composes what can be done by hand: `init`, `monitor`, `server`, `mount`, each a process of its own that
//! talks to the others over TCP. What is there already is left alone; what is missing is added. Ctrl-C stops what
//! this command started, and everything when that includes the monitor, because without it nothing works.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::admin::Admin;
use super::cluster_dir::{ClusterDir, mount_unit, unit};
use super::config::{ClientFile, ClusterFile, ConfigFile, MonitorFile, ServerFile};
use super::{admin, down, find, init, say};
use crate::agent::plan::{self, Role, Stage, Unit};
use crate::agent::processes::{Launch, Running, StartError, last_line};
use crate::fuse;
use crate::types::{ServerState, Width, limits};

/// How long a process may take until it is ready.
const READY: Duration = Duration::from_secs(45);
/// How often processes are looked after.
const WATCH: Duration = Duration::from_millis(200);
/// Where processes listen unless they have a port from before.
const ANY_PORT: &str = "127.0.0.1:0";

/// Make a cluster under DIR (the first time), start what is missing of it, and mount it.
///
/// Stays until Ctrl-C, which unmounts and stops everything in order, or returns with `--detach`; `okapifs down
/// DIR` stops it then.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// Where the cluster keeps everything.
    dir: PathBuf,

    /// Mount it here too (may be given several times); made if it is not there.
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

    /// Monitors; more than one are not supported yet.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=1))]
    monitors: u8,

    /// Return when everything works.
    #[arg(long)]
    detach: bool,
}

/// A process that this command started.
struct Started {
    unit: Unit,
    running: Running,
    child: Child,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let dir = ClusterDir::new(&arguments.dir)?;
    let mountpoints = mountpoints(&dir, &arguments.mount)?;
    init::make_dir(dir.root(), 0o755)?;
    let lock = dir.lock()?;
    prepare(&dir, arguments)?;
    admin::block_on(async {
        let mut started = Vec::new();
        let begun = tokio::select! {
            begun = start(&dir, &mountpoints, &mut started) => begun.map(|()| true),
            asked = admin::asked_to_end() => asked.map(|()| false),
        };
        match begun {
            Ok(true) => {}
            Ok(false) => return stop_started(&dir, started),
            Err(error) => {
                stop_started(&dir, started)?;
                return Err(error);
            }
        }
        report(&dir, &mountpoints, arguments.detach).await?;
        drop(lock);
        if arguments.detach || started.is_empty() {
            return Ok(());
        }
        watch(&dir, &mut started).await?;
        stop_started(&dir, started)
    })
}

/// The mountpoints as absolute paths, made where they are not there.
///
/// One where a mount of this cluster runs is not looked at: the mount would answer only when its monitor is
/// there, which may be what is to be started.
fn mountpoints(dir: &ClusterDir, wanted: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let running = dir.running();
    let runs = |path: &Path| running.iter().any(|(unit, _)| *unit == mount_unit(path));
    let mut found = Vec::new();
    for path in wanted {
        let path = match fuse::resolve(path) {
            Ok(path) if runs(&path) => path,
            _ => {
                fuse::clear_dead(path)?;
                init::make_dir(path, 0o755)?;
                fuse::usable(path, false)?
            }
        };
        found.push(path);
    }
    Ok(found)
}

/// Makes the cluster, or checks that it is the one that is wanted; adds servers.
fn prepare(dir: &ClusterDir, arguments: &Arguments) -> anyhow::Result<()> {
    let servers = if dir.exists() {
        let there = dir.servers()?.len();
        let cluster = ClusterFile::load(dir.root())?;
        let differs = |wanted: Option<u8>, is: u8| wanted.is_some_and(|wanted| wanted != is);
        if differs(arguments.data, cluster.data) || differs(arguments.parity, cluster.parity) {
            bail!(
                "the cluster in {} stripes as {}, which cannot be changed; leave out --data and --parity",
                dir.root().display(),
                cluster.width()
            );
        }
        let wanted = arguments.servers.map_or(there, |wanted| wanted as usize);
        if wanted < there {
            bail!(
                "the cluster has {there} servers; none can be taken away, because they hold data"
            );
        }
        wanted
    } else {
        let width =
            Width { data: arguments.data.unwrap_or(2), parity: arguments.parity.unwrap_or(1) };
        let wanted = arguments.servers.unwrap_or(3) as usize;
        if width.parity > 0 && wanted < 2 {
            bail!(
                "with one server nothing can be stored twice; use --servers 2 or more, or --parity 0"
            );
        }
        init::create(dir, width, ANY_PORT)?;
        wanted
    };
    init::add_servers(dir, u32::try_from(servers)?, ANY_PORT)?;
    init::make_dir(&dir.run(), 0o755)?;
    init::make_dir(&dir.root().join("logs"), 0o755)
}

/// Starts what is missing, stage after stage, and waits until all of it works.
async fn start(
    dir: &ClusterDir,
    mountpoints: &[PathBuf],
    started: &mut Vec<Started>,
) -> anyhow::Result<()> {
    let mut wanted = vec![unit(init::MONITOR)];
    wanted.extend(dir.servers()?.iter().map(|name| unit(name)));
    wanted.extend(mountpoints.iter().map(|path| mount_unit(path)));
    let running: Vec<Unit> = dir.running().into_iter().map(|(unit, _)| unit).collect();
    for stage in plan::to_start(&wanted, &running) {
        let role = stage[0].role;
        if role == Role::Mount {
            wait_for_servers(dir).await?;
        }
        start_stage(dir, &stage, mountpoints, started).await?;
        if role == Role::Monitor {
            tell_all_where_the_monitor_is(dir)?;
        }
    }
    wait_for_servers(dir).await
}

async fn start_stage(
    dir: &ClusterDir,
    stage: &Stage,
    mountpoints: &[PathBuf],
    started: &mut Vec<Started>,
) -> anyhow::Result<()> {
    let launches = stage.iter().map(|unit| launch(dir, unit, mountpoints));
    let launches = launches.collect::<anyhow::Result<Vec<Launch>>>()?;
    let starting = launches.iter().map(Launch::start).collect::<Result<Vec<_>, StartError>>()?;
    let ready = futures::future::join_all(starting.into_iter().map(|one| one.wait(READY))).await;
    let mut failed = None;
    for (launch, ready) in launches.into_iter().zip(ready) {
        match ready {
            Ok((running, child)) => {
                keep_port(dir, &launch.unit, &running.address)?;
                started.push(Started { unit: launch.unit, running, child });
            }
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

fn launch(dir: &ClusterDir, unit: &Unit, mountpoints: &[PathBuf]) -> anyhow::Result<Launch> {
    let run_file = dir.run_file(&unit.name);
    let mut arguments = match unit.role {
        Role::Monitor | Role::Server => {
            leave_taken_port(dir, unit)?;
            let command = if unit.role == Role::Monitor { "monitor" } else { "server" };
            vec![command.into(), "run".into(), dir.of(&unit.name).into()]
        }
        Role::Mount => {
            let at = mountpoints
                .iter()
                .find(|path| mount_unit(path) == *unit)
                .context("a mount without a mountpoint")?;
            let client = ClientFile::load(&dir.client())?;
            let (config, run) = (dir.client(), dir.run());
            for path in [&config, &run] {
                if path.to_string_lossy().contains(',') {
                    bail!("{} has a comma in it, which mount options cannot carry", path.display());
                }
            }
            vec![
                "mount".into(),
                "--foreground".into(),
                "-o".into(),
                format!("config={},run_dir={}", config.display(), run.display()).into(),
                format!("{}:/", client.monitors.join(",")).into(),
                at.into(),
            ]
        }
    };
    arguments.extend(["--ready".into(), run_file.clone().into()]);
    Ok(Launch {
        unit: unit.clone(),
        program: std::env::current_exe().context("/proc is not mounted")?,
        arguments,
        run_file,
        log_file: dir.log_file(&unit.name),
    })
}

/// A port from before that another program has taken meanwhile is given up.
fn leave_taken_port(dir: &ClusterDir, unit: &Unit) -> anyhow::Result<()> {
    let listen = match unit.role {
        Role::Monitor => MonitorFile::load(&dir.of(&unit.name))?.listen,
        _ => ServerFile::load(&dir.of(&unit.name))?.listen,
    };
    match TcpListener::bind(&listen) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            say::note(format_args!(
                "{listen} is taken by another program: {} gets another port",
                unit.name
            ));
            let host = listen.rsplit_once(':').map_or(listen.as_str(), |(host, _)| host);
            keep_port(dir, unit, &format!("{host}:0"))
        }
        _ => Ok(()),
    }
}

/// Writes down where a process listens, so that it does so again the next time.
fn keep_port(dir: &ClusterDir, unit: &Unit, address: &str) -> anyhow::Result<()> {
    let home = dir.of(&unit.name);
    match unit.role {
        Role::Monitor => {
            let mut file = MonitorFile::load(&home)?;
            if file.listen != address {
                file.listen = address.to_owned();
                file.save(&home)?;
            }
        }
        Role::Server => {
            let mut file = ServerFile::load(&home)?;
            if file.listen != address {
                file.listen = address.to_owned();
                file.save(&home)?;
            }
        }
        Role::Mount => {}
    }
    Ok(())
}

/// Clients and servers are told where the monitor listens now.
fn tell_all_where_the_monitor_is(dir: &ClusterDir) -> anyhow::Result<()> {
    let monitors = vec![MonitorFile::load(&dir.of(init::MONITOR))?.listen];
    let mut client = ClientFile::load(&dir.client())?;
    if client.monitors != monitors {
        client.monitors.clone_from(&monitors);
        client.save(&dir.client())?;
    }
    for name in dir.servers()? {
        let mut server = ServerFile::load(&dir.of(&name))?;
        if server.monitors != monitors {
            server.monitors.clone_from(&monitors);
            server.save(&dir.of(&name))?;
        }
    }
    Ok(())
}

/// Waits until the monitor itself says that every server is up.
async fn wait_for_servers(dir: &ClusterDir) -> anyhow::Result<()> {
    let names = dir.servers()?;
    let cluster = find::configured(&dir.client())?;
    let since = Instant::now();
    loop {
        let missing = match missing_servers(&cluster, &names).await {
            Ok(missing) if missing.is_empty() => return Ok(()),
            Ok(missing) => format!("{} did not register", missing.join(", ")),
            Err(error) => format!("{error:#}"),
        };
        if since.elapsed() > READY {
            bail!(
                "the cluster does not work: {missing}; see {}",
                dir.root().join("logs").display()
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn missing_servers(cluster: &find::Cluster, names: &[String]) -> anyhow::Result<Vec<String>> {
    let status = Admin::connect(cluster).await?.status().await?;
    let up = |name: &&String| {
        let mut servers = status.servers.iter();
        servers.any(|server| server.name == **name && server.state == ServerState::Up)
    };
    Ok(names.iter().filter(|name| !up(name)).cloned().collect())
}

/// What runs, where, and what to try.
async fn report(dir: &ClusterDir, mountpoints: &[PathBuf], detach: bool) -> anyhow::Result<()> {
    let cluster = find::configured(&dir.client())?;
    let status = Admin::connect(&cluster).await?.status().await?;
    let root = dir.root().display();
    let width = Width { data: status.width.data, parity: status.width.parity };
    say::line(format_args!("OkapiFS cluster {} in {root}", status.cluster));
    let mut processes = dir.running();
    processes.sort_by(|(left, _), (right, _)| left.cmp(right));
    let rows: Vec<Vec<String>> = processes
        .iter()
        .map(|(unit, running)| {
            let pid = format!("pid {}", running.pid);
            vec![format!("  {}", unit.name), running.address.clone(), pid]
        })
        .collect();
    say::table(&rows);
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
    match mountpoints.first() {
        Some(at) => say::line(format_args!("Try: cp -a /usr/share/doc {}", at.display())),
        None => say::line(format_args!("Mount it with: okapifs up {root} --mount DIRECTORY")),
    }
    say::line(format_args!("     okapifs status --cluster {root}"));
    match detach {
        true => say::line(format_args!("     okapifs down {root}")),
        false => say::line("Ctrl-C unmounts and stops what was started here."),
    }
    Ok(())
}

/// Looks after the processes until all have ended or somebody asks to end. One that dies is reported once.
async fn watch(dir: &ClusterDir, started: &mut Vec<Started>) -> anyhow::Result<()> {
    let end = admin::asked_to_end();
    tokio::pin!(end);
    while !started.is_empty() {
        tokio::select! {
            asked = &mut end => return asked,
            () = tokio::time::sleep(WATCH) => {}
        }
        started.retain_mut(|process| match process.child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) => {
                report_end(dir, &process.unit, status);
                false
            }
            Err(error) => {
                log::warn!("{} cannot be watched: {error}", process.unit.name);
                false
            }
        });
    }
    say::line("Everything that was started here has ended.");
    Ok(())
}

/// A process that ended in good order took its run file along; one that died left it.
fn report_end(dir: &ClusterDir, unit: &Unit, status: std::process::ExitStatus) {
    if !dir.run_file(&unit.name).exists() {
        return;
    }
    let last = last_line(&dir.log_file(&unit.name)).unwrap_or_default();
    say::note(format_args!(
        "{} died ({status}); the last line of its log: {last}. `okapifs up {}` starts it again.",
        unit.name,
        dir.root().display()
    ));
}

/// Stops what was started here: everything, when that includes the monitor.
fn stop_started(dir: &ClusterDir, mut started: Vec<Started>) -> anyhow::Result<()> {
    if started.is_empty() {
        return Ok(());
    }
    say::note("stopping …");
    let everything = started.iter().any(|process| process.unit.role == Role::Monitor);
    let processes = match everything {
        true => dir.started(),
        false => {
            started.iter().map(|process| (process.unit.clone(), process.running.clone())).collect()
        }
    };
    down::stop(dir, processes)?;
    for process in &mut started {
        process.child.wait()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_given_up_and_a_free_one_kept() {
        let temporary = tempfile::tempdir().expect("temporary directory");
        let dir = ClusterDir::new(&temporary.path().join("c")).expect("a path");
        let width = Width { data: 2, parity: 1 };
        let taken = TcpListener::bind(ANY_PORT).expect("a port");
        let address = taken.local_addr().expect("bound").to_string();
        init::create(&dir, width, &address).expect("made");
        let monitor = unit(init::MONITOR);
        let listen = || MonitorFile::load(&dir.of(init::MONITOR)).expect("there").listen;

        leave_taken_port(&dir, &monitor).expect("moved");
        assert_eq!(listen(), ANY_PORT);

        drop(taken);
        keep_port(&dir, &monitor, &address).expect("kept");
        leave_taken_port(&dir, &monitor).expect("free");
        assert_eq!(listen(), address);
    }
}
