//! A cluster that a test can do anything to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::hardship::Killer;
use super::runner::{leaders_killed, server_dead, skip};
use super::wait_for;

/// The program under test.
pub const OKAPIFS: &str = env!("CARGO_BIN_EXE_okapifs");

/// Longer than a server may be silent before it counts as down.
pub const DETECTION: Duration = Duration::from_secs(30);

/// A cluster of real processes; all of them end with this value, also when a test panics.
pub struct Cluster {
    dir: TempDir,
    mounts: usize,
    /// Mountpoints of mounts that were made by hand.
    others: Vec<PathBuf>,
    shape: Vec<String>,
    /// Whether its agent restarts what dies; most tests look at what the others do meanwhile.
    is_supervised: bool,
    /// What its processes are started from.
    program: PathBuf,
    /// The level at which its monitors stay.
    held_at: Option<u32>,
    /// The server that is dead and not started again.
    lost: Mutex<Option<String>>,
    /// Who kills its leaders.
    killer: Mutex<Option<Killer>>,
}

impl Cluster {
    /// A running cluster with one mount, in which what dies stays dead until [`Self::up`]; skips the test where
    /// nothing can be mounted.
    pub fn new(servers: u32, data: u8, parity: u8) -> Self {
        let shape = [("servers", servers), ("data", data.into()), ("parity", parity.into())];
        Self::start(&shape, false, false, None)
    }

    /// One whose agent starts again what dies.
    pub fn supervised(servers: u32, data: u8, parity: u8) -> Self {
        let shape = [("servers", servers), ("data", data.into()), ("parity", parity.into())];
        Self::start(&shape, true, false, None)
    }

    /// The same, of a program that may be replaced ([`Self::install`]).
    pub fn installed(servers: u32, data: u8, parity: u8) -> Self {
        let shape = [("servers", servers), ("data", data.into()), ("parity", parity.into())];
        Self::start(&shape, true, true, None)
    }

    /// One of several monitors, all of which vote, and three servers, whose agent starts again what dies.
    pub fn of_monitors(monitors: u32) -> Self {
        let cluster = Self::start(&[("monitors", monitors)], true, false, None);
        cluster.wait_healthy();
        cluster
    }

    /// The same, as an older release would make it.
    pub fn held_at(level: u32, monitors: u32) -> Self {
        let cluster = Self::start(&[("monitors", monitors)], true, true, Some(level));
        cluster.wait_healthy();
        cluster
    }

    /// What is started from now on is of this release; what runs goes on, but for mounts, which give way.
    pub fn install_release(&mut self) {
        self.held_at = None;
        self.install(|path| fs::copy(OKAPIFS, path).map(drop));
        self.kill_agent();
        self.up();
    }

    /// Puts what `write` writes in the place of the release that was installed.
    pub fn install(&self, write: impl FnOnce(&Path) -> std::io::Result<()>) {
        install(self.scratch(), write);
    }

    /// Kills the agent, and waits until it is dead: one that is about to die cannot be asked for anything.
    pub fn kill_agent(&self) {
        let agent = self.agent_pid();
        send(agent, libc::SIGKILL);
        wait_for("the agent is dead", DETECTION, || (!is_okapifs(agent)).then_some(()));
    }

    fn start(
        shape: &[(&str, u32)],
        is_supervised: bool,
        is_installed: bool,
        held_at: Option<u32>,
    ) -> Self {
        need_fuse();
        let mut shape = shape.to_vec();
        if leaders_killed() && !shape.iter().any(|(name, _)| *name == "monitors") {
            shape.push(("monitors", 3));
        }
        let flags = shape.iter();
        let shape = flags.flat_map(|(name, value)| [format!("--{name}"), value.to_string()]);
        let dir = tempfile::Builder::new().prefix("okapifs-").tempdir();
        let dir = dir.expect("temporary directory");
        let program = match is_installed {
            true => install(dir.path(), |path| fs::copy(OKAPIFS, path).map(drop)),
            false => OKAPIFS.into(),
        };
        let mut cluster = Self {
            dir,
            mounts: 1,
            others: Vec::new(),
            shape: shape.collect(),
            is_supervised: is_supervised || leaders_killed(),
            program,
            held_at,
            lost: Mutex::default(),
            killer: Mutex::default(),
        };
        cluster.up();
        if server_dead() {
            cluster.lose_server("server-3");
        }
        if leaders_killed() {
            cluster.wait_healthy();
            cluster.kill_leaders(Duration::from_secs(10), u64::from(std::process::id()));
        }
        cluster
    }

