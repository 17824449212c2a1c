//! `okapifs shard`: what a shard file says of itself, without any process running.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use super::say;
use crate::codec::shard::{Head, Header};
use crate::types::limits;

/// How a pack segment begins and where it ends; `server::store` draws it.
const PACK: [u8; 8] = *b"OKAPIPAK";
const PACK_END: [u8; 8] = *b"OKAPIEND";

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

/// A file is one shard, or a pack segment of many small ones.
fn inspect(path: &Path) -> anyhow::Result<ExitCode> {
    let bytes = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let whole = match bytes.starts_with(&PACK) {
        true => inspect_pack(&bytes),
        false => {
            let head = Head::parse(&bytes).with_context(|| {
                format!(
                    "{} is no shard, or its header is damaged; a stripe can be read without one of its shards",
                    path.display()
                )
            })?;
            inspect_one(&head, &bytes)
        }
    };
    Ok(ExitCode::from(u8::from(!whole)))
}

/// Images in a pack begin on blocks; what is no image is skipped block by block. Whether all are whole.
fn inspect_pack(bytes: &[u8]) -> bool {
    let block = limits::BLOCK as usize;
    let (mut at, mut shards, mut bad) = (block, 0u32, 0u32);
    while at < bytes.len() && !bytes[at..].starts_with(&PACK_END) {
        let rest = &bytes[at..];
        at += match (Header::parse(rest), Head::parse(rest)) {
            (Ok(header), _) if header.dead => header.image_bytes() as usize,
            (Ok(header), Ok(head)) => {
                shards += 1;
                bad += u32::from(!inspect_one(&head, rest));
                header.image_bytes() as usize
            }
            _ => {
                let is_hole = rest[..block.min(rest.len())].iter().all(|byte| *byte == 0);
                bad += u32::from(!is_hole);
                block
            }
        };
    }
    say::line(format_args!("a pack of {shards} shards, {bad} damaged"));
    bad == 0
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
    say::line(format_args!(
        "stripe {}, shard {} of {} ({kind}), hash {}",
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
