//! Rolling upgrades: nodes change from one release to the next while programs run, and back as long as that is possible;
//! mounts are taken over by the program as it is now.
//!
//! There is one release, so the older one is played by monitors that are held at its level: they do in every respect
//! what the others believe a monitor of that level to do, and count as one.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests talk to people")]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use common::cluster::{Cluster, OKAPIFS, send};
use common::files::make_tree;
use common::load;
use common::programs::{Rounds, Waits};
use common::runner::{long, run};
use common::wait_for;
use serde_json::Value;

/// The levels of the two releases.
const OLD: u64 = 1;
const NEW: u64 = 2;
/// What is promised of operations that wait for a new leader, on a machine with nothing else to do.
const PROMISED: Duration = Duration::from_secs(3);
/// What is asked of a busy one.
const FAILOVER: Duration = Duration::from_secs(6);
/// Rounds of the programs that are at work: about a second's, when nothing is wrong.
const A_WHILE: u64 = 100;
const MONITORS: [&str; 3] = ["monitor-3", "monitor-1", "monitor-2"];

fn main() -> ExitCode {
    run(&[
        ("monitors_are_upgraded_one_by_one", monitors_are_upgraded_one_by_one),
        ("mounts_are_upgraded_while_in_use", mounts_are_upgraded_while_in_use),
        ("a_mount_without_agent_is_upgraded", a_mount_without_agent_is_upgraded),
    ])
}

fn monitors_are_upgraded_one_by_one() {
    let mut cluster = Cluster::held_at(1, 3);
    let source = cluster.scratch().join("source");
    make_tree(&source, 60, 2, 7);
    assert_eq!(behind(&cluster), MONITORS.len());
    let load = load::start(&cluster.mnt(), "load", &source);

    cluster.install_release();
    restart(&cluster, "monitor-3");
    assert_eq!(behind(&cluster), 2);
    hold(&cluster, "monitor-3", true);
    restart(&cluster, "monitor-3");
    assert_eq!(behind(&cluster), 3, "it went back");
    hold(&cluster, "monitor-3", false);

    for (done, name) in MONITORS.into_iter().enumerate() {
        assert_eq!(behind(&cluster), MONITORS.len() - done);
        restart(&cluster, name);
        load.work_on(A_WHILE);
    }
    wait_for("the level has risen", Duration::from_secs(10), || {
        let status = cluster.status();
        (status["level"] == NEW && status["rise"].is_null()).then_some(())
    });
    // On connections of the new level.
    load.work_on(A_WHILE);
    let waits = load.finish();
    println!("monitors upgraded one by one: {waits}");
    assert!(waits.longest() < if long() { PROMISED } else { FAILOVER }, "{waits}");

    too_late_to_go_back(&cluster);
    cluster.sync();
    cluster.assert_clean();
}

/// How many monitors the level waits for; all is as before the upgrade as long as there are any.
fn behind(cluster: &Cluster) -> usize {
    let status = cluster.status();
    assert_eq!(status["level"], OLD, "{status}");
    assert_eq!(status["rise"]["to"], NEW, "{status}");
    let waits_for = status["rise"]["waits_for"].as_array().expect("a list");
    let mut names = waits_for.iter().filter_map(Value::as_str);
    assert!(names.all(|name| name.starts_with("monitor-")), "{status}");
    waits_for.len()
}

/// Ends a monitor in good order; its agent starts it again.
fn restart(cluster: &Cluster, name: &str) {
    let before = cluster.unit(name)["start"].as_u64();
    send(cluster.unit_pid(name), libc::SIGTERM);
    wait_for(&format!("{name} is started again"), Duration::from_secs(20), || {
        (cluster.unit(name)["start"].as_u64() > before).then_some(())
    });
    cluster.wait_healthy();
    // It answers before it has told whoever leads by now what it is.
    let pid = u64::from(cluster.unit_pid(name));
    wait_for(&format!("{name} is known anew"), Duration::from_secs(10), || {
        let status = cluster.status();
        let mut monitors = status["monitors"].as_array()?.iter();
        monitors.any(|monitor| monitor["name"] == name && monitor["pid"] == pid).then_some(())
    });
}

/// Says in a monitor's file that it is to stay at the old level, or no longer.
fn hold(cluster: &Cluster, name: &str, held: bool) {
    let path = cluster.root().join(name).join("monitor.toml");
    let text = fs::read_to_string(&path).expect("read");
    let key = format!("hold_level = {OLD}\n");
    let text = if held { format!("{text}{key}") } else { text.replace(&key, "") };
    fs::write(&path, text).expect("written");
}

fn too_late_to_go_back(cluster: &Cluster) {
    hold(cluster, "monitor-2", true);
    send(cluster.unit_pid("monitor-2"), libc::SIGTERM);
    wait_for("it is refused", Duration::from_secs(20), || {
        let unit = cluster.unit("monitor-2");
        unit["trouble"].as_str()?.contains("comes too late").then_some(())
    });
    hold(cluster, "monitor-2", false);
    cluster.up();
    cluster.wait_healthy();
}

