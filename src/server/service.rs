//! Answering calls: who may ask what, and on which threads it is done.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use super::admission::Admission;
use super::membership::Standing;
use super::store::Store;
use super::unsent::Unsent;
use super::workers::{Panicked, Workers};
use crate::crypto::Identity;
use crate::env::clock::Clock;
use crate::env::system::rpc;
use crate::types::{Operation, StripeId};
use crate::wire::shards::{Refusal, Request, Response, ShardId, Verdict};
use crate::wire::{decode, encode};

/// Most shards of one [`Request::Verify`].
const VERIFY_MAX: usize = 4096;
/// Most shards of one that reads them.
const VERIFY_DEEP_MAX: usize = 64;
/// Threads for puts: as many shards wait for a sync together.
const WRITERS: usize = 16;
/// Threads for reads.
const READERS: usize = 8;

/// What the parts of a server share.
pub(super) struct Shared {
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    /// `None` until the server is registered.
    pub(super) standing: RwLock<Option<Standing>>,
    pub(super) admission: Admission,
}

impl Shared {
    /// Whether shards may be deleted now.
    pub(super) fn may_delete(&self) -> bool {
        let now = self.clock.monotonic();
        self.standing.read().is_some_and(|standing| standing.may_delete(now))
    }

    /// As whom shards may be put now; `None` when they may not.
    fn may_put(&self) -> Option<Standing> {
        let now = self.clock.monotonic();
        self.standing.read().filter(|standing| standing.may_put(now))
    }
}

/// Who asks.
#[derive(Clone, Copy)]
struct Asker<'a> {
    connection: u64,
    identity: &'a Identity,
}

/// Answers the calls of clients, servers and administration.
pub(super) struct Service {
    shared: Arc<Shared>,
    writers: Workers,
    readers: Workers,
    /// Reads whole shards, one at a time, whenever the disk has nothing better to do.
    scrubber: Workers,
    unsent: Unsent,
}

impl Service {
    pub(super) fn new(shared: Arc<Shared>) -> std::io::Result<Self> {
        Ok(Self {
            shared,
            writers: Workers::new("writer", WRITERS)?,
            readers: Workers::new("reader", READERS)?,
            scrubber: Workers::new("scrubber", 1)?,
            unsent: Unsent::default(),
        })
    }

    /// Answers a call; reads for it when its connection has fetched enough of what was read before.
    async fn answer_within_bounds(
        &self,
        caller: &rpc::Caller,
        request: Request,
        payload: Bytes,
    ) -> Result<(Response, Bytes), Refusal> {
        let asker = Asker { connection: caller.id, identity: &caller.identity };
        let Request::Get { count, .. } = request else {
            return self.answer(asker, request, payload).await;
        };
        let credit = self.unsent.take(caller.id, || caller.is_closed(), count).await;
        // Nobody hears the answer to a connection that is gone.
        let credit = credit.ok_or(Refusal::Forbidden)?;
        let (response, data) = self.answer(asker, request, payload).await?;
        Ok((response, credit.hold(data)))
    }

    /// Answers a call.
    async fn answer(
        &self,
        asker: Asker<'_>,
        request: Request,
        payload: Bytes,
    ) -> Result<(Response, Bytes), Refusal> {
        let response = match request {
            Request::Admit(tickets) => {
                let (admission, now) = (&self.shared.admission, self.shared.clock.now());
                admission.admit(asker.connection, asker.identity, &tickets, now)?;
                Response::Admitted
            }
            Request::Put(id) => {
                // The epoch of before: should the server register again meanwhile, the older one promises less.
                let standing = self.shared.may_put().ok_or(Refusal::NoLeader)?;
                self.check(asker, Operation::Write, id.stripe)?;
                self.put(standing, id, payload).await?
            }
            Request::Get { shard, first, count } => {
                self.check(asker, Operation::Read, shard.stripe)?;
                return self.get(shard, first, count).await;
            }
            Request::Verify { shards, deep } => {
                for shard in &shards {
                    self.check(asker, Operation::Read, shard.stripe)?;
                }
                self.verify(shards, deep).await?
            }
            Request::Ping => {
                let standing = *self.shared.standing.read();
                let member = standing.ok_or(Refusal::NoLeader)?.member;
                Response::Alive { server: member.server, epoch: member.epoch }
            }
        };
        Ok((response, Bytes::new()))
    }

