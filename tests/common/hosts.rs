//! A cluster on hosts of its own: monitors and servers on hosts 1 to 3, a fourth server, and a host that only mounts.
//!
//! ```text
//!   host 1      host 2      host 3      host 4     host 5
//!   monitor-1   monitor-2   monitor-3
//!   server-1    server-2    server-3    server-4   mount
//! ```
//!
//! The directories are made by the commands that people use, and each process is started on its host as its agent
//! would start it. Nobody starts anything a second time: what a cut network breaks has to heal by itself.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::cluster::{OKAPIFS, need_fuse, success, text};
use super::net::Net;
use super::{wait_for, wait_until};

/// How many hosts there are.
const HOSTS: usize = 5;
/// How many of them have a monitor: the first ones.
pub const MONITORS: usize = 3;
/// How many of them have a server: the first ones.
const SERVERS: usize = 4;
/// The host that mounts.
pub const CLIENT: usize = 5;
/// How long a process may take until it is ready, and a healed network until all is well.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module. All of it ends with this value, also when a test panics.
pub struct Hosts {
    processes: Vec<(String, Child)>,
    mounts: Vec<PathBuf>,
    dir: TempDir,
    /// The cables.
    pub net: Net,
}

impl Hosts {
    /// A cluster that works, mounted on [`CLIENT`].
    pub fn start() -> Self {
        need_fuse();
        let net = Net::new(HOSTS);
        let dir =
            tempfile::Builder::new().prefix("okapifs-").tempdir().expect("temporary directory");
        let mut hosts = Self { processes: Vec::new(), mounts: Vec::new(), dir, net };
        hosts.make_directories();
        for host in 1..=MONITORS {
            if host > 1 {
                hosts.add_monitor(host);
            }
            hosts.run(host, &format!("monitor-{host}"), &["monitor", "run"]);
        }
        for host in 1..=SERVERS {
            let name = format!("server-{host}");
            hosts.run(host, &name, &["server", "run"]);
        }
        hosts.wait_healthy();
        hosts.mount(CLIENT);
        hosts
    }

    /// Mounts the cluster on a host, whatever else that one does.
    pub fn mount(&mut self, host: usize) -> PathBuf {
        let mountpoint = self.dir.path().join(format!("mnt{host}"));
        fs::create_dir(&mountpoint).expect("made");
        self.mounts.push(mountpoint.clone());
        let config = self.root().join("client");
        let options = format!("config={},run_dir={}", config.display(), self.dir.path().display());
        let source = format!("{}:/", self.monitors().join(","));
        let at = mountpoint.to_str().expect("an ordinary path");
        let words = ["mount", "--foreground", "-o", &options, &source, at];
        self.spawn(host, &format!("mount-{host}"), &words);
        mountpoint
    }

    /// Where the cluster is mounted on [`CLIENT`].
    pub fn mnt(&self) -> PathBuf {
        self.dir.path().join(format!("mnt{CLIENT}"))
    }

    /// Where mounts keep what has no place in its file any more.
    pub fn parked(&self) -> PathBuf {
        self.dir.path().join("parked")
    }

    /// The host whose monitor leads.
    pub fn leader(&self) -> usize {
        let status = self.status().expect("somebody leads");
        let mut monitors = status["monitors"].as_array().expect("it is a list").iter();
        let leader = monitors.find(|monitor| monitor["role"] == "leader").expect("who answers");
        let number = leader["name"].as_str().and_then(|name| name.strip_prefix("monitor-"));
        number.and_then(|number| number.parse().ok()).expect("names have numbers")
    }

    /// Waits until all is well, and gives how long that took.
    pub fn wait_healthy(&self) -> Duration {
        let since = Instant::now();
        wait_until("all is well", PATIENCE, || match self.status() {
            Some(status) if is_healthy(&status) => Ok(since.elapsed()),
            status => Err(status.unwrap_or_default()),
        })
    }

    /// All that was written is durable and nothing is wrong with any block.
    pub fn assert_clean(&self) {
        for mountpoint in &self.mounts {
            success(Command::new(OKAPIFS).arg("sync").arg(mountpoint));
        }
        let output = self.okapifs(&["check", "--data"]);
        assert!(output.status.success(), "check --data: {}", text(&output));
    }

    /// `okapifs status --json`, asked on [`CLIENT`].
    fn status(&self) -> Option<Value> {
        let output = self.okapifs(&["status", "--json"]);
        serde_json::from_slice(&output.stdout).ok()
    }

