//! What the kernel may believe of what it is told, and what all of that is good for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Fs, OpenMode};
use crate::client::file::Grant;
use crate::client::leases::{Kernel, Stale};
use crate::types::{Attr, DataVersion, Ino};

impl Fs {
    /// From now on the kernel is told what it has to forget.
    pub fn kernel_is(&self, kernel: Arc<dyn Kernel>) {
        self.session.leases().kernel_is(kernel);
    }

    /// The kernel is told these attributes: for how long it may believe them.
    pub fn tell_attr(&self, attr: &Attr) -> Duration {
        let (now, lease_end) = (self.session.monotonic(), self.session.lease_end());
        self.session.leases().tell_attr(attr, now, lease_end)
    }

    /// The kernel is told where a name leads, or that it leads nowhere: for how long it may believe that.
    pub fn tell_name(&self, parent: Ino, name: &[u8], ino: Option<Ino>) -> Duration {
        let (now, lease_end) = (self.session.monotonic(), self.session.lease_end());
        self.session.leases().tell_name((parent, name), ino, now, lease_end)
    }

    /// A change was made of which the kernel believes that nothing came of it, since nobody waits for it any more. It is
    /// to ask again for the attributes of these inodes, and for the name in each that is given.
    pub async fn changed_for_nobody(&self, changed: Vec<(Ino, Option<Vec<u8>>)>) {
        let stale =
            changed.into_iter().map(|(ino, name)| Stale::changed(ino, name.into_iter().collect()));
        self.session.leases().forget_changed(stale.collect()).await;
    }

    /// Whether the kernel will go on believing for a while that a name in `dir` leads to `ino`, and the attributes of that,
    /// and need not be told. (If it has forgotten it, it asks.)
    pub fn is_told(&self, dir: Ino, ino: Ino) -> bool {
        self.session.leases().is_told(dir, ino, self.session.monotonic())
    }

    /// The version of a file's content, if it is known and nothing of ours is on its way into it: pages that the
    /// kernel has of this version are right for who opens it so. (None are where a read has to be written down: it must
    /// come here.)
    pub fn settled_version(&self, ino: Ino, mode: OpenMode) -> Option<DataVersion> {
        let is_ours = |ino| {
            let file = self.files.find(ino);
            file.is_some_and(|file| file.state.lock().grant != Grant::Nothing)
        };
        let notes_access = mode.read && self.notes_access(mode);
        let is_due = |attr: &Attr| notes_access && attr.is_access_due(self.session.now());
        let attr = self.session.believed(ino).filter(|attr| !is_ours(ino) && !is_due(attr));
        attr.map(|attr| attr.dv)
    }

    /// How often anybody was asked anything so far, a number a line.
    pub(super) fn stats(&self) -> String {
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let (leases, recalls) = self.session.leases().counts();
        let lines = [
            ("monitor_calls", count(&self.counts.monitors)),
            ("server_calls", count(&self.counts.servers)),
            ("renewals", count(&self.counts.renewals)),
            ("leases", leases),
            ("recalls", recalls),
        ];
        lines.iter().map(|(name, number)| format!("{name} {number}\n")).collect()
    }
}
