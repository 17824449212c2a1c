//! Who may read and put which stripes here: whom the monitors allow it, and nobody else.
//!
//! Whoever connects shows its tickets (`crypto::ticket`) before it asks for anything. They are verified then,
//! once, and kept with the connection, so that each call costs a look at a few of them and no cryptography. Tickets that
//! are shown later take the place of those before: their owner always shows all that it has.
//!
//! The key by which tickets are told from forgeries comes with the registration and is kept in memory only. Who
//! connects before this server is registered is told to come back.

use std::collections::HashMap;

use parking_lot::RwLock;

use crate::crypto::Identity;
use crate::types::{
    Operation, ServerId, SignedTicket, StripeId, TICKETS_MAX, Ticket, TicketKey, Timestamp,
};
use crate::wire::hello::CLOCKS_APART_MAX;
use crate::wire::shards::Refusal;

/// See the module.
#[derive(Default)]
pub(super) struct Admission {
    key: RwLock<Option<(ServerId, TicketKey)>>,
    /// What was shown, by connection.
    admitted: RwLock<HashMap<u64, Vec<Ticket>>>,
}

impl Admission {
    /// The monitors have told who this server is, and its key.
    pub(super) fn learn(&self, server: ServerId, key: TicketKey) {
        *self.key.write() = Some((server, key));
    }

    /// The holder of these tickets shows them on that connection.
    pub(super) fn admit(
        &self,
        connection: u64,
        holder: &Identity,
        shown: &[SignedTicket],
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if shown.len() > TICKETS_MAX {
            return Err(Refusal::Malformed);
        }
        let (server, key) = (*self.key.read()).ok_or(Refusal::NoLeader)?;
        for signed in shown {
            if signed.ticket.server != server || !key.has_signed(signed, holder) {
                log::warn!("{holder} shows a ticket that is not for it, or not for this server");
                return Err(Refusal::NoTicket);
            }
            if has_expired(&signed.ticket, now) {
                return Err(Refusal::Expired);
            }
        }
        let tickets = shown.iter().map(|signed| signed.ticket).collect();
        self.admitted.write().insert(connection, tickets);
        Ok(())
    }

    /// Whether that may be done over that connection.
    pub(super) fn check(
        &self,
        connection: u64,
        operation: Operation,
        stripe: StripeId,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let admitted = self.admitted.read();
        let tickets = admitted.get(&connection).map_or(&[][..], Vec::as_slice);
        let mut refusal = Refusal::NoTicket;
        for ticket in tickets.iter().filter(|ticket| ticket.covers(operation, stripe)) {
            if !has_expired(ticket, now) {
                return Ok(());
            }
            refusal = Refusal::Expired;
        }
        Err(refusal)
    }

    /// A connection is gone.
    pub(super) fn forget(&self, connection: u64) {
        self.admitted.write().remove(&connection);
    }
}

/// Clocks may be as far apart as two ends that talk to one another put up with.
fn has_expired(ticket: &Ticket, now: Timestamp) -> bool {
    ticket.has_expired(now, CLOCKS_APART_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Role;
    use crate::types::{ClusterId, SessionId};

    const KEY: TicketKey = TicketKey([1; 32]);
    const SERVER: ServerId = ServerId(7);
    const CONNECTION: u64 = 5;
    const NOW: Timestamp = Timestamp { seconds: 1_000, nanos: 0 };

    fn admission() -> Admission {
        let admission = Admission::default();
        admission.learn(SERVER, KEY);
        admission
    }

    fn holder(name: &str) -> Identity {
        Identity { cluster: ClusterId(1), role: Role::Client, name: name.to_owned() }
    }

    fn ticket(operation: Operation, from: u64, to: u64) -> Ticket {
        Ticket {
            server: SERVER,
            session: SessionId(3),
            operation,
            from: StripeId(from),
            to: StripeId(to),
            expires: Timestamp { seconds: 1_060, nanos: 0 },
        }
    }

    fn show(admission: &Admission, tickets: &[Ticket]) -> Result<(), Refusal> {
        let mine = holder("mine");
        let signed: Vec<_> = tickets.iter().map(|ticket| KEY.sign(*ticket, &mine)).collect();
        admission.admit(CONNECTION, &mine, &signed, NOW)
    }

    #[test]
    fn only_what_tickets_say_is_allowed() {
        let admission = admission();
        let check =
            |operation, stripe| admission.check(CONNECTION, operation, StripeId(stripe), NOW);
        assert_eq!(check(Operation::Read, 9), Err(Refusal::NoTicket));
        let mine = [ticket(Operation::Read, 0, u64::MAX), ticket(Operation::Write, 1024, 2048)];
        show(&admission, &mine).unwrap();
        assert_eq!(check(Operation::Read, 9), Ok(()));
        assert_eq!(check(Operation::Write, 1024), Ok(()));
        assert_eq!(check(Operation::Write, 2048), Err(Refusal::NoTicket), "another's range");
        let other = admission.check(CONNECTION + 1, Operation::Read, StripeId(9), NOW);
        assert_eq!(other, Err(Refusal::NoTicket), "another's connection");
        show(&admission, &[ticket(Operation::Write, 4096, 5120)]).unwrap();
        assert_eq!(check(Operation::Write, 1024), Err(Refusal::NoTicket), "not any more");
        assert_eq!(check(Operation::Write, 4096), Ok(()));
        admission.forget(CONNECTION);
        assert_eq!(check(Operation::Write, 4096), Err(Refusal::NoTicket));
    }

    #[test]
    fn tickets_expire_by_a_clock_that_may_be_off() {
        let admission = admission();
        let read = ticket(Operation::Read, 0, 9);
        show(&admission, &[read]).unwrap();
        let at = |seconds| {
            let now = Timestamp { seconds, nanos: 0 };
            admission.check(CONNECTION, Operation::Read, StripeId(1), now)
        };
        assert_eq!([at(0), at(1_360), at(1_361)], [Ok(()), Ok(()), Err(Refusal::Expired)]);
        let old = Ticket { expires: Timestamp { seconds: 699, nanos: 0 }, ..read };
        assert_eq!(show(&admission, &[old]), Err(Refusal::Expired));
        assert_eq!(at(1_000), Ok(()), "what was shown before is still good");
    }

    #[test]
    fn forgeries_and_tickets_for_others_are_refused() {
        let admission = admission();
        let (read, mine) = (ticket(Operation::Read, 0, 9), holder("mine"));
        let admit = |signed| admission.admit(CONNECTION, &mine, &[signed], NOW);
        let other_key = TicketKey([2; 32]).sign(read, &mine);
        assert_eq!(admit(other_key), Err(Refusal::NoTicket), "another server's key");
        let stolen = KEY.sign(read, &holder("yours"));
        assert_eq!(admit(stolen), Err(Refusal::NoTicket), "another's ticket");
        let elsewhere = KEY.sign(Ticket { server: ServerId(8), ..read }, &mine);
        assert_eq!(admit(elsewhere), Err(Refusal::NoTicket), "another server's ticket");
        let many = vec![KEY.sign(read, &mine); TICKETS_MAX + 1];
        let many = admission.admit(CONNECTION, &mine, &many, NOW);
        assert_eq!(many, Err(Refusal::Malformed));
        let read = admission.check(CONNECTION, Operation::Read, StripeId(1), NOW);
        assert_eq!(read, Err(Refusal::NoTicket));
    }

    #[test]
    fn nobody_is_admitted_before_the_server_knows_its_key() {
        assert_eq!(show(&Admission::default(), &[]), Err(Refusal::NoLeader));
    }
}
