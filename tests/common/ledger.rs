//! Programs that keep a ledger of what was acknowledged to them, and check afterwards that all of it is there.
//!
//! Unlike those of [`super::load`] they may be told that an error is no surprise: somebody whose machine is cut off
//! for longer than its lease loses what it had not synced, and hears of it. Then a program begins anew, with what it
//! knows to be safe, and what it was not told counts as unknown: it may be there or not. What it *was* told must
//! be true in any case.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::programs::{Programs, Rounds, Waits};
use super::wait_for;

/// A machine that was given up is served again sooner.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a program may meet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Errors {
    /// None.
    Never,
    /// EIO and ESTALE: its machine may be away for longer than its lease.
    Possible,
}

/// Starts them on a mount, below `mnt/name`.
pub fn start(mnt: &Path, name: &str, errors: Errors) -> Programs {
    let mut programs = Programs::new(mnt, name);
    let mut start = |name, work: fn(&mut Program)| {
        programs.start(name, move |home, rounds| {
            let mut program = Program { home, rounds, errors, waits: Waits::default() };
            work(&mut program);
            program.waits
        });
    };
    start("blocks", sync_blocks);
    start("lines", append_lines);
    start("names", change_names);
    start("values", replace_values);
    programs
}

struct Program {
    home: PathBuf,
    rounds: Rounds,
    errors: Errors,
    waits: Waits,
}

impl Program {
    /// 0, 1, 2 … until all is to end.
    fn rounds(&self) -> Rounds {
        self.rounds.clone()
    }

    /// Does something; `None` when it failed and may have.
    fn try_to<T>(&mut self, what: &'static str, work: impl FnOnce() -> io::Result<T>) -> Option<T> {
        match self.waits.measure(what, work) {
            Ok(done) => Some(done),
            Err(error) if self.errors == Errors::Possible && is_loss(&error) => {
                wait_for("its home is there again", PATIENCE, || fs::metadata(&self.home).ok());
                None
            }
            Err(error) => panic!("{what} below {}: {error}", self.home.display()),
        }
    }
}

/// How a program hears that its machine was given up.
fn is_loss(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::ESTALE))
}

/// A small database: one block after the other is overwritten and synced.
fn sync_blocks(program: &mut Program) {
    const BLOCKS: u64 = 64;
    let path = program.home.join("blocks");
    let open = || File::options().read(true).write(true).create(true).truncate(false).open(&path);
    // What may be in a block: what was synced last, and what was written since then.
    let mut ledger: BTreeMap<u64, BTreeSet<u64>> = (0..BLOCKS).map(|at| (at, [0].into())).collect();
    let mut opened: Option<File> = None;
    for round in program.rounds() {
        let (at, value) = (round % BLOCKS, round + 1);
        let file = match opened.take() {
            Some(file) => file,
            None => match program.try_to("open", open) {
                Some(file) => file,
                None => continue,
            },
        };
        let possible = ledger.get_mut(&at).expect("all blocks are in it");
        possible.insert(value);
        let written = program.try_to("write", || file.write_all_at(&block(value), at * 4096));
        if written.and_then(|()| program.try_to("fsync", || file.sync_all())).is_some() {
            *possible = [value].into();
            opened = Some(file);
        }
    }
    let found = fs::read(&path).expect("read");
    for (at, possible) in &ledger {
        let at = usize::try_from(at * 4096).expect("small");
        let nothing = vec![0; 4096];
        let is = found.get(at..at + 4096).unwrap_or(&nothing);
        assert!(
            possible.iter().any(|value| block(*value) == is),
            "the block at {at} begins with {:?}, but was synced as one of {possible:?}",
            &is[..8]
        );
    }
}

fn block(value: u64) -> Vec<u8> {
    value.to_le_bytes().repeat(512)
}

