//! The `okapifs` command.

fn main() {}