    /// Refuses what the monitors have not allowed.
    fn check(
        &self,
        asker: Asker<'_>,
        operation: Operation,
        stripe: StripeId,
    ) -> Result<(), Refusal> {
        let now = self.shared.clock.now();
        self.shared.admission.check(asker.connection, operation, stripe, now)
    }

    async fn put(
        &self,
        standing: Standing,
        id: ShardId,
        image: Bytes,
    ) -> Result<Response, Refusal> {
        let shared = Arc::clone(&self.shared);
        let put = self.writers.run(move || shared.store.put(id, &image));
        let hash = put.await.map_err(|Panicked| Refusal::Disk)??;
        Ok(Response::Stored { hash, epoch: standing.member.epoch })
    }

    async fn get(&self, id: ShardId, first: u32, count: u32) -> Result<(Response, Bytes), Refusal> {
        let shared = Arc::clone(&self.shared);
        let get = self.readers.run(move || shared.store.get(id, first, count));
        let (checksums, data) = get.await.map_err(|Panicked| Refusal::Disk)??;
        Ok((Response::Blocks { checksums }, data))
    }

    async fn verify(&self, shards: Vec<ShardId>, deep: bool) -> Result<Response, Refusal> {
        let (workers, max) = match deep {
            true => (&self.scrubber, VERIFY_DEEP_MAX),
            false => (&self.readers, VERIFY_MAX),
        };
        if shards.len() > max {
            return Err(Refusal::Malformed);
        }
        let shared = Arc::clone(&self.shared);
        let verify = workers.run(move || {
            let verdicts = shards.iter().map(|id| shared.store.verify(*id, deep));
            verdicts.collect::<Vec<Verdict>>()
        });
        let verdicts = verify.await.map_err(|Panicked| Refusal::Disk)?;
        Ok(Response::Verdicts(verdicts))
    }
}

impl rpc::Service for Service {
    async fn call(
        self: Arc<Self>,
        caller: Arc<rpc::Caller>,
        header: Vec<u8>,
        payload: Bytes,
    ) -> rpc::Answer {
        let answered = match decode(&header) {
            Ok(request) => self.answer_within_bounds(&caller, request, payload).await,
            Err(error) => {
                log::warn!("{} sent a call that cannot be understood: {error}", caller.identity);
                Err(Refusal::Malformed)
            }
        };
        let (response, payload) =
            answered.unwrap_or_else(|refusal| (Response::Refused(refusal), Bytes::new()));
        if caller.is_closed() {
            // Its tickets may have come in after it was gone.
            self.shared.admission.forget(caller.id);
        }
        rpc::Answer { header: encode(&response), payload: vec![payload] }
    }