    /// Kills a server for good: nobody starts it until [`Self::relieve`].
    pub fn lose_server(&mut self, name: &str) {
        // The number of servers is that of their configurations from now on.
        if let Some(at) = self.shape.iter().position(|word| word == "--servers") {
            self.shape.drain(at..at + 2);
        }
        let pid = self.server_pid(name);
        let config = self.root().join(name).join("server.toml");
        fs::rename(&config, config.with_extension("lost")).expect("renamed");
        self.up();
        send(pid, libc::SIGKILL);
        self.wait_server(name, false);
        *self.lost.get_mut().expect("no panic") = Some(name.to_owned());
    }

    /// Has whoever leads killed, again and again, until [`Self::relieve`].
    pub fn kill_leaders(&self, rest: Duration, seed: u64) {
        let killer = Killer::start(self.root(), rest, seed);
        *self.killer.lock().expect("no panic") = Some(killer);
    }

    /// Ends all hardship, and waits until all is well; how many leaders were killed.
    pub fn relieve(&self) -> usize {
        let killer = self.killer.lock().expect("no panic").take();
        let lost = self.lost.lock().expect("no panic").take();
        if killer.is_none() && lost.is_none() {
            return 0;
        }
        let killed = killer.map_or(0, Killer::end);
        if let Some(name) = lost {
            let config = self.root().join(name).join("server.toml");
            fs::rename(config.with_extension("lost"), config).expect("renamed");
        }
        self.up();
        self.wait_healthy();
        killed
    }

    /// Starts whatever does not run.
    pub fn up(&self) {
        let mut command = Command::new(&self.program);
        command.arg("up").arg(self.root()).arg("--detach").args(&self.shape);
        if let Some(level) = self.held_at {
            command.env("OKAPIFS_MONITOR_HOLD_LEVEL", level.to_string());
        }
        if !self.is_supervised {
            command.arg("--no-restart");
        }
        for number in 0..self.mounts {
            command.arg("--mount").arg(self.mount(number));
        }
        success(&mut command);
    }

    /// Stops everything in order.
    pub fn down(&self) {
        success(Command::new(OKAPIFS).arg("down").arg(self.root()));
    }

    /// Adds a mount of the same cluster.
    pub fn add_mount(&mut self) -> PathBuf {
        self.mounts += 1;
        self.up();
        self.mount(self.mounts - 1)
    }

    /// Mounts `source` with another client configuration.
    pub fn mount_as(&mut self, config: &str, source: &str) -> PathBuf {
        self.mount_with(&format!("config={config}"), source)
    }

    /// Mounts the root with more options.
    pub fn mount_root_with(&mut self, options: &str) -> PathBuf {
        let status = self.status();
        let monitor = status["monitors"][0]["address"].as_str().expect("text").to_owned();
        let config = self.root().join("client").display().to_string();
        self.mount_with(&format!("config={config},{options}"), &format!("{monitor}:/"))
    }

    fn mount_with(&mut self, options: &str, source: &str) -> PathBuf {
        let mountpoint = self.dir.path().join(format!("other{}", self.others.len()));
        fs::create_dir(&mountpoint).expect("made");
        self.others.push(mountpoint.clone());
        let options = format!("{options},run_dir={}", self.dir.path().display());
        // Where the run files of all others are: it ends with them.
        let run_file = self.root().join(format!("run/mount-other{}.json", self.others.len()));
        let mut command = Command::new(OKAPIFS);
        command.args(["mount", source]).arg(&mountpoint).args(["-o", &options]);
        success(command.arg("--ready").arg(run_file));
        mountpoint
    }

