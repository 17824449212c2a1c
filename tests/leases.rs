//! Two mounts of one tree: what was asked once is not asked again, and what one changes the other sees at once.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests talk to people")]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::cluster::{Cluster, send, success};
use common::files::{copy, make_tree};
use common::runner::{long, run};
use common::wait_for;

/// A change that waits for another client's kernel waits for its second at most; beyond this something hangs.
const HANGS: Duration = Duration::from_secs(10);
/// Length of a record that readers look at as a whole.
const RECORD: usize = 8192;

fn main() -> ExitCode {
    run(&[
        ("a_second_look_asks_nobody", a_second_look_asks_nobody),
        ("a_change_is_one_message", a_change_is_one_message),
        ("what_one_changes_the_other_sees_at_once", what_one_changes_the_other_sees_at_once),
        ("a_mapping_shows_what_was_written_elsewhere", a_mapping_shows_what_was_written_elsewhere),
        ("a_removed_file_lives_on_where_it_is_open", a_removed_file_lives_on_where_it_is_open),
        ("who_works_in_a_directory_still_knows_its_name", who_works_in_a_directory),
        ("tail_follows_the_other_mount", tail_follows_the_other_mount),
        ("two_mounts_work_in_one_directory", two_mounts_work_in_one_directory),
        ("nobody_reads_what_was_overwritten", nobody_reads_what_was_overwritten),
        ("leases_outlive_no_leader", leases_outlive_no_leader),
        (
            "a_mount_that_was_stopped_overwrites_nothing",
            a_mount_that_was_stopped_overwrites_nothing,
        ),
    ])
}

/// A cluster and its two mounts.
fn two_mounts() -> (Cluster, PathBuf, PathBuf) {
    let mut cluster = Cluster::new(3, 2, 1);
    let (one, two) = (cluster.mnt(), cluster.add_mount());
    (cluster, one, two)
}

/// Messages that a mount has sent to anybody, but for those by which its session lives.
fn messages(mount: &Path) -> u64 {
    let stats = xattr(mount, "user.okapifs.stats");
    let count = |name: &str| -> u64 {
        let line = stats.lines().find_map(|line| line.strip_prefix(name));
        line.expect("it is counted").trim().parse().expect("a number")
    };
    count("monitor_calls ") + count("server_calls ")
}

fn xattr(path: &Path, name: &str) -> String {
    success(
        Command::new("getfattr").args(["--only-values", "--absolute-names", "-n", name]).arg(path),
    )
}

fn shell(dir: &Path, line: &str) -> String {
    success(Command::new("sh").arg("-c").arg(line).current_dir(dir).stderr(Stdio::null()))
}

fn a_second_look_asks_nobody() {
    let (cluster, one, two) = two_mounts();
    let source = cluster.scratch().join("source");
    make_tree(&source, if long() { 5000 } else { 300 }, 1, 7);
    copy(&source, &one.join("tree"));
    shell(&one, "mkdir work && cp -r 'tree/dir 0' work && cd work && git init -q . && git add .");
    shell(&one, "cd work && git -c user.name=a -c user.email=a@localhost commit -qm all");
    cluster.sync();
    let looks = [
        "ls -lR .",
        // But for when they were read last: the next look reads them.
        "find . -type f -exec stat -c '%n %i %f %h %u %g %s %b %y %z %w' {} +",
        "grep -rc . . || true",
        "ls nothing || true",
        // Without the lock file that it otherwise makes and removes each time.
        "git -C work --no-optional-locks status --porcelain",
    ];
    for (number, mount) in [one, two].into_iter().enumerate() {
        let told: Vec<String> = looks.iter().map(|look| shell(&mount, look)).collect();
        // Until the pages are here that reading ahead has asked for, and the room is given back that the writer has reserved:
        // it does so when it has not written for a second or two.
        wait_for("it is quiet", HANGS, || {
            let (before, since) = (messages(&mount), Instant::now());
            while since.elapsed() < Duration::from_secs(3) {
                looks.iter().for_each(|look| drop(shell(&mount, look)));
            }
            (messages(&mount) == before).then_some(())
        });
        let before = messages(&mount);
        for _ in 0..3 {
            let again: Vec<String> = looks.iter().map(|look| shell(&mount, look)).collect();
            assert_eq!(told, again);
        }
        assert_eq!(messages(&mount) - before, 0, "messages of mount {number}");
    }
}

