//! Several whole monitors over loopback: how they come together, and who is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::*;
use crate::crypto::{Authority, Role};
use crate::env::clock::{Clock, SystemClock};
use crate::env::system::rpc::Connection;
use crate::types::{MonitorRole, Program};
use crate::wire::admin;
use crate::wire::metadata::{Request, Response};
use crate::wire::peers::Profile;
use crate::wire::{self, decode, encode};

const LONG: Duration = Duration::from_secs(60);
const CLUSTER: ClusterId = ClusterId(0xdef);
const WIDTH: Width = Width { data: 1, parity: 1 };

/// What a monitor's configuration remembers of its starts before.
#[derive(Clone, Default)]
struct Memory {
    id: Option<MonitorId>,
    founded: bool,
}

/// Certificates, directories, and what each monitor's configuration says.
struct Cluster {
    authority: Authority,
    dir: tempfile::TempDir,
    memories: BTreeMap<String, Arc<Mutex<Memory>>>,
    running: BTreeMap<String, Running>,
    /// The level at which monitors are held that are started.
    held_at: Option<u32>,
}

struct Running {
    address: SocketAddr,
    shutdown: watch::Sender<bool>,
    task: JoinHandle<Result<(), RunError>>,
}

impl Cluster {
    fn new() -> Self {
        let authority = Authority::create(CLUSTER, SystemClock::new().now()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (memories, running) = (BTreeMap::new(), BTreeMap::new());
        Self { authority, dir, memories, running, held_at: None }
    }

    fn credentials(&self, role: Role, name: &str) -> Credentials {
        let issued = self.authority.issue(role, name, SystemClock::new().now()).unwrap();
        let ca = self.authority.cert_pem();
        Credentials::from_pem(ca, &issued.cert_pem, &issued.key_pem).unwrap()
    }

    fn dir_of(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What a monitor of that name would be started with in that directory.
    fn config(&mut self, name: &str, dir: &Path, founds: bool) -> Config {
        let memory = Arc::clone(self.memories.entry(name.to_owned()).or_default());
        let Memory { id, founded } = memory.lock().clone();
        let incarnation = Incarnation(1);
        let bootstrap = Bootstrap { cluster: CLUSTER, incarnation, width: WIDTH, min_copies: 2 };
        Config {
            dir: dir.to_owned(),
            listen: "127.0.0.1:0".to_owned(),
            id,
            monitors: self.running.values().map(|running| running.address.to_string()).collect(),
            agent: None,
            start: 0,
            replace_after: None,
            hold_level: self.held_at,
            credentials: self.credentials(Role::Monitor, name),
            bootstrap: (founds && !founded).then_some(bootstrap),
            remember: Box::new(move |milestone| {
                let mut memory = memory.lock();
                match milestone {
                    Milestone::Member(id) => memory.id = Some(id),
                    Milestone::Founded => memory.founded = true,
                }
                Ok(())
            }),
        }
    }

    async fn start(&mut self, name: &str) {
        let dir = self.dir_of(name);
        std::fs::create_dir_all(&dir).unwrap();
        let config = self.config(name, &dir, name == "m1");
        let (tell, told) = oneshot::channel();
        let (shutdown, stop) = watch::channel(false);
        let task = tokio::spawn(run(config, move |address| tell.send(address).unwrap(), stop));
        let address = tokio::time::timeout(LONG, told).await.expect("it is ready in time");
        let Ok(address) = address else { panic!("{name}: {:?}", task.await) };
        self.running.insert(name.to_owned(), Running { address, shutdown, task });
    }

    /// Starts a monitor that must be refused; gives the sentence.
    async fn refused(&mut self, name: &str, dir: &Path) -> String {
        let config = self.config(name, dir, false);
        let (_shutdown, stop) = watch::channel(false);
        let ended = tokio::time::timeout(LONG, run(config, |_| {}, stop)).await;
        ended.expect("it ends in time").unwrap_err().to_string()
    }

    /// A client's connection to a monitor.
    async fn connect(&self, name: &str) -> Connection {
        let credentials = self.credentials(Role::Client, "client");
        let (address, any) = (self.running[name].address.to_string(), Incarnation(0));
        let opened = Connection::open(&address, &credentials, Role::Monitor, any, LONG).await;
        opened.unwrap().0
    }

    async fn stop(&mut self, name: &str) {
        let running = self.running.remove(name).unwrap();
        running.shutdown.send_replace(true);
        running.task.await.unwrap().unwrap();
    }

    /// What is on the disks now is all that is left of these monitors; they start again.
    async fn crash(&mut self, names: &[&str]) {
        let image = |name: &str| self.dir_of(&format!("{name} after a crash"));
        for name in names {
            copy_dir(&self.dir_of(name), &image(name));
        }
        let images: Vec<PathBuf> = names.iter().map(|name| image(name)).collect();
        for name in names {
            self.stop(name).await;
        }
        for (name, image) in names.iter().zip(images) {
            std::fs::remove_dir_all(self.dir_of(name)).unwrap();
            std::fs::rename(image, self.dir_of(name)).unwrap();
        }
        for name in names {
            self.start(name).await;
        }
    }

    /// Asks every monitor until one answers as the leader does.
    async fn ask(&self, request: admin::Request) -> Result<admin::Response, Refusal> {
        let credentials = self.credentials(Role::Client, "admin");
        let began = Instant::now();
        while began.elapsed() < LONG {
            for running in self.running.values() {
                let address = running.address.to_string();
                let any = Incarnation(0);
                let opened = Connection::open(&address, &credentials, Role::Monitor, any, LONG);
                let Ok((connection, _)) = opened.await else { continue };
                let header = encode(&Request::Admin(request.clone()));
                let Ok((answer, _)) = connection.call(header, Vec::new(), LONG).await else {
                    continue;
                };
                match decode(&answer).unwrap() {
                    Response::Admin(answer) => return Ok(answer),
                    Response::Refused(Refusal::NoLeader) => {}
                    Response::Refused(refusal) => return Err(refusal),
                    other => panic!("{other:?}"),
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("nobody leads");
    }

    async fn status(&self) -> Vec<admin::MonitorStatus> {
        match self.ask(admin::Request::Status { node: String::new() }).await.unwrap() {
            admin::Response::Status(status) => status.monitors,
            other => panic!("{other:?}"),
        }
    }

    async fn remove(&self, name: &str, once_replaced: bool) -> Result<admin::Response, Refusal> {
        self.ask(admin::Request::RemoveMonitor { name: name.to_owned(), once_replaced }).await
    }

    /// Waits until exactly these are members, all with a vote or all without.
    async fn wait_for(&self, voters: &[&str], learners: &[&str]) {
        let began = Instant::now();
        loop {
            let status = self.status().await;
            let named = |learns: bool| -> Vec<&str> {
                let of = |one: &&admin::MonitorStatus| (one.role == MonitorRole::Learner) == learns;
                status.iter().filter(of).map(|one| one.name.as_str()).collect()
            };
            if named(false) == voters && named(true) == learners {
                return;
            }
            assert!(began.elapsed() < LONG, "never {voters:?} {learners:?}, but {status:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn monitors_come_together_survive_and_are_replaced() {
    let mut cluster = Cluster::new();
    cluster.start("m1").await;
    cluster.wait_for(&["m1"], &[]).await;
    cluster.start("m2").await;
    cluster.wait_for(&["m1"], &["m2"]).await;
    cluster.start("m3").await;
    cluster.wait_for(&["m1", "m2", "m3"], &[]).await;

    // The founder goes and comes back, at another address.
    cluster.stop("m1").await;
    cluster.wait_for(&["m1", "m2", "m3"], &[]).await;
    cluster.start("m1").await;
    let address = cluster.running["m1"].address.to_string();
    let began = Instant::now();
    while !cluster.status().await.iter().any(|one| one.name == "m1" && one.address == address) {
        assert!(began.elapsed() < LONG, "its new address is not known");
    }

    // One is lost for good, and replaced.
    cluster.stop("m2").await;
    cluster.remove("m2", true).await.unwrap();
    cluster.start("m4").await;
    cluster.wait_for(&["m1", "m3", "m4"], &[]).await;
    let why = cluster.refused("m2", &cluster.dir_of("m2")).await;
    assert!(why.contains("m2 was removed"), "{why}");

    // All of them stop and start.
    for name in ["m1", "m3", "m4"] {
        cluster.stop(name).await;
    }
    for name in ["m4", "m3", "m1"] {
        cluster.start(name).await;
    }
    cluster.wait_for(&["m1", "m3", "m4"], &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_soon_others_ask_the_founder_is_the_first_member() {
    for _ in 0..5 {
        let mut cluster = Cluster::new();
        let address = Listener::bind("127.0.0.1:0").unwrap().local_address();
        let config = cluster.config("m1", &cluster.dir_of("m1"), true);
        let config = Config { listen: address.to_string(), ..config };
        std::fs::create_dir_all(&config.dir).unwrap();
        let (stop, stopping) = watch::channel(false);
        let founder = tokio::spawn(run(config, |_| {}, stopping));
        let profile = peers::profile(address, None, 0, Program::this()).unwrap();
        join_at_once(&cluster.credentials(Role::Monitor, "m2"), address, profile).await;
        stop.send_replace(true);
        founder.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_speaks_the_clusters_level_and_who_cannot_is_refused() {
    let Levels { oldest, newest } = Levels::OURS;
    let mut cluster = Cluster::new();
    cluster.held_at = Some(oldest);
    cluster.start("m1").await;
    assert_eq!(cluster.connect("m1").await.level(), oldest);

    cluster.stop("m1").await;
    cluster.held_at = None;
    cluster.start("m1").await;
    loop {
        let connection = cluster.connect("m1").await;
        if connection.level() == newest {
            break;
        }
        let shown_out = tokio::time::timeout(LONG, connection.closed()).await;
        shown_out.expect("it is to come again when the level has risen");
    }

    cluster.held_at = Some(oldest);
    let dir = cluster.dir_of("m2");
    std::fs::create_dir_all(&dir).unwrap();
    let why = cluster.refused("m2", &dir).await;
    assert!(why.ends_with(&format!("is at level {newest} already: upgrade it")), "{why}");
    cluster.stop("m1").await;
    let why = cluster.refused("m1", &cluster.dir_of("m1")).await;
    assert!(why.contains("comes too late"), "{why}");
}

/// Asks without a pause until it is let in.
async fn join_at_once(credentials: &Credentials, founder: SocketAddr, profile: Profile) {
    let (founder, any) = (founder.to_string(), Incarnation(0));
    let ask = encode(&wire::peers::Request::Join(profile));
    let began = Instant::now();
    while began.elapsed() < LONG {
        let opened = Connection::open(&founder, credentials, Role::Monitor, any, LONG).await;
        let Ok((connection, _)) = opened else { continue };
        while let Ok((answer, _)) = connection.call(ask.clone(), Vec::new(), LONG).await {
            if matches!(decode(&answer).unwrap(), wire::peers::Response::Joined { .. }) {
                return;
            }
        }
    }
    panic!("it is never let in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_dies_before_the_state_is_on_the_disk_comes_back() {
    let mut cluster = Cluster::new();
    cluster.start("m1").await;
    cluster.crash(&["m1"]).await;
    cluster.wait_for(&["m1"], &[]).await;
    cluster.start("m2").await;
    cluster.start("m3").await;
    cluster.wait_for(&["m1", "m2", "m3"], &[]).await;
    cluster.crash(&["m1", "m2", "m3"]).await;
    cluster.wait_for(&["m1", "m2", "m3"], &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lost_its_disk_runs_twice_or_has_anothers_name_is_refused() {
    let mut cluster = Cluster::new();
    cluster.start("m1").await;
    cluster.start("m2").await;
    cluster.wait_for(&["m1"], &["m2"]).await;

    let copy = cluster.dir_of("copy");
    copy_dir(&cluster.dir_of("m2"), &copy);
    let why = cluster.refused("m2", &copy).await;
    assert!(why.contains("runs already"), "{why}");
    copy_dir(&cluster.dir_of("m1"), &cluster.dir_of("copy-1"));
    let why = cluster.refused("m1", &cluster.dir_of("copy-1")).await;
    assert!(why.contains("runs already"), "{why}");

    cluster.stop("m2").await;
    let empty = cluster.dir_of("empty");
    std::fs::create_dir(&empty).unwrap();
    let why = cluster.refused("m2", &empty).await;
    assert!(why.contains("are gone") && why.contains("okapifs monitor replace m2"), "{why}");
    cluster.memories.remove("m2");
    let why = cluster.refused("m2", &empty).await;
    assert!(why.contains("m2 is a member already"), "{why}");

    let why = cluster.remove("m1", false).await;
    assert!(why.is_ok(), "{why:?}");
    let why = cluster.remove("m2", false).await.unwrap_err().to_string();
    assert!(why.contains("m2 is the only monitor"), "{why}");
    let why = cluster.remove("m9", false).await.unwrap_err().to_string();
    assert!(why.contains("no monitor is called m9"), "{why}");
}
