//! Committing: the one moment in which durable shards become part of files.
//!
//! The answer is per piece. Accepted pieces move from the frozen bytes into the file's map. A commit that is
//! refused as a whole (a server restarted after it acknowledged its shard, say) is placed again under another
//! stripe id; whatever newer data was accepted meanwhile is cut out of it first.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::core::pack::without;
use super::file::{File, FileState, Grant};
use super::flusher::Flusher;
use super::freeze::Frozen;
use super::placer::Placed;
use super::session::Session;
use crate::types::{Errno, Ino, StripePiece, StripeRecord, Timestamp};
use crate::wire::metadata::{Commit, CommitPiece, Op, PieceOutcome, Reply};

/// A stripe whose commit is refused this often is lost.
const REFUSALS_MAX: u32 = 8;

/// A stripe that can be committed.
#[derive(Debug)]
pub(crate) struct Ready {
    /// What was frozen.
    pub(crate) frozen: Arc<Frozen>,
    /// Where it lies.
    pub(crate) placed: Placed,
    /// Its pieces.
    pub(crate) pieces: Vec<StripePiece>,
    /// MD5s of files that are whole in it.
    pub(crate) md5s: BTreeMap<Ino, [u8; 16]>,
}

/// A stripe that has to be placed again.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) Arc<Frozen>);

/// Commits stripes, in this order; gives back those that were refused.
pub(crate) async fn send(
    session: &Arc<Session>,
    flusher: &Flusher,
    batch: Vec<Ready>,
) -> Vec<Refused> {
    let batch = without_lost(session, flusher, batch);
    if batch.is_empty() {
        return Vec::new();
    }
    let commits: Vec<Commit> = batch.iter().map(announce).collect();
    let ops = commits.iter().cloned().map(Op::Commit).collect();
    let asker = session.id();
    let replies = session.mutate_all(ops).await;
    let session_lost = session.id() != asker;
    // First the refused ones: as long as newer data is frozen over them, nobody sees them change.
    let mut fates: Vec<Fate> = Vec::with_capacity(batch.len());
    let mut newer: Vec<(Ino, Range<u64>)> = Vec::new();
    for ((ready, commit), reply) in batch.iter().zip(&commits).zip(replies).rev() {
        fates.push(match reply {
            Ok(Reply::Committed(outcomes)) if outcomes.len() == commit.pieces.len() => {
                newer.extend(ready.pieces.iter().map(range));
                Fate::Accepted(outcomes)
            }
            Ok(_) => Fate::Lost(Errno::Io),
            // The monitors have no room for it: no other stripe would be taken either.
            Err(Errno::NoSpace) => Fate::Lost(Errno::NoSpace),
            Err(_) if session_lost => Fate::Stranded,
            Err(errno) => retract(session, ready, &newer, errno),
        });
    }
    let mut refused = Vec::new();
    for ((ready, commit), fate) in batch.iter().zip(&commits).zip(fates.into_iter().rev()) {
        session.stripe_done(ready.placed.record.id);
        match fate {
            Fate::Accepted(outcomes) => {
                accept(flusher, ready, commit, &outcomes);
                let record = &ready.placed.record;
                let raw = u64::from(record.width.shard_bytes(record.length));
                session.spend_credit(raw * record.width.total() as u64);
                flusher.spent(ready.frozen.volume, accepted(commit, &outcomes));
                flusher.frozen_done(&ready.frozen);
            }
            Fate::Again => refused.push(Refused(Arc::clone(&ready.frozen))),
            Fate::Overwritten => {
                forget_frozen(flusher, ready);
                flusher.frozen_done(&ready.frozen);
            }
            Fate::Stranded => {
                ready.frozen.strand(flusher);
                flusher.frozen_done(&ready.frozen);
            }
            Fate::Lost(errno) => {
                let id = ready.placed.record.id;
                log::error!("the commit of stripe {id} failed: {errno}");
                let told = if errno == Errno::NoSpace { errno } else { Errno::Io };
                ready.frozen.lose(told, session);
                flusher.frozen_done(&ready.frozen);
            }
        }
    }
    if !refused.is_empty() {
        // The placement map may be what was out of date.
        session.renew().await;
    }
    refused
}