    fn okapifs(&self, arguments: &[&str]) -> Output {
        let mut command = self.net.command(CLIENT, OKAPIFS);
        command.arg("--cluster").arg(self.root()).args(arguments);
        command.output().expect("the program can be run")
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("cluster")
    }

    fn monitors(&self) -> Vec<String> {
        (1..=MONITORS).map(|host| format!("{}:7001", self.net.ip(host))).collect()
    }

    /// As if one machine had all servers; then each is told of its own host.
    fn make_directories(&self) {
        let (monitors, servers) = (self.monitors(), SERVERS.to_string());
        let mut init = Command::new(OKAPIFS);
        init.args(["init", "--no-start", "--listen", &monitors[0], "--servers", &servers]);
        success(init.arg(self.root()));
        for host in 1..=SERVERS {
            let file = self.root().join(format!("server-{host}/server.toml"));
            set(&file, "listen", &format!("\"{}:7002\"", self.net.ip(host)));
            set(&file, "domain", &format!("\"host-{host}\""));
            set(&file, "monitors", &format!("{monitors:?}"));
        }
        set(&self.root().join("client/okapifs.toml"), "monitors", &format!("{monitors:?}"));
    }

    /// Asks the monitors that run for one more.
    fn add_monitor(&self, host: usize) {
        let root = self.root();
        let root = root.to_str().expect("an ordinary path");
        let output =
            self.okapifs(&["monitor", "add", "--listen", &self.monitors()[host - 1], root]);
        assert!(output.status.success(), "monitor add: {}", text(&output));
    }

    /// Starts what a directory has on its host.
    fn run(&mut self, host: usize, name: &str, command: &[&str]) {
        let home = self.root().join(name);
        let home = home.to_str().expect("an ordinary path");
        self.spawn(host, name, &[command, &[home]].concat());
    }

    /// Starts a process and waits until it is ready.
    fn spawn(&mut self, host: usize, name: &str, words: &[&str]) {
        let run_file = self.dir.path().join(format!("{name}.json"));
        let log = File::create(self.log(name)).expect("made");
        let mut command = self.net.command(host, OKAPIFS);
        command.args(words).arg("--ready").arg(&run_file).env("OKAPIFS_LOG", "info");
        command.stdout(log.try_clone().expect("cloned")).stderr(log);
        // SAFETY: prctl(2) may be called between fork and exec, and touches no memory.
        unsafe {
            command.pre_exec(|| {
                // It ends with the test, however that ends.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let child = command.spawn().expect("the program can be run");
        self.processes.push((name.to_owned(), child));
        wait_for(&format!("{name} is ready"), PATIENCE, || run_file.exists().then_some(()));
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.log"))
    }

    /// The last lines of every log, for whoever has to find out what went wrong.
    fn print_logs(&self) {
        for (name, _) in &self.processes {
            let text = fs::read_to_string(self.log(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- {name}");
            for line in &lines[lines.len().saturating_sub(30)..] {
                eprintln!("    {line}");
            }
        }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        for mountpoint in &self.mounts {
            Command::new("umount").arg("-l").arg(mountpoint).output().expect("umount can be run");
        }
        for (_, process) in &mut self.processes {
            // One that has ended already is what it should be.
            drop(process.kill());
            drop(process.wait());
        }
    }
}

fn is_healthy(status: &Value) -> bool {
    let all = |list: &str, count: usize, key: &str, good: &[&str]| {
        let entries = status[list].as_array().expect("it is a list");
        let good = |entry: &Value| good.contains(&entry[key].as_str().unwrap_or("?"));
        entries.len() == count && entries.iter().all(good)
    };
    all("monitors", MONITORS, "role", &["leader", "follower"])
        && all("monitors", MONITORS, "state", &["up"])
        && all("servers", SERVERS, "state", &["up"])
}

/// Gives a key of a configuration file another value.
fn set(file: &Path, key: &str, value: &str) {
    let text = fs::read_to_string(file).expect("read");
    let is_key = |line: &str| line.split('=').next().is_some_and(|name| name.trim() == key);
    assert!(text.lines().any(is_key), "no {key} in {text}");
    let changed = |line: &str| match is_key(line) {
        true => format!("{key} = {value}\n"),
        false => format!("{line}\n"),
    };
    fs::write(file, text.lines().map(changed).collect::<String>()).expect("written");
}
