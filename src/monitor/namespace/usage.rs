//! The usage counters of a volume. They are exact: every action that makes or frees something changes them in
//! the same command, and the check recounts them.

use super::keys;
use super::records::Usage;
use super::txn::{Txn, get};
use crate::monitor::store::StoreError;
use crate::types::VolumeId;

/// Changes what a volume uses.
pub(super) fn change(
    txn: &mut Txn<'_>,
    volume: VolumeId,
    change: impl FnOnce(&mut Usage),
) -> Result<(), StoreError> {
    let key = keys::usage(volume);
    let mut usage = get(txn, &key)?.unwrap_or_default();
    change(&mut usage);
    txn.put(&key, &usage);
    Ok(())
}
