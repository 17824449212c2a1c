//! Programs as everybody has them, on two mounts of one tree at once: logs that both append to, databases, repositories,
//! builds, copies. What one of them says on one mount is looked at on the other.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests talk to people")]

#[path = "../common/mod.rs"]
mod common;

mod appends;
mod builds;
mod copies;
mod databases;
mod repositories;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use common::cluster::{Cluster, text};
use common::runner::{long, run};

/// What programs do in places that are one on both mounts.
type Work = fn(&Places);

fn main() -> ExitCode {
    run(&[
        ("appends_of_both_are_lost_and_torn_nowhere", || on_two_mounts(appends::of_both)),
        ("sqlite3_writes_from_both", || on_two_mounts(databases::from_both)),
        ("sqlite3_has_a_wal_on_one", || on_two_mounts(databases::with_a_wal)),
        ("git_works_on_both", || on_two_mounts(repositories::on_both)),
        ("make_builds_on_both", || on_two_mounts(builds::on_both)),
        ("rsync_copies_on_both", || on_two_mounts(copies::on_both)),
        ("programs_go_on_in_hardship", programs_go_on_in_hardship),
    ])
}

/// Where a program works: one directory as both mounts show it, and one that is on neither.
pub(crate) struct Places {
    one: PathBuf,
    two: PathBuf,
    beside: PathBuf,
}

impl Places {
    /// A new directory, on all three.
    fn new(cluster: &Cluster, name: &str) -> Self {
        let places = Self {
            one: cluster.mount(0).join(name),
            two: cluster.mount(1).join(name),
            beside: cluster.scratch().join(name),
        };
        fs::create_dir(&places.one).expect("made");
        fs::create_dir(&places.beside).expect("made");
        places
    }

    /// The directory on both mounts.
    fn both(&self) -> [&Path; 2] {
        [&self.one, &self.two]
    }

    /// The same work on both mounts at once: what it is given are the directory and 0 or 1.
    fn at_once(&self, work: impl Fn(&Path, usize) + Sync) {
        thread::scope(|scope| {
            for (number, dir) in self.both().into_iter().enumerate() {
                let work = &work;
                scope.spawn(move || work(dir, number));
            }
        });
    }
}

fn on_two_mounts(work: fn(&Places)) {
    let mut cluster = Cluster::new(3, 2, 1);
    cluster.add_mount();
    work(&Places::new(&cluster, "work"));
    cluster.sync();
    cluster.assert_clean();
}

/// One of three servers is dead, leaders are killed, and all programs work at once; several times in a long test.
fn programs_go_on_in_hardship() {
    let works: [(&str, Work); 5] = [
        ("appends", appends::of_both),
        ("databases", databases::from_both),
        ("repositories", repositories::on_both),
        ("builds", builds::on_both),
        ("copies", copies::on_both),
    ];
    let mut cluster = Cluster::of_monitors(3);
    cluster.add_mount();
    cluster.lose_server("server-3");
    cluster.kill_leaders(Duration::from_secs(3), 11);
    for round in 0..if long() { 5 } else { 1 } {
        thread::scope(|scope| {
            for (name, work) in works {
                let places = Places::new(&cluster, &format!("{name} {round}"));
                scope.spawn(move || work(&places));
            }
        });
    }
    println!("{} leaders were killed", cluster.relieve());
    cluster.sync();
    cluster.assert_clean();
}

/// Runs a line of sh(1) in a directory. What it prints on standard output; it must succeed.
fn shell(dir: &Path, line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).current_dir(dir).output().expect("run");
    assert!(output.status.success(), "{line:?} in {}: {}", dir.display(), text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
