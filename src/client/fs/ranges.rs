//! Truncating, allocating, punching, seeking, cloning.
//!
//! These change or ask for whole ranges of a file at the monitors. Each waits for all commits of the file that
//! are on their way, so that none arrives after it and undoes it.

use std::ops::Range;
use std::sync::Arc;

use super::{Allocate, Fs, Handle, Seek};
use crate::client::core::layers::Source;
use crate::client::core::{BLOCK64, block_start};
use crate::client::file::File;
use crate::types::limits::FILE_BYTES_MAX;
use crate::types::{Attr, Errno, Ino, Timestamp};
use crate::wire::metadata::{CloneRange, Op, Reply};

/// How much of a map is looked at first for data or a hole, in bytes of the file; then ever more.
const SEEK_WINDOW: u64 = 64 << 20;

impl Fs {
    /// Reserve, punch or zero a range.
    pub async fn fallocate(
        &self,
        handle: Handle,
        offset: u64,
        length: u64,
        what: Allocate,
    ) -> Result<(), Errno> {
        self.must_be_writable()?;
        let (file, _) = self.file_of(handle)?;
        let end = offset.checked_add(length).filter(|end| *end <= FILE_BYTES_MAX);
        let range = offset..end.ok_or(Errno::FileTooBig)?;
        let _order = file.order.lock().await;
        let _held = self.grants.hold(&file).await?;
        if !matches!(what, Allocate::Punch) {
            self.check_room(&file, length).await?;
        }
        if matches!(what, Allocate::Punch | Allocate::Zero { .. }) {
            self.punch(&file, range.clone()).await?;
        }
        let grow = match what {
            Allocate::Reserve { keep_size } | Allocate::Zero { keep_size } => !keep_size,
            Allocate::Punch => false,
        };
        if grow && range.end > file.state.lock().size {
            self.set_size(&file, range.end, Some(self.session.now())).await?;
        }
        Ok(())
    }

    /// Refuses what the servers have no room for. Nothing is set aside: until it is written, others may take it.
    async fn check_room(&self, file: &Arc<File>, length: u64) -> Result<(), Errno> {
        let stored = file.state.lock().overlay().map_or(0, |attr| attr.stored);
        let room = self.space(file.ino).await?.free_bytes;
        if length.saturating_sub(stored) > room { Err(Errno::NoSpace) } else { Ok(()) }
    }

    /// Find data or a hole.
    pub async fn lseek(&self, handle: Handle, offset: u64, whence: Seek) -> Result<u64, Errno> {
        let (file, _) = self.file_of(handle)?;
        let mut at = offset;
        let mut window = SEEK_WINDOW;
        loop {
            let view = self.reader.view(&file, at..at.saturating_add(window)).await?;
            // A file may be one hole of many tebibytes.
            window *= 2;
            if offset >= view.size {
                return Err(Errno::NoSuchOffset);
            }
            for segment in &view.segments {
                let is_hole = matches!(segment.source, Source::Zeros);
                if is_hole == (whence == Seek::Hole) {
                    return Ok(segment.range.start);
                }
                at = segment.range.end;
            }
            if at >= view.size {
                // Behind the end of every file is a hole.
                return match whence {
                    Seek::Hole => Ok(view.size),
                    Seek::Data => Err(Errno::NoSuchOffset),
                };
            }
        }
    }

    /// Copy a range, sharing extents; how many bytes were copied.
    ///
    /// # Errors
    ///
    /// [`Errno::NotSupported`] when the range is not whole blocks: the caller copies bytes then.
    pub async fn copy_range(
        &self,
        from: Handle,
        from_offset: u64,
        to: Handle,
        to_offset: u64,
        length: u64,
    ) -> Result<u64, Errno> {
        self.must_be_writable()?;
        let ((from, from_ino), (to, to_ino)) = (self.file_of(from)?, self.file_of(to)?);
        let (first, second) = if from_ino <= to_ino { (&from, &to) } else { (&to, &from) };
        let _first_order = first.order.lock().await;
        let is_one = from_ino == to_ino;
        let _second_order = if is_one { None } else { Some(second.order.lock().await) };
        let _first_held = self.grants.hold(first).await?;
        // Not twice of one file: a recall that comes in between lets nobody in and waits until the first ends.
        let _second_held = if is_one { None } else { Some(self.grants.hold(second).await?) };
        // One after the other: it may be one file, with one lock.
        let from_size = from.state.lock().size;
        let to_size = to.state.lock().size;
        let length = length.min(from_size.saturating_sub(from_offset));
        if length == 0 {
            return Ok(0);
        }
        let whole = length.is_multiple_of(BLOCK64);
        let both_end = from_offset + length == from_size && to_offset + length >= to_size;
        let aligned = from_offset.is_multiple_of(BLOCK64) && to_offset.is_multiple_of(BLOCK64);
        if !aligned || !(whole || both_end) {
            return Err(Errno::NotSupported);
        }
        if to_offset + length > FILE_BYTES_MAX {
            return Err(Errno::FileTooBig);
        }
        self.flush_or_fail(&from).await?;
        self.flush_or_fail(&to).await?;
        let mtime = self.session.now();
        let mut range =
            CloneRange { from: from_ino, from_offset, to: to_ino, to_offset, length, mtime };
        let attr = loop {
            match self.content_op(Op::Clone(range)).await {
                // Too many extents for one command: a shorter part. The caller asks for the rest.
                Err(Errno::TooBig) if range.length > BLOCK64 => {
                    range.length = block_start(range.length / 2).max(BLOCK64);
                }
                answer => break answer?,
            }
        };
        let mut state = to.state.lock();
        state.size = attr.size;
        state.mtime = None;
        state.map.at_version(attr.dv);
        state.map.forget();
        state.rebase(attr);
        Ok(range.length)
    }

