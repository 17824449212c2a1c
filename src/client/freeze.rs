//! Freezing: dirty runs become the payload of a stripe and never change again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use md5::{Digest, Md5};
use parking_lot::Mutex;

use super::core::commits::FreezeSeq;
use super::core::pack::Packing;
use super::core::pool::Pool;
use super::file::{File, FileState, FrozenPart};
use super::flusher::Flusher;
use super::session::Session;
use crate::types::{Errno, Ino, StripePiece, VolumeId};

/// Files up to this size get their MD5 on the way.
const MD5_BYTES_MAX: u64 = 1 << 20;

/// Which runs are to be frozen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Which {
    /// One that is a whole stripe.
    Full,
    /// All of files that somebody waits for.
    Urgent,
    /// Small ones, as many as a stripe takes.
    Small,
    /// All of files that have dirty data from that time or before.
    Older(Duration),
    /// All.
    All,
}

/// A frozen stripe.
#[derive(Debug)]
pub(crate) struct Frozen {
    /// Its place in the order of freezing.
    pub(crate) seq: FreezeSeq,
    /// Bytes of user data in it.
    pub(crate) bytes: u64,
    /// The volume of its files.
    pub(crate) volume: VolumeId,
    /// The payload.
    pub(crate) payload: Bytes,
    /// Whether somebody waits for it.
    pub(crate) urgent: bool,
    /// Files it has pieces of.
    pub(crate) files: BTreeMap<Ino, Arc<File>>,
    /// How often its commit was refused.
    pub(crate) refusals: AtomicU32,
    pieces: Mutex<Vec<StripePiece>>,
    /// Files that are in it whole, and nowhere else.
    whole: Vec<(Ino, Bytes)>,
}

impl Frozen {
    /// The pieces that are to be committed.
    pub(crate) fn pieces(&self) -> Vec<StripePiece> {
        self.pieces.lock().clone()
    }

    /// Only these pieces are to be committed after all, perhaps after newer ones.
    pub(crate) fn keep_pieces(&self, pieces: Vec<StripePiece>) {
        *self.pieces.lock() = pieces;
    }

    /// MD5s of the files that are in it whole. Computed aside, since MD5 is slow.
    pub(crate) async fn md5s(&self) -> BTreeMap<Ino, [u8; 16]> {
        let was_refused = self.refusals.load(Ordering::Relaxed) > 0;
        if self.whole.is_empty() || was_refused {
            // (After a refusal, it may not be the last thing that is written to a file.)
            return BTreeMap::new();
        }
        let whole = self.whole.clone();
        let digest = |(ino, bytes): (Ino, Bytes)| (ino, Md5::digest(&bytes).into());
        let digests = tokio::task::spawn_blocking(move || whole.into_iter().map(digest).collect());
        digests.await.unwrap_or_default()
    }

    /// It will never be committed: its files are told.
    pub(crate) fn lose(&self, errno: Errno, session: &Session) {
        let count = self.files.len();
        log::error!("{} written bytes of {count} files are lost: {errno}", self.bytes);
        for file in self.files.values() {
            let mut state = file.state.lock();
            let before = state.frozen.len();
            state.frozen.retain(|part| part.seq != self.seq);
            if state.frozen.len() == before {
                // It was lost with the session already.
                continue;
            }
            state.not_released(session.id());
            state.fail(errno);
            drop(state);
            file.changed.notify_waiters();
        }
    }
}

impl Frozen {
    /// Its commit was not done, and its session is lost: its files keep what is in it until they are held again.
    pub(crate) fn strand(&self, flusher: &Flusher) {
        for file in self.files.values() {
            let mut state = file.state.lock();
            let Some(at) = state.frozen.iter().position(|part| part.seq == self.seq) else {
                continue;
            };
            if state.stranded.is_none() {
                // Nobody has told it yet.
                flusher.strand(file, &mut state);
            }
            let part = state.frozen.remove(at);
            state.not_released(flusher.session.id());
            if let Some(stranded) = &mut state.stranded {
                stranded.add(part.seq, part.pieces);
            }
            drop(state);
            file.changed.notify_waiters();
        }
    }
}

