//! Several monitors whose leader changes when the test says so: their log is a stand-in that applies at once.

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::*;
use crate::crypto::Identity;
use crate::env::system::rpc::{self, Caller};
use crate::monitor::founding;
use crate::monitor::namespace::apply;
use crate::monitor::namespace::command::{Action, Command, Outcome};
use crate::monitor::namespace::trust::TrustAction;
use crate::monitor::raft::{self, Leadership, ProposeError};
use crate::monitor::store::memory::MemoryStore;
use crate::types::{DiskRoom, MonitorRole, OpSeq, Program, ServerState, ShardIndex};
use crate::wire::metadata::Renew;
use crate::wire::peers;
use crate::wire::peers::Profile;
use crate::wire::servers::{Beat, Inventory};
use crate::wire::shards::ShardId;

/// What a monitor with room on its disk says when it is pinged.
pub(super) const ALIVE: Response = Response::Alive(DiskRoom::Enough);
pub(super) const NO_LEADER: Response = Response::Refused(Refusal::NoLeader);

/// One log and one store for all, and a leader.
pub(super) struct Group {
    pub(super) store: Arc<MemoryStore>,
    addresses: Vec<String>,
    told: Vec<watch::Sender<Leadership>>,
    led: Mutex<Led>,
}

struct Led {
    term: u64,
    leader: Option<usize>,
    /// Entries are on their way and stay there.
    is_stalled: bool,
    stalled: Vec<Command>,
}

/// A monitor's end of it.
struct Member(Arc<Group>, usize);

impl Group {
    pub(super) fn new(addresses: Vec<String>) -> Arc<Self> {
        let nobody =
            Leadership { role: MonitorRole::Follower, leader: None, term: 0, stopped: None };
        let told = addresses.iter().map(|_| watch::Sender::new(nobody.clone())).collect();
        let led = Mutex::new(Led { term: 0, leader: None, is_stalled: false, stalled: Vec::new() });
        let group = Self { store: Arc::new(MemoryStore::new()), addresses, told, led };
        group.apply(&Command {
            term: 0,
            time: now(),
            actions: vec![Action::Bootstrap {
                cluster: CLUSTER,
                incarnation: Incarnation(1),
                width: WIDTH,
                min_copies: 2,
            }],
        });
        for (index, address) in group.addresses.iter().enumerate() {
            let (name, profile) = (format!("m{index}"), profile(address.clone()));
            let action = Action::AddMonitor { name, profile };
            group.apply(&Command { term: 0, time: now(), actions: vec![action] });
        }
        Arc::new(group)
    }

    pub(super) fn apply(&self, command: &Command) -> Outcome {
        let mut applied = apply(&*self.store, command).unwrap();
        self.store.write(&applied.batch).unwrap();
        applied.outcomes.remove(0)
    }

    /// The next term begins. What was on its way is committed: the new leader has it in its log.
    pub(super) fn elect(&self, leader: Option<usize>) {
        self.elect_silently(leader);
        self.tell();
    }

    /// Nobody has noticed yet.
    pub(super) fn elect_silently(&self, leader: Option<usize>) {
        let mut led = self.led.lock();
        led.term += 1;
        led.leader = leader;
        led.is_stalled = false;
        for command in std::mem::take(&mut led.stalled) {
            self.apply(&command);
        }
    }

    fn tell(&self) {
        let (term, leader) = {
            let led = self.led.lock();
            (led.term, led.leader)
        };
        for (index, told) in self.told.iter().enumerate() {
            let leads = leader == Some(index);
            told.send_replace(Leadership {
                role: if leads { MonitorRole::Leader } else { MonitorRole::Follower },
                leader: leader.map(|leader| (id_of(leader), self.addresses[leader].clone())),
                term,
                stopped: None,
            });
        }
    }

    fn stall(&self) {
        self.led.lock().is_stalled = true;
    }

