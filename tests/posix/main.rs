//! What programs written for a local filesystem find on a mount: the same.
//!
//! [`suites`] are two test suites that others wrote for just this; [`one_file`], [`content`], [`names`] and [`rights`]
//! are what those do not look at. Each test has a cluster of its own.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests talk to people")]

mod calls;
#[path = "../common/mod.rs"]
mod common;
mod content;
mod names;
mod one_file;
mod rights;
mod suites;

use std::process::ExitCode;

fn main() -> ExitCode {
    common::runner::run(&[
        ("pjdfstest_finds_nothing", suites::pjdfstest_finds_nothing),
        ("fsx_on_one_mount", suites::fsx_on_one_mount),
        ("fsx_on_two_mounts", suites::fsx_on_two_mounts),
        ("one_file_on_one_mount", one_file::one_file_on_one_mount),
        ("one_file_on_two_mounts", one_file::one_file_on_two_mounts),
        ("content", content::content),
        ("synced_writes_survive_a_power_cut", content::synced_writes_survive_a_power_cut),
        ("names", names::names),
        ("a_big_directory", names::a_big_directory),
        ("rights", rights::rights),
    ])
}
