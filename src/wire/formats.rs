//! Notices when a format changes: tests compare what types look like in bytes with tables that are kept in files.
//!
//! A sample of every message by hand would be long, and wrong by omission. But a type says by itself how it is
//! read: so let it read from a [`Dictation`], which answers every question for the next bytes with the number 1, or with
//! what was asked for that place. Where the type reads an enum it does not accept any number, and says how many variants it
//! has: so all variants of all enums within it can be found, each once. The **fingerprint** of a type is a checksum
//! over all those values, as text (names and order of fields) and as bytes (widths).

use std::any::type_name;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Debug;
use std::fs;
use std::path::Path;

use bincode::{Decode, Encode};
use crc_fast::{CrcAlgorithm, checksum};

use super::codec::{NotDictated, dictate};
use crate::types::Levels;

/// Set to anything, it has the tables written anew.
const WRITE: &str = "OKAPIFS_WRITE_FORMATS";
/// A number that is no variant of any enum.
const NO_VARIANT: u32 = u32::MAX;

/// The name and fingerprint of each type.
macro_rules! fingerprints {
    ($($type:ty),* $(,)?) => {
        [$((stringify!($type).to_owned(), $crate::wire::formats::fingerprint::<$type>())),*]
    };
}
pub(crate) use fingerprints;

/// Compares fingerprints with the table in that file, below `src/`.
pub(crate) fn check(table: &str, found: &[(String, u32)]) {
    let level = Levels::OURS.newest;
    let lines = found.iter().map(|(name, fingerprint)| format!("{fingerprint:08x} {name}\n"));
    let found: String = [format!("level {level}\n")].into_iter().chain(lines).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(table);
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, &found).expect("the table can be written");
    }
    let known = fs::read_to_string(&path).unwrap_or_default();
    let is_new = |line: &&str| !known.lines().any(|known| known == *line);
    let changed: Vec<&str> = found.lines().filter(is_new).collect();
    assert!(
        known == found,
        "src/{table} has the formats of level {level}, and these are others: {changed:?}.\n\
         If level {level} was released, follow `How a format changes` in docs/formats.md: other nodes still run it.\n\
         If it was not, or only a name or the table's order changed: {WRITE}=1 cargo test formats"
    );
}

/// See the module.
pub(crate) fn fingerprint<T: Decode<()> + Encode + Debug>() -> u32 {
    let mut text = Vec::new();
    let mut seen = BTreeSet::new();
    let mut open = VecDeque::from([BTreeMap::new()]);
    while let Some(asked) = open.pop_front() {
        let (value, dictation) = sample::<T>(asked.clone());
        text.extend(format!("{value:?}").into_bytes());
        text.extend(super::encode(&value));
        let first = asked.last_key_value().map_or(0, |(at, _)| at + 1);
        for at in first..dictation.widths.len() {
            let before: BTreeMap<usize, u32> =
                dictation.asked.range(..at).map(|(at, number)| (*at, *number)).collect();
            for variant in variants::<T>(&before, at, dictation.widths[at], &mut seen) {
                open.push_back(before.iter().map(|(at, is)| (*at, *is)).chain([variant]).collect());
            }
        }
    }
    of_bytes(&text)
}

/// The fingerprint of a format that no encoder makes: of a sample of its bytes. Not a CRC32C: bytes that end with their
/// own all have the same.
pub(crate) fn of_bytes(sample: &[u8]) -> u32 {
    u32::try_from(checksum(CrcAlgorithm::Crc32IsoHdlc, sample)).expect("it has 32 bits")
}

/// The value that is read when these numbers are asked for at these places, and 1 (or 0, where there is no 1)
/// elsewhere.
fn sample<T: Decode<()>>(asked: BTreeMap<usize, u32>) -> (T, Dictation) {
    let mut dictation = Dictation { asked, widths: Vec::new() };
    loop {
        let read = dictation.read();
        let last = dictation.widths.len().saturating_sub(1);
        match read {
            Ok(value) => return (value, dictation),
            Err(_) if !dictation.asked.contains_key(&last) => dictation.asked.insert(last, 0),
            Err(error) => panic!("{} cannot be dictated: {error}", type_name::<T>()),
        };
    }
}

/// If an enum is read at that place whose variants were not seen yet: all of them.
fn variants<T: Decode<()>>(
    before: &BTreeMap<usize, u32>,
    at: usize,
    width: usize,
    seen: &mut BTreeSet<&'static str>,
) -> Vec<(usize, u32)> {
    if width != size_of::<u32>() {
        return Vec::new();
    }
    let asked = before.iter().map(|(at, is)| (*at, *is)).chain([(at, NO_VARIANT)]).collect();
    let mut dictation = Dictation { asked, widths: Vec::new() };
    match dictation.read::<T>() {
        Err(NotDictated::Variant { of, all }) if dictation.widths.len() == at + 1 => {
            let all = all.filter(|_| !seen.contains(of)).map(|variant| (at, variant)).collect();
            seen.insert(of);
            all
        }
        _ => Vec::new(),
    }
}

/// What a value is read from.
struct Dictation {
    /// By number of the read: the number that it gets.
    asked: BTreeMap<usize, u32>,
    /// How long each read was, in bytes.
    widths: Vec<usize>,
}

impl Dictation {
    fn read<T: Decode<()>>(&mut self) -> Result<T, NotDictated> {
        let Self { asked, widths } = self;
        widths.clear();
        dictate(|width| {
            widths.push(width);
            asked.get(&(widths.len() - 1)).copied().unwrap_or(1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{Kind, Prefix};
    use crate::wire::{admin, agent, hello, metadata, peers, shards};

    #[test]
    fn formats_of_messages_are_those_of_their_level() {
        let frame = Prefix { kind: Kind::Notice, id: 1 << 40, header_len: 2, payload_len: 3 };
        let mut found = fingerprints![
            hello::Hello,
            hello::Welcome,
            metadata::Request,
            metadata::Response,
            metadata::Notice,
            peers::Request,
            peers::Response,
            peers::Notice,
            shards::Request,
            shards::Response,
            agent::Request,
            agent::Response,
            admin::Request,
            admin::Response,
        ]
        .to_vec();
        found.push(("a frame".to_owned(), of_bytes(&frame.to_bytes())));
        check("wire/formats.table", &found);
    }

    #[test]
    fn whatever_changes_in_a_type_changes_its_fingerprint() {
        #[derive(Encode, Decode, Debug)]
        enum Inner {
            A,
            B,
            C { number: u32 },
        }
        #[derive(Encode, Decode, Debug)]
        enum Longer {
            A,
            B,
            C { number: u64 },
        }
        #[derive(Encode, Decode, Debug)]
        struct Outer<T> {
            before: u64,
            inner: Option<Vec<T>>,
        }
        #[derive(Encode, Decode, Debug)]
        struct Turned<T> {
            inner: Option<Vec<T>>,
            before: u64,
        }
        let all = [
            fingerprint::<Outer<Inner>>(),
            fingerprint::<Outer<Longer>>(),
            fingerprint::<Turned<Inner>>(),
            fingerprint::<Outer<Outer<Inner>>>(),
        ];
        assert_eq!(BTreeSet::from(all).len(), all.len());
        assert_eq!(all[0], fingerprint::<Outer<Inner>>());
    }
}
