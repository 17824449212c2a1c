//! Monitors, as the administrator wants them: who is to be a member, and where each was last.
//!
//! This is the wish. Who is a member in fact, and has a vote, the Raft log itself says; the leader moves the fact
//! towards the wish (`service::members`). A monitor that is gone keeps its record for ever: its certificate, which
//! may still be valid, is worth nothing any more, and neither its id nor its name returns.

use super::command::Outcome;
use super::inodes::At;
use super::keys;
use super::level;
use super::records::{Monitor, MonitorState};
use super::txn::{Txn, get, scan};
use crate::monitor::store::StoreError;
use crate::types::{MonitorId, Program};
use crate::wire::peers::Profile;

/// A monitor wants to be a member, known by the name in its certificate. One that was taken already, and has not
/// begun since, gets the same id: its first answer was lost.
pub(super) fn add(
    txn: &mut Txn<'_>,
    at: At,
    name: &str,
    profile: &Profile,
) -> Result<Outcome, StoreError> {
    if let Some(refused) = level::too_old(txn, &profile.program)? {
        return Ok(refused);
    }
    let id = match find(txn, name)? {
        None => MonitorId(at.op.0),
        Some((id, Monitor { state: MonitorState::Joining, .. })) => id,
        Some((_, Monitor { state: MonitorState::Gone, .. })) => return Ok(removed(name)),
        Some(_) => {
            return Ok(Outcome::Refused(format!(
                "{name} is a member already. If its data are lost, put another in its place (okapifs monitor replace {name}), then remove this directory"
            )));
        }
    };
    put(txn, at, id, name, profile, MonitorState::Joining);
    Ok(Outcome::Monitor(id))
}

/// A monitor of that name may come: its node has a certificate for it, and has not started it yet. Its id is
/// reserved.
pub(super) fn expect(txn: &mut Txn<'_>, at: At, name: &str) {
    let nowhere = Profile {
        address: String::new(),
        agent: None,
        start: 0,
        program: Program { release: String::new(), level: 0 },
        node: String::new(),
        pid: 0,
    };
    put(txn, at, MonitorId(at.op.0), name, &nowhere, MonitorState::Joining);
}

/// Whether there was ever a monitor of that name.
pub(super) fn is_taken(txn: &Txn<'_>, name: &str) -> Result<bool, StoreError> {
    Ok(find(txn, name)?.is_some())
}

/// How many monitors there are to be.
pub(super) fn wanted(txn: &Txn<'_>) -> Result<usize, StoreError> {
    let mut count = 0;
    for found in scan(txn, &keys::all::<Monitor>()) {
        count +=
            usize::from(matches!(found?.1.state, MonitorState::Joining | MonitorState::Member));
    }
    Ok(count)
}

/// Another monitor is to take the place of that one, which is to go then. Whether it can be so: it may be gone.
pub(super) fn give_up(txn: &mut Txn<'_>, at: At, lost: MonitorId) -> Result<bool, StoreError> {
    let Some(mut monitor) = get(txn, &keys::monitor(lost))? else { return Ok(false) };
    if !matches!(monitor.state, MonitorState::Member | MonitorState::Replaced) {
        return Ok(false);
    }
    monitor.state = MonitorState::Replaced;
    monitor.birth = at.op;
    txn.put(&keys::monitor(lost), &monitor);
    Ok(true)
}

/// A member has started and says where it is now. The first of a cluster comes without having been added.
pub(super) fn introduce(
    txn: &mut Txn<'_>,
    at: At,
    id: MonitorId,
    name: &str,
    profile: &Profile,
) -> Result<Outcome, StoreError> {
    if let Some(refused) = level::too_old(txn, &profile.program)? {
        return Ok(refused);
    }
    let state = match get(txn, &keys::monitor(id))? {
        None if scan(txn, &keys::all::<Monitor>()).next().is_none() => MonitorState::Member,
        Some(monitor) if monitor.state == MonitorState::Gone => return Ok(removed(name)),
        Some(monitor) if monitor.name == name => match monitor.state {
            MonitorState::Joining => MonitorState::Member,
            state => state,
        },
        _ => {
            return Ok(Outcome::Refused(format!(
                "monitor {id} is not {name}: its monitor.toml or its certificate is that of another monitor"
            )));
        }
    };
    put(txn, at, id, name, profile, state);
    Ok(Outcome::Done)
}

/// The administrator wants a monitor to go, at once or when another can take its place.
pub(super) fn remove(
    txn: &mut Txn<'_>,
    at: At,
    name: &str,
    once_replaced: bool,
) -> Result<Outcome, StoreError> {
    let Some((id, mut monitor)) = find(txn, name)? else {
        return Ok(Outcome::Refused(format!(
            "no monitor is called {name}: `okapifs status` lists them"
        )));
    };
    let stays = |state| matches!(state, MonitorState::Member);
    let mut others = 0;
    for found in scan(txn, &keys::all::<Monitor>()) {
        let (other, monitor) = found?;
        others += u32::from(other != id && stays(monitor.state));
    }
    monitor.state = match monitor.state {
        MonitorState::Gone => return Ok(Outcome::Done),
        MonitorState::Joining => MonitorState::Gone,
        _ if others == 0 => {
            return Ok(Outcome::Refused(format!(
                "{name} is the only monitor: add another before it goes"
            )));
        }
        MonitorState::Leaving => MonitorState::Leaving,
        _ if once_replaced => MonitorState::Replaced,
        _ => MonitorState::Leaving,
    };
    monitor.birth = at.op;
    txn.put(&keys::monitor(id), &monitor);
    Ok(Outcome::Done)
}

/// A monitor that was to go is no member any more.
pub(super) fn left(txn: &mut Txn<'_>, at: At, id: MonitorId) -> Result<Outcome, StoreError> {
    if let Some(mut monitor) = get(txn, &keys::monitor(id))?
        && matches!(monitor.state, MonitorState::Leaving | MonitorState::Replaced)
    {
        monitor.state = MonitorState::Gone;
        monitor.birth = at.op;
        txn.put(&keys::monitor(id), &monitor);
    }
    Ok(Outcome::Done)
}

fn find(txn: &Txn<'_>, name: &str) -> Result<Option<(MonitorId, Monitor)>, StoreError> {
    let found = scan(txn, &keys::all::<Monitor>());
    let mut matching = found.filter(|found| {
        found.as_ref().map_or(true, |(_, monitor): &(MonitorId, Monitor)| monitor.name == name)
    });
    matching.next().transpose()
}

fn put(
    txn: &mut Txn<'_>,
    at: At,
    id: MonitorId,
    name: &str,
    profile: &Profile,
    state: MonitorState,
) {
    let (name, profile) = (name.to_owned(), profile.clone());
    txn.put(&keys::monitor(id), &Monitor { name, profile, state, birth: at.op });
}

fn removed(name: &str) -> Outcome {
    Outcome::Refused(format!(
        "{name} was removed from the cluster for good: remove its directory; `okapifs monitor add` makes another monitor"
    ))
}