/// A program that makes, looks at, renames and removes files costs a message a change, and little else.
fn a_change_is_one_message() {
    let (_cluster, one, two) = two_mounts();
    let dir = one.join("d");
    fs::create_dir(&dir).expect("made");
    let count = 200;
    let name = |what: &str, number: u64| dir.join(format!("{what} {number}"));
    let before = messages(&one);
    for number in 0..count {
        drop(File::create_new(name("new", number)).expect("made"));
        assert_eq!(fs::metadata(name("new", number)).expect("there").len(), 0);
    }
    for number in 0..count {
        fs::rename(name("new", number), name("old", number)).expect("renamed");
        assert_eq!(
            fs::metadata(name("new", number)).expect_err("gone").kind(),
            ErrorKind::NotFound
        );
    }
    (0..count).for_each(|number| fs::remove_file(name("old", number)).expect("removed"));
    let (sent, changes) = (messages(&one) - before, 3 * count);
    println!("{sent} messages for {changes} changes");
    // Numbers of inodes, grants and pins go and come many at a time, but not how many at a time is certain.
    assert!(sent <= changes + changes / 4, "{sent} messages for {changes} changes");
    assert_eq!(fs::read_dir(two.join("d")).expect("there").count(), 0);
}

fn what_one_changes_the_other_sees_at_once() {
    let (_cluster, one, two) = two_mounts();
    for round in 0..20 {
        // Both have looked, and believe what they saw.
        let (here, there) = if round % 2 == 0 { (&one, &two) } else { (&two, &one) };
        let names = || {
            let entries = fs::read_dir(there).expect("listed").map(|entry| entry.expect("read"));
            let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
            names.sort();
            names
        };
        assert!(names().is_empty());
        assert_eq!(
            fs::metadata(there.join("f")).expect_err("not there").kind(),
            ErrorKind::NotFound
        );
        fs::write(here.join("f"), format!("round {round}")).expect("written");
        assert_eq!(fs::read_to_string(there.join("f")).expect("there"), format!("round {round}"));
        assert_eq!(names(), ["f"]);

        fs::set_permissions(here.join("f"), fs::Permissions::from_mode(0o600)).expect("changed");
        assert_eq!(fs::metadata(there.join("f")).expect("there").mode() & 0o777, 0o600);
        fs::hard_link(here.join("f"), here.join("g")).expect("linked");
        assert_eq!(fs::metadata(there.join("f")).expect("there").nlink(), 2);
        assert_eq!(names(), ["f", "g"]);
        fs::remove_file(here.join("g")).expect("removed");
        assert_eq!(fs::metadata(there.join("f")).expect("there").nlink(), 1);

        fs::create_dir(here.join("d")).expect("made");
        assert!(fs::read_dir(there.join("d")).expect("there").next().is_none());
        fs::rename(here.join("f"), here.join("d/h")).expect("renamed");
        assert_eq!(names(), ["d"]);
        assert_eq!(fs::metadata(there.join("f")).expect_err("moved").kind(), ErrorKind::NotFound);
        assert_eq!(
            fs::read(there.join("d/h")).expect("there").len(),
            format!("round {round}").len()
        );

        let file = OpenOptions::new().append(true).open(here.join("d/h")).expect("opened");
        for length in 1..5 {
            (&file).write_all(b"x").expect("appended");
            let size = fs::metadata(there.join("d/h")).expect("there").len();
            assert_eq!(size as usize, format!("round {round}").len() + length);
        }
        fs::remove_file(here.join("d/h")).expect("removed");
        fs::remove_dir(here.join("d")).expect("removed");
        assert!(names().is_empty());
    }
}

