//! Tests of the client: a file's content against a model, and the whole of it against stand-ins of the cluster.

mod content;
mod fakes;
mod links;
mod locks;
mod tickets;
mod whole;
