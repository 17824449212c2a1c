//! `okapifs volume`: directories that policy hangs on.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::admin::{Admin, block_on, unexpected};
use super::{find, say, xattr};
use crate::types::{Ino, Limit, VolumeChanges};
use crate::wire::admin::{Request, Response, VolumeStatus};

/// Volumes: directories with a stripe width and quotas of their own.
#[derive(clap::Subcommand, Debug)]
pub(super) enum Command {
    /// Make a new or an empty directory a volume.
    ///
    /// What is not said is as in the volume that the directory lies in, but for quotas: those are not inherited.
    /// Files are not renamed or linked from one volume to another (mv copies them). Removing the empty directory
    /// removes the volume.
    Create(Change),
    /// Change a volume; what is not said stays as it is.
    ///
    /// A new width is that of data written from now on; mounts hear of a change within a few seconds.
    Set(Change),
    /// Show all volumes, what they ask of their data, and how full they are.
    List {
        /// A path inside a mount: its cluster.
        path: Option<PathBuf>,

        /// Print JSON (described in docs/operations.md).
        #[arg(long)]
        json: bool,
    },
}

/// Which volume, and how it is to be.
#[derive(clap::Args, Debug)]
pub(super) struct Change {
    /// Its directory, on a mount.
    path: PathBuf,

    /// Data shards of a stripe when enough servers are up.
    #[arg(long, value_name = "K")]
    data: Option<u8>,

    /// Parity shards of a stripe: how many servers may be lost.
    #[arg(long, value_name = "M")]
    parity: Option<u8>,

    /// With fewer copies than this (while servers are down) writes wait.
    #[arg(long, value_name = "COPIES")]
    min_copies: Option<u8>,

    /// Most bytes of files, parity and holes not counted: a number with K, M, G, T or P if need be, or `none`.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    quota: Option<Limit>,

    /// Most files and directories, its own included, or `none`.
    #[arg(long, value_name = "FILES", value_parser = files)]
    quota_files: Option<Limit>,
}

impl Change {
    fn changes(&self) -> VolumeChanges {
        VolumeChanges {
            data: self.data,
            parity: self.parity,
            min_copies: self.min_copies,
            bytes_max: self.quota,
            files_max: self.quota_files,
        }
    }
}

pub(super) fn run(command: &Command, cluster: Option<&str>) -> anyhow::Result<()> {
    match command {
        Command::Create(change) => create(change, cluster),
        Command::Set(change) => {
            let directory = directory(&change.path)?;
            let changes = change.changes();
            if changes == VolumeChanges::default() {
                bail!(
                    "nothing was said to change: name --quota, --quota-files, --data, --parity or --min-copies"
                );
            }
            ask(&change.path, cluster, &Request::SetVolume { directory, changes })
        }
        Command::List { path, json } => list(path.as_deref(), *json, cluster),
    }
}

/// A directory that was made for it goes again when it cannot be a volume.
fn create(change: &Change, cluster: Option<&str>) -> anyhow::Result<()> {
    let path = &change.path;
    let is_new = match fs::create_dir(path) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
        Err(error) => {
            return Err(error).with_context(|| format!("{} cannot be made", path.display()));
        }
    };
    let created = directory(path).and_then(|directory| {
        let changes = change.changes();
        ask(path, cluster, &Request::CreateVolume { directory, changes })
    });
    if created.is_err()
        && is_new
        && let Err(error) = fs::remove_dir(path)
    {
        say::note(format_args!("{} was made and is no volume: {error}", path.display()));
    }
    created
}

fn ask(path: &Path, cluster: Option<&str>, request: &Request) -> anyhow::Result<()> {
    let cluster = find::cluster_of(path, cluster)?;
    block_on(async {
        let asked = Admin::connect(&cluster).await?.ask(request).await;
        match asked.with_context(|| path.display().to_string())? {
            Response::Done => Ok(()),
            _ => Err(unexpected()),
        }
    })
}

/// The inode of a directory on a mount.
fn directory(path: &Path) -> anyhow::Result<Ino> {
    let metadata =
        fs::metadata(path).with_context(|| format!("{} cannot be read", path.display()))?;
    if !metadata.is_dir() {
        bail!("{} is no directory: only a directory is a volume", path.display());
    }
    if xattr::get(path, "user.okapifs.config")?.is_none() {
        bail!("{} is on no OkapiFS mount: name a directory on one", path.display());
    }
    Ok(Ino(metadata.ino()))
}

fn list(path: Option<&Path>, json: bool, cluster: Option<&str>) -> anyhow::Result<()> {
    let cluster = match path {
        Some(path) => find::cluster_of(path, cluster)?,
        None => find::cluster(cluster)?,
    };
    let volumes = block_on(async {
        match Admin::connect(&cluster).await?.ask(&Request::Volumes).await? {
            Response::Volumes(volumes) => Ok(volumes),
            _ => Err(unexpected()),
        }
    })?;
    if json {
        say::line(serde_json::to_string_pretty(&volumes)?);
    } else {
        say::table(&rows(&volumes));
    }
    Ok(())
}

fn rows(volumes: &[VolumeStatus]) -> Vec<Vec<String>> {
    let heading = ["VOLUME", "STRIPES", "MIN COPIES", "USED", "QUOTA", "FILES", "QUOTA"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(volumes.iter().map(|volume| {
        vec![
            volume.path.clone(),
            format!("{}+{}", volume.data, volume.parity),
            volume.min_copies.to_string(),
            say::bytes(volume.used_bytes),
            volume.quota_bytes.map_or("none".to_owned(), say::bytes),
            volume.used_files.to_string(),
            volume.quota_files.map_or("none".to_owned(), |most| most.to_string()),
        ]
    }));
    rows
}

fn bytes(text: &str) -> Result<Limit, String> {
    let explain = || format!("{text:?} is no size: write a number with K, M, G, T or P, or none");
    if text == "none" {
        return Ok(Limit::None);
    }
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let power = match &text[digits.len()..].to_ascii_uppercase()[..] {
        "" => 0,
        "K" | "KIB" => 1,
        "M" | "MIB" => 2,
        "G" | "GIB" => 3,
        "T" | "TIB" => 4,
        "P" | "PIB" => 5,
        _ => return Err(explain()),
    };
    let number: u64 = digits.parse().map_err(|_| explain())?;
    number.checked_mul(1 << (10 * power)).map(Limit::AtMost).ok_or_else(explain)
}

fn files(text: &str) -> Result<Limit, String> {
    match text {
        "none" => Ok(Limit::None),
        _ => text
            .parse()
            .map(Limit::AtMost)
            .map_err(|_| format!("{text:?} is no number, and not none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(bytes("none"), Ok(Limit::None));
        assert_eq!(bytes("4096"), Ok(Limit::AtMost(4096)));
        assert_eq!(bytes("64M"), Ok(Limit::AtMost(64 << 20)));
        assert_eq!(bytes("2TiB"), Ok(Limit::AtMost(2 << 40)));
        for text in ["", "M", "1.5G", "-1", "1X", "99999999P"] {
            assert!(bytes(text).is_err(), "{text:?}");
        }
        assert_eq!(files("7"), Ok(Limit::AtMost(7)));
        assert!(files("7K").is_err());
    }
}
