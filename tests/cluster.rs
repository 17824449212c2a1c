//! Monitors that cannot be lost: whatever happens to processes and cables, programs on a mount go on.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests talk to people")]

mod common;

use std::fs;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use common::cluster::{Cluster, OKAPIFS, send, success};
use common::files::{Random, make_tree};
use common::load;
use common::runner::{long, run};
use common::wait_for;

/// What is promised of operations that wait for a new leader, on a machine with nothing else to do.
const PROMISED: Duration = Duration::from_secs(3);
/// What is asked of a busy one.
const FAILOVER: Duration = Duration::from_secs(6);
/// Rounds of the programs that are at work: about a second's, when nothing is wrong.
const A_WHILE: u64 = 100;

fn main() -> ExitCode {
    run(&[
        ("programs_go_on_while_leaders_are_killed", programs_go_on_while_leaders_are_killed),
        ("programs_go_on_while_leaders_hang", programs_go_on_while_leaders_hang),
        ("whatever_is_killed_comes_back", whatever_is_killed_comes_back),
        ("a_mount_goes_on_with_monitors_that_came_later", a_mount_goes_on_with_monitors),
    ])
}

fn programs_go_on_while_leaders_are_killed() {
    programs_go_on_while_leaders_end(libc::SIGKILL);
}

fn programs_go_on_while_leaders_hang() {
    programs_go_on_while_leaders_end(libc::SIGSTOP);
}

/// The leader ends again and again while programs run; its agent brings it back.
fn programs_go_on_while_leaders_end(signal: i32) {
    let cluster = Cluster::of_monitors(3);
    let source = cluster.scratch().join("source");
    make_tree(&source, if long() { 800 } else { 150 }, 4, 3);
    let (times, every) = if long() { (9, Duration::from_secs(20)) } else { (2, Duration::ZERO) };
    let load = load::start(&cluster.mnt(), "load", &source);
    for _ in 0..times {
        let next = Instant::now() + every;
        let leader = cluster.leader();
        send(cluster.unit_pid(&leader), signal);
        wait_for("another monitor leads", Duration::from_secs(10), || {
            (cluster.leader() != leader).then_some(())
        });
        // The next death is not to take the majority.
        cluster.wait_healthy();
        load.work_on(A_WHILE);
        while Instant::now() < next {
            load.work_on(A_WHILE);
        }
    }
    let waits = load.finish();
    println!("leaders ended by signal {signal}: {waits}");
    assert!(waits.longest() < if long() { PROMISED } else { FAILOVER }, "{waits}");
    cluster.sync();
    cluster.assert_clean();
}

/// Agents, monitors and servers are killed at random under load, each at most four times. (The mounts are
/// not: programs on them would see errors, as they would when their machine dies.)
fn whatever_is_killed_comes_back() {
    let cluster = Cluster::of_monitors(3);
    let source = cluster.scratch().join("source");
    make_tree(&source, 150, 4, 5);
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let names =
        ["agent", "monitor-1", "monitor-2", "monitor-3", "server-1", "server-2", "server-3"];
    let mut left = names.repeat(if long() { 4 } else { 1 });
    let pause = if long() { 2 * 600_000 / left.len() as u64 } else { 0 };
    let load = load::start(&cluster.mnt(), "load", &source);
    while !left.is_empty() {
        let at = usize::try_from(random.below(left.len() as u64)).expect("few");
        let victim = left.swap_remove(at);
        println!("killing {victim}");
        if victim == "agent" {
            cluster.kill_agent();
            // In production systemd does it.
            cluster.up();
        } else {
            send(cluster.unit_pid(victim), libc::SIGKILL);
        }
        let next = Instant::now() + Duration::from_millis(random.below(pause + 1));
        load.work_on(A_WHILE);
        while Instant::now() < next {
            load.work_on(A_WHILE);
        }
    }
    let waits = load.finish();
    println!("processes killed at random: {waits}");
    cluster.wait_healthy();
    cluster.sync();
    cluster.assert_clean();
}

/// It began when there was one, which is gone for good then.
fn a_mount_goes_on_with_monitors() {
    let cluster = Cluster::supervised(3, 2, 1);
    let root = cluster.root().display().to_string();
    let file = cluster.mnt().join("file");
    fs::write(&file, "with one").expect("written");
    success(Command::new(OKAPIFS).args(["up", &root, "--monitors", "3", "--detach"]));
    let roles = cluster.status()["monitors"].clone();
    let voters = roles.as_array().expect("a list").iter().filter(|one| one["role"] != "learner");
    assert_eq!(voters.count(), 3, "`up` returned too early: {roles}");
    let first = cluster.unit_pid("monitor-1");
    send(cluster.agent_pid(), libc::SIGKILL);
    send(first, libc::SIGKILL);
    let (sender, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(fs::write(&file, "with three")));
    let written = done.recv_timeout(Duration::from_secs(20));
    // Else nothing could be unmounted.
    cluster.up();
    written.expect("it went on without the first one").expect("written");
    cluster.wait_healthy();
    cluster.assert_clean();
}
