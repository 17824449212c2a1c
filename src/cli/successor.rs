//! A mount is upgraded while it is in use: the daemon has the program as it is now take its place.
//!
//! Asked to by SIGUSR2, it starts what lies at its program's path with the arguments that it was started with. That
//! one connects as any mount does, puts itself in the place of this one, and says that it works; from then on whoever
//! looks at the path finds the new one. What was open stays here: this process serves it until the last of it is
//! closed, then it ends. Between the two it is as between two mounts on two machines: what one writes the other reads.
//!
//! If the new one does not get so far, nothing has happened, but for a line in the log.
//!
//! # Files in the run directory
//!
//! An agent knows a mount by its run file and its birth file. Both are given another name first, by which
//! `okapifs down` finds this process still, and the new one is born with the old name. So at no time do two processes
//! have one name, and an agent that is started at any moment finds whoever has it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::monitor::retract;
use super::mount::{Arguments, arguments_in_background, hear};
use crate::agent::processes::{Aside, Running, in_own_session};

/// How long a successor may take to connect.
const PATIENCE: Duration = Duration::from_secs(30);

/// This process, as the one before its successor.
pub(super) struct Predecessor {
    /// By its path, as it was at the start: who replaces the file replaces what is found there.
    program: PathBuf,
    arguments: Vec<OsString>,
    run_file: Option<PathBuf>,
    is_an_agents: bool,
    /// Where its own files are since somebody took over.
    aside: Mutex<Option<Aside>>,
}

/// A successor that is ended unless it works.
struct Attempt(Option<Child>);

impl Drop for Attempt {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else { return };
        if let Err(error) = child.kill().and_then(|()| child.wait()) {
            log::warn!("process {} cannot be ended: {error}", child.id());
        }
    }
}

/// Hears from now on when it is asked to give way.
pub(super) fn asks() -> anyhow::Result<Signal> {
    signal(SignalKind::user_defined2()).context("SIGUSR2 cannot be caught")
}

impl Predecessor {
    /// Remembers how this process was started.
    pub(super) fn this_process(
        arguments: &Arguments,
        at: &Path,
        cluster: Option<&str>,
    ) -> anyhow::Result<Self> {
        let mut again = arguments_in_background(arguments, at, cluster)?;
        if !arguments.replace {
            again.insert(1, "--replace".into());
        }
        Ok(Self {
            program: std::env::current_exe().context("/proc is not mounted")?,
            arguments: again,
            run_file: arguments.ready.clone(),
            is_an_agents: arguments.start.is_some(),
            aside: Mutex::default(),
        })
    }

    /// Gives way to a successor when it is asked to, once. Goes on for ever.
    pub(super) async fn give_way(&self, mut asks: Signal) {
        while asks.recv().await.is_some() {
            log::info!("asked to give way to the program as it is now");
            match self.have_succeeded().await {
                Ok(pid) => {
                    log::info!(
                        "process {pid} took over; this one serves what is open until it is closed"
                    );
                    break;
                }
                Err(error) => log::error!("nobody took over, this process goes on: {error:#}"),
            }
        }
        std::future::pending::<()>().await;
    }

    /// Starts a successor and waits until it has taken over. Its process id. If this is dropped meanwhile, it is
    /// ended.
    async fn have_succeeded(&self) -> anyhow::Result<u32> {
        let mut aside = match &self.run_file {
            Some(run_file) if self.is_an_agents => {
                Some(Aside::step(run_file).context("the files of this process cannot be renamed")?)
            }
            _ => None,
        };
        let mut command = Command::new(&self.program);
        // Its log is this one's.
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        in_own_session(&mut command);
        let child = match &aside {
            Some(aside) => aside.have_born(&mut command),
            None => command.spawn(),
        };
        let child = child.with_context(|| format!("{} cannot be run", self.program.display()))?;
        let pid = child.id();
        let mut attempt = Attempt(Some(child));
        let said = attempt.0.as_mut().and_then(|child| child.stdout.take()).expect("it is piped");
        let heard = tokio::task::spawn_blocking(move || hear(said));
        tokio::time::timeout(PATIENCE, heard).await.context("it is still not ready")???;
        if let Some(aside) = &mut aside {
            aside.stay();
        }
        *self.aside.lock() = aside;
        if let Some(mut child) = attempt.0.take() {
            // It is no zombie, should it end first.
            std::thread::Builder::new()
                .name("successor".to_owned())
                .spawn(move || child.wait())
                .context("no thread to wait for it")?;
        }
        Ok(pid)
    }

    /// Takes this process's files along, at its end in good order.
    pub(super) fn leave(self) -> anyhow::Result<()> {
        match self.aside.into_inner() {
            Some(aside) => aside.remove().context("the files of this process cannot be removed"),
            // Where no agent looks, the successor has it, under the same name.
            None => retract(self.run_file.filter(|path| is_ours(path))),
        }
    }
}

fn is_ours(run_file: &Path) -> bool {
    Running::read(run_file).is_none_or(|running| running.pid == std::process::id())
}