    async fn has_stalled(&self) {
        while self.led.lock().stalled.is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

pub(super) fn profile(address: String) -> Profile {
    let (program, node) = (Program::this(), "node".to_owned());
    Profile { address, agent: None, start: 0, program, node, pid: 1 }
}

fn id_of(index: usize) -> MonitorId {
    MonitorId(index as u64 + 1)
}

impl Consensus for Member {
    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.told[self.1].subscribe()
    }

    fn confirm(&self) -> BoxFuture<'_, Result<u64, ProposeError>> {
        let led = self.0.led.lock();
        let leads = led.leader == Some(self.1);
        let confirmed = leads.then_some(led.term).ok_or(ProposeError::NotLeader { leader: None });
        futures::future::ready(confirmed).boxed()
    }

    fn group(&self) -> raft::Group {
        raft::Group::default()
    }

    fn submit(
        &self,
        term: u64,
        action: Action,
    ) -> BoxFuture<'static, Result<Outcome, ProposeError>> {
        let mut led = self.0.led.lock();
        if led.leader != Some(self.1) {
            let error = ProposeError::NotLeader { leader: None };
            return futures::future::ready(Err(error)).boxed();
        }
        if led.term != term {
            return futures::future::ready(Ok(Outcome::Superseded)).boxed();
        }
        let command = Command { term, time: now(), actions: vec![action] };
        if led.is_stalled {
            led.stalled.push(command);
            return futures::future::pending().boxed();
        }
        futures::future::ready(Ok(self.0.apply(&command))).boxed()
    }
}

/// Monitors over loopback.
pub(super) struct Monitors {
    pub(super) cluster: Cluster,
    pub(super) group: Arc<Group>,
    pub(super) running: Vec<Running>,
}

impl Monitors {
    pub(super) fn start(count: usize) -> Self {
        Self::of(Cluster::new(), count)
    }

    /// Of a cluster whose authority is part of its state.
    pub(super) fn founded(count: usize) -> Self {
        let monitors = Self::of(Cluster::founded(), count);
        let founding = founding::find(monitors.cluster.dir.path()).unwrap().unwrap();
        let actions = vec![Action::Trust(TrustAction::Found(founding))];
        monitors.group.apply(&Command { term: 0, time: now(), actions });
        monitors
    }

