//! What a file reads as, and reading it.
//!
//! The life of a read. Under the exclusive grant the answer is here: dirty and frozen bytes, and a map that only
//! we change. Under a shared lease the version of the content is known, and a map of that version is true. Without
//! either the cached map may be old, so its version is checked with the monitors in each read; one check serves all
//! reads that began before it was sent. What the map names is then fetched, a sequential
//! stream ahead of time. When too few shards of a stripe can be read, the map is fetched again: the data may have
//! moved, or the file may have changed.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use parking_lot::Mutex;

use super::blocks::{Blocks, Unreadable};
use super::core::layers::{Segment, Source};
use super::core::readahead::ReadAhead;
use super::file::{File, FileState, Grant, Yielding};
use super::session::Session;
use crate::types::{DataVersion, Errno};
use crate::wire::metadata::{Answer, MapSlice, Query};

/// How much of a map is asked for at a time, in bytes of the file.
const MAP_WINDOW: u64 = 256 << 20;
/// How long unreadable data is tried again.
const READ_PATIENCE: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How long a read asks for the lease of a file that others are about to change, and how often.
const LEASE_PATIENCE: Duration = Duration::from_secs(20);
const LEASE_PAUSE: Duration = Duration::from_millis(2);
const VERSION_PAUSE: Duration = Duration::from_millis(2);
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// See the module.
pub(crate) struct Reader {
    session: Arc<Session>,
    blocks: Arc<Blocks>,
}

/// A range of a file at one moment.
#[derive(Debug)]
pub(crate) struct View {
    /// Its parts up to the end of the file.
    pub(crate) segments: Vec<Segment>,
    /// Size of the file.
    pub(crate) size: u64,
}

/// What can be said about a range without asking.
enum Local {
    /// Everything.
    View(View),
    /// The grant is held, but the map is not known from here on.
    Unknown(u64),
    /// The monitors have to be asked.
    NotHeld,
}

impl Reader {
    /// A reader.
    pub(crate) fn new(session: Arc<Session>, blocks: Arc<Blocks>) -> Self {
        Self { session, blocks }
    }

