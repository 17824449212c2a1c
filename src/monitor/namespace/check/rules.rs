//! What must agree with each record.

use super::super::extents::{clip, overlapping};
use super::super::keys::{self, Fields, IdKind, Keyed, WINDOW_BYTES};
use super::super::orphans::NOBODY;
use super::super::records::{
    DeadShard, Entry, Grant, Inode, LinkName, Locks, Orphan, Piece, Range, Reference, Session,
    Shard, SlotReply, Stripe, StripeState, Xattr,
};
use super::super::stripes::{shards, windows};
use super::super::txn::{exists, get, parse, scan};
use super::sums::Sums;
use crate::monitor::store::{Pair, Read, StoreError};
use crate::types::{Extent, FileKind, Ino, SessionId, limits};

type Checked = Result<(), StoreError>;

/// The state, and where to say what is wrong with it.
struct Look<'a> {
    read: &'a dyn Read,
    sums: &'a mut Sums,
    problems: &'a mut Vec<String>,
}

/// Looks at one record.
pub(super) fn look(
    read: &dyn Read,
    pair: &Pair,
    sums: &mut Sums,
    problems: &mut Vec<String>,
) -> Checked {
    let key = pair.0.as_slice();
    if !is::<Entry>(key) && !is::<Piece>(key) {
        sums.close(read, problems)?;
    }
    let mut look = Look { read, sums, problems };
    look.dispatch(pair)
}

fn is<R: Keyed>(key: &[u8]) -> bool {
    Fields::of::<R>(key).is_some()
}

