//! The configuration files: which there are, and how they are read and written.
//!
//! All are TOML with a comment at the top that says what they are for, small enough to be edited by hand. Each
//! is replaced as a whole, so that a crash leaves the old file or the new one. A key that is unknown is an
//! error: a typing mistake must not look like a setting.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::layers::{self, Key, Kind, Setting};
use crate::env::system::files::{PUBLIC, write_atomic};
use crate::types::{ClusterId, Width};

/// A configuration file.
pub(super) trait ConfigFile: Serialize + DeserializeOwned {
    /// Its name within its directory.
    const NAME: &'static str;
    /// What it says at its top.
    const ABOUT: &'static str;
    /// Whose it is, as it stands in the names of variables that are stronger than it.
    const ROLE: &'static str;
    /// The keys that variables and flags may set.
    const KEYS: &'static [Key];

    /// What it says in `dir`, with the environment and these flags (`KEY=VALUE`) laid over it; and all
    /// settings with where they come from.
    fn in_force(dir: &Path, flags: &[String]) -> anyhow::Result<(Self, Vec<Setting>)> {
        Self::load(dir)?;
        let path = dir.join(Self::NAME);
        let text = fs::read_to_string(&path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        let environment = |variable: &str| std::env::var(variable).ok();
        let laid = layers::lay_over(&text, Self::ROLE, Self::KEYS, environment, flags);
        let (table, settings) = laid.with_context(|| path.display().to_string())?;
        let explain = || format!("{} with what is laid over it", path.display());
        Ok((table.try_into().with_context(explain)?, settings))
    }

    /// Reads it from `dir`, as it stands there.
    fn load(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(Self::NAME);
        let text = fs::read_to_string(&path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        toml::from_str(&text).map_err(|error| {
            let message = error.message();
            let before = error.span().map_or("", |span| &text[..span.start]);
            let line = before.matches('\n').count() + 1;
            anyhow::anyhow!("{}, line {line}: {message}", path.display())
        })
    }

    /// Writes it into `dir`.
    fn save(&self, dir: &Path) -> anyhow::Result<()> {
        let about: String = Self::ABOUT.lines().map(|line| format!("# {line}\n")).collect();
        let text = format!("{about}\n{}", toml::to_string(self)?);
        Ok(write_atomic(&dir.join(Self::NAME), text.as_bytes(), PUBLIC)?)
    }
}

/// `cluster.toml`: what a cluster is, beside its certificate authority.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClusterFile {
    /// The cluster's id.
    pub(super) cluster: String,
    /// Its incarnation.
    pub(super) incarnation: u32,
    /// Data shards of a stripe.
    pub(super) data: u8,
    /// Parity shards of a stripe.
    pub(super) parity: u8,
    /// Fewest copies with which a write is still taken.
    pub(super) min_copies: u8,
}

impl ConfigFile for ClusterFile {
    const NAME: &'static str = "cluster.toml";
    const ABOUT: &'static str = "An OkapiFS cluster: written once by `okapifs init` or `okapifs up`.\n\
        Changing it changes nothing: the monitors have their own copy.";
    const ROLE: &'static str = "CLUSTER";
    const KEYS: &'static [Key] = &[];
}

impl ClusterFile {
    /// The cluster's id as a value.
    pub(super) fn id(&self) -> anyhow::Result<ClusterId> {
        parse_cluster(&self.cluster, Self::NAME)
    }

    /// Its width.
    pub(super) fn width(&self) -> Width {
        Width { data: self.data, parity: self.parity }
    }
}

/// `monitor.toml`: how a monitor runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MonitorFile {
    /// Its id; absent until it is a member.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) id: Option<u64>,
    /// `host:port` where it listens and where others reach it; port 0 lets the system choose.
    pub(super) listen: String,
    /// `host:port` of other monitors.
    #[serde(default)]
    pub(super) monitors: Vec<String>,
    /// `host:port` of the agent that starts it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) agent: Option<String>,
    /// For how many seconds a monitor is missed before another takes its place; 0 leaves that to people.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) replace_after_s: Option<u64>,
    /// Whether it was removed from the cluster: it can never come back.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub(super) removed: bool,
    /// The level above which the cluster is not to go while this monitor is in it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) hold_level: Option<u32>,
    /// What the cluster is to be that it founds; absent once there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) new_cluster: Option<ClusterFile>,
}

