//! From a command to the changes it makes.

use super::command::{Action, Applied, Command, Outcome, Removal};
use super::content::{self, Step};
use super::fail::{Fail, answered};
use super::inodes::At;
use super::keys::{self, IdKind};
use super::records::{Cluster, Counter, Inode, SlotReply, Volume};
use super::txn::{Remembered, Txn, exists, get};
use super::{
    attrs, caps, commit, level, locks, monitors, orphans, quota, rename, servers, sessions,
    stripes, tree, trust, usage, volumes,
};
use crate::monitor::store::{Read, StoreError};
use crate::types::{
    DataVersion, Errno, FileKind, Incarnation, Ino, OpSeq, SessionId, Slot, SlotSeq, VolumeId,
    VolumePolicy, limits,
};
use crate::wire::metadata::{Mutation, Op, Reply};

/// Counters of incarnation i begin at i · 2^44, so that no id returns after a disaster.
const INCARNATION_SHIFT: u32 = 44;

/// Applies a command to a state.
///
/// It reads no clock and draws no random number: on equal states the same command gives the same changes.
/// Every action takes an [`OpSeq`] of its own. An action that is refused changes nothing, except that its
/// answer is kept in its slot.
///
/// # Errors
///
/// When the store fails, or holds something that is not a record of this version, or of a newer level than this
/// program knows: this monitor cannot go on.
pub fn apply(read: &dyn Read, command: &Command) -> Result<Applied, StoreError> {
    let read = Remembered::new(read);
    let mut batch = Txn::new(&read);
    level::check_known(&batch)?;
    let mut op = get(&batch, &keys::op_seq())?.map_or(OpSeq(0), |counter| OpSeq(counter.value));
    let mut outcomes = Vec::with_capacity(command.actions.len());
    for action in &command.actions {
        op = next_op(&batch, op, action)?;
        let at = At { op, time: command.time };
        outcomes.push(perform(&mut batch, at, action)?);
    }
    batch.put(&keys::op_seq(), &Counter { value: op.0 });
    Ok(Applied { outcomes, batch: batch.into_changes() })
}

fn next_op(read: &dyn Read, op: OpSeq, action: &Action) -> Result<OpSeq, StoreError> {
    match action {
        Action::Bootstrap { incarnation, .. } if !exists(read, &keys::cluster())? => {
            Ok(op.next().max(OpSeq(first_id(*incarnation))))
        }
        _ => Ok(op.next()),
    }
}

fn first_id(incarnation: Incarnation) -> u64 {
    u64::from(incarnation.0) << INCARNATION_SHIFT
}

/// One action, on top of what those before it in the batch did.
fn perform(txn: &mut Txn<'_>, at: At, action: &Action) -> Result<Outcome, StoreError> {
    match action {
        Action::Bootstrap { cluster, incarnation, width, min_copies } => {
            let (id, incarnation) = (*cluster, *incarnation);
            let policy = VolumePolicy { min_copies: *min_copies, ..VolumePolicy::of_width(*width) };
            let volume = Volume { policy, limited: at.time, birth: at.op };
            bootstrap(txn, at, &Cluster { id, incarnation }, &volume)?;
        }
        Action::AddMonitor { name, profile } => return monitors::add(txn, at, name, profile),
        Action::IntroduceMonitor { id, name, profile } => {
            return monitors::introduce(txn, at, *id, name, profile);
        }
        Action::RemoveMonitor { name, once_replaced } => {
            return monitors::remove(txn, at, name, *once_replaced);
        }
        Action::MonitorLeft { id } => return monitors::left(txn, at, *id),
        Action::RaiseFeatureLevel(level) => return level::raise(txn, *level),
        Action::Mutate { session, mutation, removes, moves } => {
            return mutate(txn, at, *session, mutation, (removes.as_ref(), moves));
        }
        Action::OpenSession { owner, client, nonce } => {
            return sessions::open(txn, at, owner, client, *nonce);
        }
        Action::CloseSession { session, evicted } => {
            return sessions::close(txn, at, *session, *evicted);
        }
        Action::ForgetSession { session } => return sessions::forget(txn, *session),
        Action::Unpin { session, ino } => orphans::unpin(txn, at, *session, *ino)?,
        Action::Free { ino } => {
            if !orphans::free(txn, at, *ino)? {
                return Ok(Outcome::Partly);
            }
        }
        Action::RegisterServer { name, register, key } => {
            return servers::register(txn, at, name, register, *key);
        }
        Action::Refuse { session, slot, seq, errno } => {
            return refuse(txn, at, *session, (*slot, *seq), *errno);
        }
        Action::CreateVolume { directory, changes } => {
            return volumes::create(txn, at, *directory, changes);
        }
        Action::SetVolume { directory, changes } => {
            return volumes::set(txn, at, *directory, changes);
        }
        Action::Trust(action) => return trust::apply(txn, at, action),
        Action::Reaped { server, shards } => stripes::reaped(txn, at, *server, shards)?,
    }
    Ok(Outcome::Done)
}

