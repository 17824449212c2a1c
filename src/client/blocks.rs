//! Blocks of stripes: from the cache, from their server, or decoded from the other shards.
//!
//! A stripe never changes, so a cached block is right for ever; what may go stale is only the map that led to
//! it. Every block that arrives is checked against the checksum its writer made.
//!
//! The shard that has the wanted blocks is asked first. When it errs, sends damaged blocks, or is later than
//! its kind usually is, the same blocks of the other shards are fetched as well and decoded; the first that
//! succeeds is taken.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tokio::sync::{Semaphore, watch};

use super::avoid::Avoided;
use super::core::latency::Latency;
use super::core::plan::{ShardRange, shard_ranges};
use super::link::{ShardError, Shards};
use super::session::Session;
use crate::codec::{checksum, erasure};
use crate::types::limits::BLOCK;
use crate::types::{ServerId, ServerState, ShardIndex, StripeId, StripeRecord};
use crate::wire::shards::ShardId;

const CACHE_BYTES: u64 = 96 << 20;
const BLOCK_BYTES: usize = BLOCK as usize;
/// Blocks in one element of the cache: 256 KiB.
const CHUNK: u32 = 64;
/// Chunks fetched ahead by one call.
const PREFETCH_CHUNKS: u32 = 4;
/// How long a server that was late is not waited for alone.
const LATE_FOR: Duration = Duration::from_secs(2);
/// Calls that read ahead at a time.
const PREFETCHING: usize = 16;

/// Too few shards could be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Unreadable(pub(crate) StripeId);

/// See the module.
pub(crate) struct Blocks {
    session: Arc<Session>,
    shards: Arc<dyn Shards>,
    avoided: Arc<Avoided>,
    cache: Cache<ChunkKey, Chunk, ChunkBytes>,
    /// Chunks that are being fetched ahead; the channel closes when they are there.
    fetching: Mutex<HashMap<ChunkKey, watch::Receiver<()>>>,
    prefetching: Arc<Semaphore>,
    latency: Mutex<Latency>,
    complained: Mutex<HashSet<ShardId>>,
    /// Servers that were slower than decoding, and until when nobody waits for them alone.
    late: Mutex<HashMap<ServerId, Duration>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct ChunkKey {
    stripe: StripeId,
    index: ShardIndex,
    chunk: u32,
}

/// Some of a chunk's blocks, from the shard's block `first` on.
#[derive(Clone)]
struct Chunk {
    first: u32,
    data: Bytes,
}

#[derive(Clone)]
struct ChunkBytes;

impl Weighter<ChunkKey, Chunk> for ChunkBytes {
    fn weight(&self, _key: &ChunkKey, chunk: &Chunk) -> u64 {
        chunk.data.len() as u64 + 64
    }
}

/// A part of a read: here already, or to be fetched.
enum Part {
    Here(Bytes),
    Missing { first: u32, count: u32 },
}

impl Blocks {
    /// Nothing cached yet.
    pub(crate) fn new(
        session: Arc<Session>,
        shards: Arc<dyn Shards>,
        avoided: Arc<Avoided>,
    ) -> Arc<Self> {
        let items = usize::try_from(CACHE_BYTES).expect("fits") / BLOCK_BYTES / 4;
        Arc::new(Self {
            session,
            shards,
            avoided,
            cache: Cache::with_weighter(items, CACHE_BYTES, ChunkBytes),
            fetching: Mutex::default(),
            prefetching: Arc::new(Semaphore::new(PREFETCHING)),
            latency: Mutex::default(),
            complained: Mutex::default(),
            late: Mutex::default(),
        })
    }

    /// Reads a part of a stripe's payload.
    pub(crate) async fn read(
        &self,
        stripe: &StripeRecord,
        offset: u32,
        length: u32,
    ) -> Result<Vec<Bytes>, Unreadable> {
        let ranges = shard_ranges(stripe, offset, length);
        let reads = join_all(ranges.iter().map(|range| self.read_range(stripe, range))).await;
        let mut all = Vec::new();
        for bytes in reads {
            all.extend(bytes?);
        }
        Ok(all)
    }

