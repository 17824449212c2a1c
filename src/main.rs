//! The `okapifs` command: everything is in [`okapifs::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    okapifs::cli::main()
}
