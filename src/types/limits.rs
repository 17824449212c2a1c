//! Sizes that several layers agree on. Changing one that is marked *format* changes bytes on disk.

/// Unit of checksums, of extents' starts and of shard lengths, in bytes (*format*).
pub const BLOCK: u32 = 4096;

/// Most bytes of user data in one stripe. Large enough that a disk spends its time writing rather than
/// seeking, small enough that a few of them fit in memory while they travel.
pub const STRIPE_BYTES_MAX: u32 = 8 << 20;

/// Most pieces (of the same or of different files) in one stripe: every piece begins on a block, so this
/// many one-block pieces fill a stripe exactly.
pub const STRIPE_PIECES_MAX: usize = (STRIPE_BYTES_MAX / BLOCK) as usize;

/// Most data shards and most parity shards of a stripe.
pub const DATA_SHARDS_MAX: u8 = 32;
/// See [`DATA_SHARDS_MAX`].
pub const PARITY_SHARDS_MAX: u8 = 8;

/// Longest name of a directory entry, in bytes.
pub const NAME_MAX: usize = 255;
/// Longest target of a symbolic link, in bytes.
pub const SYMLINK_MAX: usize = 4095;
/// Longest name of an extended attribute, in bytes.
pub const XATTR_NAME_MAX: usize = 255;
/// Longest value of an extended attribute, in bytes.
pub const XATTR_VALUE_MAX: usize = 64 << 10;
/// Largest file, in bytes (16 TiB, sparse).
pub const FILE_BYTES_MAX: u64 = 16 << 40;
/// Most hard links of one inode.
pub const LINKS_MAX: u32 = 1 << 20;

/// Most locks on one file, those of all owners together.
pub const LOCKS_MAX: usize = 4096;

/// Reply slots of a session: how many mutations it may have in flight.
pub const SESSION_SLOTS: u16 = 256;
/// How many inode numbers a session leases at a time.
pub const INODE_RANGE: u64 = 64;
/// How many stripe ids a session leases at a time.
pub const STRIPE_RANGE: u64 = 1024;

/// Most records one replicated command may touch, so that nobody stalls behind one.
pub const COMMAND_RECORDS_MAX: usize = 8192;

/// Largest encoded header of a frame, in bytes: bounds what a peer can make us allocate.
pub const FRAME_HEADER_MAX: u32 = 4 << 20;
/// Largest raw payload of a frame, in bytes: a whole stripe's worth in one shard (k' = 1), its header and
/// its checksums.
pub const FRAME_PAYLOAD_MAX: u32 = STRIPE_BYTES_MAX + (1 << 20);