/// Logs: each is what was appended to it, at least as far as it was synced. After an error a new one is begun.
fn append_lines(program: &mut Program) {
    let mut logs: Vec<Log> = Vec::new();
    let mut opened: Option<File> = None;
    for round in program.rounds() {
        let Some(file) = &mut opened else {
            let path = program.home.join(format!("log{round}"));
            let create = || File::options().append(true).create_new(true).open(&path);
            opened = program.try_to("create", create);
            logs.push(Log { path, is_made: opened.is_some(), text: String::new(), synced: 0 });
            continue;
        };
        let log = logs.last_mut().expect("one is open");
        let line = format!("line {round}\n");
        log.text.push_str(&line);
        let appended = program.try_to("append", || file.write_all(line.as_bytes()));
        let done = match round % 16 {
            0 => appended.and_then(|()| program.try_to("fsync", || file.sync_all())).map(|()| {
                log.synced = log.text.len();
            }),
            _ => appended,
        };
        if done.is_none() {
            opened = None;
        }
    }
    for log in &logs {
        log.check();
    }
}

struct Log {
    path: PathBuf,
    is_made: bool,
    text: String,
    /// Bytes that are safe.
    synced: usize,
}

impl Log {
    fn check(&self) {
        let found = match fs::read_to_string(&self.path) {
            Err(error) if !self.is_made && error.kind() == io::ErrorKind::NotFound => return,
            found => found.expect("read"),
        };
        let path = self.path.display();
        assert!(self.text.starts_with(&found), "{path} is not what was appended");
        assert!(
            found.len() >= self.synced,
            "{path} has {} bytes of {} that were synced",
            found.len(),
            self.synced
        );
    }
}

/// Names come, change and go: those that must be there are, others are not.
fn change_names(program: &mut Program) {
    // Unknown: a call about it failed.
    let mut ledger: BTreeMap<String, Option<bool>> = BTreeMap::new();
    for round in program.rounds() {
        let (old, new) = (format!("a{round}"), format!("b{round}"));
        let (from, to) = (program.home.join(&old), program.home.join(&new));
        let mut note = |old_is_there, new_is_there| {
            ledger.insert(old.clone(), old_is_there);
            ledger.insert(new.clone(), new_is_there);
        };
        note(None, Some(false));
        if program.try_to("create", || File::create_new(&from)).is_none() {
            continue;
        }
        note(None, None);
        if program.try_to("rename", || fs::rename(&from, &to)).is_none() {
            continue;
        }
        note(Some(false), Some(true));
        if round % 8 == 0 {
            continue;
        }
        note(Some(false), None);
        if program.try_to("unlink", || fs::remove_file(&to)).is_some() {
            note(Some(false), Some(false));
        }
    }
    let entries = fs::read_dir(&program.home).expect("read").map(|entry| entry.expect("read"));
    let found: BTreeSet<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    for (name, is_there) in &ledger {
        let is = found.contains(name);
        assert!(is_there.is_none_or(|must| must == is), "{name} is there: {is}");
    }
    assert!(found.iter().all(|name| ledger.contains_key(name)), "nobody made all of {found:?}");
}

/// A file that is replaced as editors do it: what is read is never older than what was acknowledged.
fn replace_values(program: &mut Program) {
    let (value, next) = (program.home.join("value"), program.home.join("next"));
    let mut known = 0;
    for round in program.rounds() {
        let round = round + 1;
        let replaced = program
            .try_to("create", || File::create(&next))
            .and_then(|mut file| {
                program.try_to("write", || {
                    file.write_all(round.to_string().as_bytes())?;
                    file.sync_all()
                })
            })
            .and_then(|()| program.try_to("replace", || fs::rename(&next, &value)));
        if replaced.is_some() {
            known = round;
        }
        if known > 0
            && let Some(text) = program.try_to("read", || fs::read_to_string(&value))
        {
            let found: u64 = text.parse().unwrap_or_else(|_| panic!("{text:?} is no value"));
            assert!((known..=round).contains(&found), "{found} was read, {known} is acknowledged");
            known = found;
        }
    }
    if known > 0 {
        let text = fs::read_to_string(&value).expect("read");
        assert_eq!(text, known.to_string());
    }
}
