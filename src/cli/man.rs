//! `okapifs man`: the manual pages, from the same text as `--help`.

use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;

use super::init;

/// Write the manual pages into a directory.
#[derive(clap::Args, Debug)]
#[command(hide = true)]
pub(super) struct Arguments {
    /// Where; made if it is not there.
    dir: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    init::make_dir(&arguments.dir, 0o755)?;
    clap_mangen::generate_to(super::Arguments::command(), &arguments.dir)
        .with_context(|| format!("{} cannot be written to", arguments.dir.display()))
}
