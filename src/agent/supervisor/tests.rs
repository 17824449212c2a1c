//! The supervisor with real processes, which are shells here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::agent::stages::Role;
use crate::crypto::{self, Authority};
use crate::types::{ClusterId, Timestamp};

const PATIENCE: Duration = Duration::from_secs(20);

/// Notes its birth, says that it is ready, and does nothing.
const WORKS: &str = r#"echo "$4" >> $0.births; read -r stat < /proc/$$/stat; rest=${stat##*)}
    started=$(echo $rest | cut -d ' ' -f 20)
    echo "{\"pid\":$$,\"started\":$started,\"address\":\"nowhere:1\",\"start\":$4}" > $2.new
    mv $2.new $2; exec sleep 600"#;
/// Is never ready.
const STARTS: &str = "echo \"$4\" >> $0.births; exec sleep 600";
const FAILS: &str = "echo \"$4\" >> $0.births; echo it is out of order >&2; exit 3";

/// A node with one monitor, whose script may be changed.
#[derive(Clone)]
struct Shells {
    dir: PathBuf,
    script: Arc<Mutex<&'static str>>,
}

impl Node for Shells {
    fn units(&self) -> Result<Vec<Unit>, String> {
        Ok(vec![unit()])
    }

    fn launch(&self, unit: &Unit) -> Result<Launch, String> {
        let name = self.dir.join(&unit.name).into_os_string();
        Ok(Launch {
            name: unit.name.clone(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), (*self.script.lock()).into(), name],
            run_dir: self.dir.clone(),
            log_file: self.dir.join("log"),
        })
    }

    fn retired(&self, unit: &Unit) -> Option<String> {
        let gone = self.dir.join(format!("{}.gone", unit.name)).exists();
        gone.then(|| "it was removed".to_owned())
    }
}

fn unit() -> Unit {
    Unit { role: Role::Monitor, name: "monitor-1".to_owned() }
}