    /// Reads a part of a stripe's payload if all of it is cached.
    pub(crate) fn try_read(
        &self,
        stripe: &StripeRecord,
        offset: u32,
        length: u32,
    ) -> Option<Vec<Bytes>> {
        let mut all = Vec::new();
        for range in shard_ranges(stripe, offset, length) {
            let parts = self.cached_parts(stripe.id, &range).into_iter().map(|part| match part {
                Part::Here(bytes) => Some(bytes),
                Part::Missing { .. } => None,
            });
            all.extend(trim(parts.collect::<Option<Vec<Bytes>>>()?, &range));
        }
        Some(all)
    }

    /// Begins to fetch a part of a stripe's payload, whole chunks of it, into the cache.
    pub(crate) fn prefetch(self: &Arc<Self>, stripe: &Arc<StripeRecord>, offset: u32, length: u32) {
        let blocks = stripe.width.shard_bytes(stripe.length) / BLOCK;
        for range in shard_ranges(stripe, offset, length) {
            let last = (range.first + range.count - 1) / CHUNK;
            let mut chunk = range.first / CHUNK;
            while chunk <= last {
                let wanted = self.claim(stripe.id, range.index, chunk, last);
                let Some((first_chunk, count, done)) = wanted else {
                    break;
                };
                let first = first_chunk * CHUNK;
                let end = ((first_chunk + count) * CHUNK).min(blocks);
                self.spawn_prefetch(stripe, range.index, first, end - first, done);
                chunk = first_chunk + count;
            }
        }
    }

    fn spawn_prefetch(
        self: &Arc<Self>,
        stripe: &Arc<StripeRecord>,
        index: ShardIndex,
        first: u32,
        count: u32,
        done: watch::Sender<()>,
    ) {
        let (blocks, stripe) = (Arc::clone(self), Arc::clone(stripe));
        tokio::spawn(async move {
            // Never closed.
            let permit = Arc::clone(&blocks.prefetching).acquire_owned().await.ok();
            // What cannot be fetched ahead is found unreadable when it is read.
            blocks.fetch(&stripe, index, first, count).await.ok();
            let mut fetching = blocks.fetching.lock();
            for chunk in first / CHUNK..(first + count).div_ceil(CHUNK) {
                fetching.remove(&ChunkKey { stripe: stripe.id, index, chunk });
            }
            drop((fetching, done, permit));
        });
    }

    /// The next few chunks of `from..=last` that nobody fetches and that are not there; they are ours to fetch.
    fn claim(
        &self,
        stripe: StripeId,
        index: ShardIndex,
        from: u32,
        last: u32,
    ) -> Option<(u32, u32, watch::Sender<()>)> {
        let mut fetching = self.fetching.lock();
        let key = |chunk| ChunkKey { stripe, index, chunk };
        let free = |chunk: &u32| {
            !fetching.contains_key(&key(*chunk)) && self.cache.peek(&key(*chunk)).is_none()
        };
        let first = (from..=last).find(|chunk| free(chunk))?;
        let run = (first..=last).take(PREFETCH_CHUNKS as usize).take_while(|chunk| free(chunk));
        let count = u32::try_from(run.count()).expect("a few");
        let (done, waits) = watch::channel(());
        for chunk in first..first + count {
            fetching.insert(key(chunk), waits.clone());
        }
        Some((first, count, done))
    }

    async fn read_range(
        &self,
        stripe: &StripeRecord,
        range: &ShardRange,
    ) -> Result<Vec<Bytes>, Unreadable> {
        self.wait_for_prefetch(stripe.id, range).await;
        let parts = self.cached_parts(stripe.id, range);
        let reads = parts.into_iter().map(|part| async {
            match part {
                Part::Here(bytes) => Ok(bytes),
                Part::Missing { first, count } => {
                    self.fetch(stripe, range.index, first, count).await
                }
            }
        });
        let parts: Result<Vec<Bytes>, Unreadable> = join_all(reads).await.into_iter().collect();
        Ok(trim(parts?, range))
    }

