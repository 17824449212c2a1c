//! `okapifs sync`: everything that a mount has buffered becomes durable.

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, bail};

use super::xattr;

/// Make everything that was written on a mount durable; returns when it is.
///
/// sync(1) does not reach a filesystem in user space; fsync of a directory on it does the same as this.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// A mountpoint, or any directory below one.
    mountpoint: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let path = &arguments.mountpoint;
    if xattr::get(path, "user.okapifs.config")?.is_none() {
        bail!("{} is on no OkapiFS mount", path.display());
    }
    if !path.is_dir() {
        bail!("{} is not a directory", path.display());
    }
    let written = File::open(path).and_then(|dir| dir.sync_all());
    written.with_context(|| format!("not everything written to {} is durable", path.display()))
}
