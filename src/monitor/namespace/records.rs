//! What the pairs of the store say: one type a key of DESIGN §6.
//!
//! A record is stored as one byte of version and the encoded value, so that a later release can read what
//! an older one wrote. What the key already says (the inode of an extent, say) is not repeated in the value.
//! Every record knows its `birth`: the [`OpSeq`] of the action that wrote it.

use bincode::{Decode, Encode};

use crate::monitor::store::StoreError;
use crate::types::{
    Attr, ClientPolicy, ClusterId, DataVersion, Epoch, Errno, Extent, FileKind, HeldRanges,
    Incarnation, Ino, KeyHash, LockKind, LockOwner, OpSeq, SessionId, ShardIndex, SlotSeq,
    StripeId, StripeRecord, TicketKey, Timestamp, TokenGrant, TokenUse, VolumeId, VolumePolicy,
};
use crate::wire::metadata::{ClientInfo, Reply};
use crate::wire::peers::Profile;
use crate::wire::servers::Register;
use crate::wire::{decode, encode_behind};

/// As long as an inode: few records are longer.
const TYPICAL_BYTES: usize = 256;

/// Something that is stored under a key.
pub(super) trait Record: Encode + Decode<()> {
    /// First byte of the stored form.
    const VERSION: u8 = 1;

    /// The stored form.
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(TYPICAL_BYTES);
        bytes.push(Self::VERSION);
        encode_behind(&mut bytes, self);
        bytes
    }

    /// Reads what [`Self::to_bytes`] wrote.
    fn from_bytes(bytes: &[u8]) -> Result<Self, StoreError> {
        match bytes.split_first() {
            Some((&version, value)) if version == Self::VERSION => {
                decode(value).map_err(|error| StoreError(error.to_string()))
            }
            Some((version, _)) => Err(StoreError(format!(
                "a record of version {version}, where only {} is known",
                Self::VERSION
            ))),
            None => Err(StoreError("an empty record".to_owned())),
        }
    }
}

macro_rules! records {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
            pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

            impl Record for $name {}
        )*
    };
}

/// Whether a monitor is to be a member.
///
/// ```text
/// Joining ──► Member ──► Replaced ──► Leaving ──► Gone
///    └──────────────────────────────────────────────▲
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum MonitorState {
    /// It has an id, and has not started with it yet.
    Joining,
    /// It is to be a member.
    Member,
    /// It is to go when another can take its place.
    Replaced,
    /// It is to go at once.
    Leaving,
    /// It is gone, for ever.
    Gone,
}

