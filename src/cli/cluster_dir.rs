//! The directory of a node, or of a whole cluster on one machine: what lies where.
//!
//! ```text
//! DIR/cluster.toml                  what the cluster is
//!     ca/ca.crt, ca.key             its certificate authority; whoever has the key is the cluster
//!     client/okapifs.toml, tls/     a client configuration directory, as in /etc/okapifs
//!     agent/agent.toml, tls/        the agent that runs all the others
//!     agent/starts.json             how often it has started each of them
//!     monitor-N/monitor.toml, tls/  a monitor and all its state
//!     server-N/server.toml, tls/    a storage server and all its shards
//!     mounts.toml                   what is mounted here
//!     run/NAME.json, NAME.birth     the processes that run
//!     logs/NAME.log                 what they said
//! ```
//!
//! `okapifs init` makes what comes before `mounts.toml`; each of the directories of a role can be moved to another
//! machine as it is. A node of several has the same, with fewer roles and without `cluster.toml` and `ca`.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::config::{
    AgentFile, ClusterFile, ConfigFile, MonitorFile, MountEntry, MountsFile, ServerFile,
};
use crate::agent::processes::{self, Running};
use crate::agent::stages::{Role, Unit};
use crate::agent::starts::Starts;

/// The name of the agent, among processes and directories.
pub(super) const AGENT: &str = "agent";

