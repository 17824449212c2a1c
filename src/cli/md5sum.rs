//! `okapifs md5sum`: what md5sum(1) prints, without reading what is known already.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};

use super::{say, xattr};

/// Print MD5 checksums of files on a mount, as md5sum(1) does.
///
/// A checksum that the cluster knows for the file's current content is not computed again.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// The files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for file in &arguments.files {
        match md5(file) {
            Ok(md5) => say::line(line(&md5, &file.to_string_lossy())),
            Err(error) => {
                say::error(&error);
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

fn md5(file: &Path) -> anyhow::Result<String> {
    if file.is_dir() {
        bail!("{} is a directory", file.display());
    }
    match xattr::get(file, "user.okapifs.md5")? {
        Some(md5) => String::from_utf8(md5).context("the mount answered nonsense"),
        None => bail!("{} is on no OkapiFS mount; use md5sum(1)", file.display()),
    }
}

/// Like coreutils: a name with a backslash or a line break is escaped, and the line says so at its start.
fn line(md5: &str, name: &str) -> String {
    let escaped = name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
    let mark = if escaped == name { "" } else { "\\" };
    format!("{mark}{md5}  {escaped}")
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn names_are_escaped_like_md5sum_does() {
        assert_eq!(line("00", "a b"), "00  a b");
        assert_eq!(line("00", "a\nb\\"), "\\00  a\\nb\\\\");
    }
}