records! {
    /// `I`: an inode.
    Inode {
        /// Its type.
        kind: FileKind,
        /// Permission, setuid, setgid and sticky bits.
        mode: u16,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// As [`Attr::size`]: bytes of a file, entries of a directory, length of a link's target.
        size: u64,
        /// Bytes that extents cover.
        stored: u64,
        /// Names; of a directory 2 + its subdirectories, 0 once it is removed.
        nlink: u32,
        /// Device number.
        rdev: u32,
        /// Last access.
        atime: Timestamp,
        /// Last change of content.
        mtime: Timestamp,
        /// Last change of content or attributes.
        ctime: Timestamp,
        /// Creation.
        crtime: Timestamp,
        /// Version of the content.
        dv: DataVersion,
        /// When this record was last written.
        birth: OpSeq,
        /// The volume it lies in.
        volume: VolumeId,
        /// MD5 of the content at `dv`.
        md5: Option<[u8; 16]>,
        /// Directory of its first name (its own number for the root).
        parent: Ino,
        /// Its first name; the others are `LP` records.
        name: Vec<u8>,
        /// Target of a symbolic link.
        target: Vec<u8>,
        /// Bytes of the list of its extended attributes' names, a NUL after each.
        xattr_names: u32,
        /// Sessions that keep it although it has no name: its `O` records, that of session 0 not counted.
        pins: u32,
    }

    /// `D`: a name in a directory.
    Entry {
        /// Its inode.
        ino: Ino,
        /// Type of the inode.
        kind: FileKind,
        /// When it was written.
        birth: OpSeq,
    }

    /// `X`: an extended attribute.
    Xattr {
        /// Its value.
        value: Vec<u8>,
        /// When it was written.
        birth: OpSeq,
    }

    /// `LP`: a further name of a file that has several.
    LinkName {
        /// When it was written.
        birth: OpSeq,
    }

    /// `P`: an extent. Where it begins in the file is in its key.
    Piece {
        /// Bytes.
        length: u32,
        /// The stripe they are in.
        stripe: StripeId,
        /// Where in its payload.
        stripe_offset: u32,
        /// When this value was written.
        birth: OpSeq,
    }

    /// `F`: how many bytes of a 16 MiB window of a file lie in a stripe.
    Reference {
        /// Live bytes, at least 1.
        bytes: u64,
        /// When it was last written.
        birth: OpSeq,
    }

    /// `S`: a stripe, or the tombstone of one.
    Stripe {
        /// All that is needed to read it.
        record: StripeRecord,
        /// The volume its bytes count in.
        volume: VolumeId,
        /// Alive or dead.
        state: StripeState,
        /// Whether it was written with less parity than its volume asks for.
        thin: bool,
        /// When this record was last written.
        birth: OpSeq,
    }

    /// `R`: a server holds a shard of a stripe (one at most: its shards lie in different domains).
    Shard {
        /// Which shard.
        index: ShardIndex,
        /// As the stripe's.
        thin: bool,
        /// When it was written.
        birth: OpSeq,
    }

    /// `G`: a shard of a dead stripe that its server has not yet said to be gone.
    DeadShard {
        /// When its stripe died.
        birth: OpSeq,
    }

    /// `A`: a range of ids that a session may use up.
    Range {
        /// Whose it is.
        session: SessionId,
        /// Stripe ids below this one are closed, although they lie in the range.
        open_from: u64,
        /// Inode numbers that were used, bit i for the i-th of the range: none is used twice, and a range
        /// that is used up goes.
        used: u64,
        /// When it was written.
        birth: OpSeq,
    }

    /// `C`: a session.
    Session {
        /// Whose it is: the name in the certificate of the client that opened it.
        owner: String,
        /// What that client said of itself.
        client: ClientInfo,
        /// Drawn by it for this session.
        nonce: u128,
        /// When it was opened, by the leader's clock.
        opened: Timestamp,
        /// It changes nothing any more; what it held is being cleared away in steps, which have come so far.
        closing: Option<Closing>,
    }

    /// `J`: a session that was evicted; its slots are kept a while for its process, if that lives.
    Evicted {
        /// Whose it was, as in [`Session`].
        owner: String,
        /// What its client had said of itself.
        client: ClientInfo,
        /// When it went, by the leader's clock.
        at: Timestamp,
    }

    /// `Q`: the last answer in a slot.
    SlotReply {
        /// Of which operation.
        seq: SlotSeq,
        /// The answer.
        reply: Result<Reply, Errno>,
        /// When it was written.
        birth: OpSeq,
    }

    /// `W`: the exclusive grant of a file.
    Grant {
        /// Who holds it.
        session: SessionId,
        /// When it was granted.
        birth: OpSeq,
    }

    /// `K`: the locks that programs hold on a file.
    Locks {
        /// One an owner and kind.
        holders: Vec<LockHolder>,
        /// When it was last written.
        birth: OpSeq,
    }

    /// `O`: a session keeps an inode without a name; under session 0: the inode is being freed.
    Orphan {
        /// Whether the session may give it one: it never had any (`O_TMPFILE`).
        linkable: bool,
        /// When it was written.
        birth: OpSeq,
    }

    /// `B`: a volume.
    Volume {
        /// What it asks of the data in it.
        policy: VolumePolicy,
        /// Since when its bytes are limited, if they are; by the leader's clock.
        limited: Timestamp,
        /// When it was written.
        birth: OpSeq,
    }

    /// `U`: what a volume uses.
    #[derive(Default)]
    Usage {
        /// Inodes, those that are being freed included.
        inodes: u64,
        /// Bytes that extents cover.
        bytes: u64,
        /// Live stripes.
        stripes: u64,
        /// Of them, those that are thin.
        thin: u64,
        /// Bytes that sessions have reserved.
        reserved: u64,
    }

    /// `UR`: bytes that a session may still store in a volume with a quota.
    Reservation {
        /// Bytes, at least 1.
        bytes: u64,
        /// When it was written.
        birth: OpSeq,
    }

    /// `Y`: a storage server.
    Server {
        /// Its name, for ever.
        name: String,
        /// Rises with each registration.
        epoch: Epoch,
        /// With this the monitors sign tickets for it: made at its first registration, and the same for ever.
        key: TicketKey,
        /// What it said of itself when it registered last.
        info: Register,
        /// When it registered last.
        birth: OpSeq,
    }

    /// `M`: a monitor, as the administrator wants it.
    Monitor {
        /// Its name, as in its certificate.
        name: String,
        /// What it said of itself at its last start.
        profile: Profile,
        /// Whether it is to be a member.
        state: MonitorState,
        /// When it was written.
        birth: OpSeq,
    }

    /// `E/ca`: the cluster's certificate authority.
    Authority {
        /// Its certificate, in PEM.
        certificate: String,
        /// Its key, sealed with the key that every monitor has in a file.
        sealed_key: Vec<u8>,
        /// When it was written.
        birth: OpSeq,
    }

    /// `E/client`: what a client may do.
    Client {
        /// That.
        policy: ClientPolicy,
        /// When it was written.
        birth: OpSeq,
    }

    /// `E/member`: a member of the cluster.
    Member {
        /// Its public key, if it was ever known.
        key: Option<KeyHash>,
        /// It may do nothing any more.
        revoked: bool,
        /// Of an agent: whether its node may run a monitor.
        may_monitor: bool,
        /// When it was written.
        birth: OpSeq,
    }

    /// `E/token`: an invitation.
    Token {
        /// What it grants.
        grant: TokenGrant,
        /// Until when, by the leader's clock.
        expires: Timestamp,
        /// By whom it was redeemed.
        used: Option<TokenUse>,
        /// When it was written.
        birth: OpSeq,
    }

    /// `meta/cluster`: the cluster.
    Cluster {
        /// Its id.
        id: ClusterId,
        /// Its incarnation.
        incarnation: Incarnation,
    }

    /// `meta/*`: a number that only rises.
    Counter {
        /// The number.
        value: u64,
    }
}

