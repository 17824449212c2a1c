//! Processes: started, recognised, waited for, stopped.
//!
//! A process id alone says little: it may have been given to a stranger since. So a process that works writes a
//! **run file** that names its id *and* the moment it started (in clock ticks since boot, as `/proc` tells it);
//! only where both agree is it still the same one. The file appears by a rename, when the process is ready and
//! not before, so waiting for readiness is waiting for the file. It goes when the process ends in good order;
//! one that is left over tells of a process that died.
//!
//! That leaves the time between a process's birth and its readiness, in which whoever started it may die. So each
//! is born with a lock ([`BirthLock`]) in the **birth file**: while it is held, the process lives, and no second
//! one can be started; it has the process's id. [`Launch::find`] puts both together.
//!
//! Each process leads a session of its own: a Ctrl-C at the terminal reaches only the command that was typed,
//! which then stops the others in order.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::env::system::lock::{BirthLock, LockError};

/// How often a state is looked at while waiting for it to change.
pub(super) const POLL: Duration = Duration::from_millis(20);

/// How the name of a run file ends.
const RUN: &str = ".json";
/// How the name of a birth file ends.
const BIRTH: &str = ".birth";

/// How to start a process.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Its name, of which its files are made.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments; `--ready FILE --start N` follow them.
    pub arguments: Vec<OsString>,
    /// The directory of its run file and birth file.
    pub run_dir: PathBuf,
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
    /// `host:port` where it serves; of a mount, its mountpoint. Empty while it is not ready.
    pub address: String,
    /// The number of this start, as its agent counts; 0 if nobody does.
    pub start: u64,
}