    /// Reads a range; shorter only at the end of the file.
    pub(crate) async fn read(
        &self,
        file: &Arc<File>,
        range: Range<u64>,
        ahead: Option<&Mutex<ReadAhead>>,
    ) -> Result<Vec<Bytes>, Errno> {
        let since = self.session.monotonic();
        loop {
            let view = self.view(file, range.clone()).await?;
            self.read_ahead(file, &range, view.size, ahead);
            match self.fetch(view.segments).await {
                Ok(parts) => return Ok(parts),
                Err(Unreadable(stripe)) => {
                    if self.session.monotonic() > since + READ_PATIENCE {
                        log::error!(
                            "inode {}: stripe {stripe} cannot be read: too few of its shards answer",
                            file.ino
                        );
                        return Err(Errno::Io);
                    }
                    file.state.lock().map.forget();
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// [`Self::read`] where everything is here.
    pub(crate) fn try_read(
        &self,
        file: &Arc<File>,
        range: &Range<u64>,
        ahead: &Mutex<ReadAhead>,
    ) -> Option<Vec<Bytes>> {
        if !self.session.lease_holds() {
            return None;
        }
        let here = {
            let state = file.state.lock();
            if state.yielding != Yielding::No || state.stranded.is_some() {
                return None;
            }
            local(&state, range)
        };
        let view = match here {
            Local::View(view) => view,
            Local::Unknown(_) => return None,
            Local::NotHeld => self.believed(file, range)?,
        };
        let mut parts = Vec::with_capacity(view.segments.len());
        for segment in view.segments {
            match segment.source {
                Source::Bytes(bytes) => parts.push(bytes),
                Source::Zeros => parts.extend(zeros(&segment.range)),
                Source::Stripe(stripe, offset) => {
                    parts.extend(self.blocks.try_read(&stripe, offset, length(&segment.range))?);
                }
            }
        }
        self.read_ahead(file, range, view.size, Some(ahead));
        Some(parts)
    }

    /// What a range reads as now, or later than the call began.
    pub(crate) async fn view(&self, file: &Arc<File>, range: Range<u64>) -> Result<View, Errno> {
        let since = self.session.monotonic();
        loop {
            let here = file.when(|state| match state.grant {
                Grant::Releasing => None,
                _ if state.stranded.is_some() => None,
                _ => Some(local(state, &range)),
            });
            match here.await {
                Local::View(view) if self.session.lease_holds() => return Ok(view),
                Local::View(_) => self.session.wait_for_lease().await,
                Local::Unknown(from) => self.load(file, from).await?,
                Local::NotHeld => {
                    if let Some(view) = self.believed(file, &range) {
                        return Ok(view);
                    }
                    if let Some(view) = self.confirm(file, &range).await? {
                        let is_late = self.session.monotonic() > since + LEASE_PATIENCE;
                        if self.may_be_kept(file) || is_late {
                            return Ok(view);
                        }
                        tokio::time::sleep(LEASE_PAUSE).await;
                    }
                }
            }
        }
    }

    /// Under a shared lease: what is known, if that is enough.
    fn believed(&self, file: &Arc<File>, range: &Range<u64>) -> Option<View> {
        let attr = self.session.believed(file.ino)?;
        let mut state = file.state.lock();
        if !state.is_unheld() || attr.dv < state.map.dv() {
            return None;
        }
        state.map.at_version(attr.dv);
        state.rebase(attr);
        unheld(&state, range)
    }

    /// Whether somebody who changes the file has to wait until the kernel has dropped what it is given to read now:
    /// it would keep it, and show it to programs that read when the change is long made.
    fn may_be_kept(&self, file: &File) -> bool {
        let is_draining = matches!(file.state.lock().yielding, Yielding::Draining(_));
        is_draining || self.session.believed(file.ino).is_some()
    }

    /// Under the grant: has the map told from `from` on.
    async fn load(&self, file: &Arc<File>, from: u64) -> Result<(), Errno> {
        let told = self.ask(file, from, MAP_WINDOW, None).await?;
        let current =
            |state: &FileState| state.grant == Grant::Held && state.map.dv() == told.attr.dv;
        if !current(&file.state.lock()) {
            // A commit of ours was on its way: what was told is from before or after it. Ask again.
            tokio::time::sleep(VERSION_PAUSE).await;
            return Ok(());
        }
        let mut state = file.state.lock();
        let telling = told.extents.filter(|extents| extents.to > from);
        let sensible =
            !current(&state) || telling.is_some_and(|extents| state.map.install(extents));
        if sensible { Ok(()) } else { Err(Errno::Io) }
    }

    /// Without the grant: checks that what is known is current, and learns what is not. `None` when the grant
    /// came meanwhile.
    async fn confirm(&self, file: &Arc<File>, range: &Range<u64>) -> Result<Option<View>, Errno> {
        let ticket = file.tickets.fetch_add(1, Ordering::Relaxed);
        let mut checked = file.checked.lock().await;
        if *checked > ticket {
            // A check that was sent after we began has been answered while we waited.
            let state = file.state.lock();
            if let Some(view) = unheld(&state, range) {
                return Ok(Some(view));
            }
        }
        let this_check = file.tickets.fetch_add(1, Ordering::Relaxed);
        let (from, known) = {
            let state = file.state.lock();
            let wanted = state.base.as_ref().map(|attr| range.start..range.end.min(attr.size));
            match wanted.map(|wanted| state.map.first_unknown(&wanted)) {
                Some(None) => (range.start, Some(state.map.dv())),
                Some(Some(unknown)) => (unknown, None),
                None => (range.start, None),
            }
        };
        let window = MAP_WINDOW.max(range.end.saturating_sub(from));
        let told = self.ask(file, from, window, known).await?;
        let mut state = file.state.lock();
        if !state.is_unheld() || told.attr.dv < state.map.dv() {
            return Ok(None);
        }
        state.map.at_version(told.attr.dv);
        state.rebase(told.attr);
        if let Some(extents) = told.extents {
            let progress = extents.to > from;
            if !state.map.install(extents) || !progress {
                log::error!("inode {}: the monitors told a map that makes no sense", file.ino);
                return Err(Errno::Io);
            }
        }
        *checked = this_check;
        // `None` too when they told only a part of the range: the rest is asked for next.
        Ok(unheld(&state, range))
    }

    async fn ask(
        &self,
        file: &Arc<File>,
        offset: u64,
        length: u64,
        known: Option<DataVersion>,
    ) -> Result<MapSlice, Errno> {
        match self.session.query(Query::Map { ino: file.ino, offset, length, known }).await? {
            Answer::Map(told) => Ok(told),
            _ => Err(Errno::Io),
        }
    }

    /// Fetches whatever is in stripes, all of it at once.
    async fn fetch(&self, segments: Vec<Segment>) -> Result<Vec<Bytes>, Unreadable> {
        let fetches = segments.into_iter().map(|segment| async move {
            match segment.source {
                Source::Bytes(bytes) => Ok(vec![bytes]),
                Source::Zeros => Ok(zeros(&segment.range).collect()),
                Source::Stripe(stripe, offset) => {
                    self.blocks.read(&stripe, offset, length(&segment.range)).await
                }
            }
        });
        let parts: Result<Vec<Vec<Bytes>>, Unreadable> =
            join_all(fetches).await.into_iter().collect();
        Ok(parts?.into_iter().flatten().collect())
    }

    fn read_ahead(
        &self,
        file: &Arc<File>,
        range: &Range<u64>,
        size: u64,
        ahead: Option<&Mutex<ReadAhead>>,
    ) {
        let Some(fetch) = ahead.and_then(|ahead| ahead.lock().on_read(range, size)) else {
            return;
        };
        let segments = {
            let state = file.state.lock();
            let end = state.map.first_unknown(&fetch).unwrap_or(fetch.end);
            state.compose(fetch.start..end).map_or_else(|_| Vec::new(), |layers| layers.finish())
        };
        for segment in segments {
            if let Source::Stripe(stripe, offset) = &segment.source {
                self.blocks.prefetch(stripe, *offset, length(&segment.range));
            }
        }
    }
}

fn local(state: &FileState, range: &Range<u64>) -> Local {
    if state.grant != Grant::Held {
        return Local::NotHeld;
    }
    match compose(state, range, state.size) {
        Ok(view) => Local::View(view),
        Err(unknown) => Local::Unknown(unknown),
    }
}

fn unheld(state: &FileState, range: &Range<u64>) -> Option<View> {
    let size = state.base.as_ref()?.size;
    if state.is_unheld() { compose(state, range, size).ok() } else { None }
}

fn compose(state: &FileState, range: &Range<u64>, size: u64) -> Result<View, u64> {
    let range = range.start..range.end.min(size).max(range.start);
    Ok(View { segments: state.compose(range)?.finish(), size })
}

fn zeros(range: &Range<u64>) -> impl Iterator<Item = Bytes> + use<> {
    let length = length(range) as usize;
    (0..length)
        .step_by(ZEROS.len())
        .map(move |at| Bytes::from_static(&ZEROS[..ZEROS.len().min(length - at)]))
}

fn length(range: &Range<u64>) -> u32 {
    u32::try_from(range.end - range.start).expect("reads are shorter than 4 GiB")
}
