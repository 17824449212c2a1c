//! Tokens are redeemed once, names mean one member for ever, keys stay what they were.

use super::*;
use crate::crypto::Role;
use crate::monitor::namespace::records::MonitorState;
use crate::monitor::namespace::trust::{Founding, MemberKey, TrustAction, TrustOutcome};
use crate::types::{MonitorGrant, MonitorId, Program};
use crate::wire::peers::Profile;
use crate::wire::trust::TokenRefusal;

const HASH: TokenHash = TokenHash([7; 32]);
const HOUR_S: u64 = 3600;

fn trust(world: &mut World, action: TrustAction) -> TrustOutcome {
    match world.act(Action::Trust(action)) {
        Outcome::Trust(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

fn key(number: u8) -> KeyHash {
    KeyHash([number; 32])
}

fn add(world: &mut World, hash: TokenHash, role: TokenRole, lifetime_s: u64) {
    let policy = ClientPolicy { read_only: true, ..ClientPolicy::default() };
    let grant = TokenGrant { role, name: None, policy, monitor: MonitorGrant::WhileFew };
    let outcome = trust(world, TrustAction::AddToken { hash, lifetime_s, grant });
    assert!(matches!(outcome, TrustOutcome::Token { .. }));
}

fn redeem(world: &mut World, hash: TokenHash, name: &str, keys: &[KeyHash]) -> TrustOutcome {
    let (name, keys) = (name.to_owned(), keys.to_vec());
    trust(world, TrustAction::Redeem { hash, name, keys })
}

fn redeemed(role: TokenRole, name: &str) -> TrustOutcome {
    TrustOutcome::Redeemed { role, name: name.to_owned(), monitor: false }
}

fn renew(world: &mut World, role: Role, name: &str, key: KeyHash) -> TrustOutcome {
    trust(world, TrustAction::Renew(MemberKey { role, name: name.to_owned(), key }))
}

#[test]
fn of_two_redeemers_one_wins_and_may_ask_again() {
    let mut world = World::new(0);
    add(&mut world, HASH, TokenRole::Client, HOUR_S);
    let first = redeem(&mut world, HASH, "host", &[key(1)]);
    assert_eq!(first, redeemed(TokenRole::Client, "host"));
    let before = world.pairs();
    let other = redeem(&mut world, HASH, "other", &[key(2)]);
    assert!(
        matches!(&other, TrustOutcome::Refused(TokenRefusal::Used(by)) if by.name == "host"),
        "{other:?}"
    );
    assert_eq!(redeem(&mut world, HASH, "host", &[key(1)]), first, "the answer was lost");
    assert_eq!(world.pairs(), before);
    let policy = query::client_policy(&world.store, "host").unwrap();
    assert!(policy.read_only, "the policy came with the token");
    world.verify();
}

#[test]
fn a_token_has_its_time_and_may_be_taken_back() {
    let mut world = World::new(0);
    let unknown = TrustOutcome::Refused(TokenRefusal::Unknown);
    assert_eq!(redeem(&mut world, HASH, "a", &[key(1)]), unknown);
    // Each command of this world is a second later than the one before.
    add(&mut world, HASH, TokenRole::Client, 1);
    redeem(&mut world, TokenHash([8; 32]), "a", &[key(1)]);
    let late = redeem(&mut world, HASH, "a", &[key(1)]);
    assert!(matches!(late, TrustOutcome::Refused(TokenRefusal::Expired(_))), "{late:?}");
    add(&mut world, HASH, TokenRole::Client, HOUR_S);
    assert_eq!(trust(&mut world, TrustAction::RevokeToken(HASH)), TrustOutcome::Done);
    assert_eq!(trust(&mut world, TrustAction::RevokeToken(HASH)), TrustOutcome::Unknown);
    assert_eq!(redeem(&mut world, HASH, "a", &[key(1)]), unknown);
}

#[test]
fn a_token_that_nobody_can_use_is_forgotten_some_day() {
    let mut world = World::new(0);
    add(&mut world, HASH, TokenRole::Client, 0);
    let grant = query::tokens(&world.store).unwrap().remove(0).1.grant;
    let hash = TokenHash([8; 32]);
    let action = TrustAction::AddToken { hash, lifetime_s: 1, grant };
    let time = Timestamp { seconds: 1_000_000, nanos: 0 };
    let command = Command { term: 0, time, actions: vec![Action::Trust(action)] };
    let applied = apply(&world.store, &command).unwrap();
    world.store.write(&applied.batch).unwrap();
    let left: Vec<_> = query::tokens(&world.store).unwrap();
    assert_eq!(left.iter().map(|(hash, _)| *hash).collect::<Vec<_>>(), [hash]);
}

#[test]
fn names_are_given_once() {
    let mut world = World::new(0);
    world.register("server-b", "b");
    let mut join = |number: u8, name| {
        let hash = TokenHash([number; 32]);
        add(&mut world, hash, TokenRole::Node, HOUR_S);
        redeem(&mut world, hash, name, &[key(number), key(number + 1), key(number + 2)])
    };
    assert_eq!(join(10, "a"), redeemed(TokenRole::Node, "a"));
    assert_eq!(join(20, "a"), redeemed(TokenRole::Node, "a-2"));
    assert_eq!(join(30, "a"), redeemed(TokenRole::Node, "a-3"));
    assert_eq!(join(40, "b"), redeemed(TokenRole::Node, "b-2"), "a server has that name");
    // The agent of a node obeys the client that is called like the node.
    assert_eq!(renew(&mut world, Role::Agent, "agent", key(1)), TrustOutcome::Done);
    add(&mut world, HASH, TokenRole::Client, HOUR_S);
    let laptop = redeem(&mut world, HASH, "agent", &[key(2)]);
    assert_eq!(laptop, redeemed(TokenRole::Client, "agent-2"));
    let member = query::member(&world.store, Role::Server, "server-a-2").unwrap().unwrap();
    assert_eq!(member.key, Some(key(21)));
}

#[test]
fn requests_for_another_role_leave_the_token_unused() {
    let mut world = World::new(0);
    add(&mut world, HASH, TokenRole::Node, HOUR_S);
    let wrong = redeem(&mut world, HASH, "a", &[key(1)]);
    assert_eq!(wrong, TrustOutcome::Refused(TokenRefusal::OtherRole));
    let right = redeem(&mut world, HASH, "a", &[key(1), key(2), key(3)]);
    assert_eq!(right, redeemed(TokenRole::Node, "a"));
}

#[test]
fn a_member_renews_for_its_key_until_it_is_revoked() {
    let mut world = World::new(0);
    assert_eq!(renew(&mut world, Role::Server, "old", key(1)), TrustOutcome::Done, "made by init");
    assert_eq!(renew(&mut world, Role::Server, "old", key(1)), TrustOutcome::Done);
    assert_eq!(renew(&mut world, Role::Server, "old", key(2)), TrustOutcome::Revoked);
    assert_eq!(renew(&mut world, Role::Client, "old", key(2)), TrustOutcome::Done, "another role");
    let revoke = TrustAction::Revoke { role: Role::Server, name: "old".to_owned() };
    assert_eq!(trust(&mut world, revoke), TrustOutcome::Done);
    assert_eq!(renew(&mut world, Role::Server, "old", key(1)), TrustOutcome::Revoked);
    let never_seen = TrustAction::Revoke { role: Role::Agent, name: "new".to_owned() };
    trust(&mut world, never_seen);
    assert_eq!(renew(&mut world, Role::Agent, "new", key(3)), TrustOutcome::Revoked);
}

#[test]
fn a_client_that_was_revoked_opens_no_session_whoever_let_it_in() {
    let mut world = World::new(1);
    let record = query::session(&world.store, world.session(0)).unwrap().unwrap();
    let (owner, client) = (record.owner, record.client);
    let open = Action::OpenSession { owner: owner.clone(), client, nonce: 1 };
    assert!(matches!(world.act(open.clone()), Outcome::Session(_)));
    trust(&mut world, TrustAction::Revoke { role: Role::Client, name: owner });
    assert_eq!(world.act(open), Outcome::NoSession);
    world.verify();
}

#[test]
fn a_cluster_is_founded_once() {
    let mut world = World::new(0);
    let founding = |certificate: &str| {
        let member = MemberKey { role: Role::Client, name: "admin".to_owned(), key: key(1) };
        TrustAction::Found(Founding {
            authority: certificate.to_owned(),
            sealed_key: vec![1],
            members: vec![member],
            token: None,
        })
    };
    trust(&mut world, founding("first"));
    trust(&mut world, founding("second"));
    let authority = query::authority(&world.store).unwrap().unwrap();
    assert_eq!(authority.certificate, "first");
    assert_eq!(renew(&mut world, Role::Client, "admin", key(2)), TrustOutcome::Revoked);
    let set = |name: &str| TrustAction::SetClient {
        name: name.to_owned(),
        policy: ClientPolicy { admin: false, ..ClientPolicy::default() },
    };
    assert_eq!(trust(&mut world, set("admin")), TrustOutcome::Done);
    assert_eq!(trust(&mut world, set("nobody")), TrustOutcome::Unknown);
    assert!(!query::client_policy(&world.store, "admin").unwrap().admin);
    world.verify();
}

fn states(world: &World) -> Vec<(String, MonitorState)> {
    let monitors = query::monitors(&world.store).unwrap();
    monitors.into_iter().map(|(_, monitor)| (monitor.name, monitor.state)).collect()
}

/// A node that would run a monitor joins; whether it does.
fn join_with_monitor(world: &mut World, number: u8, monitor: MonitorGrant) -> bool {
    let hash = TokenHash([number; 32]);
    let grant =
        TokenGrant { role: TokenRole::Node, name: None, policy: ClientPolicy::default(), monitor };
    trust(world, TrustAction::AddToken { hash, lifetime_s: HOUR_S, grant });
    let keys: Vec<KeyHash> = (0..4).map(|more| key(number + more)).collect();
    let first = redeem(world, hash, &format!("n{number}"), &keys);
    assert_eq!(redeem(world, hash, "n", &keys), first, "the answer was lost");
    let TrustOutcome::Redeemed { monitor, .. } = first else { panic!("{first:?}") };
    let member = query::member(&world.store, Role::Monitor, &format!("monitor-n{number}")).unwrap();
    assert_eq!(member.and_then(|member| member.key), monitor.then(|| key(number + 3)));
    monitor
}

#[test]
fn the_first_three_nodes_get_monitors() {
    let mut world = World::new(0);
    let few = MonitorGrant::WhileFew;
    assert!(join_with_monitor(&mut world, 10, few));
    assert!(!join_with_monitor(&mut world, 20, MonitorGrant::Never));
    assert!(join_with_monitor(&mut world, 30, few));
    assert!(join_with_monitor(&mut world, 40, few));
    assert!(!join_with_monitor(&mut world, 50, few), "there are three");
    assert!(join_with_monitor(&mut world, 60, MonitorGrant::Always));
    assert!(!query::may_monitor(&world.store, "n20").unwrap());
    assert!(query::may_monitor(&world.store, "n50").unwrap());

    // One of them starts, another never does and is given up.
    let profile = profile();
    let add = |name: &str| Action::AddMonitor { name: name.to_owned(), profile: profile.clone() };
    let Outcome::Monitor(id) = world.act(add("monitor-n10")) else { panic!("it is awaited") };
    let name = "monitor-n10".to_owned();
    world.act(Action::IntroduceMonitor { id, name, profile: profile.clone() });
    let remove = Action::RemoveMonitor { name: "monitor-n30".to_owned(), once_replaced: false };
    assert_eq!(world.act(remove), Outcome::Done);
    assert!(matches!(world.act(add("monitor-n30")), Outcome::Refused(_)), "too late");
    let expected = ["n10", "n30", "n40", "n60"].map(|name| format!("monitor-{name}"));
    let now =
        [MonitorState::Member, MonitorState::Gone, MonitorState::Joining, MonitorState::Joining];
    assert_eq!(states(&world), expected.into_iter().zip(now).collect::<Vec<_>>());
    world.verify();
}

#[test]
fn a_monitor_is_enrolled_in_the_place_of_one_that_is_lost() {
    let mut world = World::new(0);
    let profile = profile();
    let (id, name) = (MonitorId(1), "monitor-1".to_owned());
    world.act(Action::IntroduceMonitor { id, name, profile });
    let mut enroll = |number: u8, name: &str, replaces| {
        let action = TrustAction::Enroll { name: name.to_owned(), key: key(number), replaces };
        trust(&mut world, action)
    };
    let enrolled = |name: &str| TrustOutcome::Enrolled { name: name.to_owned() };
    assert_eq!(enroll(1, "monitor-1", None), enrolled("monitor-1-2"), "that one is taken");
    assert_eq!(enroll(1, "monitor-1", None), enrolled("monitor-1-2"), "the answer was lost");
    assert_eq!(enroll(2, "b", Some(MonitorId(77))), TrustOutcome::Unknown, "who is that?");
    assert_eq!(enroll(3, "b", Some(MonitorId(1))), enrolled("b"));
    assert_eq!(enroll(3, "b", Some(MonitorId(1))), enrolled("b"), "the answer was lost");
    let expected = [
        ("monitor-1", MonitorState::Replaced),
        ("monitor-1-2", MonitorState::Joining),
        ("b", MonitorState::Joining),
    ];
    assert_eq!(states(&world), expected.map(|(name, state)| (name.to_owned(), state)));
    world.verify();
}

fn profile() -> Profile {
    let (address, node) = ("a:1".to_owned(), "node".to_owned());
    Profile { address, agent: None, start: 1, program: Program::this(), node, pid: 1 }
}
