//! Opening, reading, syncing, closing.

use std::sync::Arc;

use bytes::Bytes;

use super::{Fs, Handle, OpenMode};
use crate::client::file::{File, Grant};
use crate::types::{Errno, Ino};
use crate::wire::metadata::{Answer, Query};

impl Fs {
    /// Open a regular file.
    pub async fn open(&self, ino: Ino, open: OpenMode) -> Result<Handle, Errno> {
        if open.write {
            self.must_be_writable()?;
        }
        let file = self.files.get(ino);
        file.when(|state| (state.grant != Grant::Releasing).then_some(())).await;
        // The handle comes first: a pin that it finds is not taken away by a close, nor what is dirty by an
        // unlink.
        let handle = self.files.open(&file, open, None);
        // Under a shared lease nobody has to be told: the monitors ask before they let the file go.
        if file.state.lock().pin.is_none()
            && self.session.believed(ino).is_none()
            && let Err(errno) = self.pin(&file).await
        {
            self.release(handle).await;
            return Err(errno);
        }
        Ok(handle)
    }

    /// Read up to `size` bytes; fewer only at the end of the file. The parts follow one another.
    pub async fn read(&self, handle: Handle, offset: u64, size: u32) -> Result<Vec<Bytes>, Errno> {
        let open = self.files.handle(handle)?;
        let range = offset..offset.saturating_add(u64::from(size));
        open.file.when(|state| state.begin_read(&range)).await;
        let read = self.reader.read(&open.file, range, Some(&open.ahead)).await;
        if read.is_ok() {
            self.note_access(&open);
        }
        read
    }

    /// [`Self::read`] where it can be answered from memory, without waiting for anybody.
    pub fn try_read(
        &self,
        handle: Handle,
        offset: u64,
        size: u32,
    ) -> Option<Result<Vec<Bytes>, Errno>> {
        let open = match self.files.handle(handle) {
            Ok(open) => open,
            Err(errno) => return Some(Err(errno)),
        };
        let range = offset..offset.saturating_add(u64::from(size));
        let read = self.reader.try_read(&open.file, &range, &open.ahead)?;
        self.note_access(&open);
        Some(Ok(read))
    }

    /// What `close` reports: an error that an earlier write met. If it is to be `durable` it waits until what this mount
    /// has written to the file is.
    pub async fn flush(&self, handle: Handle, durable: bool) -> Result<(), Errno> {
        let open = self.files.handle(handle)?;
        // Nobody can ever read again what has no name.
        if durable && !open.file.state.lock().gone {
            self.flusher.flush(&open.file).await;
        }
        let mut state = open.file.state.lock();
        state.take_failure(&open.seen)
    }

    /// Everything written to the file by anybody is durable.
    pub async fn fsync(&self, handle: Handle) -> Result<(), Errno> {
        let open = self.files.handle(handle)?;
        self.flusher.flush(&open.file).await;
        let mut asked = Ok(());
        if open.file.state.lock().grant == Grant::Nothing {
            // Whoever holds the file commits before the monitors answer this; nobody does if it is known.
            asked = self.session.learn(Query::Attr { ino: open.file.ino }).await.map(drop);
        }
        // What was lost here is the worse news.
        open.file.state.lock().take_failure(&open.seen)?;
        asked
    }

    /// The handle is closed.
    pub async fn release(&self, handle: Handle) {
        if let Ok((_, ino)) = self.file_of(handle) {
            self.locks.closed(ino, handle).await;
        }
        let Some(file) = self.files.close(handle, self.session.monotonic()) else {
            return;
        };
        let mut state = file.state.lock();
        if state.gone {
            self.flusher.discard(&file, &mut state);
        }
        if state.may_release() {
            self.flusher.release_later(&file);
        }
        file.changed.notify_waiters();
        if let Some(failure) = state.failure.filter(|failure| !failure.reported) {
            log::error!("inode {}: closed although writes were lost: {}", file.ino, failure.errno);
        }
    }

    /// Everything that this mount has buffered is durable.
    pub async fn sync_all(&self) -> Result<(), Errno> {
        let failures = |file: &Arc<File>| file.state.lock().failures;
        let files = self.files.all();
        let before: Vec<u64> = files.iter().map(failures).collect();
        self.flusher.flush_all(&files).await;
        let failed = files.iter().zip(before).any(|(file, before)| failures(file) > before);
        if failed { Err(Errno::Io) } else { Ok(()) }
    }

    /// Commits what is dirty of a file; its failure is reported here, and again by its handles.
    pub(super) async fn flush_or_fail(&self, file: &Arc<File>) -> Result<(), Errno> {
        let before = file.state.lock().failures;
        self.flusher.flush(file).await;
        let state = file.state.lock();
        match state.failure {
            Some(failure) if state.failures > before => Err(failure.errno),
            _ => Ok(()),
        }
    }

    /// Has the monitors keep the file although its last name may go. The beginning of its map comes with it.
    pub(super) async fn pin(&self, file: &Arc<File>) -> Result<(), Errno> {
        let generation = self.files.generation();
        file.state.lock().pinning = Some(generation);
        let answer = self.session.query(Query::Open { ino: file.ino, generation }).await;
        let mut state = file.state.lock();
        // Unless another open has asked meanwhile.
        state.pinning.take_if(|asked| *asked == generation);
        let Answer::Map(told) = answer? else {
            return Err(Errno::Io);
        };
        state.pin = state.pin.max(Some(generation));
        if state.grant == Grant::Nothing && told.attr.dv >= state.map.dv() {
            // Not to be used without another check: it only saves being told again.
            state.map.at_version(told.attr.dv);
            state.rebase(told.attr);
            if let Some(extents) = told.extents
                && !state.map.install(extents)
            {
                state.map.forget();
            }
        }
        Ok(())
    }
}

impl Fs {
    /// The open file that a handle stands for.
    pub(super) fn file_of(&self, handle: Handle) -> Result<(Arc<File>, Ino), Errno> {
        let open = self.files.handle(handle)?;
        Ok((Arc::clone(&open.file), open.file.ino))
    }
}
