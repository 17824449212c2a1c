//! Who is to be a monitor: ids and names never return.

use super::*;
use crate::monitor::namespace::records::MonitorState;
use crate::types::MonitorId;
use crate::wire::peers::Profile;

fn profile(address: &str, level: u32) -> Profile {
    Profile { address: address.to_owned(), agent: None, start: 0, level }
}

fn add(name: &str) -> Action {
    Action::AddMonitor { name: name.to_owned(), profile: profile("a:1", 1) }
}

fn introduce(id: MonitorId, name: &str, address: &str) -> Action {
    let profile = profile(address, 1);
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
