//! What a client may do, as it is written on the command line: the same words for `token new` and
//! `client set`.

use anyhow::{Context, bail};

use crate::types::{ClientPolicy, IdRange};

/// What a client may do. What is not named stays as it is.
#[derive(clap::Args, Clone, Debug, Default)]
pub(super) struct Arguments {
    /// It may change nothing in the filesystem.
    #[arg(long, conflicts_with = "rw")]
    ro: bool,

    /// It may read and write.
    #[arg(long)]
    rw: bool,

    /// The directory that it may see, a path from the root; `/` for everything.
    #[arg(long, value_name = "PATH")]
    subtree: Option<String>,

    /// Ids of users and groups there that are others in the cluster: the first id there, the first in the
    /// cluster, how many. Several are separated by commas; `none` for no such ids.
    #[arg(long, value_name = "THERE:CLUSTER:COUNT")]
    uid_map: Option<String>,

    /// What root creates there belongs to nobody (65534).
    #[arg(long, value_name = "yes|no", num_args = 0..=1, default_missing_value = "yes", value_parser = yes_or_no)]
    root_squash: Option<bool>,

    /// It may change the cluster itself: tokens, clients, members.
    #[arg(long, value_name = "yes|no", num_args = 0..=1, default_missing_value = "yes", value_parser = yes_or_no)]
    admin: Option<bool>,
}

impl Arguments {
    /// The policy with what was named changed.
    pub(super) fn change(&self, mut policy: ClientPolicy) -> anyhow::Result<ClientPolicy> {
        if self.ro || self.rw {
            policy.read_only = self.ro;
        }
        if let Some(path) = &self.subtree {
            policy.subtree = subtree(path)?;
        }
        if let Some(map) = &self.uid_map {
            policy.id_map = id_map(map)?;
        }
        policy.root_squash = self.root_squash.unwrap_or(policy.root_squash);
        policy.admin = self.admin.unwrap_or(policy.admin);
        Ok(policy)
    }
}

/// A policy in a few words.
pub(super) fn describe(policy: &ClientPolicy) -> String {
    let mut words = vec![if policy.read_only { "ro" } else { "rw" }.to_owned()];
    if !policy.subtree.is_empty() {
        words.push(format!("subtree=/{}", String::from_utf8_lossy(&policy.subtree)));
    }
    if !policy.id_map.is_empty() {
        let range = |range: &IdRange| {
            let IdRange { local, cluster, count } = range;
            format!("{local}:{cluster}:{count}")
        };
        let ranges: Vec<String> = policy.id_map.iter().map(range).collect();
        words.push(format!("uid-map={}", ranges.join(",")));
    }
    if policy.root_squash {
        words.push("root-squash".to_owned());
    }
    if policy.admin {
        words.push("admin".to_owned());
    }
    words.join(" ")
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("write yes or no".to_owned()),
    }
}

fn subtree(path: &str) -> anyhow::Result<Vec<u8>> {
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    if !path.starts_with('/') || names.iter().any(|name| matches!(*name, "." | "..")) {
        bail!("--subtree {path:?} is no path from the root of the filesystem: write /DIR/…");
    }
    Ok(names.join("/").into_bytes())
}

fn id_map(text: &str) -> anyhow::Result<Vec<IdRange>> {
    if text == "none" {
        return Ok(Vec::new());
    }
    text.split(',').map(id_range).collect()
}

fn id_range(text: &str) -> anyhow::Result<IdRange> {
    let numbers: Result<Vec<u32>, _> = text.split(':').map(str::parse).collect();
    let numbers = numbers.with_context(|| explain(text))?;
    let [local, cluster, count] = numbers[..] else { bail!(explain(text)) };
    let range = IdRange { local, cluster, count };
    if !range.is_valid() {
        bail!(explain(text));
    }
    Ok(range)
}

fn explain(text: &str) -> String {
    format!("--uid-map {text:?} is no range of ids: write THERE:CLUSTER:COUNT, three numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_changes_and_nothing_else() {
        let arguments = Arguments {
            ro: true,
            subtree: Some("/a//b/".to_owned()),
            uid_map: Some("1000:5000:10,0:70000:1".to_owned()),
            ..Arguments::default()
        };
        let policy = arguments.change(ClientPolicy::default()).expect("good");
        assert_eq!(describe(&policy), "ro subtree=/a/b uid-map=1000:5000:10,0:70000:1 admin");
        let back = Arguments {
            rw: true,
            subtree: Some("/".to_owned()),
            uid_map: Some("none".to_owned()),
            admin: Some(false),
            ..Arguments::default()
        };
        assert_eq!(describe(&back.change(policy).expect("good")), "rw");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for path in ["a", "", "/a/../b"] {
            subtree(path).expect_err(path);
        }
        for map in ["1:2", "1:2:0", "a:b:c", "4294967295:0:1", "1:2:3:4"] {
            id_map(map).expect_err(map);
        }
    }
}
