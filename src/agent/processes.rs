//! Processes: started, recognised, waited for, stopped.
//!
//! A process id alone says little: it may have been given to a stranger since. So a process that works writes a
//! **run file** that names its id *and* the moment it started (in clock ticks since boot, as `/proc` tells it);
//! only where both agree is it still the same one. The file appears by a rename, when the process is ready and
//! not before, so waiting for readiness is waiting for the file. It goes when the process ends in good order;
//! one that is left over tells of a process that died.
//!
//! Each process leads a session of its own: a Ctrl-C at the terminal reaches only the command that was typed,
//! which then stops the others in order.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::plan::Unit;

/// How often a state is looked at while waiting for it to change.
const POLL: Duration = Duration::from_millis(20);

/// How to start a unit.
#[derive(Clone, Debug)]
pub struct Launch {
    /// What it is.
    pub unit: Unit,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Where it writes its run file when it is ready.
    pub run_file: PathBuf,
    /// Where its standard output and error go, appended.
    pub log_file: PathBuf,
}

/// What a run file says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Running {
    /// Its process id.
    pub pid: u32,
    /// When it started, in clock ticks since the machine booted.
    pub started: u64,
    /// `host:port` where it serves; of a mount, its mountpoint.
    pub address: String,
}

/// Why a process did not become ready.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The program could not be run, or its log could not be opened.
    #[error("{name} cannot be started: {source}")]
    Spawn {
        /// The unit.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// It ended before it was ready.
    #[error("{name} did not start: {reason}")]
    Died {
        /// The unit.
        name: String,
        /// The last thing that it said.
        reason: String,
    },
    /// It is still not ready.
    #[error("{name} is not ready after {} s; see {log}", .after.as_secs())]
    TimedOut {
        /// The unit.
        name: String,
        /// How long it was given.
        after: Duration,
        /// Where its log is.
        log: PathBuf,
    },
}

/// How a process ended when it was asked to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stopped {
    /// It had ended before.
    WasDead,
    /// In good order.
    Cleanly,
    /// It was killed, because it did not end in time.
    Killed,
}

impl Running {
    /// This process, serving at `address`.
    ///
    /// # Errors
    ///
    /// When `/proc` is not there.
    pub fn this_process(address: String) -> io::Result<Self> {
        let pid = std::process::id();
        let started = start_time(pid)
            .ok_or_else(|| io::Error::other("/proc/self/stat cannot be read; mount /proc"))?;
        Ok(Self { pid, started, address })
    }

    /// Reads a run file. `None` when there is none, or none that makes sense.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Writes a run file; it appears whole or not at all.
    ///
    /// # Errors
    ///
    /// When the directory cannot be written to.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let unfinished = path.with_extension("new");
        let mut file = File::create(&unfinished)?;
        serde_json::to_writer(&mut file, self)?;
        file.write_all(b"\n")?;
        drop(file);
        fs::rename(unfinished, path)
    }

    /// Whether it still runs. A process that ended and was not waited for yet does not.
    pub fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    /// Whether it runs and goes on running. One that was killed lives for a moment still, in which the kernel
    /// takes its memory back and it holds its locks and ports: its end is waited for, 10 s at the most.
    pub fn goes_on(&self) -> bool {
        let is_ending = Stat::of(self.pid).is_some_and(|stat| stat.is_ending);
        self.is_alive() && !(is_ending && self.wait_dead(Duration::from_secs(10)))
    }

    /// Asks it to end, waits up to `grace`, then kills it.
    ///
    /// # Errors
    ///
    /// When it may not be signalled.
    pub fn stop(&self, grace: Duration) -> io::Result<Stopped> {
        if !self.is_alive() {
            return Ok(Stopped::WasDead);
        }
        self.signal(libc::SIGTERM)?;
        if self.wait_dead(grace) {
            return Ok(Stopped::Cleanly);
        }
        self.signal(libc::SIGKILL)?;
        self.wait_dead(Duration::from_secs(5));
        Ok(Stopped::Killed)
    }

    /// Sends a signal, if it is still the same process.
    ///
    /// # Errors
    ///
    /// When it may not be signalled.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        let pid = i32::try_from(self.pid).map_err(io::Error::other)?;
        // SAFETY: kill(2) takes two numbers and touches no memory of ours.
        let result = unsafe { libc::kill(pid, signal) };
        match io::Error::last_os_error() {
            _ if result == 0 => Ok(()),
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            error => Err(error),
        }
    }

    fn wait_dead(&self, at_most: Duration) -> bool {
        let since = Instant::now();
        while self.is_alive() {
            if since.elapsed() > at_most {
                return false;
            }
            std::thread::sleep(POLL);
        }
        true
    }
}

impl Launch {
    /// Starts it. It is not ready yet: see [`Starting::wait`].
    ///
    /// # Errors
    ///
    /// [`StartError::Spawn`].
    pub fn start(&self) -> Result<Starting, StartError> {
        self.spawn()
            .map(|child| Starting { launch: self.clone(), child: Some(child) })
            .map_err(|source| StartError::Spawn { name: self.unit.name.clone(), source })
    }

