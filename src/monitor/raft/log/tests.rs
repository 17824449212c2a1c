//! The log against a disk that loses its power at every sync, and against damage.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use bytes::Bytes;

use super::fake::{FakeFiles, Random};
use super::*;
use crate::env::disk::Room;
use crate::wire::formats::{check, of_bytes};

const SMALL: LogConfig = LogConfig { segment_bytes: 2048, cache_bytes: 1000 };

fn open(files: &Arc<FakeFiles>) -> Result<Log, LogError> {
    let spare = Spare::at_once(files.clone(), SMALL.segment_bytes);
    Log::open_files(files.clone(), SMALL, spare, roomy())
}

/// A disk with room.
fn roomy() -> Arc<Gauge> {
    Arc::new(Gauge::new(|| Ok(Room { total_bytes: 100, free_bytes: 100 })))
}

fn at(index: u64, term: u64) -> Position {
    Position { term, index }
}

fn entry(index: u64, term: u64) -> Record {
    let length = (index * 37 + term * 11) % 300;
    let body = (0..length).map(|byte| (byte * index + term) as u8 | 1);
    Record { position: at(index, term), body: body.collect::<Vec<_>>().into() }
}

fn entries(range: Range<u64>, term: u64) -> Vec<Record> {
    range.map(|index| entry(index, term)).collect()
}

/// Asks for something; the receiver tells when it is durable.
fn ask(ask: impl FnOnce(Done)) -> Receiver<io::Result<()>> {
    let (done, waiting) = mpsc::channel();
    // A test that has seen enough does not wait for the rest.
    ask(Box::new(move |result| drop(done.send(result))));
    waiting
}

fn append(log: &Log, records: Vec<Record>) -> io::Result<()> {
    ask(|done| log.append(records, done)).recv().unwrap()
}

fn all(log: &Log) -> Vec<Record> {
    log.read(0..u64::MAX).unwrap()
}

#[test]
fn entries_are_read_back_from_memory_and_from_disk() {
    let files = Arc::new(FakeFiles::default());
    let log = open(&files).unwrap();
    for first in (0..100).step_by(5) {
        append(&log, entries(first..first + 5, 1)).unwrap();
    }
    assert_eq!(log.last(), Some(at(99, 1)));
    assert_eq!(all(&log), entries(0..100, 1));
    assert_eq!(log.read(40..43).unwrap(), entries(40..43, 1));
    assert_eq!(log.cached(98..200), Some(entries(98..100, 1)));
    assert_eq!(log.cached(3..5), None, "memory is bounded");
    assert_eq!(log.cached(100..200), Some(Vec::new()));
    log.close();

    let log = open(&files).unwrap();
    assert_eq!(all(&log), entries(0..100, 1));
    append(&log, entries(100..103, 2)).unwrap();
    assert_eq!(log.last(), Some(at(102, 2)));
    log.close();
    assert_eq!(all(&open(&files).unwrap()).len(), 103);
}

#[test]
fn entries_can_be_read_before_they_are_durable_and_share_a_sync() {
    let files = Arc::new(FakeFiles::default());
    let log = open(&files).unwrap();
    // While the thread is held in the first callback, the others wait.
    let (release, held) = mpsc::channel::<()>();
    log.append(
        entries(0..1, 1),
        Box::new(move |result| {
            result.unwrap();
            held.recv().unwrap();
        }),
    );
    let waiting: Vec<_> =
        (1..9).map(|index| ask(|done| log.append(entries(index..index + 1, 1), done))).collect();
    assert_eq!(all(&log), entries(0..9, 1));
    let before = files.syncs();
    release.send(()).unwrap();
    for waiting in waiting {
        waiting.recv().unwrap().unwrap();
    }
    assert!(
        files.syncs() - before <= 4,
        "8 entries of ~1 KiB took {} syncs",
        files.syncs() - before
    );
}

#[test]
fn conflicting_entries_are_cut_off_and_stay_cut_off() {
    for first in [0, 1, 17, 30, 59, 60] {
        let files = Arc::new(FakeFiles::default());
        let log = open(&files).unwrap();
        append(&log, entries(0..60, 1)).unwrap();
        ask(|done| log.truncate(first, done)).recv().unwrap().unwrap();
        assert_eq!(all(&log), entries(0..first, 1));
        append(&log, entries(first..first + 20, 2)).unwrap();
        log.close();
        let expected = [entries(0..first, 1), entries(first..first + 20, 2)].concat();
        assert_eq!(all(&open(&files).unwrap()), expected, "cut at {first}");
    }
}

