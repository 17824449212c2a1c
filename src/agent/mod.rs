//! The processes of one machine.
//!
//! A cluster under one directory is a handful of processes: a monitor, servers, mounts. Somebody has to know
//! which of them should run, which do, and in which order the difference is made up. [`plan`] decides that
//! from values alone; [`processes`] carries it out with real processes. `okapifs up`, `okapifs down` and the
//! tests all go through here, so a test's cluster is started by the same code as a user's.
//!
//! Absent on purpose: nothing here restarts what died. A process that dies is reported by whoever watches.

pub mod plan;
pub mod processes;
