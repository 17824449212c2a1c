//! `okapifs token`: invitations to the cluster.

use std::path::Path;

use anyhow::{Context, bail};

use super::admin::{Admin, block_on, unexpected};
use super::{find, policy, say};
use crate::crypto::Token;
use crate::env::clock::{Clock, SystemClock};
use crate::types::{ClientPolicy, MonitorGrant, Timestamp, TokenGrant, TokenHash, TokenRole};
use crate::wire::trust::{Request, Response, TokenEntry};

/// Digits of a token's id that are shown.
const ID_DIGITS: usize = 12;

/// Tokens, with which machines join the cluster.
#[derive(clap::Subcommand, Debug)]
pub(super) enum Command {
    New(New),
    /// Show the tokens that may be redeemed, and those that were lately.
    List,
    /// Take a token back that was not redeemed yet.
    Revoke {
        /// The token's id, as `okapifs token list` shows it, or the token itself.
        id: String,
    },
}

/// Make a token: one machine may join with it, once.
///
/// Prints the token alone; the machine joins by `okapifs join HOST TOKEN`. A client of `--role client` may
/// do in the cluster what the options say; a node's may do everything unless they say otherwise.
#[derive(clap::Args, Debug)]
pub(super) struct New {
    /// What the machine is to be: a node stores data, a client only mounts.
    #[arg(long, value_enum)]
    role: RoleName,

    /// What it is to be called [default: its host name].
    #[arg(long)]
    name: Option<String>,

    /// Whether a node may run a monitor: `auto` gives it one if the cluster has fewer than three, and later if one
    /// is lost [default: auto for a node that may administrate, else never].
    #[arg(long, value_enum)]
    monitor: Option<MonitorWish>,

    /// For how long it may be redeemed: a number and s, m, h or d; 30d at most.
    #[arg(long, default_value = "1h", value_parser = lifetime)]
    expires: u64,

    #[command(flatten)]
    policy: policy::Arguments,
}

/// See [`TokenRole`].
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum RoleName {
    Node,
    Client,
}

/// See [`MonitorGrant`].
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum MonitorWish {
    Auto,
    Always,
    Never,
}

impl New {
    /// A monitor can do everything: a node that may not is not made one unless that is said.
    fn monitor(&self, role: TokenRole, policy: &ClientPolicy) -> anyhow::Result<MonitorGrant> {
        Ok(match (role, self.monitor) {
            (TokenRole::Client, None) => MonitorGrant::Never,
            (TokenRole::Client, Some(_)) => bail!("a client runs no monitor: leave out --monitor"),
            (TokenRole::Node, None) if policy.admin => MonitorGrant::WhileFew,
            (TokenRole::Node, None | Some(MonitorWish::Never)) => MonitorGrant::Never,
            (TokenRole::Node, Some(MonitorWish::Auto)) => MonitorGrant::WhileFew,
            (TokenRole::Node, Some(MonitorWish::Always)) => MonitorGrant::Always,
        })
    }
}

pub(super) fn run(command: &Command, cluster: Option<&str>) -> anyhow::Result<()> {
    let cluster = find::cluster(cluster)?;
    block_on(async {
        let admin = Admin::connect(&cluster).await?;
        match command {
            Command::New(arguments) => new(arguments, &cluster, &admin).await,
            Command::List => list(&admin).await,
            Command::Revoke { id } => revoke(id, &admin).await,
        }
    })
}

async fn new(arguments: &New, cluster: &find::Cluster, admin: &Admin) -> anyhow::Result<()> {
    let (role, usual) = match arguments.role {
        RoleName::Node => (TokenRole::Node, ClientPolicy::default()),
        RoleName::Client => {
            (TokenRole::Client, ClientPolicy { admin: false, ..ClientPolicy::default() })
        }
    };
    let policy = arguments.policy.change(usual)?;
    let now = SystemClock::new().now();
    let lifetime_s = arguments.expires;
    let seconds = now.seconds.saturating_add(i64::try_from(lifetime_s)?);
    // The monitors' clock decides; what the token itself says is for whoever reads it.
    let expires = Timestamp { seconds, ..now };
    let token = Token::new(role, expires, cluster.credentials.authority());
    let monitor = arguments.monitor(role, &policy)?;
    let grant = TokenGrant { role, name: arguments.name.clone(), policy, monitor };
    let request = Request::AddToken { hash: token.hash(), lifetime_s, grant };
    match admin.ask_trust(request).await? {
        Response::TokenAdded { expires } => {
            say::line(&token);
            say::note(format_args!("token {} expires at {expires}", id_of(token.hash())));
            Ok(())
        }
        _ => Err(unexpected()),
    }
}

