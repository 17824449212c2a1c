//! The level of the cluster: what everybody can do, so that it may be done.
//!
//! Nodes are upgraded one after another. While some run the new release and some the old one, nothing may be
//! written into the log or the records that the old one cannot read, and a monitor that leads may be of either. So what
//! is allowed hangs on one number in the replicated state, and never on the release of who leads. It begins with
//! what the first monitor can do and rises, by a command, when everybody can do more. It never falls: what was
//! written since could not be read.
//!
//! **Everybody** is who has a record here: the monitors, those that are away included; the servers; the
//! sessions; and those that were evicted in the last ten minutes, which are about to come back. Each record says what its
//! owner runs. Whoever comes later and can do less is refused with a sentence. So a state at level n has nobody in it
//! who does not know n, and apply itself sees to that: whatever a leader believed when it proposed the raise.

use super::command::Outcome;
use super::keys;
use super::records::{Counter, Evicted, Monitor, MonitorState, Server, Session};
use super::txn::{Txn, get, scan};
use crate::monitor::store::{Read, StoreError};
use crate::types::{Levels, Program};

/// The level of a cluster whose state does not name one.
const FIRST: u32 = 1;

/// The cluster's level.
///
/// # Errors
///
/// When the store fails.
pub fn level(read: &dyn Read) -> Result<u32, StoreError> {
    let level = get(read, &keys::feature_level())?.map_or(FIRST.into(), |counter| counter.value);
    Ok(u32::try_from(level).unwrap_or(u32::MAX))
}

/// What everybody runs, by name; monitors that have not begun yet are left out: they are refused if they come too
/// late.
///
/// # Errors
///
/// When the store fails.
pub fn programs(read: &dyn Read) -> Result<Vec<(String, Program)>, StoreError> {
    let mut programs = Vec::new();
    for found in scan(read, &keys::all::<Monitor>()) {
        let (_, monitor) = found?;
        if !matches!(monitor.state, MonitorState::Joining | MonitorState::Gone) {
            programs.push((monitor.name, monitor.profile.program));
        }
    }
    for found in scan(read, &keys::all::<Server>()) {
        let (_, server) = found?;
        programs.push((server.name, server.info.program));
    }
    let mount = |host: &str, at: &str| format!("the mount {at} of {host}");
    for found in scan(read, &keys::all::<Session>()) {
        let client = found?.1.client;
        programs.push((mount(&client.host, &client.mountpoint), client.program));
    }
    for found in scan(read, &keys::all::<Evicted>()) {
        let client = found?.1.client;
        programs.push((mount(&client.host, &client.mountpoint), client.program));
    }
    Ok(programs)
}

/// A program that does not know the cluster's level can neither read nor change its state.
pub(super) fn check_known(read: &dyn Read) -> Result<(), StoreError> {
    let (level, newest) = (level(read)?, Levels::OURS.newest);
    if level <= newest {
        return Ok(());
    }
    Err(StoreError(format!(
        "the cluster is at level {level}, and this okapifs goes up to level {newest}: upgrade it"
    )))
}

/// The refusal of somebody who cannot do what everybody else can.
pub(super) fn too_old(read: &dyn Read, program: &Program) -> Result<Option<Outcome>, StoreError> {
    let level = level(read)?;
    Ok((program.level < level).then(|| {
        Outcome::Refused(format!(
            "this okapifs ({}) goes up to level {}, and the cluster is at level {level} already: upgrade it",
            program.release, program.level
        ))
    }))
}

/// Everybody can do that level. It never falls.
pub(super) fn raise(txn: &mut Txn<'_>, to: u32) -> Result<Outcome, StoreError> {
    let programs = programs(txn)?;
    if let Some((name, program)) = programs.iter().find(|(_, program)| program.level < to) {
        let why = format!("{name} goes up to level {}, not to level {to}", program.level);
        return Ok(Outcome::Refused(why));
    }
    let level = level(txn)?.max(to);
    txn.put(&keys::feature_level(), &Counter { value: level.into() });
    Ok(Outcome::Done)
}
