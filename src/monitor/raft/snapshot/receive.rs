//! The receiving end of a state.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::{Snapshot, SnapshotMeta};
use tokio::sync::{Mutex, watch};

use super::super::Core;
use super::super::room::Gauge;
use super::super::state;
use super::super::types;
use super::{Spool, StateImage};
use crate::types::DiskRoom;
use crate::wire::peers::{Answer, Chunk, Spooled, StateEnd, Vote};

const SPOOL: &str = "state.spool";

/// Takes states that are sent whole, one at a time.
pub(in super::super) struct Receiver {
    path: PathBuf,
    gauge: Arc<Gauge>,
    current: Mutex<Option<Transfer>>,
}

/// The transfer that was heard of last.
struct Transfer {
    id: u64,
    progress: Progress,
}

enum Progress {
    /// More is to come.
    Spooling(Spool),
    /// Everything came; what became of it.
    Installing(watch::Receiver<Option<Result<Vote, String>>>),
}

impl Receiver {
    /// Spools into `dir`. What a process that ended left there is removed.
    pub(in super::super) fn new(dir: &Path, gauge: Arc<Gauge>) -> io::Result<Self> {
        let path = dir.join(SPOOL);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(Self { path, gauge, current: Mutex::new(None) }),
        }
    }

    /// Takes a chunk.
    pub(in super::super) async fn take(&self, core: &Core, chunk: Chunk) -> Answer {
        let ours = types::vote(&core.metrics().borrow().vote);
        if ours.term > chunk.vote.term {
            return Answer::Spooled(Spooled::Installed(ours));
        }
        match self.take_in_turn(core, chunk).await {
            Ok(spooled) => Answer::Spooled(spooled),
            Err(why) => {
                log::error!("a state that was sent cannot be taken: {why}");
                Answer::Unable(why)
            }
        }
    }

    async fn take_in_turn(&self, core: &Core, chunk: Chunk) -> Result<Spooled, String> {
        let mut current = self.current.lock().await;
        let progress = match current.take() {
            Some(Transfer { id, progress }) if id == chunk.transfer => Some(progress),
            // Another one is not thrown away half-way into the store.
            Some(Transfer { id, progress: Progress::Installing(outcome) })
                if outcome.borrow().is_none() =>
            {
                *current = Some(Transfer { id, progress: Progress::Installing(outcome) });
                return Err("it is still taking over the state that was sent before".into());
            }
            _ => None,
        };
        let id = chunk.transfer;
        let (spooled, progress) = match progress {
            Some(Progress::Installing(outcome)) => {
                let known = outcome.borrow().clone();
                let spooled = match known {
                    None => Spooled::Installing,
                    Some(installed) => Spooled::Installed(installed?),
                };
                (spooled, Progress::Installing(outcome))
            }
            Some(Progress::Spooling(spool)) => match follow(core, spool, chunk).await? {
                Some(followed) => followed,
                None => return Ok(Spooled::Restart),
            },
            // For a while there are two states, and what was spooled.
            None if self.gauge.seen() != DiskRoom::Enough => {
                return Err("its disk has no room for a whole state".into());
            }
            None if chunk.offset == 0 => {
                let path = self.path.clone();
                let spool = blocking(move || Spool::create(&path)).await?;
                match follow(core, spool, chunk).await? {
                    Some(followed) => followed,
                    None => return Ok(Spooled::Restart),
                }
            }
            None => return Ok(Spooled::Restart),
        };
        *current = Some(Transfer { id, progress });
        Ok(spooled)
    }
}

/// Adds a chunk to a spool; `None` when it does not follow, or the whole is not what was sent.
async fn follow(
    core: &Core,
    mut spool: Spool,
    chunk: Chunk,
) -> Result<Option<(Spooled, Progress)>, String> {
    let came_before = chunk.offset + chunk.bytes.len() as u64 == spool.written();
    if !came_before {
        if chunk.offset != spool.written() {
            return Ok(None);
        }
        let bytes = chunk.bytes;
        spool = blocking(move || spool.append(&bytes).map(|()| spool)).await?;
    }
    let Some(end) = chunk.end else {
        return Ok(Some((Spooled::More, Progress::Spooling(spool))));
    };
    if spool.crc() != end.crc {
        log::warn!("a state that was sent is damaged; it is asked for again");
        return Ok(None);
    }
    let outcome = install(core.clone(), chunk.vote, end, spool)?;
    Ok(Some((Spooled::Installing, Progress::Installing(outcome))))
}

/// Lets the state take the place of the one before; that may take long.
fn install(
    core: Core,
    vote: Vote,
    end: StateEnd,
    spool: Spool,
) -> Result<watch::Receiver<Option<Result<Vote, String>>>, String> {
    let last_log_id = types::log_id(end.applied);
    let meta = SnapshotMeta {
        last_log_id: Some(last_log_id),
        last_membership: state::decoded_members(&end.members).map_err(|error| error.to_string())?,
        snapshot_id: last_log_id.to_string(),
    };
    log::info!("taking over a whole state: entry {}, {} bytes", end.applied.index, spool.written());
    let (tell, outcome) = watch::channel(None);
    drop(tokio::spawn(async move {
        let snapshot = Snapshot { meta, snapshot: Box::new(StateImage::Spooled(spool)) };
        let installed = core.install_full_snapshot(types::openraft_vote(vote), snapshot).await;
        let installed = installed.map(|response| types::vote(&response.vote));
        tell.send_replace(Some(installed.map_err(|error| error.to_string())));
    }));
    Ok(outcome)
}

/// Runs something that waits for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|panic| panic.to_string())?.map_err(|error| error.to_string())
}
