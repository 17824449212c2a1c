//! Rolling upgrades: nodes change from one release to the next while programs run, and back as long as that is possible.
//!
//! There is one release, so the older one is played by monitors that are held at its level: they do in every respect
//! what the others believe a monitor of that level to do, and count as one.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests talk to people")]

mod common;

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use common::cluster::{Cluster, send};
use common::files::make_tree;
use common::load;
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
    run(&[("monitors_are_upgraded_one_by_one", monitors_are_upgraded_one_by_one)])
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
