//! What processes say to one another.
//!
//! Every connection is TCP under TLS. On it travel **frames** ([`frame`]): a fixed prefix, a small encoded
//! header, and a raw payload for bulk bytes, which never pass through the encoder. The first frame each way
//! is a [`hello`]. After it, [`metadata`] is what monitors are asked by clients and servers, [`shards`] what
//! servers are asked, [`admin`] what administration commands ask, [`trust`] how
//! machines join and what clients may do.
//!
//! Encoding is behind [`encode`] and [`decode`]: one file ([`codec`]) knows which crate does it.

pub mod admin;
mod codec;
pub mod frame;
pub mod hello;
pub mod metadata;
pub mod shards;
pub mod trust;

pub use codec::{DecodeError, decode, encode, try_encode};