/// Leaves out what was lost with an earlier session: under this one's grants it could overwrite what others have
/// written since.
fn without_lost(session: &Session, flusher: &Flusher, batch: Vec<Ready>) -> Vec<Ready> {
    let is_alive = |ready: &mut Ready| {
        let seq = ready.frozen.seq;
        let files = &ready.frozen.files;
        let lost = |piece: &StripePiece| {
            files.get(&piece.ino).is_none_or(|file| {
                let state = file.state.lock();
                state.frozen.iter().all(|part| part.seq != seq)
            })
        };
        ready.pieces.retain(|piece| !lost(piece));
        if ready.pieces.is_empty() {
            session.stripe_done(ready.placed.record.id);
            flusher.frozen_done(&ready.frozen);
        }
        !ready.pieces.is_empty()
    };
    let mut batch = batch;
    batch.retain_mut(is_alive);
    batch
}

/// The commit as it is sent; from here on its files may not be what they were.
fn announce(ready: &Ready) -> Commit {
    let mut last: BTreeMap<Ino, usize> = BTreeMap::new();
    for (at, piece) in ready.pieces.iter().enumerate() {
        last.insert(piece.ino, at);
    }
    let mut files: BTreeMap<Ino, (Option<Timestamp>, bool)> = BTreeMap::new();
    for (ino, file) in &ready.frozen.files {
        let mut state = file.state.lock();
        let Some(at) = state.frozen.iter().position(|part| part.seq == ready.frozen.seq) else {
            continue;
        };
        state.frozen[at].sent = true;
        // With two stripes of it on their way, the first could be refused and the second release.
        let is_only = state.frozen.len() == 1 && state.buffer.is_empty();
        let wanted = state.may_let_go() && last.contains_key(ino);
        let release = state.grant == Grant::Held && state.users == 0 && is_only && wanted;
        if release {
            state.grant = Grant::Releasing;
        }
        files.insert(*ino, (state.frozen[at].mtime, release));
    }
    let piece = |(at, piece): (usize, &StripePiece)| {
        let (mtime, release) = files.get(&piece.ino).copied().unwrap_or_default();
        let is_last = last.get(&piece.ino) == Some(&at);
        let md5 = ready.md5s.get(&piece.ino).copied().filter(|_| is_last);
        CommitPiece { piece: *piece, mtime, md5, release: release && is_last }
    };
    Commit {
        stripe: StripeRecord::clone(&ready.placed.record),
        epochs: ready.placed.epochs.clone(),
        pieces: ready.pieces.iter().enumerate().map(piece).collect(),
    }
}

/// The commit was done; here is what became of each piece.
fn accept(flusher: &Flusher, ready: &Ready, commit: &Commit, outcomes: &[PieceOutcome]) {
    let mut at = 0;
    while at < outcomes.len() {
        let ino = commit.pieces[at].piece.ino;
        let same = commit.pieces[at..].iter().take_while(|piece| piece.piece.ino == ino).count();
        let (pieces, results) = (&commit.pieces[at..at + same], &outcomes[at..at + same]);
        if let Some(file) = ready.frozen.files.get(&ino) {
            let mut state = file.state.lock();
            for (piece, outcome) in pieces.iter().zip(results) {
                settle(flusher, file, &mut state, piece, &ready.placed.record, *outcome);
            }
            // In the same moment in which the map has it.
            state.frozen.retain(|part| part.seq != ready.frozen.seq);
        }
        at += same;
    }
    forget_frozen(flusher, ready);
}