/// Makes the root directory, its volume and the counters; the second time it does nothing.
fn bootstrap(
    txn: &mut Txn<'_>,
    at: At,
    cluster: &Cluster,
    volume: &Volume,
) -> Result<(), StoreError> {
    if exists(txn, &keys::cluster())? {
        return Ok(());
    }
    txn.put(&keys::cluster(), cluster);
    for kind in [IdKind::Inodes, IdKind::Stripes] {
        let value = first_id(cluster.incarnation).max(kind.range());
        txn.put(&keys::next_id(kind), &Counter { value });
    }
    txn.put(&keys::volume(VolumeId::ROOT), volume);
    txn.put(&keys::inode(Ino::ROOT), &root(at));
    usage::change(txn, VolumeId::ROOT, |usage| usage.inodes += 1)
}

fn root(at: At) -> Inode {
    Inode {
        kind: FileKind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        size: 0,
        stored: 0,
        nlink: 2,
        rdev: 0,
        atime: at.time,
        mtime: at.time,
        ctime: at.time,
        crtime: at.time,
        dv: DataVersion(0),
        birth: at.op,
        volume: VolumeId::ROOT,
        md5: None,
        parent: Ino::ROOT,
        name: Vec::new(),
        target: Vec::new(),
        xattr_names: 0,
        pins: 0,
    }
}

/// A client's change, exactly once.
fn mutate(
    batch: &mut Txn<'_>,
    at: At,
    session: SessionId,
    mutation: &Mutation,
    (removes, moves): (Option<&Removal>, &[Ino]),
) -> Result<Outcome, StoreError> {
    if get(batch, &keys::session(session))?.is_none_or(|session| session.closing.is_some()) {
        return Ok(Outcome::NoSession);
    }
    if let Turn::Not(reply) = turn(batch, session, (mutation.slot, mutation.seq))? {
        return Ok(Outcome::Mutated(reply));
    }
    let held = caps::held_from(batch, session, &mutation.op)?;
    let removed = caps::removed_by_op(batch, &mutation.op)?;
    let names_are_as_found = removed == removes.map(|removal| removal.ino)
        && caps::moved_by_op(batch, &mutation.op)? == moves;
    if !held.is_empty() || !names_are_as_found {
        return Ok(Outcome::Held(held));
    }
    let pinned_by = removes.map_or(&[][..], |removal| &removal.pinned_by);

    let mut txn = Txn::new(batch);
    let step = operate(&mut txn, at, session, &mutation.op, pinned_by);
    let changes = txn.into_changes();
    let reply = match answered(step)? {
        Ok(step) => {
            batch.absorb(changes);
            match step {
                Step::Done(reply) => Ok(reply),
                Step::Partly => return Ok(Outcome::Partly),
            }
        }
        Err(errno) => Err(errno),
    };
    let record = SlotReply { seq: mutation.seq, reply: reply.clone(), birth: at.op };
    batch.put(&keys::slot(session, mutation.slot), &record);
    Ok(Outcome::Mutated(reply))
}

