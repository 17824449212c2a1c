//! What programs get that lock files: flock(2) and fcntl(2) on two mounts of one cluster.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests talk to people")]

mod common;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::cluster::{Cluster, send};
use common::runner::{long, run};
use common::{stays, wait_for};

/// How long somebody may wait for a lock that is free, on a busy machine.
const SOON: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    run(&[
        ("locks_of_one_mount_hold_on_the_other", locks_of_one_mount_hold_on_the_other),
        ("locks_outlive_leaders_and_end_with_their_mount", locks_outlive_leaders),
        ("a_program_that_waits_can_be_killed_while_nobody_answers", killed_while_nobody_answers),
    ])
}

fn locks_of_one_mount_hold_on_the_other() {
    let mut cluster = Cluster::new(3, 2, 1);
    let mounts = [cluster.mnt(), cluster.add_mount()];
    std::fs::write(mounts[0].join("file"), "0").expect("written");
    let files = mounts.each_ref().map(|mount| mount.join("file"));
    let files = files.each_ref().map(AsRef::as_ref);
    flocks_exclude(files);
    ranges_exclude(files);
    owners_come_and_go(files);
    waits_can_be_ended(files);
    circles_are_refused(files, [&mounts[0].join("other"), &mounts[1].join("other")]);
    counting_loses_nothing(files, 40, || {});
    cluster.sync();
    cluster.assert_clean();
}

fn open(path: &Path) -> File {
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    open.expect("opened")
}

fn result(returned: i32) -> Result<(), i32> {
    let errno = || io::Error::last_os_error().raw_os_error().expect("an errno");
    if returned == 0 { Ok(()) } else { Err(errno()) }
}

fn flock(file: &File, operation: i32) -> Result<(), i32> {
    // SAFETY: flock(2) takes two numbers and touches no memory of ours.
    result(unsafe { libc::flock(file.as_raw_fd(), operation) })
}

/// Bytes `start .. start + length`; 0 is all that follow.
fn fcntl(file: &File, command: i32, kind: i32, range: (i64, i64)) -> Result<libc::flock, i32> {
    let mut lock = libc::flock {
        l_type: i16::try_from(kind).expect("small"),
        l_whence: 0,
        l_start: range.0,
        l_len: range.1,
        l_pid: 0,
    };
    // SAFETY: `lock` is a valid structure for the commands that are used here, and outlives the call.
    result(unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) }).map(|()| lock)
}

fn set(file: &File, kind: i32, range: (i64, i64)) -> Result<(), i32> {
    fcntl(file, libc::F_SETLK, kind, range).map(drop)
}

/// Waits for a lock in a thread of its own.
fn begin<T: Send + 'static>(wait: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let waiting = thread::spawn(wait);
    stays("it waits", Duration::from_millis(300), || !waiting.is_finished());
    waiting
}

fn soon<T>(waiting: JoinHandle<T>) -> T {
    wait_for("it has what it waited for", SOON, || waiting.is_finished().then_some(()));
    waiting.join().expect("no panic")
}

const BUSY: Result<(), i32> = Err(libc::EAGAIN);

fn flocks_exclude(paths: [&Path; 2]) {
    let [here, there] = paths.map(open);
    flock(&here, libc::LOCK_EX).expect("free");
    assert_eq!(flock(&there, libc::LOCK_EX | libc::LOCK_NB), BUSY);
    assert_eq!(flock(&open(paths[0]), libc::LOCK_SH | libc::LOCK_NB), BUSY, "another open file");
    set(&there, libc::F_WRLCK, (0, 0)).expect("locks of fcntl(2) are others");
    let waiting = begin(move || flock(&there, libc::LOCK_SH).map(|()| there));
    flock(&here, libc::LOCK_SH).expect("less of its own");
    let there = soon(waiting).expect("both share it");
    assert_eq!(flock(&here, libc::LOCK_EX | libc::LOCK_NB), BUSY);
    // As on a local filesystem: what could not become another kind of lock is none any more.
    flock(&there, libc::LOCK_EX | libc::LOCK_NB).expect("alone");
    let waiting = begin(move || flock(&here, libc::LOCK_EX));
    drop(there);
    soon(waiting).expect("closing gives it up");
}

