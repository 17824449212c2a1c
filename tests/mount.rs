//! What programs see on a mount: files come back as they were, whatever happens to the cluster meanwhile.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests talk to people")]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use common::cluster::{Cluster, OKAPIFS, success, text};
use common::files::{Random, assert_same, copy, make_tree, sha256};
use common::runner::{long, run, skip};
use common::shadow;
use common::wait_for;

fn main() -> ExitCode {
    run(&[
        ("a_tree_survives_everything", a_tree_survives_everything),
        (
            "random_operations_do_what_they_do_elsewhere",
            random_operations_do_what_they_do_elsewhere,
        ),
        ("two_mounts_are_one_directory", two_mounts_are_one_directory),
        ("a_copy_goes_on_when_a_server_is_killed", a_copy_goes_on_when_a_server_is_killed),
        ("a_copy_goes_on_when_a_server_hangs", a_copy_goes_on_when_a_server_hangs),
        ("three_ways_to_an_md5_agree", three_ways_to_an_md5_agree),
        ("one_flipped_bit_is_found_and_read_around", one_flipped_bit_is_found_and_read_around),
        ("a_server_starts_from_its_shards_alone", a_server_starts_from_its_shards_alone),
        (
            "small_files_are_packed_and_seen_elsewhere_at_once",
            small_files_are_packed_and_seen_elsewhere_at_once,
        ),
        ("space_comes_back", space_comes_back),
        ("mount_and_fstab_work", mount_and_fstab_work),
        ("a_cluster_that_is_back_is_used_again", a_cluster_that_is_back_is_used_again),
    ])
}

fn a_tree_survives_everything() {
    let cluster = Cluster::new(3, 2, 1);
    let source = cluster.scratch().join("source");
    let (files, large_mib) = if long() { (5000, 200) } else { (600, 30) };
    make_tree(&source, files, large_mib, 1);
    let copied = cluster.mnt().join("copy");
    copy(&source, &copied);
    assert_same(&source, &copied);
    let sparse = fs::metadata(copied.join("sparse")).expect("copied");
    assert!(sparse.blocks() * 512 < 4 << 20, "holes take space: {}", sparse.blocks());
    cluster.sync();

    cluster.signal_server("server-2", libc::SIGKILL);
    assert_same(&source, &copied);
    cluster.up();
    assert_same(&source, &copied);

    cluster.down();
    assert!(cluster.pids().is_empty());
    cluster.up();
    assert_same(&source, &copied);

    let second = cluster.mnt().join("second copy");
    copy(&source, &second);
    cluster.sync();
    cluster.kill_everything();
    cluster.up();
    assert_same(&source, &copied);
    assert_same(&source, &second);
    cluster.assert_clean();

    success(Command::new("rm").arg("-rf").arg(&copied).arg(&second));
    assert_eq!(fs::read_dir(cluster.mnt()).expect("read").count(), 0);
}

fn random_operations_do_what_they_do_elsewhere() {
    let cluster = Cluster::new(3, 2, 1);
    let mounts = [cluster.mnt()];
    for seed in 1..=if long() { 40 } else { 2 } {
        shadow::compare(&mounts, &cluster.scratch().join(seed.to_string()), seed, 1000);
    }
    cluster.sync();
    cluster.assert_clean();
}

fn two_mounts_are_one_directory() {
    let mut cluster = Cluster::new(3, 2, 1);
    let mounts = [cluster.mnt(), cluster.add_mount()];
    for seed in 101..=if long() { 140 } else { 102 } {
        shadow::compare(&mounts, &cluster.scratch().join(seed.to_string()), seed, 1000);
    }
    cluster.sync();
    cluster.assert_clean();
}

fn a_copy_goes_on_when_a_server_is_killed() {
    a_copy_goes_on(libc::SIGKILL);
}

fn a_copy_goes_on_when_a_server_hangs() {
    a_copy_goes_on(libc::SIGSTOP);
}

