//! What the monitors are asked: by clients about names and maps, by servers about themselves.
//!
//! Changes are [`Op`]s, sent many at a time in [`Request::Mutate`], each in a slot of the session so that one
//! whose answer was lost can be sent again and is still done once. Questions are [`Query`]s, also many at a
//! time. What a monitor has to tell a client unasked is a [`Notice`].

use bincode::{Decode, Encode};

use super::admin;
use super::leases::{Aftermath, GiveBack, Leased};
use super::locks::{Awaited, Forgotten, LockWait, SetLock};
use super::servers::{Beat, Beaten, Inventory, Register, Registered};
use super::shards::ShardId;
use super::trust;
use crate::types::{
    Attr, ClientPolicy, ClusterId, Conflict, DataVersion, DiskRoom, Epoch, Errno, Extent, FileKind,
    Ino, LeaseStamp, LockRequest, MonitorId, OpSeq, PlacementMap, Program, ServerId, SessionId,
    SignedTicket, Slot, SlotSeq, StripeId, StripePiece, StripeRecord, Timestamp, VolumeId,
};

/// A call to a monitor.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Request {
    /// A client begins. Answered by [`Response::Session`].
    OpenSession {
        /// What the client says of itself.
        client: ClientInfo,
        /// Drawn for this session: asked again with the same one, because the answer was lost, it gets the same
        /// session.
        nonce: u128,
    },
    /// A client that was connected before goes on with its session on this connection, and says again what
    /// a leader keeps only in memory. Answered by [`Response::Session`], or by [`Response::Done`] as long as
    /// [`Attach::more`] is to come.
    Attach(Attach),
    /// A client ends; everything of it is committed and released. Answered by [`Response::Done`].
    CloseSession(SessionId),
    /// A client lives. Sent every ~2 s. Answered by [`Response::Renewed`].
    Renew(Renew),
    /// Changes, done in this order, each by itself. Answered by [`Response::Mutated`].
    Mutate {
        /// Who asks.
        session: SessionId,
        /// What is to be done, at most [`MUTATIONS_MAX`].
        mutations: Vec<Mutation>,
    },
    /// What became of changes that this process has sent in a session that was evicted meanwhile? (Replies are
    /// kept for ten minutes.) Answered by [`Response::OldReplies`].
    OldReplies {
        /// Who asks.
        session: SessionId,
        /// The session before.
        evicted: SessionId,
        /// Slots and numbers of the changes, at most [`MUTATIONS_MAX`].
        operations: Vec<(Slot, SlotSeq)>,
    },
    /// Questions. Answered by [`Response::Answers`].
    Query {
        /// Who asks.
        session: SessionId,
        /// At most [`MUTATIONS_MAX`].
        queries: Vec<Query>,
    },
    /// These inodes are not open any more. Answered by [`Response::Done`].
    Unpin {
        /// Who asks.
        session: SessionId,
        /// The inode, and the `generation` of its latest [`Query::Open`]: an unpin that crosses a newer
        /// open does nothing.
        pins: Vec<(Ino, u64)>,
    },
    /// Shared leases that the client gives back, because it was asked to or has no use for them: nothing of these
    /// inodes is believed any more. Answered by [`Response::Done`].
    GiveBack(GiveBack),
    /// Programs wait for these locks (see [`super::locks`]). Answered by [`Response::LocksAwaited`].
    AwaitLocks {
        /// Who asks.
        session: SessionId,
        /// At most [`WAITS_MAX`](super::locks::WAITS_MAX).
        waits: Vec<LockWait>,
    },
    /// Nobody waits with these tickets any more. Answered by [`Response::Done`].
    ForgetLocks {
        /// Who asks.
        session: SessionId,
        /// At most [`WAITS_MAX`](super::locks::WAITS_MAX).
        tickets: Vec<Forgotten>,
    },
    /// The caller's sessions on a node, so that a new process of that node can close those of processes that
    /// died. Answered by [`Response::Sessions`].
    SessionsOfNode {
        /// The node.
        node: String,
    },
    /// The process of that session is dead (its run-lock is free, or the node has booted since).
    /// Answered by [`Response::Done`].
    EvictDead {
        /// The session.
        session: SessionId,
        /// The node that says so; must be the session's own, as the caller must be the session's owner.
        node: String,
    },
    /// A server starts. Answered by [`Response::Registered`].
    Register(Register),
    /// A server lives. Sent every second. Answered by [`Response::Beaten`].
    Beat(Beat),
    /// A server lists what it has, in ascending order, in portions. Answered by [`Response::Garbage`].
    Inventory(Inventory),
    /// A command of an administrator. Answered by [`Response::Admin`].
    Admin(admin::Request),
    /// Are you there? Answered by [`Response::Alive`], by any monitor for itself.
    Ping,
    /// Somebody without a certificate has a token. Answered by [`Response::Joined`].
    Join(trust::Join),
    /// A node is to run a monitor, too. Answered by [`Response::Enrolled`].
    Enroll(trust::Enroll),
    /// An agent lives. Sent every few seconds. Answered by [`Response::AgentBeaten`].
    AgentBeat(AgentBeat),
    /// The caller's certificate has expired or soon will. Answered by [`Response::Certificate`].
    RenewCertificate {
        /// The request (PKCS#10, DER), for the same key.
        request: Vec<u8>,
    },
}

