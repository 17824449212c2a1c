//! The namespace: names, inodes, extents, stripes, sessions and servers, as a pure function.

pub mod command;
