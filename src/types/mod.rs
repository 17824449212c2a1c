//! The words every other layer speaks: identities, attributes, units, limits and the one errno table.
//!
//! Nothing here does anything: no input, no output, no decision. Two parts of OkapiFS that never import
//! one another (a monitor and a server, say) can still mean the same thing by `StripeId` because both
//! import this folder.

pub mod acl;
mod attr;
mod calendar;
mod cluster;
mod errno;
mod ids;
mod level;
pub mod limits;
mod lock;
mod stripe;
mod ticket;
mod trust;
mod volume;

pub use attr::{Attr, FileKind, Timestamp};
pub use cluster::{
    DiskRoom, Health, MonitorRole, PlacementMap, Position, ServerEntry, ServerState,
};
pub use errno::Errno;
pub use ids::{
    ClusterId, DataVersion, Epoch, Incarnation, Ino, LeaseStamp, LockOwner, MonitorId, OpSeq,
    ServerId, SessionId, ShardIndex, Slot, SlotSeq, StripeId, VolumeId,
};
pub use level::{Levels, Program};
pub use lock::{Conflict, HeldRanges, LockKind, LockMode, LockRange, LockRequest};
pub use stripe::{Codec, Extent, ShardHash, ShardPlace, StripePiece, StripeRecord, Width};
pub use ticket::{Operation, SignedTicket, TICKET_LIFE, TICKETS_MAX, Ticket, TicketKey};
pub use trust::{
    ClientPolicy, IdRange, KeyHash, MonitorGrant, NOBODY, TokenGrant, TokenHash, TokenRole,
    TokenUse,
};
pub use volume::{Limit, VolumeChanges, VolumeEntry, VolumePolicy};