fn a_mapping_shows_what_was_written_elsewhere() {
    let (_cluster, one, two) = two_mounts();
    fs::write(one.join("f"), vec![0; RECORD]).expect("written");
    let file = File::open(two.join("f")).expect("opened");
    // SAFETY: a new mapping of an open file; it is read inside of its length only.
    let mapped = unsafe {
        let (read, shared) = (libc::PROT_READ, libc::MAP_SHARED);
        libc::mmap(ptr::null_mut(), RECORD, read, shared, file.as_raw_fd(), 0)
    };
    assert_ne!(mapped, libc::MAP_FAILED);
    let byte = |at: usize| {
        // SAFETY: `at` is inside of the mapping, which lives; others may change it, so it is read each time.
        unsafe { mapped.cast::<u8>().add(at).read_volatile() }
    };
    let write =
        |mount: &Path| OpenOptions::new().write(true).open(mount.join("f")).expect("opened");
    let (there, here) = (write(&one), write(&two));
    for round in 1..100_u8 {
        there.write_all_at(&[round; RECORD], 0).expect("written");
        assert_eq!((byte(0), byte(RECORD - 1)), (round, round));
        // What it shows then was read under an exclusive grant, by somebody who had no lease before.
        if round % 3 == 0 {
            there.write_all_at(&[0; RECORD], 0).expect("written");
            here.write_all_at(&[100 + round; RECORD], 0).expect("written");
            assert_eq!((byte(0), byte(RECORD - 1)), (100 + round, 100 + round));
        }
    }
    // SAFETY: nobody looks at it any more.
    unsafe { libc::munmap(mapped, RECORD) };
}

fn a_removed_file_lives_on_where_it_is_open() {
    let (_cluster, one, two) = two_mounts();
    fs::write(one.join("f"), b"old").expect("written");
    // Opened under a lease: nobody was told.
    let mut file = OpenOptions::new().read(true).write(true).open(two.join("f")).expect("opened");
    fs::write(one.join("f"), b"newer").expect("written");
    fs::remove_file(one.join("f")).expect("removed");
    let since = Instant::now();
    let mut text = String::new();
    file.read_to_string(&mut text).expect("read");
    assert_eq!(text, "newer", "what was written before it was removed");
    file.write_all(b" and more").expect("written");
    assert_eq!(file.metadata().expect("open").len(), 14);
    assert_eq!(file.metadata().expect("open").nlink(), 0);
    assert!(since.elapsed() < HANGS, "{:?}", since.elapsed());
}