/// Most mutations or queries in one request.
pub const MUTATIONS_MAX: usize = 512;

/// Most pins in one [`Attach`]: what has more open says it in parts.
pub const PINS_MAX: usize = 65_536;

/// What a monitor answers.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Response {
    /// See [`Request::OpenSession`].
    Session(SessionOpened),
    /// Nothing more to say.
    Done,
    /// See [`Request::Ping`]: the room that the monitor's disk has.
    Alive(DiskRoom),
    /// See [`Request::Renew`].
    Renewed(Renewed),
    /// One a mutation, in order.
    Mutated(Vec<Result<Reply, Errno>>, Aftermath),
    /// One an operation, in order.
    OldReplies(Vec<OldReply>),
    /// One a query, in order; and what of them may be believed for how long.
    Answers(Vec<Result<Answer, Errno>>, Leased),
    /// One a wait, in order.
    LocksAwaited(Vec<Awaited>),
    /// See [`Request::SessionsOfNode`].
    Sessions(Vec<SessionEntry>),
    /// See [`Request::Register`].
    Registered(Registered),
    /// See [`Request::Beat`].
    Beaten(Beaten),
    /// Of the shards listed: those to delete.
    Garbage(Vec<ShardId>),
    /// See [`Request::Admin`].
    Admin(admin::Response),
    /// See [`Request::Join`].
    Joined(trust::Joined),
    /// See [`Request::Enroll`].
    Enrolled(trust::Enrolled),
    /// See [`Request::AgentBeat`].
    AgentBeaten(AgentBeaten),
    /// See [`Request::RenewCertificate`]: the new one, in PEM.
    Certificate(String),
    /// The call was refused as a whole.
    Refused(Refusal),
}

/// What an evicted session was answered; `None`: it was not done, and cannot be any more.
pub type OldReply = Option<Result<Reply, Errno>>;

/// Why a monitor refused a call.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, thiserror::Error)]
pub enum Refusal {
    /// There is no leader, or this monitor cannot reach it: ask again in a moment.
    #[error("the monitors have no leader at the moment")]
    NoLeader,
    /// The session is not attached on this connection, or is not any more: attach it, then ask again.
    #[error("this mount's session is not attached to this connection")]
    NotAttached,
    /// The session is closed or was evicted: open a new one.
    #[error("this mount's session was closed")]
    SessionClosed,
    /// The caller's certificate does not allow it.
    #[error("that certificate does not allow this")]
    Forbidden,
    /// The session or server that is named is not the caller's: it belongs to the holder of another certificate.
    #[error(
        "that session or server belongs to the holder of another certificate: mount again, or start the server with the certificate its directory was made with"
    )]
    NotOwner,
    /// The caller's certificate has expired: it may only renew it.
    #[error("this machine's certificate has expired and is not renewed yet; see its log")]
    Expired,
    /// The caller was revoked.
    #[error("this machine was revoked: it has to join again with a token of `okapifs token new`")]
    Revoked,
    /// The token is not accepted.
    #[error(transparent)]
    Token(#[from] trust::TokenRefusal),
    /// The request does not make sense; the text says why.
    #[error("{0}")]
    Malformed(String),
}