    /// Sets the size of a file.
    pub(super) async fn truncate(
        &self,
        ino: Ino,
        size: u64,
        mtime: Option<Timestamp>,
    ) -> Result<Attr, Errno> {
        if size > FILE_BYTES_MAX {
            return Err(Errno::FileTooBig);
        }
        let file = self.files.get(ino);
        let _order = file.order.lock().await;
        let held = self.grants.hold(&file).await?;
        let attr = self.set_size(&file, size, mtime).await;
        drop(held);
        let state = file.state.lock();
        if state.handles == 0 && state.may_release() {
            // Truncated by name: nobody will close it.
            self.flusher.release_later(&file);
        }
        attr
    }

    /// Sets the size; the caller holds the file's order and grant.
    async fn set_size(
        &self,
        file: &Arc<File>,
        size: u64,
        mtime: Option<Timestamp>,
    ) -> Result<Attr, Errno> {
        {
            let mut state = file.state.lock();
            let before = state.buffer.weight();
            state.buffer.truncate(size);
            self.flusher.note(file, &mut state, before);
        }
        self.settle(file).await;
        let attr = self.content_op(Op::Truncate { ino: file.ino, size, mtime }).await?;
        let mut state = file.state.lock();
        state.truncate(size);
        state.map.advance(attr.dv);
        if mtime.is_some() {
            state.mtime = None;
        }
        state.rebase(attr);
        drop(state);
        file.changed.notify_waiters();
        file.state.lock().overlay().ok_or(Errno::Io)
    }

    /// Makes a hole; the caller holds the file's order and grant.
    async fn punch(&self, file: &Arc<File>, range: Range<u64>) -> Result<(), Errno> {
        let size = file.state.lock().size;
        let end = range.end.min(size);
        if range.start >= end {
            return Ok(());
        }
        let first = range.start.next_multiple_of(BLOCK64);
        // The last block of the file is whole, however short it is.
        let last = if end == size { end.next_multiple_of(BLOCK64) } else { block_start(end) };
        if first >= last {
            return self.write_zeros(file, range.start..end).await;
        }
        self.write_zeros(file, range.start..first).await?;
        if last < end {
            self.write_zeros(file, last..end).await?;
        }
        {
            let mut state = file.state.lock();
            let before = state.buffer.weight();
            state.buffer.punch(&(first..last), self.flusher.pool());
            self.flusher.note(file, &mut state, before);
        }
        self.settle(file).await;
        // The end of the file may have been in what was just forgotten.
        let size = {
            let state = file.state.lock();
            state.base.as_ref().is_none_or(|base| base.size < state.size).then_some(state.size)
        };
        if let Some(size) = size {
            self.content_op(Op::Truncate { ino: file.ino, size, mtime: None }).await?;
        }
        let mtime = self.session.now();
        let (offset, length) = (first, last - first);
        let attr = self.content_op(Op::Punch { ino: file.ino, offset, length, mtime }).await?;
        let mut state = file.state.lock();
        state.map.punch(&(first..last));
        state.map.advance(attr.dv);
        state.mtime = Some(mtime);
        state.rebase(attr);
        Ok(())
    }

    /// Waits until every command about the file was answered.
    async fn settle(&self, file: &Arc<File>) {
        if !file.state.lock().frozen.is_empty() {
            self.flusher.hurry(file);
            file.when_settled().await;
        }
    }

    async fn content_op(&self, op: Op) -> Result<Attr, Errno> {
        match self.session.mutate(op).await? {
            Reply::Inode(attr) => Ok(attr),
            _ => Err(Errno::Io),
        }
    }
}
