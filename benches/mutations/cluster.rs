//! A cluster that `okapifs up` runs: its processes, what it says of itself, and what happens when they are killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use super::process;

/// Between two operations.
const PACE: Duration = Duration::from_millis(10);
/// Between two looks at the cluster's state, and how long it may take to be as it should.
const LOOK: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(120);
/// How long operations go on before and after a leader is killed.
const CALM: Duration = Duration::from_secs(1);
/// A monitor that lags by no more entries has caught up.
const LAG: u64 = 100;

/// A directory of `okapifs up`, and where its filesystem is mounted.
pub(crate) struct Cluster<'a> {
    pub(crate) program: &'a Path,
    pub(crate) dir: &'a Path,
    pub(crate) mount: &'a Path,
}

/// The processes of all monitors of the cluster in `dir`.
pub(crate) fn monitors(dir: &Path) -> anyhow::Result<Vec<u32>> {
    Ok(processes(dir)?
        .into_iter()
        .filter(|(name, _)| name.starts_with("monitor-"))
        .map(|(_, pid)| pid)
        .collect())
}

/// All processes of the cluster, by name.
fn processes(dir: &Path) -> anyhow::Result<Vec<(String, u32)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir.join("run"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "json") {
            let name = path.file_stem().context("a name")?.to_string_lossy().into_owned();
            found.push((name, pid(&path)?));
        }
    }
    found.sort();
    Ok(found)
}

fn pid(path: &Path) -> anyhow::Result<u32> {
    let process: Value = serde_json::from_slice(&fs::read(path)?)?;
    let pid = process["pid"].as_u64().context("a process has a pid")?;
    Ok(u32::try_from(pid)?)
}

fn sigkill(pid: u32) -> anyhow::Result<()> {
    // SAFETY: only sends a signal.
    if unsafe { libc::kill(i32::try_from(pid)?, libc::SIGKILL) } != 0 {
        bail!("process {pid} could not be killed");
    }
    Ok(())
}

impl Cluster<'_> {
    /// Kills the leader so many times while a program renames a file every 10 ms. Gives the longest rename of each
    /// time.
    pub(crate) fn fail_over(&self, times: u32) -> anyhow::Result<Vec<Duration>> {
        (0..times)
            .map(|_| {
                let leader = self.wait_until_whole()?;
                let renames = Renames::start(self.mount)?;
                std::thread::sleep(CALM);
                sigkill(pid(&self.dir.join("run").join(format!("{leader}.json")))?)?;
                std::thread::sleep(CALM);
                self.wait_until_whole()?;
                renames.stop()
            })
            .collect()
    }

    /// Kills everything, lets the machine forget what it has cached, and starts it. Gives how long it takes until
    /// the first rename is done.
    pub(crate) fn start_again(&self) -> anyhow::Result<Duration> {
        self.wait_until_whole()?;
        let processes = processes(self.dir)?;
        // The agent first: it would start the others.
        let (agent, others): (Vec<_>, Vec<_>) =
            processes.into_iter().partition(|(name, _)| name == "agent");
        for (_, pid) in agent.into_iter().chain(others) {
            sigkill(pid)?;
        }
        for entry in fs::read_dir(self.dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("monitor-") || name.starts_with("server-") {
                process::forget_cached(&path)?;
            }
        }
        let since = Instant::now();
        let mut up = Command::new(self.program);
        up.arg("up").arg(self.dir).arg("--mount").arg(self.mount).arg("--detach");
        if !up.stdout(Stdio::null()).status()?.success() {
            bail!("the cluster does not start");
        }
        let file = Renames::file(self.mount);
        fs::File::create(&file.0)?;
        fs::rename(&file.0, &file.1)?;
        Ok(since.elapsed())
    }

    /// Waits until all monitors are up, vote and have caught up. Gives the name of the leader.
    fn wait_until_whole(&self) -> anyhow::Result<String> {
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            let mut status = Command::new(self.program);
            status.args(["status", "--json", "--cluster"]).arg(self.dir).stderr(Stdio::null());
            let said = status.output()?.stdout;
            if let Ok(said) = serde_json::from_slice::<Value>(&said)
                && let Some(monitors) = said["monitors"].as_array()
                && monitors.iter().all(is_whole)
                && let Some(leader) = monitors.iter().find(|one| one["role"] == "leader")
            {
                return Ok(leader["name"].as_str().context("a monitor has a name")?.to_owned());
            }
            std::thread::sleep(LOOK);
        }
        bail!("the monitors are not whole after {} s", PATIENCE.as_secs());
    }
}

fn is_whole(monitor: &Value) -> bool {
    monitor["state"] == "up"
        && monitor["role"] != "learner"
        && monitor["lag"].as_u64().is_some_and(|lag| lag <= LAG)
}

/// A file that is renamed back and forth. (A rename may remove a name: it waits for everything that a new leader
/// has to learn first.)
struct Renames {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<std::io::Result<Duration>>,
}

impl Renames {
    fn file(mount: &Path) -> (PathBuf, PathBuf) {
        (mount.join("renamed-0"), mount.join("renamed-1"))
    }

    fn start(mount: &Path) -> anyhow::Result<Self> {
        let (mut from, mut to) = Self::file(mount);
        fs::File::create(&from)?;
        let ends = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !told.load(Ordering::Relaxed) {
                let since = Instant::now();
                fs::rename(&from, &to)?;
                longest = longest.max(since.elapsed());
                std::mem::swap(&mut from, &mut to);
                std::thread::sleep(PACE.saturating_sub(since.elapsed()));
            }
            Ok(longest)
        });
        Ok(Self { ends, thread })
    }

    /// The longest of them.
    fn stop(self) -> anyhow::Result<Duration> {
        self.ends.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(longest) => Ok(longest.context("a rename while the leader was replaced")?),
            Err(_) => bail!("the thread that renames panicked"),
        }
    }
}