/// Why a process did not become ready.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// One runs already.
    #[error("{name} cannot be started: {error}")]
    Runs {
        /// The unit.
        name: String,
        /// Who holds its lock.
        error: LockError,
    },
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
    /// This process, serving at `address`, as the start of that number.
    ///
    /// # Errors
    ///
    /// When `/proc` is not there.
    pub fn this_process(address: String, start: u64) -> io::Result<Self> {
        let pid = std::process::id();
        let started = start_time(pid)
            .ok_or_else(|| io::Error::other("/proc/self/stat cannot be read; mount /proc"))?;
        Ok(Self { pid, started, address, start })
    }

    /// A process of which no more is known than its id. If it is dead by now, it stays dead: no process started
    /// at tick 0.
    pub(super) fn unready(pid: u32) -> Self {
        let started = start_time(pid).unwrap_or(0);
        Self { pid, started, address: String::new(), start: 0 }
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

    /// Whether somebody has stopped it (SIGSTOP): it lives and does nothing.
    pub fn is_stopped(&self) -> bool {
        self.is_alive() && Stat::of(self.pid).is_some_and(|stat| stat.is_stopped)
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
        // One that was stopped would not hear it.
        self.signal(libc::SIGCONT)?;
        if self.wait_dead(grace) {
            return Ok(Stopped::Cleanly);
        }
        self.signal(libc::SIGKILL)?;
        self.wait_dead(Duration::from_secs(5));
        Ok(Stopped::Killed)
    }

    /// Whether it was started from that path, and another program lies there now.
    pub fn is_outdated(&self, program: &Path) -> bool {
        let file = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
        let proc = PathBuf::from(format!("/proc/{}", self.pid));
        let began = fs::read(proc.join("cmdline")).unwrap_or_default();
        let path = began.split(|byte| *byte == 0).next().unwrap_or_default();
        let runs = file(&proc.join("exe"));
        path == program.as_os_str().as_bytes()
            && matches!((runs, file(program)), (Ok(runs), Ok(lies)) if runs != lies)
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
    /// Where it says that it is ready.
    pub fn run_file(&self) -> PathBuf {
        run_file(&self.run_dir, &self.name)
    }

    /// The process that runs already, whoever started it, and whether it is ready. One that is not has no address.
    pub fn find(&self) -> Option<(Running, bool)> {
        find(&self.run_dir, &self.name)
    }

    /// Starts it, under that number. It is not ready yet: see [`ready`].
    ///
    /// # Errors
    ///
    /// [`StartError::Runs`] and [`StartError::Spawn`].
    pub fn start(&self, start: u64) -> Result<Child, StartError> {
        let lock = BirthLock::take(&birth_file(&self.run_dir, &self.name))
            .map_err(|error| StartError::Runs { name: self.name.clone(), error })?;
        self.spawn(start, &lock)
            .map_err(|source| StartError::Spawn { name: self.name.clone(), source })
    }

    fn spawn(&self, start: u64, lock: &BirthLock) -> io::Result<Child> {
        let run_file = self.run_file();
        match fs::remove_file(&run_file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let log = File::options().create(true).append(true).open(&self.log_file)?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).arg("--ready").arg(run_file);
        command.arg("--start").arg(start.to_string());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // It outlives whoever starts it, and must not hold on to the directory it was started in, nor speak to
        // the service manager in its parent's name.
        command.current_dir("/").env_remove("NOTIFY_SOCKET");
        in_own_session(&mut command);
        spawn_with(&mut command, lock)
    }

    /// Why it died: the last thing that it said.
    pub fn last_words(&self) -> String {
        last_line(&self.log_file).unwrap_or_else(|| "it said nothing".to_owned())
    }

    /// Waits until a child that was just started has written its run file.
    ///
    /// # Errors
    ///
    /// [`StartError::Died`] with the last line of its log, or [`StartError::TimedOut`]; it is killed then.
    pub async fn ready(&self, child: &mut Child, at_most: Duration) -> Result<Running, StartError> {
        let since = Instant::now();
        loop {
            if !matches!(child.try_wait(), Ok(None)) {
                return Err(StartError::Died {
                    name: self.name.clone(),
                    reason: self.last_words(),
                });
            }
            let running = Running::read(&self.run_file());
            if let Some(running) = running.filter(|running| running.pid == child.id()) {
                return Ok(running);
            }
            if since.elapsed() > at_most {
                if let Err(error) = child.kill().and_then(|()| child.wait().map(drop)) {
                    log::warn!("{} cannot be killed: {error}", self.name);
                }
                return Err(StartError::TimedOut {
                    name: self.name.clone(),
                    after: at_most,
                    log: self.log_file.clone(),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// The files of a process that gives its name to its successor, under another one. Dropping it takes the name back,
/// unless it is to [`stay`](Self::stay).
#[derive(Debug)]
pub struct Aside {
    run_dir: PathBuf,
    name: String,
    /// One that no unit has: in those of units this sign does not occur.
    other: String,
    stays: bool,
}

impl Aside {
    /// Puts this process's files aside, of which that one is its run file. It stays locked who it is.
    ///
    /// # Errors
    ///
    /// When they cannot be renamed; they have their names then.
    pub fn step(run_file: &Path) -> io::Result<Self> {
        let name = run_file.file_name().and_then(|name| name.to_str()?.strip_suffix(RUN));
        let (Some(run_dir), Some(name)) = (run_file.parent(), name) else {
            return Err(io::Error::other(format!("{} is no run file", run_file.display())));
        };
        let other = aside_name(name, std::process::id());
        // From here on whatever was renamed is renamed back if something fails.
        let aside = Self { run_dir: run_dir.into(), name: name.to_owned(), other, stays: false };
        fs::rename(birth_file(run_dir, name), birth_file(run_dir, &aside.other))?;
        fs::rename(run_file, self::run_file(run_dir, &aside.other))?;
        Ok(aside)
    }

    /// Starts the successor, which is born with the name.
    ///
    /// # Errors
    ///
    /// When somebody was quicker, or it cannot be run.
    pub fn have_born(&self, command: &mut Command) -> io::Result<Child> {
        let lock =
            BirthLock::take(&birth_file(&self.run_dir, &self.name)).map_err(io::Error::other)?;
        spawn_with(command, &lock)
    }

    /// The name is the successor's from now on.
    pub fn stay(&mut self) {
        self.stays = true;
    }

    /// Removes the files, at the end of this process in good order.
    ///
    /// # Errors
    ///
    /// When that is refused.
    pub fn remove(self) -> io::Result<()> {
        remove_all(&self.run_dir, &self.other)
    }

    fn take_back(&self) -> io::Result<()> {
        let (run_dir, other) = (&self.run_dir, &self.other);
        fs::rename(birth_file(run_dir, other), birth_file(run_dir, &self.name))?;
        fs::rename(run_file(run_dir, other), run_file(run_dir, &self.name))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        if let Err(error) = self.take_back() {
            log::warn!("{} has not got all of its files back: {error}", self.name);
        }
    }
}

/// Removes what a process has left behind that had put its files aside.
pub(super) fn forget_aside(run_dir: &Path, name: &str, pid: u32) {
    if let Err(error) = remove_all(run_dir, &aside_name(name, pid)) {
        log::debug!("the files of process {pid} were not removed: {error}");
    }
}

fn remove_all(run_dir: &Path, name: &str) -> io::Result<()> {
    for path in [run_file(run_dir, name), birth_file(run_dir, name)] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn aside_name(name: &str, pid: u32) -> String {
    format!("{name}~{pid}")
}

/// Runs `command` so that it is born with that lock.
fn spawn_with(command: &mut Command, lock: &BirthLock) -> io::Result<Child> {
    let descriptor = lock.descriptor();
    // SAFETY: what is called between fork and exec is async-signal-safe; the descriptor is open, for `lock` is
    // borrowed until the child runs.
    unsafe { command.pre_exec(move || BirthLock::hand_over(descriptor)) };
    command.spawn()
}

/// The process of that name that runs, and whether it is ready; see [`Launch::find`].
pub fn find(run_dir: &Path, name: &str) -> Option<(Running, bool)> {
    holder(&birth_file(run_dir, name), &run_file(run_dir, name))
}

/// The process that holds the lock in that file, and whether it is ready by its run file. A run file that is left
/// over from before a reboot could name a stranger that looks the same; the lock cannot.
pub fn holder(lock: &Path, run_file: &Path) -> Option<(Running, bool)> {
    let unready = Running::unready(BirthLock::holder(lock)?);
    let ready = Running::read(run_file)
        .filter(|ready| (ready.pid, ready.started) == (unready.pid, unready.started));
    let is_ready = ready.is_some();
    Some((ready.unwrap_or(unready), is_ready)).filter(|(running, _)| running.is_alive())
}

/// Names of the processes that were started with their files in that directory, alive or not.
pub fn names(run_dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(run_dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            let file = entry.file_name().into_string().ok()?;
            let name = file.strip_suffix(RUN).or_else(|| file.strip_suffix(BIRTH))?;
            Some(name.to_owned())
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Where a process says that it is ready.
pub fn run_file(run_dir: &Path, name: &str) -> PathBuf {
    run_dir.join(format!("{name}{RUN}"))
}

fn birth_file(run_dir: &Path, name: &str) -> PathBuf {
    run_dir.join(format!("{name}{BIRTH}"))
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
    /// Somebody stopped it.
    is_stopped: bool,
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
        let is_stopped = matches!(state, "T" | "t");
        Some(Self { started, is_ending: flags & EXITING != 0, is_stopped })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn shell(dir: &Path, script: &str) -> Launch {
        Launch {
            name: "server-1".to_owned(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into(), "sh".into()],
            run_dir: dir.to_owned(),
            log_file: dir.join("server-1.log"),
        }
    }

    /// Says that it is ready, to the file that it is told, and does nothing.
    const READY: &str = r#"read -r stat < /proc/$$/stat; rest=${stat##*)}
        echo "{\"pid\":$$,\"started\":$(echo $rest | cut -d ' ' -f 20),\"address\":\"a\",\"start\":$4}" > $2.new
        mv $2.new $2; exec sleep 60"#;

    #[test]
    fn the_start_time_is_found_behind_any_command_name() {
        let stat = |state: char, flags: u32| {
            let before = format!("7 (a) b) {state} 1 2 3 4 5 {flags}");
            Stat::parse(&format!("{before} 7 8 9 10 11 12 13 14 15 16 17 18 4711 20"))
        };
        let (lives, ends) = (4_194_304, 4_194_304 | 4);
        let sleeps = Stat { started: 4711, is_ending: false, is_stopped: false };
        assert_eq!(stat('S', lives), Some(sleeps));
        assert_eq!(stat('R', ends), Some(Stat { is_ending: true, ..sleeps }));
        assert_eq!(stat('T', lives), Some(Stat { is_stopped: true, ..sleeps }));
        assert_eq!(stat('Z', ends), None);
        assert_eq!(Stat::parse("garbage"), None);
    }

    #[test]
    fn a_process_is_recognised_and_a_stranger_with_its_id_is_not() {
        let this = Running::this_process("here".to_owned(), 1).expect("/proc");
        assert!(this.is_alive() && !this.is_stopped());
        let stranger = Running { started: this.started + 1, ..this };
        assert!(!stranger.is_alive());
        assert_eq!(stranger.stop(Duration::ZERO).expect("nothing to signal"), Stopped::WasDead);
    }

    #[tokio::test]
    async fn a_process_that_dies_says_why() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let launch = shell(dir.path(), "echo first; echo the port is taken >&2; exit 1");
        let mut child = launch.start(1).expect("sh");
        let error = launch.ready(&mut child, PATIENCE).await.expect_err("it ends");
        assert_eq!(error.to_string(), "server-1 did not start: the port is taken");
        assert_eq!(launch.find(), None);
    }

    #[tokio::test]
    async fn a_process_is_ready_when_it_says_so_and_stops_when_told() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let launch = shell(dir.path(), READY);
        let mut child = launch.start(7).expect("sh");
        let running = launch.ready(&mut child, PATIENCE).await.expect("ready");
        assert!(running.is_alive());
        assert_eq!((running.address.as_str(), running.start), ("a", 7));
        assert_eq!(launch.find(), Some((running.clone(), true)));
        let stopped = running.stop(PATIENCE).expect("ours");
        assert_eq!(stopped, Stopped::Cleanly);
        assert!(!running.is_alive(), "although it was not waited for yet");
        child.wait().expect("our child");
    }

    #[tokio::test]
    async fn a_process_that_is_not_ready_is_found_and_keeps_a_second_one_out() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let launch = shell(dir.path(), "exec sleep 60");
        let mut child = launch.start(1).expect("sh");
        let (found, is_ready) = launch.find().expect("it runs");
        assert_eq!((found.pid, is_ready), (child.id(), false));
        assert_eq!(names(dir.path()), ["server-1"]);
        let error = launch.start(2).expect_err("there is one").to_string();
        assert!(error.contains(&format!("process {}", child.id())), "{error}");
        found.signal(libc::SIGSTOP).expect("ours");
        while !found.is_stopped() {
            tokio::time::sleep(POLL).await;
        }
        found.signal(libc::SIGKILL).expect("ours");
        child.wait().expect("our child");
        assert_eq!(launch.find(), None);
        launch.start(2).expect("free").kill().expect("ours");
    }
}
