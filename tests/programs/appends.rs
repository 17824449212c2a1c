//! Logs that programs on both mounts append to, and tail(1), which follows them on both.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use super::Places;
use super::common::files::Random;
use super::common::runner::long;
use super::common::wait_until;

/// How long tail(1) may take to show what is there, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// Each line is there once, whole, in the order of whoever wrote it; tail(1) shows all of it.
pub(crate) fn of_both(places: &Places) {
    let lines = if long() { 3000 } else { 60 };
    File::create(places.one.join("log")).expect("made");
    let tails: Vec<Tail> = places.both().iter().map(|dir| Tail::of(dir, &places.beside)).collect();
    places.at_once(|dir, number| {
        std::thread::scope(|scope| {
            for writer in [2 * number, 2 * number + 1] {
                scope.spawn(move || append(&dir.join("log"), writer, lines));
            }
        });
    });
    let log = fs::read(places.one.join("log")).expect("read");
    assert!(log == fs::read(places.two.join("log")).expect("read"), "the mounts differ");
    check(&log, 4, lines);
    tails.into_iter().for_each(|tail| tail.shows(&log));
}

/// Short lines, and some of many blocks: a line is one write(2).
fn append(log: &Path, writer: usize, lines: usize) {
    let mut random = Random::new(writer as u64 + 1);
    let mut file = File::options().append(true).open(log).expect("opened");
    for number in 0..lines {
        let length = match random.below(8) {
            0 => random.below(100_000),
            _ => random.below(200),
        };
        let filling = "x".repeat(length as usize);
        let line = format!("{writer} {number} {length} {filling}\n");
        assert_eq!(file.write(line.as_bytes()).expect("appended"), line.len());
    }
}

fn check(log: &[u8], writers: usize, lines: usize) {
    let log = std::str::from_utf8(log).expect("nothing but what was written");
    let mut found: BTreeMap<usize, usize> = BTreeMap::new();
    for line in log.lines() {
        let mut words = line.split(' ');
        let mut number = || words.next().and_then(|word| word.parse::<usize>().ok());
        let (Some(writer), Some(at), Some(length)) = (number(), number(), number()) else {
            panic!("a torn line: {:?}", &line[..line.len().min(60)]);
        };
        let filling = words.next().expect("a fourth word");
        let is_whole = filling.len() == length && filling.bytes().all(|byte| byte == b'x');
        assert!(is_whole && words.next().is_none(), "line {at} of {writer} is torn");
        let next = found.entry(writer).or_default();
        assert_eq!(at, *next, "of writer {writer}");
        *next += 1;
    }
    assert_eq!(found, (0..writers).map(|writer| (writer, lines)).collect());
}

/// A tail(1) that runs.
struct Tail {
    child: Child,
    seen: std::path::PathBuf,
}

impl Tail {
    fn of(dir: &Path, beside: &Path) -> Self {
        let name = format!("tail of {}", dir.display()).replace('/', "-");
        let seen = beside.join(name);
        let mut tail = Command::new("tail");
        tail.args(["-n", "+1", "-s", "0.1", "-f"]).arg(dir.join("log"));
        tail.stdout(File::create(&seen).expect("made"));
        Self { child: tail.spawn().expect("tail runs"), seen }
    }

    fn shows(self, log: &[u8]) {
        wait_until("tail shows all of it", SOON, || {
            let seen = fs::read(&self.seen).expect("read");
            assert!(log.starts_with(&seen), "tail shows what is not in the log");
            if seen.len() == log.len() { Ok(()) } else { Err(seen.len()) }
        });
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }
}
