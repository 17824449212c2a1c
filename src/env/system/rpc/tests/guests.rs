//! Who has no valid certificate, and who has another idea of what time it is.

use std::sync::atomic::{AtomicU64, Ordering};

use rustls::pki_types::UnixTime;

use super::*;
use crate::crypto::{Invited, TimeProvider};

const DAY_S: i64 = 24 * 60 * 60;

/// A clock that stands still until it is set.
#[derive(Debug)]
struct StoppedClock(AtomicU64);

impl StoppedClock {
    fn at(time: Timestamp) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(time.seconds.unsigned_abs())))
    }

    fn forward(&self, seconds: i64) {
        self.0.fetch_add(seconds.unsigned_abs(), Ordering::Relaxed);
    }
}

impl TimeProvider for StoppedClock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = self.0.load(Ordering::Relaxed);
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

fn later(time: Timestamp, seconds: i64) -> Timestamp {
    Timestamp { seconds: time.seconds + seconds, ..time }
}

/// A member with a certificate from that time, in a process with that clock.
fn dated(ca: &Authority, role: Role, at: Timestamp, clock: &Arc<StoppedClock>) -> Credentials {
    let issued = ca.issue(role, "member", at).expect("issued");
    let clock = Arc::clone(clock) as Arc<dyn TimeProvider>;
    Credentials::with_clock(ca.cert_pem(), &issued.cert_pem, &issued.key_pem, clock).expect("fits")
}

async fn say(connection: &Connection) -> Result<String, CallError> {
    let (answer, _) = connection.call(b"hello".to_vec(), Vec::new(), LONG).await?;
    Ok(String::from_utf8(answer).expect("text"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invited_guest_reaches_the_monitor_of_its_cluster_only() {
    let (ca, other) = (authority(1), authority(1));
    let served = Served::start(member(&ca, Role::Monitor), 1);
    let address = served.address.to_string();
    let invited = Invited::by(ca.fingerprint().expect("readable"));
    let guest = Connection::open_invited(&address, &invited, LONG).await.expect("let in");
    assert_eq!(say(&guest).await.expect("answered"), "nobody says hello");

    let misled = Invited::by(other.fingerprint().expect("readable"));
    let error = Connection::open_invited(&address, &misled, LONG).await.expect_err("refused");
    assert!(matches!(error, ConnectError::OtherCluster { .. }), "{error}");

    let server = Served::start(member(&ca, Role::Server), 1);
    let address = server.address.to_string();
    Connection::open_invited(&address, &invited, LONG)
        .await
        .expect_err("only monitors have guests");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_are_kept_short() {
    let ca = authority(1);
    let served = Served::start(member(&ca, Role::Monitor), 1);
    let address = served.address.to_string();
    let invited = Invited::by(ca.fingerprint().expect("readable"));
    let open = async || Connection::open_invited(&address, &invited, LONG).await.expect("let in");
    let long = vec![7; GUEST_CALL_BYTES_MAX as usize + 1];
    let ended = open().await.call(long, Vec::new(), LONG).await;
    assert_eq!(ended.expect_err("too long"), CallError::Closed);
    let bulk = open().await.call(b"x".to_vec(), vec![Bytes::from_static(b"y")], LONG).await;
    assert_eq!(bulk.expect_err("bulk"), CallError::Closed);

    let mut guests = Vec::new();
    for _ in 0..GUESTS_MAX {
        let guest = open().await;
        say(&guest).await.expect("answered");
        guests.push(guest);
    }
    let one_more = open().await;
    assert_eq!(say(&one_more).await.expect_err("too many"), CallError::Closed);
    let as_member = served.connect(&member(&ca, Role::Client)).await;
    echo(&as_member, Vec::new()).await.expect("members have their own places");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_makes_a_guest_and_a_renewed_one_a_member() {
    let ca = authority(1);
    let made = now();
    let clock = StoppedClock::at(made);
    let server = dated(&ca, Role::Monitor, made, &clock);
    let client = dated(&ca, Role::Client, made, &clock);
    let served = Served::start(server.clone(), 1);
    assert_eq!(say(&served.connect(&client).await).await.expect("answered"), "hello");

    clock.forward(60 * DAY_S);
    let error = open(served.address, &client, Role::Monitor).await.expect_err("the monitor's own");
    assert!(matches!(error, ConnectError::BadCertificate { .. }), "{error}");
    let request = crate::crypto::Request::from_der(&server.request().expect("a request"));
    let renewed = ca
        .sign(&request.expect("verified"), Role::Monitor, "member", later(made, 60 * DAY_S))
        .expect("signed");
    server.replace(&renewed).expect("for the same key");
    let guest = served.connect(&client).await;
    assert_eq!(say(&guest).await.expect("answered"), "member says hello");

    let request = crate::crypto::Request::from_der(&client.request().expect("a request"));
    let renewed = ca
        .sign(&request.expect("verified"), Role::Client, "member", later(made, 60 * DAY_S))
        .expect("signed");
    client.replace(&renewed).expect("for the same key");
    assert_eq!(say(&served.connect(&client).await).await.expect("answered"), "hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_are_too_far_apart_are_named() {
    let ca = authority(1);
    let at = now();
    let served = Served::start(dated(&ca, Role::Monitor, at, &StoppedClock::at(at)), 1);
    for (apart, fits) in [(0, true), (300, true), (301, false), (600, false)] {
        let clock = StoppedClock::at(later(at, apart));
        let client = dated(&ca, Role::Client, at, &clock);
        let opened = open(served.address, &client, Role::Monitor).await;
        if fits {
            opened.expect("close enough");
            continue;
        }
        let error = opened.expect_err("too far apart");
        let text = error.to_string();
        assert!(error.may_pass(), "somebody sets the clock: {text}");
        assert!(text.contains(&at.to_string()), "{text}");
        assert!(text.contains(&later(at, apart).to_string()), "{text}");
    }
}
