//! The layout of the key space, drawn once.
//!
//! A key is a tag and its fields; numbers are big-endian, so that the order of keys is the order of numbers
//! and everything of one inode, directory or stripe lies side by side:
//!
//! ```text
//! A/ kind:1 start:8           Range      ids leased to a session; kind I (inodes) or S (stripes)
//! B/ volume:8                 Volume     policy of a volume
//! C/ session:8                Session
//! D/ parent:8 hash:8 name     Entry      the hash is the position that readdir goes by, see `name_hash`
//! E/ca                        Authority  the cluster's certificate authority, its key sealed
//! E/client/ name              Client     what a client may do
//! E/member/ role:1 name       Member     a public key; the role's letter is the first of its name
//! E/token/ hash:32            Token      by the SHA-256 of its secret
//! F/ stripe:8 ino:8 window:8  Reference  window = file offset / 16 MiB
//! G/ server:8 stripe:8 i:1    DeadShard  what a server is to delete
//! I/ ino:8                    Inode
//! J/ session:8                Evicted
//! K/ ino:8                    Locks      of programs; all of a file in one, so that a lock is one read
//! LP/ ino:8 parent:8 name     LinkName
//! M/ monitor:8                Monitor
//! O/ session:8 ino:8          Orphan
//! P/ ino:8 offset:8           Piece      one extent of a file
//! Q/ session:8 slot:2         SlotReply
//! R/ server:8 stripe:8        Shard      what a server holds
//! S/ stripe:8                 Stripe
//! U/ volume:8                 Usage
//! W/ ino:8                    Grant
//! X/ ino:8 name               Xattr
//! Y/ server:8                 Server
//! meta/cluster                Cluster
//! meta/feature_level          Counter    the level that everybody can do
//! meta/op_seq                 Counter    the latest action
//! meta/next_I, meta/next_S    Counter    the next range of inodes, of stripes
//! ```
//!
//! A [`Key`] knows the type of what is stored under it, a [`Span`] the type of what it runs over: nobody can
//! read an inode where an extent is. `G` begins with the server, not with the shard's index as in DESIGN,
//! because what is asked for is what one server is to delete.

use std::marker::PhantomData;

use md5::{Digest, Md5};

use super::records::{
    Authority, Client, Cluster, Counter, DeadShard, Entry, Evicted, Grant, Inode, LinkName, Locks,
    Member, Monitor, Orphan, Piece, Range, Record, Reference, Server, Session, Shard, SlotReply,
    Stripe, Token, Usage, Volume, Xattr,
};
use crate::crypto::Role;
use crate::monitor::store::prefix_end;
use crate::types::{
    Ino, MonitorId, ServerId, SessionId, ShardIndex, Slot, StripeId, TokenHash, VolumeId, limits,
};
use crate::wire::shards::ShardId;

/// Bytes of file offset that one `F` record covers (*format*).
pub(super) const WINDOW_BYTES: u64 = 16 << 20;

/// Bits of a directory position that tell names with equal hashes apart (*format*).
pub(super) const RANK_BITS: u32 = 8;

/// A key under which an `R` is stored.
pub(super) struct Key<R> {
    bytes: Vec<u8>,
    record: PhantomData<fn() -> R>,
}

/// A range of keys, all of `R`s.
pub(super) struct Span<R> {
    pub(super) from: Vec<u8>,
    pub(super) to: Vec<u8>,
    record: PhantomData<fn() -> R>,
}

/// A record with a family of keys of its own.
pub(super) trait Keyed: Record {
    /// What its keys begin with.
    const TAG: &'static str;
    /// What its keys say.
    type Id;

    /// Takes a key apart; `None` when it is not one.
    fn id(fields: &mut Fields<'_>) -> Option<Self::Id>;
}

/// The rest of a key while it is being taken apart.
pub(super) struct Fields<'a>(&'a [u8]);

/// The two kinds of ids that sessions lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum IdKind {
    /// Inode numbers.
    Inodes,
    /// Stripe ids.
    Stripes,
}

impl<R> Key<R> {
    fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, record: PhantomData }
    }

    /// The key itself.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl<R> Span<R> {
    fn of_prefix(prefix: Key<R>) -> Self {
        Self { to: prefix_end(&prefix.bytes), from: prefix.bytes, record: PhantomData }
    }

    /// Without what comes before `key`.
    fn starting_at(self, key: Key<R>) -> Self {
        Self { from: key.bytes, ..self }
    }

    /// Without `key` and what comes after it.
    fn until(self, key: Key<R>) -> Self {
        Self { to: key.bytes, ..self }
    }
}

