//! The small file beside the segments: the vote, and where the log begins.
//!
//! ```text
//! vote    magic 8 | version u32 | CRC32C of the rest u32 | encoded Saved
//! ```
//!
//! It is written under another name, synced, and renamed: there is always one whole file.

use std::io;

use bincode::{Decode, Encode};
use crc_fast::{CrcAlgorithm, checksum};

use super::files::Files;
use super::{LogError, Position};
use crate::wire;
pub(crate) use crate::wire::peers::Vote;

/// The file.
pub(super) const NAME: &str = "vote";
const NEW: &str = "vote.new";
const MAGIC: &[u8; 8] = b"OKAPIVOT";
const VERSION: u32 = 1;

#[derive(Encode, Decode)]
struct Saved {
    vote: Option<Vote>,
    /// The last purged entry.
    purged: Option<Position>,
}

/// Saves both durably.
pub(super) fn save(
    files: &dyn Files,
    vote: Option<Vote>,
    purged: Option<Position>,
) -> io::Result<()> {
    let rest = wire::encode(&Saved { vote, purged });
    let crc = u32::try_from(checksum(CrcAlgorithm::Crc32Iscsi, &rest)).expect("32 bits");
    let bytes = [MAGIC.as_slice(), &VERSION.to_le_bytes(), &crc.to_le_bytes(), &rest].concat();
    if files.list()?.iter().any(|name| name == NEW) {
        files.truncate(NEW, 0)?;
    }
    files.write_at(NEW, 0, &bytes)?;
    files.sync(NEW)?;
    files.rename(NEW, NAME)?;
    files.sync_dir()
}

/// Reads what was saved last.
pub(super) fn load(files: &dyn Files) -> Result<(Option<Vote>, Option<Position>), LogError> {
    let bytes = match files.read(NAME) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((None, None)),
        other => other?,
    };
    let saved = parse(&bytes)
        .ok_or_else(|| LogError::Damaged(format!("the file `{NAME}` is not what was written")))?;
    Ok((saved.vote, saved.purged))
}

fn parse(bytes: &[u8]) -> Option<Saved> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let rest = rest.strip_prefix(&VERSION.to_le_bytes())?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let whole = u64::from(u32::from_le_bytes(*crc)) == checksum(CrcAlgorithm::Crc32Iscsi, rest);
    whole.then(|| wire::decode(rest).ok()).flatten()
}