/// Gathers runs for one stripe.
pub(crate) struct Collector<'a> {
    seq: FreezeSeq,
    which: Which,
    pool: &'a Arc<Pool>,
    packing: Packing,
    /// The runs, each with its place in the payload.
    runs: Vec<(u32, Bytes)>,
    files: BTreeMap<Ino, Arc<File>>,
    whole: Vec<(Ino, Bytes)>,
    volume: Option<VolumeId>,
    done: bool,
}

impl<'a> Collector<'a> {
    /// Nothing gathered yet.
    pub(crate) fn new(seq: FreezeSeq, which: Which, pool: &'a Arc<Pool>) -> Self {
        Self {
            seq,
            which,
            pool,
            packing: Packing::default(),
            runs: Vec::new(),
            files: BTreeMap::new(),
            whole: Vec::new(),
            volume: None,
            done: false,
        }
    }

    /// Whether the stripe takes no more, or no file behind the last one is wanted.
    pub(crate) fn is_done(&self) -> bool {
        self.done || self.packing.room() == 0
    }

    /// Takes what is wanted of a file and fits. From here on its readers see the frozen bytes.
    pub(crate) fn add(&mut self, file: &Arc<File>, state: &mut FileState) {
        if let Which::Older(cutoff) = self.which
            && state.buffer.oldest().is_some_and(|oldest| oldest > cutoff)
        {
            self.done = true;
            return;
        }
        let volume = state.volume();
        if self.volume.is_some_and(|other| other != volume) {
            // A stripe belongs to one volume.
            self.done = true;
            return;
        }
        let is_fresh = state.map.is_hole() && state.frozen.is_empty();
        let born = state.buffer.oldest().unwrap_or_default();
        let pieces = self.take_runs(file.ino, state);
        if pieces.is_empty() {
            return;
        }
        self.volume = Some(volume);
        self.files.insert(file.ino, Arc::clone(file));
        if let [(0, content)] = &pieces[..]
            && is_fresh
            && content.len() as u64 == state.size
            && state.size <= MD5_BYTES_MAX
        {
            self.whole.push((file.ino, content.clone()));
        }
        let mtime = state.mtime;
        state.frozen.push(FrozenPart { seq: self.seq, born, pieces, mtime, sent: false });
    }

    /// The stripe, if anything was gathered.
    pub(crate) fn finish(self, urgent: bool) -> Option<Frozen> {
        let bytes = self.runs.iter().map(|(_, run)| run.len() as u64).sum();
        let payload = match &self.runs[..] {
            [] => return None,
            [(_, run)] => run.clone(),
            runs => pack(runs, self.pool),
        };
        Some(Frozen {
            seq: self.seq,
            bytes,
            volume: self.volume?,
            payload,
            urgent,
            files: self.files,
            refusals: AtomicU32::new(0),
            pieces: Mutex::new(self.packing.into_pieces()),
            whole: self.whole,
        })
    }

    fn take_runs(&mut self, ino: Ino, state: &mut FileState) -> Vec<(u64, Bytes)> {
        let mut pieces = Vec::new();
        loop {
            let room = u64::from(self.packing.room());
            let taken = match self.which {
                Which::Full if pieces.is_empty() => state.buffer.take_full(),
                Which::Full => None,
                Which::Small => state.buffer.take_first(room, true),
                Which::Urgent | Which::Older(_) | Which::All => {
                    state.buffer.take_first(room, false)
                }
            };
            let Some((offset, run)) = taken else { break };
            let length = u32::try_from(run.data.len()).expect("a run is at most a stripe");
            let at = self.packing.add(ino, offset, length);
            let bytes = Bytes::from_owner(run.data);
            self.runs.push((at, bytes.clone()));
            pieces.push((offset, bytes));
        }
        // What is left does not fit, except that large runs are not wanted among the small.
        let left = state.buffer.weight();
        self.done |= match self.which {
            Which::Full => true,
            Which::Small => left.small > 0,
            Which::Urgent | Which::Older(_) | Which::All => left.bytes > 0,
        };
        pieces
    }
}

fn pack(runs: &[(u32, Bytes)], pool: &Arc<Pool>) -> Bytes {
    let mut payload = pool.whole();
    for (at, run) in runs {
        payload.pad_to(usize::try_from(*at).expect("an offset fits"));
        payload.append(run, pool);
    }
    Bytes::from_owner(payload)
}
