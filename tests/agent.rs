//! What dies or hangs comes back by itself, once.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests talk to people")]

mod common;

use std::fs;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use common::cluster::{Cluster, OKAPIFS, send, success, text};
use common::runner::run;
use common::{stays, wait_for};
use serde_json::Value;

/// For what the promise says 2 s; a loaded machine gets some slack.
const SOON: Duration = Duration::from_secs(4);
/// Longer than a hung process is given, and its restart.
const HUNG: Duration = Duration::from_secs(40);

fn main() -> ExitCode {
    run(&[
        ("a_killed_server_serves_again_within_two_seconds", a_killed_server_serves_again),
        ("a_server_that_hangs_is_replaced", a_server_that_hangs_is_replaced),
        ("a_killed_monitor_is_back_and_the_mount_goes_on", a_killed_monitor_is_back),
        ("a_mount_that_hangs_or_dies_is_mounted_again", a_mount_that_hangs_or_dies),
        ("an_agent_adopts_what_its_predecessor_left", an_agent_adopts),
        ("what_fails_again_and_again_is_tried_slowly_and_reported", what_fails_is_reported),
        ("one_agent_a_directory_and_nothing_after_down", one_agent_a_directory),
        ("in_the_foreground_it_ends_with_its_command", in_the_foreground),
    ])
}

/// Waits until a unit works under that start.
fn wait_start(cluster: &Cluster, name: &str, start: u64, at_most: Duration) -> Value {
    wait_for(&format!("{name} works as start {start}"), at_most, || {
        // The monitor itself may be what is away.
        let output = cluster.okapifs(&["status", "--json"]);
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        let mut units = status["units"].as_array()?.iter();
        let unit =
            units.find(|unit| unit["name"].as_str().is_some_and(|is| is.starts_with(name)))?;
        (unit["state"] == "up" && unit["start"] == start).then(|| unit.clone())
    })
}

fn a_killed_server_serves_again() {
    let cluster = Cluster::supervised(3, 2, 1);
    let content = vec![7; 3 << 20];
    fs::write(cluster.mnt().join("file"), &content).expect("written");
    cluster.sync();
    let since = Instant::now();
    cluster.signal_server("server-2", libc::SIGKILL);
    wait_start(&cluster, "server-2", 2, SOON);
    cluster.wait_server("server-2", true);
    println!("serving again after {:?}", since.elapsed());
    assert!(since.elapsed() < SOON, "after {:?}", since.elapsed());
    assert!(fs::read(cluster.mnt().join("file")).expect("read") == content);
    assert_eq!(cluster.unit("server-1")["start"], 1, "only what died was started");
    cluster.assert_clean();
}

fn a_server_that_hangs_is_replaced() {
    let cluster = Cluster::supervised(3, 2, 1);
    let hung = cluster.server_pid("server-2");
    send(hung, libc::SIGSTOP);
    wait_start(&cluster, "server-2", 2, HUNG);
    assert_ne!(cluster.server_pid("server-2"), hung);
    assert!(cluster.unit("server-2")["failures"] == 1, "{}", cluster.unit("server-2"));
    cluster.assert_clean();
}

fn a_killed_monitor_is_back() {
    let cluster = Cluster::supervised(3, 2, 1);
    let file = cluster.mnt().join("file");
    fs::write(&file, "before").expect("written");
    cluster.sync();
    for start in 2..4 {
        let since = Instant::now();
        send(cluster.unit_pid("monitor-1"), libc::SIGKILL);
        // No error: it waits, and goes on.
        let name = format!("after start {start}");
        fs::write(cluster.mnt().join(&name), &name).expect("written when the monitor is back");
        println!("a write took {:?} when the monitor was killed", since.elapsed());
        wait_start(&cluster, "monitor-1", start, SOON);
        assert_eq!(fs::read_to_string(cluster.mnt().join(&name)).expect("read"), name);
    }
    assert_eq!(fs::read_to_string(&file).expect("read"), "before");
    assert_eq!(cluster.unit("server-1")["start"], 1, "only what died was started");
    cluster.sync();
    cluster.assert_clean();
}

fn a_mount_that_hangs_or_dies() {
    let cluster = Cluster::supervised(3, 2, 1);
    let file = cluster.mnt().join("file");
    fs::write(&file, "content").expect("written");
    cluster.sync();
    // What the kernel remembers of the dead one's root is no sign of life.
    assert!(cluster.mnt().is_dir());
    send(cluster.unit_pid("mount-"), libc::SIGKILL);
    wait_start(&cluster, "mount-", 2, SOON);
    assert_eq!(fs::read_to_string(&file).expect("read"), "content");

    send(cluster.unit_pid("mount-"), libc::SIGSTOP);
    wait_start(&cluster, "mount-", 3, HUNG);
    assert_eq!(fs::read_to_string(&file).expect("read"), "content");

    // What somebody has unmounted stays so until it is asked for.
    success(Command::new("umount").arg(cluster.mnt()));
    wait_for("the mount has ended", SOON, || {
        (cluster.unit("mount-")["state"] == "ended").then_some(())
    });
    cluster.up();
    assert_eq!(fs::read_to_string(&file).expect("read"), "content");
    let mounts = fs::read_to_string("/proc/mounts").expect("read");
    let here = cluster.mnt().display().to_string();
    assert_eq!(mounts.lines().filter(|line| line.contains(&here)).count(), 1, "{mounts}");
    cluster.assert_clean();
}

