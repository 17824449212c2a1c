//! Has the kernel forget what it was told, when the monitors want a shared lease back (K2, K3, K5).
//!
//! Three things may have to go, and each can be held up differently:
//!
//! * **attributes**: takes no lock that a request could hold. But a reply that left a moment ago may not have been
//!   taken up yet by the thread of the program that asked; of an inode that is new to the kernel, or was changed by
//!   `setattr`, the attributes would then be believed after all. So they are taken back once more a moment later, if
//!   one was told so lately.
//! * **pages** of files that are open here. The kernel waits for the lock of each page, which a reader has until its
//!   read is answered. Reads under way are answered without waiting for whoever wants the lease, but one of a stripe
//!   that no server gives takes long, and a program that writes through the cache waits with its page locked until
//!   somebody else gives up the file: after [`PATIENCE`] the rest of the pages is left to go when it can. (`read` looks
//!   at the attributes first and drops pages that are old; nobody looks under a mapping.)
//! * **names**: the kernel takes the directory's lock, which a program has that removes a name in it and waits for its
//!   answer, and that answer may wait for another host which waits just so for us. The kernel believes names for a
//!   second at most, so nobody has to wait for longer than that.
//!
//! All of it runs on threads for blocking calls, never on one that answers requests or runs tasks.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::runtime::Handle as Runtime;
use tokio::time::timeout;

use super::invalidate::clamp;
use super::kernel::Notifier;
use super::shared::Shared;
use crate::client::{Kernel, Stale};
use crate::types::Ino;

/// How long pages are waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// A program takes up a reply within this time.
const TAKEN_UP: Duration = Duration::from_millis(5);
/// What may be believed for longer than this was told a moment ago.
const JUST_TOLD: Duration = Duration::from_secs(1).saturating_sub(TAKEN_UP);

/// See the module.
pub(super) struct Caches {
    notifier: Notifier,
    /// The filesystem keeps this, and is kept by that.
    mine: Weak<Shared>,
    runtime: Runtime,
}

impl Caches {
    /// The caches behind this connection.
    pub(super) fn new(notifier: Notifier, mine: &Arc<Shared>, runtime: Runtime) -> Self {
        Self { notifier, mine: Arc::downgrade(mine), runtime }
    }
}

impl Kernel for Caches {
    fn forget(&self, stale: Vec<Stale>) -> BoxFuture<'static, ()> {
        let Some(mine) = self.mine.upgrade() else {
            return std::future::ready(()).boxed();
        };
        let begun = Instant::now();
        let stale = Arc::new(stale);
        let names_for = stale.iter().map(|stale| stale.names_for).max().unwrap_or_default();
        let attrs = self.begin(&mine, &stale, stale.iter().any(has_attr), forget_attrs);
        let names = self.begin(&mine, &stale, !names_for.is_zero(), move |at, stale| {
            forget_names(at, stale, begun);
        });
        let any_pages = stale.iter().any(|stale| !stale.pages.is_empty());
        let pages = self.begin(&mine, &stale, any_pages, forget_pages);
        async move {
            attrs.await;
            // What is not done then need not be waited for.
            timeout(PATIENCE, pages).await.ok();
            timeout(names_for.saturating_sub(begun.elapsed()), names).await.ok();
        }
        .boxed()
    }
}

/// Where the kernel is told.
struct At {
    notifier: Notifier,
    mine: Arc<Shared>,
}

impl Caches {
    /// Begins a part of it, if there is anything to do.
    fn begin(
        &self,
        mine: &Arc<Shared>,
        stale: &Arc<Vec<Stale>>,
        is_any: bool,
        work: impl FnOnce(&At, &[Stale]) + Send + 'static,
    ) -> BoxFuture<'static, ()> {
        if !is_any {
            return std::future::ready(()).boxed();
        }
        let at = At { notifier: self.notifier.clone(), mine: Arc::clone(mine) };
        let stale = Arc::clone(stale);
        let working = self.runtime.spawn_blocking(move || work(&at, &stale));
        async move {
            if let Err(error) = working.await {
                log::error!("the kernel may believe something for a second that is stale: {error}");
            }
        }
        .boxed()
    }
}

fn has_attr(stale: &Stale) -> bool {
    !stale.attr_for.is_zero()
}

fn forget_attrs(at: &At, stale: &[Stale]) {
    let told: Vec<&Stale> = stale.iter().filter(|stale| has_attr(stale)).collect();
    // A negative offset: no pages.
    let forget = |stale: &&Stale| {
        check(at.notifier.inval_inode(at.mine.nodes.node(stale.ino), -1, 0), stale.ino);
    };
    told.iter().for_each(forget);
    let lately: Vec<&Stale> = told.into_iter().filter(|stale| stale.attr_for > JUST_TOLD).collect();
    if !lately.is_empty() {
        thread::sleep(TAKEN_UP);
        lately.iter().for_each(forget);
    }
}

fn forget_pages(at: &At, stale: &[Stale]) {
    for file in stale {
        let node = at.mine.nodes.node(file.ino);
        for Range { start, end } in &file.pages {
            // A length of 0 means up to the end.
            let length = if *end == u64::MAX { 0 } else { end - start };
            check(at.notifier.inval_inode(node, clamp(*start), clamp(length)), file.ino);
        }
    }
}

fn forget_names(at: &At, stale: &[Stale], begun: Instant) {
    for dir in stale {
        let node = at.mine.nodes.node(dir.ino);
        for name in &dir.names {
            if begun.elapsed() >= dir.names_for {
                break;
            }
            check(at.notifier.inval_entry(node, name), dir.ino);
        }
    }
}

fn check(told: io::Result<()>, ino: Ino) {
    match told {
        Ok(()) => {}
        // The mount is gone, or going.
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {}
        Err(error) => log::warn!("what the kernel believes of inode {ino} may be stale: {error}"),
    }
}