impl<'a> Fields<'a> {
    /// The fields of a key of `R`s; `None` when it is a key of something else.
    pub(super) fn of<R: Keyed>(key: &'a [u8]) -> Option<Self> {
        key.strip_prefix(R::TAG.as_bytes()).map(Self)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0).to_vec()
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.rest()).ok()
    }

    /// Whether the whole key was taken apart.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl IdKind {
    fn letter(self) -> u8 {
        match self {
            Self::Inodes => b'I',
            Self::Stripes => b'S',
        }
    }

    /// How many ids a range has. Ranges begin at multiples of it.
    pub(super) fn range(self) -> u64 {
        match self {
            Self::Inodes => limits::INODE_RANGE,
            Self::Stripes => limits::STRIPE_RANGE,
        }
    }
}

/// Position of a name in its directory (*format*): the first 55 bits of the name's MD5 above
/// [`RANK_BITS`] zeros, at least 256. The zeros leave room to number names whose hashes are equal, so that a
/// reader can stop between two of them. More than 256 such names cannot be found in practice: that is why
/// the hash is a cryptographic one.
pub(super) fn name_hash(name: &[u8]) -> u64 {
    let digest = Md5::digest(name);
    let first = u64::from_be_bytes(digest[..8].try_into().expect("8 of 16 bytes"));
    (first >> (RANK_BITS + 1) << RANK_BITS).max(1 << RANK_BITS)
}