#[test]
fn purged_entries_are_gone_and_their_segments_too() {
    let files = Arc::new(FakeFiles::default());
    let log = open(&files).unwrap();
    append(&log, entries(0..60, 1)).unwrap();
    let segments = |files: &FakeFiles| files.list().unwrap().len();
    let before = segments(&files);
    let purgeable = log.purgeable(3000).unwrap();
    assert!((30..60).contains(&purgeable.index), "{purgeable:?}");
    ask(|done| log.purge(purgeable, done)).recv().unwrap().unwrap();
    let kept = purgeable.index + 1;
    assert_eq!(all(&log), entries(kept..60, 1));
    assert!(segments(&files) < before);
    append(&log, entries(60..62, 1)).unwrap();
    log.close();

    let log = open(&files).unwrap();
    assert_eq!(log.purged(), Some(purgeable));
    assert_eq!(all(&log), entries(kept..62, 1));
    assert_eq!(log.purgeable(1 << 30), None);
    // A state was taken over from another member: it is beyond the whole log.
    ask(|done| log.purge(at(500, 3), done)).recv().unwrap().unwrap();
    assert_eq!(log.last(), Some(at(500, 3)));
    append(&log, entries(501..503, 3)).unwrap();
    log.close();
    let log = open(&files).unwrap();
    assert_eq!(log.purged(), Some(at(500, 3)));
    assert_eq!(all(&log), entries(501..503, 3));
}

#[test]
fn the_vote_is_durable_and_what_is_committed_is_remembered() {
    let files = Arc::new(FakeFiles::default());
    let log = open(&files).unwrap();
    assert_eq!(log.vote(), None);
    let vote = |term| Vote { term, leader: 7, committed: term == 2 };
    ask(|done| log.save_vote(vote(1), done)).recv().unwrap().unwrap();
    append(&log, entries(0..5, 1)).unwrap();
    log.save_committed(Some(at(3, 1)));
    append(&log, entries(5..6, 1)).unwrap();
    ask(|done| log.save_vote(vote(2), done)).recv().unwrap().unwrap();
    ask(|done| log.purge(at(1, 1), done)).recv().unwrap().unwrap();
    for seed in 0..20 {
        let log = open(&Arc::new(files.after_power_cut(&mut Random(seed)))).unwrap();
        assert_eq!(log.vote(), Some(vote(2)));
        assert_eq!(log.committed(), Some(at(3, 1)));
        assert_eq!(all(&log), entries(2..6, 1));
    }
}

/// What the log promised: all that was acknowledged, and of the rest a prefix.
#[derive(Default)]
struct Promised {
    /// What was asked for, in order.
    asked: Vec<Record>,
    /// How many of them were acknowledged.
    acknowledged: usize,
    vote: Option<Vote>,
    asked_vote: Option<Vote>,
    purged: Option<u64>,
    asked_purged: Option<u64>,
}

impl Promised {
    fn check(&self, log: &Log, seed: u64) {
        let found = all(log);
        let purged = log.purged().map(|at| at.index);
        assert!(purged == self.purged || purged == self.asked_purged, "seed {seed}");
        let first = purged.map_or(0, |purged| purged as usize + 1);
        let end = first + found.len();
        assert!(end >= self.acknowledged, "seed {seed}: an acknowledged entry is lost");
        assert_eq!(found, self.asked[first..end], "seed {seed}");
        assert!(log.vote() == self.vote || log.vote() == self.asked_vote, "seed {seed}: the vote");
    }

    /// Does something to the log; false when the power is gone.
    fn step(&mut self, log: &Log, random: &mut Random) -> bool {
        match random.below(8) {
            0 => {
                let vote = Vote {
                    term: self.asked_vote.map_or(1, |vote| vote.term + 1),
                    leader: random.below(3),
                    committed: random.below(2) == 0,
                };
                self.asked_vote = Some(vote);
                let saved = ask(|done| log.save_vote(vote, done)).recv().unwrap().is_ok();
                if saved {
                    self.vote = Some(vote);
                }
                saved
            }
            1 if self.acknowledged > 0 => {
                let upto = random.below(self.acknowledged as u64);
                if Some(upto) <= self.purged {
                    return true;
                }
                self.asked_purged = Some(upto);
                let purged = ask(|done| log.purge(at(upto, 1), done)).recv().unwrap().is_ok();
                if purged {
                    self.purged = Some(upto);
                }
                purged
            }
            2 => {
                log.save_committed(self.asked.last().map(|record| record.position));
                true
            }
            _ => self.append(log, random),
        }
    }

