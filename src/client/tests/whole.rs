//! The whole client between stand-ins of the kernel (this test) and of the cluster ([`super::fakes`]).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::fakes::{FakeMonitors, FakeShards, Mood};
use crate::client::Config;
use crate::client::fs::{Caller, Fs, Handle, OpenMode, SetAttr};
use crate::client::link::{Monitors, Shards};
use crate::client::session::Session;
use crate::crypto::{Authority, Credentials, Role};
use crate::env::clock::{Clock, SystemClock};
use crate::types::{ClusterId, Errno, Ino, Program, Timestamp};
use crate::wire::metadata::{ClientInfo, Notice};

struct Mounted {
    fs: Arc<Fs>,
    monitors: Arc<FakeMonitors>,
    shards: Arc<FakeShards>,
    notices: mpsc::UnboundedSender<Notice>,
}

pub(super) const BOTH: OpenMode =
    OpenMode { read: true, write: true, append: false, sync: false, no_atime: false };

async fn mounted() -> Mounted {
    mounted_with(config()).await
}

async fn mounted_with(config: Config) -> Mounted {
    let monitors = Arc::new(FakeMonitors::default());
    let shards = Arc::new(FakeShards::default());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let asked = Arc::clone(&monitors) as Arc<dyn Monitors>;
    let (session, lost) = Session::open(asked, clock, client_info()).await.expect("a session");
    let (notices, told) = mpsc::unbounded_channel();
    let servers = Arc::clone(&shards) as Arc<dyn Shards>;
    let fs = Fs::assemble(config, session, (servers, Arc::default()), told, lost);
    Mounted { fs, monitors, shards, notices }
}

pub(super) fn client_info() -> ClientInfo {
    ClientInfo {
        node: String::new(),
        boot: String::new(),
        run_lock: String::new(),
        host: String::new(),
        mountpoint: String::new(),
        pid: 1,
        program: Program::this(),
    }
}

pub(super) fn config() -> Config {
    let now = SystemClock::new().now();
    let authority = Authority::create(ClusterId(7), now).expect("an authority");
    let issued = authority.issue(Role::Client, "test", now).expect("a certificate");
    let credentials =
        Credentials::from_pem(authority.cert_pem(), &issued.cert_pem, &issued.key_pem);
    Config {
        monitors: vec![],
        subdir: vec![],
        credentials: credentials.expect("credentials"),
        mountpoint: String::new(),
        run_dir: "/nowhere".into(),
        config_dir: "/nowhere".into(),
        read_only: false,
        no_atime: true,
        sync_on_close: false,
    }
}

impl Mounted {
    async fn create(&self, name: &str) -> (Ino, Handle) {
        let caller = Caller { uid: 0, gid: 0, umask: 0o022 };
        let created = self.fs.create(caller, Ino::ROOT, name.as_bytes(), 0o644, BOTH).await;
        let (attr, handle) = created.expect("created");
        (attr.ino, handle)
    }

    async fn write(&self, handle: Handle, offset: u64, data: &[u8]) {
        if self.fs.try_write(handle, Some(offset), data).is_none() {
            let data = Bytes::copy_from_slice(data);
            self.fs.write(handle, Some(offset), data, false).await.expect("written");
        }
    }

    async fn read(&self, handle: Handle, offset: u64, size: u32) -> Vec<u8> {
        let parts = match self.fs.try_read(handle, offset, size) {
            Some(parts) => parts,
            None => self.fs.read(handle, offset, size).await,
        };
        parts.expect("read").concat()
    }

    /// Closes the file and waits until the grant is given back.
    async fn close(&self, ino: Ino, handle: Handle) {
        self.fs.release(handle).await;
        self.fs.sync_all().await.expect("committed");
        let released = async {
            while self.monitors.is_held(ino) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), released).await.expect("released");
    }

    async fn write_and_close(&self, name: &str, content: &[u8]) -> Ino {
        let (ino, handle) = self.create(name).await;
        for (at, part) in content.chunks(1 << 20).enumerate() {
            self.write(handle, (at as u64) << 20, part).await;
        }
        self.close(ino, handle).await;
        ino
    }

    async fn check(&self, ino: Ino, content: &[u8]) {
        let handle = self.fs.open(ino, BOTH).await.expect("opened");
        for at in (0..content.len()).step_by(300_000) {
            let end = content.len().min(at + 300_000);
            let read = self.read(handle, at as u64, 300_000).await;
            assert!(read == content[at..end], "bytes {at}..{end}");
        }
        self.fs.release(handle).await;
    }
}

fn content(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..length.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(length).collect()
}

