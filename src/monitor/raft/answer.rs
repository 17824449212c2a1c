//! What this member answers the others.

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};

use super::{Raft, types};
use crate::types::{MonitorId, Position};
use crate::wire::peers::{Answer, Appended, Ask, Entry};

impl Raft {
    /// Answers what another member asks. That it is the one that it says, and means this one, has been verified.
    pub async fn answer(&self, from: MonitorId, ask: Ask) -> Answer {
        if let Some(why) = self.inner.leadership.borrow().stopped.clone() {
            return Answer::Unable(why);
        }
        match self.try_answer(from, ask).await {
            Ok(answer) => answer,
            Err(why) => Answer::Unable(why),
        }
    }

    async fn try_answer(&self, from: MonitorId, ask: Ask) -> Result<Answer, String> {
        match ask {
            Ask::Append { vote, previous, entries, committed } => {
                check_gapless(previous, &entries)?;
                let entries = entries.into_iter().map(types::received_entry);
                let request = AppendEntriesRequest {
                    vote: types::openraft_vote(vote),
                    prev_log_id: previous.map(types::log_id),
                    entries: entries.collect::<Result<_, _>>().map_err(|e| e.to_string())?,
                    leader_commit: committed.map(types::log_id),
                };
                self.append(request).await.map(Answer::Appended)
            }
            Ask::Vote { vote, last } => {
                let last = last.map(types::log_id);
                let request = VoteRequest::new(types::openraft_vote(vote), last);
                let voted = self.inner.core.vote(request).await.map_err(|e| e.to_string())?;
                Ok(Answer::Voted {
                    vote: types::vote(&voted.vote),
                    granted: voted.vote_granted,
                    last: voted.last_log_id.map(types::position),
                })
            }
            Ask::Poll { last } => Ok(Answer::Polled(self.inner.heart.would_vote(from.0, last))),
            Ask::Pulse(pulse) => Ok(self.inner.heart.pulse_heard(&pulse)),
            Ask::Chunk(chunk) => Ok(self.inner.receiver.take(&self.inner.core, chunk).await),
        }
    }

    async fn append(
        &self,
        request: AppendEntriesRequest<types::TypeConfig>,
    ) -> Result<Appended, String> {
        let sent = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
        match self.inner.core.append_entries(request).await {
            Ok(AppendEntriesResponse::Success) => Ok(Appended::Done),
            Ok(AppendEntriesResponse::PartialSuccess(upto)) if upto == sent => Ok(Appended::Done),
            Ok(AppendEntriesResponse::PartialSuccess(_)) => Err("only a part was taken".into()),
            Ok(AppendEntriesResponse::Conflict) => Ok(Appended::Conflict),
            Ok(AppendEntriesResponse::HigherVote(vote)) => Ok(Appended::Newer(types::vote(&vote))),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// openraft takes entries that follow one another for granted.
fn check_gapless(previous: Option<Position>, entries: &[Entry]) -> Result<(), String> {
    let first = previous.map_or(0, |previous| previous.index + 1);
    let gap = (first..).zip(entries).find(|(next, entry)| entry.position.index != *next);
    match gap {
        None => Ok(()),
        Some((next, entry)) => {
            Err(format!("entry {next} is missing before {}", entry.position.index))
        }
    }
}