fn an_agent_adopts() {
    let cluster = Cluster::supervised(3, 2, 1);
    let units = ["monitor-1", "server-1", "server-2", "server-3", "mount-"];
    let before = units.map(|name| cluster.unit_pid(name));
    let agent = cluster.agent_pid();
    send(agent, libc::SIGKILL);
    fs::write(cluster.mnt().join("file"), "without an agent").expect("all others go on");
    // One that dies meanwhile is found dead.
    send(before[2], libc::SIGKILL);
    cluster.up();
    assert_ne!(cluster.agent_pid(), agent);
    for (name, pid) in units.iter().zip(before).filter(|(_, pid)| *pid != before[2]) {
        let unit = cluster.unit(name);
        assert_eq!(unit["pid"].as_u64(), Some(u64::from(pid)), "{name} was not adopted: {unit}");
        assert_eq!(unit["start"], 1, "{name} was started a second time");
    }
    wait_start(&cluster, "server-2", 2, SOON);
    // Those that it has not started itself it restarts as well.
    send(before[1], libc::SIGKILL);
    wait_start(&cluster, "server-1", 2, SOON);
    assert_eq!(cluster.pids().len(), 2 * (units.len() + 1), "each has a run and a birth file");
    cluster.assert_clean();
}

fn what_fails_is_reported() {
    let cluster = Cluster::supervised(3, 2, 1);
    let file = cluster.root().join("server-2/server.toml");
    let right = fs::read_to_string(&file).expect("read");
    fs::write(&file, "what = \"is this?\"\n").expect("written");
    cluster.signal_server("server-2", libc::SIGKILL);
    let unit = wait_for("it failed five times", Duration::from_secs(40), || {
        let unit = cluster.unit("server-2");
        (unit["failures"].as_u64() >= Some(5)).then_some(unit)
    });
    assert_eq!(unit["state"], "due", "it is tried slowly: {unit}");
    let trouble = unit["trouble"].as_str().expect("a text");
    assert!(trouble.contains("server.toml, line 1: unknown field `what`"), "{trouble}");
    let log = fs::read_to_string(cluster.root().join("logs/agent.log")).expect("read");
    assert_eq!(log.matches("server-2 fails again and again").count(), 1, "{log}");
    assert_eq!(cluster.unit("server-1")["start"], 1);

    let output = Command::new(OKAPIFS).arg("up").arg(cluster.root()).arg("--detach").output();
    let output = output.expect("the program can be run");
    assert!(!output.status.success() && text(&output).contains("line 1"), "{}", text(&output));
    fs::write(&file, right).expect("written");
    cluster.up();
    cluster.wait_server("server-2", true);
    assert_eq!(cluster.unit("server-2")["failures"], 0);
}

fn one_agent_a_directory() {
    let cluster = Cluster::supervised(3, 2, 1);
    let output = Command::new(OKAPIFS).arg("agent").arg(cluster.root()).output();
    let said = text(&output.expect("the program can be run"));
    assert!(said.contains(&format!("is in use by process {}", cluster.agent_pid())), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");

    cluster.down();
    stays("nothing is started again", Duration::from_millis(500), || cluster.pids().is_empty());
    cluster.up();
    assert_eq!(cluster.unit("monitor-1")["start"], 2, "starts are counted on");
    cluster.assert_clean();
}

fn in_the_foreground() {
    let cluster = Cluster::supervised(3, 2, 1);
    fs::write(cluster.mnt().join("file"), "content").expect("written");
    cluster.down();
    let mut command = Command::new(OKAPIFS);
    command.arg("up").arg(cluster.root()).stdout(Stdio::null()).stderr(Stdio::piped());
    let up = command.spawn().expect("the program can be run");
    wait_start(&cluster, "mount-", 2, Duration::from_secs(30));
    assert_eq!(cluster.agent_pid(), up.id());
    cluster.signal_server("server-2", libc::SIGKILL);
    wait_start(&cluster, "server-2", 3, SOON);
    send(up.id(), libc::SIGINT);
    let output = up.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("server-2: it died"), "it says so: {}", text(&output));
    assert!(cluster.pids().is_empty(), "{:?}", cluster.pids());
    cluster.up();
    assert_eq!(fs::read_to_string(cluster.mnt().join("file")).expect("read"), "content");
}
