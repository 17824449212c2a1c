//! The files and handles that this client knows.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use super::core::readahead::ReadAhead;
use super::file::{File, Grant};
use super::fs::{Handle, OpenMode};
use super::session::Session;
use crate::types::{Errno, Ino, SessionId};
use crate::wire::metadata::{Attach, MUTATIONS_MAX, PINS_MAX, Request};

/// A file that is not open, and of which nothing is held, is forgotten after this time, unless there is a lease under
/// which its map stays true. Until then an answer that is older than what we know of it can be told from a new one.
const FORGET_AFTER: Duration = Duration::from_secs(10);
/// So many files are kept only for their maps.
const MAPS_MAX: usize = 10_000;
/// Generation of the pin that comes with the creation of a file.
pub(crate) const CREATION: u64 = 1;
/// Pins of closed files gather this long before the monitors are told.
const UNPIN_LINGER: Duration = Duration::from_millis(50);

/// An open file.
#[derive(Debug)]
pub(crate) struct OpenFile {
    /// The file.
    pub(crate) file: Arc<File>,
    /// How it was opened.
    pub(crate) mode: OpenMode,
    /// What its reads look like.
    pub(crate) ahead: Mutex<ReadAhead>,
    /// How many of the file's failures it has reported.
    pub(crate) seen: AtomicU64,
    /// A lock that was taken through it is lost: its program may not go on as if it had it.
    pub(crate) is_lost: AtomicBool,
}

/// See the module.
pub(crate) struct Files {
    table: Mutex<HashMap<Ino, Arc<File>>>,
    handles: RwLock<HashMap<u64, Arc<OpenFile>>>,
    next_handle: AtomicU64,
    next_generation: AtomicU64,
    unpinned: mpsc::UnboundedSender<(Ino, u64)>,
}

impl Files {
    /// None yet. The receiver gets pins that are not needed any more.
    pub(crate) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<(Ino, u64)>) {
        let (unpinned, pins) = mpsc::unbounded_channel();
        let files = Self {
            table: Mutex::default(),
            handles: RwLock::default(),
            next_handle: AtomicU64::new(1),
            next_generation: AtomicU64::new(CREATION + 1),
            unpinned,
        };
        (Arc::new(files), pins)
    }

    /// The file, if anything is known of it.
    pub(crate) fn find(&self, ino: Ino) -> Option<Arc<File>> {
        self.table.lock().get(&ino).map(Arc::clone)
    }

    /// The file; of a new one nothing is known.
    pub(crate) fn get(&self, ino: Ino) -> Arc<File> {
        Arc::clone(self.table.lock().entry(ino).or_insert_with(|| File::new(ino)))
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<File>> {
        self.table.lock().values().map(Arc::clone).collect()
    }

    /// The open file; [`Errno::Io`] after [`Self::lose`].
    pub(crate) fn handle(&self, handle: Handle) -> Result<Arc<OpenFile>, Errno> {
        let open = self.handles.read().get(&handle.0).map(Arc::clone).ok_or(Errno::BadHandle)?;
        if open.is_lost.load(Ordering::Relaxed) { Err(Errno::Io) } else { Ok(open) }
    }

    /// Nothing can be done through that handle any more but closing it.
    pub(crate) fn lose(&self, handle: Handle) {
        if let Some(open) = self.handles.read().get(&handle.0) {
            open.is_lost.store(true, Ordering::Relaxed);
        }
    }

    /// A generation for a pin, above all before.
    pub(crate) fn generation(&self) -> u64 {
        self.next_generation.fetch_add(1, Ordering::Relaxed)
    }

    /// Opens a file that the monitors have pinned with that generation.
    pub(crate) fn open(&self, file: &Arc<File>, mode: OpenMode, pin: Option<u64>) -> Handle {
        let seen = {
            let mut state = file.state.lock();
            state.handles += 1;
            state.readers += u32::from(mode.read);
            state.pin = state.pin.max(pin);
            state.seen_by_new_handle()
        };
        let open = OpenFile {
            file: Arc::clone(file),
            mode,
            ahead: Mutex::default(),
            seen: AtomicU64::new(seen),
            is_lost: AtomicBool::new(false),
        };
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        self.handles.write().insert(handle, Arc::new(open));
        Handle(handle)
    }

    /// Closes a handle; gives the file if that was its last.
    pub(crate) fn close(&self, handle: Handle, now: Duration) -> Option<Arc<File>> {
        let open = self.handles.write().remove(&handle.0)?;
        let pin = {
            let mut state = open.file.state.lock();
            state.handles -= 1;
            state.readers -= u32::from(open.mode.read);
            state.used = now;
            if state.handles > 0 {
                return None;
            }
            state.pin.take()
        };
        if let Some(pin) = pin {
            // Nobody listens any more only while the mount ends, which closes the session.
            self.unpinned.send((open.file.ino, pin)).ok();
        }
        Some(Arc::clone(&open.file))
    }

    /// What a new leader has to know: what is open, in as many parts as it takes.
    pub(crate) fn attach(&self, session: &Session) -> Vec<Attach> {
        let pins = self.all().into_iter().filter_map(|file| self.pin_of(&file));
        in_parts(session.id(), &pins.collect::<Vec<_>>())
    }

    /// Those of these files that are open, whose shared lease is given back: it was that by which the monitors
    /// would have asked.
    pub(crate) fn pins_of(&self, inos: &[Ino]) -> Vec<(Ino, u64)> {
        let files = inos.iter().filter_map(|ino| self.find(*ino));
        files.filter_map(|file| self.pin_of(&file)).collect()
    }

    /// The pin of a file, if it is open; a new one if it was opened under a shared lease.
    fn pin_of(&self, file: &File) -> Option<(Ino, u64)> {
        let mut state = file.state.lock();
        if state.handles > 0 && state.pin.max(state.pinning).is_none() {
            state.pin = Some(self.generation());
        }
        state.pin.max(state.pinning).map(|pin| (file.ino, pin))
    }

    /// Forgets files that are not needed, for ever.
    pub(crate) async fn sweep(self: Arc<Self>, session: Arc<Session>) {
        loop {
            tokio::time::sleep(FORGET_AFTER / 2).await;
            self.forget_idle(session.monotonic(), |ino| session.leases().knows(ino));
        }
    }

    fn forget_idle(&self, now: Duration, is_leased: impl Fn(Ino) -> bool) {
        let idle: Vec<_> = {
            let table = self.table.lock();
            table.iter().filter_map(|(ino, file)| Some((idle_since(file, now)?, *ino))).collect()
        };
        let mut kept: Vec<_> = idle.into_iter().filter(|(_, ino)| is_leased(*ino)).collect();
        if kept.len() > MAPS_MAX {
            kept.sort_unstable_by_key(|(since, _)| Reverse(*since));
            kept.truncate(MAPS_MAX);
        }
        let kept: HashSet<Ino> = kept.into_iter().map(|(_, ino)| ino).collect();
        let mut table = self.table.lock();
        table.retain(|ino, file| kept.contains(ino) || idle_since(file, now).is_none());
    }

    /// Tells the monitors of pins that are not needed any more, many at a time, for ever.
    pub(crate) async fn unpin(
        session: Arc<Session>,
        mut unpinned: mpsc::UnboundedReceiver<(Ino, u64)>,
    ) {
        while let Some(first) = unpinned.recv().await {
            tokio::time::sleep(UNPIN_LINGER).await;
            let mut pins = vec![first];
            while pins.len() < MUTATIONS_MAX
                && let Ok(pin) = unpinned.try_recv()
            {
                pins.push(pin);
            }
            session.tell(&Request::Unpin { session: session.id(), pins }).await;
        }
    }
}

