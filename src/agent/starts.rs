//! The numbers of starts, on disk.
//!
//! ```text
//! starts.json    {"monitor-1": 5, "server-1": 12}    the number of each unit's latest start
//! ```
//!
//! A number is written, durably, before its process is started: so no number is ever given to two processes, and
//! one that was written and not used because the agent died in between is skipped.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use crate::env::system::files::{PUBLIC, write_atomic};

/// The file, and what it says.
#[derive(Debug)]
pub struct Starts {
    path: PathBuf,
    latest: BTreeMap<String, u64>,
}

impl Starts {
    /// Reads the file; one that is not there is empty. The caller holds a lock on its directory.
    ///
    /// # Errors
    ///
    /// When it cannot be read or makes no sense: then it must not be taken for empty.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let named = |why: String| io::Error::other(format!("{}: {why}", path.display()));
        let latest = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                named(format!("{error}; write the numbers down anew, each higher than any before"))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(named(error.to_string())),
        };
        Ok(Self { path, latest })
    }

    /// The number of the unit's latest start; 0 before its first.
    pub fn latest(&self, unit: &str) -> u64 {
        self.latest.get(unit).copied().unwrap_or(0)
    }

    /// All units that were ever started here.
    pub fn units(&self) -> impl Iterator<Item = &str> {
        self.latest.keys().map(String::as_str)
    }

    /// Writes down that the unit is about to be started under that number.
    ///
    /// # Errors
    ///
    /// When it cannot be written: then the unit must not be started. Also when the number is not a new one, which
    /// would let two processes have it.
    pub fn write(&mut self, unit: &str, start: u64) -> io::Result<()> {
        if start <= self.latest(unit) {
            return Err(io::Error::other(format!("start {start} of {unit} was used before")));
        }
        let mut latest = self.latest.clone();
        latest.insert(unit.to_owned(), start);
        let mut text = serde_json::to_vec(&latest)?;
        text.push(b'\n');
        write_atomic(&self.path, &text, PUBLIC)?;
        self.latest = latest;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_kept_and_never_given_twice() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("starts.json");
        let mut starts = Starts::open(path.clone()).expect("empty");
        assert_eq!(starts.latest("monitor-1"), 0);
        starts.write("monitor-1", 1).expect("written");
        starts.write("server-1", 7).expect("written");
        starts.write("monitor-1", 1).expect_err("used");
        let mut again = Starts::open(path.clone()).expect("read");
        assert_eq!((again.latest("monitor-1"), again.latest("server-1")), (1, 7));
        again.write("server-1", 6).expect_err("older");

        std::fs::write(&path, "{\"monitor-1\": ").expect("written");
        let error = Starts::open(path).expect_err("torn").to_string();
        assert!(error.contains("starts.json"), "{error}");
    }
}
