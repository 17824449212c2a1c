//! `okapifs shard`: what a shard file says of itself, without any process running.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use super::say;
use crate::codec::shard::Head;

/// Look at shard files, offline.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: ShardCommand,
}

#[derive(clap::Subcommand, Debug)]
enum ShardCommand {
    /// Read a shard file, verify every block, and say what it is. Ends with 1 when it is damaged.
    Inspect {
        /// A file from a server's directory that holds shards.
        path: PathBuf,
    },
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let ShardCommand::Inspect { path } = &arguments.command;
    inspect(path)
}

/// A file is one shard, or a pack segment: one small shard after another.
fn inspect(path: &Path) -> anyhow::Result<ExitCode> {
    let bytes = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let mut damaged = 0;
    let mut at = 0;
    while at == 0 || at < bytes.len() {
        let head = Head::parse(&bytes[at..]).with_context(|| {
            format!(
                "{}: at byte {at} is no shard, or one whose header is damaged; its stripe can be read without it",
                path.display()
            )
        })?;
        damaged += u32::from(!inspect_one(&head, &bytes[at..]));
        at += head.header.image_bytes() as usize;
    }
    Ok(match damaged {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Says what the shard at the beginning of `bytes` is; whether it is whole.
fn inspect_one(head: &Head, bytes: &[u8]) -> bool {
    describe(head);
    let header = &head.header;
    let wanted = header.image_bytes() as usize;
    if bytes.len() < wanted {
        say::line(format_args!(
            "  CUT OFF: {} bytes are left of {wanted}; its stripe can be read without it",
            bytes.len()
        ));
        return false;
    }
    let bad = head.damaged_blocks(0, &bytes[header.head_bytes() as usize..wanted]);
    match bad.is_empty() {
        true => say::line(format_args!("  all {} blocks are right", header.blocks())),
        false => say::line(format_args!(
            "  DAMAGED: {} of {} blocks are wrong, {bad:?}; its stripe can be read without them",
            bad.len(),
            header.blocks()
        )),
    }
    bad.is_empty()
}

fn describe(head: &Head) {
    let header = &head.header;
    let ident = &header.ident;
    let kind = match header.index.0 < ident.width.data {
        true => "data",
        false => "parity",
    };
    let dead = if header.dead { ", deleted" } else { "" };
    say::line(format_args!(
        "stripe {}, shard {} of {} ({kind}){dead}, hash {}",
        ident.stripe, header.index, ident.width, header.hash
    ));
    say::line(format_args!(
        "  cluster {}, incarnation {}, stripe of {}",
        ident.cluster,
        ident.incarnation,
        say::bytes(u64::from(header.stripe_length))
    ));
    for piece in &head.pieces {
        say::line(format_args!(
            "  stripe bytes {}..{}: inode {} from byte {}",
            piece.stripe_offset,
            u64::from(piece.stripe_offset) + u64::from(piece.length),
            piece.ino,
            piece.file_offset
        ));
    }
}
