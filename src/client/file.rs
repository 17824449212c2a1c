//! One file as this client has it: what it holds of it, and what is on its way.
//!
//! ```text
//!            Acquire sent            granted
//!   Nothing ─────────────▶ Acquiring ───────▶ Held ──────────▶ Releasing ──▶ Nothing
//!      ▲                       │ refused       ▲     release       │ refused
//!      └───────────────────────┘               └───────────────────┘
//! ```
//!
//! *Held* is the exclusive grant: dirty data, size and mtime are ours, and the map changes only as we change
//! it. From the moment a release is sent until it is answered the client neither holds nor knows anything:
//! whoever needs the file waits.
//!
//! The lock is held for moments only, never while waiting. Waiting is [`File::when`].

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::core::block_start;
use super::core::buffer::WriteBuffer;
use super::core::commits::FreezeSeq;
use super::core::layers::{Layers, Source};
use super::core::map::FileMap;
use super::core::stranded::Stranded;
use super::core::{BLOCK64, shared};
use crate::types::{Attr, Errno, Ino, SessionId, StripePiece, Timestamp, VolumeId};

/// See the module.
#[derive(Debug)]
pub(crate) struct File {
    /// Its inode.
    pub(crate) ino: Ino,
    /// Everything that changes.
    pub(crate) state: Mutex<FileState>,
    /// Told whenever something changed that somebody may wait for.
    pub(crate) changed: Notify,
    /// Held by whoever changes the content: changes are made one after another, each seeing the one before.
    /// Flushing, committing and releasing need it not.
    pub(crate) order: tokio::sync::Mutex<()>,
    /// The last check of `dv`: which tickets it covers (see `view`).
    pub(crate) checked: tokio::sync::Mutex<u64>,
    /// Tickets of those who want `dv` checked.
    pub(crate) tickets: AtomicU64,
}

/// See [`File::state`].
#[derive(Debug, Default)]
pub(crate) struct FileState {
    /// What is held.
    pub(crate) grant: Grant,
    /// Under the grant: the session that it was given to.
    pub(crate) holder: SessionId,
    /// Somebody else wants the file: flush, release, begin nothing new under the grant.
    pub(crate) recalled: bool,
    /// Operations under way that rely on the grant.
    pub(crate) users: u32,
    /// Attributes as the monitors last told them, and as our commits have changed them since.
    pub(crate) base: Option<Attr>,
    /// Under the grant: the size, dirty data included.
    pub(crate) size: u64,
    /// Under the grant: when a program last wrote, unless the mtime was set since.
    pub(crate) mtime: Option<Timestamp>,
    /// When it was last read, until the monitors have taken note of it.
    pub(crate) accessed: Option<Timestamp>,
    /// Under the grant: bytes committed since `base` was told.
    pub(crate) grown: u64,
    /// What is committed.
    pub(crate) map: FileMap,
    /// What is dirty.
    pub(crate) buffer: WriteBuffer,
    /// What is frozen and not committed, oldest first.
    pub(crate) frozen: Vec<FrozenPart>,
    /// What was neither when the session was lost to which it belongs: until that is settled nobody uses the file.
    pub(crate) stranded: Option<Stranded>,
    /// Whether the flusher has it in its list of dirty files.
    pub(crate) listed: bool,
    /// Open handles.
    pub(crate) handles: u32,
    /// Those of them that read: the kernel keeps pages of what they were told.
    pub(crate) readers: u32,
    /// Under the grant: the monitors have noted a shared lease as well, and ask for it before anybody else changes what
    /// the kernel keeps.
    pub(crate) leased: bool,
    /// Generation of the pin that the monitors have, if any.
    pub(crate) pin: Option<u64>,
    /// Generation of a pin that was asked for and not yet answered: a new leader has to know it too, for the
    /// answer may be that of the leader before.
    pub(crate) pinning: Option<u64>,
    /// Whether its shared lease is being given back.
    pub(crate) yielding: Yielding,
    /// Its last name is gone: nothing has to be committed once it is closed.
    pub(crate) gone: bool,
    /// The latest error of a write; each handle reports it once.
    pub(crate) failure: Option<Failure>,
    /// How many failures there were.
    pub(crate) failures: u64,
    /// When it was last used.
    pub(crate) used: Duration,
}

/// What the client holds of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Grant {
    /// Nothing.
    #[default]
    Nothing,
    /// The grant was asked for.
    Acquiring,
    /// The exclusive grant.
    Held,
    /// The release is under way.
    Releasing,
}

