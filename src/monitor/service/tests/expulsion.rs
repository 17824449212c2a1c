//! What ends a monitor, and what does not.

use super::*;
use crate::env::system::rpc::{self, Caller};
use crate::monitor::raft::Transport;
use crate::monitor::service::links::Expulsion;
use crate::types::{MonitorId, OpSeq};
use crate::wire::peers::{Ask, Response};

/// A sibling that gives one answer to everything.
struct Says(Response);

impl rpc::Service for Says {
    async fn call(self: Arc<Self>, _: Arc<Caller>, _: Vec<u8>, _: bytes::Bytes) -> rpc::Answer {
        rpc::Answer { header: encode(&self.0), payload: Vec::new() }
    }
}

/// Why the monitor 7 takes itself for expelled when a sibling answers a message of Raft so.
async fn expelled_by(answer: Response) -> Option<Expulsion> {
    let cluster = Cluster::new();
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_address().to_string();
    let (_shutdown, stop) = watch::channel(false);
    let sibling = cluster.credentials(Role::Monitor, "m1");
    tokio::spawn(listener.serve(sibling, Incarnation(1), Arc::new(Says(answer)), stop));
    let links = Links::new(cluster.credentials(Role::Monitor, "m7"));
    links.is_member(MonitorId(7));
    let asked = links.ask(MonitorId(1), &address, Ask::Poll { last: None }, LONG);
    asked.await.expect_err("that is no answer to a poll");
    let expelled = links.expelled();
    expelled.borrow().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_was_removed_ends() {
    let by = OpSeq(40);
    let removed = |id| Response::Removed { id: MonitorId(id), by };
    let why = "a frame that could not be read".to_owned();
    for harmless in [
        Response::Refused(why.clone()),
        Response::Unable(why),
        Response::Done,
        Response::NotLeader { here: None, leader: None },
        removed(8),
    ] {
        assert_eq!(expelled_by(harmless.clone()).await, None, "{harmless:?}");
    }
    assert_eq!(expelled_by(removed(7)).await, Some(Expulsion::Removed(by)));
}
