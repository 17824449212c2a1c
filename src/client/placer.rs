//! Makes a stripe durable: cuts it into shards, sends them all at once, and does not give up.
//!
//! The decisions are those of [`placement`] and [`placing`]; here are the encoding, the calls and the clock.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};

use super::avoid::Avoided;
use super::core::placement::{self, Choice};
use super::core::placing::{Cluster, Event, Placing, Step};
use super::link::{ShardError, Shards};
use super::session::Session;
use crate::codec::shard::{self, ShardImage, StripeIdent};
use crate::types::{
    Codec, Epoch, Errno, PlacementMap, ServerId, ServerState, ShardIndex, ShardPlace, StripeId,
    StripePiece, StripeRecord, VolumeId, Width,
};
use crate::wire::shards::{Refusal, ShardId};

/// How often to look again when there are too few servers.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How often to look after shards that are late.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// See the module.
pub(crate) struct Placer {
    session: Arc<Session>,
    shards: Arc<dyn Shards>,
    avoided: Arc<Avoided>,
}

/// A stripe whose shards are all durable.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    /// What is to be committed.
    pub(crate) record: Arc<StripeRecord>,
    /// By shard index: the epoch of its server.
    pub(crate) epochs: Vec<Epoch>,
}

/// How one attempt ended.
enum Attempt {
    Placed(Placed),
    /// Try again with other servers; `full`: one had no room.
    Again {
        full: bool,
    },
}

impl Placer {
    /// A placer.
    pub(crate) fn new(
        session: Arc<Session>,
        shards: Arc<dyn Shards>,
        avoided: Arc<Avoided>,
    ) -> Self {
        Self { session, shards, avoided }
    }

    /// Places a stripe of that volume, under as many ids and in whatever width it takes. Waits while there are too few
    /// servers. [`Session::stripe_done`] must be told of the id in the end.
    ///
    /// # Errors
    ///
    /// [`Errno::NoSpace`] when the servers that are up have no room.
    pub(crate) async fn place(
        &self,
        volume: VolumeId,
        payload: &Bytes,
        pieces: &[StripePiece],
    ) -> Result<Placed, Errno> {
        let length = u32::try_from(payload.len()).expect("a stripe's length fits");
        let (mut complained, mut full) = (false, false);
        loop {
            let (map, avoided) = (self.session.placement(), self.avoided.all());
            let Some(policy) = map.volume(volume) else {
                self.session.renew().await;
                self.wait_for_servers().await;
                continue;
            };
            // Whether it can be placed at all does not depend on the id, and none is to be wasted.
            if let Choice::Wait { up, needed } =
                placement::choose(&map, policy, &avoided, StripeId(0), length)
            {
                if full {
                    return Err(Errno::NoSpace);
                }
                if !complained {
                    log::warn!(
                        "writes wait: servers in {up} failure domains can be written to, at least \
                         {needed} are needed"
                    );
                    complained = true;
                }
                self.wait_for_servers().await;
                continue;
            }
            if complained {
                log::info!("enough servers are up again: writing goes on");
                complained = false;
            }
            let id = self.session.next_stripe().await;
            let choice = placement::choose(&map, policy, &avoided, id, length);
            if let Choice::Place(width, servers) = choice {
                match self.attempt((id, volume), width, &servers, payload, pieces).await {
                    Attempt::Placed(placed) => return Ok(placed),
                    Attempt::Again { full: one_is } => full |= one_is,
                }
            }
            self.session.stripe_done(id);
        }
    }