/// What an agent says of its node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct AgentBeat {
    /// The node has no monitor and would run one.
    pub is_spare: bool,
}

/// What an agent is told.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct AgentBeaten {
    /// `host:port` of the monitors.
    pub monitors: Vec<String>,
    /// Make a monitor that takes the place of this one ([`Request::Enroll`]).
    pub replace: Option<MonitorId>,
}

/// What a client says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct ClientInfo {
    /// The node (machine id).
    pub node: String,
    /// The node's boot id: another one means that all its processes are dead.
    pub boot: String,
    /// Path, on the node, of a file locked for as long as the process lives.
    pub run_lock: String,
    /// Host name, for people.
    pub host: String,
    /// Where it is mounted.
    pub mountpoint: String,
    /// Process id on the node.
    pub pid: u32,
    /// What it runs.
    pub program: Program,
}

/// A client's session as its node's other processes see it.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct SessionEntry {
    /// The session.
    pub session: SessionId,
    /// Whose it is.
    pub client: ClientInfo,
}

/// What a client needs to begin.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct SessionOpened {
    /// Its session.
    pub session: SessionId,
    /// The cluster.
    pub cluster: ClusterId,
    /// Addresses (`host:port`) of all monitors.
    pub monitors: Vec<String>,
    /// Milliseconds from the sending of a renewal until the client must stop serving from its cache.
    pub lease_ms: u64,
    /// Where new data may go.
    pub placement: PlacementMap,
    /// Raw bytes (parity counted) the client may have buffered and not committed.
    pub credit_bytes: u64,
    /// What the client may do. The monitors hold it to most of that; as whom its users count is for the client
    /// itself to see to.
    pub policy: ClientPolicy,
    /// What shows the servers that the client may read, and put the stripes whose ids are leased to it.
    pub tickets: Vec<SignedTicket>,
}

/// What a client holds that a leader keeps only in memory.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Attach {
    /// Its session.
    pub session: SessionId,
    /// Inodes that are open, with the generation of the latest open; at most [`PINS_MAX`].
    pub pins: Vec<(Ino, u64)>,
    /// Whether further parts follow: only with the last the session is attached.
    pub more: bool,
}

/// See [`Request::Renew`].
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Renew {
    /// Who lives.
    pub session: SessionId,
    /// The placement map that the client has.
    pub placement_version: u64,
    /// Servers that stalled this client lately.
    pub stalled: Vec<ServerId>,
    /// Whether the client wants new tickets: its own grow old, do not cover what it leased last, or were refused.
    pub tickets: bool,
}

/// See [`Request::Renew`].
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Renewed {
    /// The placement map, if the client's is not current.
    pub placement: Option<PlacementMap>,
    /// Raw bytes (parity counted) the client may have buffered and not committed.
    pub credit_bytes: u64,
    /// How full the root volume is.
    pub space: Space,
    /// Whether the lease is prolonged; it is not while the client sits on what others wait for.
    pub prolonged: bool,
    /// All the client's tickets, if it wants new ones or the placement map is another.
    pub tickets: Option<Vec<SignedTicket>>,
}

/// One change, in a slot.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Mutation {
    /// The slot, below `SESSION_SLOTS`. Only one operation at a time is in flight in it.
    pub slot: Slot,
    /// One more than the slot's last operation, or the same when it is sent again.
    pub seq: SlotSeq,
    /// What is to be done.
    pub op: Op,
}

