//! `okapifs shard`: what a shard file says of itself, without any process running.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use super::say;
use crate::server;

/// Look at shard files, offline.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: ShardCommand,
}

#[derive(clap::Subcommand, Debug)]
enum ShardCommand {
    /// Read a shard file or pack segment, verify every block, and say what it is.
    ///
    /// Ends with 1 when something in it is damaged.
    Inspect {
        /// A file below a server's `shards` or `packs`.
        path: PathBuf,
    },
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let ShardCommand::Inspect { path } = &arguments.command;
    inspect(path)
}

fn inspect(path: &Path) -> anyhow::Result<ExitCode> {
    let report = server::inspect(path).with_context(|| {
        format!(
            "{} holds no whole shard; its stripe can be read as long as enough of its other shards are there",
            path.display()
        )
    })?;
    say::line(report.to_string().trim_end());
    let problems = report.problems();
    for problem in &problems {
        say::line(format_args!("DAMAGED: {problem}"));
    }
    if problems.is_empty() {
        say::line("every block is right");
    }
    Ok(ExitCode::from(u8::from(!problems.is_empty())))
}
