//! Every wait can be ended: with the cluster out of reach, whatever program waits for it ends within a second of
//! SIGKILL, and goes on by itself when the cluster is back.
//!
//! Called with `--program`, this binary is itself the program that waits.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests talk to people")]

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::cluster::{Cluster, send, success};
use common::files::Random;
use common::runner::{long, run};
use common::wait_for;

/// What SIGKILL may take.
const AT_ONCE: Duration = Duration::from_secs(1);

/// More than a moment on a machine that does other things, too.
const SOON: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some("--program") {
        program(&words.collect::<Vec<_>>());
        return ExitCode::SUCCESS;
    }
    run(&[
        ("programs_that_wait_can_be_killed", programs_that_wait_can_be_killed),
        ("a_signal_that_kills_nobody_changes_nothing", a_signal_that_kills_nobody_changes_nothing),
        ("reads_that_wait_for_servers_can_be_killed", reads_that_wait_for_servers_can_be_killed),
        ("closing_waits_only_where_it_was_asked_to", closing_waits_only_where_it_was_asked_to),
        ("what_the_killed_did_is_seen", what_the_killed_did_is_seen),
        ("what_the_killed_had_opened_is_closed", what_the_killed_had_opened_is_closed),
    ])
}

/// Catches SIGUSR1 and does what it is told.
fn program(words: &[String]) {
    extern "C" fn nothing(_signal: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: the handler does nothing, which it may do at any time.
    unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
    match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["read", path] => {
            let content = fs::read_to_string(path).expect("read");
            print!("{content}");
        }
        ["read-direct", path] => {
            let mut file = File::options().read(true).custom_flags(libc::O_DIRECT).open(path);
            let file = file.as_mut().expect("opened");
            println!("opened");
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).expect("told to go on");
            let mut bytes = vec![0; 8 << 20];
            let aligned = bytes.as_ptr().align_offset(4096);
            file.read_exact(&mut bytes[aligned..][..4 << 20]).expect("read");
        }
        ["write", path] => {
            let mut file = File::create(path).expect("made");
            file.write_all(b"written").expect("written");
            println!("written");
            // Without a word to the kernel, which closes it.
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).expect("told to go on");
            std::process::exit(0);
        }
        ["churn", dir] => {
            for number in 0.. {
                let mut file = File::create(Path::new(dir).join(number.to_string())).expect("made");
                file.write_all(&[7; 5000]).expect("written");
                drop(File::open(Path::new(dir).join((number / 2).to_string())).expect("opened"));
            }
        }
        other => panic!("no such program: {other:?}"),
    }
}

fn start(words: &[&str], path: &Path) -> Program {
    let this = std::env::current_exe().expect("running");
    Program::start(Command::new(this).arg("--program").args(words).arg(path))
}

/// A program that is killed with this value.
struct Program {
    name: String,
    child: Child,
}

impl Program {
    fn start(command: &mut Command) -> Self {
        let name = format!("{command:?}");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { name, child: command.spawn().expect("the program can be run") }
    }

    fn signal(&self, signal: i32) {
        send(self.child.id(), signal);
    }

    /// Waits until it sleeps and has not run for a moment.
    fn wait_until_it_waits(&mut self) {
        let mut before = String::new();
        wait_for(&format!("{} waits", self.name), SOON, || {
            if !self.is_running() {
                panic!("{} had nothing to wait for: {}", self.name.clone(), self.said());
            }
            thread::sleep(Duration::from_millis(100));
            let now = self.times_it_slept();
            let rests = now == before;
            before = now;
            rests.then_some(())
        });
    }

