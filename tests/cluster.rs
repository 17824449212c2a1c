//! Monitors that cannot be lost: whatever happens to processes and cables, programs on a mount go on.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests talk to people")]

mod common;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
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
        ("monitors_whose_disks_are_full_end_nobody", monitors_whose_disks_are_full_end_nobody),
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
        // Started again at once, the same monitor may win the next election.
        let leader = || cluster.unit_pid(&cluster.leader());
        let ended = leader();
        send(ended, signal);
        wait_for("another process leads", Duration::from_secs(10), || {
            (leader() != ended).then_some(())
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

/// Two of three monitors have small disks, which fill up.
fn monitors_whose_disks_are_full_end_nobody() {
    let cluster = Cluster::of_monitors(3);
    cluster.down();
    let disks = ["monitor-2", "monitor-3"].map(|name| SmallDisk::under(&cluster.root().join(name)));
    cluster.up();
    cluster.wait_healthy();
    let starts = |cluster: &Cluster| {
        ["monitor-1", "monitor-2", "monitor-3"].map(|name| cluster.unit(name)["start"].clone())
    };
    let (mnt, before) = (cluster.mnt(), starts(&cluster));
    fs::write(mnt.join("old"), "old").expect("there is room");
    let reasons = |cluster: &Cluster| cluster.status()["reasons"].to_string();

    disks[0].leave(10 << 20);
    wait_for("one is named", TO_NOTICE, || {
        reasons(&cluster).contains("monitor-2 has nearly no room").then_some(())
    });
    fs::write(mnt.join("more"), "more").expect("a majority has room");
    disks[1].leave(10 << 20);
    wait_for("no majority has room", TO_NOTICE, || {
        let why = reasons(&cluster);
        let all = ["no majority", "monitor-2 has nearly no room", "monitor-3 has nearly no room"];
        all.iter().all(|text| why.contains(text)).then_some(())
    });
    let refused = fs::write(mnt.join("new"), "new").expect_err("it grows");
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    fs::remove_file(mnt.join("old")).expect("deleting works");
    disks.iter().for_each(SmallDisk::clear);
    wait_for("there is room again", TO_NOTICE, || fs::write(mnt.join("new"), "new").ok());

    disks.iter().for_each(|disk| disk.leave(0));
    // One of them may have led, and then nobody does until there is room: each speaks for itself.
    wait_for("both are full", 2 * TO_NOTICE, || {
        let status = common::cluster::text(&cluster.okapifs(&["status"]));
        (status.matches("is full, and it takes nothing more").count() == 2).then_some(())
    });
    let waiting = std::thread::spawn({
        let file = mnt.join("new");
        move || fs::remove_file(file)
    });
    std::thread::sleep(Duration::from_secs(2));
    assert!(!waiting.is_finished(), "no majority can take it");
    disks.iter().for_each(SmallDisk::clear);
    waiting.join().expect("no panic").expect("it was done");
    cluster.wait_healthy();
    assert_eq!(starts(&cluster), before, "nobody ended");
    cluster.assert_clean();
    cluster.down();
}

/// How long a leader may take to hear how much room the others have.
const TO_NOTICE: Duration = Duration::from_secs(10);

/// A small filesystem of its own in the place of a directory; gone with this value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn under(dir: &Path) -> Self {
        let before = dir.with_extension("before");
        fs::rename(dir, &before).expect("renamed");
        fs::create_dir(dir).expect("made");
        success(Command::new("mount").args(["-t", "tmpfs", "-o", "size=128m", "tmpfs"]).arg(dir));
        success(Command::new("cp").arg("-a").arg(before.join(".")).arg(dir));
        fs::remove_dir_all(before).expect("removed");
        Self(dir.to_owned())
    }

    /// Fills all but so many bytes.
    fn leave(&self, bytes: u64) {
        self.clear();
        let free = success(Command::new("stat").args(["-f", "-c", "%a %S"]).arg(&self.0));
        let mut numbers =
            free.split_whitespace().map(|text| text.parse::<u64>().expect("a number"));
        let free = numbers.next().zip(numbers.next()).map(|(blocks, size)| blocks * size);
        let length = free.expect("two numbers").saturating_sub(bytes).to_string();
        success(Command::new("fallocate").args(["-l", &length]).arg(self.0.join("ballast")));
    }

    fn clear(&self) {
        drop(fs::remove_file(self.0.join("ballast")));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}
