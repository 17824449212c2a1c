//! Bad input: each gets one clear sentence, a code that is not 0, and harms nothing.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests talk to people")]

mod common;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::Duration;

use common::cluster::{Cluster, OKAPIFS, need_fuse, send, success, text};
use common::runner::run;
use common::wait_for;

fn main() -> ExitCode {
    run(&[
        ("nonsense_is_refused_with_a_sentence", nonsense_is_refused_with_a_sentence),
        ("a_cluster_is_made_by_hand", a_cluster_is_made_by_hand),
        ("a_running_cluster_is_not_harmed", a_running_cluster_is_not_harmed),
        ("a_monitor_that_could_break_its_word_is_refused", a_monitor_that_could_break_its_word),
        ("machines_join_with_tokens", machines_join_with_tokens),
        ("a_client_is_kept_to_what_it_may_do", a_client_is_kept_to_what_it_may_do),
        ("a_dead_mount_is_buried_by_its_own_alone", a_dead_mount_is_buried_by_its_own_alone),
        ("what_is_in_force_is_shown", what_is_in_force_is_shown),
        ("manual_pages_are_written", manual_pages_are_written),
    ])
}

fn okapifs(arguments: &[&str]) -> Output {
    let mut command = Command::new(OKAPIFS);
    command.args(arguments).env_remove("OKAPIFS_CLUSTER");
    command.output().expect("the program can be run")
}

/// It fails with one sentence that has `part` in it.
fn refused(arguments: &[&str], part: &str) {
    let output = okapifs(arguments);
    let said = text(&output);
    assert!(!output.status.success(), "{arguments:?} went through: {said}");
    assert!(output.status.code().is_some(), "{arguments:?} crashed: {said}");
    assert!(said.contains(part), "{arguments:?} said {said:?}, not {part:?}");
    assert!(!said.contains("panicked"), "{arguments:?}: {said}");
    let sentences = said.lines().filter(|line| !line.starts_with('[')).count();
    assert_eq!(sentences, 1, "{arguments:?} said more than a sentence: {said}");
}

fn nonsense_is_refused_with_a_sentence() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (empty, file, none, full) = (path("empty"), path("file"), path("none"), path("full"));
    fs::create_dir(&empty).expect("made");
    fs::write(&file, "some text that is no shard").expect("written");
    fs::create_dir(&full).expect("made");
    fs::write(path("full/file"), "precious").expect("written");
    let mnt = path("mnt");
    fs::create_dir(&mnt).expect("made");

    refused(&["down", &none], "holds no cluster");
    refused(&["status", "--cluster", &none], "there is no directory");
    refused(&["status", "--cluster", &empty], "neither a directory of `okapifs up` nor");
    refused(&["up", &full], "is not empty and holds no cluster");
    refused(&["up", &path("c"), "--mount", &full], "is not empty");
    refused(&["up", &path("c"), "--mount", &file], "cannot be made");
    refused(&["up", &path("c"), "--servers", "1"], "--servers 2 or more");
    refused(&["monitor", "run", &empty], "monitor.toml cannot be read");
    refused(&["server", "run", &empty], "server.toml cannot be read");
    refused(&["shard", "inspect", &file], "no whole shard");
    refused(&["shard", "inspect", &none], "cannot be read");
    refused(&["md5sum", &file], "on no OkapiFS mount");
    refused(&["sync", &empty], "on no OkapiFS mount");
    refused(&["where", &file, "--cluster", &empty], "neither a directory");
    refused(&["bench", &none], "is not a directory");
    refused(&["mount", "nonsense", &mnt], "HOST[:PORT]");
    refused(&["mount", "h:/", &mnt, "-o", "nofial"], "\"nofial\" is unknown");
    refused(&["mount", "h:/", &mnt, "-o", &format!("config={none}")], "no configuration directory");
    assert_eq!(okapifs(&["mount", "nonsense", &mnt]).status.code(), Some(32));
    assert_eq!(okapifs(&["up"]).status.code(), Some(2), "clap explains the usage");

    assert_eq!(fs::read_to_string(path("full/file")).expect("there"), "precious");
    assert!(!Path::new(&path("c/cluster.toml")).exists(), "a refused `up` made a cluster");
}

