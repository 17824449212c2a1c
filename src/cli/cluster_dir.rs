//! The directory of `okapifs up`: what lies where.
//!
//! ```text
//! DIR/cluster.toml                  what the cluster is
//!     ca/ca.crt, ca.key             its certificate authority; whoever has the key is the cluster
//!     client/okapifs.toml, tls/     a client configuration directory, as in /etc/okapifs
//!     monitor-1/monitor.toml, tls/  a monitor and all its state
//!     server-N/server.toml, tls/    a storage server and all its shards
//!     run/NAME.json                 the processes that run
//!     logs/NAME.log                 what they said
//! ```
//!
//! `okapifs init` makes the first five; each of the directories of a role can be moved to another machine as
//! it is.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::config::{ClusterFile, ConfigFile};
use crate::agent::plan::{Role, Unit};
use crate::agent::processes::Running;

/// A directory of `okapifs up`.
#[derive(Clone, Debug)]
pub(super) struct ClusterDir {
    root: PathBuf,
}

impl ClusterDir {
    /// The directory as an absolute path; it need not be there.
    pub(super) fn new(dir: &Path) -> anyhow::Result<Self> {
        let root = std::path::absolute(dir)
            .with_context(|| format!("{} is no usable path", dir.display()))?;
        Ok(Self { root })
    }

    /// The directory of an existing cluster.
    pub(super) fn existing(dir: &Path) -> anyhow::Result<Self> {
        let found = Self::new(dir)?;
        if !found.exists() {
            bail!("{} holds no cluster; `okapifs up {}` makes one", dir.display(), dir.display());
        }
        Ok(found)
    }

    /// Whether a cluster was made here.
    pub(super) fn exists(&self) -> bool {
        self.root.join(ClusterFile::NAME).exists()
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn ca(&self) -> PathBuf {
        self.root.join("ca")
    }

    pub(super) fn client(&self) -> PathBuf {
        self.root.join("client")
    }

    pub(super) fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// The directory of a monitor or server.
    pub(super) fn of(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(super) fn run_file(&self, name: &str) -> PathBuf {
        self.run().join(format!("{name}.json"))
    }

    pub(super) fn log_file(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    /// Names of the servers' directories, by number.
    pub(super) fn servers(&self) -> anyhow::Result<Vec<String>> {
        let entries = fs::read_dir(&self.root)
            .with_context(|| format!("{} cannot be read", self.root.display()))?;
        let mut numbers = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("server-"));
            numbers.extend(number.and_then(|number| number.parse::<u32>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers.iter().map(|number| server_name(*number)).collect())
    }

    /// The processes that were started here and not stopped since, alive or not.
    pub(super) fn started(&self) -> Vec<(Unit, Running)> {
        let entries = fs::read_dir(self.run()).into_iter().flatten();
        entries
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let name = path.file_name()?.to_str()?.strip_suffix(".json")?;
                Some((unit(name), Running::read(&path)?))
            })
            .collect()
    }

    /// Those of them that run.
    pub(super) fn running(&self) -> Vec<(Unit, Running)> {
        let mut started = self.started();
        started.retain(|(_, running)| running.goes_on());
        started
    }

    /// Keeps a second `up` or `down` out for as long as the returned file is open.
    pub(super) fn lock(&self) -> anyhow::Result<File> {
        let path = self.root.join("up.lock");
        let file =
            File::create(&path).with_context(|| format!("{} cannot be written", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => bail!(
                "another `okapifs up` or `down` is at work on {}; try again when it is done",
                self.root.display()
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("{} cannot be locked", path.display()))
            }
        }
    }
}

/// The name of the `number`th server.
pub(super) fn server_name(number: u32) -> String {
    format!("server-{number}")
}

/// The unit of a mount, named after its mountpoint so that two paths never share a name.
pub(super) fn mount_unit(mountpoint: &Path) -> Unit {
    let path = mountpoint.to_string_lossy();
    let escaped: String = path
        .trim_matches('/')
        .chars()
        .map(|c| match c {
            '/' => "-".to_owned(),
            c if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') => c.to_string(),
            c => format!("%{:x}", u32::from(c)),
        })
        .collect();
    Unit { role: Role::Mount, name: format!("mount-{escaped}") }
}

/// The unit with that name.
pub(super) fn unit(name: &str) -> Unit {
    let role = match name.split('-').next() {
        Some("monitor") => Role::Monitor,
        Some("server") => Role::Server,
        _ => Role::Mount,
    };
    Unit { role, name: name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_named_apart() {
        let name = |path| mount_unit(Path::new(path)).name;
        assert_eq!(name("/mnt/okapi"), "mount-mnt-okapi");
        assert_ne!(name("/mnt/a-b"), name("/mnt/a/b"));
        assert_eq!(unit(&name("/mnt/a b")), mount_unit(Path::new("/mnt/a b")));
    }

    #[test]
    fn servers_are_found_by_number() {
        let dir = tempfile::tempdir().expect("temporary directory");
        for name in ["server-10", "server-2", "server-x", "monitor-1"] {
            fs::create_dir(dir.path().join(name)).expect("made");
        }
        let cluster = ClusterDir::new(dir.path()).expect("a path");
        assert_eq!(cluster.servers().expect("read"), ["server-2", "server-10"]);
        assert!(!cluster.exists());
    }

    #[test]
    fn a_second_one_is_kept_out() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let cluster = ClusterDir::new(dir.path()).expect("a path");
        let held = cluster.lock().expect("free");
        cluster.lock().expect_err("taken");
        drop(held);
        cluster.lock().expect("free again");
    }
}
