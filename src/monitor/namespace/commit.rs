//! The commit: a stripe is born, and the maps of its files switch from old to new.
//!
//! Before it the shards are already durable on their servers, but nobody knows them. The commit proves that
//! they may be trusted (DESIGN §4.3): the stripe's id is fresh and the session's own, every shard was
//! acknowledged at the current epoch of its server, and no two share a failure domain. If one of these is not
//! so, the whole commit is [`Errno::Stale`]: the client writes the data again under another id. Then each
//! piece is judged by itself, because a stripe carries pieces of many files (of one volume): whether the file is
//! still there, the session still holds its exclusive grant, and the volume has room for it. A stripe of which no piece is accepted dies at once.

use super::content::changed;
use super::extents::{Surgery, clip, overlapping};
use super::fail::Fail;
use super::inodes::At;
use super::keys;
use super::quota;
use super::records::{Inode, Server};
use super::stripes;
use super::txn::{Txn, exists, get};
use crate::monitor::store::Read;
use crate::types::{Errno, Extent, FileKind, SessionId, StripeId, StripePiece, VolumeId, limits};
use crate::wire::metadata::{Commit, CommitPiece, PieceOutcome, Reply};

const BLOCK: u32 = limits::BLOCK;

/// Commits a stripe.
pub(super) fn commit(
    txn: &mut Txn<'_>,
    at: At,
    session: SessionId,
    commit: &Commit,
) -> Result<Reply, Fail> {
    check_shape(commit)?;
    check_fresh(txn, session, commit.stripe.id)?;
    check_servers(txn, commit)?;
    let volume = volume_of(txn, commit)?;
    let writer = Writer { session, volume, limit: quota::limit(txn, at, volume)? };

    let mut surgery = Surgery::new(txn, at);
    stripes::bear(surgery.txn, at, &commit.stripe, volume)?;
    surgery.references().watch(commit.stripe.id);
    let outcomes = commit
        .pieces
        .iter()
        .map(|piece| commit_piece(&mut surgery, &writer, commit.stripe.id, piece))
        .collect::<Result<_, _>>()?;
    surgery.finish()?;
    Ok(Reply::Committed(outcomes))
}

/// Refuses what makes no sense whatever the state is. All pieces together are no longer than a stripe: so is
/// what they can cut out of maps.
fn check_shape(commit: &Commit) -> Result<(), Errno> {
    let stripe = &commit.stripe;
    let total = stripe.width.total();
    let pieces = (1..=limits::STRIPE_PIECES_MAX).contains(&commit.pieces.len());
    let length = (1..=limits::STRIPE_BYTES_MAX).contains(&stripe.length);
    let shards = stripe.shards.len() == total && commit.epochs.len() == total;
    if !pieces || !length || !shards || !stripe.width.is_valid() {
        return Err(Errno::Invalid);
    }
    let mut bytes = 0u64;
    for CommitPiece { piece, .. } in &commit.pieces {
        let aligned = piece.file_offset % u64::from(BLOCK) == 0 && piece.stripe_offset % BLOCK == 0;
        let end = piece.stripe_offset.checked_add(piece.length);
        let inside = piece.length > 0 && end.is_some_and(|end| end <= stripe.length);
        if !aligned || !inside {
            return Err(Errno::Invalid);
        }
        let file_end = piece.file_offset.checked_add(u64::from(piece.length));
        if file_end.is_none_or(|end| end > limits::FILE_BYTES_MAX) {
            return Err(Errno::FileTooBig);
        }
        bytes += u64::from(piece.length);
    }
    if bytes > u64::from(limits::STRIPE_BYTES_MAX) {
        return Err(Errno::Invalid);
    }
    Ok(())
}

/// The id comes from an open range of the session and was never committed.
fn check_fresh(read: &dyn Read, session: SessionId, id: StripeId) -> Result<(), Fail> {
    let range = stripes::open_range(read, id)?;
    let is_own = range.is_some_and(|range| range.session == session);
    if !is_own || exists(read, &keys::stripe(id))? {
        return Err(Errno::Stale.into());
    }
    Ok(())
}

