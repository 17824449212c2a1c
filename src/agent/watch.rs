//! Watching one process: when it is ready, whether it answers, when it ends.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::pidfd;
use super::probes::Prober;
use super::processes::{POLL, Running};
use super::stages::Unit;
use crate::crypto::Credentials;

/// How often a process is asked whether it is alive.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a process that starts is looked at often: most are ready by then.
const QUICK: Duration = Duration::from_secs(5);
/// How often it is looked at later.
const SLOW_POLL: Duration = Duration::from_millis(200);

/// A process to watch.
pub(super) struct Watched {
    pub(super) unit: Unit,
    pub(super) process: Running,
    pub(super) is_ready: bool,
    pub(super) run_dir: PathBuf,
    pub(super) run_file: PathBuf,
    pub(super) credentials: Credentials,
}

/// What was seen of a process.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) unit: Unit,
    pub(super) pid: u32,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// It wrote its run file.
    Ready(Running),
    Answered,
    Missed,
    /// Another process has its name now, and works. It goes on with what it began.
    Succeeded(Running),
    Died,
}

/// Tells what it sees until the process has ended.
pub(super) async fn watch(watched: Watched, tell: mpsc::UnboundedSender<Seen>) {
    let (unit, process) = (watched.unit.clone(), watched.process.clone());
    let tell = |what| {
        let seen = Seen { unit: unit.clone(), pid: process.pid, what };
        // A supervisor that has ended is interested in nothing any more.
        drop(tell.send(seen));
    };
    tokio::select! {
        () = pidfd::ended(&process) => tell(What::Died),
        () = look_after(watched, &tell) => {}
    }
}

async fn look_after(mut watched: Watched, tell: &impl Fn(What)) {
    if !watched.is_ready {
        watched.process = wait_for_readiness(&watched, tell).await;
        tell(What::Ready(watched.process.clone()));
    }
    let Watched { unit, process, run_dir, run_file, credentials, .. } = watched;
    let pid = process.pid;
    let mut prober = Prober::new(unit.role, process, &run_dir, credentials);
    loop {
        tell(if prober.answers().await { What::Answered } else { What::Missed });
        let successor = Running::read(&run_file).filter(|running| running.pid != pid);
        if let Some(successor) = successor.filter(Running::is_alive) {
            tell(What::Succeeded(successor));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// A process that starts is asked nothing. But one that was stopped will never be ready.
async fn wait_for_readiness(watched: &Watched, tell: &impl Fn(What)) -> Running {
    let since = Instant::now();
    let mut told = since;
    loop {
        let running = Running::read(&watched.run_file);
        if let Some(running) = running.filter(|running| running.pid == watched.process.pid) {
            return running;
        }
        if told.elapsed() >= INTERVAL {
            told = Instant::now();
            tell(if watched.process.is_stopped() { What::Missed } else { What::Answered });
        }
        tokio::time::sleep(if since.elapsed() < QUICK { POLL } else { SLOW_POLL }).await;
    }
}