    async fn wait_for_servers(&self) {
        let mut placement = self.session.watch_placement();
        tokio::select! {
            _ = placement.changed() => {}
            () = self.avoided.forgiven.notified() => {}
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }

    async fn attempt(
        &self,
        (id, volume): (StripeId, VolumeId),
        width: Width,
        servers: &[ServerId],
        payload: &Bytes,
        pieces: &[StripePiece],
    ) -> Attempt {
        let ident = StripeIdent {
            cluster: self.session.cluster(),
            incarnation: self.session.incarnation(),
            stripe: id,
            width,
        };
        let images = shard::build(ident, payload, pieces);
        let length = u32::try_from(payload.len()).expect("a stripe's length fits");
        let cluster = Surroundings { placer: self, volume, stripe: id, length };
        let mut placing = Placing::new(usize::from(width.data), servers, self.session.monotonic());
        let mut puts = FuturesUnordered::new();
        for (index, &server) in servers.iter().enumerate() {
            puts.push(self.put(id, index, server, &images[index]));
        }
        let mut placement = self.session.watch_placement();
        let mut full = false;
        loop {
            let event = tokio::select! {
                Some((index, server, result)) = puts.next() => {
                    full |= result == Err(ShardError::Refused(Refusal::Full));
                    outcome(id, index, server, result)
                }
                () = self.sleep_until(placing.deadline()) => Event::Tick,
                _ = placement.changed() => match gone(&placement.borrow(), &placing) {
                    Some((index, server)) => Event::Failed(index, server),
                    None => continue,
                },
            };
            for step in placing.on(event, self.session.monotonic(), &cluster) {
                match step {
                    Step::Put(index, server) => {
                        puts.push(self.put(id, index, server, &images[index]));
                    }
                    Step::Avoid(server) => {
                        self.avoided.add(server);
                        self.session.report_stalled(server);
                    }
                    Step::Narrow => return Attempt::Again { full },
                    Step::Placed(places) => {
                        return Attempt::Placed(placed(id, width, length, &images, &places));
                    }
                }
            }
        }
    }

    fn put(
        &self,
        stripe: StripeId,
        index: usize,
        server: ServerId,
        image: &ShardImage,
    ) -> impl Future<Output = (usize, ServerId, Result<Epoch, ShardError>)> + use<> {
        let shard = ShardId { stripe, index: shard_index(index) };
        let mut bytes = Vec::with_capacity(1 + image.data.len());
        bytes.push(image.head.clone());
        bytes.extend(image.data.iter().cloned());
        let expected = image.hash;
        let put = self.shards.put(server, shard, bytes);
        async move {
            let result = match put.await {
                Ok((hash, epoch)) if hash == expected => Ok(epoch),
                Ok(_) => Err(ShardError::Damaged),
                Err(error) => Err(error),
            };
            (index, server, result)
        }
    }

    async fn sleep_until(&self, deadline: Option<Duration>) {
        match deadline {
            Some(deadline) => {
                // A shard that is late and has nowhere else to go stays due: it is looked at now and then.
                let left = deadline.saturating_sub(self.session.monotonic());
                tokio::time::sleep(left.max(LOOK_PAUSE)).await;
            }
            None => std::future::pending().await,
        }
    }
}

/// What the decisions ask about the cluster, as it is now: a server that comes back while one is waited for is a
/// spare.
struct Surroundings<'a> {
    placer: &'a Placer,
    volume: VolumeId,
    stripe: StripeId,
    length: u32,
}

impl Surroundings<'_> {
    fn without(&self, tried: &[ServerId]) -> Vec<ServerId> {
        let mut without = self.placer.avoided.all();
        without.extend(tried);
        without
    }
}

impl Cluster for Surroundings<'_> {
    fn spare(&self, kept: &[ServerId], tried: &[ServerId]) -> Option<ServerId> {
        let map = self.placer.session.placement();
        placement::spare(&map, &self.without(tried), kept, self.stripe)
    }

    fn can_narrow(&self, tried: &[ServerId]) -> bool {
        let map = self.placer.session.placement();
        let without = self.without(tried);
        let choice = map
            .volume(self.volume)
            .map(|volume| placement::choose(&map, volume, &without, self.stripe, self.length));
        matches!(choice, Some(Choice::Place(..)))
    }
}

fn outcome(
    stripe: StripeId,
    index: usize,
    server: ServerId,
    result: Result<Epoch, ShardError>,
) -> Event {
    match result {
        Ok(epoch) => Event::Finished(index, server, epoch),
        Err(error) => {
            log::debug!(
                "shard {index} of stripe {stripe} was not stored on server {server}: {error}"
            );
            Event::Failed(index, server)
        }
    }
}

/// A shard that waits for a server which the monitors have given up.
fn gone(map: &PlacementMap, placing: &Placing) -> Option<(usize, ServerId)> {
    placing.waiting().find(|(_, server)| {
        let entry = map.servers.iter().find(|entry| entry.id == *server);
        entry.is_none_or(|entry| entry.state == ServerState::Down)
    })
}

fn placed(
    id: StripeId,
    width: Width,
    length: u32,
    images: &[ShardImage],
    places: &[(ServerId, Epoch)],
) -> Placed {
    let shards = images.iter().zip(places);
    let shards =
        shards.map(|(image, (server, _))| ShardPlace { server: *server, hash: image.hash });
    let record =
        StripeRecord { id, width, codec: Codec::ReedSolomon, length, shards: shards.collect() };
    Placed { record: Arc::new(record), epochs: places.iter().map(|(_, epoch)| *epoch).collect() }
}

fn shard_index(index: usize) -> ShardIndex {
    ShardIndex(u8::try_from(index).expect("at most 40 shards"))
}
