//! Nobody speaks for another: whatever a call names, it is the caller's own by its certificate.

use super::reigns::Monitors;
use super::*;
use crate::types::OpSeq;
use crate::wire::metadata::Renew;
use crate::wire::servers::{Beat, Inventory};
use crate::wire::shards::ShardId;

const NOT_OWNER: Response = Response::Refused(Refusal::NotOwner);

async fn thief(monitors: &Monitors, at: usize) -> Client {
    let credentials = monitors.cluster.credentials(Role::Client, "thief");
    Client::open_as(&credentials, &monitors.running[at]).await
}

/// All that names the session of somebody else.
fn calls_of(victim: &Client) -> Vec<Request> {
    let session = victim.session;
    let renew = Renew { session, placement_version: 0, stalled: Vec::new(), tickets: true };
    vec![
        Request::Attach(Attach { session, pins: vec![(Ino::ROOT, 1)], more: true }),
        Request::Attach(Attach { session, pins: Vec::new(), more: false }),
        Request::Renew(renew),
        Request::Query { session, queries: vec![Query::Space { ino: Ino::ROOT }] },
        Request::Mutate { session, mutations: Vec::new() },
        Request::Unpin { session, pins: Vec::new() },
        Request::AwaitLocks { session, waits: Vec::new() },
        Request::ForgetLocks { session, tickets: Vec::new() },
        Request::OldReplies { session, evicted: session, operations: Vec::new() },
        Request::CloseSession(session),
        Request::EvictDead { session, node: client_info().node },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_used_by_its_owner_alone_whichever_monitor_is_asked() {
    let monitors = Monitors::start(2);
    monitors.group.elect(Some(0));
    let mut owner = Client::open(&monitors.cluster, &monitors.running[0]).await;
    let file = owner.create(b"file").await;
    for at in 0..2 {
        let thief = thief(&monitors, at).await;
        for call in calls_of(&owner) {
            assert_eq!(thief.peer.call(&call).await, NOT_OWNER, "{call:?}, at monitor {at}");
        }
        let request = owner.request(vec![Op::Release { ino: file }]);
        assert_eq!(thief.peer.call(&request).await, NOT_OWNER);
        owner.sent -= 1;
    }
    assert!(owner.ask(Query::Attr { ino: file }).await.is_ok(), "it is attached still");
    // With another certificate of the same name, as renewed, and at another monitor.
    let (cluster, running) = (&monitors.cluster, &monitors.running[1]);
    let attached = owner.reattach(cluster, running, vec![(file, 1)]).await;
    assert!(matches!(attached, Response::Session(_)), "{attached:?}");
    assert_eq!(owner.mutate(Op::Release { ino: file }).await, Ok(Reply::Done));
    // Nor does a new leader, with whom nobody is attached yet, take somebody else for the owner.
    let thief = thief(&monitors, 1).await;
    monitors.group.elect(Some(1));
    for call in calls_of(&owner) {
        assert_eq!(thief.peer.call(&call).await, NOT_OWNER, "{call:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_process_is_reported_by_its_owner_on_its_node() {
    let monitors = Monitors::start(1);
    monitors.group.elect(Some(0));
    let running = &monitors.running[0];
    let dead = Client::open(&monitors.cluster, running).await;
    let next = Client::open(&monitors.cluster, running).await;
    let thief = thief(&monitors, 0).await;
    let sessions = async |client: &Client, node: &str| {
        let request = Request::SessionsOfNode { node: node.to_owned() };
        let Response::Sessions(found) = client.peer.call(&request).await else { panic!("none") };
        found.into_iter().map(|entry| entry.session).collect::<Vec<_>>()
    };
    assert_eq!(sessions(&thief, "node").await, [thief.session]);
    assert_eq!(sessions(&next, "node").await, [dead.session, next.session]);
    assert_eq!(sessions(&next, "elsewhere").await, []);

    let evict = |node: &str| Request::EvictDead { session: dead.session, node: node.to_owned() };
    assert_eq!(thief.peer.call(&evict("node")).await, NOT_OWNER);
    let forbidden = Response::Refused(Refusal::Forbidden);
    assert_eq!(next.peer.call(&evict("elsewhere")).await, forbidden);
    assert_eq!(next.peer.call(&evict("node")).await, Response::Done);

    // What it was answered is told to its own next process alone, whatever others say of themselves.
    let replies_for = |asker: &Client| {
        let (session, evicted) = (asker.session, dead.session);
        Request::OldReplies { session, evicted, operations: vec![(Slot(0), SlotSeq(1))] }
    };
    assert_eq!(thief.peer.call(&replies_for(&thief)).await, forbidden);
    let replies = next.peer.call(&replies_for(&next)).await;
    assert!(matches!(replies, Response::OldReplies(_)), "{replies:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_speaks_for_itself_alone() {
    let monitors = Monitors::start(1);
    monitors.group.elect(Some(0));
    let registered = servers(&monitors.cluster, &monitors.running[0]).await;
    let beat = |server, epoch| {
        let (usage, trouble) = (Usage::default(), Some("no disk".to_owned()));
        let (reaped, lost) = (Vec::new(), Vec::new());
        Request::Beat(Beat { server, epoch, usage, trouble, reaped, lost })
    };
    let list = |server, epoch| {
        let (from, to, shards) = (ShardId::default(), None, Vec::new());
        Request::Inventory(Inventory { server, epoch, as_of: OpSeq(0), from, to, shards })
    };
    let [(one, its_id, epoch), (other, other_id, _)] = &registered[..] else { panic!("two") };
    assert_eq!(other.call(&beat(*its_id, *epoch)).await, NOT_OWNER);
    assert_eq!(other.call(&list(*its_id, *epoch)).await, NOT_OWNER);
    assert_eq!(one.call(&list(*its_id, *epoch)).await, Response::Garbage(Vec::new()));
    let beaten = one.call(&beat(*its_id, *epoch)).await;
    assert!(matches!(beaten, Response::Beaten(_)), "{beaten:?}");
    // One that nobody knows (any more) is told to register.
    let unknown = ServerId(its_id.0.max(other_id.0) + 1_000);
    let Response::Beaten(beaten) = one.call(&beat(unknown, *epoch)).await else { panic!("no") };
    assert!(beaten.register);
}
