//! What the kernel and we agree on when a mount begins (FUSE_INIT).
//!
//! As telling is what is not asked for: FUSE_WRITEBACK_CACHE (K1), FUSE_EXPLICIT_INVAL_DATA (pages go by themselves with
//! a new mtime), FUSE_ATOMIC_O_TRUNC (a program that runs would be cut before the kernel says ETXTBSY; and it costs
//! nobody anything to be asked to cut after the open).
//!
//! FUSE_CACHE_SYMLINKS needs no lease: the target of a link never changes, and inode numbers are never used twice.
//!
//! FUSE_POSIX_ACL has the kernel ask for ACLs and enforce them; it keeps a list for as long as the attributes of
//! the same inode. With it goes FUSE_DONT_MASK: whether the umask counts depends on the directory's default ACL.

use super::kernel::{Agreement, Init, capability};
use super::mount::REQUEST_BYTES_MAX;

/// Requests that nobody waits for (read-ahead) which the kernel may have in flight.
const BACKGROUND_MAX: u16 = 256;

/// How many of them make it read ahead no further.
const CONGESTED_AT: u16 = BACKGROUND_MAX / 4 * 3;

/// The kernel's smallest page, in bytes: counted in these, a request of the greatest size is allowed.
const PAGE_BYTES: u32 = 4096;

/// What we ask the kernel for.
const WANTED: [(u64, &str); 17] = [
    (capability::ASYNC_READ, "FUSE_ASYNC_READ"),
    (capability::POSIX_LOCKS, "FUSE_POSIX_LOCKS"),
    (capability::FLOCK_LOCKS, "FUSE_FLOCK_LOCKS"),
    (capability::BIG_WRITES, "FUSE_BIG_WRITES"),
    (capability::DONT_MASK, "FUSE_DONT_MASK"),
    (capability::AUTO_INVAL_DATA, "FUSE_AUTO_INVAL_DATA"),
    (capability::DO_READDIRPLUS, "FUSE_DO_READDIRPLUS"),
    (capability::READDIRPLUS_AUTO, "FUSE_READDIRPLUS_AUTO"),
    (capability::ASYNC_DIO, "FUSE_ASYNC_DIO"),
    (capability::PARALLEL_DIROPS, "FUSE_PARALLEL_DIROPS"),
    (capability::POSIX_ACL, "FUSE_POSIX_ACL"),
    (capability::MAX_PAGES, "FUSE_MAX_PAGES"),
    (capability::CACHE_SYMLINKS, "FUSE_CACHE_SYMLINKS"),
    (capability::HANDLE_KILLPRIV_V2, "FUSE_HANDLE_KILLPRIV_V2"),
    (capability::SETXATTR_EXT, "FUSE_SETXATTR_EXT"),
    (capability::INIT_EXT, "FUSE_INIT_EXT"),
    (capability::DIRECT_IO_ALLOW_MMAP, "FUSE_DIRECT_IO_ALLOW_MMAP"),
];

/// Asks for it. What this kernel does not have, we do without.
pub(super) fn agree(offer: &Init) -> Agreement {
    for (_, missing) in WANTED.iter().filter(|(wanted, _)| offer.flags & wanted == 0) {
        log::info!("this kernel has no {missing}");
    }
    let wanted = WANTED.iter().fold(0, |all, (flag, _)| all | flag);
    Agreement {
        flags: offer.flags & wanted,
        background_max: BACKGROUND_MAX,
        congested_at: CONGESTED_AT,
        write_bytes_max: REQUEST_BYTES_MAX,
        pages_max: u16::try_from(REQUEST_BYTES_MAX / PAGE_BYTES).expect("256"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_agreed_on_than_is_offered() {
        let offer = |flags| agree(&Init::offering(flags)).flags;
        assert_eq!(offer(capability::ASYNC_READ), capability::ASYNC_READ);
        assert_eq!(offer(0), 0);
        let all = WANTED.iter().map(|(flag, _)| flag.count_ones()).sum::<u32>();
        assert_eq!(offer(u64::MAX).count_ones(), all, "each is one bit, and none is there twice");
    }
}