/// The roles by themselves, one after another, as on several machines.
fn a_cluster_is_made_by_hand() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let root = dir.path().join("c").display().to_string();
    let (monitor, server) = (format!("{root}/monitor-1"), format!("{root}/server-1"));
    success(Command::new(OKAPIFS).args([
        "init",
        &root,
        "--servers",
        "1",
        "--listen",
        "127.0.0.1:1",
    ]));
    refused(&["init", &root], "is not empty");

    // Somebody else's port.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    edit(&format!("{monitor}/monitor.toml"), "127.0.0.1:1", &address);
    let port = taken.local_addr().expect("bound").port();
    refused(&["monitor", "run", &monitor], &format!("port {port} of 127.0.0.1 is in use"));

    // A directory with the certificate of another cluster.
    let other = dir.path().join("other").display().to_string();
    success(Command::new(OKAPIFS).args(["init", &other, "--servers", "1"]));
    let mixed = format!("{other}/server-1/server.toml");
    fs::copy(format!("{server}/server.toml"), &mixed).expect("copied");
    refused(&["server", "run", &format!("{other}/server-1")], "they were mixed up");

    // A mistake in a file.
    edit(&format!("{server}/server.toml"), "domain", "domian");
    refused(&["server", "run", &server], "unknown field `domian`");
}

fn edit(path: &str, from: &str, to: &str) {
    let text = fs::read_to_string(path).expect("read");
    assert!(text.contains(from), "{path}: {text}");
    fs::write(path, text.replace(from, to)).expect("written");
}

fn a_running_cluster_is_not_harmed() {
    let cluster = Cluster::new(3, 2, 1);
    let root = cluster.root().display().to_string();
    let mnt = cluster.mnt().display().to_string();
    fs::write(cluster.mnt().join("file"), "content").expect("written");
    fs::write(cluster.mnt().join("larger"), vec![7; 3 << 20]).expect("written");
    cluster.sync();

    refused(&["monitor", "run", &format!("{root}/monitor-1")], "");
    refused(&["server", "run", &format!("{root}/server-1")], "");
    refused(&["up", &root, "--data", "3"], "cannot be changed");
    refused(&["up", &root, "--servers", "2"], "none can be taken away");
    let source =
        format!("{}:/", cluster.status()["monitors"][0]["address"].as_str().expect("text"));
    let config = format!("config={root}/client");
    refused(&["mount", &source, &mnt, "-o", &config], "already");
    let elsewhere = cluster.scratch().join("elsewhere").display().to_string();
    fs::create_dir(&elsewhere).expect("made");
    refused(&["mount", &format!("{source}no/such/dir"), &elsewhere, "-o", &config], "");

    // Garbage on the ports.
    let status = cluster.status();
    let mut addresses = vec![status["monitors"][0]["address"].as_str().expect("text")];
    let servers = status["servers"].as_array().expect("a list");
    addresses.extend(servers.iter().map(|server| server["address"].as_str().expect("text")));
    for address in addresses {
        use std::io::Write;
        let mut stream = std::net::TcpStream::connect(address).expect("connected");
        let garbage: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        // The other end may hang up before all of it is written.
        if let Err(error) = stream.write_all(&garbage) {
            eprintln!("{address} hung up: {error}");
        }
    }

    // Another cluster's credentials.
    let other = cluster.scratch().join("other").display().to_string();
    success(Command::new(OKAPIFS).args(["init", &other]));
    refused(&["mount", &source, &elsewhere, "-o", &format!("config={other}/client")], "");

    assert_eq!(cluster.status()["health"], "ok", "{}", cluster.status());
    assert_eq!(fs::read_to_string(cluster.mnt().join("file")).expect("read"), "content");
    cluster.assert_clean();
    shards_explain_themselves(&cluster);
}

