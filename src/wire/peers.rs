//! What monitors say to one another.
//!
//! They form a Raft group: one leads, the others copy its log, and when the leader falls silent they agree on
//! another. All of it travels over the monitors' one port: a call whose caller's certificate says that it is a
//! monitor is a [`Request`] of this module, any other is one of [`metadata`](super::metadata).
//!
//! A member is its id and the name in its certificate, never its address: an address is where it was seen last.
//!
//! Clients and servers may ask any monitor; only the leader can answer. So a monitor that does not lead passes
//! a call on, whole, over a connection of its own to the leader, and passes back what the leader answers and,
//! unasked, what it has to tell that caller. To the leader each caller behind another monitor is an **origin**:
//! a number that the other monitor chose, never twice on one connection. Identities are believed: whoever
//! connects as a monitor has proved to be one (and is believed until it was removed), and monitors check the
//! certificates of their own callers.

use bincode::{Decode, Encode};

use crate::types::{DiskRoom, MonitorId, OpSeq, Position, Program};

/// What one monitor asks another.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Request {
    /// A message of Raft, between two members. Answered by [`Response::Raft`].
    Raft {
        /// The asker.
        from: MonitorId,
        /// Whom it means: the address may belong to another member by now.
        to: MonitorId,
        /// The message.
        ask: Ask,
    },
    /// Who are you, and who leads? Answered by [`Response::Who`].
    Who,
    /// A monitor without an id wants to become a member, known by the name in its certificate. Only the leader
    /// can do it. Answered by [`Response::Joined`].
    Join(Profile),
    /// A member has started and says where it is now. Only the leader can note it. Answered by
    /// [`Response::Introduced`].
    Introduce {
        /// Its id.
        id: MonitorId,
        /// This start of it, see [`Response::Who`].
        instance: u128,
        /// What it says of itself.
        profile: Profile,
    },
    /// A call of somebody else, an encoded [`super::metadata::Request`], is the payload of this frame. Answered
    /// by [`Response::Forwarded`].
    Forward(Forward),
    /// A call of somebody without a valid certificate, an encoded [`super::metadata::Request`], is the payload of
    /// this frame. It has no origin: nothing is kept about guests. Answered by [`Response::Forwarded`].
    ForwardGuest {
        /// Who it was until its certificate expired, as in [`Forward::identity`]; `None` if it has none.
        identity: Option<String>,
    },
    /// The connection of that origin is gone; the number is not used again. Answered by [`Response::Done`].
    ForwardClosed {
        /// Which.
        origin: u64,
    },
}

/// Whose call is passed on.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Forward {
    /// The caller's number, unique on this connection.
    pub origin: u64,
    /// Who it is, by its certificate: `<name>.<role>.<cluster>.okapifs`.
    pub identity: String,
}

/// The answer to a [`Request`].
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Response {
    /// The answer, an encoded [`super::metadata::Response`], is the payload of this frame.
    Forwarded,
    /// Nothing more to say.
    Done,
    /// See [`Request::Raft`].
    Raft(Answer),
    /// See [`Request::Who`].
    Who {
        /// Its id, if it is a member.
        id: Option<MonitorId>,
        /// Drawn at its start: two processes that say the same id and another instance are the same member
        /// started twice.
        instance: u128,
        /// Who leads, as far as it knows, and where it is reached.
        leader: Option<(MonitorId, String)>,
    },
    /// It is a member now.
    Joined {
        /// With this id.
        id: MonitorId,
        /// What opens the authority's key in the state, in hex; none in a cluster whose state has no such key.
        seal_key: Option<String>,
    },
    /// It was noted.
    Introduced,
    /// Ask the leader.
    NotLeader {
        /// Who answers, if it is a member: so that the asker knows where it is.
        here: Option<MonitorId>,
        /// Who that is, as far as it is known, and where it is reached.
        leader: Option<(MonitorId, String)>,
    },
    /// The monitor that asks was removed from the cluster, and never comes back: it ends. Nothing else ends one that
    /// takes part.
    Removed {
        /// Its id.
        id: MonitorId,
        /// The command by which it left.
        by: OpSeq,
    },
    /// A [`Request::Join`] or [`Request::Introduce`] is refused for good: a sentence for the administrator of the
    /// asker.
    Refused(String),
    /// That cannot be answered here, or not now, or not by this version; a sentence.
    Unable(String),
}

