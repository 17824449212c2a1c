//! pjdfstest, which looks at what each call on names and attributes does and refuses, and fsx, which mixes all ways
//! of changing one file's content and knows at every moment what it must read.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::common::cluster::{Cluster, text};
use super::common::runner::{long, skip};
use super::common::tools::program;

/// What pjdfstest cannot try on FUSE; docs/posix.md explains each.
const SKIPPED: &[&str] = &["link::link_count_max"];

pub(crate) fn pjdfstest_finds_nothing() {
    let cluster = Cluster::new(3, 2, 1);
    // Other users have to get to it.
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(cluster.scratch(), open).expect("changed");
    for dir in [cluster.mnt(), cluster.scratch().to_owned()] {
        fs::create_dir(dir.join("pjdfstest")).expect("made");
    }
    // What makes the mount read-only needs a process of its own: others leave files open, and then it is busy.
    let (passed, skipped) = pjdfstest(&cluster, false);
    let (remounting, others): (Vec<_>, Vec<_>) =
        skipped.into_iter().partition(|name| name.contains("erofs"));
    assert_eq!(others, SKIPPED);
    let (passed_remounting, skipped) = pjdfstest(&cluster, true);
    assert!(skipped.is_empty(), "{skipped:?}");
    assert_eq!(passed_remounting.len(), remounting.len());
    println!("pjdfstest: {} checks passed", passed.len() + remounting.len());
    assert!(passed.len() > 350, "fewer checks than there are: {passed:?}");
    cluster.sync();
    cluster.assert_clean();
}

/// Runs all checks, or all that make the mount read-only; which passed and which were skipped.
fn pjdfstest(cluster: &Cluster, remounting: bool) -> (Vec<String>, Vec<String>) {
    let config = cluster.scratch().join("pjdfstest.toml");
    fs::write(&config, pjdfstest_config(remounting)).expect("written");
    let pjdfstest = program("pjdfstest", "0.2.2");
    let mut run = Command::new(&pjdfstest);
    if remounting {
        run = with_mount_helper(cluster, &pjdfstest);
    }
    run.arg("-c").arg(&config).arg("-p").arg(cluster.mnt().join("pjdfstest"));
    run.arg("-s").arg(cluster.scratch().join("pjdfstest"));
    if remounting {
        run.arg("erofs");
    }
    let output = run.output().expect("it can be run");
    let said = text(&output);
    if !output.status.success() {
        // What it says of a check that failed follows it; what passed is of no use to the reader.
        let lines = said.lines().filter(|line| !line.ends_with(" ok"));
        panic!("it ended with {}:\n{}", output.status, lines.collect::<Vec<_>>().join("\n"));
    }
    let with = |end: &str| -> Vec<String> {
        let names = said.lines().filter_map(|line| line.strip_suffix(end)).map(str::trim_end);
        names.filter(|name| !name.contains(' ')).map(str::to_owned).collect()
    };
    (with(" ok"), with("skipped"))
}

/// A program that sees the helper with which mount(8) remounts what is not in fstab, in a mount namespace of its own.
fn with_mount_helper(cluster: &Cluster, program: &Path) -> Command {
    let sbin = cluster.scratch().join("sbin");
    fs::create_dir(&sbin).expect("made");
    let helper = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-helpers/mount.okapifs");
    fs::copy(helper, sbin.join("mount.fuse.okapifs")).expect("copied");
    let script = r#"mount --make-rprivate / && mount --bind "$0" /sbin && exec "$@""#;
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script]).arg(sbin).arg(program);
    command
}

/// All that Linux has; and two users of this machine that are not root, who lose nothing by it: all they do happens on
/// the mount.
fn pjdfstest_config(remounting: bool) -> String {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let name_of_group = |wanted: &str| {
        let mut groups = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
        groups.find(|group| group.get(2) == Some(&wanted)).map(|group| group[0].to_owned())
    };
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entries: Vec<String> = users
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .filter(|user| user.len() > 3 && user[2] != "0" && user[3] != "0")
        .filter_map(|user| Some(format!("[{:?}, {:?}]", user[0], name_of_group(user[3])?)))
        .take(2)
        .collect();
    if entries.len() < 2 {
        skip("/etc/passwd has no two users beside root");
    }
    format!(
        "[features]\nposix_fallocate = {{}}\nrename_ctime = {{}}\nstat_st_birthtime = {{}}\n\
         utime_now = {{}}\nutimensat = {{}}\n\
         [settings]\nnaptime = 0.01\nallow_remount = {remounting}\n\
         [dummy_auth]\nentries = [{}]\n",
        entries.join(", ")
    )
}

pub(crate) fn fsx_on_one_mount() {
    let cluster = Cluster::new(3, 2, 1);
    fsx(&cluster, [&cluster.mnt(), &cluster.mnt()], 1);
}

pub(crate) fn fsx_on_two_mounts() {
    let mut cluster = Cluster::new(3, 2, 1);
    let mounts = [cluster.mnt(), cluster.add_mount()];
    fsx(&cluster, [&mounts[0], &mounts[1]], 21);
}

/// Always two at once, on files of their own. One of each two works beside a program that has the file open for
/// writing only: then nothing goes through the kernel's page cache but mappings.
fn fsx(cluster: &Cluster, mounts: [&Path; 2], first_seed: u64) {
    let fsx = program("fsx", "0.3.2");
    // With `--long` both tests together, which run at the same time, do 20 seeds.
    let (seeds, operations) = if long() { (10, 100_000) } else { (2, 2000) };
    for seed in (first_seed..first_seed + seeds).step_by(2) {
        let config = cluster.scratch().join(format!("fsx-{seed}.toml"));
        fs::write(&config, fsx_config(seed)).expect("written");
        let run = |mount: &Path, seed: u64| -> Child {
            println!("fsx: {operations} operations from seed {seed}");
            let mut run = Command::new(&fsx);
            run.arg("-f").arg(&config).arg("-P").arg(cluster.scratch());
            run.args(["-N", &operations.to_string(), "-S", &seed.to_string()]);
            run.arg(mount.join(format!("fsx-{seed}")));
            run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be run")
        };
        let beside = File::create(mounts[1].join(format!("fsx-{}", seed + 1))).expect("made");
        let runs = [run(mounts[0], seed), run(mounts[1], seed + 1)];
        let since = Instant::now();
        for (run, seed) in runs.into_iter().zip(seed..) {
            let output = run.wait_with_output().expect("it ends");
            assert!(output.status.success(), "seed {seed}: {}", text(&output));
            println!("fsx: seed {seed} ended after {:.0} s", since.elapsed().as_secs_f32());
        }
        drop(beside);
    }
    cluster.sync();
    cluster.assert_clean();
}

/// Every kind of operation there is. With every other pair of seeds, what was written through a mapping is left to the
/// kernel to write back.
fn fsx_config(seed: u64) -> String {
    format!(
        "flen = 1048576\nnomsyncafterwrite = {}\n\
         [opsize]\nmax = 131072\n\
         [weights]\nclose_open = 1\ninvalidate = 1\nread = 10\nwrite = 10\nmapread = 10\n\
         mapwrite = 10\ntruncate = 3\nfsync = 0.3\nfdatasync = 0.3\nposix_fallocate = 2\n\
         punch_hole = 5\nsendfile = 2\nposix_fadvise = 1\ncopy_file_range = 5\n",
        seed % 4 < 2
    )
}
