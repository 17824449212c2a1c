//! The links to several small monitors: who is asked when the leader hangs, goes, or cannot be reached.

use std::time::{Duration, Instant};

use super::fake::{FakeCluster, FakeMonitor, Mode};
use super::*;
use crate::types::SessionId;
use crate::wire::metadata::{Request, Response};

/// Longer than any test may take: nothing here is found out by waiting for it.
const LONG: Duration = Duration::from_secs(60);
const QUESTION: Request = Request::CloseSession(SessionId(7));

fn links(cluster: &FakeCluster, monitors: &[&FakeMonitor]) -> MonitorLinks {
    let addresses: Vec<String> = monitors.iter().map(|monitor| monitor.address.clone()).collect();
    MonitorLinks::start(&addresses, cluster.credentials(Role::Client), Incarnation(0)).0
}

/// An address where nobody listens.
fn nobody() -> String {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().to_string()
}

async fn answered(links: &MonitorLinks) {
    let began = Instant::now();
    let answer = links.ask(&QUESTION, LONG, LONG).await.unwrap();
    assert_eq!(answer, Response::Done);
    assert!(began.elapsed() < LONG / 2, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_hangs_is_left_as_soon_as_another_is_announced() {
    let cluster = FakeCluster::new(1);
    let mut hung = cluster.monitor(Mode::Hangs);
    let next = cluster.monitor(Mode::Answers);
    hung.announce(1, &hung.address);
    next.announce(1, &hung.address);
    let links = links(&cluster, &[&hung, &next]);
    let at_hung = |target: &Option<Target>| {
        target.as_ref().is_some_and(|target| target.address == hung.address)
    };
    links.target().wait_for(at_hung).await.unwrap();
    let election = async {
        assert_eq!(hung.asked.recv().await, Some(QUESTION));
        next.announce(2, &next.address);
        hung.announce(1, &hung.address);
    };
    tokio::join!(answered(&links), election);
    answered(&links).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_asked_and_turns_out_to_lead_is_not_asked_twice() {
    let cluster = FakeCluster::new(1);
    let mut leader = cluster.monitor(Mode::Hangs);
    let links = links(&cluster, &[&leader]);
    let question = tokio::spawn(async move { links.ask(&QUESTION, LONG, LONG).await });
    assert_eq!(leader.asked.recv().await, Some(QUESTION));
    leader.announce(1, &leader.address);
    leader.announce(2, &leader.address);
    let again = tokio::time::timeout(Duration::from_millis(300), leader.asked.recv()).await;
    assert!(again.is_err(), "{again:?}");
    question.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_reached_first_leads_to_the_leader() {
    let cluster = FakeCluster::new(1);
    let first = cluster.monitor(Mode::Refuses);
    let mut leader = cluster.monitor(Mode::Answers);
    first.announce(3, &leader.address);
    let links = links(&cluster, &[&first]);
    answered(&links).await;
    assert_eq!(leader.asked.recv().await, Some(QUESTION));
    assert_eq!(links.incarnation(), Incarnation(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_cannot_be_reached_is_asked_through_another_monitor() {
    let cluster = FakeCluster::new(1);
    let (refuses, helps) = (cluster.monitor(Mode::Refuses), cluster.monitor(Mode::Answers));
    refuses.announce(1, &nobody());
    let links = links(&cluster, &[&refuses, &helps]);
    answered(&links).await;
    answered(&links).await;
    helps.stop();
    let failed = links.ask(&QUESTION, LONG, Duration::from_millis(300)).await;
    assert!(matches!(failed, Err(AskError::NoLeader)), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_cable_breaks_is_asked_through_another_monitor() {
    let cluster = FakeCluster::new(1);
    let (leader, helps) = (cluster.monitor(Mode::Hangs), cluster.monitor(Mode::Answers));
    leader.announce(1, &leader.address);
    helps.announce(1, &leader.address);
    let links = links(&cluster, &[&leader, &helps]);
    let at_leader = |target: &Option<Target>| {
        target.as_ref().is_some_and(|target| target.address == leader.address)
    };
    links.target().wait_for(at_leader).await.unwrap();
    // Nobody announces another leader: those who reach it have no reason to.
    answered(&links).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_waiting_will_not_help_nobody_waits() {
    let (ours, theirs) = (FakeCluster::new(1), FakeCluster::new(2));
    let other = theirs.monitor(Mode::Answers);
    let links = links(&ours, &[&other]);
    let began = Instant::now();
    let error = links.connected(LONG).await.unwrap_err();
    assert!(!error.may_pass(), "{error}");
    let failed = links.ask(&QUESTION, LONG, LONG).await;
    assert!(matches!(failed, Err(AskError::Unreachable(_))), "{failed:?}");
    assert!(began.elapsed() < LONG / 2);
    // A second address may be better, but for somebody who asks only once.
    links.learn(&[nobody()]);
    let (waited, patience) = (Instant::now(), Duration::from_millis(300));
    links.connected(patience).await.unwrap_err();
    assert!(waited.elapsed() >= patience);
    links.connected_at_once(LONG).await.unwrap_err();
    assert!(began.elapsed() < LONG / 2);
}

#[test]
fn pauses_grow_to_a_limit_and_are_never_quite_the_same() {
    let (first, most) = (Duration::from_millis(100), Duration::from_secs(1));
    let mut pause = Pause::new(first, most);
    let pauses: Vec<Duration> = (0..50).map(|_| pause.take()).collect();
    assert!(pauses[0] >= first.mul_f64(0.75) && pauses[0] < first.mul_f64(1.25));
    assert!(pauses[9..].iter().all(|pause| *pause >= most.mul_f64(0.75)));
    assert!(pauses[9..].iter().all(|pause| *pause < most.mul_f64(1.25)));
    assert!(pauses[9..].iter().any(|pause| *pause != pauses[9]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn monitors_that_there_were_not_yet_are_learnt() {
    let cluster = FakeCluster::new(1);
    let (first, mut later) = (cluster.monitor(Mode::Answers), cluster.monitor(Mode::Answers));
    let links = links(&cluster, &[&first]);
    answered(&links).await;
    first.introduce(&[first.address.clone(), later.address.clone()]);
    let connected = || links.0.state.lock().links.values().all(|link| link.connection.is_some());
    while links.0.state.lock().links.len() < 2 || !connected() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    first.stop();
    answered(&links).await;
    assert_eq!(later.asked.recv().await, Some(QUESTION));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_monitor_that_was_replaced_is_forgotten_and_a_configured_one_is_not() {
    let cluster = FakeCluster::new(1);
    let leader = cluster.monitor(Mode::Answers);
    let (replaced, configured) = (nobody(), nobody());
    let addresses = [leader.address.clone(), configured.clone()];
    let credentials = cluster.credentials(Role::Client);
    let (links, _told) = MonitorLinks::start(&addresses, credentials, Incarnation(0));
    answered(&links).await;
    links.learn(&[leader.address.clone(), replaced.clone()]);
    let known = |address: &str| links.0.state.lock().links.contains_key(address);
    assert!(known(&replaced));
    links.learn(&[]);
    assert!(known(&replaced), "nobody was named");
    links.learn(std::slice::from_ref(&leader.address));
    assert!(!known(&replaced));
    assert!(known(&configured) && known(&leader.address));
    let began = Instant::now();
    // One task for each that is known.
    while links.0.tasks.lock().len() > 2 {
        assert!(began.elapsed() < LONG);
        while links.0.tasks.lock().try_join_next().is_some() {}
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    links.learn(&[leader.address.clone(), replaced.clone()]);
    assert!(known(&replaced), "it may come back");
}
