//! What is in the log and in the store stays readable.

use crate::monitor::founding::Founding;
use crate::monitor::namespace::command::Command;
use crate::monitor::namespace::records::{
    Authority, Client, Cluster, Counter, DeadShard, Entry, Evicted, Grant, Inode, LinkName, Member,
    Monitor, Orphan, Piece, Range, Reference, Server, Session, Shard, SlotReply, Stripe, Token,
    Usage, Volume, Xattr,
};
use crate::wire::formats::{check, fingerprints};

#[test]
fn formats_of_commands_and_records_are_those_of_their_level() {
    let found = fingerprints![
        Command, Founding, Authority, Client, Cluster, Counter, DeadShard, Entry, Evicted, Grant,
        Inode, LinkName, Member, Monitor, Orphan, Piece, Range, Reference, Server, Session, Shard,
        SlotReply, Stripe, Token, Usage, Volume, Xattr,
    ];
    check("monitor/namespace/formats.table", &found);
}
