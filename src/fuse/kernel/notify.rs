//! What the kernel is told unasked: what it keeps is stale.
//!
//! Telling may wait for locks and pages that the kernel only gives back when we have answered a request, so it
//! is done neither from a FUSE thread nor from a task (K2).

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::abi::{Body, Notification};
use super::device::Device;
use super::encode;
use super::request::NodeId;

/// See the module.
#[derive(Clone, Debug)]
pub(in crate::fuse) struct Notifier(pub(super) Arc<Device>);

impl Notifier {
    /// Attributes of an inode are stale, and pages from `offset` on: `length` bytes, up to the end if that is 0,
    /// none if `offset` is negative.
    pub(in crate::fuse) fn inval_inode(
        &self,
        node: NodeId,
        offset: i64,
        length: i64,
    ) -> io::Result<()> {
        self.send(Notification::InvalInode, &encode::inval_inode(node, offset, length), &[])
    }

    /// A name in a directory may be stale: it is asked for again.
    pub(in crate::fuse) fn inval_entry(&self, parent: NodeId, name: &[u8]) -> io::Result<()> {
        let body = encode::inval_entry(parent, name_bytes(name)?);
        self.send(Notification::InvalEntry, &body, &[name, &[0]])
    }

    /// A name was removed from a directory: as [`Self::inval_entry`], and watchers of the directory are told.
    #[expect(dead_code, reason = "names are not believed as long as clients share no leases")]
    pub(in crate::fuse) fn delete(
        &self,
        parent: NodeId,
        child: NodeId,
        name: &[u8],
    ) -> io::Result<()> {
        let body = encode::delete(parent, child, name_bytes(name)?);
        self.send(Notification::Delete, &body, &[name, &[0]])
    }

    fn send(&self, what: Notification, body: &Body, tail: &[&[u8]]) -> io::Result<()> {
        let tail_bytes: usize = tail.iter().map(|part| part.len()).sum();
        let header = encode::notification_header(what, body.as_slice().len() + tail_bytes)
            .ok_or_else(|| io::Error::other("it is too long"))?;
        let mut parts = vec![IoSlice::new(header.as_slice()), IoSlice::new(body.as_slice())];
        parts.extend(tail.iter().map(|part| IoSlice::new(part)));
        match self.0.send(&parts) {
            // The kernel does not have it: then nothing of it is stale.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            sent => sent,
        }
    }
}

fn name_bytes(name: &[u8]) -> io::Result<u32> {
    u32::try_from(name.len()).map_err(io::Error::other)
}
