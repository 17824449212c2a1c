//! The level rises when everybody can do more, and nobody comes in below it.

use super::*;
use crate::types::{Levels, Program, TicketKey};
use crate::wire::metadata::ClientInfo;
use crate::wire::peers::Profile;
use crate::wire::servers::{Register, Usage};

/// The releases before and after an upgrade.
const OLD: u32 = Levels::OURS.oldest;
const NEW: u32 = Levels::OURS.newest;

fn program(level: u32) -> Program {
    Program::this().held_at(level)
}

fn monitor(level: u32) -> Action {
    let (address, node) = ("a:1".to_owned(), "node".to_owned());
    let program = program(level);
    let profile = Profile { address, agent: None, start: 0, program, node, pid: 1 };
    Action::IntroduceMonitor { id: MonitorId(1), name: "m1".to_owned(), profile }
}

fn server(level: u32) -> Action {
    let register = Register {
        address: "a:2".to_owned(),
        domain: "a".to_owned(),
        node: String::new(),
        pid: 1,
        instance: 1,
        dir: String::new(),
        usage: Usage::default(),
        program: program(level),
    };
    Action::RegisterServer { name: "s1".to_owned(), register, key: TicketKey([1; 32]) }
}

fn session(level: u32) -> Action {
    let client = ClientInfo {
        node: String::new(),
        boot: String::new(),
        run_lock: String::new(),
        host: "h".to_owned(),
        mountpoint: "/mnt".to_owned(),
        pid: 1,
        program: program(level),
    };
    Action::OpenSession { owner: "c".to_owned(), client, nonce: 0 }
}

fn raised(world: &mut World) -> bool {
    let outcome = world.act(Action::RaiseFeatureLevel(NEW));
    let is_raised = query::level(&world.store).unwrap() == NEW;
    assert_eq!(is_raised, outcome == Outcome::Done, "{outcome:?}");
    is_raised
}

#[test]
fn it_rises_when_the_last_of_all_roles_can() {
    let mut world = World::new(0);
    assert_eq!(query::level(&world.store).unwrap(), OLD);
    world.act(monitor(OLD));
    world.act(server(OLD));
    let Outcome::Session(old) = world.act(session(OLD)) else { panic!("it is opened") };
    world.act(monitor(NEW));
    assert!(!raised(&mut world), "the server cannot");
    world.act(server(NEW));
    assert!(!raised(&mut world), "the mount cannot");
    world.act(Action::CloseSession { session: old, evicted: true });
    assert!(!raised(&mut world), "it may be about to come back");
    world.act(Action::ForgetSession { session: old });
    assert!(raised(&mut world));
    world.act(Action::RaiseFeatureLevel(OLD));
    assert_eq!(query::level(&world.store).unwrap(), NEW, "it never falls");
}

#[test]
fn whoever_comes_below_it_is_refused_and_changes_nothing() {
    let mut world = World::new(0);
    world.act(monitor(NEW));
    world.act(server(NEW));
    assert!(raised(&mut world));
    let before = query::programs(&world.store).unwrap();
    let add = Action::AddMonitor { name: "m2".to_owned(), profile: profile_of(monitor(OLD)) };
    for late in [monitor(OLD), server(OLD), session(OLD), add] {
        match world.act(late) {
            Outcome::Refused(why) => assert!(why.ends_with("upgrade it"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(query::programs(&world.store).unwrap(), before);
}

#[test]
fn a_state_of_a_level_that_is_not_known_is_left_alone() {
    let store = MemoryStore::new();
    let command = |action| Command { term: 1, time: Timestamp::default(), actions: vec![action] };
    let raised = apply(&store, &command(Action::RaiseFeatureLevel(NEW + 1))).unwrap();
    store.write(&raised.batch).unwrap();
    let error = apply(&store, &command(bootstrap())).expect_err("nobody here knows what it means");
    assert!(error.to_string().ends_with("upgrade it"), "{error}");
}

fn profile_of(action: Action) -> Profile {
    match action {
        Action::IntroduceMonitor { profile, .. } => profile,
        other => panic!("{other:?}"),
    }
}
