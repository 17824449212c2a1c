//! Which cluster a command is about.
//!
//! `--cluster WHERE` says it (or OKAPIFS_CLUSTER, which clap puts in the same place): a directory of
//! `okapifs up`, a client configuration directory, or addresses of monitors. A path inside a mount says it too:
//! the mount answers with the directory it was configured from. Else it is the one of `/etc/okapifs` or, on a node
//! that has no such directory, of `/var/lib/okapifs`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::config::{ClientFile, ConfigFile};
use super::xattr;
use crate::crypto::Credentials;
use crate::env;

/// Where a machine's own cluster is configured.
pub(super) const SYSTEM_CONFIG: &str = "/etc/okapifs";
/// Where a node keeps everything unless told otherwise.
pub(super) const NODE_DIR: &str = "/var/lib/okapifs";
/// Where monitors listen unless told otherwise.
pub(super) const DEFAULT_PORT: u16 = 7001;

/// How to reach a cluster.
#[derive(Clone)]
pub(super) struct Cluster {
    /// `host:port` of monitors.
    pub(super) monitors: Vec<String>,
    /// What proves that we may.
    pub(super) credentials: Credentials,
    /// The client configuration directory that the credentials are from.
    pub(super) config_dir: PathBuf,
}

/// The cluster named by `chosen`, else the machine's own.
pub(super) fn cluster(chosen: Option<&str>) -> anyhow::Result<Cluster> {
    let Some(chosen) = chosen else {
        return configured(&own_config()).context(
            "no cluster was named (with --cluster or OKAPIFS_CLUSTER), and neither /etc/okapifs nor /var/lib/okapifs has one",
        );
    };
    let dir = Path::new(chosen);
    if dir.is_dir() {
        return configured(&config_dir(dir)?);
    }
    match addresses(chosen) {
        Some(monitors) if !chosen.contains('/') => Ok(Cluster {
            monitors,
            ..configured(&own_config()).context(
                "addresses of monitors need the credentials of /etc/okapifs or /var/lib/okapifs; name a directory instead",
            )?
        }),
        _ => bail!("there is no directory {chosen}, and it is no HOST[:PORT] either"),
    }
}

/// The client configuration directory of this machine.
pub(super) fn own_config() -> PathBuf {
    let system = PathBuf::from(SYSTEM_CONFIG);
    let node = Path::new(NODE_DIR).join("client");
    let is_there = |dir: &Path| dir.join(ClientFile::NAME).exists();
    if !is_there(&system) && is_there(&node) { node } else { system }
}

/// The cluster that `path` is mounted from, else [`cluster`].
pub(super) fn cluster_of(path: &Path, chosen: Option<&str>) -> anyhow::Result<Cluster> {
    if chosen.is_some() {
        return cluster(chosen);
    }
    match xattr::get(path, "user.okapifs.config")? {
        Some(config) => {
            let config = String::from_utf8(config).context("the mount's configuration path")?;
            configured(Path::new(&config))
        }
        None => cluster(None),
    }
}

/// The client configuration directory in (or equal to) `dir`, which exists.
pub(super) fn config_dir(dir: &Path) -> anyhow::Result<PathBuf> {
    let candidates = [dir.to_owned(), dir.join("client")];
    let found = candidates.into_iter().find(|candidate| candidate.join(ClientFile::NAME).exists());
    let Some(found) = found else {
        bail!(
            "{} is neither a directory of `okapifs up` nor a client configuration (it has no {})",
            dir.display(),
            ClientFile::NAME
        );
    };
    Ok(std::path::absolute(found)?)
}

/// What a client configuration directory says.
pub(super) fn configured(dir: &Path) -> anyhow::Result<Cluster> {
    Ok(Cluster {
        monitors: ClientFile::in_force(dir, &[])?.0.monitors,
        credentials: credentials(dir)?,
        config_dir: dir.to_owned(),
    })
}

/// The credentials in `dir/tls`.
pub(super) fn credentials(dir: &Path) -> anyhow::Result<Credentials> {
    env::system::load_credentials(dir)
        .with_context(|| format!("the credentials in {} are of no use", dir.join("tls").display()))
}

/// `HOST[:PORT][,HOST[:PORT]]…` as `host:port` each; IPv6 addresses are in brackets. `None` when it is not that.
pub(super) fn addresses(list: &str) -> Option<Vec<String>> {
    list.split(',').map(address).collect()
}

fn address(text: &str) -> Option<String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (format!("[{host}]"), rest.strip_prefix(':').or(rest.is_empty().then_some("")))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (text.to_owned(), Some("")),
        },
    };
    let port = match port? {
        "" if !text.ends_with(':') => DEFAULT_PORT,
        port => port.parse().ok()?,
    };
    let plain = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == '/');
    plain.then(|| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_the_default_port() {
        let read = |text| addresses(text).map(|list| list.join(" "));
        assert_eq!(read("a"), Some("a:7001".to_owned()));
        assert_eq!(read("a,b:1"), Some("a:7001 b:1".to_owned()));
        assert_eq!(read("[::1]"), Some("[::1]:7001".to_owned()));
        assert_eq!(read("[::1]:9,c"), Some("[::1]:9 c:7001".to_owned()));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "a,", ":1", "a:", "a:x", "a:70000", "::1", "[::1", "[::1]x", "a b", "a/b"]
        {
            assert_eq!(addresses(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_directory_without_configuration_is_named() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let error = config_dir(dir.path()).expect_err("empty").to_string();
        assert!(error.contains("okapifs.toml"), "{error}");
    }
}