/// Giving back the shared lease of a file that is open here (K3). What is read ends up in pages that the kernel keeps,
/// and when the lease is given back there must be none, nor may any come.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) enum Yielding {
    /// It is not asked for.
    #[default]
    No,
    /// The kernel drops all pages. It waits for those that are being read, so reads go on, as of before the change
    /// that waits for us, and leave a note of the pages that they bring in.
    Draining(Vec<Range<u64>>),
    /// The kernel drops those pages. Reads wait until the lease is given back, and then ask for it again.
    Holding,
}

/// Bytes of a file in one frozen stripe.
#[derive(Debug)]
pub(crate) struct FrozenPart {
    /// Which stripe.
    pub(crate) seq: FreezeSeq,
    /// When the oldest of them were written, by the client's own clock.
    pub(crate) born: Duration,
    /// By file offset, disjoint.
    pub(crate) pieces: Vec<(u64, Bytes)>,
    /// When they were written; `None` once a program has set the mtime since.
    pub(crate) mtime: Option<Timestamp>,
    /// Whether the commit is on its way.
    pub(crate) sent: bool,
}

/// A write that was lost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    /// Why.
    pub(crate) errno: Errno,
    /// Whether any handle has reported it.
    pub(crate) reported: bool,
}

impl File {
    /// A file of which nothing is known.
    pub(crate) fn new(ino: Ino) -> Arc<Self> {
        Arc::new(Self {
            ino,
            state: Mutex::default(),
            changed: Notify::new(),
            order: tokio::sync::Mutex::default(),
            checked: tokio::sync::Mutex::default(),
            tickets: AtomicU64::new(1),
        })
    }

    /// Waits until `ready` gives something; it is asked now and after every change.
    pub(crate) async fn when<T>(&self, mut ready: impl FnMut(&mut FileState) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(value) = ready(&mut self.state.lock()) {
                return value;
            }
            changed.await;
        }
    }

    /// Waits until everything that was written up to `moment` is committed or lost.
    pub(crate) async fn when_flushed(&self, moment: Duration) {
        self.when(|state| state.is_flushed(moment).then_some(())).await;
    }

    /// The monitors have noted a shared lease, unless they want it back at this moment.
    pub(crate) fn leased(&self, is_leased: bool) {
        let mut state = self.state.lock();
        state.leased = is_leased && state.yielding == Yielding::No;
    }

    /// Waits until nothing of it is frozen: every command about it was answered.
    pub(crate) async fn when_settled(&self) {
        self.when(|state| state.frozen.is_empty().then_some(())).await;
    }
}

impl FileState {
    /// The volume it lies in. (The root's, as long as nothing is known of it: then nothing is dirty either.)
    pub(crate) fn volume(&self) -> VolumeId {
        self.base.as_ref().map_or(VolumeId::ROOT, |attr| attr.volume)
    }

    /// A read through the kernel's cache begins; `None`: later.
    pub(crate) fn begin_read(&mut self, range: &Range<u64>) -> Option<()> {
        match &mut self.yielding {
            Yielding::No => Some(()),
            Yielding::Draining(read) => {
                read.push(range.clone());
                Some(())
            }
            Yielding::Holding => None,
        }
    }

    /// Whether nothing is dirty, frozen or stranded.
    pub(crate) fn is_clean(&self) -> bool {
        self.buffer.is_empty() && self.frozen.is_empty() && self.stranded.is_none()
    }

    /// Whether the file is what the monitors say: nothing is known better here.
    pub(crate) fn is_unheld(&self) -> bool {
        matches!(self.grant, Grant::Nothing | Grant::Acquiring) && self.stranded.is_none()
    }

    /// Whether nothing that was written up to `moment` is dirty, frozen or stranded.
    pub(crate) fn is_flushed(&self, moment: Duration) -> bool {
        let is_settled = self.stranded.is_none();
        is_settled
            && self.frozen.iter().all(|part| part.born > moment)
            && self.buffer.oldest().is_none_or(|oldest| oldest > moment)
    }

    /// Whether the file may be used under the grant right now.
    pub(crate) fn may_use(&self) -> bool {
        self.grant == Grant::Held && !self.recalled
    }

    /// Whether the grant can be given back.
    pub(crate) fn may_release(&self) -> bool {
        self.grant == Grant::Held && self.users == 0 && self.is_clean() && self.may_let_go()
    }

    /// Whether nobody here needs the grant any more, or somebody else wants it and will have to ask for the pages that
    /// were read under it.
    pub(crate) fn may_let_go(&self) -> bool {
        self.handles == 0 || (self.recalled && (self.readers == 0 || self.leased))
    }

    /// The exclusive grant came, and with it the file as it is.
    pub(crate) fn granted(&mut self, attr: Attr, holder: SessionId) {
        self.grant = Grant::Held;
        self.leased = false;
        self.holder = holder;
        self.map.at_version(attr.dv);
        self.size = attr.size;
        self.rebase(attr);
        self.mtime = None;
    }