/// A change to the namespace.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Op {
    /// A new inode and its entry. Answered by [`Reply::Inode`].
    Create(Create),
    /// A regular file without a name (`O_TMPFILE`). It goes with its creator's pin. Answered by [`Reply::Inode`].
    TmpFile(TmpFile),
    /// One more name for a file; the first one, for one that the session has made without. Answered by
    /// [`Reply::Inode`].
    Link {
        /// The file (not a directory).
        ino: Ino,
        /// The directory of the new name.
        parent: Ino,
        /// The new name.
        name: Vec<u8>,
    },
    /// Remove a name of something that is not a directory. Answered by [`Reply::Removed`].
    Unlink {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Vec<u8>,
    },
    /// Remove an empty directory. Answered by [`Reply::Removed`].
    Rmdir {
        /// The directory it is in.
        parent: Ino,
        /// Its name.
        name: Vec<u8>,
    },
    /// Rename, replacing what has the new name unless told otherwise. Answered by [`Reply::Renamed`].
    Rename(Rename),
    /// Change attributes other than the size. Answered by [`Reply::Inode`].
    SetAttr {
        /// The inode.
        ino: Ino,
        /// What changes.
        changes: AttrChanges,
    },
    /// The file was read: if that is to be written down ([`Attr::is_access_due`]), its atime becomes that time. The
    /// ctime stays. Answered by [`Reply::Inode`].
    Accessed {
        /// The inode.
        ino: Ino,
        /// When, by the clock of whoever read: what was shown there is not to change a moment later. Where it
        /// contradicts the monitors' clock, theirs counts.
        time: Timestamp,
    },
    /// Set the size: what is beyond it goes; a longer file gets a hole. The caller holds the exclusive grant.
    /// Answered by [`Reply::Inode`].
    Truncate {
        /// The file.
        ino: Ino,
        /// Its new size.
        size: u64,
        /// The new mtime; `None` leaves it (as `fallocate` does).
        mtime: Option<Timestamp>,
    },
    /// Make a hole; whole blocks only, the caller has written zeros over ragged edges. The caller holds the
    /// exclusive grant. The size stays. Answered by [`Reply::Inode`].
    Punch {
        /// The file.
        ino: Ino,
        /// First byte, a multiple of the block.
        offset: u64,
        /// Bytes, a multiple of the block.
        length: u64,
        /// The new mtime.
        mtime: Timestamp,
    },
    /// Let a range of `to` share the extents of a range of `from` (`copy_file_range`); offsets are whole
    /// blocks, the length is whole blocks or reaches the end of `from`. The caller holds the exclusive grant
    /// of both. Answered by [`Reply::Inode`] of `to`.
    Clone(CloneRange),
    /// Set an extended attribute. Answered by [`Reply::Inode`].
    SetXattr {
        /// The inode.
        ino: Ino,
        /// The attribute.
        name: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
        /// What must be the case before.
        mode: XattrMode,
        /// Whether setgid goes when this is an ACL: the caller is not of the file's group.
        takes_setgid: bool,
    },
    /// Remove an extended attribute. Answered by [`Reply::Inode`].
    RemoveXattr {
        /// The inode.
        ino: Ino,
        /// The attribute.
        name: Vec<u8>,
    },
    /// A stripe is born: all its shards are durable, these are its pieces. Answered by [`Reply::Committed`].
    Commit(Commit),
    /// Take the exclusive grant of a file. When another session holds it, the monitor recalls it first.
    /// Answered by [`Reply::Inode`].
    Acquire {
        /// The file.
        ino: Ino,
    },
    /// Give the exclusive grant back: everything is committed. Answered by [`Reply::Done`].
    Release {
        /// The file.
        ino: Ino,
    },
    /// The MD5 of the whole content, computed at that version; ignored when the content has changed since.
    /// Answered by [`Reply::Done`].
    SetMd5 {
        /// The file.
        ino: Ino,
        /// The version it is of.
        dv: DataVersion,
        /// The MD5.
        md5: [u8; 16],
    },
    /// Room in a volume with a quota, for bytes that are to be buffered: the session has so many reserved from now
    /// on, whatever it had before. Answered by [`Reply::Reserved`].
    Reserve(Reserve),
    /// Take or give up a lock, at once or not at all. Answered by [`Reply::Done`]; by [`Errno::WouldBlock`] when
    /// somebody else holds what excludes it.
    Lock(SetLock),
    /// A fresh range of `INODE_RANGE` inode numbers. Answered by [`Reply::Range`].
    LeaseInodes,
    /// A fresh range of `STRIPE_RANGE` stripe ids. Answered by [`Reply::Range`].
    LeaseStripes {
        /// Every stripe id of this session below this one was answered or given up: those ranges close, and
        /// shards without a record in them are garbage.
        done_below: StripeId,
    },
}