/// What a monitor says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Profile {
    /// `host:port` where it is reached.
    pub address: String,
    /// `host:port` of the agent that starts it, if there is one.
    pub agent: Option<String>,
    /// The number of this start, counted by its agent; 0 where nobody counts.
    pub start: u64,
    /// What it runs.
    pub program: Program,
    /// The node it runs on (machine id).
    pub node: String,
    /// Its process on that node.
    pub pid: u32,
}

/// No monitor has this id.
pub const NOBODY: u64 = u64::MAX;

/// For whom a member has voted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Vote {
    /// In which term.
    pub term: u64,
    /// For whom; [`NOBODY`] for nobody yet.
    pub leader: u64,
    /// Whether that member is known to have won.
    pub committed: bool,
}

/// An entry of the log.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Entry {
    /// Where it is.
    pub position: Position,
    /// What it says, as the log has it.
    pub body: Vec<u8>,
}

/// A question of Raft.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Ask {
    /// Put these entries behind that one. Answered by [`Answer::Appended`].
    Append {
        /// By which right.
        vote: Vote,
        /// The entry before them.
        previous: Option<Position>,
        /// The entries, without a gap; none when only `committed` is told.
        entries: Vec<Entry>,
        /// Up to where all is committed.
        committed: Option<Position>,
    },
    /// Vote for me. Answered by [`Answer::Voted`].
    Vote {
        /// The vote that is asked for.
        vote: Vote,
        /// The candidate's last entry.
        last: Option<Position>,
    },
    /// Would you vote for me? It binds nobody and changes no term. Answered by [`Answer::Polled`].
    Poll {
        /// The asker's last entry.
        last: Option<Position>,
    },
    /// The leader lives. Answered by [`Answer::Pulsed`].
    Pulse(Pulse),
    /// A part of the leader's whole state. Answered by [`Answer::Spooled`].
    Chunk(Chunk),
}

/// A leader's sign of life.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Pulse {
    /// Its term.
    pub term: u64,
    /// An entry whose state hash the leader wants to know.
    pub check: Option<u64>,
    /// The state hash that most members have at that entry: who has another one must stop.
    pub verdict: Option<StateHash>,
}

/// The hash of the state after an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct StateHash {
    /// The entry.
    pub index: u64,
    /// The hash.
    pub hash: u64,
}

/// A part of a state that is sent whole: pairs in the order of their keys.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Chunk {
    /// By which right.
    pub vote: Vote,
    /// Which sending of a state this belongs to.
    pub transfer: u64,
    /// Bytes of it that were sent before.
    pub offset: u64,
    /// The next ones.
    pub bytes: Vec<u8>,
    /// In the last part: what the whole is.
    pub end: Option<StateEnd>,
}

/// What a state that was sent whole is.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct StateEnd {
    /// The last entry that it covers.
    pub applied: Position,
    /// The members at that entry, encoded as in the state.
    pub members: Vec<u8>,
    /// CRC32C of all bytes.
    pub crc: u32,
}

/// The answer to an [`Ask`].
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Answer {
    /// See [`Ask::Append`].
    Appended(Appended),
    /// See [`Ask::Vote`].
    Voted {
        /// The voter's vote after the question.
        vote: Vote,
        /// Whether it is the one that was asked for.
        granted: bool,
        /// The voter's last entry.
        last: Option<Position>,
    },
    /// Whether it would.
    Polled(bool),
    /// See [`Ask::Pulse`].
    Pulsed {
        /// The follower's term; when it is newer, the asker leads no more.
        term: u64,
        /// The last entry that it has applied.
        applied: u64,
        /// Its state hash where the leader wanted it, if it still has it or has it already.
        hash: Option<StateHash>,
        /// How much room its disk has.
        room: DiskRoom,
    },
    /// See [`Ask::Chunk`].
    Spooled(Spooled),
    /// This member cannot answer; the text says why.
    Unable(String),
}

/// What became of an [`Ask::Append`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Appended {
    /// All of it is durable.
    Done,
    /// The entry before them is not the one that this member has there.
    Conflict,
    /// This member has seen a newer vote.
    Newer(Vote),
}

/// What became of an [`Ask::Chunk`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Spooled {
    /// It is kept; go on.
    More,
    /// It does not follow what is here: begin anew.
    Restart,
    /// All is here and is being put in the place of the old state: ask again.
    Installing,
    /// It is the state now, or it never will be, because this member has seen a newer vote: its vote.
    Installed(Vote),
}

/// What a leader has to tell a caller of the monitor at the other end.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Notice {
    /// Which caller.
    pub origin: u64,
    /// An encoded [`super::metadata::Notice`], to be passed on as it is.
    pub notice: Vec<u8>,
}
