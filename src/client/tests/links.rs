//! The link to the monitors when the leader changes: attach first, then ask again what is unanswered.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;

use crate::client::link::Monitors;
use crate::client::monitors::MonitorLink;
use crate::crypto::Role;
use crate::env::system::monitors::fake::{FakeCluster, Mode};
use crate::types::{Ino, SessionId};
use crate::wire::metadata::{Attach, Request, Response};

const LONG: Duration = Duration::from_secs(60);
const SESSION: SessionId = SessionId(7);

fn unpin() -> Request {
    Request::Unpin { session: SESSION, pins: vec![(Ino(5), 1)] }
}

fn parts() -> Vec<Attach> {
    let part = |ino, more| Attach { session: SESSION, pins: vec![(Ino(ino), 1)], more };
    vec![part(1, true), part(2, true), part(3, true)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_hears_what_is_open_before_it_is_asked_again() {
    let cluster = FakeCluster::new(1);
    let mut hung = cluster.monitor(Mode::Hangs);
    let mut next = cluster.monitor(Mode::Answers);
    hung.announce(1, &hung.address);
    let addresses = [hung.address.clone()];
    let credentials = cluster.credentials(Role::Client);
    let (link, _notices) = MonitorLink::connect(&addresses, credentials, LONG).await.unwrap();
    let asking = Arc::clone(&link);
    let asked = tokio::spawn(async move { asking.call(&unpin()).await });
    assert_eq!(hung.asked.recv().await, Some(unpin()));
    link.attach_with(Box::new(|| std::future::ready(parts()).boxed()));
    hung.announce(2, &next.address);
    for part in parts() {
        assert_eq!(next.asked.recv().await, Some(Request::Attach(part)));
    }
    // An attachment ends with the session's answer, and this monitor does not know it: another is tried, which
    // is this one again.
    assert_eq!(next.asked.recv().await, Some(Request::Attach(parts().remove(0))));
    assert!(!asked.is_finished());
    asked.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_under_way_are_asked_again_at_once_when_the_leader_changes() {
    let cluster = FakeCluster::new(1);
    let mut hung = cluster.monitor(Mode::Hangs);
    let mut next = cluster.monitor(Mode::Answers);
    hung.announce(1, &hung.address);
    let addresses = [hung.address.clone()];
    let credentials = cluster.credentials(Role::Client);
    let (link, _notices) = MonitorLink::connect(&addresses, credentials, LONG).await.unwrap();
    let asking = Arc::clone(&link);
    let asked = tokio::spawn(async move { asking.call(&unpin()).await });
    assert_eq!(hung.asked.recv().await, Some(unpin()));
    hung.announce(2, &next.address);
    assert_eq!(next.asked.recv().await, Some(unpin()));
    assert_eq!(asked.await.unwrap(), Response::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_nobody_leads_monitors_are_not_flooded() {
    let cluster = FakeCluster::new(1);
    let mut monitors = [cluster.monitor(Mode::Refuses), cluster.monitor(Mode::Refuses)];
    let addresses = [monitors[0].address.clone(), monitors[1].address.clone()];
    let credentials = cluster.credentials(Role::Client);
    let (link, _notices) = MonitorLink::connect(&addresses, credentials, LONG).await.unwrap();
    link.attach_with(Box::new(|| std::future::ready(parts()).boxed()));
    let call = unpin();
    tokio::time::timeout(Duration::from_secs(1), link.call(&call)).await.unwrap_err();
    let mut asked = 0;
    for monitor in &mut monitors {
        while monitor.asked.try_recv().is_ok() {
            asked += 1;
        }
    }
    assert!((2..60).contains(&asked), "{asked}");
}