    /// How often it has gone to sleep; a new text each time it is asked if it runs.
    fn times_it_slept(&self) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("it is there");
        let mut lines = status.lines();
        let sleeps =
            lines.any(|line| line.starts_with("State:\tS") || line.starts_with("State:\tD"));
        let switches = lines.find(|line| line.starts_with("voluntary_ctxt_switches"));
        if sleeps { switches.expect("there").to_owned() } else { format!("{:?}", Instant::now()) }
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("asked").is_none()
    }

    fn say(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("a pipe");
        stdin.write_all(line.as_bytes()).expect("said");
    }

    /// Kills it; how long that took.
    fn kill(mut self) -> Duration {
        let since = Instant::now();
        self.signal(libc::SIGKILL);
        // A program that cannot be killed would keep this test waiting, too.
        let status = wait_for(&format!("{} ends", self.name), SOON, || {
            self.child.try_wait().expect("asked")
        });
        let took = since.elapsed();
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{}", self.name);
        took
    }

    /// What it said when it had ended well.
    fn ends_well(mut self) -> String {
        let status = wait_for(&format!("{} ends", self.name), SOON, || {
            self.child.try_wait().expect("asked")
        });
        let said = self.said();
        assert!(status.success(), "{}: {status}: {said}", self.name);
        said
    }

    fn said(&mut self) -> String {
        let mut said = String::new();
        self.child.stdout.take().expect("a pipe").read_to_string(&mut said).expect("read");
        self.child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("read");
        said
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.is_running() {
            self.signal(libc::SIGKILL);
        }
    }
}

/// Processes of a cluster that are stopped, and go on with this value's end.
struct Stopped(Vec<u32>);

impl Stopped {
    /// All whose run file has a name that begins so.
    fn stop(cluster: &Cluster, roles: &[&str]) -> Self {
        let mut pids = Vec::new();
        for entry in fs::read_dir(cluster.root().join("run")).expect("read") {
            let path = entry.expect("read").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let is_run_file = path.extension().is_some_and(|extension| extension == "json");
            if is_run_file && roles.iter().any(|role| name.starts_with(role)) {
                let file = fs::read(&path).expect("read");
                let running: serde_json::Value = serde_json::from_slice(&file).expect("JSON");
                let pid = running["pid"].as_u64().expect("a number");
                pids.push(u32::try_from(pid).expect("a pid"));
            }
        }
        assert!(pids.len() >= roles.len(), "{roles:?} run: {pids:?}");
        // The agent first: it would take a process that does not answer for one that hangs.
        pids.iter().for_each(|pid| send(*pid, libc::SIGSTOP));
        Self(pids)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.iter().for_each(|pid| send(*pid, libc::SIGCONT));
    }
}

const CLUSTER: [&str; 3] = ["agent", "monitor", "server"];

/// What people would try first, each with paths of its own: who waits for another one's directory waits as long
/// as that one.
fn commands(mnt: &Path) -> Vec<Command> {
    let command = |program: &str, arguments: &[&str], paths: &[PathBuf]| {
        let mut command = Command::new(program);
        command.args(arguments).args(paths);
        command
    };
    let with = |words: &str, path: PathBuf| format!("{words}{}", path.display());
    let file = mnt.join("file");
    vec![
        command("cat", &[], std::slice::from_ref(&file)),
        command("ls", &["-l"], &[mnt.join("dir")]),
        command("cp", &[], &[file.clone(), mnt.join("copy")]),
        command("dd", &[&with("if=", file.clone()), "of=/dev/null"], &[]),
        command("dd", &["if=/dev/zero", "bs=1M", "count=9", &with("of=", mnt.join("new"))], &[]),
        command("df", &[], std::slice::from_ref(&file)),
        command("touch", &[], &[mnt.join("touched")]),
        command("mv", &[], &[mnt.join("dir"), mnt.join("moved")]),
        command("mkdir", &[], &[mnt.join("made")]),
        command("rm", &["-r"], &[mnt.join("dir")]),
        command("stat", &[], std::slice::from_ref(&file)),
        command("truncate", &["-s", "5"], &[file]),
    ]
}

fn fill(mnt: &Path) {
    fs::create_dir(mnt.join("dir")).expect("made");
    fs::write(mnt.join("dir/file"), "inner").expect("written");
    fs::write(mnt.join("file"), "content").expect("written");
}