impl ConfigFile for MonitorFile {
    const NAME: &'static str = "monitor.toml";
    const ABOUT: &'static str = "An OkapiFS monitor, started by `okapifs monitor run`.\n\
        `listen` may be changed: the other monitors are told. `monitors` is where it finds them.\n\
        `id` was given to it once and belongs to the data beside this file: never copy or change it.\n\
        `replace_after_s = …`: for so long a monitor is missed before a node that has none takes its place; 0: never.\n\
        `hold_level = …` keeps the cluster at that level during an upgrade, so that it can be undone.\n\
        OKAPIFS_MONITOR_LISTEN (and so on) and `--set listen=…` are stronger than what is here.";
    const ROLE: &'static str = "MONITOR";
    const KEYS: &'static [Key] = &[
        Key { name: "listen", kind: Kind::Text, default: None },
        Key { name: "replace_after_s", kind: Kind::Number, default: Some("600") },
        Key { name: "hold_level", kind: Kind::Number, default: Some("not held") },
    ];
}

/// `server.toml`: how a storage server runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServerFile {
    /// The cluster's id.
    pub(super) cluster: String,
    /// `host:port` where it listens; port 0 lets the system choose.
    pub(super) listen: String,
    /// `host:port` where others reach it, when that is not `listen`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) advertise: Option<String>,
    /// Its failure domain: no two shards of a stripe share one.
    pub(super) domain: String,
    /// `host:port` of the monitors.
    pub(super) monitors: Vec<String>,
    /// Bytes that its shards may take; all of its disk when absent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) capacity_bytes: Option<u64>,
}

impl ConfigFile for ServerFile {
    const NAME: &'static str = "server.toml";
    const ABOUT: &'static str = "An OkapiFS storage server, started by `okapifs server run`.\n\
        Give servers that fail together (one host, one rack) the same `domain`.\n\
        `advertise = \"HOST:PORT\"` says where others reach it, when that is not `listen`.\n\
        `capacity_bytes = …` bounds what its shards take; without it they may fill the disk.\n\
        OKAPIFS_SERVER_LISTEN (and so on) and `--set listen=…` are stronger than what is here.";
    const ROLE: &'static str = "SERVER";
    const KEYS: &'static [Key] = &[
        Key { name: "listen", kind: Kind::Text, default: None },
        Key { name: "advertise", kind: Kind::Text, default: Some("as `listen`") },
        Key { name: "domain", kind: Kind::Text, default: None },
        Key { name: "monitors", kind: Kind::List, default: None },
        Key { name: "capacity_bytes", kind: Kind::Number, default: Some("all of its disk") },
    ];
}

impl ServerFile {
    /// The cluster's id as a value.
    pub(super) fn id(&self) -> anyhow::Result<ClusterId> {
        parse_cluster(&self.cluster, Self::NAME)
    }
}

/// `okapifs.toml`: how a client finds the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClientFile {
    /// `host:port` of the monitors.
    pub(super) monitors: Vec<String>,
}

impl ConfigFile for ClientFile {
    const NAME: &'static str = "okapifs.toml";
    const ABOUT: &'static str = "How this machine finds its OkapiFS cluster. Copy this directory to /etc/okapifs of a\n\
        machine that is to mount the cluster. The key in tls/ lets its holder do what this client may.\n\
        OKAPIFS_CLIENT_MONITORS is stronger than `monitors` here.";
    const ROLE: &'static str = "CLIENT";
    const KEYS: &'static [Key] = &[Key { name: "monitors", kind: Kind::List, default: None }];
}

