//! `okapifs where`: on which servers a file's bytes are.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::admin::{self, Admin, unexpected};
use super::{find, say};
use crate::types::{Extent, Ino, PlacementMap, ServerId, StripeId, StripeRecord};
use crate::wire::admin::{Request, Response};
use crate::wire::metadata::MapSlice;

/// Show where a file's bytes are: its extents, their stripes, which shard is on which server.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// Files on a mount.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

pub(super) fn run(arguments: &Arguments, cluster: Option<&str>) -> anyhow::Result<()> {
    for file in &arguments.files {
        let metadata = fs::symlink_metadata(file)
            .with_context(|| format!("{} cannot be read", file.display()))?;
        if !metadata.is_file() {
            bail!("{} is no regular file: it has no extents", file.display());
        }
        let cluster = find::cluster_of(file, cluster)?;
        admin::block_on(show(&cluster, file, Ino(metadata.ino())))?;
    }
    Ok(())
}

async fn show(cluster: &find::Cluster, file: &Path, ino: Ino) -> anyhow::Result<()> {
    let admin = Admin::connect(cluster).await?;
    let placement = admin.placement().await?;
    let first = slice(&admin, file, ino, 0).await?;
    say::line(format_args!(
        "{}: inode {ino}, {} ({} stored), version {}",
        file.display(),
        say::bytes(first.attr.size),
        say::bytes(first.attr.stored),
        first.attr.dv
    ));
    let mut shown = BTreeSet::new();
    let mut rest = first.extents;
    while let Some(part) = rest {
        for extent in &part.extents {
            say::line(extent_line(extent));
            let stripe = part.stripes.iter().find(|stripe| stripe.id == extent.stripe);
            show_stripe(stripe, &placement, &mut shown);
        }
        if part.to == u64::MAX {
            break;
        }
        rest = slice(&admin, file, ino, part.to).await?.extents;
    }
    Ok(())
}

async fn slice(admin: &Admin, file: &Path, ino: Ino, offset: u64) -> anyhow::Result<MapSlice> {
    match admin.ask(&Request::Where { ino, offset }).await? {
        Response::Map(slice) => Ok(slice),
        Response::NotFound => bail!(
            "the cluster does not know {} (inode {ino}); is it on a mount of this cluster?",
            file.display()
        ),
        _ => Err(unexpected()),
    }
}

fn extent_line(extent: &Extent) -> String {
    format!(
        "  bytes {}..{} at {} of stripe {}",
        extent.offset,
        extent.end(),
        extent.stripe_offset,
        extent.stripe
    )
}

/// Each stripe is told once, below the first extent that names it.
fn show_stripe(
    stripe: Option<&StripeRecord>,
    placement: &PlacementMap,
    shown: &mut BTreeSet<StripeId>,
) {
    let Some(stripe) = stripe else { return };
    if !shown.insert(stripe.id) {
        return;
    }
    say::line(format_args!(
        "    stripe {}: {} payload, {}, shards of {}",
        stripe.id,
        say::bytes(u64::from(stripe.length)),
        stripe.width,
        say::bytes(u64::from(stripe.width.shard_bytes(stripe.length)))
    ));
    for (index, place) in stripe.shards.iter().enumerate() {
        let kind = match index < usize::from(stripe.width.data) {
            true => "data",
            false => "parity",
        };
        say::line(format_args!(
            "      shard {index} ({kind})  {}",
            server_text(placement, place.server)
        ));
    }
}

/// A server as people know it.
pub(super) fn server_text(placement: &PlacementMap, id: ServerId) -> String {
    let server = placement.servers.iter().find(|server| server.id == id);
    server.map_or_else(
        || format!("server {id}"),
        |server| format!("server {id} ({}, {})", server.domain, server.address),
    )
}
