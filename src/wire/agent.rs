//! What the agent of a node is asked, about the processes that it looks after.
//!
//! Each time an agent starts a process it gives that start a number, one more than the last, and writes it down
//! first. The process learns its number and tells it to others; so somebody who misses the process can ask for
//! "a newer start than number 5", and of any number of askers exactly one has it started: to the others it is
//! already newer.

use bincode::{Decode, Encode};

/// A call to an agent.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Request {
    /// How are the processes? For monitors, agents and clients. Answered by [`Response::Status`].
    Status,
    /// Start this process again, unless that has happened since. For monitors and administrators.
    /// Answered by [`Response::Restart`].
    Restart {
        /// Its name on its node, which for monitors and servers is the one in their certificates.
        unit: String,
        /// The start that the asker saw last.
        seen_start: u64,
    },
    /// Look at the node's directory again, and start now whatever should run and does not. For administrators.
    /// Answered by [`Response::Done`].
    Refresh,
}

/// What an agent answers.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Response {
    /// See [`Request::Status`]: the processes, in the order in which they start.
    Status(Vec<UnitStatus>),
    /// See [`Request::Restart`].
    Restart(Outcome),
    /// It is done.
    Done,
    /// The call was refused.
    Refused(Refusal),
}

/// What became of a [`Request::Restart`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Outcome {
    /// This request had it started, under this number.
    Started(u64),
    /// It was started since, under this number, or the agent is about to.
    Already(u64),
    /// It runs and answers the agent, so it was left alone. This is its start.
    Alive(u64),
    /// No process of that name belongs to this node.
    NotMine,
}

/// How one process is.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct UnitStatus {
    /// Its name: `monitor-1`, `server-2`, `mount-mnt-okapi`.
    pub name: String,
    /// What it does at the moment.
    pub state: UnitState,
    /// The number of its latest start; 0 if it was never started.
    pub start: u64,
    /// Its process id, while there is a process.
    pub pid: Option<u32>,
    /// `host:port` where it serves, or a mount's directory; once it was ready.
    pub address: Option<String>,
    /// How often it failed in the last ten minutes.
    pub failures: u32,
    /// Why it failed last or is not started any more, a sentence; empty if there is nothing to say.
    pub trouble: String,
}

/// What a process does at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum UnitState {
    /// It does not run, and will be started.
    Due,
    /// It runs and is not ready yet.
    Starting,
    /// It runs and answers.
    Up,
    /// It answered no more, was killed, and has not died yet.
    Killed,
    /// It ended and stays so until somebody asks for it.
    Ended,
    /// The cluster has let it go for good: it is not started any more, and its directory may be removed.
    Retired,
}

/// Why an agent refused a call.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, thiserror::Error)]
pub enum Refusal {
    /// The caller's certificate does not allow it.
    #[error("that certificate does not allow this")]
    Forbidden,
    /// The request does not make sense; the text says why.
    #[error("the agent does not understand the request: {0}")]
    Malformed(String),
    /// The node's directory cannot be used; the text says why.
    #[error("{0}")]
    Directory(String),
    /// The agent is about to end.
    #[error("the agent is ending; ask again when it is back")]
    Ending,
}
