//! The life of a question.
//!
//! Like a change, it waits until nobody else holds what it asks about; then it reads the state that is
//! applied here. That is the newest there is, because the monitor has just proved that it leads.

use super::reign::Reign;
use super::unreadable;
use crate::monitor::namespace::{caps, query};
use crate::types::{Errno, Ino, SessionId};
use crate::wire::metadata::{Answer, Query, Refusal, Space};

/// Bytes that the maps and listings in one response may take together.
const ANSWERS_BYTES: usize = 1 << 20;

impl Reign {
    pub(super) async fn ask_all(
        &self,
        session: SessionId,
        queries: &[Query],
    ) -> Result<Vec<Result<Answer, Errno>>, Refusal> {
        self.confirm_leadership().await?;
        let mut answers = Vec::with_capacity(queries.len());
        let budget = ANSWERS_BYTES / queries.len().max(1);
        for query in queries {
            if let Some(errno) = self.hidden(session, query)? {
                answers.push(Err(errno));
                continue;
            }
            self.wait_for_holders(session, || caps::touched_by_query(&*self.store, query)).await?;
            answers.push(self.ask(session, query, budget).await?);
        }
        Ok(answers)
    }

    /// `budget`: bytes that a map or a listing may take.
    async fn ask(
        &self,
        session: SessionId,
        query: &Query,
        budget: usize,
    ) -> Result<Result<Answer, Errno>, Refusal> {
        match query {
            Query::Space { ino } => self.space(*ino).map(|space| space.map(Answer::Space)),
            Query::Open { ino, generation } => {
                // Pinned first and looked at after, so that it cannot go in between.
                self.wait_until(|| Ok(self.state.lock().pins.pin(session, *ino, *generation).ok()))
                    .await?;
                let answer = query::answer_within(&*self.store.snapshot(), query, budget)
                    .map_err(unreadable)?;
                if answer.is_err() {
                    self.state.lock().pins.unpin(session, *ino, *generation);
                }
                Ok(answer)
            }
            // One state: a commit may replace the stripes of a map while it is being read.
            _ => query::answer_within(&*self.store.snapshot(), query, budget).map_err(unreadable),
        }
    }

    fn space(&self, ino: Ino) -> Result<Result<Space, Errno>, Refusal> {
        let state = self.state.lock();
        query::space_of(&*self.store, ino, state.servers.usages()).map_err(unreadable)
    }
}
