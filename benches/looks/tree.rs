//! A tree as programmers have them: many small text files, fifty in a directory, under git.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::bail;

/// Files of a directory.
const TOGETHER: usize = 50;
/// Lines of the longest file, each of 50 bytes.
const LINES_MAX: usize = 200;

/// Makes it; the same each time.
pub(super) fn make(root: &Path, files: usize) -> anyhow::Result<()> {
    fs::create_dir(root)?;
    for number in 0..files {
        let directory = number / TOGETHER;
        let dir = root.join(format!("part-{}/module-{directory}", directory % 10));
        if number % TOGETHER == 0 {
            fs::create_dir_all(&dir)?;
        }
        fs::write(dir.join(format!("file-{number}.txt")), text(number))?;
    }
    git(root, &["init", "--quiet"])?;
    git(root, &["add", "--all"])?;
    let author = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"];
    git(root, &[&author[..], &["commit", "--quiet", "--message=all"]].concat())
}

fn text(number: usize) -> String {
    let mut text = String::new();
    for line in 0..number * 7919 % LINES_MAX {
        writeln!(text, "line {line:>6} of file {number:>6}: nothing to see here.").expect("grows");
    }
    text
}

fn git(root: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("git");
    let status = command.args(arguments).current_dir(root).stdout(Stdio::null()).status()?;
    if !status.success() {
        bail!("git {} failed", arguments.join(" "));
    }
    Ok(())
}
