//! A file's content against the simplest model there is, an array of bytes: random writes, truncations, holes,
//! freezes, commits in order, lost stripes and forgotten maps, and after each step everything must read right.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use crate::client::core::BLOCK64;
use crate::client::core::layers::Source;
use crate::client::core::map::FileMap;
use crate::client::core::pool::Pool;
use crate::client::file::{File, FileState, Grant};
use crate::client::freeze::{Collector, Frozen, Which};
use crate::types::limits::BLOCK;
use crate::types::{
    Codec, DataVersion, Extent, Ino, OpSeq, StripeId, StripePiece, StripeRecord, Width,
};
use crate::wire::metadata::Extents;

const INO: Ino = Ino(9);
const SIZE_MAX: u64 = 64 * 1024;

#[derive(Clone, Debug)]
enum Step {
    Write { offset: u64, length: usize, fill: u8 },
    Append { length: usize, fill: u8 },
    Truncate { size: u64 },
    Punch { first: u64, blocks: u64 },
    Freeze { all: bool },
    Commit,
    Refuse,
    ForgetMap { portion: u64 },
}

fn steps() -> impl Strategy<Value = Step> {
    let (offset, length) = (0..SIZE_MAX, 1usize..9000);
    let aligned = (0..SIZE_MAX / BLOCK64).prop_map(|block| block * BLOCK64);
    prop_oneof![
        4 => (offset, length.clone(), 1u8..)
            .prop_map(|(offset, length, fill)| Step::Write { offset, length, fill }),
        4 => (aligned, 1usize..4, 1u8..).prop_map(|(offset, blocks, fill)| Step::Write {
            offset,
            length: blocks * BLOCK as usize,
            fill,
        }),
        2 => (length, 1u8..).prop_map(|(length, fill)| Step::Append { length, fill }),
        1 => (0..SIZE_MAX).prop_map(|size| Step::Truncate { size }),
        1 => (0u64..16, 1u64..5).prop_map(|(first, blocks)| Step::Punch { first, blocks }),
        3 => any::<bool>().prop_map(|all| Step::Freeze { all }),
        3 => Just(Step::Commit),
        1 => Just(Step::Refuse),
        1 => (3000u64..40_000).prop_map(|portion| Step::ForgetMap { portion }),
    ]
}

/// The file, the stripes that are durable, the map as the monitors have it, and what it all should read as.
struct World {
    file: Arc<File>,
    pool: Arc<Pool>,
    stripes: BTreeMap<StripeId, Bytes>,
    told: BTreeMap<u64, Extent>,
    records: BTreeMap<StripeId, StripeRecord>,
    frozen: VecDeque<Frozen>,
    model: Vec<u8>,
    seq: u64,
    next_stripe: u64,
}

