//! Storage servers, as they are registered. How one is doing at the moment is the leader's own knowledge and
//! not part of the replicated state.

use super::command::Outcome;
use super::inodes::At;
use super::keys;
use super::records::Server;
use super::txn::{Txn, scan};
use crate::monitor::store::StoreError;
use crate::types::{Epoch, ServerId};
use crate::wire::metadata::Register;

/// A server starts: the name that it had before keeps its id, and its epoch rises. An acknowledgement of the
/// epoch before proves nothing any more: the disk behind it may have been lost in between.
pub(super) fn register(
    txn: &mut Txn<'_>,
    at: At,
    name: &str,
    info: &Register,
) -> Result<Outcome, StoreError> {
    let known = scan(txn, &keys::all::<Server>())
        .find(|found| found.as_ref().map_or(true, |(_, known)| known.name == name))
        .transpose()?;
    let (id, epoch) = match known {
        Some((id, server)) => (id, Epoch(server.epoch.0 + 1)),
        None => (ServerId(at.op.0), Epoch(1)),
    };
    let server = Server { name: name.to_owned(), epoch, info: info.clone(), birth: at.op };
    txn.put(&keys::server(id), &server);
    Ok(Outcome::Server { server: id, epoch })
}
