//! Repositories of git: it believes times of files, makes files with names that must not be there, renames them over
//! others, and maps packs into memory.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::Places;
use super::common::cluster::text;
use super::common::runner::long;
use super::common::tools::need;

/// One work tree that both use in turn, and one repository that both push to at once.
pub(crate) fn on_both(places: &Places) {
    need(&["git"]);
    take_turns(places);
    push_at_once(places);
}

fn take_turns(places: &Places) {
    let [one, two] = places.both().map(|dir| dir.join("tree"));
    git(&places.one, &["init", "-q", "-b", "main", "tree"]);
    let turns = if long() { 60 } else { 2 };
    for turn in 0..turns {
        let (here, there) = if turn % 2 == 0 { (&one, &two) } else { (&two, &one) };
        fs::write(here.join("same"), format!("{turn:04}")).expect("written");
        fs::write(here.join(format!("new {turn}")), "new").expect("written");
        git(there, &["add", "--all"]);
        git(here, &["commit", "-q", "-m", &format!("turn {turn}")]);
        assert_eq!(git(there, &["status", "--porcelain"]), "");
        assert_eq!(git(there, &["show", "HEAD:same"]), format!("{turn:04}"));
        // Of the same size, and within the same second.
        fs::write(here.join("same"), "else").expect("written");
        assert_eq!(git(there, &["status", "--porcelain"]), " M same\n");
        git(there, &["checkout", "-q", "--", "same"]);
        assert_eq!(fs::read_to_string(here.join("same")).expect("read"), format!("{turn:04}"));
    }
    git(&one, &["gc", "-q"]);
    git(&two, &["fsck", "--full", "--strict"]);
    assert_eq!(git(&two, &["rev-list", "--count", "HEAD"]).trim(), turns.to_string());
}

/// Of two pushes one may come too late: it fetches what the other pushed, and tries again.
fn push_at_once(places: &Places) {
    let commits = if long() { 40 } else { 2 };
    git(&places.one, &["init", "-q", "--bare", "-b", "main", "hub.git"]);
    git(&places.one, &["clone", "-q", "hub.git", "first"]);
    git(&places.one.join("first"), &["commit", "-q", "--allow-empty", "-m", "first"]);
    git(&places.one.join("first"), &["push", "-q", "origin", "HEAD:main"]);
    places.at_once(|dir, number| {
        let clone = format!("clone {number}");
        git(dir, &["clone", "-q", &dir.join("hub.git").display().to_string(), &clone]);
        let clone = dir.join(clone);
        for commit in 0..commits {
            fs::write(clone.join(format!("{number}-{commit}")), "content").expect("written");
            git(&clone, &["add", "--all"]);
            git(&clone, &["commit", "-q", "-m", "more"]);
            while try_git(&clone, &["push", "-q", "origin", "main"]).is_err() {
                git(&clone, &["pull", "-q", "--rebase", "origin", "main"]);
            }
        }
    });
    for dir in places.both() {
        git(&dir.join("hub.git"), &["fsck", "--full", "--strict"]);
        let count = git(&dir.join("hub.git"), &["rev-list", "--count", "main"]);
        assert_eq!(count.trim(), (2 * commits + 1).to_string());
    }
}

fn git(dir: &Path, arguments: &[&str]) -> String {
    try_git(dir, arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}

/// What it says, or why it failed. It is nobody's git but the test's.
fn try_git(dir: &Path, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new("git");
    command.args(["-c", "gc.autoDetach=false", "-c", "maintenance.auto=false"]);
    command.args(arguments).current_dir(dir);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "nobody");
        command.env(format!("GIT_{who}_EMAIL"), "nobody@localhost");
    }
    let output = command.output().expect("git runs");
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(text(&output)),
    }
}
