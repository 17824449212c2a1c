//! Whose a session or a server is.
//!
//! Mount A writes; somebody with a certificate of its own, good for another mount, guesses the number of A's session
//! and attaches it: from then on the monitors would take its word for A's. Numbers are no secrets. So who asks is
//! decided in one place only, where a connection begins: its certificate says the cluster, the role and the name
//! ([`Identity`](crate::crypto::Identity)), and a renewed certificate keeps all three. A call that another monitor
//! passes on brings those of its caller; only monitors may pass calls on, and they are believed.
//!
//! Everything that is made for somebody is kept under that name, as its **owner**. A call that names such a thing is
//! checked against the owner:
//!
//! | named in a call | who may name it |
//! |---|---|
//! | the session to attach | its owner |
//! | the session of any other call | the connection that attached it |
//! | the evicted session whose replies are wanted | its owner, from the process that had it |
//! | the session of a dead process | its owner, on the node it was opened on |
//! | the server that beats or lists | its owner |
//! | the monitor that a spare is to replace | the agent that was told to (`spares`) |
//! | a monitor, to its siblings | the holder of its name (`peers`) |
//! | a stripe, to a storage server | the holder of a ticket (`tickets`) |
//!
//! Node, boot, run-lock, host and pid are only said. They tell processes of one owner apart, and nothing is closed or
//! told because of them to anybody else: mounts of one node that use different certificates do not close one
//! another's sessions, and a dead one's lasts until its lease is over.

use std::fmt::Display;

use super::origin::Origin;
use super::reign::Reign;
use super::unreadable;
use crate::monitor::namespace::query;
use crate::types::ServerId;
use crate::wire::metadata::Refusal;

impl Reign {
    /// Refuses a caller that names what is not its own; the log says so, a line now and then.
    pub(super) fn check_owner(
        &self,
        caller: &Origin,
        owner: &str,
        what: impl Display,
    ) -> Result<(), Refusal> {
        let identity = caller.identity();
        if identity.name == owner {
            return Ok(());
        }
        self.strangers.warn(&format!("{identity} was refused {what}, which belongs to {owner}"));
        Err(Refusal::NotOwner)
    }

    /// [`Self::check_owner`] of a server. One that nobody knows is nobody's: it will be told to register.
    pub(super) fn check_server(&self, caller: &Origin, server: ServerId) -> Result<(), Refusal> {
        match query::server(&*self.store, server).map_err(unreadable)? {
            Some(record) => self.check_owner(caller, &record.name, format_args!("server {server}")),
            None => Ok(()),
        }
    }
}
