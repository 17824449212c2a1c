//! Programs of others: those that every distribution has, and test suites that were published as crates, which are built
//! once and kept beside what cargo builds.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cluster::text;
use super::runner::skip;

/// Skips the test where one of these is not installed.
pub fn need(programs: &[&str]) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    for program in programs {
        if !std::env::split_paths(&path).any(|dir| dir.join(program).exists()) {
            skip(&format!("{program} is not installed"));
        }
    }
}

/// The program `name` of the crate of that name, of exactly that version. The first call builds it, which takes
/// a minute and the network; where that cannot be done, the test is skipped.
pub fn program(name: &str, version: &str) -> PathBuf {
    let tools = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools");
    let root = tools.join(format!("{name}-{version}"));
    let program = root.join("bin").join(name);
    fs::create_dir_all(&root).expect("made");
    // Two tests may want it at the same time.
    let lock = File::create(root.join("lock")).expect("made");
    lock.lock().expect("locked");
    if !program.exists() {
        build(name, version, &root);
    }
    program
}

fn build(name: &str, version: &str, root: &Path) {
    println!("building {name} {version}, once");
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut install = Command::new(cargo);
    install.args(["install", "--locked", "--root"]).arg(root).arg(format!("{name}@={version}"));
    match install.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => skip(&format!("{name} {version} cannot be built: {}", text(&output))),
        Err(error) => skip(&format!("{name} {version} cannot be built without cargo: {error}")),
    }
}
