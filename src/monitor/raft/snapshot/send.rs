//! The sending end of a state.

use std::time::Duration;

use openraft::Snapshot;
use tokio::sync::mpsc;

use super::super::network::Route;
use super::super::state;
use super::super::transport::Unreached;
use super::super::types::{self, TypeConfig};
use super::spool::{Checksum, write_pair};
use super::{StateImage, Transfers};
use crate::env::random::{Random, SystemRandom};
use crate::monitor::store::StoreError;
use crate::wire::peers::{Answer, Ask, Chunk, Spooled, StateEnd, Vote};

/// A chunk holds at least so many bytes, unless it is the last.
const CHUNK_BYTES: usize = 1 << 20;
/// Chunks read ahead of the network.
const AHEAD: usize = 2;
/// How long the answer to one chunk is waited for.
const ANSWER: Duration = Duration::from_secs(5);
/// How often one chunk is sent before the whole is given up ...
const TRIES: u32 = 5;
/// ... and how long between two tries, or two questions whether it is installed.
const PAUSE: Duration = Duration::from_millis(300);

/// A piece of the state as it was read.
type Piece = Result<Vec<u8>, StoreError>;

/// Sends a whole state; gives the receiver's vote when it is its state.
pub(in super::super) async fn send(
    route: Route,
    transfers: &Transfers,
    vote: Vote,
    snapshot: Snapshot<TypeConfig>,
) -> Result<Vote, Unreached> {
    let applied = snapshot.meta.last_log_id.ok_or_else(|| failed("it is empty"))?;
    let end = StateEnd {
        applied: types::position(applied),
        members: state::encoded_members(&snapshot.meta.last_membership),
        crc: 0,
    };
    log::info!("sending the whole state up to entry {}", applied.index);
    let (pieces, mut read) = mpsc::channel(AHEAD);
    // It ends by itself when nobody takes what it reads.
    drop(tokio::task::spawn_blocking(move || read_out(&snapshot.snapshot, &pieces)));
    let mut transfer = Transfer { route, vote, id: SystemRandom.u64(), offset: 0 };
    let mut checksum = Checksum::new();
    while let Some(piece) = read.recv().await {
        let bytes = piece.map_err(failed)?;
        checksum.update(&bytes);
        if let Some(vote) = transfer.send(bytes, None).await? {
            return Ok(vote);
        }
        transfers.advanced();
    }
    let end = StateEnd { crc: checksum.value(), ..end };
    loop {
        let installed = transfer.send(Vec::new(), Some(end.clone())).await?;
        transfers.advanced();
        if let Some(vote) = installed {
            return Ok(vote);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Reads the pairs out, a chunk at a time, for as long as somebody takes them.
fn read_out(image: &StateImage, pieces: &mpsc::Sender<Piece>) {
    let mut bytes = Vec::new();
    let told = image.pairs().and_then(|pairs| {
        for pair in pairs {
            write_pair(&mut bytes, &pair?);
            if bytes.len() >= CHUNK_BYTES
                && pieces.blocking_send(Ok(std::mem::take(&mut bytes))).is_err()
            {
                return Ok(());
            }
        }
        Ok(())
    });
    let last = told.map(|()| bytes);
    if !matches!(&last, Ok(bytes) if bytes.is_empty()) {
        // Nobody is there any more when the transfer was given up.
        drop(pieces.blocking_send(last));
    }
}

/// A state on its way.
struct Transfer {
    route: Route,
    vote: Vote,
    id: u64,
    offset: u64,
}

impl Transfer {
    /// Sends a chunk until it has arrived. Gives the receiver's vote when there is nothing more to send.
    async fn send(
        &mut self,
        bytes: Vec<u8>,
        end: Option<StateEnd>,
    ) -> Result<Option<Vote>, Unreached> {
        let length = bytes.len() as u64;
        let chunk = Chunk { vote: self.vote, transfer: self.id, offset: self.offset, bytes, end };
        match self.insist(chunk).await? {
            Spooled::More | Spooled::Installing => {
                self.offset += length;
                Ok(None)
            }
            Spooled::Installed(vote) => Ok(Some(vote)),
            Spooled::Restart => Err(failed("the receiver has lost what was sent")),
        }
    }

    async fn insist(&self, chunk: Chunk) -> Result<Spooled, Unreached> {
        let mut tries = 1;
        loop {
            match self.route.ask(Ask::Chunk(chunk.clone()), ANSWER).await {
                Ok(Answer::Spooled(spooled)) => return Ok(spooled),
                Ok(_) => return Err(self.route.nonsense()),
                Err(error) if tries == TRIES => return Err(error),
                Err(_) => tries += 1,
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn failed(error: impl ToString) -> Unreached {
    Unreached(error.to_string())
}