fn ranges_exclude(paths: [&Path; 2]) {
    let [here, there] = paths.map(open);
    set(&here, libc::F_WRLCK, (10, 10)).expect("free");
    set(&there, libc::F_WRLCK, (0, 10)).expect("beside it");
    set(&there, libc::F_WRLCK, (20, 0)).expect("behind it");
    assert_eq!(set(&there, libc::F_RDLCK, (19, 1)), BUSY);
    let found = fcntl(&there, libc::F_GETLK, libc::F_WRLCK, (0, 0)).expect("asked");
    let told = (i32::from(found.l_type), found.l_start, found.l_len, found.l_pid);
    assert_eq!(told, (libc::F_WRLCK, 10, 10, 0), "of a process that is not on this mount");
    let found = fcntl(&here, libc::F_GETLK, libc::F_RDLCK, (10, 5)).expect("asked");
    assert_eq!(i32::from(found.l_type), libc::F_UNLCK, "its own");
    // The middle of it becomes shared, then free.
    set(&here, libc::F_RDLCK, (12, 4)).expect("its own");
    set(&there, libc::F_RDLCK, (13, 2)).expect("shared");
    assert_eq!(set(&there, libc::F_RDLCK, (11, 4)), BUSY);
    assert_eq!(set(&here, libc::F_WRLCK, (12, 4)), BUSY);
    set(&here, libc::F_UNLCK, (0, 0)).expect("all of it");
    set(&there, libc::F_WRLCK, (0, 0)).expect("free");
    let waiting = begin(move || fcntl(&here, libc::F_SETLKW, libc::F_WRLCK, (5, 1)).map(drop));
    set(&there, libc::F_UNLCK, (5, 1)).expect("its own");
    soon(waiting).expect("free");
}

fn owners_come_and_go(paths: [&Path; 2]) {
    let [here, there] = paths.map(open);
    // Any descriptor that the process closes takes all its locks along.
    set(&here, libc::F_WRLCK, (0, 0)).expect("free");
    drop(open(paths[0]));
    set(&there, libc::F_WRLCK, (0, 0)).expect("given up");
    set(&there, libc::F_UNLCK, (0, 0)).expect("its own");
    // Not so those that belong to the open file.
    let ofd = |file: &File, kind| fcntl(file, libc::F_OFD_SETLK, kind, (0, 0)).map(drop);
    ofd(&here, libc::F_WRLCK).expect("free");
    drop(open(paths[0]));
    assert_eq!(ofd(&there, libc::F_RDLCK), BUSY);
    assert_eq!(set(&open(paths[0]), libc::F_RDLCK, (0, 0)), BUSY, "another owner on its own mount");
    drop(here);
    // Nobody waits for the end of a closed file: it may take a moment.
    wait_for("it is given up", SOON, || ofd(&there, libc::F_WRLCK).ok());
}

fn spawn_flock(path: &Path, arguments: &[&str]) -> Child {
    waiting_flock(Command::new("flock").args(arguments).arg(path).arg("true"))
}

/// Runs flock(1) until it waits in flock(2).
fn waiting_flock(command: &mut Command) -> Child {
    let mut child = command.spawn().expect("flock(1) can be run");
    wait_for("it waits for the lock", SOON, || {
        assert_eq!(child.try_wait().expect("a child"), None, "it should have to wait");
        let call = std::fs::read_to_string(format!("/proc/{}/syscall", child.id())).ok()?;
        let number = call.split(' ').next()?.parse::<i64>().ok()?;
        (number == libc::SYS_flock).then_some(())
    });
    child
}

fn ended_within_a_second(mut child: Child) -> i32 {
    let since = Instant::now();
    let status = wait_for("it ends", SOON, || child.try_wait().expect("a child"));
    // The promise is one second; a loaded machine gets some slack.
    assert!(since.elapsed() < Duration::from_secs(3), "it took {:?}", since.elapsed());
    status.into_raw()
}

fn waits_can_be_ended(paths: [&Path; 2]) {
    let [here, there] = paths.map(open);
    flock(&here, libc::LOCK_EX).expect("free");
    for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGINT] {
        let child = spawn_flock(paths[1], &[]);
        send(child.id(), signal);
        assert_eq!(ended_within_a_second(child), signal);
    }
    let child = spawn_flock(paths[1], &["--timeout", "1"]);
    assert_eq!(ended_within_a_second(child), 1 << 8, "its alarm interrupts it");
    let mut child = spawn_flock(paths[1], &[]);
    flock(&here, libc::LOCK_UN).expect("its own");
    assert!(child.wait().expect("a child").success());
    // Nothing is left of those that were ended.
    wait_for("it is free", SOON, || flock(&there, libc::LOCK_EX | libc::LOCK_NB).ok());
}