/// How far the end of a session has come. Below these inodes nothing of that kind is its any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Closing {
    /// Exclusive grants.
    pub grants: Ino,
    /// Locks.
    pub locks: Ino,
}

/// What one owner has locked of a file.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct LockHolder {
    /// The session.
    pub session: SessionId,
    /// Who of it.
    pub owner: LockOwner,
    /// The kind of its locks.
    pub kind: LockKind,
    /// The process that took the latest of them.
    pub pid: u32,
    /// The locks, at least one.
    pub ranges: HeldRanges,
}

/// Whether a stripe is alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum StripeState {
    /// Files refer to it.
    Live {
        /// How many `F` records it has.
        references: u32,
    },
    /// Nothing refers to it; a commit that names it is refused.
    Dead {
        /// How many `G` records it has: its shards that are not yet gone.
        left: u16,
    },
}

impl Inode {
    /// What `stat` shows of it.
    pub fn attr(&self, ino: Ino) -> Attr {
        Attr {
            ino,
            kind: self.kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            size: self.size,
            stored: self.stored,
            nlink: self.nlink,
            rdev: self.rdev,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            crtime: self.crtime,
            dv: self.dv,
            birth: self.birth,
            volume: self.volume,
            md5: self.md5,
            xattrs: self.xattr_names,
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// Whether nobody can reach it any more: it has no name, and no session keeps it.
    pub fn is_doomed(&self) -> bool {
        self.nlink == 0 && self.pins == 0
    }
}

impl Piece {
    /// The extent that this is at that offset.
    pub fn extent(&self, offset: u64) -> Extent {
        Extent {
            offset,
            length: self.length,
            stripe: self.stripe,
            stripe_offset: self.stripe_offset,
            birth: self.birth,
        }
    }
}

impl From<Extent> for Piece {
    fn from(extent: Extent) -> Self {
        Self {
            length: extent.length,
            stripe: extent.stripe,
            stripe_offset: extent.stripe_offset,
            birth: extent.birth,
        }
    }
}

impl Stripe {
    /// Whether files refer to it.
    pub fn is_live(&self) -> bool {
        matches!(self.state, StripeState::Live { .. })
    }
}
