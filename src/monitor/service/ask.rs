//! The life of a question.
//!
//! Like a change, it waits until nobody else holds what it asks about; then it reads the state that is
//! applied here. That is the newest there is, because the monitor has just proved that it leads. With the answer
//! go shared leases of what it tells of, but for what is being changed, and for files of which somebody else holds
//! the exclusive grant again by then.

use super::reign::{Reign, State};
use super::unreadable;
use crate::monitor::namespace::{caps, query};
use crate::monitor::store::Read;
use crate::types::{Errno, Ino, LeaseStamp, SessionId};
use crate::wire::leases::{Aftermath, Leased, told_of};
use crate::wire::metadata::{Answer, Query, Refusal, Space};

/// Bytes that the maps and listings in one response may take together.
const ANSWERS_BYTES: usize = 1 << 20;

/// What a question is answered, and the inodes of which nothing in it may be believed later.
type Told = (Result<Answer, Errno>, Vec<Ino>);

impl Reign {
    pub(super) async fn ask_all(
        &self,
        session: SessionId,
        queries: &[Query],
    ) -> Result<(Vec<Result<Answer, Errno>>, Leased), Refusal> {
        self.confirm_leadership().await?;
        let mut answers = Vec::with_capacity(queries.len());
        let mut except = Vec::new();
        let budget = ANSWERS_BYTES / queries.len().max(1);
        for query in queries {
            if let Some(errno) = self.hidden(session, query)? {
                answers.push(Err(errno));
                continue;
            }
            self.wait_for_holders(session, || caps::touched_by_query(&*self.store, query)).await?;
            let (answer, unleased) = self.ask(session, query, budget).await?;
            answers.push(answer);
            except.extend(unleased);
        }
        let stamp = self.state.lock().leases.now();
        Ok((answers, Leased { stamp, except }))
    }

    /// `budget`: bytes that a map or a listing may take.
    async fn ask(&self, session: SessionId, query: &Query, budget: usize) -> Result<Told, Refusal> {
        match query {
            Query::Space { ino } => Ok((self.space(*ino)?.map(Answer::Space), Vec::new())),
            Query::Open { ino, generation } => {
                // Pinned first and looked at after, so that it cannot go in between.
                self.wait_until(|| Ok(self.state.lock().pins.pin(session, *ino, *generation).ok()))
                    .await?;
                let told = self.read(session, query, budget)?;
                if told.0.is_err() {
                    self.state.lock().pins.unpin(session, *ino, *generation);
                }
                Ok(told)
            }
            _ => self.read(session, query, budget),
        }
    }

    /// Answers from one state: a commit may replace the stripes of a map while it is being read.
    fn read(&self, session: SessionId, query: &Query, budget: usize) -> Result<Told, Refusal> {
        let since = self.state.lock().leases.now();
        let state = self.store.snapshot();
        let answer = query::answer_within(&*state, query, budget).map_err(unreadable)?;
        let told = told_of(query, &answer);
        let unleased = self.lease(session, &*state, told, since)?;
        Ok((answer, unleased))
    }

    /// Tells the author of changes, which are applied here, how these inodes are now.
    pub(super) fn tell_after(
        &self,
        session: SessionId,
        mut left: Vec<Ino>,
    ) -> Result<Aftermath, Refusal> {
        left.sort_unstable();
        left.dedup();
        let mut attrs = Vec::with_capacity(left.len());
        let since = self.state.lock().leases.now();
        let state = self.store.snapshot();
        for ino in &left {
            let answer = query::answer(&*state, &Query::Attr { ino: *ino }).map_err(unreadable)?;
            if let Ok(Answer::Attr(attr)) = answer {
                attrs.push(attr);
            }
        }
        let told = attrs.iter().map(|attr| attr.ino).collect();
        let except = self.lease(session, &*state, told, since)?;
        let stamp = self.state.lock().leases.now();
        Ok(Aftermath { attrs, leased: Leased { stamp, except } })
    }

    /// Gives leases of what was read from a state at `since` or later; those for which there is none.
    fn lease(
        &self,
        session: SessionId,
        state: &dyn Read,
        told: Vec<Ino>,
        since: LeaseStamp,
    ) -> Result<Vec<Ino>, Refusal> {
        let held = caps::held_by_others(state, session, &told).map_err(unreadable)?;
        let mut guard = self.state.lock();
        let State { callers, leases, .. } = &mut *guard;
        // Of a session that is gone nobody would take a lease away again.
        let is_attached = callers.contains_key(&session);
        let refused = |ino: &Ino| {
            let is_held = held.iter().any(|(held, _)| held == ino);
            !is_attached || is_held || !leases.grant(session, *ino, since)
        };
        Ok(told.into_iter().filter(refused).collect())
    }

    /// How full the volume of an inode is, as the servers said last.
    pub(super) fn space(&self, ino: Ino) -> Result<Result<Space, Errno>, Refusal> {
        let state = self.state.lock();
        query::space_of(&*self.store, ino, state.servers.usages()).map_err(unreadable)
    }
}
