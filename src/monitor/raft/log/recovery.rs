//! What is there when a monitor starts.
//!
//! Segments are read in order. Only the newest one can have an unsynced end (a segment is begun only when the
//! one before is durable), and only bytes behind the last sync may be cut off. The pure part, [`scan`], decides.

use std::collections::VecDeque;

use super::files::Files;
use super::index::{Index, Segment};
use super::record::{self, Position, SegmentHead};
use super::{LogError, segment_name, spare, vote};

/// What a segment holds.
struct Scanned {
    segment: Segment,
    committed: Option<Position>,
    /// Whether there is anything behind its last whole record but the zeros of a file that was laid out ahead.
    torn: bool,
}

/// Reads the log, and cuts off what a power cut left behind its end.
pub(super) fn recover(files: &dyn Files, cache_bytes: usize) -> Result<Index, LogError> {
    spare::forget(files)?;
    let (vote, purged) = vote::load(files)?;
    let mut segments: VecDeque<Segment> = VecDeque::new();
    let mut committed = None;
    let firsts = live_segments(files, purged)?;
    for (at, first) in firsts.iter().enumerate() {
        let newest = at + 1 == firsts.len();
        let name = segment_name(*first);
        let Some(found) = scan(&name, *first, &files.read(&name)?, newest)? else {
            files.remove(&name)?;
            files.sync_dir()?;
            break;
        };
        if let Some(before) = segments.back()
            && before.next() != *first
        {
            return Err(LogError::Damaged(format!(
                "entries {} to {} are missing before {name}",
                before.next(),
                first - 1
            )));
        }
        if found.torn {
            log::warn!(
                "{name}: cut off an unacknowledged end behind entry {}",
                found.segment.next().saturating_sub(1)
            );
            files.truncate(&name, found.segment.bytes)?;
            files.sync(&name)?;
        }
        committed = found.committed.or(committed);
        segments.push_back(found.segment);
    }
    check_beginning(&segments, purged)?;
    // What was found may have been written by a process that was killed before it could sync.
    if let Some(newest) = segments.back() {
        files.sync(&segment_name(newest.first))?;
    }
    files.sync_dir()?;
    let mut index = Index::new(segments, vote, purged, committed, cache_bytes);
    if let Some(purged) = purged {
        remove_purged(files, &mut index, purged)?;
    }
    Ok(index)
}

/// The first indices of all segments that hold more than purged entries, ascending; the others are removed. (A
/// purge is durable before its segments go, and their names may go in any order.)
fn live_segments(files: &dyn Files, purged: Option<Position>) -> Result<Vec<u64>, LogError> {
    let mut firsts: Vec<u64> =
        files.list()?.iter().filter_map(|name| name.strip_suffix(".log")?.parse().ok()).collect();
    firsts.sort_unstable();
    let begins = purged.map_or(0, |purged| purged.index + 1);
    let gone = firsts.iter().skip(1).filter(|next| **next <= begins).count();
    for first in firsts.drain(..gone) {
        files.remove(&segment_name(first))?;
    }
    Ok(firsts)
}

/// Reads one segment; `None` when it was begun but never used.
fn scan(name: &str, first: u64, bytes: &[u8], newest: bool) -> Result<Option<Scanned>, LogError> {
    match record::parse_segment_head(bytes) {
        SegmentHead::First(found) if found == first => {}
        SegmentHead::Version(version) => {
            return Err(LogError::Damaged(format!(
                "{name} has version {version}, which this okapifs does not know (is it older than the data?)"
            )));
        }
        // Its header is synced before an entry is written to it.
        _ if newest && record::witness(bytes, 0).is_none() => return Ok(None),
        _ => return Err(LogError::Damaged(format!("{name} has no valid header"))),
    }
    let mut segment = Segment::new(first);
    let mut committed = None;
    let mut at = record::SEGMENT_HEAD;
    while let Some(found) = record::parse(&bytes[at..]) {
        if found.body.is_none() {
            committed = Some(found.position);
        } else if found.position.index == segment.next() {
            segment.push(found.position, at as u64, found.span);
        } else {
            return Err(LogError::Damaged(format!(
                "{name} has entry {} where {} was expected",
                found.position.index,
                segment.next()
            )));
        }
        // The zeros at the end of the last record may be cut off.
        at = bytes.len().min(at + found.bytes);
    }
    segment.bytes = (at as u64).next_multiple_of(8);
    let torn = bytes[at..].iter().any(|byte| *byte != 0);
    let expected = segment.next();
    if torn && let Some(later) = record::witness(&bytes[at..], expected) {
        return Err(LogError::Damaged(format!(
            "entry {expected} in {name} at byte {at} is unreadable, but entry {later} behind it shows that it was acknowledged"
        )));
    }
    if torn && !newest {
        return Err(LogError::Damaged(format!(
            "entry {expected} in {name} at byte {at} is unreadable, and newer segments follow"
        )));
    }
    Ok(Some(Scanned { segment, committed, torn }))
}

fn check_beginning(segments: &VecDeque<Segment>, purged: Option<Position>) -> Result<(), LogError> {
    let begins = purged.map_or(0, |purged| purged.index + 1);
    match segments.front() {
        Some(oldest) if oldest.first > begins => {
            Err(LogError::Damaged(format!("entries {begins} to {} are missing", oldest.first - 1)))
        }
        _ => Ok(()),
    }
}

/// Removes what a purge had not removed yet when the process ended.
fn remove_purged(files: &dyn Files, index: &mut Index, purged: Position) -> Result<(), LogError> {
    for first in index.purge(purged) {
        files.remove(&segment_name(first))?;
    }
    Ok(())
}