/// A client's change that is not done. Sent again it gets the same answer, as if it had been tried.
fn refuse(
    txn: &mut Txn<'_>,
    at: At,
    session: SessionId,
    (slot, seq): (Slot, SlotSeq),
    errno: Errno,
) -> Result<Outcome, StoreError> {
    if get(txn, &keys::session(session))?.is_none_or(|session| session.closing.is_some()) {
        return Ok(Outcome::NoSession);
    }
    if let Turn::Not(reply) = turn(txn, session, (slot, seq))? {
        return Ok(Outcome::Mutated(reply));
    }
    let record = SlotReply { seq, reply: Err(errno), birth: at.op };
    txn.put(&keys::slot(session, slot), &record);
    Ok(Outcome::Mutated(Err(errno)))
}

/// Whether an operation is its slot's next one.
enum Turn {
    Next,
    /// It is not to be done; this is its answer.
    Not(Result<Reply, Errno>),
}

/// The slot's last operation again gets its answer again; any other but the next has lost its turn.
fn turn(
    read: &dyn Read,
    session: SessionId,
    (slot, seq): (Slot, SlotSeq),
) -> Result<Turn, StoreError> {
    if slot.0 >= limits::SESSION_SLOTS {
        return Ok(Turn::Not(Err(Errno::Invalid)));
    }
    let last = get(read, &keys::slot(session, slot))?;
    let done = last.as_ref().map_or(SlotSeq(0), |last| last.seq);
    Ok(match last {
        Some(last) if seq == done => Turn::Not(last.reply),
        _ if seq.0.checked_sub(1) == Some(done.0) => Turn::Next,
        _ => Turn::Not(Err(Errno::Stale)),
    })
}

/// A client's change, nobody else holding what it touches.
fn operate(
    txn: &mut Txn<'_>,
    at: At,
    session: SessionId,
    op: &Op,
    pinned_by: &[SessionId],
) -> Result<Step, Fail> {
    let keepers = tree::Keepers { pinned_by, author: session };
    let reply = match op {
        Op::Create(create) => tree::create(txn, at, session, create)?,
        Op::TmpFile(file) => tree::create_nameless(txn, at, session, file)?,
        Op::Link { ino, parent, name } => tree::link(txn, at, session, *ino, (*parent, name))?,
        Op::Unlink { parent, name } => tree::unlink(txn, at, *parent, name, keepers)?,
        Op::Rmdir { parent, name } => tree::rmdir(txn, at, *parent, name, keepers)?,
        Op::Rename(rename) => rename::rename(txn, at, rename, keepers)?,
        Op::SetAttr { ino, changes } => attrs::set(txn, at, *ino, changes)?,
        Op::Truncate { ino, size, mtime } => {
            return content::truncate(txn, at, session, *ino, (*size, *mtime));
        }
        Op::Punch { ino, offset, length, mtime } => {
            return content::punch(txn, at, session, *ino, (*offset, *length, *mtime));
        }
        Op::Clone(range) => content::clone(txn, at, session, range)?,
        Op::Accessed { ino, time } => attrs::accessed(txn, at, *ino, *time)?,
        Op::SetXattr { ino, name, value, mode, takes_setgid } => {
            attrs::set_xattr(txn, at, *ino, (name, value), (*mode, *takes_setgid))?
        }
        Op::RemoveXattr { ino, name } => attrs::remove_xattr(txn, at, *ino, name)?,
        Op::Commit(commit) => commit::commit(txn, at, session, commit)?,
        Op::Acquire { ino } => content::acquire(txn, at, session, *ino)?,
        Op::Release { ino } => content::release(txn, session, *ino)?,
        Op::SetMd5 { ino, dv, md5 } => content::set_md5(txn, at, *ino, *dv, *md5)?,
        Op::Reserve(wanted) => quota::reserve(txn, at, session, wanted)?,
        Op::Lock(lock) => locks::set(txn, at, session, &lock.request)?,
        Op::LeaseInodes => sessions::lease_inodes(txn, at, session)?,
        Op::LeaseStripes { done_below } => sessions::lease_stripes(txn, at, session, *done_below)?,
    };
    Ok(Step::Done(reply))
}
