//! What a Raft entry says, and what came of it.
//!
//! Everything that apply needs comes with the command: it reads no clock and draws no random number, so that
//! every monitor that applies the same log has the same state.

use bincode::{Decode, Encode};

use super::trust::{TrustAction, TrustOutcome};
use crate::monitor::store::Batch;
use crate::types::{
    ClusterId, Epoch, Errno, Incarnation, Ino, MonitorId, ServerId, SessionId, Slot, SlotSeq,
    TicketKey, Timestamp, VolumeChanges, Width,
};
use crate::wire::metadata::{ClientInfo, Mutation, Reply};
use crate::wire::peers::Profile;
use crate::wire::servers::Register;
use crate::wire::shards::ShardId;

/// One Raft entry: many actions, applied in order, each by itself, each with an `OpSeq` of its own.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Command {
    /// The term of the leader that made it. What a leader knows only from its memory (who has an inode open,
    /// say) went into it: if the entry comes into the log under another term, other leaders may have ruled in
    /// between, and it is not applied ([`Outcome::Superseded`]).
    pub term: u64,
    /// The leader's clock when it proposed the entry.
    pub time: Timestamp,
    /// What is to be done.
    pub actions: Vec<Action>,
}

/// One command to the state machine.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Action {
    /// The very first: makes the root directory and its volume. Later ones do nothing.
    Bootstrap {
        /// The new cluster.
        cluster: ClusterId,
        /// Its incarnation (1).
        incarnation: Incarnation,
        /// Width of the root volume's stripes.
        width: Width,
        /// Fewest copies with which a write is taken.
        min_copies: u8,
    },
    /// A monitor wants to be a member. Answered by [`Outcome::Monitor`] or [`Outcome::Refused`].
    AddMonitor {
        /// Its name, as in its certificate.
        name: String,
        /// What it says of itself.
        profile: Profile,
    },
    /// A member has started. Answered by [`Outcome::Done`] or [`Outcome::Refused`].
    IntroduceMonitor {
        /// Its id.
        id: MonitorId,
        /// Its name, as in its certificate.
        name: String,
        /// What it says of itself.
        profile: Profile,
    },
    /// An administrator wants a monitor to go. Answered by [`Outcome::Done`] or [`Outcome::Refused`].
    RemoveMonitor {
        /// Its name.
        name: String,
        /// Not before another can take its place.
        once_replaced: bool,
    },
    /// A monitor that was to go is no member any more.
    MonitorLeft {
        /// Its id.
        id: MonitorId,
    },
    /// Everybody can do that level. Answered by [`Outcome::Done`], or by [`Outcome::Refused`] when somebody cannot
    /// after all.
    RaiseFeatureLevel(u32),
    /// A client's change.
    Mutate {
        /// Whose.
        session: SessionId,
        /// What.
        mutation: Mutation,
        /// For a change that takes a name away: from which inode, and who has that open, as the leader
        /// found it when it proposed the change. If the name leads to another inode by now, the change is not
        /// done ([`Outcome::Held`]).
        removes: Option<Removal>,
        /// For a rename: the inodes that get another name, as the leader found them, in whom nobody else believes
        /// any more. Likewise.
        moves: Vec<Ino>,
    },
    /// A client begins. Answered by [`Outcome::Session`], or by [`Outcome::NoSession`] when it was revoked.
    OpenSession {
        /// Its name, as in its certificate.
        owner: String,
        /// What it says of itself.
        client: ClientInfo,
        /// Drawn by it for this session.
        nonce: u128,
    },
    /// A client ends, or is evicted: its grants, ranges and open-unlinked inodes go; when it ends by itself, its
    /// replies too.
    CloseSession {
        /// The session.
        session: SessionId,
        /// Whether it was evicted.
        evicted: bool,
    },
    /// The replies of an evicted session have been kept for long enough.
    ForgetSession {
        /// The session.
        session: SessionId,
    },
    /// A session has closed an inode whose last name went before.
    Unpin {
        /// The session.
        session: SessionId,
        /// The inode.
        ino: Ino,
    },
    /// Go on freeing an inode that nobody can reach any more (in `O` under session 0).
    Free {
        /// The inode.
        ino: Ino,
    },
    /// A server starts, known by the name in its certificate.
    RegisterServer {
        /// Its name.
        name: String,
        /// What it says of itself.
        register: Register,
        /// Random: its key, if it has none yet.
        key: TicketKey,
    },
    /// These dead shards are gone from that server.
    Reaped {
        /// The server.
        server: ServerId,
        /// The shards.
        shards: Vec<ShardId>,
    },
    /// A client's change is refused before it is looked at: its slot moves on, with that answer.
    Refuse {
        /// Whose.
        session: SessionId,
        /// Its slot ...
        slot: Slot,
        /// ... and number.
        seq: SlotSeq,
        /// The answer.
        errno: Errno,
    },
    /// A directory becomes a volume. Answered by [`Outcome::Done`] or [`Outcome::Refused`].
    CreateVolume {
        /// The directory.
        directory: Ino,
        /// What is to be other than in the volume it lies in.
        changes: VolumeChanges,
    },
    /// A volume gets another policy. Answered by [`Outcome::Done`] or [`Outcome::Refused`].
    SetVolume {
        /// Its directory.
        directory: Ino,
        /// What changes.
        changes: VolumeChanges,
    },
    /// About members, tokens and what clients may do.
    Trust(TrustAction),
}

