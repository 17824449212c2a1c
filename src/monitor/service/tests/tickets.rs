//! What the servers are told that a session may do.

use super::*;
use crate::types::{Operation, Program, SignedTicket, TicketKey};
use crate::wire::metadata::{Renew, Renewed};

impl Client {
    async fn renewed(&self, placement_version: u64, tickets: bool) -> Renewed {
        let (session, stalled) = (self.session, Vec::new());
        let renew = Renew { session, placement_version, stalled, tickets };
        match self.peer.call(&Request::Renew(renew)).await {
            Response::Renewed(renewed) => renewed,
            other => panic!("{other:?}"),
        }
    }

    /// The tickets that it gets when it asks for them.
    pub(super) async fn tickets(&self) -> Vec<SignedTicket> {
        self.renewed(0, true).await.tickets.expect("they were asked for")
    }
}

/// Of the server called "a".
async fn key(cluster: &Cluster, at: &Running) -> (ServerId, TicketKey) {
    let register = Register {
        address: "127.0.0.1:1".to_owned(),
        domain: "a".to_owned(),
        node: "node".to_owned(),
        pid: 1,
        instance: 2,
        dir: "/a".to_owned(),
        usage: Usage::default(),
        program: Program::this(),
    };
    let peer = Peer::connect(cluster, at, Role::Server, "a").await;
    match peer.call(&Request::Register(register)).await {
        Response::Registered(done) => (done.server, done.key),
        other => panic!("{other:?}"),
    }
}

fn covers(tickets: &[SignedTicket], server: ServerId, operation: Operation, stripe: u64) -> bool {
    let mut theirs = tickets.iter().filter(|signed| signed.ticket.server == server);
    theirs.any(|signed| signed.ticket.covers(operation, StripeId(stripe)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_gets_tickets_for_what_it_leased_whoever_leads() {
    let cluster = Cluster::new();
    let monitor = cluster.start().await;
    let servers = servers(&cluster, &monitor).await;
    let (server, first_key) = key(&cluster, &monitor).await;
    let credentials = cluster.credentials(Role::Client, "mount");
    let mut other = Client::open(&cluster, &monitor).await;
    let mut client = Client::open_as(&credentials, &monitor).await;
    let leased = client.stripes.clone();
    let more = client.lease(Op::LeaseStripes { done_below: StripeId(0) }).await;
    let theirs = other.lease(Op::LeaseStripes { done_below: StripeId(0) }).await;

    let tickets = client.tickets().await;
    assert!(tickets.iter().all(|signed| signed.ticket.session == client.session));
    for (_, server, _) in &servers {
        assert!(covers(&tickets, *server, Operation::Read, theirs.start));
        for mine in [leased.start, leased.end - 1, more.start, more.end - 1] {
            assert!(covers(&tickets, *server, Operation::Write, mine), "{mine}");
        }
        for not_mine in [leased.start - 1, more.end, theirs.start] {
            assert!(!covers(&tickets, *server, Operation::Write, not_mine), "{not_mine}");
        }
    }
    let good = |key: &TicketKey, tickets: &[SignedTicket]| {
        let mut at_a = tickets.iter().filter(|signed| signed.ticket.server == server);
        at_a.all(|signed| key.has_signed(signed, credentials.identity()))
    };
    assert!(good(&first_key, &tickets));
    assert!(!tickets.iter().all(|signed| first_key.has_signed(signed, credentials.identity())));
    let expires = tickets[0].ticket.expires.seconds;
    assert!((expires - now().seconds - 60).abs() <= 5, "{expires}");

    // Only who asks for them gets them, or who learns of other servers.
    let placement = client.renewed(0, false).await;
    assert!(placement.tickets.is_some());
    let version = placement.placement.expect("it has none").version;
    assert_eq!(client.renewed(version, false).await.tickets, None);

    // The next reign has the same keys, and the same leases.
    monitor.stop().await;
    let monitor = cluster.start().await;
    client.peer = Peer::connect_as(&credentials, &monitor).await;
    let attach = Attach { session: client.session, pins: Vec::new(), more: false };
    let Response::Session(opened) = client.peer.call(&Request::Attach(attach)).await else {
        panic!("not attached");
    };
    assert!(good(&first_key, &opened.tickets));
    assert!(covers(&opened.tickets, server, Operation::Write, leased.start));
    assert_eq!(key(&cluster, &monitor).await, (server, first_key));
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn administrators_may_read_and_nothing_else() {
    let cluster = Cluster::new();
    let monitor = cluster.start().await;
    let (server, key) = key(&cluster, &monitor).await;
    let credentials = cluster.credentials(Role::Client, "admin");
    let peer = Peer::connect_as(&credentials, &monitor).await;
    let answer = peer.call(&Request::Admin(admin::Request::Tickets)).await;
    let Response::Admin(admin::Response::Tickets(tickets)) = answer else { panic!("{answer:?}") };
    let [signed] = tickets[..] else { panic!("{tickets:?}") };
    assert!(key.has_signed(&signed, credentials.identity()));
    assert!(covers(&tickets, server, Operation::Read, 5));
    assert!(!covers(&tickets, server, Operation::Write, 5));
    monitor.stop().await;
}
