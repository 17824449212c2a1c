//! Quotas: a volume never holds more than it may.
//!
//! Inodes are counted where they are made. Bytes are not: programs write into the buffers of their clients, and are
//! to hear of a full volume from `write`, not from nobody after `close`. So a client **reserves** room before it
//! buffers, and what it commits comes out of its reservation. `U` knows the sum of the reservations (`UR`), and
//!
//! ```text
//!   bytes stored + bytes reserved ≤ quota
//! ```
//!
//! holds after every command that adds to either (it may not after an administrator lowered the quota). A
//! reservation is a bit more than was asked for as long as there is plenty, and nothing more when there is little:
//! so a stream costs few commands, and near the limit the last byte can be had by whoever asks first. The quota is
//! never exceeded; a client that has reserved and does not write keeps others from at most a 16th of what is left,
//! until it gives it back a second or two later.
//!
//! What overwrites stored bytes adds nothing and needs no reservation: a full volume can still be changed.

use super::fail::Fail;
use super::inodes::At;
use super::keys;
use super::records::{Reservation, Volume};
use super::txn::{Txn, get, take};
use super::usage;
use crate::monitor::store::{Read, StoreError};
use crate::types::{Errno, SessionId, VolumeId};
use crate::wire::metadata::{Reply, Reserve};

/// Of the room that is left when a client has what it asked for, one part in so many is given ahead.
const AHEAD_PART: u64 = 16;

/// Clients hear of a new quota with their next renewals: what they have buffered without a reservation is taken
/// for so many seconds, that nobody loses what was written before there was a quota.
const GRACE_S: i64 = 30;

/// Refuses with [`Errno::OverQuota`] when the volume may not have one inode more.
pub(super) fn check_inode(read: &dyn Read, volume: VolumeId) -> Result<(), Fail> {
    let policy = get(read, &keys::volume(volume))?.map(|volume| volume.policy);
    if let Some(most) = policy.and_then(|policy| policy.files_max)
        && usage::of(read, volume)?.inodes >= most
    {
        return Err(Errno::OverQuota.into());
    }
    Ok(())
}

/// A session wants to have so much room reserved in all. Where there is less, it keeps what it had.
pub(super) fn reserve(
    txn: &mut Txn<'_>,
    at: At,
    session: SessionId,
    wanted: &Reserve,
) -> Result<Reply, Fail> {
    let Reserve { volume, bytes, ahead } = *wanted;
    let policy = get(txn, &keys::volume(volume))?.ok_or(Errno::Stale)?.policy;
    let had = reserved(txn, session, volume)?;
    let Some(most) = policy.bytes_max else {
        set_reserved(txn, at, (session, volume), 0)?;
        return Ok(Reply::Reserved { bytes });
    };
    let usage = usage::of(txn, volume)?;
    let taken = usage.bytes.saturating_add(usage.reserved.saturating_sub(had));
    let room = most.saturating_sub(taken);
    let granted = match room.checked_sub(bytes) {
        Some(left) => bytes + ahead.min(left / AHEAD_PART),
        None => had.min(bytes),
    };
    set_reserved(txn, at, (session, volume), granted)?;
    Ok(Reply::Reserved { bytes: granted })
}

/// What a volume with a quota may hold when a commit adds to it; `None` without a quota.
pub(super) fn limit(read: &dyn Read, at: At, volume: VolumeId) -> Result<Option<u64>, StoreError> {
    let Some(Volume { policy, limited, .. }) = get(read, &keys::volume(volume))? else {
        return Ok(None);
    };
    let is_new = at.time.seconds < limited.seconds.saturating_add(GRACE_S);
    Ok(policy.bytes_max.map(|most| if is_new { u64::MAX } else { most }))
}

/// Before `growth` bytes more are stored for a session, in a volume that may hold `most`: takes them out of its
/// reservation. Returns whether they may be stored.
pub(super) fn charge(
    txn: &mut Txn<'_>,
    at: At,
    (session, volume): (SessionId, VolumeId),
    most: u64,
    growth: u64,
) -> Result<bool, StoreError> {
    let had = reserved(txn, session, volume)?;
    let covered = had.min(growth);
    if covered < growth {
        let usage = usage::of(txn, volume)?;
        let taken = usage.bytes.saturating_add(usage.reserved);
        if taken.saturating_add(growth - covered) > most {
            return Ok(false);
        }
    }
    set_reserved(txn, at, (session, volume), had - covered)?;
    Ok(true)
}

/// Refuses with [`Errno::OverQuota`] when more is stored and reserved than may be. What was stored is in the usage
/// already.
pub(super) fn check_bytes(read: &dyn Read, volume: VolumeId) -> Result<(), Fail> {
    let policy = get(read, &keys::volume(volume))?.map(|volume| volume.policy);
    if let Some(most) = policy.and_then(|policy| policy.bytes_max) {
        let usage = usage::of(read, volume)?;
        if usage.bytes.saturating_add(usage.reserved) > most {
            return Err(Errno::OverQuota.into());
        }
    }
    Ok(())
}

/// A session is over: others may have what it reserved. Returns whether all of it is given back; at most `limit` are
/// at a time.
pub(super) fn release(
    txn: &mut Txn<'_>,
    at: At,
    session: SessionId,
    limit: usize,
) -> Result<bool, StoreError> {
    let found = take(txn, &keys::reservations(session), limit)?;
    for ((_, volume), _) in &found {
        set_reserved(txn, at, (session, *volume), 0)?;
    }
    Ok(found.len() < limit)
}

fn reserved(read: &dyn Read, session: SessionId, volume: VolumeId) -> Result<u64, StoreError> {
    let reservation = get(read, &keys::reservation(session, volume))?;
    Ok(reservation.map_or(0, |reservation| reservation.bytes))
}

fn set_reserved(
    txn: &mut Txn<'_>,
    at: At,
    (session, volume): (SessionId, VolumeId),
    bytes: u64,
) -> Result<(), StoreError> {
    let key = keys::reservation(session, volume);
    let had = reserved(txn, session, volume)?;
    if bytes == had {
        return Ok(());
    }
    match bytes {
        0 => txn.delete(&key),
        _ => txn.put(&key, &Reservation { bytes, birth: at.op }),
    }
    usage::change(txn, volume, |usage| {
        usage.reserved = usage.reserved.saturating_sub(had).saturating_add(bytes);
    })
}