    fn spawn(&self) -> io::Result<Child> {
        match fs::remove_file(&self.run_file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let log = File::options().create(true).append(true).open(&self.log_file)?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        in_own_session(&mut command);
        command.spawn()
    }
}

/// A process that was started and may not be ready yet. Dropped before it is, it is killed.
#[derive(Debug)]
pub struct Starting {
    launch: Launch,
    /// Until it is given back.
    child: Option<Child>,
}

impl Starting {
    /// Waits until it has written its run file. Its child handle is given back too, so that the caller can
    /// reap it when it ends.
    ///
    /// # Errors
    ///
    /// [`StartError::Died`] with the last line of its log, or [`StartError::TimedOut`]; it is killed then.
    pub async fn wait(mut self, at_most: Duration) -> Result<(Running, Child), StartError> {
        let since = Instant::now();
        loop {
            if let Some(ready) = self.look()? {
                return Ok(ready);
            }
            if since.elapsed() > at_most {
                return Err(StartError::TimedOut {
                    name: self.launch.unit.name.clone(),
                    after: at_most,
                    log: self.launch.log_file.clone(),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Whether it is ready by now, or has died.
    fn look(&mut self) -> Result<Option<(Running, Child)>, StartError> {
        let child = self.child.as_mut().expect("given back only once");
        if !matches!(child.try_wait(), Ok(None)) {
            return Err(StartError::Died {
                name: self.launch.unit.name.clone(),
                reason: last_line(&self.launch.log_file)
                    .unwrap_or_else(|| "it said nothing".to_owned()),
            });
        }
        let running = Running::read(&self.launch.run_file);
        let ours = running.filter(|running| running.pid == child.id());
        Ok(ours.and_then(|running| Some((running, self.child.take()?))))
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        if let Err(error) = child.kill().and_then(|()| child.wait().map(drop)) {
            log::warn!("{} cannot be killed: {error}", self.launch.unit.name);
        }
    }
}

/// Lets `command` lead a session of its own, out of reach of the terminal's signals.
pub fn in_own_session(command: &mut Command) {
    // SAFETY: between fork and exec only setsid(2) is called, which is async-signal-safe; a new child never
    // leads a process group, so it cannot fail.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            Ok(())
        });
    }
}

/// The last line of a log that is not empty, without what the logger puts before a message.
pub fn last_line(log: &Path) -> Option<String> {
    let text = String::from_utf8_lossy(&fs::read(log).ok()?).into_owned();
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(line.strip_prefix("okapifs: ").unwrap_or(line).to_owned())
}

/// When a living process started, in clock ticks since boot.
fn start_time(pid: u32) -> Option<u64> {
    Stat::of(pid).map(|stat| stat.started)
}

/// What `/proc/PID/stat` says of a living process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stat {
    /// In clock ticks since boot.
    started: u64,
    /// It is on its way out: it does nothing any more.
    is_ending: bool,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The fields after the command, which is in parentheses and may itself hold anything: state is the 3rd
    /// field, the flags are the 9th, the start time is the 22nd (proc(5)).
    fn parse(stat: &str) -> Option<Self> {
        /// `PF_EXITING` in the kernel's `sched.h`.
        const EXITING: u32 = 4;
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        (!matches!(state, "Z" | "X")).then_some(())?;
        let flags: u32 = fields.nth(5)?.parse().ok()?;
        let started = fields.nth(12)?.parse().ok()?;
        Some(Self { started, is_ending: flags & EXITING != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Role;
    use super::*;

    fn shell(dir: &Path, script: &str) -> Launch {
        Launch {
            unit: Unit { role: Role::Server, name: "server-1".to_owned() },
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            run_file: dir.join("server-1.json"),
            log_file: dir.join("server-1.log"),
        }
    }

    #[test]
    fn the_start_time_is_found_behind_any_command_name() {
        let stat = |state: char, flags: u32| {
            let before = format!("7 (a) b) {state} 1 2 3 4 5 {flags}");
            Stat::parse(&format!("{before} 7 8 9 10 11 12 13 14 15 16 17 18 4711 20"))
        };
        let (lives, ends) = (4_194_304, 4_194_304 | 4);
        assert_eq!(stat('S', lives), Some(Stat { started: 4711, is_ending: false }));
        assert_eq!(stat('R', ends), Some(Stat { started: 4711, is_ending: true }));
        assert_eq!(stat('Z', ends), None);
        assert_eq!(Stat::parse("garbage"), None);
    }

    #[test]
    fn a_process_is_recognised_and_a_stranger_with_its_id_is_not() {
        let this = Running::this_process("here".to_owned()).expect("/proc");
        assert!(this.is_alive());
        let stranger = Running { started: this.started + 1, ..this };
        assert!(!stranger.is_alive());
        assert_eq!(stranger.stop(Duration::ZERO).expect("nothing to signal"), Stopped::WasDead);
    }

    #[tokio::test]
    async fn a_process_that_dies_says_why() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let launch = shell(dir.path(), "echo first; echo the port is taken >&2; exit 1");
        let error =
            launch.start().expect("sh").wait(Duration::from_secs(10)).await.expect_err("it ends");
        assert_eq!(error.to_string(), "server-1 did not start: the port is taken");
    }

    #[tokio::test]
    async fn a_process_is_ready_when_it_says_so_and_stops_when_told() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let script = format!(
            r#"read -r stat < /proc/$$/stat; set -- ${{stat##*)}}
            echo "{{\"pid\":$$,\"started\":${{20}},\"address\":\"a\"}}" > {0}/new; mv {0}/new {0}/server-1.json
            while :; do sleep 0.01; done"#,
            dir.path().display()
        );
        let launch = shell(dir.path(), &script);
        let (running, mut child) =
            launch.start().expect("sh").wait(Duration::from_secs(10)).await.expect("ready");
        assert!(running.is_alive());
        assert_eq!(running.address, "a");
        let stopped = running.stop(Duration::from_secs(10)).expect("ours");
        assert_eq!(stopped, Stopped::Cleanly);
        assert!(!running.is_alive(), "although it was not waited for yet");
        child.wait().expect("our child");
    }
}