/// One that runs already, one of another cluster, one whose disk was wiped: the others go on, and another takes its
/// place.
fn a_monitor_that_could_break_its_word() {
    let cluster = Cluster::of_monitors(3);
    let path = |name: &str| cluster.scratch().join(name).display().to_string();
    let root = cluster.root().display().to_string();
    fs::write(cluster.mnt().join("file"), "content").expect("written");
    cluster.sync();
    let leader = cluster.leader();
    let names = ["monitor-1", "monitor-2", "monitor-3"];
    let victim = names.into_iter().find(|name| *name != leader).expect("three");
    let home = format!("{root}/{victim}");

    // Started twice: here, at the same address, at another one.
    refused(&["monitor", "run", &home], "is in use by process");
    success(Command::new("cp").args(["-r", &home, &path("copy")]));
    refused(&["monitor", "run", &path("copy")], "is in use");
    let elsewhere = ["monitor", "run", &path("copy"), "--set", "listen=127.0.0.1:0"];
    refused(&elsewhere, "must not be copied and started twice");

    // Of another cluster.
    success(Command::new(OKAPIFS).args(["init", &path("other")]));
    let ours = cluster.status()["monitors"][0]["address"].as_str().expect("text").to_owned();
    let file = format!("listen = \"127.0.0.1:0\"\nmonitors = [\"{ours}\"]\n");
    fs::write(path("other/monitor-1/monitor.toml"), file).expect("written");
    refused(&["monitor", "run", &path("other/monitor-1")], "is of another cluster");

    // Wiped.
    fs::rename(format!("{home}/raft"), path("raft")).expect("moved");
    fs::rename(format!("{home}/store"), path("store")).expect("moved");
    common::cluster::send(cluster.unit_pid(victim), libc::SIGKILL);
    wait_for("its agent hears why it does not start", Duration::from_secs(20), || {
        let trouble = cluster.unit(victim)["trouble"].clone();
        trouble.as_str().is_some_and(|why| why.contains("and with them what it had")).then_some(())
    });
    fs::write(cluster.mnt().join("without"), "content").expect("two of three go on");
    success(Command::new(OKAPIFS).args(["monitor", "replace", victim, &root, "--cluster", &root]));
    // The new one runs from now on; that the old one does not is still said.
    let output = okapifs(&["up", &root, "--detach"]);
    let said = text(&output);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains(&format!("{victim} does not work")), "{said}");
    wait_for("the new one has its place", Duration::from_secs(30), || {
        let status = cluster.status();
        let monitors = status["monitors"].as_array().expect("a list");
        let has = |name: &str| monitors.iter().any(|monitor| monitor["name"] == name);
        (has("monitor-4") && !has(victim)).then_some(())
    });
    fs::remove_dir_all(&home).expect("removed");
    success(Command::new(OKAPIFS).args(["up", &root, "--detach"]));
    cluster.wait_healthy();
    for name in ["file", "without"] {
        assert_eq!(fs::read_to_string(cluster.mnt().join(name)).expect("read"), "content");
    }
    cluster.assert_clean();
}

fn shards_explain_themselves(cluster: &Cluster) {
    need_fuse();
    let mut stack = vec![cluster.root().join("server-1")];
    let mut inspected = 0;
    while let Some(path) = stack.pop() {
        if path.is_dir() {
            stack
                .extend(fs::read_dir(path).expect("read").map(|entry| entry.expect("read").path()));
            continue;
        }
        let bytes = fs::read(&path).expect("read");
        let path = path.display().to_string();
        if bytes.starts_with(b"OKAPISHD") || bytes.starts_with(b"OKAPIPAK") {
            let output = okapifs(&["shard", "inspect", &path]);
            assert!(output.status.success(), "{path}: {}", text(&output));
        }
        if bytes.starts_with(b"OKAPISHD") {
            inspected += 1;
            // Cut off.
            let cut = cluster.scratch().join("cut");
            fs::write(&cut, &bytes[..bytes.len() - 100]).expect("written");
            let output = okapifs(&["shard", "inspect", &cut.display().to_string()]);
            assert_eq!(output.status.code(), Some(1), "{}", text(&output));
            assert!(text(&output).contains("holds no whole shard"), "{}", text(&output));
        }
    }
    assert!(inspected > 0, "no shard was found");
}