/// Copies a file while one of three servers stops answering; no write waits long and no byte is lost.
fn a_copy_goes_on(signal: i32) {
    let cluster = Cluster::new(3, 2, 1);
    let mib = if long() { 1024 } else { 256 };
    let source = cluster.scratch().join("source");
    fill(&source, mib);
    let expected = sha256(&source);
    // What lies on the victim when it goes is at risk from then on.
    fs::copy(&source, cluster.mnt().join("before")).expect("copied");
    cluster.sync();
    let target = cluster.mnt().join("target");
    let victim = cluster.server_pid("server-2");

    let longest = copy_and_meanwhile(&source, &target, mib / 4, || {
        common::cluster::send(victim, signal);
    });
    println!("longest write with signal {signal}: {longest:?}");
    // The promise is 2 s; a loaded machine gets some slack.
    assert!(longest < Duration::from_secs(4), "a write took {longest:?}");
    assert_eq!(sha256(&target), expected, "while the server is gone");

    let status = cluster.wait_server("server-2", false);
    assert_ne!(status["health"], "ok", "{status}");
    assert!(status["reasons"].as_array().is_some_and(|reasons| !reasons.is_empty()), "{status}");
    assert!(status["stripes"]["at_risk"].as_u64() > Some(0), "{status}");

    common::cluster::send(victim, libc::SIGCONT);
    cluster.up();
    cluster.wait_server("server-2", true);
    assert_eq!(sha256(&target), expected, "after the server is back");
    assert_eq!(sha256(&cluster.mnt().join("before")), expected, "written before");
    cluster.sync();
    cluster.assert_clean();
}

fn fill(path: &Path, mib: usize) {
    let mut random = Random::new(7);
    let mut buffer = random.bytes(1 << 20);
    let mut file = File::create(path).expect("made");
    for _ in 0..mib {
        for block in buffer.chunks_mut(4096) {
            block[..8].copy_from_slice(&random.next().to_le_bytes());
        }
        file.write_all(&buffer).expect("written");
    }
}

/// Copies as cp(1) does, calls `meanwhile` after so many MiB, ends with fsync; the longest write.
fn copy_and_meanwhile(
    from: &Path,
    to: &Path,
    after_mib: usize,
    meanwhile: impl FnOnce(),
) -> Duration {
    let mut from = File::open(from).expect("there");
    let mut to = File::create(to).expect("made");
    let mut buffer = vec![0; 1 << 20];
    let mut meanwhile = Some(meanwhile);
    let mut longest = Duration::ZERO;
    let mut written = 0;
    loop {
        let read = from.read(&mut buffer).expect("read");
        if read == 0 {
            break;
        }
        let since = Instant::now();
        to.write_all(&buffer[..read]).expect("a write failed");
        longest = longest.max(since.elapsed());
        written += 1;
        if written == after_mib {
            meanwhile.take().expect("once")();
        }
    }
    to.sync_all().expect("fsync failed");
    longest
}

fn three_ways_to_an_md5_agree() {
    let cluster = Cluster::new(3, 2, 1);
    let mut random = Random::new(3);
    for (name, size) in [("empty", 0), ("small", 5000), ("a block", 4096), ("big one", 20 << 20)] {
        let file = cluster.mnt().join(name);
        fs::write(&file, random.bytes(size)).expect("written");
        assert_md5(&file);
    }
    // A change of content is seen at once.
    let file = cluster.mnt().join("big one");
    let changed = File::options().write(true).open(&file).expect("opened");
    changed.write_all_at(b"changed", 12_345).expect("written");
    assert_md5(&file);
    changed.set_len(10_000_001).expect("cut");
    assert_md5(&file);
}

fn assert_md5(file: &Path) {
    let theirs = success(Command::new("md5sum").arg(file));
    assert_eq!(success(Command::new(OKAPIFS).arg("md5sum").arg(file)), theirs);
    let getfattr = Command::new("getfattr")
        .args(["--only-values", "--absolute-names", "-n", "user.okapifs.md5"])
        .arg(file)
        .output();
    match getfattr {
        Ok(output) => assert!(theirs.starts_with(&text(&output)), "{theirs} {}", text(&output)),
        Err(error) => eprintln!("getfattr(1) is not installed, that way is left out: {error}"),
    }
}