    /// The directory of `okapifs up`.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("cluster")
    }

    /// A directory beside it that goes with it.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// A mountpoint.
    pub fn mount(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("mnt{number}"))
    }

    /// The first mountpoint.
    pub fn mnt(&self) -> PathBuf {
        self.mount(0)
    }

    /// Runs an administration command on this cluster.
    pub fn okapifs(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(OKAPIFS);
        command.arg("--cluster").arg(self.root()).args(arguments);
        command.output().expect("the program can be run")
    }

    /// `okapifs status --json`.
    pub fn status(&self) -> Value {
        let output = self.okapifs(&["status", "--json"]);
        assert!(output.status.success(), "status: {}", text(&output));
        serde_json::from_slice(&output.stdout).expect("status prints JSON")
    }

    /// Everything that was written on the first mount is durable.
    pub fn sync(&self) {
        success(Command::new(OKAPIFS).arg("sync").arg(self.mnt()));
    }

    /// `okapifs check --data` finds nothing. Hardship is over then.
    pub fn assert_clean(&self) {
        self.relieve();
        let output = self.okapifs(&["check", "--data"]);
        assert!(output.status.success(), "check --data: {}", text(&output));
    }

    /// Process id of a server, as `status` tells it.
    pub fn server_pid(&self, name: &str) -> u32 {
        let status = self.status();
        let servers = status["servers"].as_array().expect("servers is a list");
        let server = servers.iter().find(|server| server["name"] == name);
        let pid = server.and_then(|server| server["pid"].as_u64());
        u32::try_from(pid.unwrap_or_else(|| panic!("no pid of {name} in {status}"))).expect("a pid")
    }

    /// Sends a server a signal.
    pub fn signal_server(&self, name: &str, signal: i32) {
        send(self.server_pid(name), signal);
    }

    /// Waits until `status` says that a server is (or is not) up.
    pub fn wait_server(&self, name: &str, up: bool) -> Value {
        wait_for(&format!("{name} up: {up}"), DETECTION, || {
            let status = self.status();
            let mut servers = status["servers"].as_array()?.iter();
            let server = servers.find(|server| server["name"] == name)?;
            ((server["state"] == "up") == up).then_some(status)
        })
    }

    /// All processes of the cluster, the agent first, also those that are not ready.
    pub fn pids(&self) -> Vec<u32> {
        pids_of(&self.root())
    }

    /// Process id of the agent.
    pub fn agent_pid(&self) -> u32 {
        let file = fs::read(self.root().join("run/agent.json")).expect("an agent runs");
        let running: Value = serde_json::from_slice(&file).expect("JSON");
        u32::try_from(running["pid"].as_u64().expect("a number")).expect("a pid")
    }

    /// A process that the agent runs, as `status` tells it: `name`, `state`, `start`, `pid`, `failures`, `trouble`.
    pub fn unit(&self, name: &str) -> Value {
        let status = self.status();
        let units = status["units"].as_array().expect("units is a list");
        let unit =
            units.iter().find(|unit| unit["name"].as_str().is_some_and(|is| is.starts_with(name)));
        unit.unwrap_or_else(|| panic!("no {name} in {status}")).clone()
    }

    /// Process id of what the agent runs under a name that begins so.
    pub fn unit_pid(&self, name: &str) -> u32 {
        u32::try_from(self.unit(name)["pid"].as_u64().expect("it runs")).expect("a pid")
    }

    /// Kills the process of a mount.
    pub fn kill_mount(&self, number: usize) {
        send(self.mount_pid(number), libc::SIGKILL);
    }

    /// Process id of a mount.
    pub fn mount_pid(&self, number: usize) -> u32 {
        let status = self.status();
        let mut units = status["units"].as_array().expect("units is a list").iter();
        let end = format!("mnt{number}");
        let unit =
            units.find(|unit| unit["name"].as_str().is_some_and(|name| name.ends_with(&end)));
        let pid = unit.and_then(|unit| unit["pid"].as_u64());
        u32::try_from(pid.expect("it is mounted")).expect("a pid")
    }

    /// Name of the monitor that leads.
    pub fn leader(&self) -> String {
        let status = self.status();
        let mut monitors = status["monitors"].as_array().expect("monitors is a list").iter();
        let leader = monitors.find(|monitor| monitor["role"] == "leader");
        leader.and_then(|leader| leader["name"].as_str()).expect("who answers leads").to_owned()
    }

    /// Waits until all is well: monitors vote and answer, servers are up but for one that is to be dead.
    pub fn wait_healthy(&self) {
        let lost = self.lost.lock().expect("no panic").clone();
        wait_for("all is well", Duration::from_secs(90), || {
            let status = status_of(&self.root())?;
            let all = |list: &str, key: &str, good: &[&str]| {
                let entries = status[list].as_array()?.iter();
                let mut entries = entries.filter(|entry| entry["name"].as_str() != lost.as_deref());
                let good = |entry: &Value| good.contains(&entry[key].as_str().unwrap_or("?"));
                entries.all(good).then_some(())
            };
            all("monitors", "role", &["leader", "follower"])?;
            all("monitors", "state", &["up"])?;
            all("servers", "state", &["up"])?;
            all("units", "state", &["up"])
        });
    }

    /// Pulls the plug.
    pub fn kill_everything(&self) {
        for pid in self.pids() {
            send(pid, libc::SIGKILL);
        }
        wait_for("all processes are dead", Duration::from_secs(20), || {
            self.pids().is_empty().then_some(())
        });
    }
}