/// See [`Op::Create`].
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Create {
    /// The directory.
    pub parent: Ino,
    /// The name.
    pub name: Vec<u8>,
    /// The new inode's number, from a range leased to the session.
    pub ino: Ino,
    /// Its type.
    pub kind: FileKind,
    /// Permission, setuid, setgid and sticky bits, as asked for.
    pub mode: u16,
    /// Permissions that are not given, unless the directory has a default ACL.
    pub umask: u16,
    /// Owner.
    pub uid: u32,
    /// Group; a directory with the setgid bit overrides it.
    pub gid: u32,
    /// Device number of a device node, else 0.
    pub rdev: u32,
    /// Target of a symbolic link, else empty.
    pub target: Vec<u8>,
    /// Whether the creator gets the exclusive grant and a pin (generation 1) with it: for regular files that
    /// are opened by the same call.
    pub open: bool,
}

/// See [`Op::TmpFile`]. The creator gets the exclusive grant and a pin (generation 1) with it.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct TmpFile {
    /// The directory whose volume, group and default ACL count, as if the file had a name in it.
    pub parent: Ino,
    /// The new inode's number, from a range leased to the session.
    pub ino: Ino,
    /// Permission, setuid, setgid and sticky bits, as asked for.
    pub mode: u16,
    /// Permissions that are not given, unless the directory has a default ACL.
    pub umask: u16,
    /// Owner.
    pub uid: u32,
    /// Group; a directory with the setgid bit overrides it.
    pub gid: u32,
    /// Whether its creator may give it a name ([`Op::Link`]) as long as it has it open.
    pub linkable: bool,
}

/// See [`Op::Rename`].
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Rename {
    /// The directory the entry is in.
    pub parent: Ino,
    /// Its name.
    pub name: Vec<u8>,
    /// The directory it goes to.
    pub new_parent: Ino,
    /// The name it gets.
    pub new_name: Vec<u8>,
    /// What to do with what has that name.
    pub mode: RenameMode,
}

/// What a rename does with what has the new name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum RenameMode {
    /// Replace it.
    Replace,
    /// Refuse (`RENAME_NOREPLACE`).
    NoReplace,
    /// Let the two change places (`RENAME_EXCHANGE`).
    Exchange,
}

/// Attributes to change; `None` leaves one as it is. The ctime always becomes the command's time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct AttrChanges {
    /// Permission bits.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last access.
    pub atime: Option<Timestamp>,
    /// Last change of content.
    pub mtime: Option<Timestamp>,
}

/// See [`Op::Reserve`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Reserve {
    /// The volume.
    pub volume: VolumeId,
    /// So many bytes are wanted in all, and no fewer are of use. Less than before gives the difference back.
    pub bytes: u64,
    /// So many more are welcome, if there is plenty.
    pub ahead: u64,
}

