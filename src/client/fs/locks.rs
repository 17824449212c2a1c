//! Locking files: flock(2) and fcntl(2).

use super::{Fs, Handle};
use crate::types::{Conflict, Errno, Ino, LockKind, LockMode, LockOwner, LockRange, LockRequest};
use crate::wire::metadata::{Answer, Query};

/// What a program wants of a file's locks; see [`LockRequest`].
#[derive(Clone, Copy, Debug)]
pub struct Lock {
    /// Which kind of lock.
    pub kind: LockKind,
    /// Whose it is.
    pub owner: LockOwner,
    /// The calling process.
    pub pid: u32,
    /// Which bytes.
    pub range: LockRange,
    /// How to lock them; `None` unlocks.
    pub mode: Option<LockMode>,
}

impl Fs {
    /// The first lock that is in the way of one. Its `pid` is 0 if that process is on another host.
    pub async fn get_lock(&self, handle: Handle, lock: Lock) -> Result<Option<Conflict>, Errno> {
        let (_, ino) = self.file_of(handle)?;
        let session = self.session.id();
        let request = lock.request(ino);
        match self.session.query(Query::Lock { session, request }).await? {
            Answer::Lock(conflict) => Ok(conflict.map(|conflict| {
                let pid = if conflict.session == session { conflict.pid } else { 0 };
                Conflict { pid, ..conflict }
            })),
            _ => Err(Errno::Io),
        }
    }

    /// Take or give up a lock; with `wait` once nobody else is in the way, else [`Errno::WouldBlock`] if somebody is.
    /// Dropping the future ends the wait, and leaves the locks as they were.
    pub async fn set_lock(&self, handle: Handle, lock: Lock, wait: bool) -> Result<(), Errno> {
        let (_, ino) = self.file_of(handle)?;
        self.locks.set(handle, lock.request(ino), wait).await
    }

    /// A process has closed one of its descriptors of the file: all its fcntl(2) locks on it go.
    pub async fn drop_locks(&self, ino: Ino, owner: LockOwner) {
        self.locks.process_closes(ino, owner).await;
    }
}

impl Lock {
    fn request(self, ino: Ino) -> LockRequest {
        let Self { kind, owner, pid, range, mode } = self;
        LockRequest { ino, kind, owner, pid, range, mode }
    }
}