/// Every shard was acknowledged at its server's current epoch, and no two lie in one failure domain.
fn check_servers(read: &dyn Read, commit: &Commit) -> Result<(), Fail> {
    let mut domains: Vec<String> = Vec::with_capacity(commit.epochs.len());
    for (place, epoch) in commit.stripe.shards.iter().zip(&commit.epochs) {
        let server: Option<Server> = get(read, &keys::server(place.server))?;
        match server.filter(|server| server.epoch == *epoch) {
            Some(server) if !domains.contains(&server.info.domain) => {
                domains.push(server.info.domain);
            }
            _ => return Err(Errno::Stale.into()),
        }
    }
    Ok(())
}

/// The volume of the stripe's files, which lie in one.
fn volume_of(read: &dyn Read, commit: &Commit) -> Result<VolumeId, Fail> {
    let mut volume = None;
    for CommitPiece { piece, .. } in &commit.pieces {
        if let Some(inode) = get(read, &keys::inode(piece.ino))?
            && *volume.get_or_insert(inode.volume) != inode.volume
        {
            return Err(Errno::Invalid.into());
        }
    }
    Ok(volume.unwrap_or(VolumeId::ROOT))
}

/// Who commits to which volume, and how much that may hold, if there is a limit.
struct Writer {
    session: SessionId,
    volume: VolumeId,
    limit: Option<u64>,
}

fn commit_piece(
    surgery: &mut Surgery<'_, '_>,
    writer: &Writer,
    stripe: StripeId,
    commit: &CommitPiece,
) -> Result<PieceOutcome, Fail> {
    let ino = commit.piece.ino;
    let Some(mut inode) = open_file(surgery.txn, commit)? else {
        return Ok(PieceOutcome::FileGone);
    };
    let grant = get(surgery.txn, &keys::grant(ino))?;
    if grant.is_none_or(|grant| grant.session != writer.session) {
        return Ok(PieceOutcome::GrantRevoked);
    }
    if !charge(surgery, writer, &commit.piece)? {
        return Ok(PieceOutcome::OverQuota);
    }
    switch(surgery, &mut inode, stripe, commit)?;
    inode.md5 = commit.md5;
    surgery.txn.put(&keys::inode(ino), &inode);
    if commit.release {
        surgery.txn.delete(&keys::grant(ino));
    }
    Ok(PieceOutcome::Accepted { dv: inode.dv, birth: surgery.at.op })
}

fn open_file(read: &dyn Read, commit: &CommitPiece) -> Result<Option<Inode>, Fail> {
    let inode = get(read, &keys::inode(commit.piece.ino))?;
    Ok(inode.filter(|inode| inode.kind == FileKind::Regular && !inode.is_doomed()))
}

/// Whether the volume has room for what a piece adds to it; takes that out of what its writer has reserved.
fn charge(
    surgery: &mut Surgery<'_, '_>,
    writer: &Writer,
    piece: &StripePiece,
) -> Result<bool, Fail> {
    let Some(most) = writer.limit else { return Ok(true) };
    let from = piece.file_offset;
    let end = (from + u64::from(piece.length)).next_multiple_of(u64::from(BLOCK));
    let mut replaced = 0;
    for extent in overlapping(surgery.txn, piece.ino, from, end)? {
        replaced += clip(&extent?, from, end).map_or(0, |part| u64::from(part.length));
    }
    let growth = u64::from(piece.length).saturating_sub(replaced);
    let place = (writer.session, writer.volume);
    Ok(quota::charge(surgery.txn, surgery.at, place, most, growth)?)
}

/// The map switches to the new bytes. A piece with a ragged end ends where the file did when it was written:
/// nothing but zeros can follow it in its last block, so that the cut takes all of the block and what
/// remains behind it begins on one.
fn switch(
    surgery: &mut Surgery<'_, '_>,
    inode: &mut Inode,
    stripe: StripeId,
    commit: &CommitPiece,
) -> Result<(), Fail> {
    let piece = &commit.piece;
    let extent = Extent {
        offset: piece.file_offset,
        length: piece.length,
        stripe,
        stripe_offset: piece.stripe_offset,
        birth: surgery.at.op,
    };
    let end = extent.end().next_multiple_of(u64::from(BLOCK));
    surgery.cut(piece.ino, inode, extent.offset, end, None)?;
    surgery.insert(piece.ino, inode, extent)?;
    inode.size = inode.size.max(extent.end());
    changed(inode, surgery.at, commit.mtime);
    Ok(())
}