/// `agent.toml`: how the agent of a node runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AgentFile {
    /// `host:port` where it listens and where others reach it; port 0 lets the system choose.
    pub(super) listen: String,
    /// Whether the node, as long as it has no monitor, would run one in the place of one that is lost.
    #[serde(default = "yes")]
    pub(super) spare: bool,
}

fn yes() -> bool {
    true
}

impl ConfigFile for AgentFile {
    const NAME: &'static str = "agent.toml";
    const ABOUT: &'static str = "The agent of this machine, started by `okapifs agent` or `okapifs up`.\n\
        It runs every monitor-* and server-* beside its own directory, and what mounts.toml names.\n\
        `spare = false`: this machine gets no monitor by itself when one is lost for good elsewhere.\n\
        OKAPIFS_AGENT_LISTEN is stronger than `listen` here.";
    const ROLE: &'static str = "AGENT";
    const KEYS: &'static [Key] = &[Key { name: "listen", kind: Kind::Text, default: None }];
}

/// `mounts.toml`: what a node mounts.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MountsFile {
    /// The mounts.
    #[serde(default)]
    pub(super) mount: Vec<MountEntry>,
}

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MountEntry {
    /// Where: an absolute path.
    pub(super) at: PathBuf,
    /// The directory of the filesystem that is shown there; all of it when empty.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub(super) subdir: String,
    /// Mount options, as after `-o`.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub(super) options: String,
}

impl ConfigFile for MountsFile {
    const NAME: &'static str = "mounts.toml";
    const ABOUT: &'static str = "What the agent of this machine mounts: a [[mount]] each, with at = \"/mnt/okapi\", and\n\
        maybe subdir = \"DIRECTORY\" of the filesystem and options = \"ro\", as after -o.";
    const ROLE: &'static str = "MOUNTS";
    const KEYS: &'static [Key] = &[];
}

fn parse_cluster(text: &str, file: &str) -> anyhow::Result<ClusterId> {
    let Some(id) = ClusterId::parse(text) else {
        bail!("`cluster = {text:?}` in {file} is no cluster id; it has 32 hexadecimal digits");
    };
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_again() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let cluster = ClusterFile {
            cluster: ClusterId(7).to_string(),
            incarnation: 1,
            data: 2,
            parity: 1,
            min_copies: 2,
        };
        let file = MonitorFile {
            listen: "127.0.0.1:7001".to_owned(),
            monitors: vec!["127.0.0.1:7002".to_owned()],
            id: Some(1),
            agent: None,
            replace_after_s: Some(60),
            removed: false,
            hold_level: Some(1),
            new_cluster: Some(cluster.clone()),
        };
        file.save(dir.path()).expect("saved");
        assert_eq!(MonitorFile::load(dir.path()).expect("loaded"), file);
        assert_eq!(cluster.id().expect("an id"), ClusterId(7));
    }

    #[test]
    fn mounts_are_written_by_hand_with_only_their_directory() {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::write(dir.path().join(MountsFile::NAME), "[[mount]]\nat = \"/mnt/a\"\n")
            .expect("written");
        let file = MountsFile::load(dir.path()).expect("loaded");
        let wanted = MountEntry { at: "/mnt/a".into(), ..MountEntry::default() };
        assert_eq!(file.mount, [wanted]);
        file.save(dir.path()).expect("saved");
        assert_eq!(MountsFile::load(dir.path()).expect("loaded"), file);
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join(ClientFile::NAME);
        fs::write(&path, "# about\n\nmonitor = [\"a:1\"]\n").expect("written");
        let error = ClientFile::load(dir.path()).expect_err("unknown key").to_string();
        assert!(error.contains("okapifs.toml, line 3: unknown field `monitor`"), "{error}");
    }
}