fn machines_join_with_tokens() {
    let cluster = Cluster::new(2, 1, 1);
    let status = cluster.status();
    let monitor = status["monitors"][0]["address"].as_str().expect("text");
    let dir = |name: &str| cluster.scratch().join(name).display().to_string();
    let token = |more: &[&str]| new_token(&cluster, more);

    // A client, once.
    let good = token(&["--role", "client", "--name", "laptop"]);
    refused(&["join", monitor, &good[..good.len() - 9], "--dir", &dir("cut")], "copy all of it");
    success(Command::new(OKAPIFS).args(["join", monitor, &good, "--dir", &dir("laptop")]));
    refused(&["join", monitor, &good, "--dir", &dir("again")], "was used already, by laptop");
    refused(&["join", monitor, &good, "--dir", &dir("laptop")], "is not empty");
    success(Command::new(OKAPIFS).args(["status", "--cluster", &dir("laptop")]));
    let of_laptop = ["token", "new", "--role", "node", "--cluster", &dir("laptop")];
    refused(&of_laptop, "does not allow this");

    // Tokens that are of no use.
    let late = token(&["--role", "client", "--expires", "1s"]);
    let list = || text(&cluster.okapifs(&["token", "list"]));
    wait_for("the token expires", Duration::from_secs(10), || {
        list().contains("expired at").then_some(())
    });
    refused(&["join", monitor, &late, "--dir", &dir("late")], "this token expired at");
    let taken_back = token(&["--role", "client"]);
    assert!(cluster.okapifs(&["token", "revoke", &taken_back]).status.success());
    refused(&["join", monitor, &taken_back, "--dir", &dir("back")], "does not know this token");
    let other = success(Command::new(OKAPIFS).args(["init", &dir("other")]));
    let words = other.split_whitespace();
    let foreign = words.into_iter().find(|word| word.starts_with("okapi1")).expect("a token");
    refused(&["join", monitor, foreign, "--dir", &dir("foreign")], "of another cluster than");

    // A node, whose server is one of the cluster's from its start.
    let node = token(&["--role", "node", "--name", "extra"]);
    let place = ["--listen", "127.0.0.1:0", "--dir", &dir("node")];
    success(Command::new(OKAPIFS).args(["join", monitor, &node]).args(place));
    let home = format!("{}/server-extra", dir("node"));
    let server = Command::new(OKAPIFS).args(["server", "run", &home]).stderr(Stdio::null()).spawn();
    let mut server = server.expect("it can be run");
    cluster.wait_server("server-extra", true);
    server.kill().expect("it runs");
    server.wait().expect("it ends");
    // Its client may administrate.
    let client = format!("{}/client", dir("node"));
    success(Command::new(OKAPIFS).args(["token", "list", "--cluster", &client]));

    assert!(cluster.okapifs(&["client", "revoke", "laptop"]).status.success());
    refused(&["status", "--cluster", &dir("laptop")], "this machine was revoked");
}

/// A token of the cluster.
fn new_token(cluster: &Cluster, more: &[&str]) -> String {
    let root = cluster.root().display().to_string();
    let mut command = Command::new(OKAPIFS);
    command.args(["token", "new", "--cluster", &root]).args(more);
    success(&mut command).trim().to_owned()
}

fn a_client_is_kept_to_what_it_may_do() {
    let mut cluster = Cluster::new(2, 1, 1);
    let status = cluster.status();
    let monitor = status["monitors"][0]["address"].as_str().expect("text").to_owned();
    fs::create_dir(cluster.mnt().join("pub")).expect("made");
    fs::write(cluster.mnt().join("pub/file"), "content").expect("written");
    fs::write(cluster.mnt().join("secret"), "secret").expect("written");
    let dir = cluster.scratch().join("reader").display().to_string();
    let map = ["--uid-map", "0:5000:1"];
    let token = ["--role", "client", "--name", "reader", "--ro", "--subtree", "/pub"];
    let token = new_token(&cluster, &[&token[..], &map].concat());
    success(Command::new(OKAPIFS).args(["join", &monitor, &token, "--dir", &dir]));

    let mounted = cluster.mount_as(&dir, &format!("{monitor}:/pub"));
    assert_eq!(fs::read_to_string(mounted.join("file")).expect("it may read"), "content");
    let error = fs::write(mounted.join("file"), "other").expect_err("it may not write");
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));

    let whole = cluster.mount_as(&dir, &format!("{monitor}:/"));
    assert_eq!(fs::read_to_string(whole.join("pub/file")).expect("the way there"), "content");
    let error = fs::read_to_string(whole.join("secret")).expect_err("outside");
    assert_eq!(error.raw_os_error(), Some(libc::EACCES));
    let error = fs::read_dir(&whole).and_then(|mut entries| {
        entries.next().unwrap_or_else(|| panic!("an empty listing")).map(drop)
    });
    assert_eq!(error.expect_err("outside").raw_os_error(), Some(libc::EACCES));

    // Writable again, its root counts as user 5000 of the cluster.
    assert!(
        cluster.okapifs(&["client", "set", "reader", "--rw", "--subtree", "/"]).status.success()
    );
    let writable = cluster.mount_as(&dir, &format!("{monitor}:/pub"));
    fs::write(writable.join("mine"), "x").expect("written");
    let owner = |path: PathBuf| fs::metadata(path).expect("there").uid();
    assert_eq!(owner(writable.join("mine")), 0);
    assert_eq!(owner(cluster.mnt().join("pub/mine")), 5000);
}