/// See [`Op::SetXattr`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum XattrMode {
    /// Create or replace.
    Set,
    /// Refuse when it exists.
    Create,
    /// Refuse when it does not.
    Replace,
}

/// See [`Op::Clone`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct CloneRange {
    /// The file that is read.
    pub from: Ino,
    /// Where, a multiple of the block.
    pub from_offset: u64,
    /// The file that is written.
    pub to: Ino,
    /// Where, a multiple of the block.
    pub to_offset: u64,
    /// Bytes.
    pub length: u64,
    /// The new mtime of `to`.
    pub mtime: Timestamp,
}

/// See [`Op::Commit`].
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Commit {
    /// The stripe; its id is from a range leased to the session.
    pub stripe: StripeRecord,
    /// By shard index: the epoch of the server at which it acknowledged the shard.
    pub epochs: Vec<Epoch>,
    /// The pieces, at least 1, at most `STRIPE_PIECES_MAX`.
    pub pieces: Vec<CommitPiece>,
}

/// One piece of a stripe that is born. Its file's size becomes at least the piece's end, its `dv` rises by
/// one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct CommitPiece {
    /// Which bytes of which file.
    pub piece: StripePiece,
    /// When they were written; `None` when the program has set the mtime itself since.
    pub mtime: Option<Timestamp>,
    /// MD5 of the whole file after this piece, when the writer knows it.
    pub md5: Option<[u8; 16]>,
    /// Whether the writer gives the exclusive grant back with it (if the piece is accepted).
    pub release: bool,
}

/// What became of a piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum PieceOutcome {
    /// It is part of the file, whose version is now this.
    Accepted {
        /// The file's new version.
        dv: DataVersion,
        /// The `birth` of the new extent.
        birth: OpSeq,
    },
    /// The session does not hold the exclusive grant (any more).
    GrantRevoked,
    /// There is no such file (any more).
    FileGone,
    /// The volume's quota is used up.
    OverQuota,
}

/// What became of a change that was done.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Reply {
    /// Done; nothing more to say.
    Done,
    /// Done; the inode is now this.
    Inode(Attr),
    /// A name is gone.
    Removed(Removed),
    /// A name is another.
    Renamed {
        /// What has another name now: one inode, two where they changed places, none where both names were of one.
        moved: Vec<Attr>,
        /// What lost its name for it.
        replaced: Option<Removed>,
    },
    /// One a piece, in order.
    Committed(Vec<PieceOutcome>),
    /// So many bytes are reserved for the session now. When they are fewer than it asked for, there are no more,
    /// and it has what it had before.
    Reserved {
        /// Bytes.
        bytes: u64,
    },
    /// The numbers `first .. first + count` are the session's.
    Range {
        /// The first.
        first: u64,
        /// How many.
        count: u64,
    },
}

/// An inode has lost a name.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Removed {
    /// The inode as it is now; [`Attr::nlink`] counts the names that are left.
    pub attr: Attr,
    /// Whether other sessions have it open: what is written to it is not in vain, even if it has no name left.
    pub open_elsewhere: bool,
}

