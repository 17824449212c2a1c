//! A server that wants to see a ticket, and a client that has to get it first.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::fakes::FakeMonitors;
use crate::client::link::{Monitors, ShardError, Shards};
use crate::client::servers::ServerLinks;
use crate::client::tickets::Tickets;
use crate::crypto::Role;
use crate::env::system::monitors::fake::FakeCluster;
use crate::env::system::rpc::{Answer, Caller, Listener, Service};
use crate::types::limits::BLOCK;
use crate::types::{
    Epoch, Incarnation, Operation, PlacementMap, ServerEntry, ServerId, ServerState, SessionId,
    SignedTicket, StripeId, Ticket, Timestamp, VolumeEntry, VolumeId, VolumePolicy, Width,
};
use crate::wire::shards::{Refusal, Request, Response, ShardId};
use crate::wire::{decode, encode};

const SERVER: ServerId = ServerId(1);
const NOW: Duration = Duration::ZERO;

/// Knows one good ticket.
struct FakeServer {
    good: Mutex<SignedTicket>,
    shown: Mutex<Vec<SignedTicket>>,
    gets: AtomicUsize,
    admits: AtomicUsize,
}

impl Service for FakeServer {
    async fn call(self: Arc<Self>, _: Arc<Caller>, header: Vec<u8>, _: Bytes) -> Answer {
        let (response, payload) = match decode(&header).unwrap() {
            Request::Admit(tickets) => {
                self.admits.fetch_add(1, Ordering::SeqCst);
                *self.shown.lock() = tickets;
                (Response::Admitted, Vec::new())
            }
            Request::Get { .. } => {
                self.gets.fetch_add(1, Ordering::SeqCst);
                match self.shown.lock().contains(&self.good.lock()) {
                    true => {
                        let block = Bytes::from(vec![0; BLOCK as usize]);
                        (Response::Blocks { checksums: vec![0] }, vec![block])
                    }
                    false => (Response::Refused(Refusal::NoTicket), Vec::new()),
                }
            }
            other => panic!("{other:?}"),
        };
        Answer { header: encode(&response), payload }
    }
}

fn ticket(number: u8) -> SignedTicket {
    let ticket = Ticket {
        server: SERVER,
        session: SessionId(1),
        operation: Operation::Read,
        from: StripeId(0),
        to: StripeId(9),
        expires: Timestamp::default(),
    };
    SignedTicket { ticket, mac: [number; 32] }
}

fn placement(address: String) -> PlacementMap {
    let server = ServerEntry {
        id: SERVER,
        epoch: Epoch(1),
        address,
        domain: String::new(),
        state: ServerState::Up,
        free_bytes: 0,
    };
    let width = Width { data: 1, parity: 0 };
    let volumes = vec![VolumeEntry::new(VolumeId::ROOT, &VolumePolicy::of_width(width))];
    PlacementMap { version: 1, volumes, servers: vec![server] }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_ticket_is_replaced_and_the_call_made_once_more() {
    let cluster = FakeCluster::new(7);
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_address().to_string();
    let server = Arc::new(FakeServer {
        good: Mutex::new(ticket(2)),
        shown: Mutex::default(),
        gets: AtomicUsize::new(0),
        admits: AtomicUsize::new(0),
    });
    let (_shutdown, requested) = watch::channel(false);
    let credentials = cluster.credentials(Role::Server);
    tokio::spawn(listener.serve(credentials, Incarnation(1), Arc::clone(&server), requested));

    let tickets = Arc::new(Tickets::default());
    let monitors = Arc::new(FakeMonitors::default()) as Arc<dyn Monitors>;
    let credentials = cluster.credentials(Role::Client);
    let links = ServerLinks::new(credentials, monitors, Arc::clone(&tickets));
    links.update(&placement(address));
    let get = || links.get(SERVER, ShardId::default(), 0, 1);
    let asked = || (server.admits.load(Ordering::SeqCst), server.gets.load(Ordering::SeqCst));

    tickets.received(vec![ticket(1)], NOW);
    let read = tokio::spawn(get());
    tickets.wanted().await;
    assert_eq!(asked(), (1, 1));
    tickets.received(vec![ticket(2)], NOW);
    read.await.unwrap().expect("the second is good");
    assert_eq!(asked(), (2, 2));

    get().await.expect("still good");
    assert_eq!(asked(), (2, 3), "shown once");

    // New ones that come in time are shown before anything is refused.
    *server.good.lock() = ticket(3);
    tickets.received(vec![ticket(3)], NOW);
    get().await.expect("good");
    assert_eq!(asked(), (3, 4));

    // Nothing helps: two tries, not more.
    *server.good.lock() = ticket(9);
    let read = tokio::spawn(get());
    tickets.wanted().await;
    tickets.received(vec![ticket(4)], NOW);
    let refused = read.await.unwrap();
    assert_eq!(refused, Err(ShardError::Refused(Refusal::NoTicket)));
    assert_eq!(asked(), (4, 6));
}
