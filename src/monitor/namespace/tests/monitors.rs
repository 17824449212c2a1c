//! Who is to be a monitor: ids and names never return.

use super::*;
use crate::monitor::namespace::records::MonitorState;
use crate::types::{MonitorId, Program};
use crate::wire::peers::Profile;

fn profile(address: &str) -> Profile {
    let (address, node) = (address.to_owned(), "node".to_owned());
    Profile { address, agent: None, start: 0, program: Program::this(), node, pid: 1 }
}

fn add(name: &str) -> Action {
    Action::AddMonitor { name: name.to_owned(), profile: profile("a:1") }
}

fn introduce(id: MonitorId, name: &str, address: &str) -> Action {
    let profile = profile(address);
    Action::IntroduceMonitor { id, name: name.to_owned(), profile }
}

fn remove(name: &str, once_replaced: bool) -> Action {
    Action::RemoveMonitor { name: name.to_owned(), once_replaced }
}

fn refusal(outcome: Outcome) -> String {
    match outcome {
        Outcome::Refused(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_monitor_is_added_begins_is_replaced_and_never_returns() {
    let mut world = World::new(0);
    assert_eq!(world.act(introduce(MonitorId(1), "m1", "a:1")), Outcome::Done);
    let Outcome::Monitor(id) = world.act(add("m2")) else { panic!("it is added") };
    assert_eq!(world.act(add("m2")), Outcome::Monitor(id), "its first answer was lost");
    assert_eq!(world.act(introduce(id, "m2", "b:1")), Outcome::Done);
    assert!(refusal(world.act(add("m2"))).contains("m2 is a member already"));
    assert_eq!(world.act(introduce(id, "m2", "b:2")), Outcome::Done, "it moved");

    let state = |world: &World| {
        let monitors = query::monitors(&world.store).unwrap();
        monitors.into_iter().find(|(other, _)| *other == id).unwrap().1.state
    };
    world.act(Action::MonitorLeft { id });
    assert_eq!(state(&world), MonitorState::Member, "nobody wanted it to leave");
    assert_eq!(world.act(remove("m2", true)), Outcome::Done);
    assert_eq!(world.act(introduce(id, "m2", "b:3")), Outcome::Done);
    assert_eq!(state(&world), MonitorState::Replaced, "a restart does not keep it");
    world.act(remove("m2", false));
    assert_eq!(state(&world), MonitorState::Leaving);
    world.act(remove("m2", true));
    assert_eq!(state(&world), MonitorState::Leaving, "at once stays at once");
    world.act(Action::MonitorLeft { id });
    assert_eq!(state(&world), MonitorState::Gone);
    assert!(refusal(world.act(introduce(id, "m2", "b:3"))).contains("m2 was removed"));
    assert!(refusal(world.act(add("m2"))).contains("m2 was removed"));
    let Outcome::Monitor(next) = world.act(add("m3")) else { panic!("it is added") };
    assert!(next > id);
}

#[test]
fn whose_id_or_name_does_not_fit_is_refused() {
    let mut world = World::new(0);
    world.act(introduce(MonitorId(1), "m1", "a:1"));
    assert!(refusal(world.act(introduce(MonitorId(1), "m2", "a:1"))).contains("is not m2"));
    assert!(refusal(world.act(introduce(MonitorId(9), "m9", "a:1"))).contains("is not m9"));
    assert!(refusal(world.act(remove("m1", true))).contains("only monitor"));
    assert!(refusal(world.act(remove("m9", true))).contains("no monitor is called m9"));
    let Outcome::Monitor(_) = world.act(add("m2")) else { panic!("it is added") };
    assert!(refusal(world.act(remove("m1", false))).contains("only monitor"), "m2 has not begun");
    assert_eq!(world.act(remove("m2", false)), Outcome::Done);
}