    /// The exclusive grant is gone.
    pub(crate) fn ungranted(&mut self) {
        self.grant = Grant::Nothing;
        self.recalled = false;
        self.mtime = None;
    }

    /// A commit that was to release the grant was not done: it is still ours, unless the session is gone.
    pub(crate) fn not_released(&mut self, current: SessionId) {
        if self.grant != Grant::Releasing {
            return;
        }
        if self.holder == current {
            self.grant = Grant::Held;
        } else {
            self.ungranted();
        }
    }

    /// The monitors told attributes that include everything of ours that was committed.
    pub(crate) fn rebase(&mut self, attr: Attr) {
        self.base = Some(attr);
        self.grown = 0;
    }

    /// Under the grant: attributes with what we know better than the monitors.
    pub(crate) fn overlay(&self) -> Option<Attr> {
        let mut attr = self.base.clone()?;
        attr.size = self.size;
        let dirty = self.buffer.weight().bytes;
        let frozen: u64 =
            self.frozen.iter().flat_map(FrozenPart::ranges).map(|r| r.end - r.start).sum();
        let stored = attr.stored + self.grown + dirty + frozen;
        attr.stored = stored.min(self.size.next_multiple_of(BLOCK64));
        if let Some(mtime) = self.mtime {
            attr.mtime = mtime;
            attr.ctime = attr.ctime.max(mtime);
        }
        attr.atime = self.accessed.map_or(attr.atime, |read| attr.atime.max(read));
        if !self.is_clean() {
            attr.md5 = None;
        }
        Some(attr)
    }

    /// A write of ours was lost.
    pub(crate) fn fail(&mut self, errno: Errno) {
        self.failures += 1;
        self.failure = Some(Failure { errno, reported: false });
    }

    /// The failure, if the handle that has `seen` so many has not reported it yet.
    pub(crate) fn take_failure(&mut self, seen: &AtomicU64) -> Result<(), Errno> {
        let before = seen.swap(self.failures, std::sync::atomic::Ordering::Relaxed);
        match &mut self.failure {
            Some(failure) if before < self.failures => {
                failure.reported = true;
                Err(failure.errno)
            }
            _ => Ok(()),
        }
    }

    /// Which failures a new handle has seen: all, unless nobody has reported the last one.
    pub(crate) fn seen_by_new_handle(&self) -> u64 {
        let unreported = self.failure.is_some_and(|failure| !failure.reported);
        self.failures - u64::from(unreported)
    }

    /// Lays everything over one another that `range` reads as. Under the grant; the map must know the range
    /// where nothing else covers it: `Err` is the first byte where it does not.
    pub(crate) fn compose(&self, range: Range<u64>) -> Result<Layers, u64> {
        let mut layers = Layers::new(range);
        self.buffer.lay(&mut layers);
        for part in self.frozen.iter().rev() {
            part.lay(&mut layers);
        }
        if let Some(unknown) = layers.gaps().iter().find_map(|gap| self.map.first_unknown(gap)) {
            return Err(unknown);
        }
        self.map.lay(&mut layers);
        Ok(layers)
    }

    /// Cuts everything local to `size`. Nothing may be frozen.
    pub(crate) fn truncate(&mut self, size: u64) {
        self.buffer.truncate(size);
        self.map.punch(&(size..u64::MAX));
        self.size = size;
    }
}

impl FrozenPart {
    /// Lays the frozen bytes under what was laid before. A piece that ends within a block covers the rest of
    /// that block with zeros: it did when it was frozen.
    fn lay(&self, layers: &mut Layers) {
        let range = layers.range();
        let first = self.pieces.partition_point(|(start, _)| *start < block_start(range.start));
        for (start, bytes) in &self.pieces[first.saturating_sub(1)..] {
            if *start >= range.end {
                break;
            }
            layers.add(*start..start + bytes.len() as u64, |part| {
                let at = |offset: u64| usize::try_from(offset - start).expect("within a piece");
                Source::Bytes(bytes.slice(at(part.start)..at(part.end)))
            });
        }
    }

    /// Only these pieces are to be committed after all: what else it had lies under newer data.
    pub(crate) fn keep(&mut self, left: &[StripePiece]) {
        let all = std::mem::take(&mut self.pieces);
        for piece in left {
            let kept = piece.file_offset..piece.file_offset + u64::from(piece.length);
            for (start, bytes) in &all {
                let part = shared(&kept, &(*start..start + bytes.len() as u64));
                let at = |offset: u64| usize::try_from(offset - start).expect("within a piece");
                if !part.is_empty() {
                    self.pieces.push((part.start, bytes.slice(at(part.start)..at(part.end))));
                }
            }
        }
    }

    /// The ranges of the file that it covers.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        self.pieces.iter().map(|(start, bytes)| *start..start + bytes.len() as u64)
    }
}
