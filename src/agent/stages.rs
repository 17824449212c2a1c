//! The order in which processes start and stop.
//!
//! A server registers with a monitor, and a mount is of little use before there are servers: so monitors start
//! first, then all servers at once, then all mounts. The other way round a mount still has buffered bytes to
//! hand to servers and commits to hand to a monitor: so mounts stop first and monitors last. Within a stage
//! the order does not matter, and everything in it goes on at the same time.

/// What a process does in its cluster, in the order in which they start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// Owns the namespace.
    Monitor,
    /// Stores shards.
    Server,
    /// Shows the cluster as a directory.
    Mount,
}

/// One process that should run or does.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Unit {
    /// What it does.
    pub role: Role,
    /// Its name, unique in the cluster's directory: `monitor-1`, `server-3`, `mount-mnt-okapi`.
    pub name: String,
}

/// Units of one role: they start or stop side by side, and the next stage waits for all of them.
pub type Stage = Vec<Unit>;

/// All that is `running`, stage after stage, so that nothing loses what it depends on before it has ended.
pub fn to_stop(running: &[Unit]) -> Vec<Stage> {
    let mut units = running.to_vec();
    units.sort_by(|left, right| right.cmp(left));
    units.dedup();
    units.chunk_by(|left, right| left.role == right.role).map(<[Unit]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(names: &[&str]) -> Vec<Unit> {
        names
            .iter()
            .map(|name| Unit {
                role: match name.split('-').next() {
                    Some("monitor") => Role::Monitor,
                    Some("server") => Role::Server,
                    _ => Role::Mount,
                },
                name: (*name).to_owned(),
            })
            .collect()
    }

    #[test]
    fn monitors_stop_last() {
        let all = units(&["mount-a", "server-2", "monitor-1", "server-1"]);
        let order = [units(&["mount-a"]), units(&["server-2", "server-1"]), units(&["monitor-1"])];
        assert_eq!(to_stop(&all), order);
        assert!(to_stop(&[]).is_empty());
    }
}