impl Action {
    /// The level that the cluster must have before this may be in the log: a monitor of the level below could not
    /// read it there. What clients ask for ([`Mutation`]) is of the cluster's level by itself: they speak no newer.
    pub fn since(&self) -> u32 {
        match self {
            Self::Bootstrap { .. }
            | Self::AddMonitor { .. }
            | Self::IntroduceMonitor { .. }
            | Self::RemoveMonitor { .. }
            | Self::MonitorLeft { .. }
            | Self::RaiseFeatureLevel(_)
            | Self::Mutate { .. }
            | Self::OpenSession { .. }
            | Self::CloseSession { .. }
            | Self::ForgetSession { .. }
            | Self::Unpin { .. }
            | Self::Free { .. }
            | Self::RegisterServer { .. }
            | Self::CreateVolume { .. }
            | Self::SetVolume { .. }
            | Self::Reaped { .. }
            | Self::Refuse { .. }
            | Self::Trust(_) => 1,
        }
    }
}

/// What applying a command gives: the answers, and the changes that make them true.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// One an action, in order.
    pub outcomes: Vec<Outcome>,
    /// What changes in the store.
    pub batch: Batch,
}

/// An inode loses a name.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Removal {
    /// The inode.
    pub ino: Ino,
    /// Sessions that have it open: if it was its last name, it stays until they have closed it.
    pub pinned_by: Vec<SessionId>,
}

/// What came of an action.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Outcome {
    /// Done; nothing more to say.
    Done,
    /// What a mutation is answered.
    Mutated(Result<Reply, Errno>),
    /// The action touches too many records for one command and was done in part (a mutation from the end of
    /// the file downwards, leaving a consistent file): propose it again, as it is. The client is not answered
    /// yet.
    Partly,
    /// The mutation was not done, because other sessions hold these inodes exclusively: recall them and propose
    /// it again. Its slot has not moved on. (Nobody holds anything when the list is empty: a name that it
    /// removes or moves leads to another file meanwhile.)
    Held(Vec<Ino>),
    /// The id of the monitor that was added.
    Monitor(MonitorId),
    /// It was not done; a sentence for the administrator.
    Refused(String),
    /// The session that was opened.
    Session(SessionId),
    /// The session that was named does not exist (any more).
    NoSession,
    /// The server, and its epoch from now on.
    Server {
        /// Its id.
        server: ServerId,
        /// Its epoch.
        epoch: Epoch,
        /// Its key.
        key: TicketKey,
    },
    /// What came of [`Action::Trust`].
    Trust(TrustOutcome),
    /// Nothing was done: another leader may have ruled since the action was made.
    Superseded,
}