#[tokio::test]
async fn a_stream_comes_back_as_it_was_written() {
    let mounted = mounted().await;
    let data = content((20 << 20) + 4321);
    let ino = mounted.write_and_close("a", &data).await;
    assert_eq!(mounted.monitors.attr(ino).size, data.len() as u64);
    mounted.check(ino, &data).await;
    let widths = mounted.monitors.widths();
    assert!(widths.len() <= 4 && widths.iter().all(|width| *width == (2, 1)), "{widths:?}");
}

#[tokio::test]
async fn many_small_files_share_a_stripe_and_bring_their_md5() {
    let mounted = mounted().await;
    let mut files = Vec::new();
    for at in 0..300 {
        let (ino, handle) = mounted.create(&format!("f{at}")).await;
        mounted.write(handle, 0, &content(at * 7)).await;
        mounted.fs.release(handle).await;
        files.push((ino, content(at * 7)));
    }
    mounted.fs.sync_all().await.expect("committed");
    assert!(mounted.monitors.widths().len() <= 3, "{:?}", mounted.monitors.widths());
    for (ino, data) in &files {
        mounted.check(*ino, data).await;
        let md5 = mounted.fs.getxattr(*ino, b"user.okapifs.md5").await.expect("an MD5");
        let digest: [u8; 16] = <md5::Md5 as md5::Digest>::digest(data).into();
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(md5, hex.into_bytes());
    }
}

#[tokio::test]
async fn partial_blocks_are_completed_from_what_is_committed() {
    let mounted = mounted().await;
    let mut data = content(50_000);
    let ino = mounted.write_and_close("a", &data).await;
    let handle = mounted.fs.open(ino, BOTH).await.expect("opened");
    for offset in [10usize, 4090, 20_001, 49_990] {
        mounted.write(handle, offset as u64, &[7; 100]).await;
        data.resize(data.len().max(offset + 100), 0);
        data[offset..offset + 100].fill(7);
    }
    assert_eq!(mounted.fs.getattr(ino).await.expect("attributes").size, data.len() as u64);
    mounted.check(ino, &data).await;
    mounted.close(ino, handle).await;
    mounted.check(ino, &data).await;
}

#[tokio::test]
async fn a_range_is_copied_within_its_own_file() {
    let mounted = mounted().await;
    let mut data = content(100_000);
    let ino = mounted.write_and_close("a", &data).await;
    let handle = mounted.fs.open(ino, BOTH).await.expect("opened");
    let copied = mounted.fs.copy_range(handle, 4096, handle, 40_960, 20_480).await;
    assert_eq!(copied.expect("copied"), 20_480);
    data.copy_within(4096..24_576, 40_960);
    mounted.check(ino, &data).await;
    let ragged = mounted.fs.copy_range(handle, 1, handle, 40_960, 100).await;
    assert_eq!(ragged, Err(Errno::NotSupported), "the kernel copies bytes then");
    mounted.close(ino, handle).await;
    mounted.check(ino, &data).await;
}

#[tokio::test]
async fn truncation_leaves_zeros_behind() {
    let mounted = mounted().await;
    let mut data = content(30_000);
    let ino = mounted.write_and_close("a", &data).await;
    let size = |size| SetAttr { size: Some(size), ..SetAttr::default() };
    mounted.fs.setattr(ino, size(10_001)).await.expect("cut");
    let attr = mounted.fs.setattr(ino, size(20_000)).await.expect("grown");
    assert_eq!(attr.size, 20_000);
    data.truncate(10_001);
    data.resize(20_000, 0);
    mounted.check(ino, &data).await;
}

#[tokio::test]
async fn a_time_that_a_program_sets_outlives_the_writes_before_it() {
    let mounted = mounted().await;
    let (ino, handle) = mounted.create("a").await;
    mounted.write(handle, 0, &content(5000)).await;
    let mtime = Timestamp { seconds: 1_000_000, nanos: 5 };
    let set = SetAttr { mtime: Some(mtime), ..SetAttr::default() };
    assert_eq!(mounted.fs.setattr(ino, set).await.expect("set").mtime, mtime);
    mounted.close(ino, handle).await;
    assert_eq!(mounted.monitors.attr(ino).mtime, mtime);
}

#[tokio::test]
async fn a_recall_has_everything_committed_and_released() {
    let mounted = mounted().await;
    let (ino, handle) = mounted.create("a").await;
    let data = content(100_000);
    mounted.write(handle, 0, &data).await;
    mounted.notices.send(Notice::Recall(vec![ino])).expect("heard");
    let released = async {
        while mounted.monitors.is_held(ino) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), released).await.expect("released");
    assert_eq!(mounted.monitors.attr(ino).size, 100_000);
    mounted.write(handle, 100_000, b"more").await;
    mounted.close(ino, handle).await;
    mounted.check(ino, &[&data[..], b"more"].concat()).await;
}

