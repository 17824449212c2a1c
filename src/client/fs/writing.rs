//! Writing: into the write buffer, under the exclusive grant.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{Fs, Handle};
use crate::client::admission::{Admission, Claim, Growth};
use crate::client::core::layers::{Segment, Source};
use crate::client::core::{BLOCK64, block_start};
use crate::client::file::{File, FileState, Grant};
use crate::client::files::OpenFile;
use crate::types::Errno;
use crate::types::limits::FILE_BYTES_MAX;

impl Fs {
    /// Write all of `data`, at that offset or, without one, at the end of the file. It is buffered when this returns;
    /// durable, if the handle or the write is `sync`.
    pub async fn write(
        &self,
        handle: Handle,
        place: Option<u64>,
        data: Bytes,
        sync: bool,
    ) -> Result<(), Errno> {
        let open = self.files.handle(handle)?;
        if !open.mode.write {
            return Err(Errno::BadHandle);
        }
        self.write_content(&open.file, place, &data).await?;
        if sync || open.mode.sync {
            self.flush_or_fail(&open.file).await?;
        }
        Ok(())
    }

    /// [`Self::write`] where it only has to be copied into the buffer, without waiting for anybody.
    pub fn try_write(
        &self,
        handle: Handle,
        place: Option<u64>,
        data: &[u8],
    ) -> Option<Result<(), Errno>> {
        let open = self.files.handle(handle).ok()?;
        let OpenFile { file, mode, .. } = &*open;
        if mode.sync || !mode.write || !self.session.lease_holds() {
            return None;
        }
        let _order = file.order.try_lock().ok()?;
        let mut state = file.state.lock();
        let offset = place.unwrap_or(state.size);
        let range = range(offset, data).ok()?;
        let ready = state.may_use() && state.buffer.missing(&range, state.size).next().is_none();
        if !ready {
            return None;
        }
        let admission = self.flusher.admit(state.volume(), blocks_of(&range), Growth::All);
        let Admission::Go(_claim) = admission else { return None };
        self.put(file, &mut state, offset, data);
        Some(Ok(()))
    }

    /// Writes at `offset`, or at the end of the file.
    pub(super) async fn write_content(
        &self,
        file: &Arc<File>,
        offset: Option<u64>,
        data: &[u8],
    ) -> Result<(), Errno> {
        let _order = file.order.lock().await;
        loop {
            let _held = self.grants.hold(file).await?;
            let holder = file.state.lock().holder;
            match self.write_held(file, offset, data).await {
                // The grant went with the session while this waited: again, under another.
                Err(Errno::Stale) if self.session.id() != holder => {}
                written => return written,
            }
        }
    }

    /// [`Self::write_content`] for a caller that holds the file's order and grant. [`Errno::Stale`] when the grant
    /// was lost with the session.
    pub(super) async fn write_held(
        &self,
        file: &Arc<File>,
        offset: Option<u64>,
        data: &[u8],
    ) -> Result<(), Errno> {
        let holder = file.state.lock().holder;
        let offset = offset.unwrap_or_else(|| file.state.lock().size);
        let range = range(offset, data)?;
        let _claim = self.claim(file, &range).await?;
        // Nobody else writes meanwhile, but the flusher may take a run away with blocks that were here a moment ago:
        // only what is looked at and written under one lock fits together.
        let mut blocks: Vec<(u64, Vec<u8>)> = Vec::new();
        loop {
            let unread: Vec<u64> = {
                let mut state = file.state.lock();
                if state.grant != Grant::Held || state.holder != holder {
                    return Err(Errno::Stale);
                }
                let is_read = |block: &u64| blocks.iter().any(|(read, _)| read == block);
                let missing: Vec<u64> = state.buffer.missing(&range, state.size).collect();
                if missing.iter().all(is_read) {
                    self.fill(file, &mut state, &blocks);
                    self.put(file, &mut state, offset, data);
                    return Ok(());
                }
                missing.into_iter().filter(|block| !is_read(block)).collect()
            };
            for block in unread {
                blocks.push((block, self.read_block(file, block).await?));
            }
        }
    }

    /// Waits for room for what a write may make dirty. Where its volume is full, bytes that are there already may
    /// still be overwritten.
    async fn claim(&self, file: &Arc<File>, range: &Range<u64>) -> Result<Option<Claim>, Errno> {
        let (volume, size) = {
            let state = file.state.lock();
            (state.volume(), state.size)
        };
        let bytes = blocks_of(range);
        match self.flusher.wait_for_room(volume, bytes, Growth::All).await {
            Err(Errno::OverQuota) if range.end <= size => {
                let view = self.reader.view(file, range.clone()).await?;
                let is_hole = |segment: &Segment| matches!(segment.source, Source::Zeros);
                if view.segments.iter().any(is_hole) {
                    return Err(Errno::OverQuota);
                }
                self.flusher.wait_for_room(volume, bytes, Growth::Nothing).await
            }
            admitted => admitted,
        }
    }

    /// Writes zeros.
    pub(super) async fn write_zeros(
        &self,
        file: &Arc<File>,
        range: Range<u64>,
    ) -> Result<(), Errno> {
        const PORTION: u64 = 1 << 20;
        let mut at = range.start;
        while at < range.end {
            let count = (range.end - at).min(PORTION);
            let zeros = vec![0; usize::try_from(count).expect("at most a portion")];
            self.write_held(file, Some(at), &zeros).await?;
            at += count;
        }
        Ok(())
    }

    /// Puts blocks of the file that a write covers in part under it, those that are not here already.
    fn fill(&self, file: &Arc<File>, state: &mut FileState, blocks: &[(u64, Vec<u8>)]) {
        let now = self.session.monotonic();
        let before = state.buffer.weight();
        for (block, content) in blocks {
            state.buffer.fill(*block, content, now, self.flusher.pool());
        }
        self.flusher.note(file, state, before);
    }

    fn put(&self, file: &Arc<File>, state: &mut FileState, offset: u64, data: &[u8]) {
        let before = state.buffer.weight();
        state.buffer.write(offset, data, self.session.monotonic(), self.flusher.pool());
        state.size = state.size.max(offset + data.len() as u64);
        state.mtime = Some(self.session.now());
        self.flusher.note(file, state, before);
    }

    /// What the file has of a block.
    async fn read_block(&self, file: &Arc<File>, block: u64) -> Result<Vec<u8>, Errno> {
        debug_assert_eq!(block, block_start(block));
        let parts = self.reader.read(file, block..block + BLOCK64, None).await?;
        Ok(parts.concat())
    }
}

/// Bytes of the blocks that a range touches: with what has to be filled in, no more than that becomes dirty.
fn blocks_of(range: &Range<u64>) -> u64 {
    range.end.next_multiple_of(BLOCK64) - block_start(range.start)
}

fn range(offset: u64, data: &[u8]) -> Result<Range<u64>, Errno> {
    let end = offset.checked_add(data.len() as u64).filter(|end| *end <= FILE_BYTES_MAX);
    end.map(|end| offset..end).ok_or(Errno::FileTooBig)
}