impl Look<'_> {
    fn dispatch(&mut self, pair: &Pair) -> Checked {
        match pair.0.as_slice() {
            key if is::<Range>(key) => self.range(parse(pair)?),
            key if is::<Entry>(key) => self.entry(parse(pair)?),
            key if is::<Reference>(key) => self.reference(parse(pair)?),
            key if is::<DeadShard>(key) => self.dead_shard(parse(pair)?),
            key if is::<Inode>(key) => self.inode(parse(pair)?),
            key if is::<Locks>(key) => self.locks(parse(pair)?),
            key if is::<LinkName>(key) => self.link_name(parse(pair)?),
            key if is::<Orphan>(key) => self.orphan(parse(pair)?),
            key if is::<Piece>(key) => self.piece(parse(pair)?),
            key if is::<SlotReply>(key) => self.slot(parse(pair)?),
            key if is::<Shard>(key) => self.shard(parse(pair)?),
            key if is::<Stripe>(key) => self.stripe(parse(pair)?),
            key if is::<Grant>(key) => self.grant(parse(pair)?),
            key if is::<Xattr>(key) => self.xattr(parse(pair)?),
            _ => Ok(()),
        }
    }

    fn demand(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.problems.push(problem());
        }
    }

    fn has_session(&self, session: SessionId) -> Result<bool, StoreError> {
        exists(self.read, &keys::session(session))
    }

    fn range(&mut self, ((kind, start), range): ((IdKind, u64), Range)) -> Checked {
        let has_session = self.has_session(range.session)?;
        self.demand(has_session, || format!("range {start} of {kind:?} belongs to no session"));
        Ok(())
    }

    fn slot(&mut self, ((session, slot), _): <SlotReply as Pairs>::Parsed) -> Checked {
        let has_session = self.has_session(session)? || exists(self.read, &keys::evicted(session))?;
        self.demand(has_session, || {
            format!("slot {slot} of session {session}, which does not exist")
        });
        Ok(())
    }

    fn grant(&mut self, (ino, grant): (Ino, Grant)) -> Checked {
        let has_session = self.has_session(grant.session)?;
        let inode = get(self.read, &keys::inode(ino))?;
        let is_open_file =
            inode.is_some_and(|inode| inode.kind == FileKind::Regular && !inode.is_doomed());
        self.demand(has_session && is_open_file, || {
            format!("session {} holds inode {ino}: one of them is not", grant.session)
        });
        Ok(())
    }

    fn locks(&mut self, (ino, locks): (Ino, Locks)) -> Checked {
        let has_inode = exists(self.read, &keys::inode(ino))?;
        self.demand(has_inode, || format!("locks on inode {ino}, which does not exist"));
        for holder in &locks.holders {
            let has_session = self.has_session(holder.session)?;
            self.demand(has_session, || {
                format!("session {} has locks on inode {ino} and does not exist", holder.session)
            });
        }
        self.demand(locks.is_sound(), || format!("locks on inode {ino} exclude one another"));
        Ok(())
    }

    fn entry(&mut self, ((parent, hash, name), entry): <Entry as Pairs>::Parsed) -> Checked {
        let ino = entry.ino;
        let path = || format!("entry {} of directory {parent}", name.escape_ascii());
        self.demand(hash == keys::name_hash(&name), || format!("{} is in the wrong place", path()));
        self.sums.count_entry(self.read, parent, &entry, self.problems)?;
        let Some(inode) = get(self.read, &keys::inode(ino))? else {
            self.problems.push(format!("{} leads to inode {ino}, which does not exist", path()));
            return Ok(());
        };
        let is_first = inode.parent == parent && inode.name == name;
        let is_known = is_first || exists(self.read, &keys::link_name(ino, parent, &name))?;
        self.demand(is_known && inode.kind == entry.kind && inode.nlink > 0, || {
            format!("{} and inode {ino} do not agree", path())
        });
        Ok(())
    }

    /// Whether a directory has that name for that inode.
    fn is_named(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<bool, StoreError> {
        let entry = get(self.read, &keys::entry(parent, name))?;
        Ok(entry.is_some_and(|entry| entry.ino == ino))
    }

    fn link_name(&mut self, ((ino, parent, name), _): <LinkName as Pairs>::Parsed) -> Checked {
        let is_named = self.is_named(ino, parent, &name)?;
        let inode = get(self.read, &keys::inode(ino))?;
        let is_several = inode.is_some_and(|inode| inode.nlink > 1);
        self.demand(is_named && is_several, || {
            format!("inode {ino} has no further name in directory {parent}")
        });
        Ok(())
    }

    fn inode(&mut self, (ino, inode): (Ino, Inode)) -> Checked {
        self.sums.count_inode(inode.volume);
        self.names(ino, &inode)?;
        self.xattr_names(ino, &inode)?;
        if inode.nlink == 0 {
            self.nameless(ino, &inode)?;
        }
        if inode.is_directory() {
            self.directory(ino, &inode)?;
        }
        if inode.stored == 0 {
            let first = overlapping(self.read, ino, 0, u64::MAX)?.next();
            let is_empty = first.transpose()?.is_none();
            self.demand(is_empty, || format!("inode {ino} has extents and says none"));
        }
        Ok(())
    }

    fn names(&mut self, ino: Ino, inode: &Inode) -> Checked {
        let mut further = 0;
        for found in scan(self.read, &keys::link_names(ino)) {
            found?;
            further += 1;
        }
        let expected = match inode.kind {
            FileKind::Directory => 0,
            _ => inode.nlink.saturating_sub(1),
        };
        self.demand(further == expected, || {
            format!("inode {ino} has {further} further names, not {expected}")
        });
        let is_named = ino == Ino::ROOT
            || inode.nlink == 0
            || self.is_named(ino, inode.parent, &inode.name)?;
        self.demand(is_named, || format!("inode {ino} does not have its name"));
        Ok(())
    }

    fn xattr_names(&mut self, ino: Ino, inode: &Inode) -> Checked {
        let mut bytes = 0;
        for found in scan(self.read, &keys::xattrs(ino)) {
            let ((_, name), _) = found?;
            bytes += name.len() as u64 + 1;
        }
        self.demand(bytes == u64::from(inode.xattr_names), || {
            format!("inode {ino} has {bytes} bytes of attribute names and says otherwise")
        });
        Ok(())
    }

    fn nameless(&mut self, ino: Ino, inode: &Inode) -> Checked {
        let mut pins = 0;
        for found in scan(self.read, &keys::all::<Session>()) {
            let (session, _) = found?;
            pins += u32::from(exists(self.read, &keys::orphan(session, ino))?);
        }
        let is_being_freed = exists(self.read, &keys::orphan(NOBODY, ino))?;
        self.demand(pins == inode.pins && is_being_freed == (inode.pins == 0), || {
            format!("inode {ino} has no name; {pins} sessions keep it, it says {}", inode.pins)
        });
        Ok(())
    }

    /// The entries of one that has some are counted where they are looked at.
    fn directory(&mut self, ino: Ino, inode: &Inode) -> Checked {
        let first = scan(self.read, &keys::entries(ino)).next().transpose()?;
        self.demand(first.is_some() == (inode.size > 0), || {
            format!("directory {ino} says it has {} entries", inode.size)
        });
        let is_below_root = inode.nlink == 0 || self.is_below_root(ino)?;
        self.demand(is_below_root, || format!("directory {ino} is not below the root"));
        Ok(())
    }

    fn is_below_root(&self, ino: Ino) -> Result<bool, StoreError> {
        let mut at = ino;
        for _ in 0..limits::COMMAND_RECORDS_MAX {
            if at == Ino::ROOT {
                return Ok(true);
            }
            match get(self.read, &keys::inode(at))? {
                Some(inode) => at = inode.parent,
                None => return Ok(false),
            }
        }
        Ok(false)
    }

    fn orphan(&mut self, ((session, ino), _): <Orphan as Pairs>::Parsed) -> Checked {
        let inode = get(self.read, &keys::inode(ino))?;
        let has_keeper = session == NOBODY || self.has_session(session)?;
        self.demand(has_keeper && inode.is_some_and(|inode| inode.nlink == 0), || {
            format!("session {session} keeps inode {ino} for no reason")
        });
        Ok(())
    }

    fn xattr(&mut self, ((ino, name), _): <Xattr as Pairs>::Parsed) -> Checked {
        let has_inode = exists(self.read, &keys::inode(ino))?;
        self.demand(has_inode, || {
            format!("attribute {} of inode {ino}, which does not exist", name.escape_ascii())
        });
        Ok(())
    }

    fn piece(&mut self, ((ino, offset), piece): <Piece as Pairs>::Parsed) -> Checked {
        let extent = piece.extent(offset);
        let Some(inode) = get(self.read, &keys::inode(ino))? else {
            self.problems.push(format!("an extent of inode {ino}, which does not exist"));
            return Ok(());
        };
        self.sums.count_extent(self.read, (ino, inode.volume), &extent, self.problems)?;
        let block = limits::BLOCK;
        let is_aligned = offset % u64::from(block) == 0 && extent.stripe_offset % block == 0;
        self.demand(is_aligned && extent.length > 0 && extent.end() <= inode.size, || {
            format!("inode {ino}: the extent at {offset} is ragged or beyond the end")
        });
        self.extent_in_stripe(ino, &extent)
    }

    fn extent_in_stripe(&mut self, ino: Ino, extent: &Extent) -> Checked {
        let id = extent.stripe;
        let end = u64::from(extent.stripe_offset) + u64::from(extent.length);
        let stripe = get(self.read, &keys::stripe(id))?;
        let is_inside =
            stripe.is_some_and(|stripe| stripe.is_live() && end <= u64::from(stripe.record.length));
        self.demand(is_inside, || {
            format!("inode {ino}: the extent at {} is not in stripe {id}", extent.offset)
        });
        for (window, _) in windows(extent) {
            let is_counted = exists(self.read, &keys::reference(id, ino, window))?;
            self.demand(is_counted, || {
                format!("stripe {id} does not know of its bytes of inode {ino}")
            });
        }
        Ok(())
    }

    fn reference(
        &mut self,
        ((stripe, ino, window), reference): <Reference as Pairs>::Parsed,
    ) -> Checked {
        let from = window * WINDOW_BYTES;
        let to = from + WINDOW_BYTES;
        let mut bytes = 0;
        for extent in overlapping(self.read, ino, from, to)? {
            let extent = extent?;
            if extent.stripe == stripe {
                bytes += clip(&extent, from, to).map_or(0, |part| u64::from(part.length));
            }
        }
        self.demand(bytes == reference.bytes && bytes > 0, || {
            format!(
                "stripe {stripe} has {bytes} bytes of inode {ino} from {from} on and says {}",
                reference.bytes
            )
        });
        Ok(())
    }

    fn stripe(&mut self, (id, stripe): <Stripe as Pairs>::Parsed) -> Checked {
        let mut references = 0;
        for found in scan(self.read, &keys::references(id)) {
            found?;
            references += 1;
        }
        let (mut held, mut dead) = (0, 0);
        for (shard, server) in shards(&stripe.record) {
            let record = get(self.read, &keys::shard(server, id))?;
            held += usize::from(record.is_some_and(|record| record.index == shard.index));
            dead += u16::from(exists(self.read, &keys::dead_shard(server, shard))?);
        }
        let total = stripe.record.width.total();
        self.demand(stripe.record.shards.len() == total, || {
            format!("stripe {id} does not have {total} shards")
        });
        let agrees = match stripe.state {
            StripeState::Live { references: says } => {
                self.sums.count_stripe(stripe.volume, stripe.thin);
                references == says && says > 0 && held == total && dead == 0
            }
            StripeState::Dead { left } => references == 0 && held == 0 && dead == left,
        };
        self.demand(agrees, || {
            format!(
                "stripe {id} has {references} references, {held} shards and {dead} dead ones, and says {:?}",
                stripe.state
            )
        });
        Ok(())
    }

    fn shard(&mut self, ((server, id), shard): <Shard as Pairs>::Parsed) -> Checked {
        let stripe = get(self.read, &keys::stripe(id))?.filter(Stripe::is_live);
        let same = stripe.filter(|live| live.thin == shard.thin);
        let place =
            same.and_then(|live| live.record.shards.get(usize::from(shard.index.0)).copied());
        self.demand(place.is_some_and(|place| place.server == server), || {
            format!("server {server} is said to have a shard of stripe {id}")
        });
        Ok(())
    }

    fn dead_shard(&mut self, ((server, shard), _): <DeadShard as Pairs>::Parsed) -> Checked {
        let id = shard.stripe;
        let is_dead = get(self.read, &keys::stripe(id))?.is_some_and(|stripe| !stripe.is_live());
        self.demand(is_dead, || {
            format!("server {server} is to delete a shard of stripe {id}, which is not dead")
        });
        Ok(())
    }
}

/// A record and what its key says.
trait Pairs: Keyed + Sized {
    type Parsed;
}

impl<R: Keyed> Pairs for R {
    type Parsed = (R::Id, R);
}
