//! OkapiFS: a filesystem that you mount as a directory and that several machines share, striped over their disks
//! with parity.
//!
//! # Bird's-eye view
//!
//! Files become **extents**, extents lie in **stripes**, a stripe is cut into k data and m parity **shards** on as
//! many servers. **Monitors** own all names and maps and change them through a Raft log; **servers** store shards
//! that never change; a **client** is the FUSE driver: it asks monitors about names and moves bytes straight to and
//! from servers. One binary, and each role is a process.
//!
//! The life of a written byte: a program writes it to the mount ([`fuse`]), it is buffered and packed with others
//! into a stripe ([`client`]), encoded and checksummed ([`codec`]), put to servers and synced there ([`server`]), and
//! only then one replicated command ([`monitor`]) makes it part of the file, for everybody at once.
//!
//! # Layers
//!
//! A folder imports only what is below it; `tests/tidy.rs` holds the table.
//!
//! | layer | what it is |
//! |---|---|
//! | [`types`] 0 | ids, attributes, limits, the one errno table |
//! | [`codec`] 1 | erasure code, checksums, the image of a shard |
//! | [`crypto`] 1 | certificates and who they say one is |
//! | [`wire`] 2 | what processes say to one another |
//! | [`env`] 3 | clock, randomness, disks, network; real and simulated |
//! | [`monitor`] 4 | the namespace (pure), Raft, the store beneath it, the service |
//! | [`server`] 4 | shards in a directory |
//! | [`client`] 4 | the filesystem, as a program sees it |
//! | [`fuse`] 5 | translates between the kernel and [`client::fs`] |
//! | [`agent`] 5 | the processes of one machine |
//! | [`cli`] 6 | commands, configuration, everything that is printed |
//!
//! Monitors, servers and clients never import one another: they meet in [`wire`].
//!
//! # Where to look for what
//!
//! * the order of events that makes data safe: [`client`], then `monitor::namespace` for the commit;
//! * what is on a server's disk: [`server::store`]; byte for byte: [`codec::shard`];
//! * how a cluster starts on one machine: `cli::up` and [`agent`];
//! * which file draws which format: `docs/formats.md`.
//!
//! # Absent on purpose
//!
//! Deduplication; compression; a plaintext mode of the network; POSIX ACLs; in-place changes of stripes, and with them
//! the RAID write hole. Not there yet: more than one monitor, rebuilding of lost servers, shared leases (so metadata
//! is not cached between operations).

pub mod agent;
pub mod cli;
pub mod client;
pub mod codec;
pub mod crypto;
pub mod env;
pub mod fuse;
pub mod monitor;
pub mod server;
pub mod types;
pub mod wire;