impl Cluster {
    /// What the mounts have logged so far.
    pub fn mount_log(&self) -> String {
        let logs = fs::read_dir(self.root().join("logs")).expect("there are logs");
        let paths = logs.map(|entry| entry.expect("read").path());
        let of_mounts = paths.filter(|path| path.to_string_lossy().contains("/logs/mount-"));
        of_mounts.map(|path| fs::read_to_string(path).expect("read")).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Else it would wait for monitors that are ended here.
        if let Some(killer) = self.killer.get_mut().ok().and_then(Option::take) {
            killer.end();
        }
        if std::thread::panicking() {
            print_logs(&self.root());
        }
        let of_cluster = (0..self.mounts).map(|number| self.mount(number));
        for mountpoint in self.others.iter().cloned().chain(of_cluster) {
            let mount = Command::new("umount").arg("-l").arg(mountpoint).output();
            mount.expect("umount can be run");
        }
        for pid in self.pids() {
            send(pid, libc::SIGKILL);
        }
        // Not `wait_for`: a panic while another one unwinds would end the whole test program.
        while !self.pids().is_empty() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Puts what `write` writes in the place of the program that is installed in that directory.
fn install(dir: &Path, write: impl FnOnce(&Path) -> std::io::Result<()>) -> PathBuf {
    let (unfinished, program) = (dir.join("okapifs.new"), dir.join("okapifs"));
    let installed = write(&unfinished).and_then(|()| fs::rename(unfinished, &program));
    installed.expect("installed");
    program
}

/// The last lines of every log of a cluster's or node's directory, for whoever has to find out what went wrong.
pub fn print_logs(root: &Path) {
    let logs = fs::read_dir(root.join("logs")).into_iter().flatten().flatten();
    for log in logs {
        let text = fs::read_to_string(log.path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        eprintln!("--- {}", log.path().display());
        for line in &lines[lines.len().saturating_sub(20)..] {
            eprintln!("    {line}");
        }
    }
}

/// Skips the test where nothing can be mounted.
pub fn need_fuse() {
    if !Path::new("/dev/fuse").exists() {
        skip("there is no /dev/fuse");
    }
    // SAFETY: geteuid(2) cannot fail and touches no memory.
    if unsafe { libc::geteuid() } != 0 {
        skip("only root can mount");
    }
}

/// All processes of a cluster's or node's directory, the agent first, also those that are not ready.
pub fn pids_of(root: &Path) -> Vec<u32> {
    let entries = fs::read_dir(root.join("run")).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort_by_key(|path| !path.ends_with("agent.json"));
    let pids = paths.iter().filter_map(|path| {
        let text = fs::read_to_string(path).ok()?;
        let pid = match path.extension()?.to_str()? {
            "json" => serde_json::from_str::<Value>(&text).ok()?["pid"].as_u64()?,
            "birth" => text.trim().parse().ok()?,
            _ => return None,
        };
        u32::try_from(pid).ok().filter(|pid| is_okapifs(*pid))
    });
    pids.collect()
}

/// What `okapifs status --json` says, if anybody answers it.
pub fn status_of(root: &Path) -> Option<Value> {
    let mut command = Command::new(OKAPIFS);
    command.arg("--cluster").arg(root).args(["status", "--json"]);
    serde_json::from_slice(&command.output().expect("the program can be run").stdout).ok()
}

/// Runs a command that must succeed, and gives what it printed.
pub fn success(command: &mut Command) -> String {
    let output = command.output().expect("the program can be run");
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Everything that a command said.
pub fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// Sends a signal.
pub fn send(pid: u32, signal: i32) {
    let pid = i32::try_from(pid).expect("a pid");
    // SAFETY: kill(2) takes two numbers and touches no memory of ours.
    unsafe { libc::kill(pid, signal) };
}

/// Whether a living process is one of ours: a test never signals a stranger.
fn is_okapifs(pid: u32) -> bool {
    let program = fs::read_link(format!("/proc/{pid}/exe"));
    program.is_ok_and(|program| program.to_string_lossy().contains("okapifs"))
}
