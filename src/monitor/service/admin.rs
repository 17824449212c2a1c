//! What administrators ask.

use std::sync::Arc;

use super::reign::Reign;
use super::unreadable;
use crate::crypto::Identity;
use crate::monitor::namespace::check::{self, Checked};
use crate::monitor::namespace::command::{Action, Outcome};
use crate::monitor::namespace::query;
use crate::monitor::store::{Store, StoreError};
use crate::wire::admin::{Request, Response};
use crate::wire::metadata::Refusal;

/// Most records looked at in one step of a check.
const CHECK_RECORDS: u64 = 5_000;
/// Most stripes told at a time.
const STRIPES_MAX: u32 = 1024;

impl Reign {
    pub(super) async fn administer(
        self: &Arc<Self>,
        by: &Identity,
        request: Request,
    ) -> Result<Response, Refusal> {
        // A majority whose disks are full confirms nothing, and that is when people ask how everything is. A leader
        // that nobody hears any more is none within a second.
        if !matches!(request, Request::Status { .. }) {
            self.confirm_leadership().await?;
        }
        self.check_may_ask(by, &request)?;
        match request {
            Request::Status { node } => {
                self.status(&node).await.map(|status| Response::Status(Box::new(status)))
            }
            Request::Trust(request) => self.administer_trust(request).await.map(Response::Trust),
            Request::Placement => Ok(Response::Placement(self.state.lock().servers.placement())),
            Request::Tickets => Ok(Response::Tickets(self.tickets_to_read(by))),
            Request::Where { ino, offset } => {
                self.in_background(move |store| {
                    Ok(query::map_of(&*store.snapshot(), ino, offset)?
                        .map_or(Response::NotFound, Response::Map))
                })
                .await
            }
            Request::Stripes { after, limit } => {
                let limit = limit.min(STRIPES_MAX) as usize;
                self.in_background(move |store| {
                    let (stripes, end) = query::live_stripes(&*store.snapshot(), after, limit)?;
                    Ok(Response::Stripes { stripes, end })
                })
                .await
            }
            Request::Check { cursor } => {
                self.in_background(move |store| {
                    let Checked { records, problems, cursor } =
                        check::check(&*store.snapshot(), &cursor, CHECK_RECORDS)?;
                    Ok(Response::Checked { records, problems, cursor })
                })
                .await
            }
            Request::RemoveMonitor { name, once_replaced } => {
                match self.submit(Action::RemoveMonitor { name, once_replaced }).await? {
                    Outcome::Refused(why) => Err(Refusal::Malformed(why)),
                    _ => Ok(Response::Done),
                }
            }
            Request::CreateVolume { directory, changes } => {
                let cleared = self.clear_directory(directory).await?;
                let created = self.submit(Action::CreateVolume { directory, changes });
                // The fence falls when it is applied, even if nobody waits for the answer any more.
                let created = tokio::spawn(async move {
                    let outcome = created.await;
                    drop(cleared);
                    outcome
                });
                self.volume_changed(created.await.unwrap_or(Err(Refusal::NoLeader))?)
            }
            Request::SetVolume { directory, changes } => {
                self.volume_changed(self.submit(Action::SetVolume { directory, changes }).await?)
            }
            Request::Volumes => {
                self.in_background(|store| {
                    query::volumes(&*store.snapshot()).map(Response::Volumes)
                })
                .await
            }
            Request::Paths(inos) => {
                self.in_background(move |store| {
                    let paths: Result<_, _> =
                        inos.into_iter().map(|ino| query::path(store, ino)).collect();
                    Ok(Response::Paths(paths?))
                })
                .await
            }
        }
    }

    /// When this is answered, every client that asks is told of the volume as it is now.
    fn volume_changed(&self, outcome: Outcome) -> Result<Response, Refusal> {
        match outcome {
            Outcome::Refused(why) => Err(Refusal::Malformed(why)),
            _ => self.tell_volumes().map(|()| Response::Done),
        }
    }

    /// Clients are to be told of the volumes as they are now.
    pub(super) fn tell_volumes(&self) -> Result<(), Refusal> {
        // Read under the lock, so that of two that do this the later one has the newer state.
        let mut state = self.state.lock();
        state.servers.set_volumes(query::volume_entries(&*self.store).map_err(unreadable)?);
        Ok(())
    }

    /// Runs something that reads a lot on a thread where that holds up nobody.
    pub(super) async fn in_background<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let store = Arc::clone(&self.store);
        match tokio::task::spawn_blocking(move || work(&*store)).await {
            Ok(result) => result.map_err(unreadable),
            Err(error) => {
                log::error!("a question of an administrator could not be answered: {error}");
                Err(Refusal::NoLeader)
            }
        }
    }
}
