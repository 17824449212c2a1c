//! More calls behind one monitor than the leader takes at a time.

use super::reigns::Monitors;
use super::*;
use crate::env::system::rpc::{CALL_BYTES_MIN, IN_FLIGHT_BYTES};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_is_not_behind_those_who_wait_for_it() {
    let monitors = Monitors::start(2);
    monitors.group.elect(Some(0));
    let mut writer = monitors.client(1).await;
    let file = writer.create(b"file").await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let reader = monitors.client(1).await;
        let question = reader.attr(file);
        for _ in 0..=IN_FLIGHT_BYTES / CALL_BYTES_MIN / 2 {
            waiting.push(reader.begin(&question));
        }
        // What came before it on the connection is under way.
        assert_eq!(reader.begin(&Request::Ping).await.unwrap(), super::reigns::ALIVE);
    }
    assert_eq!(writer.peer.recalled().await, [file]);
    writer.mutate(Op::Release { ino: file }).await.unwrap();
    for answer in waiting {
        let Response::Answers(answers, _) = answer.await.unwrap() else { panic!("no answer") };
        assert!(matches!(answers[..], [Ok(Answer::Attr(_))]));
    }
}
