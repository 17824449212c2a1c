//! The port of a monitor: whom it serves when.

use super::reigns::{Group, NO_LEADER, leader_told, monitor, profile};
use super::*;
use crate::crypto::Identity;
use crate::monitor::namespace::command::{Action, Command};
use crate::wire::peers;

/// The port of the first monitor, which serves only its siblings yet.
fn closed_door(
    cluster: &Cluster,
    group: &Group,
    credentials: Credentials,
    listener: Listener,
) -> (Arc<Peers>, Arc<Door>, Running) {
    let address = listener.local_address();
    let peers = Arc::new(Peers {
        links: Links::new(credentials.clone()),
        store: Arc::clone(&group.store) as Arc<dyn Store>,
        clock: Arc::new(SystemClock::new()),
        dir: cluster.dir.path().to_owned(),
        name: "m0".to_owned(),
        profile: profile(address.to_string()),
        instance: 1,
        member: OnceLock::new(),
    });
    let door = Arc::new(Door::new(Arc::clone(&peers)));
    let (shutdown, stop) = watch::channel(false);
    let service = Arc::clone(&door);
    let task = tokio::spawn(async move {
        listener.serve(credentials, Incarnation(1), service, stop).await?;
        Ok(())
    });
    (peers, door, Running { address, shutdown, task })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_monitor_that_was_removed_speaks_for_nobody() {
    let cluster = Cluster::new();
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let group = Group::new(vec![listener.local_address().to_string(), String::new()]);
    let credentials = cluster.credentials(Role::Monitor, "m0");
    let (peers, door, running) = closed_door(&cluster, &group, credentials.clone(), listener);
    let monitor = monitor(&cluster, &group, 0, credentials);
    door.open(Arc::clone(&monitor));
    let following = tokio::spawn(reign::follow(monitor));
    group.elect(Some(0));
    peers.refresh();
    let other = Peer::connect(&cluster, &running, Role::Monitor, "m1").await;
    let pass_on = async || {
        let who = Identity { cluster: CLUSTER, role: Role::Client, name: "somebody".to_owned() };
        let forward = peers::Forward { origin: 5, identity: who.dns_name() };
        let (header, call) = (peers::Request::Forward(forward), encode(&Request::Ping));
        let answer = other.connection.call(encode(&header), vec![call.into()], LONG).await;
        decode::<peers::Response>(&answer.unwrap().0).unwrap()
    };
    assert_eq!(pass_on().await, peers::Response::Forwarded);
    let (name, once_replaced) = ("m1".to_owned(), false);
    let actions = vec![Action::RemoveMonitor { name, once_replaced }];
    group.apply(&Command { term: 1, time: now(), actions });
    peers.refresh();
    let refused = pass_on().await;
    assert!(matches!(refused, peers::Response::Removed { .. }), "{refused:?}");
    following.abort();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_before_a_monitor_serves_is_told_who_leads_too() {
    let cluster = Cluster::new();
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_address();
    let group = Group::new(vec![address.to_string()]);
    let credentials = cluster.credentials(Role::Monitor, "m0");
    let (_, door, running) = closed_door(&cluster, &group, credentials.clone(), listener);
    let mut early = Peer::connect(&cluster, &running, Role::Client, "early").await;
    assert_eq!(early.call(&Request::Ping).await, NO_LEADER);
    let monitor = monitor(&cluster, &group, 0, credentials);
    door.open(Arc::clone(&monitor));
    let following = tokio::spawn(reign::follow(monitor));
    group.elect(Some(0));
    assert_eq!(leader_told(&mut early).await, (1, address.to_string()));
    following.abort();
    running.stop().await;
}