#[tokio::test]
async fn a_refused_commit_is_written_again_beneath_newer_data() {
    let mounted = mounted().await;
    let (ino, handle) = mounted.create("a").await;
    let mut data = content(9 << 20);
    mounted.monitors.refuse_commits.store(2, Ordering::Relaxed);
    for (at, part) in data.chunks(1 << 20).enumerate() {
        mounted.write(handle, (at as u64) << 20, part).await;
    }
    mounted.write(handle, 4096, &[9; 8192]).await;
    data[4096..12_288].fill(9);
    mounted.fs.fsync(handle).await.expect("durable");
    mounted.check(ino, &data).await;
    mounted.close(ino, handle).await;
    mounted.check(ino, &data).await;
}

#[tokio::test]
async fn servers_that_die_or_hang_make_stripes_narrower() {
    for mood in [Mood::Dead, Mood::Hung] {
        let mounted = mounted().await;
        let data = content(9 << 20);
        mounted.shards.set(2, mood);
        let begin = std::time::Instant::now();
        let ino = mounted.write_and_close("a", &data).await;
        assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
        assert!(mounted.monitors.widths().iter().all(|width| *width == (1, 1)));
        mounted.check(ino, &data).await;
    }
}

#[tokio::test]
async fn missing_silent_and_damaged_shards_are_decoded_around() {
    for mood in [Mood::Dead, Mood::Hung, Mood::Lying] {
        for server in 1..=3 {
            let mounted = mounted().await;
            let data = content(3 << 20);
            let ino = mounted.write_and_close("a", &data).await;
            mounted.shards.set(server, mood);
            mounted.check(ino, &data).await;
        }
    }
}

/// The process was stopped for longer than its lease, say, and nobody has changed its files meanwhile.
#[tokio::test]
async fn what_was_not_committed_when_the_session_was_evicted_is_written_again() {
    let mounted = mounted().await;
    let (ino, handle) = mounted.create("a").await;
    let mut data = content(100_000);
    mounted.write(handle, 0, &data).await;
    mounted.fs.fsync(handle).await.expect("durable");
    for at in [50_000, 99_998] {
        mounted.write(handle, at, b"kept").await;
        data.resize(data.len().max(at as usize + 4), 0);
        data[at as usize..at as usize + 4].copy_from_slice(b"kept");
    }
    mounted.monitors.evict();
    mounted.fs.fsync(handle).await.expect("durable");
    assert_eq!(mounted.monitors.attr(ino).size, 100_002);
    mounted.check(ino, &data).await;
    mounted.write(handle, 60_000, b"more").await;
    data[60_000..60_004].copy_from_slice(b"more");
    mounted.create("b").await;
    mounted.close(ino, handle).await;
    mounted.check(ino, &data).await;
}

/// Some of it is dirty, some of it frozen, and lies over one another.
#[tokio::test]
async fn what_was_on_its_way_when_the_session_was_evicted_comes_in_its_order() {
    let mounted = mounted().await;
    let (ino, handle) = mounted.create("a").await;
    mounted.write(handle, 0, &content(100_000)).await;
    mounted.fs.fsync(handle).await.expect("durable");
    mounted.shards.set(1, Mood::Dead);
    mounted.shards.set(2, Mood::Dead);
    mounted.write(handle, 0, &[1; 8192]).await;
    let waits = mounted.fs.fsync(handle);
    tokio::time::timeout(Duration::from_millis(300), waits)
        .await
        .expect_err("one server is not enough");
    mounted.write(handle, 4096, &[2; 8192]).await;
    mounted.monitors.evict();
    mounted.fs.lookup(Ino::ROOT, b"a").await.expect("found");
    mounted.write(handle, 8192, &[3; 4096]).await;
    let mut data = content(100_000);
    data[..4096].fill(1);
    data[4096..8192].fill(2);
    data[8192..12_288].fill(3);
    let read = mounted.read(handle, 0, 12_288).await;
    assert!(read == data[..12_288], "as if nothing had happened");
    mounted.shards.heal(1);
    mounted.shards.heal(2);
    mounted.fs.fsync(handle).await.expect("durable");
    mounted.close(ino, handle).await;
    mounted.check(ino, &data).await;
}