/// getcwd(2) is answered by the kernel alone, from what it believes.
fn who_works_in_a_directory() {
    let (_cluster, one, two) = two_mounts();
    fs::create_dir(one.join("d")).expect("made");
    let mut program = Command::new("sh")
        .args(["-c", "while read line; do env pwd -P; done"])
        .current_dir(two.join("d"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh runs");
    let mut answers = BufReader::new(program.stdout.take().expect("a pipe")).lines();
    let mut stdin = program.stdin.take().expect("a pipe");
    for round in 0..20 {
        // It has looked the name up a moment ago, and something else in the same directory is changed.
        fs::metadata(two.join("d")).expect("there");
        fs::write(one.join(format!("beside {round}")), "new").expect("written");
        stdin.write_all(b"where?\n").expect("asked");
        let answer = answers.next().expect("an answer").expect("read");
        assert_eq!(Path::new(&answer), two.join("d"), "after round {round}");
    }
    drop(stdin);
    assert!(program.wait().expect("ended").success());
}

fn tail_follows_the_other_mount() {
    let (cluster, one, two) = two_mounts();
    let mut log = File::create(one.join("log")).expect("made");
    let seen = cluster.scratch().join("seen");
    let mut tail = Command::new("tail")
        .args(["-n", "+1", "-s", "0.1", "-f"])
        .arg(two.join("log"))
        .stdout(File::create(&seen).expect("made"))
        .spawn()
        .expect("tail runs");
    let mut said = String::new();
    for number in 0..20 {
        let line = format!("line {number}\n");
        log.write_all(line.as_bytes()).expect("written");
        said.push_str(&line);
        wait_for("tail says it", HANGS, || {
            (fs::read_to_string(&seen).expect("read") == said).then_some(())
        });
    }
    tail.kill().expect("killed");
    tail.wait().expect("ended");
}

fn two_mounts_work_in_one_directory() {
    let (_cluster, one, two) = two_mounts();
    fs::create_dir(one.join("d")).expect("made");
    let until = Instant::now() + Duration::from_secs(if long() { 600 } else { 8 });
    let work = |mount: &Path, own: &str| {
        let (mut slowest, mut rounds) = (Duration::ZERO, 0);
        while Instant::now() < until {
            let since = Instant::now();
            let (own, common) = (mount.join("d").join(own), mount.join("d/common"));
            fs::write(&own, b"own").expect("written");
            assert_eq!(fs::read(&own).expect("it is ours"), b"own");
            // The other does the same: either may be faster.
            drop(fs::write(&common, b"common"));
            drop(fs::rename(&common, mount.join("d/moved")));
            drop(fs::remove_file(mount.join("d/moved")));
            fs::remove_file(&own).expect("it is ours");
            assert!(!own.exists());
            slowest = slowest.max(since.elapsed());
            rounds += 1;
        }
        (slowest, rounds)
    };
    thread::scope(|scope| {
        let workers =
            [(&one, "a"), (&two, "b")].map(|(mount, own)| scope.spawn(|| work(mount, own)));
        for worker in workers {
            let (slowest, rounds) = worker.join().expect("no wrong answer");
            println!("    {rounds} rounds, the slowest took {slowest:?}");
            assert!(slowest < HANGS);
        }
    });
}

fn nobody_reads_what_was_overwritten() {
    let (_cluster, one, two) = two_mounts();
    fs::write(one.join("f"), vec![0; 2 * RECORD]).expect("written");
    let seconds = if long() { 600 } else { 10 };
    // The number of the last write of each writer that has returned.
    let written = [AtomicU64::new(0), AtomicU64::new(0)];
    let ended = AtomicBool::new(false);
    let write = |mount: &Path, which: usize| {
        let file = OpenOptions::new().write(true).open(mount.join("f")).expect("opened");
        let mut slowest = Duration::ZERO;
        for number in 1_u64.. {
            let since = Instant::now();
            let record = number.to_le_bytes().repeat(RECORD / 8);
            file.write_all_at(&record, (which * RECORD) as u64).expect("written");
            written[which].store(number, Ordering::SeqCst);
            slowest = slowest.max(since.elapsed());
            if ended.load(Ordering::SeqCst) {
                break;
            }
        }
        slowest
    };
    let read = |mount: &Path| {
        let file = File::open(mount.join("f")).expect("opened");
        let (mut slowest, mut record) = (Duration::ZERO, vec![0; RECORD]);
        for which in (0..2).cycle() {
            let at_least = written[which].load(Ordering::SeqCst);
            let since = Instant::now();
            file.read_exact_at(&mut record, (which * RECORD) as u64).expect("read");
            slowest = slowest.max(since.elapsed());
            for number in record.chunks_exact(8) {
                let number = u64::from_le_bytes(number.try_into().expect("eight"));
                assert!(number >= at_least, "{number} was read after {at_least} was written");
            }
            if ended.load(Ordering::SeqCst) {
                break;
            }
        }
        slowest
    };
    thread::scope(|scope| {
        let mut workers = Vec::new();
        for (which, mount) in [&one, &two].into_iter().enumerate() {
            workers.push((format!("writer {which}"), scope.spawn(move || write(mount, which))));
            let readers = (0..8).map(|_| scope.spawn(|| read(mount)));
            workers
                .extend(readers.map(|reader| (format!("a reader beside writer {which}"), reader)));
        }
        thread::sleep(Duration::from_secs(seconds));
        ended.store(true, Ordering::SeqCst);
        for (name, worker) in workers {
            let slowest = worker.join().expect("nothing old was read");
            assert!(slowest < HANGS, "a call of {name} took {slowest:?}");
        }
    });
    let counts = written.map(|count| count.load(Ordering::SeqCst));
    println!("    {counts:?} writes");
    assert!(counts.iter().all(|count| *count > 10), "somebody was starved");
}

fn leases_outlive_no_leader() {
    let mut cluster = Cluster::of_monitors(3);
    let (one, two) = (cluster.mnt(), cluster.add_mount());
    fs::write(one.join("f"), b"0").expect("written");
    let held = File::open(two.join("f")).expect("opened");
    for round in 1..4 {
        assert_eq!(fs::read_to_string(two.join("f")).expect("read"), (round - 1).to_string());
        let leader = cluster.leader();
        common::cluster::send(cluster.unit_pid(&leader), libc::SIGKILL);
        // What the other believes it heard from a leader that is dead.
        fs::write(one.join("f"), round.to_string()).expect("written");
        assert_eq!(fs::read_to_string(two.join("f")).expect("read"), round.to_string());
        cluster.wait_healthy();
    }
    fs::remove_file(one.join("f")).expect("removed");
    assert_eq!(fs::metadata(two.join("f")).expect_err("gone").kind(), ErrorKind::NotFound);
    let mut byte = [0];
    held.read_exact_at(&mut byte, 0).expect("it is open");
    assert_eq!(&byte, b"3");
}

/// A mount is stopped with data that is not committed, for so long that the monitors give it up. When it goes on it
/// writes what nobody has overtaken, and keeps the rest where people find it.
fn a_mount_that_was_stopped_overwrites_nothing() {
    let (cluster, one, two) = two_mounts();
    let open = |name: &str| {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(one.join(name));
        let file = file.expect("made");
        file.write_all_at(b"before", 0).and_then(|()| file.sync_all()).expect("written");
        file
    };
    let files = ["overtaken", "untouched"].map(open);
    let mount = cluster.mount_pid(0);
    // Without servers nothing can be committed.
    let servers = ["server-1", "server-2", "server-3"].map(|name| cluster.server_pid(name));
    servers.iter().for_each(|server| send(*server, libc::SIGSTOP));
    for file in &files {
        file.write_all_at(b"stopped", 0).expect("written");
    }
    send(mount, libc::SIGSTOP);
    servers.iter().for_each(|server| send(*server, libc::SIGCONT));
    let since = Instant::now();
    fs::write(two.join("overtaken"), "others").expect("written");
    println!("what a stopped mount held was had after {:?}", since.elapsed());
    assert!(since.elapsed() < Duration::from_secs(15) + HANGS, "{:?}", since.elapsed());
    send(mount, libc::SIGCONT);

    let [overtaken, untouched] = &files;
    let error = overtaken.sync_all().expect_err("others have changed it");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    overtaken.sync_all().expect("it is said once");
    untouched.sync_all().expect("nobody has changed it");
    for mount in [&one, &two] {
        let read = |name: &str| fs::read_to_string(mount.join(name)).expect("read");
        assert_eq!(read("overtaken"), "others");
        assert_eq!(read("untouched"), "stopped");
    }
    let ino = overtaken.metadata().expect("there").ino();
    let kept = format!("inode-{ino}-0");
    assert!(cluster.mount_log().contains(&kept), "the log says where it is kept");
    let kept = fs::read(cluster.root().join("run/parked").join(kept)).expect("it is kept");
    assert_eq!(kept, b"stopped");
    cluster.assert_clean();
}
