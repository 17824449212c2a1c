//! A cluster of several machines is formed by one command each, and gets over the loss of one.
//!
//! The machines are directories here, with an agent each and addresses of their own of the loopback network.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests talk to people")]

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

use common::cluster::{OKAPIFS, pids_of, print_logs, send, success, text};
use common::runner::run;
use common::{stays, wait_for};
use serde_json::Value;
use tempfile::TempDir;

/// For what takes some seconds on a machine that has nothing else to do.
const SLOW: Duration = Duration::from_secs(90);

fn main() -> ExitCode {
    run(&[
        ("three_commands_make_a_cluster_that_survives_any_machine", three_commands_make_a_cluster),
        ("a_lost_monitor_is_replaced_by_one_spare", a_lost_monitor_is_replaced_by_one_spare),
        ("a_node_gets_a_monitor_later", a_node_gets_a_monitor_later),
    ])
}

/// Machines of one cluster, from number 1 on.
struct Machines {
    dir: TempDir,
    /// Their network, as no other test has it.
    network: String,
    /// For how long a monitor is missed before another takes its place, in seconds.
    replace_after_s: u32,
    agents: Vec<Option<Child>>,
}

impl Machines {
    /// None yet.
    fn new(test: u8, replace_after_s: u32) -> Self {
        let process = std::process::id();
        Self {
            dir: tempfile::Builder::new().prefix("okapifs-").tempdir().expect("a directory"),
            network: format!(
                "127.{}.{}",
                1 + process % 250,
                (process / 250) % 64 * 4 + u32::from(test)
            ),
            replace_after_s,
            agents: Vec::new(),
        }
    }