fn circles_are_refused(x: [&Path; 2], y: [&Path; 2]) {
    let ([x_here, x_there], [y_here, y_there]) = (x.map(open), y.map(open));
    let wait = |file: &File| fcntl(file, libc::F_SETLKW, libc::F_WRLCK, (0, 1)).map(drop);
    wait(&x_here).expect("free");
    wait(&y_there).expect("free");
    let waiting = begin(move || wait(&y_here));
    assert_eq!(wait(&x_there), Err(libc::EDEADLK));
    drop(y_there);
    soon(waiting).expect("free");
}

/// Two threads a mount count so many steps each, in one file: each reads what the one before has written.
fn counting_loses_nothing(paths: [&Path; 2], steps: usize, meanwhile: impl FnOnce()) {
    std::fs::write(paths[0], "0").expect("written");
    let counting = paths.into_iter().cycle().take(4).map(|path| {
        let file = open(path);
        thread::spawn(move || {
            for _ in 0..steps {
                flock(&file, libc::LOCK_EX).expect("it comes");
                let mut text = [0; 16];
                let length = file.read_at(&mut text, 0).expect("read");
                let text = std::str::from_utf8(&text[..length]).expect("digits");
                let next = text.parse::<usize>().expect("digits") + 1;
                file.write_all_at(next.to_string().as_bytes(), 0).expect("written");
                flock(&file, libc::LOCK_UN).expect("its own");
            }
        })
    });
    let counting: Vec<_> = counting.collect();
    meanwhile();
    counting.into_iter().for_each(|thread| thread.join().expect("no panic"));
    let text = std::fs::read_to_string(paths[1]).expect("read");
    assert_eq!(text, (4 * steps).to_string());
}

fn locks_outlive_leaders() {
    let mut cluster = Cluster::of_monitors(3);
    let mounts = [cluster.mnt(), cluster.add_mount()];
    let [here, there] = mounts.each_ref().map(|mount| open(&mount.join("file")));
    flock(&here, libc::LOCK_EX).expect("free");
    set(&here, libc::F_WRLCK, (0, 1)).expect("free");
    for _ in 0..if long() { 5 } else { 2 } {
        let file = there.try_clone().expect("cloned");
        let waiting = begin(move || flock(&file, libc::LOCK_EX));
        let leader = cluster.leader();
        send(cluster.unit_pid(&leader), libc::SIGKILL);
        assert_eq!(set(&there, libc::F_RDLCK, (0, 1)), BUSY, "through the next leader");
        assert!(!waiting.is_finished());
        flock(&here, libc::LOCK_UN).expect("its own");
        soon(waiting).expect("its turn");
        flock(&there, libc::LOCK_UN).expect("its own");
        flock(&here, libc::LOCK_EX).expect("free");
        cluster.wait_healthy();
    }
    let counted = mounts.each_ref().map(|mount| mount.join("counted"));
    counting_loses_nothing(counted.each_ref().map(AsRef::as_ref), 100, || {
        let leader = cluster.leader();
        send(cluster.unit_pid(&leader), libc::SIGKILL);
    });
    // A mount dies. It comes back, and what its programs had open says so.
    flock(&here, libc::LOCK_EX).expect("free");
    let waiting = begin(move || flock(&there, libc::LOCK_EX).map(|()| there));
    cluster.kill_mount(0);
    let there = soon(waiting).expect("the dead hold nothing");
    assert_eq!(flock(&here, libc::LOCK_EX), Err(libc::ENOTCONN));
    drop(here);
    let path = mounts[0].join("file");
    let here = wait_for("it is mounted again", SOON, || File::open(&path).ok());
    assert_eq!(flock(&here, libc::LOCK_SH | libc::LOCK_NB), BUSY);
    let waiting = begin(move || flock(&here, libc::LOCK_EX));
    drop(there);
    soon(waiting).expect("closed");
}

fn killed_while_nobody_answers() {
    let cluster = Cluster::new(3, 2, 1);
    let path = cluster.mnt().join("file");
    let file = open(&path);
    let monitor = cluster.unit_pid("monitor-1");
    send(monitor, libc::SIGSTOP);
    // It has the file open already: so it waits for the lock, not for the file.
    let stdin = file.try_clone().expect("cloned");
    let child = waiting_flock(Command::new("flock").arg("0").stdin(stdin));
    send(child.id(), libc::SIGKILL);
    assert_eq!(ended_within_a_second(child), libc::SIGKILL);
    send(monitor, libc::SIGCONT);
    let other = open(&path);
    wait_for("nobody has it", SOON, || flock(&other, libc::LOCK_EX | libc::LOCK_NB).ok());
    drop(file);
}
