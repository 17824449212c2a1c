//! Machines join, certificates are renewed, clients are kept to what they may do.

use super::locks::exclusive;
use super::reigns::{Monitors, NO_LEADER};
use super::*;
use crate::crypto::seal::SealKey;
use crate::crypto::{Invited, NewKey, Token};
use crate::env::system::credentials;
use crate::env::system::renewal::Renewal;
use crate::monitor::founding;
use crate::monitor::founding::{Founding, MemberKey};
use crate::types::{
    ClientPolicy, LockMode, LockRequest, MonitorGrant, Operation, TokenGrant, TokenRole,
};
use crate::wire::trust::{self, Join, Joined, TokenRefusal};

const MONTHS_S: i64 = 60 * 24 * 60 * 60;

fn months_ago() -> Timestamp {
    let now = now();
    Timestamp { seconds: now.seconds - MONTHS_S, ..now }
}

impl Cluster {
    /// A cluster whose authority is part of its state.
    pub(super) fn founded() -> Self {
        let cluster = Self::new();
        std::fs::create_dir(cluster.dir.path().join("tls")).unwrap();
        let seal = SealKey::generate().unwrap();
        credentials::save_seal_key(cluster.dir.path(), &seal).unwrap();
        let admin = MemberKey {
            role: Role::Client,
            name: "admin".to_owned(),
            key: cluster.credentials(Role::Client, "admin").key_hash(),
        };
        let founding = Founding {
            authority: cluster.authority.cert_pem().to_owned(),
            sealed_key: cluster.authority.seal_key(&seal).unwrap(),
            members: vec![admin],
            token: None,
        };
        founding::leave(cluster.dir.path(), &founding).unwrap();
        cluster
    }

    fn token(&self, role: TokenRole) -> Token {
        Token::new(role, now(), self.authority.fingerprint().unwrap())
    }

    /// A member whose certificate has expired.
    fn expired(&self, role: Role, name: &str) -> Credentials {
        let issued = self.authority.issue(role, name, months_ago()).unwrap();
        let ca = self.authority.cert_pem();
        Credentials::from_pem(ca, &issued.cert_pem, &issued.key_pem).unwrap()
    }
}

async fn administrate(
    cluster: &Cluster,
    at: &Running,
    request: trust::Request,
) -> Result<trust::Response, Refusal> {
    let peer = Peer::connect(cluster, at, Role::Client, "admin").await;
    match peer.call(&Request::Admin(admin::Request::Trust(request))).await {
        Response::Admin(admin::Response::Trust(answer)) => Ok(answer),
        Response::Refused(refusal) => Err(refusal),
        other => panic!("{other:?}"),
    }
}

async fn add(
    cluster: &Cluster,
    at: &Running,
    token: &Token,
    lifetime_s: u64,
    policy: ClientPolicy,
) {
    let grant =
        TokenGrant { role: token.role, name: None, policy, monitor: MonitorGrant::WhileFew };
    let request = trust::Request::AddToken { hash: token.hash(), lifetime_s, grant };
    let added = administrate(cluster, at, request).await.unwrap();
    assert!(matches!(added, trust::Response::TokenAdded { .. }));
}

async fn join(at: &Running, token: &Token, keys: &[NewKey]) -> Result<Joined, Refusal> {
    let invited = Invited::by(token.authority);
    let address = at.address.to_string();
    let connection = Connection::open_invited(&address, &invited, LONG).await.unwrap();
    let requests = keys.iter().map(|key| key.request().unwrap()).collect();
    let join = Join { secret: token.secret(), name: "Host.example".to_owned(), requests };
    match ask(connection, encode(&Request::Join(join))).await {
        Response::Joined(joined) => Ok(joined),
        Response::Refused(refusal) => Err(refusal),
        other => panic!("{other:?}"),
    }
}

async fn renew(at: &Running, credentials: &Credentials) -> Response {
    let renew = Request::RenewCertificate { request: credentials.request().unwrap() };
    Peer::connect_as(credentials, at).await.call(&renew).await
}

fn keys<const N: usize>() -> [NewKey; N] {
    std::array::from_fn(|_| NewKey::generate().unwrap())
}