/// Bytes that were accepted.
fn accepted(commit: &Commit, outcomes: &[PieceOutcome]) -> u64 {
    let pieces = commit.pieces.iter().zip(outcomes);
    let accepted = pieces.filter(|(_, outcome)| matches!(outcome, PieceOutcome::Accepted { .. }));
    accepted.map(|(piece, _)| u64::from(piece.piece.length)).sum()
}

/// The bytes are committed, or need not be.
fn forget_frozen(flusher: &Flusher, ready: &Ready) {
    for file in ready.frozen.files.values() {
        let mut state = file.state.lock();
        state.frozen.retain(|part| part.seq != ready.frozen.seq);
        if state.may_release() {
            flusher.release_later(file);
        }
        drop(state);
        file.changed.notify_waiters();
    }
}

fn settle(
    flusher: &Flusher,
    file: &Arc<File>,
    state: &mut FileState,
    piece: &CommitPiece,
    record: &Arc<StripeRecord>,
    outcome: PieceOutcome,
) {
    match outcome {
        PieceOutcome::Accepted { dv, .. } => {
            state.map.commit(&piece.piece, record);
            state.map.advance(dv);
            if let Some(stranded) = &mut state.stranded {
                stranded.committed(dv);
            }
            if let Some(base) = &mut state.base {
                base.dv = dv;
                base.md5 = piece.md5;
                state.grown += u64::from(piece.piece.length);
                base.size = base.size.max(range(&piece.piece).1.end);
                if let Some(mtime) = piece.mtime {
                    base.mtime = mtime;
                    base.ctime = base.ctime.max(mtime);
                }
            }
            if piece.release {
                state.ungranted();
            }
        }
        PieceOutcome::GrantRevoked => {
            log::error!("inode {}: written data is lost, its grant was revoked", file.ino);
            state.fail(Errno::Io);
            flusher.discard(file, state);
            if state.grant != Grant::Acquiring {
                state.ungranted();
            }
        }
        PieceOutcome::FileGone => {
            state.gone = true;
            flusher.discard(file, state);
            state.ungranted();
        }
        PieceOutcome::OverQuota => {
            log::error!("inode {}: written data is lost, the quota is used up", file.ino);
            state.fail(Errno::OverQuota);
            if state.grant == Grant::Releasing {
                state.grant = Grant::Held;
            }
        }
    }
}

/// What becomes of a stripe whose commit was answered.
enum Fate {
    /// It exists, and this became of each piece.
    Accepted(Vec<PieceOutcome>),
    /// It was refused, and is to be placed again.
    Again,
    /// It was refused, and newer data lies over all of it.
    Overwritten,
    /// It will never exist, and its session does not any more.
    Stranded,
    /// It will never exist.
    Lost(Errno),
}

/// The commit was refused: everything is as before it was sent, except that `newer` data was committed, which is
/// cut out of it.
fn retract(session: &Session, ready: &Ready, newer: &[(Ino, Range<u64>)], errno: Errno) -> Fate {
    let left = without(&ready.pieces, newer);
    if left.is_empty() {
        return Fate::Overwritten;
    }
    if ready.frozen.refusals.fetch_add(1, Ordering::Relaxed) >= REFUSALS_MAX {
        return Fate::Lost(errno);
    }
    let id = ready.placed.record.id;
    log::warn!("the commit of stripe {id} was refused ({errno}): it is written again");
    for file in ready.frozen.files.values() {
        let mut state = file.state.lock();
        if let Some(part) = state.frozen.iter_mut().find(|part| part.seq == ready.frozen.seq) {
            part.sent = false;
            let ours: Vec<StripePiece> =
                left.iter().filter(|piece| piece.ino == file.ino).copied().collect();
            part.keep(&ours);
        }
        state.not_released(session.id());
        drop(state);
        file.changed.notify_waiters();
    }
    ready.frozen.keep_pieces(left);
    Fate::Again
}

fn range(piece: &StripePiece) -> (Ino, Range<u64>) {
    (piece.ino, piece.file_offset..piece.file_offset + u64::from(piece.length))
}