fn programs_that_wait_can_be_killed() {
    let mut cluster = Cluster::new(3, 2, 1);
    fill(&cluster.mnt());
    let other = cluster.add_mount();
    for quiet in [true, false] {
        for mut command in commands(&cluster.mnt()) {
            // What one mount changes, another has to ask for. (The last that was killed may still get its way.)
            wait_for("all is there", SOON, || {
                fs::create_dir_all(other.join("dir")).ok()?;
                fs::write(other.join("dir/file"), "inner").ok()?;
                fs::write(other.join("file"), "content").ok()
            });
            // One after another, and not for long: a session that is silent is closed.
            let _stopped = Stopped::stop(&cluster, &CLUSTER);
            let mut program = Program::start(&mut command);
            program.wait_until_it_waits();
            if !quiet {
                program.signal(libc::SIGCHLD);
                program.signal(libc::SIGWINCH);
                program.wait_until_it_waits();
            }
            let name = program.name.clone();
            let took = program.kill();
            println!("{took:?} to kill {name}");
            assert!(took < AT_ONCE, "{took:?} to kill {name}");
        }
        // What they had begun is done, or not; what begins now is done.
        fs::write(cluster.mnt().join("file"), "content").expect("written");
        assert_eq!(fs::read_to_string(cluster.mnt().join("file")).expect("read"), "content");
    }
    cluster.sync();
    cluster.assert_clean();
}

fn a_signal_that_kills_nobody_changes_nothing() {
    let cluster = Cluster::new(3, 2, 1);
    fill(&cluster.mnt());
    cluster.sync();
    let stopped = Stopped::stop(&cluster, &CLUSTER);
    let path = cluster.mnt().join("file");
    let mut program = start(&["read"], &path);
    program.wait_until_it_waits();
    program.signal(libc::SIGUSR1);
    program.wait_until_it_waits();
    program.signal(libc::SIGUSR1);
    // Of another file: who looks for the same name waits for the first in the kernel, and can be killed after it only.
    let mut killed = start(&["read"], &cluster.mnt().join("dir/file"));
    killed.wait_until_it_waits();
    killed.signal(libc::SIGUSR1);
    killed.wait_until_it_waits();
    let took = killed.kill();
    assert!(took < AT_ONCE, "{took:?} after another signal");
    assert!(program.is_running(), "a signal that is caught ended it: {}", program.said());
    drop(stopped);
    assert_eq!(program.ends_well(), "content");
}

/// `sync_on_close`: what was closed is there after a power cut, and a wait for that can be ended as any other.
fn closing_waits_only_where_it_was_asked_to() {
    let mut cluster = Cluster::new(3, 2, 1);
    let mnt = cluster.mount_root_with("sync_on_close");
    fs::write(mnt.join("file"), "content").expect("written");
    // A program that writes, and ends when it is told to without having closed its file.
    let writer = |path: PathBuf| {
        let mut program = start(&["write"], &path);
        program.wait_until_it_waits();
        program
    };
    for (path, waits) in [(cluster.mnt().join("one"), false), (mnt.join("two"), true)] {
        let stopped = Stopped::stop(&cluster, &["agent", "server"]);
        let mut copy = Program::start(Command::new("cp").arg("/etc/passwd").arg(&path));
        if waits {
            copy.wait_until_it_waits();
            let took = copy.kill();
            assert!(took < AT_ONCE, "{took:?} to kill a program that closes");
        } else {
            copy.ends_well();
        }
        drop(stopped);
    }
    let killed = writer(mnt.join("three"));
    let mut exiting = writer(mnt.join("four"));
    let stopped = Stopped::stop(&cluster, &["agent", "server"]);
    let took = killed.kill();
    assert!(took < AT_ONCE, "{took:?} to kill a program that has something open");
    let since = Instant::now();
    exiting.say("go on\n");
    exiting.ends_well();
    let took = since.elapsed();
    println!("{took:?} to end with something open");
    assert!(took > Duration::from_secs(3) && took < Duration::from_secs(10), "{took:?}");
    drop(stopped);

    fs::write(mnt.join("last"), "closed").expect("written");
    let mut exiting = writer(mnt.join("five"));
    exiting.say("go on\n");
    exiting.ends_well();
    cluster.kill_everything();
    cluster.up();
    let read = |name: &str| fs::read_to_string(cluster.mnt().join(name)).expect("read");
    assert_eq!((read("last").as_str(), read("five").as_str()), ("closed", "written"));
    cluster.assert_clean();
}