    fn of(cluster: Cluster, count: usize) -> Self {
        let listeners: Vec<Listener> =
            (0..count).map(|_| Listener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses = listeners.iter().map(|listener| listener.local_address().to_string());
        let group = Group::new(addresses.collect());
        let running = listeners.into_iter().enumerate();
        let running = running.map(|(index, listener)| serve(&cluster, &group, index, listener));
        Self { running: running.collect(), group, cluster }
    }

    pub(super) async fn client(&self, at: usize) -> Client {
        Client::open(&self.cluster, &self.running[at]).await
    }

    pub(super) async fn attach(
        &self,
        client: &mut Client,
        at: usize,
        pins: Vec<(Ino, u64)>,
    ) -> Response {
        client.reattach(&self.cluster, &self.running[at], pins).await
    }

    async fn peer(&self, at: usize, role: Role) -> Peer {
        Peer::connect(&self.cluster, &self.running[at], role, "somebody").await
    }
}

fn serve(cluster: &Cluster, group: &Arc<Group>, index: usize, listener: Listener) -> Running {
    let address = listener.local_address();
    let credentials = cluster.credentials(Role::Monitor, &format!("m{index}"));
    let monitor = monitor(cluster, group, index, credentials.clone());
    let (shutdown, stop) = watch::channel(false);
    let following = tokio::spawn(reign::follow(Arc::clone(&monitor)));
    let task = tokio::spawn(async move {
        listener.serve(credentials, Incarnation(1), Arc::clone(&monitor), stop).await?;
        following.abort();
        Ok(())
    });
    Running { address, shutdown, task }
}

pub(super) fn monitor(
    cluster: &Cluster,
    group: &Arc<Group>,
    index: usize,
    credentials: Credentials,
) -> Arc<Monitor> {
    let member = super::Member {
        id: id_of(index),
        cluster: CLUSTER,
        vault: Vault::new(cluster.dir.path(), credentials.clone()),
        short_of_room: AtomicBool::new(false),
        replace_after: None,
    };
    Arc::new(Monitor::new(
        member,
        Arc::clone(&group.store) as Arc<dyn Store>,
        Arc::new(SystemClock::new()),
        Arc::new(Member(Arc::clone(group), index)),
        (credentials, Incarnation(1)),
    ))
}

pub(super) async fn leader_told(peer: &mut Peer) -> (u64, String) {
    let notice = tokio::time::timeout(LONG, peer.notices.recv()).await.unwrap().unwrap();
    match decode(&notice).unwrap() {
        Notice::Leader { term, address } => (term, address),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_monitor_that_does_not_lead_passes_calls_on_and_recalls_back() {
    let monitors = Monitors::start(2);
    monitors.group.elect(Some(0));
    let mut writer = monitors.client(1).await;
    let reader = monitors.client(0).await;
    let file = writer.create(b"file").await;
    let answer = reader.begin(&reader.attr(file));
    assert_eq!(writer.peer.recalled().await, [file]);
    assert!(!answer.is_finished());
    writer.mutate(Op::Release { ino: file }).await.unwrap();
    let Response::Answers(answers, _) = answer.await.unwrap() else { panic!("no answer") };
    assert!(matches!(answers[..], [Ok(Answer::Attr(_))]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_hears_of_the_end_of_a_connection_to_another_monitor() {
    let monitors = Monitors::start(2);
    monitors.group.elect(Some(0));
    let client = monitors.client(0).await;
    let registered = servers(&monitors.cluster, &monitors.running[1]).await;
    let states = async || {
        let placement = Request::Admin(admin::Request::Placement);
        let Response::Admin(admin::Response::Placement(map)) = client.peer.call(&placement).await
        else {
            panic!("no map");
        };
        map.servers.into_iter().map(|server| server.state).collect::<Vec<_>>()
    };
    assert_eq!(states().await, [ServerState::Up, ServerState::Up]);
    registered[0].0.connection.close();
    while states().await != [ServerState::Suspect, ServerState::Up] {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_monitor_says_for_itself_whether_it_is_there() {
    let monitors = Monitors::start(2);
    monitors.group.elect(None);
    let agent = monitors.peer(1, Role::Agent).await;
    assert_eq!(agent.call(&Request::Ping).await, ALIVE);
}

/// A leader to whom the cable is broken: what it says does not arrive.
struct Unheard;

impl rpc::Service for Unheard {
    async fn call(self: Arc<Self>, _: Arc<Caller>, _: Vec<u8>, _: bytes::Bytes) -> rpc::Answer {
        std::future::pending().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_are_told_when_the_leader_cannot_be_heard_any_more() {
    let cluster = Cluster::new();
    let [leader, follower] = [(); 2].map(|()| Listener::bind("127.0.0.1:0").unwrap());
    let addresses = [&leader, &follower].map(|one| one.local_address().to_string());
    let group = Group::new(addresses.to_vec());
    let running = serve(&cluster, &group, 1, follower);
    let (_shutdown, stop) = watch::channel(false);
    let credentials = cluster.credentials(Role::Monitor, "m0");
    tokio::spawn(leader.serve(credentials, Incarnation(1), Arc::new(Unheard), stop));
    let mut client = Peer::connect(&cluster, &running, Role::Client, "somebody").await;
    group.elect(Some(0));
    leader_told(&mut client).await;
    let request = Request::CloseSession(SessionId(1));
    let answer = tokio::time::timeout(LONG / 3, client.call(&request)).await;
    assert_eq!(answer.expect("others may hear it"), NO_LEADER);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_end_with_the_reign_that_they_began_under() {
    let monitors = Monitors::start(2);
    monitors.group.elect(Some(0));
    let mut writer = monitors.client(0).await;
    let (near, far) = (monitors.client(0).await, monitors.client(1).await);
    let file = writer.create(b"file").await;
    let waiting = [near.begin(&near.attr(file)), far.begin(&far.attr(file))];
    assert_eq!(writer.peer.recalled().await, [file]);
    monitors.group.elect(None);
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap(), NO_LEADER);
    }
    for client in [&near, &far] {
        assert_eq!(client.peer.call(&client.attr(file)).await, NO_LEADER, "at once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_was_under_way_when_the_leader_changed_is_done_once() {
    let monitors = Monitors::start(2);
    monitors.group.elect(Some(0));
    let mut client = monitors.client(0).await;
    let file = Ino(client.inodes.next().unwrap());
    let make = client.request(vec![create(file, Ino::ROOT, b"file")]);
    monitors.group.stall();
    let made = client.begin(&make);
    monitors.group.has_stalled().await;
    monitors.group.elect(Some(1));
    assert_eq!(made.await.unwrap(), NO_LEADER, "the old leader does not know");
    monitors.attach(&mut client, 1, Vec::new()).await;
    let Response::Mutated(replies, _) = client.peer.call(&make).await else { panic!("no reply") };
    let [Ok(Reply::Inode(attr))] = &replies[..] else { panic!("{replies:?}") };
    assert_eq!(attr.ino, file);
    let Response::Mutated(again, _) = client.peer.call(&make).await else { panic!("no reply") };
    assert_eq!(again, replies);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_leader_planned_is_not_done_in_its_next_reign() {
    let monitors = Monitors::start(2);
    monitors.group.elect(Some(0));
    let mut client = monitors.client(0).await;
    let file = client.create(b"file").await;
    client.mutate(Op::Release { ino: file }).await.unwrap();
    // Replaced and elected again, and it has not noticed: another leader may know who has the file open.
    monitors.group.elect_silently(Some(1));
    monitors.group.elect_silently(Some(0));
    let remove = client.request(vec![unlink(b"file")]);
    assert_eq!(client.peer.call(&remove).await, NO_LEADER);
    monitors.group.tell();
    monitors.attach(&mut client, 0, vec![(file, 1)]).await;
    let Response::Mutated(replies, _) = client.peer.call(&remove).await else { panic!("no reply") };
    assert!(is_last_name_of(file, &replies), "{replies:?}");
    assert!(client.ask(Query::Attr { ino: file }).await.is_ok(), "it is open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reign_answers_nothing_that_was_confirmed_for_the_next() {
    let monitors = Monitors::start(2);
    monitors.group.elect(Some(0));
    let client = monitors.client(0).await;
    // Replaced and elected again, and it has not noticed: what it knows of others' leases is worth nothing.
    monitors.group.elect_silently(Some(1));
    monitors.group.elect_silently(Some(0));
    assert_eq!(client.peer.call(&client.attr(Ino::ROOT)).await, NO_LEADER);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_is_told_who_leads_but_monitors() {
    let monitors = Monitors::start(2);
    let mut early = monitors.peer(1, Role::Agent).await;
    monitors.group.elect(Some(0));
    let first = (1, monitors.group.addresses[0].clone());
    assert_eq!(leader_told(&mut early).await, first);
    let mut late = monitors.peer(1, Role::Server).await;
    let mut monitor = monitors.peer(1, Role::Monitor).await;
    assert_eq!(leader_told(&mut late).await, first);
    monitors.group.elect(None);
    monitors.group.elect(Some(1));
    let second = (3, monitors.group.addresses[1].clone());
    assert_eq!(leader_told(&mut early).await, second);
    assert_eq!(leader_told(&mut late).await, second);
    monitor.connection.close();
    assert_eq!(monitor.notices.recv().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_is_told_when_the_leader_is_reached_elsewhere() {
    let monitors = Monitors::start(1);
    monitors.group.elect(Some(0));
    let mut peer = monitors.peer(0, Role::Server).await;
    assert_eq!(leader_told(&mut peer).await, (1, monitors.group.addresses[0].clone()));
    monitors.group.told[0]
        .send_modify(|now| now.leader = Some((id_of(0), "elsewhere:1".to_owned())));
    assert_eq!(leader_told(&mut peer).await, (1, "elsewhere:1".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_being_evicted_is_not_renewed() {
    let monitors = Monitors::start(1);
    monitors.group.elect(Some(0));
    let mut lost = monitors.client(0).await;
    let next = monitors.client(0).await;
    let evict = Request::EvictDead { session: lost.session, node: "node".to_owned() };
    monitors.group.stall();
    let evicted = next.begin(&evict);
    monitors.group.has_stalled().await;
    let renew =
        Renew { session: lost.session, placement_version: 0, stalled: Vec::new(), tickets: false };
    assert_eq!(lost.peer.call(&Request::Renew(renew)).await, NO_LEADER);
    assert_eq!(monitors.attach(&mut lost, 0, Vec::new()).await, NO_LEADER);
    evicted.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_knows_less_than_a_server_calls_nothing_garbage() {
    let monitors = Monitors::start(1);
    monitors.group.elect(Some(0));
    let client = monitors.client(0).await;
    let registered = servers(&monitors.cluster, &monitors.running[0]).await;
    let (peer, server, epoch) = &registered[0];
    let shard = ShardId { stripe: StripeId(client.stripes.start), index: ShardIndex(0) };
    assert_eq!(client.peer.call(&Request::CloseSession(client.session)).await, Response::Done);
    let list = |as_of| {
        let (server, epoch, from, to) = (*server, *epoch, shard, None);
        let shards = vec![(shard, ShardHash::default())];
        Request::Inventory(Inventory { server, epoch, as_of, from, to, shards })
    };
    assert_eq!(peer.call(&list(OpSeq(1))).await, Response::Garbage(vec![shard]));
    assert_eq!(peer.call(&list(OpSeq(u64::MAX))).await, Response::Garbage(vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_attached_to_each_reign_before_it_is_used() {
    let monitors = Monitors::start(2);
    monitors.group.elect(Some(0));
    let mut client = monitors.client(1).await;
    let ask = |client: &Client| client.attr(Ino::ROOT);
    monitors.group.elect(Some(1));
    let refused = Response::Refused(Refusal::NotAttached);
    assert_eq!(client.peer.call(&ask(&client)).await, refused);
    monitors.attach(&mut client, 0, Vec::new()).await;
    assert!(client.ask(Query::Attr { ino: Ino::ROOT }).await.is_ok(), "through the other one");
    client.session = SessionId(1);
    let closed = Response::Refused(Refusal::SessionClosed);
    assert_eq!(client.peer.call(&ask(&client)).await, closed);
    assert_eq!(monitors.attach(&mut client, 1, Vec::new()).await, closed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_removed_before_everybody_has_said_all_that_is_open() {
    let monitors = Monitors::start(2);
    monitors.group.elect(Some(0));
    let mut holder = monitors.client(0).await;
    let mut other = monitors.client(0).await;
    let file = holder.create(b"file").await;
    holder.mutate(Op::Release { ino: file }).await.unwrap();
    monitors.group.elect(Some(1));
    monitors.attach(&mut other, 1, Vec::new()).await;
    let removal = other.request(vec![unlink(b"file")]);
    let removed = other.begin(&removal);
    holder.peer =
        Peer::connect(&monitors.cluster, &monitors.running[1], Role::Client, "mount").await;
    let part = |pins, more| Request::Attach(Attach { session: holder.session, pins, more });
    assert_eq!(holder.peer.call(&part(vec![(Ino(99), 1)], true)).await, Response::Done);
    // It is in work before the one behind it is answered.
    other.ask(Query::Space { ino: Ino::ROOT }).await.unwrap();
    assert!(!removed.is_finished());
    let attached = holder.peer.call(&part(vec![(file, 1)], false)).await;
    assert!(matches!(attached, Response::Session(_)), "{attached:?}");
    removed.await.unwrap();
    assert!(holder.ask(Query::Attr { ino: file }).await.is_ok(), "it is open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_has_servers_at_once_and_takes_their_beats_as_they_are() {
    let monitors = Monitors::start(2);
    monitors.group.elect(Some(0));
    let mut client = monitors.client(0).await;
    let registered = servers(&monitors.cluster, &monitors.running[0]).await;
    let mut file = client.create(b"file").await;
    let stripe = StripeId(client.stripes.next().unwrap());
    client.mutate(commit(&registered, stripe, file)).await.unwrap();
    monitors.group.elect(Some(1));
    let Response::Session(opened) = monitors.attach(&mut client, 1, vec![(file, 1)]).await else {
        panic!("not attached");
    };
    assert_eq!(opened.placement.version >> 32, 2);
    assert!(opened.placement.servers.iter().all(|server| server.state == ServerState::Up));
    assert_eq!(opened.monitors, monitors.group.addresses);
    // The epochs of before are current: so is what is under way.
    let stripe = StripeId(client.stripes.next().unwrap());
    file = client.create(b"another").await;
    client.mutate(commit(&registered, stripe, file)).await.unwrap();
    let (peer, server, epoch) = &registered[0];
    let beat = Request::Beat(Beat {
        server: *server,
        epoch: *epoch,
        usage: Usage::default(),
        trouble: None,
        reaped: Vec::new(),
        lost: Vec::new(),
    });
    let Response::Beaten(beaten) = peer.call(&beat).await else { panic!("not taken") };
    assert!(!beaten.register);
    assert_eq!(beaten.monitors, monitors.group.addresses);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_passed_on_is_answered_for_its_caller_alone_and_not_after_its_end() {
    let monitors = Monitors::start(2);
    monitors.group.elect(Some(0));
    let monitor = monitors.peer(0, Role::Monitor).await;
    let pass_on = async |origin, role: Role, cluster| {
        let identity = Identity { cluster, role, name: "somebody".to_owned() }.dns_name();
        let header = encode(&peers::Request::Forward(peers::Forward { origin, identity }));
        let call = encode(&Request::Admin(admin::Request::Placement));
        let answer = monitor.connection.call(header, vec![call.into()], LONG).await;
        let (header, payload) = answer.unwrap();
        assert_eq!(decode::<peers::Response>(&header).unwrap(), peers::Response::Forwarded);
        decode::<Response>(&payload).unwrap()
    };
    let answer = pass_on(5, Role::Client, CLUSTER).await;
    assert!(matches!(answer, Response::Admin(_)), "{answer:?}");
    let forbidden = Response::Refused(Refusal::Forbidden);
    assert_eq!(pass_on(6, Role::Server, CLUSTER).await, forbidden);
    assert_eq!(pass_on(7, Role::Client, ClusterId(1)).await, NO_LEADER);
    let end = encode(&peers::Request::ForwardClosed { origin: 5 });
    let (done, _) = monitor.connection.call(end, Vec::new(), LONG).await.unwrap();
    assert_eq!(decode::<peers::Response>(&done).unwrap(), peers::Response::Done);
    assert_eq!(pass_on(5, Role::Client, CLUSTER).await, NO_LEADER, "it is over");
    let (refused, _) = monitor.connection.call(vec![99; 9], Vec::new(), LONG).await.unwrap();
    let refused = decode::<peers::Response>(&refused).unwrap();
    assert!(matches!(refused, peers::Response::Unable(_)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_was_evicted_by_mistake_learns_what_was_done() {
    let monitors = Monitors::start(1);
    monitors.group.elect(Some(0));
    let mut lost = monitors.client(0).await;
    lost.create(b"file").await;
    let done = lost.sent - 1;
    let evict = Request::EvictDead { session: lost.session, node: "node".to_owned() };
    let next = monitors.client(0).await;
    let operations = vec![(Slot(done as u16), SlotSeq(1)), (Slot(lost.sent as u16), SlotSeq(1))];
    let ask = Request::OldReplies { session: next.session, evicted: lost.session, operations };
    let early = next.peer.call(&ask).await;
    assert!(matches!(early, Response::Refused(Refusal::Malformed(_))), "{early:?}");
    assert_eq!(next.peer.call(&evict).await, Response::Done);
    let Response::OldReplies(replies) = next.peer.call(&ask).await else { panic!("no replies") };
    assert!(matches!(replies[..], [Some(Ok(Reply::Inode(_))), None]), "{replies:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clients_that_wait_for_one_another_and_give_back_in_the_same_request_go_on() {
    let monitors = Monitors::start(1);
    monitors.group.elect(Some(0));
    let (mut one, mut two) = (monitors.client(0).await, monitors.client(0).await);
    let (x, y) = (one.create(b"x").await, two.create(b"y").await);
    let first = one.request(vec![Op::Acquire { ino: y }, Op::Release { ino: x }]);
    let second = two.request(vec![Op::Acquire { ino: x }, Op::Release { ino: y }]);
    for answer in [one.begin(&first), two.begin(&second)] {
        let Response::Mutated(replies, _) = answer.await.unwrap() else { panic!("no reply") };
        assert!(matches!(replies[..], [Ok(Reply::Inode(_)), Ok(Reply::Done)]), "{replies:?}");
    }
}
