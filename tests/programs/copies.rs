//! Copies by rsync: it writes to files of other names and renames them, sets times and modes, and believes on its next
//! run that what has the same size and time is the same.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::Places;
use super::common::cluster::success;
use super::common::files::{assert_same, make_tree};
use super::common::runner::long;
use super::common::tools::need;

/// Both copy a tree at once, to directories of their own; the other one finds nothing to do there.
pub(crate) fn on_both(places: &Places) {
    need(&["rsync"]);
    let source = places.beside.join("source");
    make_tree(&source, if long() { 3000 } else { 30 }, 1, 9);
    // It reads and compares every byte of holes.
    for hole in ["sparse", "only a hole"] {
        fs::remove_file(source.join(hole)).expect("removed");
    }
    places.at_once(|dir, number| drop(rsync(&source, &dir.join(number.to_string()))));
    places.at_once(|dir, number| {
        let other = dir.join((1 - number).to_string());
        assert_eq!(rsync(&source, &other), "", "found by mount {number}");
        assert_same(&source, &other);
    });
    // From one directory of the tree to another, what is gone included.
    fs::write(places.two.join("0/new"), "new").expect("written");
    fs::remove_dir_all(places.one.join("0/dir 0")).expect("removed");
    rsync(&places.two.join("0"), &places.two.join("1"));
    for dir in places.both() {
        assert_eq!(rsync(&dir.join("0"), &dir.join("1")), "");
        assert_same(&dir.join("0"), &dir.join("1"));
    }
}

/// Makes `to` what `from` is; what it had to do, a line each.
fn rsync(from: &Path, to: &Path) -> String {
    let mut rsync = Command::new("rsync");
    // Without it times are the same that differ by less than a second.
    rsync.arg("--modify-window=-1");
    rsync.args(["--archive", "--hard-links", "--delete", "--out-format=%i %n"]);
    success(rsync.arg(from.join("")).arg(to.join("")))
}