    async fn wait_for_prefetch(&self, stripe: StripeId, range: &ShardRange) {
        for (chunk, _, _) in chunks(range.first, range.count) {
            let key = ChunkKey { stripe, index: range.index, chunk };
            let waits = self.fetching.lock().get(&key).cloned();
            if let Some(mut waits) = waits {
                // It ends with an error, when the sender is dropped: that is the signal.
                waits.changed().await.ok();
            }
        }
    }

    /// The blocks of a range, as far as they are cached; what follows one another and is missing is one part.
    fn cached_parts(&self, stripe: StripeId, range: &ShardRange) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        for (chunk, first, count) in chunks(range.first, range.count) {
            let cached = self.cache.get(&ChunkKey { stripe, index: range.index, chunk });
            let here = cached.and_then(|cached| slice(&cached, first, count));
            match (here, parts.last_mut()) {
                (Some(bytes), _) => parts.push(Part::Here(bytes)),
                (None, Some(Part::Missing { count: missing, .. })) => *missing += count,
                (None, _) => parts.push(Part::Missing { first, count }),
            }
        }
        parts
    }

    /// Fetches blocks of a data shard, however it takes, and caches them.
    async fn fetch(
        &self,
        stripe: &StripeRecord,
        index: ShardIndex,
        first: u32,
        count: u32,
    ) -> Result<Bytes, Unreadable> {
        let blocks = self.fetch_hedged(stripe, index, first, count).await?;
        for (chunk, start, length) in chunks(first, count) {
            let at = (start - first) as usize * BLOCK_BYTES;
            let data = blocks.slice(at..at + length as usize * BLOCK_BYTES);
            let key = ChunkKey { stripe: stripe.id, index, chunk };
            let more = self.cache.peek(&key).is_none_or(|cached| cached.data.len() < data.len());
            if more {
                self.cache.insert(key, Chunk { first: start, data });
            }
        }
        Ok(blocks)
    }

    async fn fetch_hedged(
        &self,
        stripe: &StripeRecord,
        index: ShardIndex,
        first: u32,
        count: u32,
    ) -> Result<Bytes, Unreadable> {
        let hedge_after = match self.is_well(stripe, index) {
            true => self.latency.lock().hedge_after(),
            false => Duration::ZERO,
        };
        let direct = self.get(stripe, index, first, count);
        tokio::pin!(direct);
        let mut direct_failed = match tokio::time::timeout(hedge_after, &mut direct).await {
            Ok(Ok(blocks)) => return Ok(blocks),
            Ok(Err(_)) => true,
            Err(_late) => false,
        };
        let decoded = self.decode(stripe, index, first, count);
        tokio::pin!(decoded);
        loop {
            tokio::select! {
                result = &mut direct, if !direct_failed => match result {
                    Ok(blocks) => return Ok(blocks),
                    Err(_) => direct_failed = true,
                },
                result = &mut decoded => match result {
                    Ok(blocks) => {
                        if direct_failed {
                            return Ok(blocks);
                        }
                        let server = stripe.shards[usize::from(index.0)].server;
                        self.late.lock().insert(server, self.session.monotonic() + LATE_FOR);
                        return Ok(blocks);
                    }
                    Err(error) if direct_failed => return Err(error),
                    Err(error) => return direct.await.map_err(|_| error),
                },
            }
        }
    }