    /// A few appends that may share a sync.
    fn append(&mut self, log: &Log, random: &mut Random) -> bool {
        let mut waiting = Vec::new();
        for _ in 0..=random.below(3) {
            let first = self.asked.len() as u64;
            let records = entries(first..first + 1 + random.below(6), 1);
            self.asked.extend(records.iter().cloned());
            waiting.push((self.asked.len(), ask(|done| log.append(records, done))));
        }
        for (upto, waiting) in waiting {
            if waiting.recv().unwrap().is_err() {
                return false;
            }
            self.acknowledged = upto;
        }
        true
    }
}

#[test]
fn whatever_sync_the_power_goes_at_all_that_was_acknowledged_is_there() {
    for seed in 0..300 {
        let random = &mut Random(seed);
        let mut files = Arc::new(FakeFiles::default());
        let mut promised = Promised::default();
        for _ in 0..4 {
            let log = open(&files).unwrap();
            promised.check(&log, seed);
            // What was found is durable from now on, whatever it was before.
            promised.acknowledged = log.last().map_or(0, |last| last.index as usize + 1);
            promised.asked.truncate(promised.acknowledged);
            promised.vote = log.vote();
            promised.asked_vote = log.vote();
            promised.purged = log.purged().map(|at| at.index);
            promised.asked_purged = promised.purged;

            files.cut_power_after(1 + random.below(40) as u32);
            while promised.step(&log, random) {}
            log.close();
            files = Arc::new(match random.below(4) {
                0 => files.after_kill(),
                _ => files.after_power_cut(random),
            });
        }
    }
}

#[test]
fn damage_to_what_was_acknowledged_is_told_not_cut() {
    let files = Arc::new(FakeFiles::default());
    let log = open(&files).unwrap();
    for index in 0..40 {
        append(&log, entries(index..index + 1, 1)).unwrap();
    }
    log.close();
    let names: Vec<_> = files.list().unwrap();
    let newest = names.iter().rfind(|name| name.ends_with(".log")).unwrap();
    let mut told = 0;
    for name in names.iter().filter(|name| name.ends_with(".log")) {
        for byte in (0..files.read(name).unwrap().len()).step_by(7) {
            let damaged = Arc::new(files.after_kill());
            damaged.flip(name, byte);
            match open(&damaged) {
                Err(LogError::Damaged(what)) => {
                    assert!(what.contains(name.as_str()), "{what}");
                    told += 1;
                }
                Err(other) => panic!("{other}"),
                // Either the byte is between records, or it is the very last record, which nothing witnesses.
                Ok(log) => {
                    let left = all(&log).len();
                    assert!(
                        left == 40 || (left == 39 && name == newest),
                        "{left} after {name}:{byte}"
                    );
                }
            }
        }
    }
    assert!(told > 100, "{told}");
}

#[test]
fn a_disk_that_failed_once_is_not_trusted_again() {
    let files = Arc::new(FakeFiles::default());
    let log = open(&files).unwrap();
    append(&log, entries(0..3, 1)).unwrap();
    files.cut_power_after(1);
    append(&log, entries(3..4, 1)).unwrap_err();
    files.cut_power_after(1000);
    append(&log, entries(4..5, 1)).unwrap_err();
    ask(|done| log.truncate(2, done)).recv().unwrap().unwrap_err();
    log.close();
    append(&log, vec![Record { position: at(5, 1), body: Bytes::new() }]).unwrap_err();
}

#[test]
fn another_version_and_a_missing_segment_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), SMALL, roomy()).unwrap();
    append(&log, entries(0..60, 1)).unwrap();
    log.close();
    let mut names: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let bytes = std::fs::read(&names[1]).unwrap();
    std::fs::remove_file(&names[1]).unwrap();
    let error = Log::open(dir.path(), SMALL, roomy()).err().unwrap().to_string();
    assert!(error.contains("are missing before"), "{error}");
    let mut newer = bytes.clone();
    newer[8] = 2;
    std::fs::write(&names[1], newer).unwrap();
    let error = Log::open(dir.path(), SMALL, roomy()).err().unwrap().to_string();
    assert!(error.contains("version 2"), "{error}");
    std::fs::write(&names[1], bytes).unwrap();
    assert_eq!(all(&Log::open(dir.path(), SMALL, roomy()).unwrap()), entries(0..60, 1));
}

