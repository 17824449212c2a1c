//! The life of a question.
//!
//! Like a change, it waits until nobody else holds what it asks about; then it reads the state that is
//! applied here. That is the newest there is, because the monitor has just proved that it leads.

use super::{Monitor, unreadable};
use crate::monitor::namespace::{caps, query};
use crate::types::{Errno, SessionId};
use crate::wire::metadata::{Answer, Query, Refusal, Space};

impl Monitor {
    pub(super) async fn ask_all(
        &self,
        session: SessionId,
        queries: &[Query],
    ) -> Result<Vec<Result<Answer, Errno>>, Refusal> {
        self.confirm_leadership().await?;
        let mut answers = Vec::with_capacity(queries.len());
        for query in queries {
            self.wait_for_holders(session, || caps::touched_by_query(&*self.store, query)).await?;
            answers.push(self.ask(session, query).await?);
        }
        Ok(answers)
    }

    async fn ask(&self, session: SessionId, query: &Query) -> Result<Result<Answer, Errno>, Refusal> {
        match query {
            Query::Space => self.space().map(|space| Ok(Answer::Space(space))),
            Query::Open { ino, generation } => {
                // Pinned first and looked at after, so that it cannot go in between.
                self.wait_until(|| Ok(self.state.lock().pins.pin(session, *ino, *generation).ok())).await?;
                let answer = query::answer(&*self.store, query).map_err(unreadable)?;
                if answer.is_err() {
                    self.state.lock().pins.unpin(session, *ino, *generation);
                }
                Ok(answer)
            }
            _ => query::answer(&*self.store, query).map_err(unreadable),
        }
    }

    /// Raw bytes of the servers, counted as user data at the volume's width.
    fn space(&self) -> Result<Space, Refusal> {
        let inodes = query::counters(&*self.store).map_err(unreadable)?.inodes;
        let state = self.state.lock();
        let (used, capacity) = state.servers.raw();
        let width = state.servers.width();
        let total = u64::try_from(width.total()).expect("few shards");
        let data = u64::from(width.data);
        let user = |raw: u64| raw / total * data;
        Ok(Space { total_bytes: user(capacity), free_bytes: user(capacity.saturating_sub(used)), inodes })
    }
}