struct Agent {
    handle: Handle,
    end: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Agent {
    fn start(shells: &Shells) -> Self {
        let now = Timestamp { seconds: 1_790_000_000, nanos: 0 };
        let authority = Authority::create(ClusterId(3), now).expect("an authority");
        let issued = authority.issue(crypto::Role::Agent, "agent", now).expect("issued");
        let pem = (authority.cert_pem(), issued.cert_pem, issued.key_pem);
        let parts = Parts {
            node: Box::new(shells.clone()),
            starts: Starts::open(shells.dir.join("starts.json")).expect("readable"),
            // Shells answer nobody, and are not to be killed for it.
            policy: Policy::Leave,
            credentials: Credentials::from_pem(pem.0, &pem.1, &pem.2).expect("usable"),
            notifier: Notifier::default(),
        };
        let (supervisor, handle) = Supervisor::new(parts).expect("a node");
        let (end, shutdown) = watch::channel(false);
        Self { handle, end, task: tokio::spawn(supervisor.run(shutdown)) }
    }

    async fn wait_for(&self, state: UnitState) -> UnitStatus {
        let since = Instant::now();
        loop {
            let unit = self.handle.status().await.expect("it runs").remove(0);
            if unit.state == state {
                return unit;
            }
            assert!(since.elapsed() < PATIENCE, "not {state:?} but {unit:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// As if it were killed: nothing more happens, and nobody is told.
    async fn crash(self) {
        self.task.abort();
        assert!(self.task.await.is_err_and(|error| error.is_cancelled()));
    }
}

/// Kills the unit's process, if it has one.
fn kill(dir: &Path) {
    if let Some((running, _)) = super::super::processes::find(dir, "monitor-1") {
        running.signal(libc::SIGKILL).expect("ours");
    }
}

fn births(dir: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(dir.join("monitor-1.births")).unwrap_or_default();
    text.lines().map(|line| line.parse().expect("a number")).collect()
}

fn shells(script: &'static str) -> (tempfile::TempDir, Shells) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let shells = Shells { dir: dir.path().to_owned(), script: Arc::new(Mutex::new(script)) };
    (dir, shells)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_siblings_ask_twenty_times_and_each_time_it_is_started_once() {
    let (dir, shells) = shells(WORKS);
    let agent = Agent::start(&shells);
    for start in 1..=20 {
        let up = agent.wait_for(UnitState::Up).await;
        assert_eq!((up.start, births(dir.path()).len() as u64), (start, start));
        kill(dir.path());
        agent.wait_for(UnitState::Ended).await;
        let asks = [agent.handle.clone(), agent.handle.clone()].map(|handle| {
            tokio::spawn(async move { handle.restart("monitor-1".to_owned(), start).await })
        });
        let mut outcomes = Vec::new();
        for ask in asks {
            outcomes.push(ask.await.expect("no panic").expect("an answer"));
        }
        outcomes.sort_by_key(|outcome| matches!(outcome, Outcome::Started(_)));
        assert_eq!(outcomes, [Outcome::Already(start + 1), Outcome::Started(start + 1)]);
    }
    agent.wait_for(UnitState::Up).await;
    assert_eq!(births(dir.path()), (1..=21).collect::<Vec<u64>>());
    kill(dir.path());
}

#[tokio::test]
async fn an_agent_that_comes_back_finds_what_is_ready_and_what_is_not() {
    for (script, state) in [(WORKS, UnitState::Up), (STARTS, UnitState::Starting)] {
        let (dir, shells) = shells(script);
        let agent = Agent::start(&shells);
        let before = agent.wait_for(state).await;
        agent.crash().await;
        let agent = Agent::start(&shells);
        let after = agent.wait_for(state).await;
        assert_eq!((after.pid, after.start), (before.pid, 1));
        assert_eq!(
            agent.handle.restart("monitor-1".to_owned(), 0).await,
            Some(Outcome::Already(1))
        );
        kill(dir.path());
        // It is not its child, and is heard of all the same.
        agent.wait_for(UnitState::Ended).await;
        agent.handle.refresh().await.expect("it runs").expect("a node");
        let again = agent.wait_for(state).await;
        assert_eq!(again.start, 2);
        assert_ne!(again.pid, before.pid);
        kill(dir.path());
        agent.end.send_replace(true);
        agent.task.await.expect("no panic");
    }
}

#[tokio::test]
async fn what_fails_says_why_and_what_is_mended_works() {
    let (dir, shells) = shells(FAILS);
    let agent = Agent::start(&shells);
    let failed = agent.wait_for(UnitState::Ended).await;
    assert_eq!((failed.failures, failed.pid, failed.address), (1, None, None));
    assert!(failed.trouble.contains("it is out of order"), "{}", failed.trouble);
    assert!(failed.trouble.contains("exit status: 3"), "{}", failed.trouble);
    *shells.script.lock() = WORKS;
    agent.handle.refresh().await.expect("it runs").expect("a node");
    let up = agent.wait_for(UnitState::Up).await;
    assert_eq!((up.failures, up.start, up.trouble.as_str()), (0, 2, ""));
    kill(dir.path());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_cluster_has_let_go_is_not_started_again() {
    let (_dir, shells) = shells("echo gone > \"$0.gone\"; exit 1");
    let agent = Agent::start(&shells);
    let gone = agent.wait_for(UnitState::Retired).await;
    assert_eq!((gone.start, gone.failures), (1, 0));
    assert_eq!(gone.trouble, "it was removed");
    agent.handle.refresh().await.expect("it runs").expect("a node");
    assert_eq!(agent.handle.restart("monitor-1".to_owned(), 1).await, Some(Outcome::NotMine));
    assert_eq!(agent.wait_for(UnitState::Retired).await.start, 1);
    agent.crash().await;
    let again = Agent::start(&shells);
    assert_eq!(again.wait_for(UnitState::Retired).await.start, 1, "another agent knows it too");
    again.crash().await;
}
