//! The command line.
//!
//! One file a command; the doc comment of its arguments is its help and its manual page. Configuration files
//! and the environment are read in this folder and nowhere else: everything below is told what it needs.
//! Errors arrive here, become one sentence that says what to do, and end the process with a code that is not 0:
//! 32 where mount(8) expects that of a mount, 2 for arguments that make no sense, 1 otherwise.

mod admin;
mod agent;
mod agent_link;
mod bench;
mod check;
mod client;
mod cluster_dir;
mod config;
mod config_show;
mod down;
mod edit;
mod find;
mod init;
mod join;
mod layers;
mod locate;
mod man;
mod md5sum;
mod monitor;
mod mount;
mod mount_options;
mod new_monitor;
mod node;
mod place;
mod policy;
mod ports;
mod say;
mod server;
mod shard;
mod status;
mod successor;
mod sync;
mod systemd;
mod token;
mod up;
mod volume;
mod xattr;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::codec::erasure::check_cpu;
use crate::env::system::memory::keep_freed_memory;

/// A shared filesystem for a few machines: striped with parity, mounted as a directory.
#[derive(Parser, Debug)]
#[command(name = "okapifs", version, propagate_version = true)]
struct Arguments {
    /// The cluster: the directory of `okapifs up`, a client configuration directory, or HOST[:PORT],… of
    /// monitors (with the credentials of /etc/okapifs).
    #[arg(long, global = true, env = "OKAPIFS_CLUSTER", value_name = "WHERE")]
    cluster: Option<String>,

    /// Say more in the log (twice: everything). OKAPIFS_LOG sets it more finely.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Up(up::Arguments),
    Down(down::Arguments),
    Status(status::Arguments),
    Where(locate::Arguments),
    Check(check::Arguments),
    Sync(sync::Arguments),
    Md5sum(md5sum::Arguments),
    Bench(bench::Arguments),
    Init(init::Arguments),
    Join(join::Arguments),
    #[command(subcommand)]
    Token(token::Command),
    #[command(subcommand)]
    Client(client::Command),
    #[command(subcommand)]
    Volume(volume::Command),
    Config(config_show::Arguments),
    Agent(agent::Arguments),
    #[command(subcommand)]
    Monitor(monitor::Command),
    #[command(subcommand)]
    Server(server::Command),
    Mount(mount::Arguments),
    Shard(shard::Arguments),
    Man(man::Arguments),
}

impl Command {
    /// Whether it runs for long and its log is what people will look at when something is odd.
    fn is_daemon(&self) -> bool {
        match self {
            Self::Monitor(command) => command.is_daemon(),
            Self::Server(command) => command.is_daemon(),
            Self::Mount(_) | Self::Agent(_) => true,
            _ => false,
        }
    }
}

/// Reads the arguments, does what they say, and reports what went wrong.
pub fn main() -> ExitCode {
    keep_freed_memory();
    let arguments = Arguments::parse();
    start_log(&arguments);
    if let Err(error) = check_cpu() {
        say::error(&error.into());
        return ExitCode::FAILURE;
    }
    let failure = match arguments.command {
        Command::Mount(_) => mount::EXIT_FAILURE,
        _ => 1,
    };
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            say::error(&error);
            ExitCode::from(failure)
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let cluster = arguments.cluster.as_deref();
    let done = match arguments.command {
        Command::Up(arguments) => up::run(&arguments),
        Command::Down(arguments) => down::run(&arguments),
        Command::Status(arguments) => return status::run(&arguments, cluster),
        Command::Where(arguments) => locate::run(&arguments, cluster),
        Command::Check(arguments) => return check::run(&arguments, cluster),
        Command::Sync(arguments) => sync::run(&arguments),
        Command::Md5sum(arguments) => return md5sum::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Init(arguments) => init::run(&arguments),
        Command::Join(arguments) => join::run(&arguments),
        Command::Token(command) => token::run(&command, cluster),
        Command::Client(command) => client::run(&command, cluster),
        Command::Volume(command) => volume::run(&command, cluster),
        Command::Config(arguments) => config_show::run(&arguments),
        Command::Agent(arguments) => agent::run(&arguments),
        Command::Monitor(command) => monitor::run(&command, cluster),
        Command::Server(command) => server::run(&command),
        Command::Mount(arguments) => mount::run(&arguments, cluster),
        Command::Shard(arguments) => return shard::run(&arguments),
        Command::Man(arguments) => man::run(&arguments),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Log lines go to standard error; `okapifs up` and a mount in the background point that to a file.
fn start_log(arguments: &Arguments) {
    let quiet = if arguments.command.is_daemon() { "info" } else { "warn" };
    let level = match arguments.verbose {
        0 => quiet,
        1 => "debug",
        _ => "trace",
    };
    let filter = env_logger::Env::new().filter_or("OKAPIFS_LOG", level);
    env_logger::Builder::from_env(filter).format_target(false).init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_make_sense() {
        super::Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_explains_itself() {
        for command in super::Arguments::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
        }
    }
}
