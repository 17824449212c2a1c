//! The tables of the cluster's members, and what the service has to see to.

use super::super::keys::{self, Keyed};
use super::super::orphans::NOBODY;
use super::super::records::{Cluster, Evicted, Monitor, Server, Session, Usage, Volume};
use super::super::txn::{exists, get, scan, take};
use crate::monitor::store::{Read, StoreError};
use crate::types::{
    Ino, MonitorId, OpSeq, ServerId, SessionId, Slot, SlotSeq, Timestamp, VolumeId, Width,
};
use crate::wire::metadata::{self, OldReply, Space};

fn table<R: Keyed>(read: &dyn Read) -> Result<Vec<(R::Id, R)>, StoreError> {
    scan(read, &keys::all::<R>()).collect()
}

/// The cluster; `None` before it is made.
///
/// # Errors
///
/// When the store fails.
pub fn cluster(read: &dyn Read) -> Result<Option<Cluster>, StoreError> {
    get(read, &keys::cluster())
}

/// The latest action that was applied.
///
/// # Errors
///
/// When the store fails.
pub fn op_seq(read: &dyn Read) -> Result<OpSeq, StoreError> {
    Ok(OpSeq(get(read, &keys::op_seq())?.map_or(0, |counter| counter.value)))
}

/// The policy of the root volume; `None` before the cluster is made.
///
/// # Errors
///
/// When the store fails.
pub fn volume(read: &dyn Read) -> Result<Option<Volume>, StoreError> {
    get(read, &keys::volume(VolumeId::ROOT))
}

/// What the root volume uses.
///
/// # Errors
///
/// When the store fails.
pub fn usage(read: &dyn Read) -> Result<Usage, StoreError> {
    Ok(get(read, &keys::usage(VolumeId::ROOT))?.unwrap_or_default())
}

/// All monitors, those that are gone included.
///
/// # Errors
///
/// When the store fails.
pub fn monitors(read: &dyn Read) -> Result<Vec<(MonitorId, Monitor)>, StoreError> {
    table(read)
}

/// All servers.
///
/// # Errors
///
/// When the store fails.
pub fn servers(read: &dyn Read) -> Result<Vec<(ServerId, Server)>, StoreError> {
    table(read)
}

/// One server.
///
/// # Errors
///
/// When the store fails.
pub fn server(read: &dyn Read, id: ServerId) -> Result<Option<Server>, StoreError> {
    get(read, &keys::server(id))
}

/// All sessions. Those that are closing change nothing any more; a new leader proposes their
/// [`Action::CloseSession`](super::super::command::Action::CloseSession) again.
///
/// # Errors
///
/// When the store fails.
pub fn sessions(read: &dyn Read) -> Result<Vec<(SessionId, Session)>, StoreError> {
    table(read)
}

/// One session.
///
/// # Errors
///
/// When the store fails.
pub fn session(read: &dyn Read, id: SessionId) -> Result<Option<Session>, StoreError> {
    get(read, &keys::session(id))
}

/// Evicted sessions whose replies are kept still, and when they went.
///
/// # Errors
///
/// When the store fails.
pub fn evicted(read: &dyn Read) -> Result<Vec<(SessionId, Timestamp)>, StoreError> {
    let evicted = scan(read, &keys::all::<Evicted>());
    evicted.map(|found| found.map(|(session, evicted)| (session, evicted.at))).collect()
}

/// What an evicted session was answered, a reply for each of these operations that was done. `None` when it was
/// not one of the process whose session `asker` is; nothing was done, or nothing is known any more, where its
/// replies are gone.
///
/// # Errors
///
/// When the store fails.
pub fn old_replies(
    read: &dyn Read,
    session: SessionId,
    asker: &Session,
    operations: &[(Slot, SlotSeq)],
) -> Result<Option<Vec<OldReply>>, StoreError> {
    let evicted = get(read, &keys::evicted(session))?;
    let of_asker =
        |evicted: &Evicted| (&evicted.owner, &evicted.client) == (&asker.owner, &asker.client);
    if evicted.is_some_and(|evicted| !of_asker(&evicted)) {
        return Ok(None);
    }
    let reply = |(slot, seq): &(Slot, SlotSeq)| {
        let last = get(read, &keys::slot(session, *slot))?;
        Ok(last.filter(|last| last.seq == *seq).map(|last| last.reply))
    };
    operations.iter().map(reply).collect::<Result<_, _>>().map(Some)
}

/// The inodes without a name that a session keeps.
///
/// # Errors
///
/// When the store fails.
pub fn orphans(read: &dyn Read, session: SessionId) -> Result<Vec<Ino>, StoreError> {
    scan(read, &keys::orphans(session)).map(|found| found.map(|((_, ino), _)| ino)).collect()
}

/// Whether a session keeps that inode although it has no name.
///
/// # Errors
///
/// When the store fails.
pub fn is_orphan(read: &dyn Read, session: SessionId, ino: Ino) -> Result<bool, StoreError> {
    exists(read, &keys::orphan(session, ino))
}

/// Inodes that are being freed, at most `limit`: each wants an
/// [`Action::Free`](super::super::command::Action::Free) until it is done.
///
/// # Errors
///
/// When the store fails.
pub fn doomed(read: &dyn Read, limit: usize) -> Result<Vec<Ino>, StoreError> {
    let found = take(read, &keys::orphans(NOBODY), limit)?;
    Ok(found.into_iter().map(|((_, ino), _)| ino).collect())
}

/// How full the cluster is, as the servers said when they registered. The leader, who knows better, asks
/// [`space_of`].
///
/// # Errors
///
/// When the store fails.
pub fn space(read: &dyn Read) -> Result<Space, StoreError> {
    let servers = servers(read)?;
    let usages = servers.iter().map(|(_, server)| server.info.usage);
    space_of(read, usages)
}

/// How full a cluster is whose servers are that full, in bytes of user data at the volume's width.
///
/// # Errors
///
/// When the store fails.
pub fn space_of(
    read: &dyn Read,
    usages: impl Iterator<Item = metadata::Usage>,
) -> Result<Space, StoreError> {
    let width = volume(read)?.map_or(Width { data: 1, parity: 0 }, |volume| volume.width);
    let (mut total, mut used) = (0u64, 0u64);
    for usage in usages {
        total = total.saturating_add(usage.capacity_bytes);
        used = used.saturating_add(usage.used_bytes.min(usage.capacity_bytes));
    }
    Ok(Space {
        total_bytes: user_bytes(total, width),
        free_bytes: user_bytes(total.saturating_sub(used), width),
        inodes: self::usage(read)?.inodes,
    })
}

fn user_bytes(raw: u64, width: Width) -> u64 {
    let share = u128::from(raw) * u128::from(width.data) / (width.total() as u128).max(1);
    u64::try_from(share).unwrap_or(u64::MAX)
}
