//! Volumes on real mounts: widths, quotas, borders.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests talk to people")]

mod common;

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use common::cluster::{Cluster, OKAPIFS, success, text};
use common::files::Random;
use common::runner::run;
use common::wait_for;
use serde_json::Value;

const MIB: u64 = 1 << 20;
const SOON: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    run(&[
        ("each_volume_has_its_width", each_volume_has_its_width),
        ("nothing_crosses_the_border", nothing_crosses_the_border),
        ("write_says_that_the_quota_is_used_up", write_says_that_the_quota_is_used_up),
        ("two_mounts_share_a_quota", two_mounts_share_a_quota),
        ("other_mounts_see_a_new_volume_at_once", other_mounts_see_a_new_volume_at_once),
        ("files_are_counted", files_are_counted),
        ("writes_wait_for_copies_and_health_says_so", writes_wait_for_copies_and_health_says_so),
    ])
}

/// A volume on the first mount.
fn create(cluster: &Cluster, name: &str, options: &[&str]) -> PathBuf {
    let path = cluster.mnt().join(name);
    success(Command::new(OKAPIFS).args(["volume", "create"]).arg(&path).args(options));
    path
}

fn set(path: &Path, options: &[&str]) {
    success(Command::new(OKAPIFS).args(["volume", "set"]).arg(path).args(options));
}

fn listed(cluster: &Cluster, path: &str) -> Value {
    let output = cluster.okapifs(&["volume", "list", "--json"]);
    let volumes: Value = serde_json::from_str(&text(&output)).expect("JSON");
    let volumes = volumes.as_array().expect("a list");
    volumes.iter().find(|volume| volume["path"] == path).cloned().unwrap_or(Value::Null)
}

/// Total, free and available bytes; files and free files.
fn statfs(path: &Path) -> (u64, u64, u64, u64) {
    let name = CString::new(path.as_os_str().as_bytes()).expect("no zero byte");
    let mut found = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the name ends with a zero byte, and the kernel fills `found` when it answers 0.
    let found = unsafe {
        assert_eq!(libc::statvfs(name.as_ptr(), found.as_mut_ptr()), 0);
        found.assume_init()
    };
    let block = found.f_frsize;
    (found.f_blocks * block, found.f_bavail * block, found.f_files, found.f_favail)
}

fn is_over_quota(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EDQUOT)
}

fn each_volume_has_its_width() {
    let cluster = Cluster::new(3, 2, 1);
    let mirror = create(&cluster, "mirror", &["--data", "1", "--parity", "2"]);
    let plain = create(&cluster, "mirror/plain", &["--data", "3", "--parity", "0"]);
    let content = Random::new(1).bytes(3 << 20);
    for dir in [&cluster.mnt(), &mirror, &plain] {
        fs::write(dir.join("file"), &content).expect("written");
        fs::write(dir.join("small"), &content[..4096]).expect("written");
    }
    cluster.sync();
    let widths = |dir: &Path, name: &str| {
        let places = success(Command::new(OKAPIFS).arg("where").arg(dir.join(name)));
        let line = places.lines().find(|line| line.contains("payload")).expect("a stripe");
        line.split(", ").nth(1).expect("a width").to_owned()
    };
    assert_eq!(widths(&cluster.mnt(), "file"), "2+1");
    assert_eq!(widths(&mirror, "file"), "1+2");
    assert_eq!(widths(&plain, "file"), "3+0");
    for dir in [&cluster.mnt(), &mirror, &plain] {
        assert!(fs::read(dir.join("file")).expect("read") == content);
    }
    assert_eq!(listed(&cluster, "/mirror/plain")["min_copies"], 1);
    assert_eq!(listed(&cluster, "/mirror")["used_files"], 3);
    cluster.assert_clean();
}

fn nothing_crosses_the_border() {
    let cluster = Cluster::new(3, 2, 1);
    let volume = create(&cluster, "volume", &[]);
    let file = cluster.mnt().join("file");
    fs::write(&file, "content").expect("written");
    let renamed = fs::rename(&file, volume.join("file")).expect_err("another volume");
    assert_eq!(renamed.kind(), ErrorKind::CrossesDevices);
    let linked = fs::hard_link(&file, volume.join("link")).expect_err("another volume");
    assert_eq!(linked.kind(), ErrorKind::CrossesDevices);
    success(Command::new("mv").arg(&file).arg(&volume));
    assert_eq!(fs::read_to_string(volume.join("file")).expect("moved"), "content");
    assert!(!file.exists());

    let full = cluster.okapifs(&["volume", "create", &volume.display().to_string()]);
    assert!(!full.status.success() && text(&full).contains("volume already"), "{}", text(&full));
    fs::remove_dir(&volume).expect_err("it is not empty");
    fs::remove_file(volume.join("file")).expect("removed");
    fs::remove_dir(&volume).expect("removed");
    assert_eq!(listed(&cluster, "/volume"), Value::Null);
    fs::create_dir(&volume).expect("made again");
    fs::write(&file, "content").expect("written");
    fs::rename(&file, volume.join("file")).expect("it is no volume any more");
    cluster.sync();
    cluster.assert_clean();
}

