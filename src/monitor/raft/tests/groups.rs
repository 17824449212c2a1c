//! Groups whose leaders die, whose links are cut, and whose members lag, come and go.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::group::{Members, leadership, propose, until, write_somewhere, wrong_after};
use crate::monitor::raft::ProposeError;
use crate::monitor::raft::tests::action;
use crate::types::{DiskRoom, MonitorId, MonitorRole};

fn ids(ids: &[u64]) -> BTreeSet<MonitorId> {
    ids.iter().copied().map(MonitorId).collect()
}

fn others(all: u64, not: u64) -> Vec<u64> {
    (1..=all).filter(|id| *id != not).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_leader_is_replaced_and_nothing_answered_is_lost() {
    let mut group = Members::of(3, true).await;
    for round in 0..3 {
        for number in 0..10 {
            group.write(round * 10 + number).await;
        }
        let leader = group.leader_id().await;
        group.stop(leader).await;
        assert_ne!(group.leader_id().await, leader);
        group.start(leader).await;
    }
    let expected: Vec<_> = (0..30).map(action).collect();
    assert_eq!(group.agreed().await, expected);
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_steps_down_and_says_so_to_those_who_wait() {
    let group = Members::of(3, false).await;
    group.write(0).await;
    let old = group.leader_id().await;
    let (raft, rest) = (group.live[&old].raft.clone(), others(3, old));
    group.net.isolate(old);
    let stranded = propose(&raft, 7..8).await.unwrap_err();
    assert_eq!(stranded, ProposeError::NotLeader { leader: None });
    write_somewhere(&group, &rest, 1).await;
    assert_eq!(leadership(&group, old).role, MonitorRole::Follower);
    group.net.heal();
    assert_eq!(group.agreed().await, [action(0), action(1)]);
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_entries_of_a_leader_that_is_none_any_more_is_told() {
    let group = Members::of(3, false).await;
    let old = group.leader_id().await;
    let rest = others(3, old);
    // Somebody is elected, and nothing of its term is ever committed.
    group.net.lose_entries();
    group.net.isolate(old);
    let elected = until("another one is elected", async || {
        rest.iter().copied().find(|id| leadership(&group, *id).role == MonitorRole::Leader)
    });
    let raft = group.live[&elected.await].raft.clone();
    let asked = tokio::spawn(async move { raft.confirm_leadership().await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(
        !asked.is_finished(),
        "it leads, and what was committed before is not applied for certain"
    );
    rest.iter().for_each(|id| group.net.isolate(*id));
    let answer = tokio::time::timeout(Duration::from_secs(20), asked).await.expect("an answer");
    assert_eq!(answer.unwrap().map(drop), Err(ProposeError::NotLeader { leader: None }));
    group.net.heal();
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_can_only_send_is_replaced() {
    let group = Members::of(3, false).await;
    let old = group.leader_id().await;
    let rest = others(3, old);
    rest.iter().for_each(|other| group.net.cut(*other, old));
    write_somewhere(&group, &rest, 1).await;
    assert_ne!(leadership(&group, old).role, MonitorRole::Leader);
    group.net.heal();
    assert_eq!(group.agreed().await, [action(1)]);
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_can_only_receive_is_replaced() {
    let group = Members::of(3, false).await;
    let old = group.leader_id().await;
    let rest = others(3, old);
    rest.iter().for_each(|other| group.net.cut(old, *other));
    write_somewhere(&group, &rest, 1).await;
    group.net.heal();
    assert_eq!(group.agreed().await, [action(1)]);
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_from_behind_a_cut_disturbs_nobody() {
    let group = Members::of(3, false).await;
    let leader = group.leader_id().await;
    let term = leadership(&group, leader).term;
    let away = others(3, leader)[0];
    group.net.isolate(away);
    for number in 0..20 {
        group.write(number).await;
    }
    // Long enough for it to have asked several times.
    tokio::time::sleep(Duration::from_secs(3)).await;
    group.net.heal();
    group.agreed().await;
    let now = leadership(&group, leader);
    assert_eq!((now.role, now.term), (MonitorRole::Leader, term));
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_five_the_three_that_see_one_another_go_on() {
    let group = Members::of(5, false).await;
    let old = group.leader_id().await;
    let rest = others(5, old);
    let (few, most) = (vec![old, rest[0]], rest[1..].to_vec());
    for one in &few {
        for other in &most {
            group.net.cut(*one, *other);
            group.net.cut(*other, *one);
        }
    }
    write_somewhere(&group, &most, 1).await;
    until("the minority's leader steps down", async || {
        (leadership(&group, old).role == MonitorRole::Follower).then_some(())
    })
    .await;
    let refused = propose(&group.live[&old].raft, 9..10).await.unwrap_err();
    assert!(matches!(refused, ProposeError::NotLeader { .. }), "{refused}");
    group.net.heal();
    assert_eq!(group.agreed().await, [action(1)]);
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_catches_up_from_the_log_or_is_given_the_state() {
    let mut group = Members::of(3, true).await;
    for with_state in [false, true] {
        let leader = group.leader_id().await;
        let away = others(3, leader)[0];
        group.stop(away).await;
        let from = if with_state { 1000 } else { 0 };
        for number in 0..100 {
            let first = from + number * 10;
            propose(&group.leader().await, first..first + 10).await.unwrap();
        }
        if with_state {
            let raft = group.live[&leader].raft.clone();
            let mut keeper = group.keeper(leader, 6000);
            until("the log is purged", async || {
                keeper.tick().await.unwrap();
                raft.inner.log.purged().map(drop)
            })
            .await;
        }
        group.start(away).await;
        // Writing goes on meanwhile.
        propose(&group.leader().await, 5000..5001).await.unwrap();
        let agreed = group.agreed().await;
        assert_eq!(agreed.len(), if with_state { 2002 } else { 1001 });
    }
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_becomes_three_and_a_lost_one_is_replaced() {
    let mut group = Members::of(1, true).await;
    group.write(0).await;
    for new in [2, 3] {
        group.start(new).await;
        group.leader().await.add_learner(MonitorId(new), "").await.unwrap();
    }
    group.leader().await.set_voters(&ids(&[1, 2, 3])).await.unwrap();
    group.write(1).await;
    group.stop(2).await;
    group.write(2).await;
    group.start(4).await;
    let leader = group.leader().await;
    leader.add_learner(MonitorId(4), "").await.unwrap();
    leader.set_voters(&ids(&[1, 3, 4])).await.unwrap();
    leader.remove_learner(MonitorId(2)).await.unwrap();
    let now = leader.group();
    assert_eq!((now.voters, now.learners), (vec![ids(&[1, 3, 4])], ids(&[])));
    group.stop(1).await;
    group.write(3).await;
    assert_eq!(group.agreed().await, (0..4).map(action).collect::<Vec<_>>());
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_led_does_not_lead_on_in_its_old_term() {
    let mut group = Members::of(1, true).await;
    group.write(0).await;
    let before = leadership(&group, 1).term;
    group.stop(1).await;
    group.start(1).await;
    group.leader().await;
    assert!(leadership(&group, 1).term > before);
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_state_differs_stops_and_says_so() {
    let mut group = Members::of(2, true).await;
    group.start_with(3, Arc::new(wrong_after(5))).await;
    group.leader().await.add_learner(MonitorId(3), "").await.unwrap();
    group.leader().await.set_voters(&ids(&[1, 2, 3])).await.unwrap();
    for number in 0..4 {
        group.write(number).await;
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(leadership(&group, 3).stopped, None, "it is right so far");
    // Whoever leads then: the two that are right.
    for number in 4..8 {
        write_somewhere(&group, &[1, 2, 3], number).await;
    }
    let why = until("it stops", async || leadership(&group, 3).stopped).await;
    assert!(why.contains("is not what most monitors have"), "{why}");
    write_somewhere(&group, &[1, 2], 8).await;
    assert_eq!((leadership(&group, 1).stopped, leadership(&group, 2).stopped), (None, None));
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_whose_disks_are_full_say_so_and_go_on_when_there_is_room() {
    let group = Members::of(3, false).await;
    group.write(0).await;
    let leader = group.leader().await;
    let full = others(3, group.leader_id().await);
    let heard = async |id: u64, room: DiskRoom| {
        until("the leader hears how much room there is", async || {
            let heard = leader.group().heard;
            heard.get(&MonitorId(id)).filter(|heard| heard.room == room).map(drop)
        })
        .await;
    };
    group.frees(full[0], 199);
    heard(full[0], DiskRoom::Reserve).await;
    group.frees(full[0], 24);
    heard(full[0], DiskRoom::Full).await;
    group.write(1).await;
    group.frees(full[1], 24);
    heard(full[1], DiskRoom::Full).await;
    let mut waiting = tokio::spawn({
        let leader = leader.clone();
        async move { propose(&leader, 2..3).await }
    });
    let a_while = Duration::from_secs(2);
    tokio::time::timeout(a_while, &mut waiting).await.expect_err("no majority can take it");
    assert!(leader.leadership().borrow().is_leader(), "nobody is missed");
    let term = leader.leadership().borrow().term;
    group.frees(full[1], 1600);
    waiting.await.unwrap().unwrap();
    group.frees(full[0], 1600);
    assert_eq!(group.agreed().await, [action(0), action(1), action(2)]);
    assert_eq!(leader.leadership().borrow().term, term);
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_is_nearly_full_lets_one_with_room_lead() {
    let group = Members::of(3, false).await;
    group.write(0).await;
    let low = group.leader_id().await;
    group.frees(low, 100);
    until("another leads", async || (group.leader_id().await != low).then_some(())).await;
    group.write(1).await;
    for id in others(3, low) {
        group.frees(id, 100);
    }
    let leader = group.leader_id().await;
    let raft = &group.live[&leader].raft;
    until("all are low", async || {
        let now = raft.group();
        now.heard.values().all(|heard| heard.room == DiskRoom::Reserve).then_some(())
    })
    .await;
    let term = raft.leadership().borrow().term;
    group.write(2).await;
    assert_eq!(raft.leadership().borrow().term, term, "nobody is better off");
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_waits_for_room_can_be_ended() {
    let mut group = Members::of(3, false).await;
    let full = others(3, group.leader_id().await)[0];
    group.frees(full, 0);
    group.write(0).await;
    group.stop(full).await;
    group.frees(full, 1600);
    group.start(full).await;
    assert_eq!(group.agreed().await, [action(0)]);
    group.end().await;
}