/// Two certificates on one machine: a mount that starts closes the sessions of dead mounts at once, of its own
/// certificate only.
fn a_dead_mount_is_buried_by_its_own_alone() {
    let mut cluster = Cluster::new(2, 1, 1);
    let status = cluster.status();
    let monitor = status["monitors"][0]["address"].as_str().expect("text").to_owned();
    let source = format!("{monitor}:/");
    let dirs = ["one", "two"].map(|name| {
        let dir = cluster.scratch().join(name).display().to_string();
        let token = new_token(&cluster, &["--role", "client", "--name", name]);
        success(Command::new(OKAPIFS).args(["join", &monitor, &token, "--dir", &dir]));
        dir
    });
    let [one, two] = &dirs;
    cluster.mount_as(one, &source);
    let mounts_of_one = |cluster: &Cluster| -> Vec<(u64, u64)> {
        let status = cluster.status();
        let clients = status["clients"].as_array().expect("a list");
        let of_one = clients.iter().filter(|client| client["name"] == "one");
        let number = |value: &serde_json::Value| value.as_u64().expect("a number");
        of_one.map(|client| (number(&client["id"]), number(&client["pid"]))).collect()
    };
    let before = mounts_of_one(&cluster);
    let [(dead, pid)] = before[..] else { panic!("not one mount: {before:?}") };
    send(u32::try_from(pid).expect("a pid"), libc::SIGKILL);
    cluster.mount_as(two, &source);
    assert_eq!(mounts_of_one(&cluster), before, "it is none of the other's business");
    cluster.mount_as(one, &source);
    let after = mounts_of_one(&cluster);
    assert!(matches!(after[..], [(id, _)] if id != dead), "{after:?} after {before:?}");
}

fn what_is_in_force_is_shown() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let root = dir.path().join("c").display().to_string();
    success(Command::new(OKAPIFS).args(["init", &root, "--servers", "1"]));
    let server = format!("{root}/server-1");
    let mut command = Command::new(OKAPIFS);
    command.args(["config", &server, "--set", "capacity_bytes=7"]);
    command.env("OKAPIFS_SERVER_DOMAIN", "rack");
    let shown = success(&mut command);
    let of = |key: &str| {
        let mut lines = shown.lines().filter(|line| line.split_whitespace().nth(1) == Some(key));
        lines.next().unwrap_or_else(|| panic!("no {key} in {shown}")).to_owned()
    };
    assert!(of("listen").contains(":7002") && of("listen").contains("line "), "{shown}");
    assert!(of("domain").ends_with("OKAPIFS_SERVER_DOMAIN"), "{shown}");
    assert!(of("capacity_bytes").ends_with("--set"), "{shown}");
    assert!(of("advertise").ends_with("default"), "{shown}");
    let all = success(Command::new(OKAPIFS).args(["config", &root]));
    for file in ["monitor-1/monitor.toml", "server-1/server.toml", "client/okapifs.toml"] {
        assert!(all.contains(file), "{all}");
    }
    refused(&["server", "run", &server, "--set", "lisen=a"], "there is no such key");
    refused(&["config", &format!("{root}/ca")], "holds no configuration");
}

fn manual_pages_are_written() {
    let dir = tempfile::tempdir().expect("temporary directory");
    success(Command::new(OKAPIFS).arg("man").arg(dir.path()));
    let page =
        fs::read_to_string(dir.path().join("okapifs-mount.1")).expect("there is a page a command");
    assert!(page.contains("HOST"), "{page}");
}
