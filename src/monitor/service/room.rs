//! When the disks of the monitors are nearly full.
//!
//! Each monitor keeps a part of its disk ([`crate::monitor::raft::room`]) and tells the leader when only that is left.
//! A change is safe when a majority has it: so what makes the metadata grow goes on while a majority of the voters
//! has room, and is refused with ENOSPC as soon as that is not so. All other changes go on: deleting makes room.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::monitor::raft::{Gauge, Group};
use crate::types::{DiskRoom, MonitorId};
use crate::wire::metadata::Op;

/// A voter that has been silent for so long is not counted on.
const SILENT: Duration = Duration::from_secs(5);
/// How often a monitor that cannot begin looks again.
const LOOK: Duration = Duration::from_millis(250);

/// Whether what grows is to be refused. `me` leads.
pub(super) fn is_short(me: MonitorId, group: &Group) -> bool {
    let room = |id: &MonitorId| match group.heard.get(id) {
        _ if *id == me => group.room,
        Some(heard) => heard.room,
        // A leader that has just been elected has not heard of everybody yet.
        None => DiskRoom::Enough,
    };
    let counts = |id: &&MonitorId| {
        let silent = group.heard.get(id).is_some_and(|heard| heard.silent >= SILENT);
        room(id) == DiskRoom::Enough && (**id == me || !silent)
    };
    let is_majority = |set: &BTreeSet<MonitorId>| 2 * set.iter().filter(counts).count() > set.len();
    let somebody_is_low = group.voters.iter().flatten().any(|id| room(id) != DiskRoom::Enough);
    somebody_is_low && !group.voters.iter().all(is_majority)
}

/// Waits until there is room to begin in.
pub(super) async fn wait_to_begin(dir: &Path, gauge: &Gauge) {
    if gauge.look() != DiskRoom::Full {
        return;
    }
    log::error!(
        "the disk of {} is full: make room on it; this monitor begins when there is some",
        dir.display()
    );
    while gauge.look() == DiskRoom::Full {
        tokio::time::sleep(LOOK).await;
    }
    log::info!("the disk of {} has room again", dir.display());
}

/// Whether an operation adds names, attributes or extents. (A rename takes as much as it gives; what punches
/// or truncates may cut an extent in two, and frees; locks are few and go.)
pub(super) fn grows(op: &Op) -> bool {
    match op {
        Op::Create(_)
        | Op::TmpFile(_)
        | Op::Link { .. }
        | Op::Clone(_)
        | Op::SetXattr { .. }
        | Op::Commit(_) => true,
        Op::Unlink { .. }
        | Op::Rmdir { .. }
        | Op::Rename(_)
        | Op::SetAttr { .. }
        | Op::Accessed { .. }
        | Op::Truncate { .. }
        | Op::Punch { .. }
        | Op::RemoveXattr { .. }
        | Op::Acquire { .. }
        | Op::Release { .. }
        | Op::SetMd5 { .. }
        | Op::Reserve(_)
        | Op::Lock(_)
        | Op::LeaseInodes
        | Op::LeaseStripes { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use DiskRoom::{Enough, Full, Reserve};

    use super::*;
    use crate::monitor::raft::Heard;

    /// Voters from 1 on, of which 1 leads; how long each of the others has been silent, and its room.
    fn group(mine: DiskRoom, others: &[(u64, DiskRoom)]) -> Group {
        let ids = (2..).map(MonitorId);
        let heard = |(id, (silent, room)): (MonitorId, &(u64, DiskRoom))| {
            (id, Heard { applied: 1, silent: Duration::from_secs(*silent), room: *room })
        };
        Group {
            voters: vec![(1..=others.len() as u64 + 1).map(MonitorId).collect()],
            heard: ids.zip(others).map(heard).collect(),
            room: mine,
            ..Group::default()
        }
    }

    fn short(mine: DiskRoom, others: &[(u64, DiskRoom)]) -> bool {
        is_short(MonitorId(1), &group(mine, others))
    }

    #[test]
    fn what_grows_needs_a_majority_with_room() {
        assert!(!short(Enough, &[]));
        assert!(short(Reserve, &[]));
        assert!(!short(Enough, &[(0, Reserve), (0, Enough)]), "one of three may run out");
        assert!(!short(Enough, &[(0, Full), (0, Enough)]));
        assert!(short(Enough, &[(0, Reserve), (0, Full)]), "followers count as the leader does");
        assert!(short(Reserve, &[(0, Reserve), (0, Enough)]));
        assert!(!short(Enough, &[(0, Reserve), (0, Full), (0, Enough), (0, Enough)]));
    }

    #[test]
    fn who_is_away_is_not_counted_on() {
        assert!(short(Enough, &[(0, Reserve), (9, Enough)]), "the one that is left runs out");
        assert!(!short(Enough, &[(0, Enough), (9, Reserve)]));
        assert!(!short(Enough, &[(9, Enough), (9, Enough)]), "that is no matter of room");
        let mut begins = group(Enough, &[(0, Reserve), (0, Enough)]);
        begins.heard.remove(&MonitorId(3));
        assert!(!is_short(MonitorId(1), &begins), "not heard of yet");
    }

    #[test]
    fn a_change_of_voters_needs_both_majorities() {
        let mut changing = group(Enough, &[(0, Reserve), (0, Enough)]);
        changing.voters.push([1, 2].map(MonitorId).into());
        assert!(is_short(MonitorId(1), &changing));
    }
}