/// The kernel sends direct reads in pieces, and says nothing of signals meanwhile.
fn reads_that_wait_for_servers_can_be_killed() {
    let mut cluster = Cluster::new(3, 2, 1);
    let content = Random::new(6).bytes(8 << 20);
    fs::write(cluster.mnt().join("file"), content).expect("written");
    cluster.sync();
    // Where nothing of it is cached.
    let path = cluster.add_mount().join("file");
    let mut program = start(&["read-direct"], &path);
    program.wait_until_it_waits();
    let _stopped = Stopped::stop(&cluster, &["agent", "server"]);
    program.say("go on\n");
    program.wait_until_it_waits();
    let took = program.kill();
    println!("{took:?} to kill a direct read");
    assert!(took < AT_ONCE, "{took:?} to kill a direct read");
}

/// The kernel is told that nothing came of what it had asked for; when something does, it has to learn of it.
fn what_the_killed_did_is_seen() {
    let mut cluster = Cluster::new(3, 2, 1);
    let (mnt, other) = (cluster.mnt(), cluster.add_mount());
    let list = |mnt: &Path| {
        let output = Command::new("ls").args(["-lR", "."]).current_dir(mnt).output().expect("run");
        output.status.success().then_some(output.stdout)
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let changes = [
        "touch new",
        "mkdir made",
        "mv old moved",
        "rm -f old",
        "ln old linked",
        "ln -s old symbolic",
        "rmdir dir",
        "truncate -s 5 old",
        "chmod 600 old",
    ];
    for change in changes {
        success(
            Command::new("sh").arg("-c").arg("echo content > old; mkdir dir").current_dir(&mnt),
        );
        let command = || {
            let mut command = Command::new("sh");
            command.arg("-c").arg(format!("exec {change}")).current_dir(&mnt);
            command
        };
        // All is known here: what is there, and that something is not.
        let before = list(&mnt).expect("all is there");
        for name in ["new", "made", "moved", "linked", "symbolic"] {
            assert!(!mnt.join(name).exists());
        }
        let stopped = Stopped::stop(&cluster, &CLUSTER);
        let mut program = Program::start(&mut command());
        program.wait_until_it_waits();
        program.kill();
        drop(stopped);
        wait_for(&format!("{change:?} is done"), SOON, || {
            list(&other).filter(|now| *now != before)
        });
        // That listing may have begun before it was done.
        let after = list(&other).expect("all is there");
        assert_eq!(list(&mnt).map(|list| text(&list)), Some(text(&after)), "after {change:?}");
        success(Command::new("sh").arg("-c").arg("rm -rf -- *").current_dir(&mnt));
    }
}

/// A handle that is given to somebody who has died is known to nobody, and would keep a removed file for ever.
fn what_the_killed_had_opened_is_closed() {
    let cluster = Cluster::new(3, 2, 1);
    let empty = inodes_used(&cluster.mnt());
    let mut random = Random::new(8);
    println!("moments from seed 8");
    for round in 0..if long() { 60 } else { 12 } {
        let dir = cluster.mnt().join(format!("round {round}"));
        fs::create_dir(&dir).expect("made");
        let mut program = start(&["churn"], &dir);
        wait_for("it has begun", SOON, || dir.join("3").exists().then_some(()));
        thread::sleep(Duration::from_micros(random.below(20_000)));
        let _stopped = Stopped::stop(&cluster, &CLUSTER);
        program.wait_until_it_waits();
        let took = program.kill();
        assert!(took < AT_ONCE, "{took:?} to kill it in round {round}");
    }
    for round in fs::read_dir(cluster.mnt()).expect("read") {
        let round = round.expect("read").path();
        // The last that was killed may still get its way meanwhile.
        wait_for("it is removed", SOON, || fs::remove_dir_all(&round).ok());
    }
    cluster.sync();
    wait_for("nothing is left", SOON, || {
        (inodes_used(&cluster.mnt()) == empty && cluster.status()["stripes"]["total"] == 0)
            .then_some(())
    });
    cluster.assert_clean();
}

fn inodes_used(mnt: &Path) -> u64 {
    let path = std::ffi::CString::new(mnt.as_os_str().as_encoded_bytes()).expect("a path");
    // SAFETY: all fields are numbers, for which zero is a value.
    let mut room: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero byte, and both outlive the call.
    let result = unsafe { libc::statvfs(path.as_ptr(), &raw mut room) };
    assert_eq!(result, 0, "statvfs: {}", std::io::Error::last_os_error());
    room.f_files - room.f_ffree
}