fn one_flipped_bit_is_found_and_read_around() {
    let mut cluster = Cluster::new(3, 2, 1);
    let content = Random::new(5).bytes(3 << 20);
    let file = cluster.mnt().join("precious file");
    fs::write(&file, &content).expect("written");
    cluster.sync();
    cluster.assert_clean();

    let server = flip_a_bit(&cluster.root(), &content[1 << 20..][..4096]);
    let output = cluster.okapifs(&["check", "--data"]);
    let said = text(&output);
    assert!(!output.status.success(), "the damage was not found: {said}");
    assert!(said.contains("/precious file"), "{said}");
    assert!(said.contains("stripe "), "{said}");
    assert!(said.contains(&server), "{said}");

    let elsewhere = cluster.add_mount().join("precious file");
    assert!(fs::read(elsewhere).expect("read") == content, "a reader got wrong bytes");
}

/// Flips one bit of that block where a server has stored it; which server.
fn flip_a_bit(root: &Path, block: &[u8]) -> String {
    for number in 1..=3 {
        let server = format!("server-{number}");
        for path in files_below(&root.join(&server)) {
            let bytes = fs::read(&path).expect("read");
            let Some(at) = bytes.chunks(4096).position(|chunk| chunk == block) else {
                continue;
            };
            let at = at as u64 * 4096 + 1000;
            let mut file = File::options().read(true).write(true).open(&path).expect("opened");
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).expect("read");
            byte[0] ^= 1;
            file.seek(SeekFrom::Start(at)).expect("sought");
            file.write_all(&byte).expect("written");
            file.sync_all().expect("synced");
            return server;
        }
    }
    panic!("no server has the block where it could be expected");
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("read") {
        let path = entry.expect("read").path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

fn a_server_starts_from_its_shards_alone() {
    let cluster = Cluster::new(3, 2, 1);
    let source = cluster.scratch().join("source");
    make_tree(&source, 200, 10, 6);
    let copied = cluster.mnt().join("copy");
    copy(&source, &copied);
    cluster.down();
    // Everything that is neither configuration nor a shard goes.
    let home = cluster.root().join("server-1");
    for path in files_below(&home) {
        let kept = path.starts_with(home.join("tls"))
            || path.ends_with("server.toml")
            || holds_shards(&path);
        if !kept {
            eprintln!("removing {}", path.display());
            fs::remove_file(&path).expect("removed");
        }
    }
    cluster.up();
    assert_same(&source, &copied);
    cluster.assert_clean();
}

fn holds_shards(path: &Path) -> bool {
    fs::read(path).expect("read").starts_with(b"OKAPI")
}

fn small_files_are_packed_and_seen_elsewhere_at_once() {
    let mut cluster = Cluster::new(3, 2, 1);
    let elsewhere = cluster.add_mount();
    let source = cluster.scratch().join("source");
    fs::create_dir(&source).expect("made");
    let mut random = Random::new(9);
    for number in 0..1000 {
        fs::write(source.join(number.to_string()), random.bytes(4096)).expect("written");
    }
    success(Command::new("cp").arg("-r").arg(&source).arg(cluster.mnt().join("small")));
    // At once, nothing was synced: the first reader makes the writer commit what it has buffered.
    success(Command::new("diff").arg("-r").arg(&source).arg(elsewhere.join("small")));

    let files = (0..1000).map(|number| cluster.mnt().join("small").join(number.to_string()));
    let places = success(Command::new(OKAPIFS).arg("where").args(files));
    let stripes: BTreeSet<&str> = places
        .lines()
        .filter_map(|line| line.split_once("of stripe ").map(|(_, stripe)| stripe))
        .collect();
    assert!(!stripes.is_empty(), "{places}");
    println!("1,000 small files became {} stripes", stripes.len());
    assert!(stripes.len() <= 20, "1,000 small files became {} stripes", stripes.len());
}

fn space_comes_back() {
    let cluster = Cluster::new(3, 2, 1);
    let used = || -> u64 {
        let status = cluster.status();
        let servers = status["servers"].as_array().expect("a list").iter();
        servers.map(|server| server["used_bytes"].as_u64().expect("a number")).sum()
    };
    let before = used();
    let file = cluster.mnt().join("big");
    fs::write(&file, Random::new(4).bytes(64 << 20)).expect("written");
    cluster.sync();
    let wait = Duration::from_secs(30);
    wait_for("the space is used", wait, || (used() > before + (90 << 20)).then_some(()));
    fs::remove_file(&file).expect("removed");
    wait_for("the space is back", wait, || (used() < before + (8 << 20)).then_some(()));
    wait_for("no stripe is left", wait, || {
        (cluster.status()["stripes"]["total"] == 0).then_some(())
    });
}

fn mount_and_fstab_work() {
    let cluster = Cluster::new(3, 2, 1);
    let sbin = cluster.scratch().join("sbin");
    fs::create_dir(&sbin).expect("made");
    let helper = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-helpers/mount.okapifs");
    fs::copy(helper, sbin.join("mount.okapifs")).expect("copied");
    std::os::unix::fs::symlink(OKAPIFS, sbin.join("okapifs")).expect("linked");
    let status = cluster.status();
    let source = format!("{}:/", status["monitors"][0]["address"].as_str().expect("an address"));
    let at = cluster.scratch().join("by fstab");
    fs::create_dir(&at).expect("made");
    let fstab = cluster.scratch().join("fstab");
    let line = format!(
        "{source} {} okapifs _netdev,nofail,x-systemd.automount,config={},run_dir={} 0 0\n",
        at.display().to_string().replace(' ', "\\040"),
        cluster.root().join("client").display(),
        cluster.root().join("run").display(),
    );
    fs::write(&fstab, line).expect("written");
    // In a mount namespace of its own, so that nothing of this machine changes.
    let script = r#"
        set -e
        mount --make-rprivate /
        mount --bind "$SBIN" /sbin
        mount --bind "$FSTAB" /etc/fstab
        said=$(mount "$AT" 2>&1)
        test -z "$said"
        test "$(findmnt -n -o TARGET -S "$SOURCE" | grep -c "by fstab")" = 1
        echo content > "$AT/file"
        mount -o remount,ro "$AT"
        if touch "$AT/other" 2> /dev/null; then echo "not read-only"; exit 1; fi
        mount -o remount,rw "$AT"
        umount "$AT"
        test ! -e "$AT/file"
        mount -a
        test "$(cat "$AT/file")" = content
        umount "$AT"
        if mount -t okapifs 127.0.0.1:1:/ "$AT" -o config=/nowhere 2> "$SBIN/error"; then exit 1; fi
    "#;
    if !Path::new("/etc/fstab").exists() {
        skip("there is no /etc/fstab to hide");
    }
    let mut unshare = Command::new("unshare");
    unshare.args(["-m", "sh", "-c", script]);
    unshare.env("SBIN", &sbin).env("FSTAB", &fstab).env("AT", &at).env("SOURCE", &source);
    success(&mut unshare);
    let error = fs::read_to_string(sbin.join("error")).expect("written");
    assert!(error.contains("there is no configuration directory /nowhere"), "{error}");
    assert_eq!(fs::read_to_string(cluster.mnt().join("file")).expect("there"), "content\n");
}

fn a_cluster_that_is_back_is_used_again() {
    let cluster = Cluster::new(3, 2, 1);
    let file = cluster.mnt().join("file");
    fs::write(&file, "before").expect("written");
    cluster.sync();
    let status = cluster.status();
    let monitor = status["monitors"][0]["pid"].as_u64().expect("a local monitor");
    common::cluster::send(u32::try_from(monitor).expect("a pid"), libc::SIGKILL);

    let waiting = {
        let file = cluster.mnt().join("meanwhile");
        std::thread::spawn(move || fs::write(file, "meanwhile"))
    };
    let says_so = || cluster.mount_log().matches("no monitor can be reached, waiting").count();
    wait_for("the mount says that it waits", Duration::from_secs(30), || {
        (says_so() > 0).then_some(())
    });
    assert!(!waiting.is_finished(), "nobody could have answered");
    cluster.up();
    waiting.join().expect("no panic").expect("it waited until the monitor was back");
    assert_eq!(fs::read_to_string(&file).expect("read"), "before");
    assert_eq!(fs::read_to_string(cluster.mnt().join("meanwhile")).expect("read"), "meanwhile");
    assert_eq!(says_so(), 1, "once is enough: {}", cluster.mount_log());
}
