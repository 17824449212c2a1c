//! The one errno table. Everything a program on the mount can be told is a row of it; layers below speak
//! these names and only the FUSE adapter turns them into numbers.

use bincode::{Decode, Encode};

macro_rules! errno_table {
    ($($name:ident = $code:ident, $text:literal;)*) => {
        /// Why an operation on the filesystem was refused, named as POSIX names it.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Encode, Decode, thiserror::Error)]
        pub enum Errno {
            $(#[doc = $text] #[error($text)] $name,)*
        }

        impl Errno {
            /// Every row of the table.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The number the kernel knows it by.
            pub fn code(self) -> i32 {
                match self { $(Self::$name => libc::$code,)* }
            }
        }
    };
}

errno_table! {
    NotFound = ENOENT, "no such file or directory";
    Exists = EEXIST, "file exists";
    NotDirectory = ENOTDIR, "not a directory";
    IsDirectory = EISDIR, "is a directory";
    NotEmpty = ENOTEMPTY, "directory not empty";
    NotPermitted = EPERM, "operation not permitted";
    AccessDenied = EACCES, "permission denied";
    Invalid = EINVAL, "invalid argument";
    NameTooLong = ENAMETOOLONG, "file name too long";
    FileTooBig = EFBIG, "file too large";
    TooManyLinks = EMLINK, "too many links";
    CrossVolume = EXDEV, "that is another volume";
    ReadOnly = EROFS, "the filesystem is mounted read-only";
    NoSpace = ENOSPC, "no space left in the cluster";
    OverQuota = EDQUOT, "quota exceeded";
    NoAttribute = ENODATA, "no such extended attribute";
    TooSmallBuffer = ERANGE, "buffer too small";
    TooBig = E2BIG, "value too large";
    NoSuchOffset = ENXIO, "no data or hole at or after that offset";
    BadHandle = EBADF, "bad file handle";
    Stale = ESTALE, "the file was removed, or this mount's session was closed";
    Io = EIO, "input/output error: too few shards of a stripe could be read, or a write was lost";
    NotSupported = EOPNOTSUPP, "operation not supported";
    Unreachable = ETIMEDOUT, "the cluster did not answer in time";
    Interrupted = EINTR, "interrupted";
    WouldBlock = EAGAIN, "somebody else holds the lock";
    Deadlock = EDEADLK, "whoever holds the lock waits for one of yours";
    NoLocks = ENOLCK, "too many locks on that file";
}

#[cfg(test)]
mod tests {
    use super::Errno;

    #[test]
    fn no_two_rows_share_a_number() {
        let mut codes: Vec<i32> = Errno::ALL.iter().map(|errno| errno.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Errno::ALL.len());
    }
}
