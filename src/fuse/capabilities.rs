//! What the kernel and we agree on when a mount begins (FUSE_INIT).
//!
//! As telling is what is not asked for: FUSE_WRITEBACK_CACHE (K1), FUSE_POSIX_LOCKS and FUSE_FLOCK_LOCKS (the
//! kernel's own locks do on one host), FUSE_SETXATTR_EXT (`fuser` panics), FUSE_DONT_MASK (the kernel applies
//! the umask), FUSE_EXPLICIT_INVAL_DATA (pages go by themselves with a new mtime), and FUSE_CACHE_SYMLINKS is: the
//! target of a link never changes, and neither are inode numbers used twice.

use std::io;

use fuser::{InitFlags, KernelConfig};

use super::mount::REQUEST_BYTES_MAX;

/// Requests that nobody waits for (read-ahead) which the kernel may have in flight.
const BACKGROUND_MAX: u16 = 256;

/// What we ask the kernel for, beside what `fuser` always does (asynchronous reads, big writes, many pages).
const WANTED: &[InitFlags] = &[
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_AUTO_INVAL_DATA,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
];

/// Asks for it. What this kernel does not have, we do without.
pub(super) fn negotiate(config: &mut KernelConfig) -> io::Result<()> {
    for wanted in WANTED {
        if let Err(missing) = config.add_capabilities(*wanted) {
            log::info!("this kernel has no {missing:?}");
        }
    }
    let refused = |nearest| io::Error::other(format!("a limit is {nearest}"));
    config.set_max_write(REQUEST_BYTES_MAX).map_err(refused)?;
    config.set_max_background(BACKGROUND_MAX).map_err(|nearest| refused(nearest.into()))?;
    Ok(())
}