fn credentials_of(joined: &Joined, number: usize, key: &NewKey) -> Credentials {
    let certificate = &joined.certificates[number];
    Credentials::from_pem(&joined.authority, certificate, &key.key_pem()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_with_a_token_once() {
    let cluster = Cluster::founded();
    let monitor = cluster.start().await;
    let token = cluster.token(TokenRole::Node);
    add(&cluster, &monitor, &token, 60, ClientPolicy::default()).await;
    let (mine, theirs) = (keys::<3>(), keys::<3>());
    let (first, second) =
        tokio::join!(join(&monitor, &token, &mine), join(&monitor, &token, &theirs));
    let (joined, refused, keys) = match (first, second) {
        (Ok(joined), Err(refused)) => (joined, refused, mine),
        (Err(refused), Ok(joined)) => (joined, refused, theirs),
        both => panic!("{both:?}"),
    };
    assert!(matches!(refused, Refusal::Token(TokenRefusal::Used(_))), "{refused}");
    assert_eq!(joined.name, "Host");
    assert_eq!(joined.monitors, [monitor.address.to_string()]);
    let again = join(&monitor, &token, &keys).await.expect("the same machine asks again");
    assert_eq!(again.name, joined.name);

    let server = credentials_of(&joined, 1, &keys[1]);
    assert_eq!((server.identity().role, &*server.identity().name), (Role::Server, "server-Host"));
    let server = Peer::connect_as(&server, &monitor).await;
    let answer = server
        .call(&Request::OpenSession { client: client_info(), nonce: SystemRandom.u128() })
        .await;
    assert_eq!(answer, Response::Refused(Refusal::Forbidden));
    let client = credentials_of(&joined, 2, &keys[2]);
    let client = Peer::connect_as(&client, &monitor).await;
    let opened = client
        .call(&Request::OpenSession { client: client_info(), nonce: SystemRandom.u128() })
        .await;
    assert!(matches!(opened, Response::Session(_)), "{opened:?}");
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_are_of_no_use_are_refused_in_words() {
    let cluster = Cluster::founded();
    let monitor = cluster.start().await;
    let [expired, unknown] = [(); 2].map(|()| cluster.token(TokenRole::Client));
    let other = cluster.token(TokenRole::Node);
    add(&cluster, &monitor, &expired, 0, ClientPolicy::default()).await;
    add(&cluster, &monitor, &other, 60, ClientPolicy::default()).await;
    let refused = join(&monitor, &expired, &keys::<1>()).await.unwrap_err().to_string();
    assert!(refused.starts_with("this token expired at 20"), "{refused}");
    let refused = join(&monitor, &unknown, &keys::<1>()).await.unwrap_err();
    assert_eq!(refused, Refusal::Token(TokenRefusal::Unknown));
    let refused = join(&monitor, &other, &keys::<1>()).await.unwrap_err();
    assert_eq!(refused, Refusal::Token(TokenRefusal::OtherRole));
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_may_ask_for_nothing_else() {
    let cluster = Cluster::founded();
    let monitor = cluster.start().await;
    let invited = Invited::by(cluster.authority.fingerprint().unwrap());
    let address = monitor.address.to_string();
    let stranger = Connection::open_invited(&address, &invited, LONG).await.unwrap();
    let expired = cluster.expired(Role::Client, "late");
    let late = Peer::connect_as(&expired, &monitor).await;
    for request in [
        Request::OpenSession { client: client_info(), nonce: SystemRandom.u128() },
        Request::Admin(admin::Request::Placement),
        Request::SessionsOfNode { node: "node".to_owned() },
    ] {
        let answer = ask(stranger.clone(), encode(&request)).await;
        assert_eq!(answer, Response::Refused(Refusal::Forbidden), "{request:?}");
        assert_eq!(late.call(&request).await, Response::Refused(Refusal::Expired), "{request:?}");
    }
    let request = Request::RenewCertificate { request: expired.request().unwrap() };
    let answer = ask(stranger, encode(&request)).await;
    assert_eq!(answer, Response::Refused(Refusal::Forbidden));
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_was_off_for_months_starts() {
    let cluster = Cluster::founded();
    cluster.start().await.stop().await;
    let monitor = cluster.start_as(cluster.expired(Role::Monitor, "one")).await;
    let server = cluster.expired(Role::Server, "a");
    let answer = renew(&monitor, &server).await;
    let Response::Certificate(renewed) = answer else { panic!("{answer:?}") };
    server.replace(&renewed).unwrap();
    assert!(!server.validity().is_due(now()));

    // Somebody else with a certificate of that name and another key.
    let other = cluster.expired(Role::Server, "a");
    assert_eq!(renew(&monitor, &other).await, Response::Refused(Refusal::Revoked));
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_renews_its_file_and_others_take_it_over() {
    let cluster = Cluster::founded();
    let monitor = cluster.start().await;
    let dir = cluster.dir.path().join("member");
    let issued = cluster.authority.issue(Role::Server, "a", months_ago()).unwrap();
    credentials::save(&dir, cluster.authority.cert_pem(), &issued).unwrap();
    let (first, second) = (credentials::load(&dir).unwrap(), credentials::load(&dir).unwrap());
    // A port that was free a moment ago.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let monitors = |address: SocketAddr| vec![address.to_string()];
    let alone = Renewal::new(first.clone(), dir.clone(), monitors(nobody));
    alone.at_start().await.expect_err("it has expired, and nobody is there");

    let at = vec![nobody.to_string(), monitor.address.to_string()];
    Renewal::new(first.clone(), dir.clone(), at).at_start().await.expect("renewed");
    assert!(!first.validity().is_due(now()));
    let found = credentials::load(&dir).expect("the new one goes with the old key");
    assert_eq!(found.validity(), first.validity());
    assert_eq!(found.key_hash(), second.key_hash());
    Renewal::new(second.clone(), dir, monitors(nobody)).at_start().await.expect("taken over");
    assert_eq!(second.validity(), first.validity());
    monitor.stop().await;
}

#[tokio::test]
async fn a_valid_certificate_is_good_while_nobody_renews_it() {
    let cluster = Cluster::new();
    let now = now();
    let weeks_ago = Timestamp { seconds: now.seconds - 20 * 24 * 60 * 60, ..now };
    let issued = cluster.authority.issue(Role::Server, "a", weeks_ago).unwrap();
    let dir = cluster.dir.path().join("member");
    credentials::save(&dir, cluster.authority.cert_pem(), &issued).unwrap();
    let ours = credentials::load(&dir).unwrap();
    assert!(ours.validity().is_due(now));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    Renewal::new(ours, dir, vec![nobody.to_string()]).at_start().await.expect("put off");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_kept_to_what_they_may_do() {
    let cluster = Cluster::founded();
    let monitor = cluster.start().await;
    let mut owner = Client::open(&cluster, &monitor).await;
    let outside = owner.create(b"outside").await;
    let token = cluster.token(TokenRole::Client);
    let policy = ClientPolicy { admin: false, ..ClientPolicy::default() };
    add(&cluster, &monitor, &token, 60, policy.clone()).await;
    let keys = keys::<1>();
    let joined = join(&monitor, &token, &keys).await.unwrap();
    let credentials = credentials_of(&joined, 0, &keys[0]);
    let mut guest = Client::open_as(&credentials, &monitor).await;

    let command = Request::Admin(admin::Request::Trust(trust::Request::Tokens));
    assert_eq!(guest.peer.call(&command).await, Response::Refused(Refusal::Forbidden));
    let name = "one".to_owned();
    let command = Request::Admin(admin::Request::RemoveMonitor { name, once_replaced: true });
    assert_eq!(guest.peer.call(&command).await, Response::Refused(Refusal::Forbidden));
    let mine = guest.create(b"mine").await;
    servers(&cluster, &monitor).await;
    let tickets = guest.tickets().await;
    assert!(tickets.iter().any(|signed| signed.ticket.operation == Operation::Write));

    let set = |policy| trust::Request::SetClient { name: joined.name.clone(), policy };
    let read_only = ClientPolicy { read_only: true, ..policy.clone() };
    administrate(&cluster, &monitor, set(read_only)).await.unwrap();
    let ino = Ino(guest.inodes.next().unwrap());
    let refused = guest.mutate(create(ino, Ino::ROOT, b"more")).await;
    assert_eq!(refused, Err(Errno::ReadOnly));
    let mut lock = async |mode| guest.lock(LockRequest { mode, ..exclusive(mine, 1) }).await;
    assert_eq!(lock(Some(LockMode::Exclusive)).await, Err(Errno::ReadOnly));
    lock(Some(LockMode::Shared)).await.expect("that keeps no reader away");
    lock(None).await.unwrap();
    guest.mutate(Op::Release { ino: mine }).await.expect("what it holds it may give back");
    guest.ask(Query::Attr { ino: mine }).await.expect("it may read");
    let tickets = guest.tickets().await;
    assert!(!tickets.is_empty());
    assert!(tickets.iter().all(|signed| signed.ticket.operation == Operation::Read), "{tickets:?}");

    let below = ClientPolicy { subtree: b"mine".to_vec(), ..policy };
    administrate(&cluster, &monitor, set(below)).await.unwrap();
    let lookup = |name: &[u8]| Query::Lookup { parent: Ino::ROOT, name: name.to_vec() };
    guest.ask(lookup(b"mine")).await.expect("the way there");
    guest.ask(Query::Attr { ino: mine }).await.expect("what is there");
    for hidden in [lookup(b"outside"), Query::Attr { ino: outside }] {
        assert_eq!(guest.ask(hidden.clone()).await, Err(Errno::AccessDenied), "{hidden:?}");
    }
    let refused = guest.mutate(create(ino, Ino::ROOT, b"more")).await;
    assert_eq!(refused, Err(Errno::AccessDenied));
    let paths = Request::Admin(admin::Request::Paths(vec![outside]));
    assert_eq!(guest.peer.call(&paths).await, Response::Refused(Refusal::Forbidden));
    let placement = guest.peer.call(&Request::Admin(admin::Request::Placement)).await;
    assert!(matches!(placement, Response::Admin(_)), "{placement:?}");

    let revoke = trust::Request::RevokeClient { name: joined.name.clone() };
    administrate(&cluster, &monitor, revoke).await.unwrap();
    let query = guest.attr(mine);
    assert_eq!(guest.peer.call(&query).await, Response::Refused(Refusal::SessionClosed));
    let again = Peer::connect_as(&credentials, &monitor).await;
    let answer = again
        .call(&Request::OpenSession { client: client_info(), nonce: SystemRandom.u128() })
        .await;
    assert_eq!(answer, Response::Refused(Refusal::Revoked));
    assert_eq!(renew(&monitor, &credentials).await, Response::Refused(Refusal::Revoked));
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_of_a_monitor_that_does_not_lead_are_answered_too() {
    let Monitors { cluster, group, running } = Monitors::founded(2);
    group.elect(Some(0));
    let other = &running[1];
    let token = cluster.token(TokenRole::Client);
    let policy = ClientPolicy { read_only: true, admin: false, ..ClientPolicy::default() };
    add(&cluster, other, &token, 60, policy).await;
    let keys = keys::<1>();
    let joined = join(other, &token, &keys).await.expect("joined");
    let mut client = Client::open_as(&credentials_of(&joined, 0, &keys[0]), other).await;
    let ino = Ino(client.inodes.next().unwrap());
    assert_eq!(client.mutate(create(ino, Ino::ROOT, b"file")).await, Err(Errno::ReadOnly));
    let command = Request::Admin(admin::Request::Trust(trust::Request::Tokens));
    assert_eq!(client.peer.call(&command).await, Response::Refused(Refusal::Forbidden));

    let agent = cluster.expired(Role::Agent, "node");
    let answer = renew(other, &agent).await;
    let Response::Certificate(renewed) = answer else { panic!("{answer:?}") };
    agent.replace(&renewed).unwrap();
    let answer = renew(other, &agent).await;
    assert!(matches!(answer, Response::Certificate(_)), "valid now: {answer:?}");
    let namesake = cluster.expired(Role::Agent, "node");
    assert_eq!(renew(other, &namesake).await, Response::Refused(Refusal::Revoked));

    let open = Request::OpenSession { client: client_info(), nonce: SystemRandom.u128() };
    let late = Peer::connect_as(&cluster.expired(Role::Client, "late"), other).await;
    assert_eq!(late.call(&open).await, Response::Refused(Refusal::Expired));
    let invited = Invited::by(cluster.authority.fingerprint().unwrap());
    let stranger = Connection::open_invited(&other.address.to_string(), &invited, LONG).await;
    let answer = ask(stranger.unwrap(), encode(&open)).await;
    assert_eq!(answer, Response::Refused(Refusal::Forbidden));

    group.elect(None);
    assert_eq!(renew(other, &namesake).await, NO_LEADER);
}