/// A question.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Query {
    /// The inode with that name. Answered by [`Answer::Attr`].
    Lookup {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Vec<u8>,
    },
    /// An inode's attributes. Answered by [`Answer::Attr`].
    Attr {
        /// The inode.
        ino: Ino,
    },
    /// Keep this inode although its last name may go: it is open. Answered by [`Answer::Map`] of its
    /// beginning.
    Open {
        /// The inode.
        ino: Ino,
        /// Rises with each open of the inode by this session.
        generation: u64,
    },
    /// The part of a file's map that touches a range. Answered by [`Answer::Map`].
    Map {
        /// The file.
        ino: Ino,
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// The version that the client has cached: if it is still current, no extents are sent.
        known: Option<DataVersion>,
    },
    /// Entries of a directory. Answered by [`Answer::Entries`].
    ReadDir {
        /// The directory.
        dir: Ino,
        /// [`DirEntry::next`] of the last entry that was read, 0 at the beginning.
        after: u64,
        /// Most entries wanted, at most 1,024.
        limit: u32,
        /// Whether attributes are wanted too.
        attrs: bool,
    },
    /// Where a symbolic link points. Answered by [`Answer::Bytes`].
    ReadLink {
        /// The link.
        ino: Ino,
    },
    /// The value of an extended attribute. Answered by [`Answer::Bytes`].
    GetXattr {
        /// The inode.
        ino: Ino,
        /// The attribute.
        name: Vec<u8>,
    },
    /// The names of all extended attributes. Answered by [`Answer::Names`].
    ListXattr {
        /// The inode.
        ino: Ino,
    },
    /// What keeps a lock from being taken. Answered by [`Answer::Lock`].
    Lock {
        /// Who asks: its owner's own locks are in nobody's way.
        session: SessionId,
        /// What it would like.
        request: LockRequest,
    },
    /// How full the volume of an inode is. Answered by [`Answer::Space`].
    Space {
        /// The inode.
        ino: Ino,
    },
}

/// The answer to a [`Query`].
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Answer {
    /// Attributes.
    Attr(Attr),
    /// A part of a map.
    Map(MapSlice),
    /// Entries of a directory.
    Entries {
        /// The directory's own parent.
        parent: Ino,
        /// The entries.
        entries: Vec<DirEntry>,
        /// Whether there are no more after them.
        end: bool,
    },
    /// A value.
    Bytes(Vec<u8>),
    /// Several values.
    Names(Vec<Vec<u8>>),
    /// The first lock in the way, if there is one.
    Lock(Option<Conflict>),
    /// How full a volume is.
    Space(Space),
}

/// A part of a file's map.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct MapSlice {
    /// The file as it is now.
    pub attr: Attr,
    /// `None` when the version that the client named is still current.
    pub extents: Option<Extents>,
}

/// Extents and the stripes they lie in.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Extents {
    /// The map is told from here (the offset asked for) ...
    pub from: u64,
    /// ... to here: extents that begin at or after it were left out. At least one extent is told, and
    /// `u64::MAX` means that there are no more.
    pub to: u64,
    /// In ascending order; the first may begin before `from`.
    pub extents: Vec<Extent>,
    /// Every stripe that they name, once, in ascending order.
    pub stripes: Vec<StripeRecord>,
}

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct DirEntry {
    /// The name.
    pub name: Vec<u8>,
    /// Its inode.
    pub ino: Ino,
    /// Its type.
    pub kind: FileKind,
    /// Where to go on reading after this entry; always above 2.
    pub next: u64,
    /// Its attributes, if they were asked for.
    pub attr: Option<Attr>,
}

/// How full a volume is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Space {
    /// The volume's quota; without one, the bytes of user data that all servers together could hold at its width.
    pub total_bytes: u64,
    /// Bytes of user data that can still be written.
    pub free_bytes: u64,
    /// The volume's inodes.
    pub inodes: u64,
    /// How many more it may have; `None`: there is no limit.
    pub inodes_free: Option<u64>,
}

/// What a monitor tells unasked.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Notice {
    /// To a client: somebody else wants these inodes; commit what is buffered and release them.
    Recall(Vec<Ino>),
    /// To a client: these inodes are about to change. Whatever it believes of them without asking it must
    /// stop to believe, and then give their leases back ([`Request::GiveBack`]) up to that stamp.
    Invalidate {
        /// When it was said.
        stamp: LeaseStamp,
        /// The inodes.
        inos: Vec<Ino>,
    },
    /// To a client: these tickets may try now ([`super::locks`]).
    LocksFree(Vec<u64>),
    /// To everybody: who leads, as that monitor sees it. Of several the highest term is right.
    Leader {
        /// Its term.
        term: u64,
        /// `host:port`.
        address: String,
    },
    /// To everybody: where the monitors are, `host:port` each; again whenever that changes.
    Monitors(Vec<String>),
}
