//! `okapifs down`: everything of a node is stopped in order, its agent first.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::cluster_dir::{AGENT, ClusterDir};
use super::say;
use crate::agent::processes::{Running, Stopped};
use crate::agent::stages::{self, Role, Unit};
use crate::fuse;

/// How long a process may take to end in order: a mount first writes everything that it has buffered.
const GRACE: Duration = Duration::from_secs(60);

/// Unmount and stop everything that runs of DIR, the agent first; nothing buffered is lost.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// The directory of `okapifs up` or `okapifs agent`.
    dir: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let dir = ClusterDir::existing(&arguments.dir)?;
    let _lock = dir.lock()?;
    let running = dir.running().len();
    stop_agent(&dir)?;
    stop(&dir, dir.started())?;
    match running {
        0 => say::line(format_args!("nothing runs in {}", dir.root().display())),
        _ => say::line(format_args!("stopped {running} processes of {}", dir.root().display())),
    }
    Ok(())
}

/// Stops the agent, so that nothing is started again. One that is an `okapifs up` in the foreground stops all the
/// others before it ends.
pub(super) fn stop_agent(dir: &ClusterDir) -> anyhow::Result<()> {
    let Some(agent) = dir.process(AGENT) else { return Ok(()) };
    agent
        .stop(GRACE * 3)
        .with_context(|| format!("the agent (process {}) cannot be stopped", agent.pid))?;
    remove_run_file(dir, AGENT)
}

/// Stops processes in order: mounts, servers, monitors; each stage at the same time.
pub(super) fn stop(dir: &ClusterDir, started: Vec<(Unit, Running)>) -> anyhow::Result<()> {
    let units: Vec<Unit> = started.iter().map(|(unit, _)| unit.clone()).collect();
    for stage in stages::to_stop(&units) {
        let in_stage = started.iter().filter(|(unit, _)| stage.contains(unit));
        std::thread::scope(|scope| {
            let stopping: Vec<_> = in_stage
                .map(|(unit, process)| scope.spawn(|| stop_one(dir, unit, process)))
                .collect();
            stopping
                .into_iter()
                .map(|thread| thread.join().expect("stopping does not panic"))
                .collect::<anyhow::Result<Vec<()>>>()
        })?;
    }
    Ok(())
}

fn stop_one(dir: &ClusterDir, unit: &Unit, process: &Running) -> anyhow::Result<()> {
    let stopped = process
        .stop(GRACE)
        .with_context(|| format!("{} (process {}) cannot be stopped", unit.name, process.pid))?;
    if stopped == Stopped::Killed {
        say::note(format_args!(
            "{} did not end within {} s and was killed; see {}",
            unit.name,
            GRACE.as_secs(),
            dir.log_file(&unit.name).display()
        ));
    }
    if unit.role == Role::Mount && !process.address.is_empty() {
        fuse::clear_dead(Path::new(&process.address))?;
    }
    remove_run_file(dir, &unit.name)
}

fn remove_run_file(dir: &ClusterDir, name: &str) -> anyhow::Result<()> {
    match fs::remove_file(dir.run_file(name)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("the run file of {name} cannot be removed"))
        }
        _ => Ok(()),
    }
}
