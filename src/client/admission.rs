//! Who may buffer more.
//!
//! A write is taken when three things have room for it: the memory of this client; the cluster's servers, counted
//! in raw bytes at the dearest width of the volume against a credit that comes with every renewal; and the
//! volume, if it has a quota, against what is reserved there ([`rooms`](super::core::rooms)). So ENOSPC and EDQUOT
//! are answers of `write`. A writer that is let in by a quota holds a [`Claim`] until its bytes are buffered.
//!
//! Near the end of a quota nothing is reserved ahead, and what is buffered may turn out to overwrite what is there:
//! a writer is refused only when everything before it was committed and there still is no room.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::core::rooms::{Asked, Rooms};
use super::flusher::{BUDGET, Flusher};
use crate::types::{Errno, VolumeId};
use crate::wire::metadata::{Op, Reply, Reserve};

/// So many bytes are reserved ahead while there is plenty.
const AHEAD: u64 = 64 << 20;
/// How often somebody who waits for a commit looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// What was not written to for so long gives back what it has reserved.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(1);

/// Whether more may be written.
#[derive(Debug)]
pub(crate) enum Admission {
    /// Yes.
    Go(Option<Claim>),
    /// When something on its way has arrived.
    Wait,
    /// The cluster is full.
    NoSpace,
    /// When room is reserved in the volume, or anything is known of it.
    Reserve,
}

/// Room in a volume for a writer that is about to buffer.
#[derive(Debug)]
pub(crate) struct Claim {
    rooms: Arc<Mutex<Rooms>>,
    volume: VolumeId,
    bytes: u64,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.rooms.lock().unclaim(self.volume, self.bytes);
    }
}

/// How much of a volume's quota a write needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Growth {
    /// As much as it writes.
    All,
    /// Nothing: it overwrites.
    Nothing,
}

impl Flusher {
    /// Whether `bytes` more of that volume may be written now.
    pub(crate) fn admit(&self, volume: VolumeId, bytes: u64, growth: Growth) -> Admission {
        let map = self.session.placement();
        let Some(entry) = map.volume(volume) else { return Admission::Reserve };
        let waiting = self.uncommitted();
        let raw = bytes.saturating_mul(1 + u64::from(entry.width.parity));
        let mut rooms = self.rooms.lock();
        if rooms.raw(&map).saturating_add(raw) > self.session.credit() {
            return if waiting == 0 { Admission::NoSpace } else { Admission::Wait };
        }
        if waiting > 0 && waiting + bytes > BUDGET {
            return Admission::Wait;
        }
        if !entry.is_limited || growth == Growth::Nothing {
            return Admission::Go(None);
        }
        if !rooms.claim(volume, self.session.id(), bytes) {
            return Admission::Reserve;
        }
        Admission::Go(Some(Claim { rooms: Arc::clone(&self.rooms), volume, bytes }))
    }

    /// Waits until `bytes` more of that volume may be written; the claim is to be held until they are buffered.
    ///
    /// # Errors
    ///
    /// [`Errno::NoSpace`] when the cluster is full, [`Errno::OverQuota`] when the volume is.
    pub(crate) async fn wait_for_room(
        &self,
        volume: VolumeId,
        bytes: u64,
        growth: Growth,
    ) -> Result<Option<Claim>, Errno> {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            match self.admit(volume, bytes, growth) {
                Admission::Go(claim) => return Ok(claim),
                Admission::NoSpace => {
                    // The credit may have grown since it was told.
                    self.session.renew().await;
                    if matches!(self.admit(volume, bytes, growth), Admission::NoSpace) {
                        return Err(Errno::NoSpace);
                    }
                    continue;
                }
                Admission::Reserve => {
                    if self.reserve(volume, bytes).await? {
                        continue;
                    }
                    if self.rooms.lock().uncommitted(volume) == 0 {
                        return Err(Errno::OverQuota);
                    }
                    self.hurry_all();
                }
                Admission::Wait if self.uncommitted() + bytes > BUDGET => {
                    self.lists.lock().commit_now = true;
                    self.kick.notify_one();
                }
                Admission::Wait => self.hurry_all(),
            }
            tokio::time::timeout(LOOK_AGAIN, freed).await.ok();
        }
    }

    /// Bytes of that volume were committed.
    pub(crate) fn spent(&self, volume: VolumeId, bytes: u64) {
        self.rooms.lock().spent(volume, bytes);
    }

    /// Gives back what is reserved and not used, for ever.
    pub(crate) async fn give_back_rooms(self: Arc<Self>) {
        loop {
            tokio::time::sleep(GIVE_BACK_EVERY).await;
            let _one = self.reserving.lock().await;
            let idle = self.rooms.lock().idle(self.session.id());
            for (volume, asked) in idle {
                if let Err(errno) = self.ask_room(volume, asked, 0).await {
                    log::debug!("volume {volume}: a reservation was not given back: {errno}");
                }
            }
        }
    }

    /// Reserves room for `bytes` more. Returns whether there is so much.
    async fn reserve(&self, volume: VolumeId, bytes: u64) -> Result<bool, Errno> {
        let _one = self.reserving.lock().await;
        if self.session.placement().volume(volume).is_none() {
            // It is younger than the map.
            self.session.renew().await;
            let is_known = self.session.placement().volume(volume).is_some();
            return is_known.then_some(true).ok_or_else(|| {
                log::error!("the monitors do not tell of volume {volume}");
                Errno::Io
            });
        }
        let asked = self.rooms.lock().ask(volume, bytes);
        self.ask_room(volume, asked, AHEAD).await
    }

    async fn ask_room(&self, volume: VolumeId, asked: Asked, ahead: u64) -> Result<bool, Errno> {
        let session = self.session.id();
        let op = Op::Reserve(Reserve { volume, bytes: asked.bytes, ahead });
        match self.session.mutate(op).await? {
            Reply::Reserved { bytes } => {
                Ok(self.rooms.lock().granted(volume, session, asked, bytes))
            }
            _ => Err(Errno::Io),
        }
    }
}