/// The one who was cut off hears it once, and what it wrote is kept where the log says.
#[tokio::test]
async fn what_others_have_changed_meanwhile_is_not_overwritten() {
    let dir = tempfile::tempdir().expect("a directory");
    let mounted = mounted_with(Config { run_dir: dir.path().to_owned(), ..config() }).await;
    let (ino, handle) = mounted.create("a").await;
    let (removed, gone) = mounted.create("b").await;
    let (closed, handle_of_closed) = mounted.create("c").await;
    for handle in [handle, gone, handle_of_closed] {
        mounted.write(handle, 0, b"before").await;
        mounted.fs.fsync(handle).await.expect("durable");
        mounted.write(handle, 4096, b"written").await;
    }
    mounted.fs.release(handle_of_closed).await;
    mounted.monitors.evict();
    mounted.monitors.cut_by_another(ino);
    mounted.monitors.cut_by_another(closed);
    mounted.monitors.remove_by_another(removed);
    assert_eq!(mounted.fs.fsync(handle).await, Err(Errno::Io));
    mounted.fs.fsync(handle).await.expect("it is said once");
    assert_eq!(mounted.fs.fsync(gone).await, Err(Errno::Io));
    assert_eq!(mounted.fs.getattr(ino).await.expect("attributes").size, 0);
    // The file that was closed is settled by itself. This waits for it, and fails if it was not settled before.
    mounted.fs.sync_all().await.ok();
    mounted.write(handle, 0, b"after").await;
    mounted.close(ino, handle).await;
    mounted.check(ino, b"after").await;
    for ino in [ino, removed, closed] {
        let parked = dir.path().join(format!("parked/inode-{ino}-0"));
        let kept = std::fs::read(parked).expect("it is kept");
        assert_eq!(&kept[4096..], b"written");
    }
    let reopened = mounted.fs.open(closed, BOTH).await.expect("opened");
    assert_eq!(mounted.fs.flush(reopened, false).await, Err(Errno::Io), "nobody has said it yet");
    mounted.close(closed, reopened).await;
}

#[tokio::test]
async fn a_file_whose_last_commit_fails_for_good_can_be_used_again() {
    let mounted = mounted().await;
    let (ino, handle) = mounted.create("a").await;
    mounted.write(handle, 0, &content(5000)).await;
    mounted.monitors.refuse_commits.store(9, Ordering::Relaxed);
    mounted.fs.release(handle).await;
    mounted.fs.sync_all().await.expect_err("it was refused too often");
    let again = async {
        let handle = mounted.fs.open(ino, BOTH).await.expect("opened");
        mounted.fs.flush(handle, false).await.expect_err("it says so");
        mounted.write(handle, 0, b"again").await;
        mounted.fs.fsync(handle).await.expect("durable");
        mounted.close(ino, handle).await;
    };
    tokio::time::timeout(Duration::from_secs(10), again).await.expect("nobody waits for ever");
}

#[tokio::test]
async fn two_renewals_at_once_do_not_use_up_the_credit() {
    let mounted = mounted().await;
    let session = &mounted.fs.session;
    session.spend_credit(1 << 20);
    tokio::join!(session.renew(), session.renew());
    assert_eq!(session.credit(), 1 << 40);
}

/// Small numbers from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % end
    }
}

/// Several programs write to one file, each to its own part, not in blocks, while the file is recalled again and
/// again and commits are refused: each reads what it wrote last, always.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_of_one_file_do_not_disturb_one_another() {
    const PART: u64 = 50_001;
    let mounted = Arc::new(mounted().await);
    let (ino, handle) = mounted.create("a").await;
    let writer = |mounted: Arc<Mounted>, number: u64| async move {
        let mut random = Random(number * 7919 + 1);
        let mut model = vec![0; PART as usize];
        for round in 0..150 {
            let start = random.below(PART);
            let length = (1 + random.below(12_000)).min(PART - start);
            let data = vec![random.below(255) as u8 + 1; length as usize];
            mounted.write(handle, number * PART + start, &data).await;
            model[start as usize..(start + length) as usize].copy_from_slice(&data);
            match random.below(10) {
                0 => mounted.fs.fsync(handle).await.expect("durable"),
                1 => drop(mounted.notices.send(Notice::Recall(vec![ino]))),
                2 => mounted.monitors.refuse_commits.store(1, Ordering::Relaxed),
                _ => {}
            }
            let read = mounted.read(handle, number * PART, PART as u32).await;
            assert!(read == model[..read.len()], "writer {number}, round {round}");
        }
        model
    };
    let writers: Vec<_> =
        (0..6).map(|number| tokio::spawn(writer(Arc::clone(&mounted), number))).collect();
    let mut content = Vec::new();
    for writer in writers {
        let model = tokio::time::timeout(Duration::from_secs(60), writer).await;
        content.extend(model.expect("nobody waits for ever").expect("no writer fails"));
    }
    mounted.monitors.refuse_commits.store(0, Ordering::Relaxed);
    let size = mounted.fs.getattr(ino).await.expect("attributes").size;
    content.truncate(size as usize);
    mounted.check(ino, &content).await;
    mounted.close(ino, handle).await;
    mounted.check(ino, &content).await;
}