    fn closed(&self, caller: &rpc::Caller) {
        self.unsent.forget(caller.id);
        self.shared.admission.forget(caller.id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::codec::shard::{StripeIdent, build};
    use crate::crypto::Role;
    use crate::env::sim::ManualClock;
    use crate::env::sim::disk::SimDisk;
    use crate::server::membership::{Deleting, Member};
    use crate::types::{
        ClusterId, Epoch, Incarnation, ServerId, SessionId, ShardIndex, SignedTicket, Ticket,
        TicketKey, Timestamp, Width,
    };

    const CLUSTER: ClusterId = ClusterId(1);
    const KEY: TicketKey = TicketKey([7; 32]);

    fn service(standing: Option<Standing>) -> Service {
        let disk = Arc::new(SimDisk::new(1 << 30));
        let shared = Shared {
            store: Store::open(disk, CLUSTER, None).unwrap(),
            clock: Arc::new(ManualClock::new(Timestamp::default())),
            standing: RwLock::new(standing),
            admission: Admission::default(),
        };
        shared.admission.learn(ServerId(7), KEY);
        Service::new(Arc::new(shared)).unwrap()
    }

    fn client() -> Identity {
        Identity { cluster: CLUSTER, role: Role::Client, name: "c".to_owned() }
    }

    async fn ask(
        service: &Service,
        request: Request,
        payload: Bytes,
    ) -> Result<(Response, Bytes), Refusal> {
        let identity = client();
        service.answer(Asker { connection: 1, identity: &identity }, request, payload).await
    }

    fn ticket(operation: Operation, from: u64, to: u64) -> SignedTicket {
        let ticket = Ticket {
            server: ServerId(7),
            session: SessionId(2),
            operation,
            from: StripeId(from),
            to: StripeId(to),
            expires: Timestamp { seconds: 60, nanos: 0 },
        };
        KEY.sign(ticket, &client())
    }

    async fn admit(service: &Service, tickets: &[SignedTicket]) {
        let admitted = ask(service, Request::Admit(tickets.to_vec()), Bytes::new()).await;
        assert_eq!(admitted, Ok((Response::Admitted, Bytes::new())));
    }

    fn standing() -> Standing {
        Standing {
            member: Member { server: ServerId(7), epoch: Epoch(3) },
            heard: Duration::ZERO,
            deleting: Deleting::Allowed,
        }
    }

    fn image() -> (ShardId, Bytes) {
        let ident = StripeIdent {
            cluster: CLUSTER,
            incarnation: Incarnation(0),
            stripe: StripeId(5),
            width: Width { data: 1, parity: 0 },
        };
        let image = build(ident, &Bytes::from(vec![9; 8192]), &[]).remove(0);
        let id = ShardId { stripe: StripeId(5), index: ShardIndex(0) };
        let parts: Vec<Bytes> = std::iter::once(image.head).chain(image.data).collect();
        (id, Bytes::from(parts.concat()))
    }

    #[tokio::test]
    async fn a_shard_is_put_read_and_verified() {
        let service = service(Some(standing()));
        admit(&service, &[ticket(Operation::Write, 5, 6), ticket(Operation::Read, 5, 6)]).await;
        let (id, image) = image();
        let put = ask(&service, Request::Put(id), image).await;
        let (Response::Stored { hash, epoch }, _) = put.unwrap() else { panic!("not stored") };
        assert_eq!(epoch, Epoch(3));
        let get = Request::Get { shard: id, first: 1, count: 1 };
        let (_, data) = ask(&service, get, Bytes::new()).await.unwrap();
        assert_eq!(data, vec![9; 4096]);
        let verify = Request::Verify { shards: vec![id], deep: true };
        let verified = ask(&service, verify, Bytes::new()).await;
        let present = Response::Verdicts(vec![Verdict::Present { hash }]);
        assert_eq!(verified, Ok((present, Bytes::new())));
    }

    #[tokio::test]
    async fn puts_need_a_leader_and_sense() {
        let (id, image) = image();
        let without = service(None);
        let rights = [ticket(Operation::Write, 5, 6), ticket(Operation::Read, 5, 6)];
        admit(&without, &rights).await;
        let put = ask(&without, Request::Put(id), image.clone());
        assert_eq!(put.await, Err(Refusal::NoLeader));
        let verify = Request::Verify { shards: vec![id; 65], deep: true };
        assert_eq!(ask(&without, verify, Bytes::new()).await, Err(Refusal::Malformed));
        let with_leader = service(Some(standing()));
        admit(&with_leader, &rights).await;
        let torn = ask(&with_leader, Request::Put(id), image.slice(..8192));
        assert_eq!(torn.await, Err(Refusal::Malformed));
    }

    #[tokio::test]
    async fn nothing_is_given_or_taken_without_a_ticket_for_it() {
        let service = service(Some(standing()));
        let (id, image) = image();
        let put = Request::Put(id);
        let get = Request::Get { shard: id, first: 0, count: 1 };
        let verify = Request::Verify { shards: vec![id], deep: false };
        let none = [put.clone(), get.clone(), verify.clone()];
        for request in none {
            let refused = ask(&service, request, image.clone()).await;
            assert_eq!(refused, Err(Refusal::NoTicket));
        }
        // The ranges of other sessions, and a ticket for the other operation.
        admit(&service, &[ticket(Operation::Write, 0, 5), ticket(Operation::Write, 6, 9)]).await;
        assert_eq!(ask(&service, put.clone(), image.clone()).await, Err(Refusal::NoTicket));
        admit(&service, &[ticket(Operation::Read, 0, 9)]).await;
        assert_eq!(ask(&service, put.clone(), image.clone()).await, Err(Refusal::NoTicket));
        assert_eq!(ask(&service, get, Bytes::new()).await, Err(Refusal::NotFound));
        admit(&service, &[ticket(Operation::Write, 5, 6)]).await;
        assert_eq!(ask(&service, verify, Bytes::new()).await, Err(Refusal::NoTicket));
        ask(&service, put, image).await.unwrap();
        let ping = ask(&service, Request::Ping, Bytes::new()).await;
        assert!(matches!(ping, Ok((Response::Alive { .. }, _))));
    }
}
