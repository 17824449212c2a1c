//! Tickets: how a storage server knows what the monitors allow, without asking them.
//!
//! A server is asked for bytes by somebody of whom it knows the certificate and nothing else. Which stripes that
//! may be is known to the monitors, and they are not to be asked about every shard. So they tell the client
//! instead, in a **ticket** that the client shows to the server: *this holder may read (or write) these stripes
//! here until then*. The server believes it because of the code at its end, which only somebody who has the key can
//! make; the key is known to the monitors and to that server.
//!
//! Every server has a key of its own. A server that was taken over can make tickets, but only for itself, where
//! it could do as it likes anyhow; what clients show to it is worth nothing at another server. The code is
//! also over the holder's role and name, which are not part of what is sent: the server takes them from the
//! certificate of whoever shows the ticket, so one that was copied is worth nothing to anybody else.
//!
//! ```text
//! HMAC-SHA256( key, "okapifs ticket 1\n"
//!              server:8 session:8 operation:1 from:8 to:8 expires_s:8 expires_ns:4   big-endian
//!              role "/" name )                                                       of the holder
//! ```

use aws_lc_rs::hmac;

use super::Identity;
use crate::types::{Operation, SignedTicket, Ticket, TicketKey};

/// So that no other use of a key could ever give the same code.
const MARK: &[u8] = b"okapifs ticket 1\n";

impl TicketKey {
    /// A new key.
    ///
    /// # Panics
    ///
    /// When the system gives no random numbers.
    pub fn generate() -> Self {
        let mut key = [0; 32];
        aws_lc_rs::rand::fill(&mut key).expect("the system gives random numbers");
        Self(key)
    }

    /// Makes a ticket that is good for that holder.
    pub fn sign(&self, ticket: Ticket, holder: &Identity) -> SignedTicket {
        let mac = hmac::sign(&self.prepared(), &said(&ticket, holder));
        let mac = mac.as_ref().try_into().expect("HMAC-SHA256 has 32 bytes");
        SignedTicket { ticket, mac }
    }

    /// Whether who has this key made that ticket for that holder.
    pub fn has_signed(&self, signed: &SignedTicket, holder: &Identity) -> bool {
        hmac::verify(&self.prepared(), &said(&signed.ticket, holder), &signed.mac).is_ok()
    }

    fn prepared(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }
}

/// What the code is over. Only its last part varies in length: no two tickets give the same bytes.
fn said(ticket: &Ticket, holder: &Identity) -> Vec<u8> {
    let Ticket { server, session, operation, from, to, expires } = ticket;
    let operation = match operation {
        Operation::Read => 0,
        Operation::Write => 1,
    };
    let mut said = Vec::with_capacity(128);
    said.extend(MARK);
    said.extend(server.0.to_be_bytes());
    said.extend(session.0.to_be_bytes());
    said.push(operation);
    said.extend(from.0.to_be_bytes());
    said.extend(to.0.to_be_bytes());
    said.extend(expires.seconds.to_be_bytes());
    said.extend(expires.nanos.to_be_bytes());
    said.extend(holder.role.as_str().as_bytes());
    said.push(b'/');
    said.extend(holder.name.as_bytes());
    said
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::crypto::Role;
    use crate::types::{ClusterId, ServerId, SessionId, StripeId, Timestamp};

    const KEY: TicketKey = TicketKey([7; 32]);

    fn ticket() -> Ticket {
        Ticket {
            server: ServerId(1),
            session: SessionId(2),
            operation: Operation::Write,
            from: StripeId(1024),
            to: StripeId(2048),
            expires: Timestamp { seconds: 1_000, nanos: 5 },
        }
    }

    fn holder(role: Role, name: &str) -> Identity {
        Identity { cluster: ClusterId(3), role, name: name.to_owned() }
    }

    #[test]
    fn a_ticket_is_good_as_it_was_made_and_no_other() {
        let mine = holder(Role::Client, "mine");
        let signed = KEY.sign(ticket(), &mine);
        assert!(KEY.has_signed(&signed, &mine));
        let second = Timestamp { seconds: 1_001, nanos: 5 };
        let nano = Timestamp { seconds: 1_000, nanos: 6 };
        let others = [
            Ticket { server: ServerId(2), ..ticket() },
            Ticket { session: SessionId(3), ..ticket() },
            Ticket { operation: Operation::Read, ..ticket() },
            Ticket { from: StripeId(0), ..ticket() },
            Ticket { to: StripeId(4096), ..ticket() },
            Ticket { expires: second, ..ticket() },
            Ticket { expires: nano, ..ticket() },
        ];
        for other in others {
            assert!(!KEY.has_signed(&SignedTicket { ticket: other, ..signed }, &mine), "{other:?}");
        }
        for bit in 0..256 {
            let mut forged = signed;
            forged.mac[bit / 8] ^= 1 << (bit % 8);
            assert!(!KEY.has_signed(&forged, &mine), "bit {bit}");
        }
    }

    #[test]
    fn a_ticket_is_worth_nothing_to_another_holder_or_at_another_server() {
        let signed = KEY.sign(ticket(), &holder(Role::Client, "mine"));
        assert!(!KEY.has_signed(&signed, &holder(Role::Client, "yours")));
        assert!(!KEY.has_signed(&signed, &holder(Role::Agent, "mine")));
        assert!(!TicketKey([8; 32]).has_signed(&signed, &holder(Role::Client, "mine")));
        assert_ne!(TicketKey::generate(), TicketKey::generate());
        assert!(!format!("{KEY:?}").contains('7'));
    }

    #[test]
    fn a_ticket_covers_its_stripes_until_it_expires() {
        let covers = |stripe| ticket().covers(Operation::Write, StripeId(stripe));
        assert_eq!([1023, 1024, 2047, 2048].map(covers), [false, true, true, false]);
        assert!(!ticket().covers(Operation::Read, StripeId(1024)));
        let expired = |seconds| {
            ticket().has_expired(Timestamp { seconds, nanos: 0 }, Duration::from_secs(300))
        };
        assert_eq!([999, 1_300, 1_301].map(expired), [false, false, true]);
    }
}