    fn home(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("host{number}"))
    }

    fn host(&self, number: usize) -> String {
        format!("{}.{number}", self.network)
    }

    /// `okapifs init` on machine 1. Gives the command that it says the next machine joins with.
    fn init(&mut self) -> Vec<String> {
        let mut command = Command::new(OKAPIFS);
        let said = success(command.arg("init").arg(self.home(1)).args(["--listen", &self.host(1)]));
        let next = format!("next: okapifs agent {}", self.home(1).display());
        assert!(said.lines().any(|line| line == next), "{said}");
        self.start(1);
        let mut words =
            said.split_whitespace().skip_while(|word| *word != "join").map(str::to_owned);
        vec![words.next(), words.next(), words.next()].into_iter().flatten().collect()
    }

    /// The join command with a new token.
    fn token(&self, more: &[&str]) -> Vec<String> {
        let root = self.home(1).display().to_string();
        let mut command = Command::new(OKAPIFS);
        command.args(["token", "new", "--role", "node", "--cluster", &root]).args(more);
        vec!["join".to_owned(), self.host(1), success(&mut command).trim().to_owned()]
    }

    /// The next machine joins by that command, and runs what it says. Gives what it said before.
    fn join(&mut self, command: &[String], more: &[&str]) -> String {
        let number = self.agents.len() + 1;
        let (home, host) = (self.home(number), self.host(number));
        let mut join = Command::new(OKAPIFS);
        join.args(command).arg("--dir").arg(&home).args(["--listen", &host]);
        let said = success(join.args(["--name", &format!("host{number}")]).args(more));
        let next = format!("next: okapifs agent {}", home.display());
        assert!(said.lines().any(|line| line == next), "{said}");
        self.start(number);
        said
    }

    /// Starts the agent of a machine.
    fn start(&mut self, number: usize) {
        let home = self.home(number);
        fs::create_dir_all(home.join("logs")).expect("made");
        let log = File::options().create(true).append(true).open(home.join("logs/agent.log"));
        let mut command = Command::new(OKAPIFS);
        command.arg("agent").arg(&home).stderr(log.expect("opened"));
        command.env("OKAPIFS_MONITOR_REPLACE_AFTER_S", self.replace_after_s.to_string());
        let agent = command.spawn().expect("the program can be run");
        self.agents.resize_with(self.agents.len().max(number), || None);
        self.agents[number - 1] = Some(agent);
    }

    /// Pulls the plug of a machine.
    fn kill(&mut self, number: usize) {
        let home = self.home(number);
        for pid in pids_of(&home) {
            send(pid, libc::SIGKILL);
        }
        if let Some(mut agent) = self.agents[number - 1].take() {
            agent.kill().expect("it runs or has ended");
            agent.wait().expect("it ends");
        }
        // What the agent has started meanwhile, too.
        while let Some(pid) = pids_of(&home).first() {
            send(*pid, libc::SIGKILL);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `okapifs status --json` on a machine.
    fn status(&self, number: usize) -> Option<Value> {
        let mut command = Command::new(OKAPIFS);
        command.args(["status", "--json", "--cluster"]).arg(self.home(number));
        serde_json::from_slice(&command.output().expect("the program can be run").stdout).ok()
    }

    /// Waits until exactly these monitors vote and answer, and so many servers are up, as a machine sees it.
    fn wait_for(&self, seen_by: usize, monitors: &[&str], servers: usize) {
        let what = format!("monitors {monitors:?} and {servers} servers, seen by {seen_by}");
        wait_for(&what, SLOW, || {
            let status = self.status(seen_by)?;
            let mut names: Vec<&str> = Vec::new();
            for monitor in status["monitors"].as_array()? {
                let votes = monitor["role"] == "leader" || monitor["role"] == "follower";
                if !votes || monitor["state"] != "up" {
                    return None;
                }
                names.push(monitor["name"].as_str()?);
            }
            names.sort_unstable();
            let up = status["servers"].as_array()?.iter().filter(|server| server["state"] == "up");
            (names == monitors && up.count() == servers).then_some(())
        });
    }

    /// Waits until the file of a server names the monitors of these machines.
    fn wait_until_known(&self, server: &str, monitors: &[usize]) {
        let file = self.dir.path().join(server).join("server.toml");
        wait_for("the addresses of the monitors are kept", SLOW, || {
            let is_known =
                |number: &usize| read(&file).contains(&format!("{}:7001", self.host(*number)));
            monitors.iter().all(is_known).then_some(())
        });
    }

    fn has_monitor(&self, number: usize) -> bool {
        self.home(number).join(format!("monitor-host{number}/monitor.toml")).exists()
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for number in 1..=self.agents.len() {
            if std::thread::panicking() {
                print_logs(&self.home(number));
            }
            self.kill(number);
        }
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("it is there")
}

fn three_commands_make_a_cluster() {
    let mut machines = Machines::new(0, 600);
    let command = machines.init();
    let said = machines.join(&command, &[]);
    assert!(said.contains(&format!("monitor  {}:7001", machines.host(2))), "{said}");
    let command = machines.token(&[]);
    machines.join(&command, &[]);
    machines.wait_for(2, &["monitor-1", "monitor-host2", "monitor-host3"], 3);
    let status = machines.status(1).expect("it answers");
    assert_eq!(status["health"], "ok", "{status}");
    // There are three now. The fourth says so, and has none.
    let command = machines.token(&[]);
    let said = machines.join(&command, &[]);
    assert!(said.contains("no monitor:") && !machines.has_monitor(4), "{said}");
    machines.wait_for(4, &["monitor-1", "monitor-host2", "monitor-host3"], 4);

    // Who joined through machine 1 finds the others without it.
    machines.wait_until_known("host4/server-host4", &[2, 3]);
    machines.kill(1);
    machines.kill(4);
    machines.start(4);
    wait_for("the rest goes on", SLOW, || {
        let status = machines.status(4)?;
        let up = status["servers"].as_array()?.iter().filter(|server| server["state"] == "up");
        let led = status["monitors"].as_array()?.iter().any(|one| one["role"] == "leader");
        (led && up.count() == 3).then_some(())
    });
    machines.start(1);
    machines.wait_for(1, &["monitor-1", "monitor-host2", "monitor-host3"], 4);
}

fn a_lost_monitor_is_replaced_by_one_spare() {
    let mut machines = Machines::new(1, 8);
    let command = machines.init();
    machines.join(&command, &[]);
    for more in [&[][..], &[], &[]] {
        let command = machines.token(&[]);
        machines.join(&command, more);
    }
    machines.wait_for(1, &["monitor-1", "monitor-host2", "monitor-host3"], 5);
    assert!(!machines.has_monitor(4) && !machines.has_monitor(5));
    machines.wait_until_known("host1/server-1", &[2, 3]);
    machines.kill(1);
    let replaced = wait_for("a spare takes its place", SLOW, || {
        (4..=5).find(|number| machines.has_monitor(*number))
    });
    let name = format!("monitor-host{replaced}");
    let monitors = ["monitor-host2", "monitor-host3", name.as_str()];
    machines.wait_for(2, &monitors, 4);
    // Longer than another one would take.
    let spare = 9 - replaced;
    stays("one is enough", Duration::from_secs(12), || !machines.has_monitor(spare));
    machines.wait_for(3, &monitors, 4);

    // The lost one comes back: its server is welcome, its monitor is told that it was replaced.
    machines.start(1);
    machines.wait_for(2, &monitors, 5);
    wait_for("its monitor knows", SLOW, || {
        let log = machines.home(1).join("logs/monitor-1.log");
        read(&log).contains("monitor-1 was removed from the cluster").then_some(())
    });
    let unit = || {
        let status = machines.status(1)?;
        status["units"].as_array()?.iter().find(|unit| unit["name"] == "monitor-1").cloned()
    };
    let removed =
        wait_for("its agent lets it be", SLOW, || unit().filter(|unit| unit["state"] == "removed"));
    assert!(removed["trouble"].to_string().contains("may be removed"), "{removed}");
}

fn a_node_gets_a_monitor_later() {
    let mut machines = Machines::new(2, 600);
    let command = machines.init();
    let said = machines.join(&command, &["--no-monitor"]);
    assert!(said.contains("no monitor:"), "{said}");
    let command = machines.token(&["--monitor", "never"]);
    machines.join(&command, &[]);
    machines.wait_for(1, &["monitor-1"], 3);
    for number in 2..=3 {
        let mut command = Command::new(OKAPIFS);
        let said = success(command.args(["monitor", "add"]).arg(machines.home(number)));
        assert!(said.contains("its agent starts it"), "{said}");
    }
    machines.wait_for(3, &["monitor-1", "monitor-host2", "monitor-host3"], 3);
    assert!(read(&machines.home(3).join("monitor-host3/monitor.toml")).contains(":7001"));

    // A client that may not administrate adds none.
    let command = machines.token(&["--admin=no"]);
    machines.join(&command, &[]);
    let mut command = Command::new(OKAPIFS);
    let output = command.args(["monitor", "add"]).arg(machines.home(4)).output();
    let output = output.expect("the program can be run");
    assert!(!output.status.success() && text(&output).contains("does not allow this"));
}