/// Since when a file is not needed, if that is long enough. To be asked under the table's lock: then nobody can take a
/// file that only the table has.
fn idle_since(file: &Arc<File>, now: Duration) -> Option<Duration> {
    let mut state = file.state.lock();
    let is_needed = state.handles > 0 || state.grant != Grant::Nothing || !state.is_clean();
    if is_needed || Arc::strong_count(file) > 1 {
        state.used = now;
    }
    (now >= state.used + FORGET_AFTER).then_some(state.used)
}

/// The parts of an attachment, at least one.
fn in_parts(session: SessionId, pins: &[(Ino, u64)]) -> Vec<Attach> {
    let mut parts: Vec<Attach> = pins
        .chunks(PINS_MAX)
        .map(|part| Attach { session, pins: part.to_vec(), more: true })
        .collect();
    match parts.last_mut() {
        Some(last) => last.more = false,
        None => parts.push(Attach { session, pins: Vec::new(), more: false }),
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    #[test]
    fn what_is_known_of_a_file_is_kept_as_long_as_it_stays_true() {
        let (files, _unpinned) = Files::new();
        let at = Duration::from_secs;
        let (leased, other, open) = (Ino(1), Ino(2), Ino(3));
        for ino in [leased, other, open] {
            let handle = files.open(&files.get(ino), OpenMode::default(), None);
            if ino != open {
                // Between two looks at what is needed.
                files.close(handle, at(7));
            }
        }
        files.forget_idle(at(16), |_| false);
        assert_eq!(files.all().len(), 3, "closed 9 s ago");
        files.forget_idle(at(17), |ino| ino == leased);
        assert!(files.find(leased).is_some() && files.find(open).is_some());
        assert!(files.find(other).is_none());
        for ino in 10..10 + MAPS_MAX as u64 {
            files.get(Ino(ino)).state.lock().used = at(8);
        }
        files.forget_idle(at(18), |_| true);
        assert!(files.find(leased).is_none(), "of too many the longest unused goes");
        assert!(files.find(open).is_some());
    }

    #[test]
    fn an_attachment_is_said_in_parts_that_fit_into_a_frame() {
        let session = SessionId(7);
        assert_eq!(in_parts(session, &[]), [Attach { session, pins: vec![], more: false }]);
        let pins: Vec<(Ino, u64)> = (0..300_000).map(|ino| (Ino(ino), ino)).collect();
        let parts = in_parts(session, &pins);
        let more: Vec<bool> = parts.iter().map(|part| part.more).collect();
        assert_eq!(more, [true, true, true, true, false]);
        for part in &parts {
            assert!(wire::try_encode(&Request::Attach(part.clone())).is_some());
        }
        let said: Vec<(Ino, u64)> = parts.into_iter().flat_map(|part| part.pins).collect();
        assert_eq!(said, pins);
    }
}
