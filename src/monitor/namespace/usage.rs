//! The usage counters of a volume. They are exact: every action that makes or frees something changes them in
//! the same command, and the check recounts them. With the last that a volume has, the volume goes.

use super::keys;
use super::records::Usage;
use super::txn::{Txn, get};
use crate::monitor::store::{Read, StoreError};
use crate::types::VolumeId;

/// What a volume uses.
pub(super) fn of(read: &dyn Read, volume: VolumeId) -> Result<Usage, StoreError> {
    Ok(get(read, &keys::usage(volume))?.unwrap_or_default())
}

/// Changes what a volume uses. One that has nothing any more, not even its own directory, goes.
pub(super) fn change(
    txn: &mut Txn<'_>,
    volume: VolumeId,
    change: impl FnOnce(&mut Usage),
) -> Result<(), StoreError> {
    let key = keys::usage(volume);
    let mut usage = of(txn, volume)?;
    change(&mut usage);
    if usage == Usage::default() {
        txn.delete(&key);
        txn.delete(&keys::volume(volume));
    } else {
        txn.put(&key, &usage);
    }
    Ok(())
}
