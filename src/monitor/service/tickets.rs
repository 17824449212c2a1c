//! Tickets: what the monitors allow, in the form in which the storage servers believe it.
//!
//! A session may read every stripe (maps, which the monitors hand out, say which ones are of use to it) and put the
//! stripes whose ids were leased to it. What it may do changes with what it leases, and ends with it: so it is
//! told with the session, and again with renewals, long before the old tickets expire. Nothing is kept
//! about tickets: they follow from the keys and the leases, which every leader has.

use super::reign::Reign;
use super::unreadable;
use crate::crypto::Identity;
use crate::monitor::namespace::query;
use crate::types::{
    Operation, SessionId, SignedTicket, StripeId, TICKET_LIFE, TICKETS_MAX, Ticket, Timestamp,
};
use crate::wire::metadata::Refusal;

/// What a ticket says but for where it is good.
type Right = (Operation, StripeId, StripeId);

/// To read all stripes.
const READ: Right = (Operation::Read, StripeId(0), StripeId(u64::MAX));

impl Reign {
    /// All tickets of a session of that client.
    pub(super) fn tickets_of(
        &self,
        client: &Identity,
        session: SessionId,
    ) -> Result<Vec<SignedTicket>, Refusal> {
        let leased = match self.policy_of(&client.name)?.read_only {
            true => Vec::new(),
            false => query::leased_stripes(&*self.store, session).map_err(unreadable)?,
        };
        // The youngest, should a session keep more open than anybody ever has: those are still to be put.
        let latest = leased.into_iter().rev().take(TICKETS_MAX - 1);
        let mut rights = vec![READ];
        rights.extend(latest.map(|(from, to)| (Operation::Write, from, to)));
        Ok(self.signed(client, session, &rights))
    }

    /// The tickets of an administrator's command, which has no session.
    pub(super) fn tickets_to_read(&self, client: &Identity) -> Vec<SignedTicket> {
        self.signed(client, SessionId(0), &[READ])
    }

    /// Each of these for each server.
    fn signed(&self, holder: &Identity, session: SessionId, rights: &[Right]) -> Vec<SignedTicket> {
        let now = self.clock.now();
        let life = i64::try_from(TICKET_LIFE.as_secs()).expect("a minute");
        let expires = Timestamp { seconds: now.seconds.saturating_add(life), ..now };
        let keys = self.state.lock().ticket_keys.clone();
        let mut tickets = Vec::with_capacity(keys.len() * rights.len());
        for (server, key) in keys {
            for &(operation, from, to) in rights {
                let ticket = Ticket { server, session, operation, from, to, expires };
                tickets.push(key.sign(ticket, holder));
            }
        }
        tickets
    }
}
