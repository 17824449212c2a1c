//! Reads leave their time behind, as `relatime` has it: the first after a change, and one a day.
//!
//! Nobody waits for the monitors: until they have taken note of it, this client shows the time itself. Other clients
//! see it when they ask again, for a shared lease does not cover it: nobody is made to forget a file because somebody
//! has read it. A file that is mapped or in the kernel's cache is read without our knowing; what
//! counts is that it was read into there, so the kernel keeps no pages for who opens a file of which the next read is to
//! be written down. Directories and symbolic links do not show when they were read.

use std::sync::Arc;

use super::{Fs, OpenMode};
use crate::client::file::File;
use crate::client::files::OpenFile;
use crate::types::Timestamp;
use crate::wire::metadata::{Op, Reply};

impl Fs {
    /// Something was read through that handle.
    pub(super) fn note_access(&self, open: &OpenFile) {
        if !self.notes_access(open.mode) {
            return;
        }
        let file = &open.file;
        if let Some(time) = self.access_due(file) {
            let (session, file) = (Arc::clone(&self.session), Arc::clone(file));
            tokio::spawn(async move {
                let told = session.mutate(Op::Accessed { ino: file.ino, time }).await;
                match told {
                    Ok(Reply::Inode(attr)) => file.accessed(Some(attr.atime)),
                    _ => file.accessed(None),
                }
            });
        }
    }

    /// Whether reads of a file that is opened so are written down.
    pub(super) fn notes_access(&self, mode: OpenMode) -> bool {
        !mode.no_atime && !self.config.no_atime && self.must_be_writable().is_ok()
    }

    /// The time that has to be told, if any; others that read need not tell theirs as well.
    fn access_due(&self, file: &File) -> Option<Timestamp> {
        let mut state = file.state.lock();
        if state.accessed.is_some() {
            return None;
        }
        let now = self.session.now();
        let written = state.mtime;
        let due = state.base.as_ref().is_some_and(|base| {
            base.is_access_due(now) || written.is_some_and(|mtime| base.atime <= mtime)
        });
        if !due {
            return None;
        }
        state.accessed = Some(now);
        state.accessed
    }
}

impl File {
    /// The monitors know of the read, or do not want to.
    fn accessed(&self, atime: Option<Timestamp>) {
        let mut state = self.state.lock();
        state.accessed = None;
        if let (Some(base), Some(atime)) = (&mut state.base, atime) {
            base.atime = base.atime.max(atime);
        }
        drop(state);
        self.changed.notify_waiters();
    }
}
