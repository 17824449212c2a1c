//! Proves the invariants of the namespace (listed in [`super`]) on a live state.
//!
//! The check walks over all keys in their order and looks, from each record, at those that must agree with it.
//! It goes in portions of bounded work: what it has seen goes into a cursor, and the next portion goes on from
//! there, on the state as it is then. What can be told from one record and its neighbours is always told. Sums
//! that run over a portion's end (the entries of a big directory, the usage of a volume) are compared only when
//! nothing was applied in between; on a busy cluster they are left out rather than reported wrongly.

mod rules;
mod sums;

use bincode::{Decode, Encode};
use md5::{Digest, Md5};

use super::keys;
use super::query::op_seq;
use crate::monitor::store::{Pair, Read, StoreError, prefix_end};
use crate::types::OpSeq;
use crate::wire::{decode, encode};
use sums::Sums;

/// What a portion of the check found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Checked {
    /// Records looked at.
    pub records: u64,
    /// What is wrong, a sentence each.
    pub problems: Vec<String>,
    /// Where to go on; `None` at the end.
    pub cursor: Option<Vec<u8>>,
}

/// Where a portion ended, and what it counted.
#[derive(Clone, Debug, Default, Encode, Decode)]
struct Cursor {
    key: Vec<u8>,
    state: OpSeq,
    sums: Sums,
}

/// Most problems that one portion tells: after these it is clear enough that something is wrong.
const PROBLEMS_MAX: usize = 200;

/// Checks a portion: at most `budget` records, from the cursor of the portion before (empty at the beginning).
/// `read` is one consistent state (a snapshot) while it works.
///
/// # Errors
///
/// When the store fails. A cursor that is none is reported as a problem.
pub fn check(read: &dyn Read, cursor: &[u8], budget: u64) -> Result<Checked, StoreError> {
    let state = op_seq(read)?;
    let mut at = match cursor {
        [] => Cursor::default(),
        bytes => match decode::<Cursor>(bytes) {
            Ok(cursor) => cursor,
            Err(error) => {
                return Ok(Checked {
                    problems: vec![format!("this is no cursor of a check: {error}")],
                    ..Checked::default()
                });
            }
        },
    };
    if !cursor.is_empty() && at.state != state {
        at.sums.interrupt();
    }
    at.state = state;
    walk(read, at, budget)
}

fn walk(read: &dyn Read, mut at: Cursor, budget: u64) -> Result<Checked, StoreError> {
    let mut checked = Checked::default();
    for pair in read.scan(&at.key, &keys::end()) {
        let pair = pair?;
        if checked.records >= budget.max(1) || checked.problems.len() >= PROBLEMS_MAX {
            at.key = pair.0;
            checked.cursor = Some(encode(&at));
            return Ok(checked);
        }
        checked.records += 1;
        rules::look(read, &pair, &mut at.sums, &mut checked.problems)?;
    }
    at.sums.finish(read, &mut checked.problems)?;
    Ok(checked)
}

/// A hash over the whole replicated state: equal on all monitors that have applied the same log.
///
/// # Errors
///
/// When the store fails.
pub fn state_hash(read: &dyn Read) -> Result<[u8; 16], StoreError> {
    let mut hash = Md5::new();
    let mut add = |(key, value): &Pair| {
        for part in [key, value] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    };
    for tag in keys::TAGS {
        let tag = tag.as_bytes();
        for pair in read.scan(tag, &prefix_end(tag)) {
            add(&pair?);
        }
    }
    for key in keys::bookkeeping() {
        if let Some(value) = read.get(&key)? {
            add(&(key, value));
        }
    }
    Ok(hash.finalize().into())
}
