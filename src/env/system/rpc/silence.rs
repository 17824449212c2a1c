//! Noticing that nobody is at the other end any more, although the connection says nothing.
//!
//! When a cable breaks nothing arrives, not even the news of it. TCP gives such a connection up after ten seconds:
//! patient enough for shards on a busy line, too patient for a program that waits for a monitor while another one
//! could answer it. How long an answer may take says nothing either: a change may wait for somebody else's cache to
//! be written out.
//!
//! So whoever has waited for a moment without hearing anything at all asks a question that is answered at once. If
//! this brings no sign of life either, nobody is there. A connection on which nobody waits is left alone: it costs
//! nothing, and where it is broken the first call finds out.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::connection::Connection;
use super::errors::CallError;

/// How long the other end may owe an answer and say nothing before it is asked whether it is there.
const LATE: Duration = Duration::from_millis(750);
/// How long it may say nothing to that.
const PATIENCE: Duration = Duration::from_secs(1);

impl Connection {
    /// Resolves when the other end has owed an answer for about two seconds, said nothing, and not answered
    /// `question` either (an encoded header; it must be one that needs no waiting), or when the connection is closed.
    pub async fn fell_silent(&self, question: &[u8]) {
        while let Some(since) = self.quiet_since().await {
            if since.elapsed() < LATE {
                sleep_until(since + LATE).await;
            } else if !self.shows_life(question).await {
                return;
            }
        }
    }

    /// Asks, and whether anything was heard before the patience ended.
    async fn shows_life(&self, question: &[u8]) -> bool {
        let asked = Instant::now();
        match self.call(question.to_vec(), Vec::new(), PATIENCE).await {
            Ok(_) => true,
            Err(CallError::Closed) => false,
            // Perhaps a long frame is on its way before the answer.
            Err(CallError::Timeout) => self.heard_since(asked),
        }
    }
}