async fn list(admin: &Admin) -> anyhow::Result<()> {
    let tokens = tokens(admin).await?;
    let now = SystemClock::new().now();
    let heading = ["ID", "ROLE", "NAME", "STATE", "GRANTS"].map(str::to_owned).to_vec();
    let mut rows = vec![heading];
    rows.extend(tokens.into_iter().map(|token| {
        let role = match token.grant.role {
            TokenRole::Node => "node",
            TokenRole::Client => "client",
        };
        let state = match &token.used {
            Some(used) => format!("used by {} at {}", used.name, used.time),
            None if token.expires < now => format!("expired at {}", token.expires),
            None => format!("good until {}", token.expires),
        };
        vec![
            id_of(token.hash),
            role.to_owned(),
            token.grant.name.clone().unwrap_or_else(|| "-".to_owned()),
            state,
            describe(&token.grant),
        ]
    }));
    say::table(&rows);
    Ok(())
}

fn describe(grant: &TokenGrant) -> String {
    let monitor = match grant.monitor {
        MonitorGrant::Never => "",
        MonitorGrant::WhileFew => " monitor=auto",
        MonitorGrant::Always => " monitor=always",
    };
    format!("{}{monitor}", policy::describe(&grant.policy))
}

async fn revoke(id: &str, admin: &Admin) -> anyhow::Result<()> {
    let hash = match Token::parse(id) {
        Ok(token) => token.hash(),
        Err(_) => find_token(&tokens(admin).await?, id)?,
    };
    admin.ask_trust(Request::RevokeToken(hash)).await?;
    Ok(())
}

fn find_token(tokens: &[TokenEntry], id: &str) -> anyhow::Result<TokenHash> {
    let is_meant = |token: &&TokenEntry| !id.is_empty() && hex(token.hash).starts_with(id);
    let mut found = tokens.iter().filter(is_meant);
    match (found.next(), found.next()) {
        (Some(token), None) => Ok(token.hash),
        (Some(_), Some(_)) => bail!("several tokens begin with {id}: write more of it"),
        (None, _) => bail!("there is no token {id}; `okapifs token list` shows all"),
    }
}

async fn tokens(admin: &Admin) -> anyhow::Result<Vec<TokenEntry>> {
    match admin.ask_trust(Request::Tokens).await? {
        Response::Tokens(tokens) => Ok(tokens),
        _ => Err(unexpected()),
    }
}

fn id_of(hash: TokenHash) -> String {
    hex(hash)[..ID_DIGITS].to_owned()
}

fn hex(hash: TokenHash) -> String {
    hash.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `90`, `90s`, `15m`, `1h` or `2d` in seconds.
fn lifetime(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.strip_suffix(|c: char| c.is_ascii_alphabetic()) {
        Some(digits) => (digits, &text[digits.len()..]),
        None => (text, "s"),
    };
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err("write a number and s, m, h or d".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "write a number and s, m, h or d".to_owned())?;
    let seconds = number.checked_mul(unit).filter(|seconds| (1..=30 * 86_400).contains(seconds));
    seconds.ok_or_else(|| "a token is good for 1s to 30d".to_owned())
}

/// Reads a token from the command line, or from a file when it is written as `@FILE`.
pub(super) fn read(text: &str) -> anyhow::Result<Token> {
    let token = match text.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(Path::new(path))
            .with_context(|| format!("{path} cannot be read"))?,
        None => text.to_owned(),
    };
    Ok(Token::parse(&token)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_read() {
        assert_eq!(lifetime("90"), Ok(90));
        assert_eq!(lifetime("15m"), Ok(900));
        assert_eq!(lifetime("30d"), Ok(30 * 86_400));
        for text in ["", "0h", "31d", "h", "1w", "-1h", "99999999999999999999d"] {
            lifetime(text).expect_err(text);
        }
    }
}
