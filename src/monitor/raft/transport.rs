//! How members reach one another: a way for a question and its answer, handed in from outside.
//!
//! The monitor's service hands in its connections; tests hand in a network in memory whose links can be cut.

use std::time::Duration;

use futures::future::BoxFuture;

use crate::types::MonitorId;
use crate::wire::peers::{Answer, Ask};

/// No answer came: the other member cannot be reached, or is too slow. The text says why.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreached(pub String);

/// The way from this member to the others.
pub trait Transport: Send + Sync + 'static {
    /// Asks member `to` and waits at most `timeout` for its answer. `hint` is where the group saw it when it
    /// became a member; the transport may know better.
    ///
    /// A member that cannot be reached must not keep questions to others waiting, and questions to the same
    /// member are under way side by side.
    fn ask(
        &self,
        to: MonitorId,
        hint: &str,
        ask: Ask,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Answer, Unreached>>;

    /// Where that member is reached, `host:port`, if it is known better than by the group.
    fn address(&self, member: MonitorId) -> Option<String>;
}