/// See the module.
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

    /// The directory of an existing cluster or node.
    pub(super) fn existing(dir: &Path) -> anyhow::Result<Self> {
        let found = Self::new(dir)?;
        if !found.exists() && !found.agent().join(AgentFile::NAME).exists() {
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

    pub(super) fn agent(&self) -> PathBuf {
        self.root.join(AGENT)
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub(super) fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// The directory of a monitor or server.
    pub(super) fn of(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(super) fn run_file(&self, name: &str) -> PathBuf {
        processes::run_file(&self.run(), name)
    }

    pub(super) fn log_file(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// Names of the monitors' directories, by number.
    pub(super) fn monitors(&self) -> anyhow::Result<Vec<String>> {
        self.members(Role::Monitor, MonitorFile::NAME)
    }

    /// Those of them that were not removed from the cluster.
    pub(super) fn live_monitors(&self) -> anyhow::Result<Vec<String>> {
        let mut names = self.monitors()?;
        names.retain(|name| !MonitorFile::load(&self.of(name)).is_ok_and(|file| file.removed));
        Ok(names)
    }

    /// The number after all that monitors or servers here have or had.
    pub(super) fn next_number(&self, role: Role) -> anyhow::Result<u32> {
        let starts = Starts::open(self.agent().join("starts.json"))?;
        let mut names = match role {
            Role::Monitor => self.monitors()?,
            Role::Server => self.servers()?,
            Role::Mount => Vec::new(),
        };
        names.extend(starts.units().map(str::to_owned));
        let units = names.iter().filter_map(|name| unit(name)).filter(|unit| unit.role == role);
        let numbers = units.filter_map(|unit| unit.name.rsplit('-').next()?.parse::<u32>().ok());
        Ok(numbers.max().unwrap_or(0).saturating_add(1))
    }

    /// Names of the servers' directories, by number.
    pub(super) fn servers(&self) -> anyhow::Result<Vec<String>> {
        self.members(Role::Server, ServerFile::NAME)
    }

    /// What is mounted here.
    pub(super) fn mounts(&self) -> anyhow::Result<Vec<MountEntry>> {
        match self.root.join(MountsFile::NAME).exists() {
            true => Ok(MountsFile::load(&self.root)?.mount),
            false => Ok(Vec::new()),
        }
    }

    /// Everything that should run here, but for the agent.
    pub(super) fn units(&self) -> anyhow::Result<Vec<Unit>> {
        let mut units: Vec<Unit> =
            self.mounts()?.iter().map(|mount| mount_unit(&mount.at)).collect();
        units.extend(self.monitors()?.iter().chain(&self.servers()?).filter_map(|name| unit(name)));
        Ok(units)
    }

    /// The process that runs of a unit, or as the agent, if there is one.
    pub(super) fn process(&self, name: &str) -> Option<Running> {
        let found = match name {
            // It may have been started by anybody, but has its directory to itself.
            AGENT => processes::holder(&self.agent().join("lock"), &self.run_file(AGENT)),
            _ => processes::find(&self.run(), name),
        };
        found.map(|(running, _)| running)
    }

    /// The processes that were started here and not stopped since, alive or not, but for the agent. Those that
    /// are not ready have no address.
    pub(super) fn started(&self) -> Vec<(Unit, Running)> {
        let names = processes::names(&self.run());
        let known = |name: &String| {
            let left = || Running::read(&self.run_file(name));
            Some((unit(name)?, self.process(name).or_else(left)?))
        };
        names.iter().filter_map(known).collect()
    }

    /// Those of them that run.
    pub(super) fn running(&self) -> Vec<(Unit, Running)> {
        let mut started = self.started();
        started.retain(|(_, running)| running.goes_on());
        started
    }

    /// Directories of a role: those that are named as such and hold its configuration.
    fn members(&self, role: Role, file: &str) -> anyhow::Result<Vec<String>> {
        let entries = fs::read_dir(&self.root)
            .with_context(|| format!("{} cannot be read", self.root.display()))?;
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().into_string().ok().and_then(|name| unit(&name));
            let name = name.filter(|unit| unit.role == role).map(|unit| unit.name);
            found.extend(name.filter(|_| entry.path().join(file).exists()));
        }
        // server-10 after server-9.
        found.sort_by(|left, right| (left.len(), left).cmp(&(right.len(), right)));
        Ok(found)
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

/// The unit with that name, if it is a unit's.
pub(super) fn unit(name: &str) -> Option<Unit> {
    let (role, _) = name.split_once('-')?;
    let role = match role {
        "monitor" => Role::Monitor,
        "server" => Role::Server,
        "mount" => Role::Mount,
        _ => return None,
    };
    Some(Unit { role, name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_named_apart() {
        let name = |path| mount_unit(Path::new(path)).name;
        assert_eq!(name("/mnt/okapi"), "mount-mnt-okapi");
        assert_ne!(name("/mnt/a-b"), name("/mnt/a/b"));
        assert_eq!(unit(&name("/mnt/a b")), Some(mount_unit(Path::new("/mnt/a b"))));
        assert_eq!(unit(AGENT), None);
    }

    #[test]
    fn members_are_found_by_number_and_mounts_in_their_file() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = |path: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("in a directory")).expect("made");
            fs::write(path, "").expect("written");
        };
        file("server-10/server.toml");
        file("server-2/server.toml");
        file("server-3/of somebody else");
        file("monitor-1/monitor.toml");
        let cluster = ClusterDir::new(dir.path()).expect("a path");
        assert_eq!(cluster.servers().expect("read"), ["server-2", "server-10"]);
        assert_eq!(cluster.monitors().expect("read"), ["monitor-1"]);
        assert!(!cluster.exists());
        assert_eq!(cluster.units().expect("read").len(), 3);
        let mount = MountEntry { at: "/mnt/a".into(), ..MountEntry::default() };
        MountsFile { mount: vec![mount] }.save(dir.path()).expect("saved");
        assert_eq!(cluster.units().expect("read").len(), 4);
        assert_eq!(cluster.next_number(Role::Server).expect("read"), 11, "not one that is gone");
        file("agent/starts.json");
        let starts = r#"{"server-12": 3, "monitor-1": 1}"#;
        fs::write(dir.path().join("agent/starts.json"), starts).expect("written");
        assert_eq!(cluster.next_number(Role::Server).expect("read"), 13, "nor one that was");
        assert_eq!(cluster.next_number(Role::Monitor).expect("read"), 2);
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