macro_rules! keyed {
    ($($record:ident $tag:literal -> $id:ty = $make:expr;)*) => {
        $(impl Keyed for $record {
            const TAG: &'static str = $tag;
            type Id = $id;

            fn id(fields: &mut Fields<'_>) -> Option<$id> {
                let make: fn(&mut Fields<'_>) -> Option<$id> = $make;
                make(fields)
            }
        })*

        /// What the keys of the namespace begin with: all but the bookkeeping (`meta/`).
        pub(super) const TAGS: &[&str] = &[$($tag),*];
    };
}

keyed! {
    Range "A/" -> (IdKind, u64) = |f| Some((kind_of(f.u8()?)?, f.u64()?));
    Volume "B/" -> VolumeId = |f| f.u64().map(VolumeId);
    Session "C/" -> SessionId = |f| f.u64().map(SessionId);
    Entry "D/" -> (Ino, u64, Vec<u8>) = |f| Some((Ino(f.u64()?), f.u64()?, f.rest()));
    Authority "E/ca" -> () = |_| Some(());
    Client "E/client/" -> String = |f| f.text();
    Member "E/member/" -> (Role, String) = |f| Some((role_of(f.u8()?)?, f.text()?));
    Token "E/token/" -> TokenHash = |f| f.array().map(TokenHash);
    Reference "F/" -> (StripeId, Ino, u64) = |f| {
        Some((StripeId(f.u64()?), Ino(f.u64()?), f.u64()?))
    };
    DeadShard "G/" -> (ServerId, ShardId) = |f| {
        let server = ServerId(f.u64()?);
        let stripe = StripeId(f.u64()?);
        Some((server, ShardId { stripe, index: ShardIndex(f.u8()?) }))
    };
    Inode "I/" -> Ino = |f| f.u64().map(Ino);
    Evicted "J/" -> SessionId = |f| f.u64().map(SessionId);
    Locks "K/" -> Ino = |f| f.u64().map(Ino);
    LinkName "LP/" -> (Ino, Ino, Vec<u8>) = |f| Some((Ino(f.u64()?), Ino(f.u64()?), f.rest()));
    Monitor "M/" -> MonitorId = |f| f.u64().map(MonitorId);
    Orphan "O/" -> (SessionId, Ino) = |f| Some((SessionId(f.u64()?), Ino(f.u64()?)));
    Piece "P/" -> (Ino, u64) = |f| Some((Ino(f.u64()?), f.u64()?));
    SlotReply "Q/" -> (SessionId, Slot) = |f| Some((SessionId(f.u64()?), Slot(f.u16()?)));
    Shard "R/" -> (ServerId, StripeId) = |f| Some((ServerId(f.u64()?), StripeId(f.u64()?)));
    Stripe "S/" -> StripeId = |f| f.u64().map(StripeId);
    Usage "U/" -> VolumeId = |f| f.u64().map(VolumeId);
    Grant "W/" -> Ino = |f| f.u64().map(Ino);
    Xattr "X/" -> (Ino, Vec<u8>) = |f| Some((Ino(f.u64()?), f.rest()));
    Server "Y/" -> ServerId = |f| f.u64().map(ServerId);
}

fn kind_of(letter: u8) -> Option<IdKind> {
    [IdKind::Inodes, IdKind::Stripes].into_iter().find(|kind| kind.letter() == letter)
}

fn letter_of(role: Role) -> u8 {
    role.as_str().as_bytes()[0]
}

fn role_of(letter: u8) -> Option<Role> {
    Role::ALL.into_iter().find(|role| letter_of(*role) == letter)
}

fn key<R: Keyed>(fields: &[&[u8]]) -> Key<R> {
    let mut bytes = R::TAG.as_bytes().to_vec();
    for field in fields {
        bytes.extend_from_slice(field);
    }
    Key::new(bytes)
}

fn be(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// All keys of that kind of record.
pub(super) fn all<R: Keyed>() -> Span<R> {
    Span::of_prefix(key(&[]))
}

pub(super) fn range(kind: IdKind, start: u64) -> Key<Range> {
    key(&[&[kind.letter()], &be(start)])
}

pub(super) fn ranges(kind: IdKind) -> Span<Range> {
    Span::of_prefix(key(&[&[kind.letter()]]))
}

pub(super) fn volume(volume: VolumeId) -> Key<Volume> {
    key(&[&be(volume.0)])
}

pub(super) fn session(session: SessionId) -> Key<Session> {
    key(&[&be(session.0)])
}

pub(super) fn evicted(session: SessionId) -> Key<Evicted> {
    key(&[&be(session.0)])
}

pub(super) fn entry(parent: Ino, name: &[u8]) -> Key<Entry> {
    key(&[&be(parent.0), &be(name_hash(name)), name])
}

pub(super) fn entries(parent: Ino) -> Span<Entry> {
    Span::of_prefix(key(&[&be(parent.0)]))
}

/// Entries of a directory whose hash is at least that.
pub(super) fn entries_from(parent: Ino, hash: u64) -> Span<Entry> {
    entries(parent).starting_at(key(&[&be(parent.0), &be(hash)]))
}

pub(super) fn authority() -> Key<Authority> {
    key(&[])
}

pub(super) fn client(name: &str) -> Key<Client> {
    key(&[name.as_bytes()])
}

pub(super) fn member(role: Role, name: &str) -> Key<Member> {
    key(&[&[letter_of(role)], name.as_bytes()])
}

pub(super) fn members(role: Role) -> Span<Member> {
    Span::of_prefix(key(&[&[letter_of(role)]]))
}

pub(super) fn token(hash: TokenHash) -> Key<Token> {
    key(&[&hash.0])
}

pub(super) fn reference(stripe: StripeId, ino: Ino, window: u64) -> Key<Reference> {
    key(&[&be(stripe.0), &be(ino.0), &be(window)])
}

pub(super) fn references(stripe: StripeId) -> Span<Reference> {
    Span::of_prefix(key(&[&be(stripe.0)]))
}

pub(super) fn dead_shard(server: ServerId, shard: ShardId) -> Key<DeadShard> {
    key(&[&be(server.0), &be(shard.stripe.0), &[shard.index.0]])
}

pub(super) fn dead_shards(server: ServerId) -> Span<DeadShard> {
    Span::of_prefix(key(&[&be(server.0)]))
}

/// Dead shards of a server from that one on.
pub(super) fn dead_shards_from(server: ServerId, shard: ShardId) -> Span<DeadShard> {
    dead_shards(server).starting_at(dead_shard(server, shard))
}

pub(super) fn inode(ino: Ino) -> Key<Inode> {
    key(&[&be(ino.0)])
}

pub(super) fn locks(ino: Ino) -> Key<Locks> {
    key(&[&be(ino.0)])
}

/// The locks of inodes from that one on.
pub(super) fn locks_from(from: Ino) -> Span<Locks> {
    all().starting_at(locks(from))
}

pub(super) fn link_name(ino: Ino, parent: Ino, name: &[u8]) -> Key<LinkName> {
    key(&[&be(ino.0), &be(parent.0), name])
}

pub(super) fn link_names(ino: Ino) -> Span<LinkName> {
    Span::of_prefix(key(&[&be(ino.0)]))
}

pub(super) fn monitor(monitor: MonitorId) -> Key<Monitor> {
    key(&[&be(monitor.0)])
}

pub(super) fn orphan(session: SessionId, ino: Ino) -> Key<Orphan> {
    key(&[&be(session.0), &be(ino.0)])
}

pub(super) fn orphans(session: SessionId) -> Span<Orphan> {
    Span::of_prefix(key(&[&be(session.0)]))
}

pub(super) fn piece(ino: Ino, offset: u64) -> Key<Piece> {
    key(&[&be(ino.0), &be(offset)])
}

/// Extents of a file that begin at `from <= offset < to`.
pub(super) fn pieces(ino: Ino, from: u64, to: u64) -> Span<Piece> {
    Span::of_prefix(key(&[&be(ino.0)])).starting_at(piece(ino, from)).until(piece(ino, to))
}

pub(super) fn slot(session: SessionId, slot: Slot) -> Key<SlotReply> {
    key(&[&be(session.0), &slot.0.to_be_bytes()])
}

pub(super) fn slots(session: SessionId) -> Span<SlotReply> {
    Span::of_prefix(key(&[&be(session.0)]))
}

pub(super) fn shard(server: ServerId, stripe: StripeId) -> Key<Shard> {
    key(&[&be(server.0), &be(stripe.0)])
}

/// Shards that a server holds of stripes from that one on.
pub(super) fn shards_from(server: ServerId, from: StripeId) -> Span<Shard> {
    Span::of_prefix(key(&[&be(server.0)])).starting_at(shard(server, from))
}

pub(super) fn stripe(stripe: StripeId) -> Key<Stripe> {
    key(&[&be(stripe.0)])
}

/// Stripes `from <= id < to`.
pub(super) fn stripes(from: StripeId, to: StripeId) -> Span<Stripe> {
    all().starting_at(stripe(from)).until(stripe(to))
}

/// Stripes from that one on.
pub(super) fn stripes_from(from: StripeId) -> Span<Stripe> {
    all().starting_at(stripe(from))
}

pub(super) fn usage(volume: VolumeId) -> Key<Usage> {
    key(&[&be(volume.0)])
}

pub(super) fn grant(ino: Ino) -> Key<Grant> {
    key(&[&be(ino.0)])
}

/// The grants of inodes from that one on.
pub(super) fn grants(from: Ino) -> Span<Grant> {
    all().starting_at(grant(from))
}

pub(super) fn xattr(ino: Ino, name: &[u8]) -> Key<Xattr> {
    key(&[&be(ino.0), name])
}

pub(super) fn xattrs(ino: Ino) -> Span<Xattr> {
    Span::of_prefix(key(&[&be(ino.0)]))
}

pub(super) fn server(server: ServerId) -> Key<Server> {
    key(&[&be(server.0)])
}

pub(super) fn cluster() -> Key<Cluster> {
    Key::new(b"meta/cluster".to_vec())
}

/// What all monitors can apply.
pub(super) fn feature_level() -> Key<Counter> {
    Key::new(b"meta/feature_level".to_vec())
}

pub(super) fn op_seq() -> Key<Counter> {
    Key::new(b"meta/op_seq".to_vec())
}

/// The first id of the next range of that kind.
pub(super) fn next_id(kind: IdKind) -> Key<Counter> {
    Key::new([b"meta/next_".as_slice(), &[kind.letter()]].concat())
}

/// The first key after all families of the namespace.
pub(super) fn end() -> Vec<u8> {
    prefix_end(b"Z")
}

/// The bookkeeping that is part of the replicated state (Raft keeps keys of its own beside it).
pub(super) fn bookkeeping() -> [Vec<u8>; 5] {
    [
        cluster().bytes,
        feature_level().bytes,
        next_id(IdKind::Inodes).bytes,
        next_id(IdKind::Stripes).bytes,
        op_seq().bytes,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_apart_into_what_it_was_made_of() {
        let made = entry(Ino(7), b"name");
        let mut fields = Fields::of::<Entry>(made.bytes()).unwrap();
        let id = Entry::id(&mut fields).unwrap();
        assert_eq!(id, (Ino(7), name_hash(b"name"), b"name".to_vec()));
        assert!(fields.is_empty());
        assert!(Fields::of::<Inode>(made.bytes()).is_none());
    }

    #[test]
    fn positions_in_a_directory_are_a_format() {
        assert_eq!(name_hash(b""), 0xd41d_8cd9_8f00_b204 >> 9 << 8);
        assert_eq!(name_hash(b"a") & 0xff, 0);
        assert!(name_hash(b"a") < 1 << 63);
    }

    #[test]
    fn roles_are_told_apart_by_their_letters() {
        for role in Role::ALL {
            assert_eq!(role_of(letter_of(role)), Some(role));
        }
    }

    #[test]
    fn no_family_of_keys_lies_inside_another() {
        for (i, one) in TAGS.iter().enumerate() {
            for (j, other) in TAGS.iter().enumerate() {
                assert!(i == j || !one.starts_with(other), "{one} {other}");
            }
        }
    }
}