fn mounts_are_upgraded_while_in_use() {
    let mut cluster = Cluster::installed(3, 2, 1);
    let mnt = cluster.mnt();
    let source = cluster.scratch().join("source");
    make_tree(&source, 60, 2, 7);
    let mut load = load::start(&mnt, "load", &source);
    load.start("seen", |home, rounds| is_always_seen(&home, rounds));
    let first = cluster.mount_pid(0);
    load.work_on(A_WHILE);
    give_way(&cluster);
    let second = cluster.mount_pid(0);
    let held = hold_open(&mnt);
    for _ in 0..if long() { 20 } else { 2 } {
        load.work_on(A_WHILE);
        give_way(&cluster);
    }
    let before = cluster.mount_pid(0);
    cluster.install_release();
    wait_for("an agent of a newer program upgrades it", SOON, || {
        (cluster.mount_pid(0) != before).then_some(())
    });
    load.work_on(A_WHILE);
    serves_to_its_end(&mnt, held, second);
    no_successor(&cluster);
    load.work_on(A_WHILE);
    assert!(is_alive(first), "the load has had files open all the time");
    println!("mounts upgraded one after another: {}", load.finish());
    ends(first);

    let held = hold_open(&mnt);
    let older = cluster.mount_pid(0);
    give_way(&cluster);
    send(older, libc::SIGKILL);
    wait_for("what was open on it is gone", SOON, || {
        let error = held.metadata().err()?;
        (error.raw_os_error() == Some(libc::ENOTCONN)).then_some(())
    });
    assert_eq!(fs::read_to_string(mnt.join("held")).expect("all else is there"), "");

    // One that is asked to end with the others, although something is open.
    let held = hold_open(&mnt);
    let older = cluster.mount_pid(0);
    give_way(&cluster);
    cluster.down();
    assert!(!is_alive(older) && held.metadata().is_err());
    drop(held);
    cluster.up();
    cluster.assert_clean();
}

fn a_mount_without_agent_is_upgraded() {
    let mut cluster = Cluster::new(3, 2, 1);
    let mnt = cluster.mount_root_with("noatime");
    let pid = || {
        let text = fs::read(cluster.root().join("run/mount-other1.json")).expect("read");
        let told: Value = serde_json::from_slice(&text).expect("a run file");
        u32::try_from(told["pid"].as_u64().expect("a number")).expect("a pid")
    };
    let held = hold_open(&mnt);
    let first = pid();
    send(first, libc::SIGUSR2);
    wait_for("another takes over", SOON, || (pid() != first).then_some(()));
    serves_to_its_end(&mnt, held, first);
    // It did not take the other's run file along, and the other is mounted with the same options.
    assert!(is_alive(pid()));
    let mounted = fs::read_to_string("/proc/self/mounts").expect("read");
    let lines = mounted.lines().filter(|line| line.contains(mnt.to_str().expect("text")));
    let lines: Vec<&str> = lines.collect();
    assert!(lines.len() == 1 && lines[0].contains("noatime"), "{lines:?}");
}

const SOON: Duration = Duration::from_secs(20);

/// Asks the mount to give way, and waits until another has its place.
fn give_way(cluster: &Cluster) {
    let before = cluster.mount_pid(0);
    send(before, libc::SIGUSR2);
    wait_for("another takes over", SOON, || (cluster.mount_pid(0) != before).then_some(()));
}

/// A file that is open and locked.
fn hold_open(mnt: &Path) -> File {
    let file = File::create(mnt.join("held")).expect("created");
    file.lock().expect("free");
    file
}

/// What was opened on a mount works until it is closed, beside the one that took over; then its daemon ends.
fn serves_to_its_end(mnt: &Path, mut held: File, daemon: u32) {
    let path = mnt.join("held");
    for line in ["a line\n", "and another\n"] {
        held.write_all(line.as_bytes()).expect("written");
        assert!(fs::read_to_string(&path).expect("read").ends_with(line));
    }
    let other = File::open(&path).expect("opened");
    assert!(other.try_lock().is_err(), "it is locked");
    assert!(is_alive(daemon));
    drop(held);
    wait_for("it is unlocked", SOON, || other.try_lock().ok());
    ends(daemon);
}

fn ends(daemon: u32) {
    wait_for("its daemon ends", SOON, || (!is_alive(daemon)).then_some(()));
}

/// What was installed does not work: the mount goes on, and later gives way to one that does.
fn no_successor(cluster: &Cluster) {
    let before = cluster.mount_pid(0);
    cluster.install(|path| {
        fs::write(path, "#!/bin/sh\nexit 1\n")?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
    });
    send(before, libc::SIGUSR2);
    wait_for("it says so", SOON, || cluster.mount_log().contains("nobody took over").then_some(()));
    assert_eq!(cluster.mount_pid(0), before);
    cluster.install(|path| fs::copy(OKAPIFS, path).map(drop));
}

fn is_alive(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

/// A file is there whenever somebody looks, whoever serves the mount.
fn is_always_seen(home: &Path, rounds: Rounds) -> Waits {
    let mut waits = Waits::default();
    let path = home.join("file");
    fs::write(&path, "seen").expect("written");
    for _ in rounds {
        for _ in 0..100 {
            let found = waits.measure("look", || fs::read(&path));
            assert_eq!(found.expect("it is there"), b"seen");
        }
    }
    waits
}
