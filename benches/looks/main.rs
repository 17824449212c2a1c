//! How long programs take that look at a tree once more of which nothing has changed, and how many messages that
//! costs.
//!
//! ```text
//! okapifs up DIR --mount MNT --detach
//! cargo bench --bench looks -- MNT OTHER
//! ```
//!
//! The same tree, a git repository, is made in each of the directories, unless it is there; then `ls -lR`, `git
//! status` and `grep -r` are run in one directory after the other, so that all of them meet the same machine. *First*
//! is the first time that this mount sees the tree, if another one has made it (run it in one mount with `--keep`
//! and then in another). *Again* comes right after a look, *later* two seconds after it: what a FUSE filesystem has
//! told the kernel to believe, it has mostly told for a second. *Messages* are those of all rounds together, where a
//! mount counts them (`user.okapifs.stats`). The last columns compare with the last directory: a plain FUSE passthrough
//! to a local directory is what nobody in user space is faster than.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod tree;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;

#[derive(Parser, Debug)]
struct Arguments {
    /// Directories, on the filesystems that are to be compared.
    #[arg(required = true)]
    dirs: Vec<PathBuf>,

    /// Files of the tree.
    #[arg(long, default_value_t = 3000)]
    files: usize,

    /// Looks of each kind; the median is told.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Leave the trees there.
    #[arg(long)]
    keep: bool,

    /// What `cargo bench` says.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What programs do that look at a tree.
const LOOKS: [&str; 3] = ["ls -lR", "git status --short", "grep -r no-file-has-this"];
/// Beyond what the kernel is told to believe.
const LATER: Duration = Duration::from_secs(2);
/// What has been written, and not committed yet, is so by then; so are the times of first reads.
const SETTLED: Duration = Duration::from_secs(4);

/// What was measured of one look in one directory.
#[derive(Default)]
struct Figures {
    first: Duration,
    again: Vec<Duration>,
    later: Vec<Duration>,
    messages: Option<u64>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let trees: Vec<PathBuf> = arguments.dirs.iter().map(|dir| dir.join("looks")).collect();
    for tree in &trees {
        if !tree.exists() {
            tree::make(tree, arguments.files)
                .with_context(|| format!("no tree can be made in {}", tree.display()))?;
        }
    }
    let figures = measure(&trees, arguments.rounds)?;
    print(&trees, &figures);
    if !arguments.keep {
        for tree in &trees {
            std::fs::remove_dir_all(tree)?;
        }
    }
    Ok(())
}

/// Figures of each look, for each tree.
fn measure(trees: &[PathBuf], rounds: u32) -> anyhow::Result<Vec<Vec<Figures>>> {
    let mut all: Vec<Vec<Figures>> = Vec::new();
    for look in LOOKS {
        let first =
            |tree: &PathBuf| anyhow::Ok(Figures { first: time(look, tree)?, ..Figures::default() });
        all.push(trees.iter().map(first).collect::<anyhow::Result<_>>()?);
    }
    // What the first looks have begun ends: times of reads, pages that are read ahead, an index that git writes anew.
    for _ in 0..2 {
        thread::sleep(SETTLED);
        for (look, tree) in LOOKS.iter().flat_map(|look| trees.iter().map(move |tree| (look, tree)))
        {
            time(look, tree)?;
        }
    }
    thread::sleep(SETTLED);
    for (look, figures) in LOOKS.iter().zip(&mut all) {
        for _ in 0..rounds {
            for (tree, figures) in trees.iter().zip(figures.iter_mut()) {
                thread::sleep(LATER);
                let before = messages(tree);
                figures.later.push(time(look, tree)?);
                figures.again.push(time(look, tree)?);
                let sent = messages(tree).zip(before).map(|(after, before)| after - before);
                figures.messages = sent.map(|sent| sent + figures.messages.unwrap_or_default());
            }
        }
    }
    Ok(all)
}

fn time(look: &str, tree: &Path) -> anyhow::Result<Duration> {
    let mut words = look.split(' ');
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words).current_dir(tree).stdout(Stdio::null());
    let since = Instant::now();
    let status = command.status().with_context(|| format!("{look} cannot be run"))?;
    let took = since.elapsed();
    // Of grep: nothing was found.
    if !matches!(status.code(), Some(0 | 1)) {
        bail!("{look} failed in {}", tree.display());
    }
    Ok(took)
}

/// Messages that the mount has sent to anybody, but for those by which its session lives.
fn messages(tree: &Path) -> Option<u64> {
    let mut command = Command::new("getfattr");
    command.args(["--only-values", "--absolute-names", "-n", "user.okapifs.stats"]).arg(tree);
    let output = command.stderr(Stdio::null()).output().ok()?;
    let stats = String::from_utf8(output.stdout).ok()?;
    let count = |name: &str| -> Option<u64> {
        stats.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
    };
    Some(count("monitor_calls ")? + count("server_calls ")?)
}

fn print(trees: &[PathBuf], all: &[Vec<Figures>]) {
    println!(
        "{:<28}{:>10}{:>10}{:>10}{:>10}{:>8}{:>8}  directory",
        "milliseconds", "first", "again", "later", "messages", "again", "later"
    );
    for (look, figures) in LOOKS.iter().zip(all) {
        let last = figures.last().expect("a directory at least");
        for (tree, one) in trees.iter().zip(figures) {
            let times = |of: &[Duration], to: &[Duration]| median(of) / median(to);
            println!(
                "{look:<28}{:>10.1}{:>10.1}{:>10.1}{:>10}{:>7.2}x{:>7.2}x  {}",
                one.first.as_secs_f64() * 1e3,
                median(&one.again) * 1e3,
                median(&one.later) * 1e3,
                one.messages.map_or_else(|| "-".to_owned(), |count| count.to_string()),
                times(&one.again, &last.again),
                times(&one.later, &last.later),
                tree.display()
            );
        }
    }
}

/// In seconds.
fn median(times: &[Duration]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2].as_secs_f64()
}
