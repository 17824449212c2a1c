//! Which machine this is, and since when it is up.

use std::fs;
use std::io;

/// A machine between two boots. Two processes on the same `id` and `boot` can see one another's locks; another
/// boot means that all earlier processes are dead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// The machine: systemd's machine id, or its host name where there is none.
    pub id: String,
    /// This boot: another value after each.
    pub boot: String,
    /// The host's name, for people.
    pub host: String,
}

/// The machine this process runs on.
///
/// # Errors
///
/// When `/proc` is not mounted.
pub fn node() -> io::Result<Node> {
    let host = line("/proc/sys/kernel/hostname")?;
    let boot = line("/proc/sys/kernel/random/boot_id")?;
    // A container image may come without a machine id, or with an empty one.
    let id = line("/etc/machine-id").ok().filter(|id| !id.is_empty());
    Ok(Node { id: id.unwrap_or_else(|| host.clone()), boot, host })
}

fn line(path: &str) -> io::Result<String> {
    let text = fs::read_to_string(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{path} cannot be read: {error}")))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_stays_the_same() {
        let first = node().expect("a node");
        assert!(!first.id.is_empty() && !first.host.is_empty());
        assert_eq!(first.boot.len(), 36, "{first:?}");
        assert_eq!(node().expect("a node"), first);
    }
}