    /// Decodes blocks of one data shard from the same blocks of the others.
    async fn decode(
        &self,
        stripe: &StripeRecord,
        wanted: ShardIndex,
        first: u32,
        count: u32,
    ) -> Result<Bytes, Unreadable> {
        let needed = usize::from(stripe.width.data);
        let mut others: Vec<ShardIndex> = (0..stripe.shards.len())
            .map(|index| ShardIndex(u8::try_from(index).expect("at most 40 shards")))
            .filter(|index| *index != wanted)
            .collect();
        // Asked from the end: servers that are well come first.
        others.sort_by_key(|index| self.is_well(stripe, *index));
        let mut shards: Vec<Option<Vec<u8>>> = vec![None; stripe.shards.len()];
        let mut present = 0;
        let mut gets = FuturesUnordered::new();
        let get =
            |index: ShardIndex| async move { (index, self.get(stripe, index, first, count).await) };
        for _ in 0..needed {
            gets.extend(others.pop().map(get));
        }
        let patience = self.latency.lock().hedge_after() * 2;
        while present < needed {
            tokio::select! {
                got = gets.next() => match got {
                    Some((index, Ok(blocks))) => {
                        shards[usize::from(index.0)] = Some(blocks.to_vec());
                        present += 1;
                    }
                    Some((_, Err(_))) => gets.extend(others.pop().map(get)),
                    None => return Err(Unreadable(stripe.id)),
                },
                () = tokio::time::sleep(patience), if !others.is_empty() => {
                    gets.extend(others.pop().map(get));
                }
            }
        }
        erasure::reconstruct(stripe.width, &mut shards).map_err(|_| Unreadable(stripe.id))?;
        let decoded = shards[usize::from(wanted.0)].take();
        decoded.map(Bytes::from).ok_or(Unreadable(stripe.id))
    }

    /// Blocks of one shard from its server, checked.
    async fn get(
        &self,
        stripe: &StripeRecord,
        index: ShardIndex,
        first: u32,
        count: u32,
    ) -> Result<Bytes, ShardError> {
        let shard = ShardId { stripe: stripe.id, index };
        let server = stripe.shards[usize::from(index.0)].server;
        let since = self.session.monotonic();
        let (checksums, blocks) = self.shards.get(server, shard, first, count).await?;
        self.latency.lock().record(self.session.monotonic().saturating_sub(since));
        let damaged = checksum::damaged_blocks(stripe.id, index, first, &blocks, &checksums);
        if damaged.is_empty() {
            return Ok(blocks);
        }
        self.complain(shard, server, &damaged);
        Err(ShardError::Damaged)
    }

    fn complain(&self, shard: ShardId, server: ServerId, blocks: &[u32]) {
        if self.complained.lock().insert(shard) {
            let (stripe, index) = (shard.stripe, shard.index);
            log::error!(
                "stripe {stripe}: blocks {blocks:?} of shard {index} on server {server} are damaged; what \
                 was in them is decoded from the other shards"
            );
        }
    }

    /// Whether the server of a shard is likely to answer.
    fn is_well(&self, stripe: &StripeRecord, index: ShardIndex) -> bool {
        let server = stripe.shards[usize::from(index.0)].server;
        let placement = self.session.placement();
        let entry = placement.servers.iter().find(|entry| entry.id == server);
        let late =
            self.late.lock().get(&server).is_some_and(|until| self.session.monotonic() < *until);
        !late
            && entry.is_some_and(|entry| entry.state == ServerState::Up)
            && !self.avoided.contains(server)
    }
}

/// The chunks that blocks lie in: the chunk's number, the first block in it, and how many.
fn chunks(first: u32, count: u32) -> impl Iterator<Item = (u32, u32, u32)> {
    let end = first + count;
    (first / CHUNK..end.div_ceil(CHUNK)).map(move |chunk| {
        let start = first.max(chunk * CHUNK);
        (chunk, start, end.min((chunk + 1) * CHUNK) - start)
    })
}

/// Blocks `first..first + count` if the cached ones include them.
fn slice(cached: &Chunk, first: u32, count: u32) -> Option<Bytes> {
    let at = first.checked_sub(cached.first)? as usize * BLOCK_BYTES;
    let end = at + count as usize * BLOCK_BYTES;
    (end <= cached.data.len()).then(|| cached.data.slice(at..end))
}

/// Cuts whole blocks down to the bytes that are wanted.
fn trim(parts: Vec<Bytes>, range: &ShardRange) -> Vec<Bytes> {
    let (mut skip, mut left) = (range.skip as usize, range.length as usize);
    let mut wanted = Vec::with_capacity(parts.len());
    for part in parts {
        let from = skip.min(part.len());
        let to = part.len().min(from + left);
        if from < to {
            wanted.push(part.slice(from..to));
        }
        skip -= from;
        left -= to - from;
    }
    wanted
}