impl World {
    fn new() -> Self {
        let file = File::new(INO);
        {
            let mut state = file.state.lock();
            state.grant = Grant::Held;
            state.map = FileMap::empty(DataVersion(0));
        }
        Self {
            file,
            pool: Pool::new(4),
            stripes: BTreeMap::new(),
            told: BTreeMap::new(),
            records: BTreeMap::new(),
            frozen: VecDeque::new(),
            model: Vec::new(),
            seq: 1,
            next_stripe: 1,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Write { offset, length, fill } => self.write(offset, &pattern(length, fill)),
            Step::Append { length, fill } => {
                self.write(self.model.len() as u64, &pattern(length, fill));
            }
            Step::Truncate { size } => self.truncate(size),
            Step::Punch { first, blocks } => {
                self.punch(first * BLOCK64, (first + blocks) * BLOCK64);
            }
            Step::Freeze { all } => self.freeze(if all { Which::All } else { Which::Small }),
            Step::Commit => self.commit(),
            Step::Refuse => self.refuse(),
            Step::ForgetMap { portion } => self.forget_map(portion),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let range = offset..offset + data.len() as u64;
        let mut state = self.file.state.lock();
        let missing: Vec<u64> = state.buffer.missing(&range, state.size).collect();
        for block in missing {
            let end = (block + BLOCK64).min(state.size);
            let content = self.read(&state, block, end);
            state.buffer.fill(block, &content, Duration::ZERO, &self.pool);
        }
        state.buffer.write(offset, data, Duration::ZERO, &self.pool);
        state.size = state.size.max(range.end);
        drop(state);
        if self.model.len() < range.end as usize {
            self.model.resize(range.end as usize, 0);
        }
        self.model[range.start as usize..range.end as usize].copy_from_slice(data);
    }

    fn truncate(&mut self, size: u64) {
        self.file.state.lock().buffer.truncate(size);
        self.settle();
        self.file.state.lock().truncate(size);
        self.tell_hole(size, u64::MAX);
        self.model.resize(size as usize, 0);
    }

    fn punch(&mut self, start: u64, end: u64) {
        self.file.state.lock().buffer.punch(&(start..end), &self.pool);
        self.settle();
        self.file.state.lock().map.punch(&(start..end));
        self.tell_hole(start, end);
        let length = self.model.len();
        self.model[length.min(start as usize)..length.min(end as usize)].fill(0);
    }

    fn freeze(&mut self, which: Which) {
        let mut collector = Collector::new(self.seq, which, &self.pool);
        collector.add(&self.file, &mut self.file.state.lock());
        if let Some(frozen) = collector.finish(false) {
            self.seq += 1;
            self.frozen.push_back(frozen);
        }
    }

    fn commit(&mut self) {
        let Some(frozen) = self.frozen.pop_front() else {
            return;
        };
        let id = StripeId(self.next_stripe);
        self.next_stripe += 1;
        let record = StripeRecord {
            id,
            width: Width { data: 1, parity: 0 },
            codec: Codec::ReedSolomon,
            length: frozen.payload.len() as u32,
            shards: vec![crate::types::ShardPlace {
                server: crate::types::ServerId(1),
                hash: crate::types::ShardHash::default(),
            }],
        };
        let pieces = frozen.pieces();
        let mut state = self.file.state.lock();
        for piece in &pieces {
            assert_eq!(piece.file_offset % BLOCK64, 0);
            assert_eq!(piece.stripe_offset % BLOCK, 0);
            state.map.commit(piece, &Arc::new(record.clone()));
        }
        state.frozen.retain(|part| part.seq != frozen.seq);
        drop(state);
        pieces.iter().for_each(|piece| self.tell(piece, id));
        self.stripes.insert(id, frozen.payload.clone());
        self.records.insert(id, record);
    }

    /// The first commit is refused after the second was accepted: what is left of it follows.
    fn refuse(&mut self) {
        let Some(first) = self.frozen.pop_front() else {
            return;
        };
        let newer: Vec<_> = self.frozen.front().map(Frozen::pieces).unwrap_or_default();
        self.commit();
        let newer: Vec<_> = newer
            .iter()
            .map(|piece| {
                (piece.ino, piece.file_offset..piece.file_offset + u64::from(piece.length))
            })
            .collect();
        let left = crate::client::core::pack::without(&first.pieces(), &newer);
        first.keep_pieces(left);
        self.frozen.push_front(first);
        self.commit();
    }

    fn settle(&mut self) {
        while !self.frozen.is_empty() {
            self.commit();
        }
    }

    /// As the monitors do it: the new extent replaces what it covers, to the end of its last block.
    fn tell(&mut self, piece: &StripePiece, stripe: StripeId) {
        let end = piece.file_offset + u64::from(piece.length);
        self.tell_hole(piece.file_offset, end);
        let extent = Extent {
            offset: piece.file_offset,
            length: piece.length,
            stripe,
            stripe_offset: piece.stripe_offset,
            birth: OpSeq(1),
        };
        self.told.insert(extent.offset, extent);
    }

    fn tell_hole(&mut self, start: u64, end: u64) {
        for extent in std::mem::take(&mut self.told).into_values() {
            let head = extent.offset..extent.end().min(start);
            let tail = extent.offset.max(end)..extent.end();
            for part in [head, tail] {
                if part.start < part.end {
                    let cut = Extent {
                        offset: part.start,
                        length: (part.end - part.start) as u32,
                        stripe_offset: extent.stripe_offset + (part.start - extent.offset) as u32,
                        ..extent
                    };
                    self.told.insert(cut.offset, cut);
                }
            }
        }
    }

    /// The map is forgotten and told again in portions.
    fn forget_map(&mut self, portion: u64) {
        let mut state = self.file.state.lock();
        state.map.forget();
        let mut from = 0;
        while from < SIZE_MAX * 2 {
            let to = from + portion;
            let touches = |extent: &&Extent| extent.offset < to && from < extent.end();
            let extents: Vec<Extent> = self.told.values().filter(touches).copied().collect();
            let named =
                |record: &&StripeRecord| extents.iter().any(|extent| extent.stripe == record.id);
            let stripes = self.records.values().filter(named).cloned().collect();
            assert_eq!(state.map.first_unknown(&(from..to)), Some(from));
            assert!(state.map.install(Extents { from, to, extents, stripes }));
            from = to;
        }
        assert!(state.map.knows(&(0..SIZE_MAX)));
    }

    fn read(&self, state: &FileState, start: u64, end: u64) -> Vec<u8> {
        let layers = state.compose(start..end).expect("all of the map is known");
        let mut bytes = Vec::new();
        for segment in layers.finish() {
            assert_eq!(
                segment.range.start,
                start + bytes.len() as u64,
                "segments follow one another"
            );
            let length = (segment.range.end - segment.range.start) as usize;
            match segment.source {
                Source::Bytes(part) => bytes.extend_from_slice(&part),
                Source::Zeros => bytes.extend(vec![0; length]),
                Source::Stripe(record, offset) => {
                    let payload = &self.stripes[&record.id];
                    bytes.extend_from_slice(&payload[offset as usize..offset as usize + length]);
                }
            }
        }
        assert_eq!(bytes.len() as u64, end - start);
        bytes
    }

    fn check(&self) {
        let state = self.file.state.lock();
        assert_eq!(state.size, self.model.len() as u64);
        let content = self.read(&state, 0, state.size);
        let wrong = content.iter().zip(&self.model).position(|(a, b)| a != b);
        assert_eq!(wrong, None, "byte that differs from the model");
        // A range that begins and ends anywhere, too.
        let (start, end) = (state.size / 3, state.size - state.size / 5);
        assert!(self.read(&state, start, end) == self.model[start as usize..end as usize]);
    }
}

/// Bytes that tell where they were written.
fn pattern(length: usize, fill: u8) -> Vec<u8> {
    (0..length).map(|at| fill.wrapping_add((at % 7) as u8).max(1)).collect()
}

proptest! {
    #[test]
    fn a_file_reads_as_it_was_written(steps in prop::collection::vec(steps(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            world.check();
        }
        world.freeze(Which::All);
        world.settle();
        world.check();
        let state = world.file.state.lock();
        prop_assert!(state.buffer.weight() == crate::client::core::buffer::Weight::default());
    }
}

#[test]
fn a_stream_becomes_whole_stripes_without_gaps() {
    let mut world = World::new();
    let megabyte = pattern(1 << 20, 3);
    for at in 0..17u64 {
        world.write(at << 20, &megabyte);
    }
    let weight = world.file.state.lock().buffer.weight();
    assert_eq!((weight.full, weight.bytes, weight.small), (2, 17 << 20, 0));
    world.freeze(Which::Full);
    world.freeze(Which::Full);
    world.freeze(Which::Full);
    let lengths: Vec<usize> = world.frozen.iter().map(|frozen| frozen.payload.len()).collect();
    assert_eq!(lengths, [8 << 20, 8 << 20]);
    assert_eq!(world.frozen[0].pieces().len(), 1);
    world.freeze(Which::All);
    world.settle();
    world.check();
}

#[test]
fn scattered_blocks_of_one_file_become_one_stripe() {
    let mut world = World::new();
    for at in 0..1000u64 {
        world.write((at * 7919 % 1000) * 2 * BLOCK64, &pattern(BLOCK as usize, at as u8));
    }
    world.freeze(Which::Small);
    assert_eq!(world.frozen.len(), 1);
    assert_eq!(world.frozen[0].pieces().len(), 1000);
    world.check();
    world.settle();
    world.check();
}
