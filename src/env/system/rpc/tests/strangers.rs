//! Every way in which the other end may be wrong.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_harm_nobody_and_are_shown_out() {
    let ca = authority(1);
    let served = Served::start(member(&ca, Role::Monitor), 1);
    let mut silent = TcpStream::connect(served.address).await.expect("connected");
    let mut garbage = TcpStream::connect(served.address).await.expect("connected");
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
    let mut tls_only = tls_connect(&member(&ca, Role::Client), served.address).await;

    let connection = served.connect(&member(&ca, Role::Client)).await;
    echo(&connection, vec![]).await.expect("answered meanwhile");

    let mut rest = Vec::new();
    // A reset is as good an end as any.
    drop(garbage.read_to_end(&mut rest).await);
    assert_eq!(silent.read(&mut [0; 1]).await.expect("closed after a while"), 0);
    drop(tls_only.read_to_end(&mut rest).await);
    echo(&connection, vec![]).await.expect("answered still");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_announce_too_much_end_their_connection() {
    let ca = authority(1);
    let mut served = Served::start(member(&ca, Role::Monitor), 1);
    let mut stream = tls_connect(&member(&ca, Role::Client), served.address).await;
    let hello = hello(Levels::OURS, 0, now());
    hello::send(&mut stream, Kind::Request, &hello).await.expect("sent");
    let welcome: Welcome = hello::receive(&mut stream, Kind::Response).await.expect("welcome");
    assert_eq!(
        welcome,
        Welcome::Accepted { level: Levels::OURS.newest, incarnation: Incarnation(1) }
    );
    let prefix = Prefix { kind: Kind::Request, id: 1, header_len: u32::MAX, payload_len: 0 };
    let bytes: [u8; PREFIX_BYTES] = prefix.to_bytes();
    stream.write_all(&bytes).await.expect("sent");
    stream.flush().await.expect("sent");
    served.ended.recv().await.expect("the connection has ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrong_other_end_is_told_apart() {
    let (ca, other, twin) = (authority(1), authority(2), authority(1));
    let client = member(&ca, Role::Client);
    let old = Timestamp { seconds: 0, nanos: 0 };
    let cases = [
        (member(&other, Role::Monitor), "is of another cluster"),
        (member(&twin, Role::Monitor), "is of another cluster"),
        (member(&ca, Role::Server), "is a server, not a monitor"),
        (issued(&ca, &ca, Role::Monitor, old), "certificate of 127.0.0.1"),
        (issued(&twin, &ca, Role::Monitor, now()), "does not accept our certificate"),
    ];
    for (credentials, sentence) in cases {
        let served = Served::start(credentials, 1);
        let error = open(served.address, &client, Role::Monitor).await.expect_err("refused");
        assert!(error.to_string().contains(sentence), "{error}");
        assert!(!error.may_pass(), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_accepts_no_connections() {
    let ca = authority(1);
    let served = Served::start(member(&ca, Role::Client), 1);
    let error =
        open(served.address, &member(&ca, Role::Client), Role::Client).await.expect_err("refused");
    assert!(matches!(error, ConnectError::BadCertificate { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_incarnations_are_refused_in_words() {
    let ca = authority(1);
    let server = member(&ca, Role::Monitor);
    let client = member(&ca, Role::Client);
    let served = Served::start(server, 7);
    let address = served.address.to_string();
    let opened = Connection::open(&address, &client, Role::Monitor, Incarnation(6), LONG).await;
    let error = opened.expect_err("refused");
    assert!(error.to_string().contains("knows incarnation 7"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_releases_speak_what_both_know_or_say_which_is_too_old() {
    let ca = authority(1);
    let client = member(&ca, Role::Client);
    let Levels { oldest, newest } = Levels::OURS;
    let serve = |levels| Served::speaking(levels, member(&ca, Role::Monitor), 1);

    let next = serve(Levels { oldest: newest, newest: newest + 1 });
    assert_eq!(next.connect(&client).await.level(), newest);
    let before = serve(Levels { oldest: 0, newest: oldest });
    assert_eq!(before.connect(&client).await.level(), oldest);

    let cases = [
        (Levels::only(newest + 1), "upgrade okapifs on this machine"),
        (Levels::only(oldest - 1), "upgrade okapifs at 127.0.0.1:"),
    ];
    for (levels, sentence) in cases {
        let other = serve(levels);
        let error = open(other.address, &client, Role::Monitor).await.expect_err("refused");
        assert!(error.to_string().starts_with(sentence), "{error}");
        assert!(!error.may_pass(), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_not_there_or_not_okapi_is_told_apart() {
    let client = member(&authority(1), Role::Client);
    let attempt = async |address: &str, timeout: Duration| {
        let opened =
            Connection::open(address, &client, Role::Monitor, Incarnation(0), timeout).await;
        opened.expect_err("no connection")
    };
    let error = attempt("127.0.0.1", LONG).await;
    assert!(matches!(error, ConnectError::Unresolvable { .. }), "{error}");

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let error = attempt(&address, SHORT).await;
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");

    let web = tokio::spawn(async move {
        // The first in line is the attempt above.
        loop {
            let (mut stream, _) = listener.accept().await.expect("accepted");
            drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await);
        }
    });
    let error = attempt(&address, LONG).await;
    assert!(matches!(error, ConnectError::NotOkapi { .. }), "{error}");
    web.abort();
    web.await.expect_err("aborted");
    let error = attempt(&address, LONG).await;
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    assert!(error.may_pass());
}

#[test]
fn a_port_in_use_is_named() {
    let first = Listener::bind("127.0.0.1:0").expect("a free port");
    let address = first.local_address().to_string();
    let error = Listener::bind(&address).expect_err("in use").to_string();
    let port = first.local_address().port();
    assert!(error.starts_with(&format!("port {port} of 127.0.0.1 is in use")), "{error}");
    let error = Listener::bind("nonsense").expect_err("no address").to_string();
    assert!(error.starts_with("cannot listen at nonsense"), "{error}");
}

fn hello(levels: Levels, incarnation: u32, time: Timestamp) -> Hello {
    Hello { levels, cluster: ClusterId(1), incarnation: Incarnation(incarnation), time }
}
