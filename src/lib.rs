//! # OkapiFS: a few machines, one directory
//!
//! A filesystem for 3 to 100 machines that mount it as one directory. What is written is cut into stripes,
//! given parity and spread over the machines' disks, RAID-5 style, so that any one of them (or any m, if you
//! choose so) can be switched off at any moment and nothing is lost and nothing hangs.
//!
//! ## From above
//!
//! ```text
//!   cp, cat, git …                                    okapifs status, check …
//!        │ kernel, /dev/fuse                                 │
//!   ┌────┴────────────┐   names, maps, grants   ┌────────────┴────────────┐
//!   │ client  (mount) ├────────────────────────►│ monitors (Raft group)   │
//!   │ fuse → client   │◄──── recalls ───────────┤ namespace over log + KV │
//!   └────┬────────────┘                         └────────────▲────────────┘
//!        │ shards: put, get                                  │ beats, what to reap
//!   ┌────▼──────────┐  ┌───────────────┐  ┌───────────────┐  │
//!   │ server        │  │ server        │  │ server        ├──┘
//!   └───────────────┘  └───────────────┘  └───────────────┘
//! ```
//!
//! One binary; each role is a process. A **client** buffers what programs write, packs it into immutable
//! **stripes**, puts their k data and m parity **shards** on k+m **servers**, and then has the **monitors**
//! commit, in one command, which bytes of which files they are. Before the commit nobody sees the new data,
//! after it everybody does. What no file's map names any longer is garbage and is reaped.
//!
//! ## Layers
//!
//! Each folder imports only what is above it in this list; `tests/tidy.rs` holds them to it.
//!
//! | folder | what is in it | start reading at |
//! |---|---|---|
//! | [`types`] | identities, units, limits, the errno table | [`types::Extent`] |
//! | [`codec`] | erasure code, checksums, the bytes of a shard | [`codec::shard`] |
//! | [`crypto`] | the cluster's CA, certificates, TLS settings, tickets | [`crypto`] |
//! | [`wire`] | messages and frames | [`wire::metadata`] |
//! | [`env`] | clock, randomness, disk, network: the real ones and their seeded twins | [`env`] |
//! | [`monitor`] | the namespace (pure), the Raft log, the store, the service | [`monitor::namespace`] |
//! | [`server`] | the store of shards, the service | [`server::store`] |
//! | [`client`] | write buffer, packing, placing, reading (pure cores), the filesystem | [`client`] |
//! | [`fuse`] | the translator between the kernel and [`client`] | [`fuse`] |
//! | [`agent`] | which processes should run on this node, and running them | [`agent`] |
//! | [`cli`] | one file a command | [`cli`] |
//!
//! `monitor`, `server` and `client` never import one another: they meet in `wire`.
//!
//! ## Where to look for …
//!
//! * *what happens to a written byte*: [`client`], then [`server::store`], then the namespace's `content`;
//! * *what makes it safe*: the invariants at the head of [`monitor::namespace`];
//! * *what brings a dead process back*: [`agent`], then its [`plan`](agent::plan);
//! * *what lies on a disk*: `docs/formats.md`, which points at the drawings beside the writers;
//! * *why a mount may wait*: [`client`]'s session and the service's recalls;
//! * *what happens when a monitor dies*: [`env::system::monitors`], then the service's `reign`.
//!
//! ## Absent on purpose
//!
//! No update in place (so no write hole, no read-modify-write of parity, no rollback), no hashing of names
//! to servers (placement is a table, so nothing moves by itself), no plaintext protocol, no kernel writeback
//! cache (the daemon owns sizes and times), no journal in the key-value store (the Raft log is one).

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
