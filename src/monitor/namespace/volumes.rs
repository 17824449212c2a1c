//! Volumes: directories that policy hangs on.
//!
//! Every inode names its volume (its directory's, at its creation), so nobody has to walk up the tree to learn what
//! is asked of it. That is why only an empty directory can be made a volume, and why nothing is moved from one to
//! another: whatever crosses the border is copied (`EXDEV`). A volume's own directory counts in it, and the volume
//! is there for as long as any inode is: removing the directory removes the volume, as soon as the last of its
//! files that is still open somewhere is closed, too (see [`usage`]).

use super::command::Outcome;
use super::inodes::{At, touch};
use super::keys;
use super::records::Volume;
use super::txn::{Txn, get};
use super::usage;
use crate::monitor::store::StoreError;
use crate::types::{Ino, Timestamp, VolumeChanges, VolumeId, VolumePolicy};

/// Makes an empty directory a volume, with the policy of the one it lies in but for its quota and the changes.
pub(super) fn create(
    txn: &mut Txn<'_>,
    at: At,
    directory: Ino,
    changes: &VolumeChanges,
) -> Result<Outcome, StoreError> {
    let refused = |why: &str| Ok(Outcome::Refused(why.to_owned()));
    let found = get(txn, &keys::inode(directory))?;
    let Some(mut inode) = found.filter(|inode| inode.is_directory() && inode.nlink > 0) else {
        return refused("that is no directory of this cluster: name one on a mount of it");
    };
    let (id, around) = (VolumeId::of(directory), inode.volume);
    if around == id {
        return refused("that directory is a volume already: `okapifs volume set` changes it");
    }
    if inode.size > 0 {
        return refused(
            "only an empty directory can be made a volume: make a new one, and move into it what is in this",
        );
    }
    let inherited = get(txn, &keys::volume(around))?
        .ok_or_else(|| StoreError(format!("inode {directory} lies in no volume")))?;
    let unlimited = VolumePolicy { bytes_max: None, files_max: None, ..inherited.policy };
    let policy = match unlimited.changed(changes) {
        Ok(policy) => policy,
        Err(why) => return Ok(Outcome::Refused(why)),
    };
    // Nobody has written to it before.
    let limited = Timestamp::default();
    txn.put(&keys::volume(id), &Volume { policy, limited, birth: at.op });
    inode.volume = id;
    touch(&mut inode, at);
    txn.put(&keys::inode(directory), &inode);
    usage::change(txn, around, |usage| usage.inodes = usage.inodes.saturating_sub(1))?;
    usage::change(txn, id, |usage| usage.inodes += 1)?;
    Ok(Outcome::Done)
}

/// Changes the policy of a volume: that of what is written from now on.
pub(super) fn set(
    txn: &mut Txn<'_>,
    at: At,
    directory: Ino,
    changes: &VolumeChanges,
) -> Result<Outcome, StoreError> {
    let key = keys::volume(VolumeId::of(directory));
    let Some(Volume { policy, limited, .. }) = get(txn, &key)? else {
        return Ok(Outcome::Refused(
            "that directory is no volume: `okapifs volume list` shows them, `okapifs volume create` makes one"
                .to_owned(),
        ));
    };
    let changed = match policy.changed(changes) {
        Ok(changed) => changed,
        Err(why) => return Ok(Outcome::Refused(why)),
    };
    let limited = if policy.bytes_max.is_none() { at.time } else { limited };
    txn.put(&key, &Volume { policy: changed, limited, birth: at.op });
    Ok(Outcome::Done)
}