#[test]
fn a_segment_that_was_laid_out_ahead_is_filled_before_and_after_a_restart() {
    let files = Arc::new(FakeFiles::default());
    let log = open(&files).unwrap();
    let newest = |files: &FakeFiles| files.read(&name_of_newest(files)).unwrap();
    let ends_with_zeros = |bytes: &[u8]| bytes.ends_with(&[0; 512]);
    let mut end = 0;
    // The first segment grows; the second was laid out meanwhile.
    while files.list().unwrap().iter().filter(|name| name.ends_with(".log")).count() < 2 {
        append(&log, entries(end..end + 1, 1)).unwrap();
        end += 1;
    }
    assert_eq!(newest(&files).len() as u64, SMALL.segment_bytes);
    assert!(ends_with_zeros(&newest(&files)));
    log.close();

    for _ in 0..3 {
        let log = open(&files).unwrap();
        assert_eq!(newest(&files).len() as u64, SMALL.segment_bytes, "the zeros were cut off");
        assert_eq!(all(&log), entries(0..end, 1));
        append(&log, entries(end..end + 1, 1)).unwrap();
        end += 1;
        log.close();
    }
    // Anything else behind the end is cut off: what is written later must not run into it.
    let torn = Arc::new(files.after_kill());
    torn.flip(&name_of_newest(&torn), SMALL.segment_bytes as usize - 8);
    let log = open(&torn).unwrap();
    assert!((newest(&torn).len() as u64) < SMALL.segment_bytes);
    assert_eq!(all(&log), entries(0..end, 1));
}

fn name_of_newest(files: &FakeFiles) -> String {
    let names = files.list().unwrap();
    names.into_iter().rfind(|name| name.ends_with(".log")).unwrap()
}

/// Long enough for the log's thread to have tried, and for nothing else.
const A_MOMENT: Duration = Duration::from_millis(300);

#[test]
fn a_write_without_room_is_done_again_when_there_is_some() {
    for first in [0, 3, 40] {
        let files = Arc::new(FakeFiles::default());
        let log = open(&files).unwrap();
        append(&log, entries(0..first, 1)).unwrap();
        files.fill_up(true);
        let appended = ask(|done| log.append(entries(first..first + 20, 1), done));
        let vote = Vote { term: 9, leader: 1, committed: false };
        let voted = ask(|done| log.save_vote(vote, done));
        appended.recv_timeout(A_MOMENT).expect_err("it waits");
        files.fill_up(false);
        appended.recv().unwrap().unwrap();
        voted.recv().unwrap().unwrap();
        append(&log, entries(first + 20..first + 25, 1)).unwrap();
        let files = Arc::new(files.after_power_cut(&mut Random(first)));
        let again = open(&files).unwrap();
        assert_eq!(all(&again), entries(0..first + 25, 1));
        assert_eq!(again.vote(), Some(vote));
    }
}

#[test]
fn the_last_of_a_disk_is_not_touched() {
    let files = Arc::new(FakeFiles::default());
    let free = Arc::new(AtomicU64::new(1));
    let measured = Arc::clone(&free);
    let gauge = Gauge::new(move || {
        Ok(Room { total_bytes: 6400, free_bytes: measured.load(Ordering::Relaxed) })
    });
    let spare = Spare::at_once(files.clone(), SMALL.segment_bytes);
    let log = Log::open_files(files.clone(), SMALL, spare, Arc::new(gauge)).unwrap();
    let before = files.syncs();
    let appended = ask(|done| log.append(entries(0..3, 1), done));
    appended.recv_timeout(A_MOMENT).expect_err("it waits");
    assert_eq!(files.syncs(), before);
    free.store(6400, Ordering::Relaxed);
    appended.recv().unwrap().unwrap();
}

#[test]
fn a_log_that_waits_for_room_can_be_closed() {
    let files = Arc::new(FakeFiles::default());
    let log = open(&files).unwrap();
    files.fill_up(true);
    let appended = ask(|done| log.append(entries(0..3, 1), done));
    log.close();
    appended.recv().unwrap().expect_err("it was never written");
}

#[test]
fn formats_of_the_log_are_those_of_their_level() {
    let mut bytes = record::segment_head(7);
    record::write_entry(&mut bytes, &entry(7, 3), 5);
    record::write_committed(&mut bytes, at(7, 3), 6);
    let found = [("a segment with its records".to_owned(), of_bytes(&bytes))];
    check("monitor/raft/log/formats.table", &found);
}
