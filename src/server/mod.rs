//! The storage server: keeps shards, gives them back, and says what it has.
//!
//! It knows nothing of files. A shard comes in a put, already erasure-coded and checksummed by the client;
//! it is checked, written as it came, and acknowledged when a power cut cannot take it away. A server decides
//! almost nothing: the monitors say what is garbage, the client says what goes where. What it must never do is
//! to lose what it acknowledged, to bring back what it reported as deleted, or to give out as whole what is not.
//!
//! * [`store`]: shards in a directory, above the trait [`Disk`](crate::env::disk::Disk);
//! * [`membership`]: what is said to the monitors and when, pure; `member` says it;
//! * `service`: answers calls, on kept threads (`workers`), of those that have tickets (`admission`); `reaper` deletes
//!   in the background;
//! * [`inspect`](mod@inspect): looks at a shard file offline.

mod admission;
pub mod inspect;
mod member;
pub mod membership;
mod reaper;
mod run;
mod service;
pub mod store;
#[cfg(test)]
mod tests;
mod unsent;
mod workers;

pub use inspect::{InspectError, Report, ShardReport, inspect};
pub use run::{Config, JoinError, RunError, run};