fn write_says_that_the_quota_is_used_up() {
    let cluster = Cluster::new(3, 2, 1);
    let volume = create(&cluster, "volume", &["--quota", "48M"]);
    assert_eq!(statfs(&volume).0, 48 * MIB);
    assert!(statfs(&cluster.mnt()).0 > 48 * MIB, "the root has no quota");
    let file = volume.join("file");
    let dd = Command::new("dd")
        .args(["if=/dev/urandom", "bs=1M", "count=100", "status=none"])
        .arg(format!("of={}", file.display()))
        .output()
        .expect("dd(1)");
    let said = text(&dd);
    assert!(said.contains("quota exceeded") || said.contains("Disk quota exceeded"), "{said}");
    // Everything that write took is there, and it took all that there was.
    assert_eq!(fs::metadata(&file).expect("there").len(), 48 * MIB);
    cluster.sync();
    let content = fs::read(&file).expect("read");
    assert_eq!(content.len() as u64, 48 * MIB);
    assert_eq!(listed(&cluster, "/volume")["used_bytes"], 48 * MIB);
    assert_eq!(statfs(&volume).1, 0, "df shows that it is full");

    // A full volume can be changed, and what is cut off is free at once.
    let opened = File::options().write(true).open(&file).expect("opened");
    opened.write_all_at(&[7; 100_000], 5_000_001).expect("bytes that are there already");
    opened.sync_all().expect("kept");
    assert!(is_over_quota(&opened.write_at(b"more", 48 * MIB).expect_err("full")));
    assert!(is_over_quota(&fs::write(volume.join("other"), "x").expect_err("full")));
    opened.set_len(40 * MIB).expect("cut");
    opened.write_all_at(&[1; 1 << 20], 40 * MIB).expect("there is room again");
    fs::remove_file(&file).expect("removed");
    drop(opened);
    wait_for("the room is back", SOON, || (statfs(&volume).1 == 48 * MIB).then_some(()));
    fs::write(&file, &content[..20 << 20]).expect("written");
    // A larger quota is there for whoever asks next.
    set(&volume, &["--quota", "none"]);
    wait_for("there is no quota", SOON, || {
        fs::write(volume.join("big"), &content).is_ok().then_some(())
    });
    cluster.sync();
    cluster.assert_clean();
}

fn two_mounts_share_a_quota() {
    let mut cluster = Cluster::new(3, 2, 1);
    let elsewhere = cluster.add_mount();
    let volume = create(&cluster, "volume", &["--quota", "40M"]);
    let dirs = [volume.clone(), elsewhere.join("volume")];
    let writers: Vec<_> = dirs
        .into_iter()
        .enumerate()
        .map(|(number, dir)| std::thread::spawn(move || fill(&dir.join(format!("{number}")))))
        .collect();
    let taken: u64 = writers.into_iter().map(|writer| writer.join().expect("no panic")).sum();
    cluster.sync();
    println!("two mounts wrote {taken} of {} bytes", 40 * MIB);
    assert!(taken <= 40 * MIB, "{taken}");
    assert!(taken >= 38 * MIB, "what one has reserved is given back in time: {taken}");
    let stored = || listed(&cluster, "/volume")["used_bytes"].as_u64().expect("a number");
    wait_for("everything that was taken is stored", SOON, || (stored() == taken).then_some(()));
    cluster.assert_clean();
}

fn other_mounts_see_a_new_volume_at_once() {
    let mut cluster = Cluster::new(3, 2, 1);
    let elsewhere = cluster.add_mount().join("volume");
    fs::create_dir(cluster.mnt().join("volume")).expect("made");
    fs::metadata(&elsewhere).expect("the other mount knows it");
    assert!(statfs(&elsewhere).0 > 48 * MIB, "it lies in the root volume");
    create(&cluster, "volume", &["--quota", "48M"]);
    assert_eq!(statfs(&elsewhere).0, 48 * MIB);
}

/// Writes until the quota is used up, then syncs: nothing of what was taken is lost. How much that was.
fn fill(path: &Path) -> u64 {
    let mut file = File::create(path).expect("made");
    let block = Random::new(3).bytes(64 << 10);
    let mut taken = 0;
    loop {
        match file.write(&block) {
            Ok(count) => taken += count as u64,
            Err(error) => {
                assert!(is_over_quota(&error), "{error}");
                file.sync_all().expect("what was taken is kept");
                return taken;
            }
        }
    }
}

fn files_are_counted() {
    let cluster = Cluster::new(3, 2, 1);
    let volume = create(&cluster, "volume", &["--quota-files", "4"]);
    for name in ["a", "b"] {
        fs::write(volume.join(name), name).expect("written");
    }
    fs::create_dir(volume.join("c")).expect("made");
    assert_eq!((statfs(&volume).2, statfs(&volume).3), (4, 0));
    assert!(is_over_quota(&File::create(volume.join("d")).expect_err("too many")));
    fs::remove_file(volume.join("a")).expect("removed");
    // As soon as its closing has arrived.
    wait_for("there is room again", SOON, || File::create(volume.join("d")).ok());
}

fn writes_wait_for_copies_and_health_says_so() {
    let cluster = Cluster::new(3, 1, 1);
    let careful =
        create(&cluster, "careful", &["--data", "1", "--parity", "2", "--min-copies", "3"]);
    cluster.signal_server("server-2", libc::SIGKILL);
    cluster.wait_server("server-2", false);
    let status = wait_for("health says why", SOON, || {
        let status = cluster.status();
        status["reasons"].to_string().contains("volume /careful wait").then_some(status)
    });
    assert_eq!(status["health"], "error");
    // The root's stripes have all their parity on two servers.
    let outside = File::create(cluster.mnt().join("outside")).expect("made");
    outside.write_all_at(b"content", 0).expect("written");
    outside.sync_all().expect("kept on two servers");
    let waiting = std::thread::spawn(move || {
        let file = File::create(careful.join("file")).expect("made");
        file.write_all_at(b"content", 0).expect("buffered");
        file.sync_all()
    });
    common::stays("it waits", Duration::from_secs(2), || !waiting.is_finished());
    cluster.up();
    waiting.join().expect("no panic").expect("kept on three servers");
    cluster.sync();
    cluster.assert_clean();
}
