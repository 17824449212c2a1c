//! What there is of volumes, and how full they are.

use super::super::fail::Fail;
use super::super::inodes::live;
use super::super::keys;
use super::super::records::{Usage, Volume};
use super::super::txn::{get, scan};
use super::super::usage;
use super::path;
use crate::monitor::store::{Read, StoreError};
use crate::types::{Errno, Ino, VolumeEntry, VolumeId, Width};
use crate::wire::admin::VolumeStatus;
use crate::wire::metadata::Space;
use crate::wire::servers;

/// What clients are told of all volumes, by id; none before the cluster is made.
///
/// # Errors
///
/// When the store fails.
pub fn volume_entries(read: &dyn Read) -> Result<Vec<VolumeEntry>, StoreError> {
    let found = scan(read, &keys::all::<Volume>());
    found.map(|found| found.map(|(id, volume)| VolumeEntry::new(id, &volume.policy))).collect()
}

/// All volumes that have a path, by it.
///
/// # Errors
///
/// When the store fails.
pub fn volumes(read: &dyn Read) -> Result<Vec<VolumeStatus>, StoreError> {
    let mut volumes = Vec::new();
    for found in scan(read, &keys::all::<Volume>()) {
        let (id, Volume { policy, .. }) = found?;
        // Only files that are still open are left of one whose directory was removed.
        let Some(path) = path(read, id.directory())? else { continue };
        let used = usage(read, id)?;
        volumes.push(VolumeStatus {
            id,
            path: String::from_utf8_lossy(&path).into_owned(),
            data: policy.width.data,
            parity: policy.width.parity,
            min_copies: policy.min_copies,
            quota_bytes: policy.bytes_max,
            quota_files: policy.files_max,
            used_bytes: used.bytes,
            reserved_bytes: used.reserved,
            used_files: used.inodes,
        });
    }
    volumes.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(volumes)
}

/// What a volume uses.
///
/// # Errors
///
/// When the store fails.
pub fn usage(read: &dyn Read, volume: VolumeId) -> Result<Usage, StoreError> {
    usage::of(read, volume)
}

/// How full the volume of an inode is, as the servers said when they registered. The leader, who knows better,
/// asks [`space_of`].
pub(super) fn space(read: &dyn Read, ino: Ino) -> Result<Space, Fail> {
    let servers = super::servers(read)?;
    tell_space(read, ino, servers.iter().map(|(_, server)| server.info.usage))
}

/// How full the volume of an inode is, in a cluster whose servers are that full.
///
/// # Errors
///
/// Outside when the store fails; inside when there is no such inode.
pub fn space_of(
    read: &dyn Read,
    ino: Ino,
    usages: impl Iterator<Item = servers::Usage>,
) -> Result<Result<Space, Errno>, StoreError> {
    super::answered(tell_space(read, ino, usages))
}

fn tell_space(
    read: &dyn Read,
    ino: Ino,
    usages: impl Iterator<Item = servers::Usage>,
) -> Result<Space, Fail> {
    let id = live(read, ino)?.volume;
    let policy = get(read, &keys::volume(id))?.ok_or(Errno::Stale)?.policy;
    let used = usage(read, id)?;
    let (mut total, mut taken) = (0u64, 0u64);
    for usage in usages {
        total = total.saturating_add(usage.capacity_bytes);
        taken = taken.saturating_add(usage.used_bytes.min(usage.capacity_bytes));
    }
    let total_bytes = user_bytes(total, policy.width);
    let free_bytes = user_bytes(total.saturating_sub(taken), policy.width);
    let left = |most: u64| most.saturating_sub(used.bytes).min(free_bytes);
    Ok(Space {
        total_bytes: policy.bytes_max.unwrap_or(total_bytes),
        free_bytes: policy.bytes_max.map_or(free_bytes, left),
        inodes: used.inodes,
        inodes_free: policy.files_max.map(|most| most.saturating_sub(used.inodes)),
    })
}

fn user_bytes(raw: u64, width: Width) -> u64 {
    let share = u128::from(raw) * u128::from(width.data) / (width.total() as u128).max(1);
    u64::try_from(share).unwrap_or(u64::MAX)
}
