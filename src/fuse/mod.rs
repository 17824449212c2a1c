//! The FUSE adapter: a translator between the kernel and [`client::fs`](crate::client::fs), and nothing else.
//!
//! # The life of a request
//!
//! A program calls `read`. The kernel puts a request on the queue of `/dev/fuse` and sends the program to
//! sleep. One of our FUSE threads (as many as there are cores, each with a descriptor of its own) takes it
//! (`kernel`, which knows the protocol and nothing of the filesystem) and hands it to `adapter`. A method there
//! translates the arguments (`translate`) into one call of `client::Fs` and turns what comes back into the reply.
//!
//! Most calls are answered from memory, and then a task on the async runtime would cost more than the call
//! itself. So the call is begun on the FUSE thread (`answer`): if it is ready at once, the reply leaves
//! from here, else the rest of it is moved to the runtime, reply included, and the thread takes the next
//! request. A reply that is dropped unsent, by a panic say, is sent as EIO: a broken handler fails its program
//! and hangs nobody.
//!
//! A call waits for as long as the cluster is out of reach. Its program may be killed meanwhile: then it is
//! answered EINTR, and the call goes on without it (`kernel` tells how). So whatever a call acquires for its
//! program has to be given back when its reply finds nobody: see `Delivery`.
//!
//! # What the kernel may keep
//!
//! The kernel keeps pages, and everything that goes wrong in a shared filesystem goes wrong there. The rules,
//! numbered as the design numbers them:
//!
//! * **K1** FUSE_WRITEBACK_CACHE is never negotiated: the kernel would own size and mtime. Attributes and names,
//!   negative ones too, are believed for a second and only under a shared lease (`Fs::tell_attr`,
//!   `Fs::tell_name`), which costs a round trip to this process a second and none to anybody else. An open keeps
//!   the pages of an earlier one if they are of the version that the file has under the lease (`modes`).
//!   FUSE_AUTO_INVAL_DATA makes each `read` of cached pages look at the attributes first and drop the pages when
//!   mtime or size are not what they were.
//! * **K2** Pages are invalidated by threads of their own (`invalidate`, `forget`), with no lock held.
//! * **K3, K5** When the monitors want a lease back, the kernel forgets what it was told under it (`forget`). Nothing
//!   that has to be waited for then waits for that lease.
//! * **K4, K6** Who writes only does so past the page cache, which is more than twice as fast, unless that
//!   would leave stale pages under a mapping; `modes` decides.
//!
//! Pages of a mapping are not revalidated by the kernel: they go when the lease does, that is before somebody else
//! writes the file.
//!
//! # The end of a mount
//!
//! `umount` writes back mapped pages, waits for running requests and cuts the connection; then the threads
//! end, and [`Mount::run`] returns. Only then is it up to the caller to flush what `Fs` has buffered
//! (`Fs::shutdown`). The kernel tells a FUSE filesystem nothing before it is unmounted (FUSE_SYNCFS is for
//! virtiofs and block devices), so **`umount` returns before the last second of writes is in the cluster**.
//! Where that matters: fsync, `okapifs sync MNT` before `umount`, or wait for the daemon to end.
//!
//! # What is absent on purpose
//!
//! Permission checks (the kernel makes them: `default_permissions`), POSIX ACLs (refused, not stored
//! unenforced), ioctl and poll. Locks on directories are the kernel's own, valid on this host: it does not ask for them.

mod adapter;
mod answer;
mod capabilities;
mod directory;
mod forget;
mod invalidate;
mod kernel;
mod modes;
mod mount;
mod mountinfo;
mod mountpoint;
mod privileges;
mod shared;
mod translate;

pub use mount::{Mount, MountFlags, MountOptions, Unmounted};
pub use mountpoint::{MountError, Wanted, clear_dead, resolve, usable};
