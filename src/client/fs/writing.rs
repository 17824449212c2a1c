//! Writing: into the write buffer, under the exclusive grant.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{Fs, Handle};
use crate::client::core::{BLOCK64, block_start};
use crate::client::file::{File, FileState};
use crate::client::files::OpenFile;
use crate::client::flusher::Admission;
use crate::types::Errno;
use crate::types::limits::FILE_BYTES_MAX;

impl Fs {
    /// Write all of `data`. It is buffered when this returns (durable, if the handle is `sync`).
    pub async fn write(&self, handle: Handle, offset: u64, data: Bytes) -> Result<(), Errno> {
        let open = self.files.handle(handle)?;
        if !open.mode.write {
            return Err(Errno::BadHandle);
        }
        let place = if open.mode.append { None } else { Some(offset) };
        self.write_content(&open.file, place, &data).await?;
        if open.mode.sync {
            self.flush_or_fail(&open.file).await?;
        }
        Ok(())
    }

    /// [`Self::write`] where it only has to be copied into the buffer, without waiting for anybody.
    pub fn try_write(&self, handle: Handle, offset: u64, data: &[u8]) -> Option<Result<(), Errno>> {
        let open = self.files.handle(handle).ok()?;
        let OpenFile { file, mode, .. } = &*open;
        if mode.sync || !mode.write || !self.session.lease_holds() {
            return None;
        }
        let _order = file.order.try_lock().ok()?;
        let mut state = file.state.lock();
        let offset = if mode.append { state.size } else { offset };
        let range = range(offset, data).ok()?;
        let ready = state.may_use()
            && state.buffer.missing(&range, state.size).next().is_none()
            && self.flusher.admit(data.len() as u64) == Admission::Go;
        ready.then(|| {
            self.put(file, &mut state, offset, data);
            Ok(())
        })
    }

    /// Writes at `offset`, or at the end of the file.
    pub(super) async fn write_content(
        &self,
        file: &Arc<File>,
        offset: Option<u64>,
        data: &[u8],
    ) -> Result<(), Errno> {
        let _order = file.order.lock().await;
        let _held = self.grants.hold(file).await?;
        self.write_held(file, offset, data).await
    }

    /// [`Self::write_content`] for a caller that holds the file's order and grant.
    pub(super) async fn write_held(
        &self,
        file: &Arc<File>,
        offset: Option<u64>,
        data: &[u8],
    ) -> Result<(), Errno> {
        self.flusher.wait_for_room(data.len() as u64).await?;
        let offset = offset.unwrap_or_else(|| file.state.lock().size);
        let range = range(offset, data)?;
        let missing: Vec<u64> = {
            let state = file.state.lock();
            state.buffer.missing(&range, state.size).collect()
        };
        let mut blocks = Vec::with_capacity(missing.len());
        for block in missing {
            blocks.push((block, self.read_block(file, block).await?));
        }
        let now = self.session.monotonic();
        let mut state = file.state.lock();
        let before = state.buffer.weight();
        for (block, content) in &blocks {
            state.buffer.fill(*block, content, now, self.flusher.pool());
        }
        self.flusher.note(file, &mut state, before);
        self.put(file, &mut state, offset, data);
        Ok(())
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

fn range(offset: u64, data: &[u8]) -> Result<Range<u64>, Errno> {
    let end = offset.checked_add(data.len() as u64).filter(|end| *end <= FILE_BYTES_MAX);
    end.map(|end| offset..end).ok_or(Errno::FileTooBig)
}
