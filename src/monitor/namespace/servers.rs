//! Storage servers, as they are registered. How one is doing at the moment is the leader's own knowledge and
//! not part of the replicated state.

use super::command::Outcome;
use super::inodes::At;
use super::keys;
use super::level;
use super::records::Server;
use super::txn::{Txn, scan};
use crate::monitor::store::StoreError;
use crate::types::{Epoch, ServerId, TicketKey};
use crate::wire::servers::Register;

/// A server starts: the name that it had before keeps its id, and its epoch rises. An acknowledgement of the
/// epoch before proves nothing any more: the disk behind it may have been lost in between. A process that registers
/// again, because it did not hear the answer, has had its disk all the time, and keeps its epoch. The key stays what it was,
/// so that clients' tickets outlive a restart; `key` is for a new server.
pub(super) fn register(
    txn: &mut Txn<'_>,
    at: At,
    name: &str,
    info: &Register,
    key: TicketKey,
) -> Result<Outcome, StoreError> {
    if let Some(refused) = level::too_old(txn, &info.program)? {
        return Ok(refused);
    }
    let known = scan(txn, &keys::all::<Server>())
        .find(|found| found.as_ref().map_or(true, |(_, known)| known.name == name))
        .transpose()?;
    let (id, epoch, key) = match known {
        Some((id, server)) if server.info.instance == info.instance => {
            (id, server.epoch, server.key)
        }
        Some((id, server)) => (id, Epoch(server.epoch.0 + 1), server.key),
        None => (ServerId(at.op.0), Epoch(1), key),
    };
    let server = Server { name: name.to_owned(), epoch, key, info: info.clone(), birth: at.op };
    txn.put(&keys::server(id), &server);
    Ok(Outcome::Server { server: id, epoch, key })
}
