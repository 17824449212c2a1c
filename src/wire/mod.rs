//! What processes say to one another.
//!
//! Every connection is TCP under TLS. On it travel **frames** ([`frame`]): a fixed prefix, a small encoded
//! header, and a raw payload for bulk bytes, which never pass through the encoder. The first frame each way
//! is a [`hello`]. After it, [`metadata`] is what monitors are asked by clients and servers ([`leases`]: what answers
//! may be believed, [`locks`]: waiting for locks, [`servers`]: what servers tell of themselves), [`peers`] what monitors
//! ask one another, [`shards`] what servers are asked, [`admin`] what administration commands ask, [`trust`] how
//! machines join and what clients may do, [`agent`] what agents are asked.
//!
//! Encoding is behind [`encode`] and [`decode`]: one file ([`codec`]) knows which crate does it.

pub mod admin;
pub mod agent;
mod codec;
#[cfg(test)]
pub(crate) mod formats;
pub mod frame;
pub mod hello;
pub mod leases;
pub mod locks;
pub mod metadata;
pub mod peers;
pub mod servers;
pub mod shards;
pub mod trust;

pub use codec::{DecodeError, decode, encode, encode_behind, try_encode};
