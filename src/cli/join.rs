//! `okapifs join`: this machine becomes a member of a cluster.
//!
//! Everything is written only when the cluster has said yes, and the file by which a directory is known as
//! that of a server or a client comes last: after a crash in between, nothing half made is ever started.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use super::admin::{block_on, unexpected};
use super::cluster_dir::ClusterDir;
use super::config::{AgentFile, ClientFile, ConfigFile, ServerFile};
use super::place::Place;
use super::{find, init, new_monitor, say, systemd, token};
use crate::crypto::{Invited, Issued, NewKey, Token};
use crate::env::system::credentials;
use crate::env::system::node;
use crate::env::system::rpc::{ConnectError, Connection};
use crate::types::TokenRole;
use crate::wire;
use crate::wire::metadata::{Refusal, Request, Response};
use crate::wire::trust::{Enrolled, Join, Joined, monitor_name, server_name};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the cluster may take to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// How many times it is asked while it has no leader or is just being started, a second apart.
const ATTEMPTS: usize = 10;

/// Make this machine a member of a cluster.
///
/// The token, made by `okapifs token new` (or by `okapifs init`), says what it becomes. A node gets DIR with a
/// storage server, a client configuration, an agent that runs all of it, and a monitor as long as the cluster has
/// fewer than three (if the token allows it). Where systemd runs, it starts the agent; else this says how to. A client
/// gets a client configuration. Keys are made here and never leave this machine.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// HOST[:PORT] of a monitor.
    #[arg(value_name = "HOST[:PORT]")]
    monitor: String,

    /// The token, or @FILE that holds it.
    token: String,

    /// Where; must be empty or not there yet [default: /var/lib/okapifs for a node, /etc/okapifs for a client].
    #[arg(long)]
    dir: Option<PathBuf>,

    /// What it would like to be called [default: the host name].
    #[arg(long)]
    name: Option<String>,

    /// Where the others reach this machine: its monitor at PORT, its server at the port after that, its agent at
    /// the next [default: the address that it reaches HOST from, 7001].
    #[arg(long, value_name = "HOST[:PORT]")]
    listen: Option<String>,

    /// Run no monitor here, neither now nor when one is lost elsewhere.
    #[arg(long)]
    no_monitor: bool,

    /// Start nothing.
    #[arg(long)]
    no_start: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let token = token::read(&arguments.token)?;
    let addresses = find::addresses(&arguments.monitor).unwrap_or_default();
    let [monitor] = addresses.as_slice() else {
        bail!("{:?} is no HOST[:PORT] of a monitor", arguments.monitor);
    };
    let dir = match (&arguments.dir, token.role) {
        (Some(dir), _) => ClusterDir::new(dir)?,
        (None, TokenRole::Node) => ClusterDir::new(Path::new(find::NODE_DIR))?,
        (None, TokenRole::Client) => ClusterDir::new(Path::new(find::SYSTEM_CONFIG))?,
    };
    // Whatever stands in the way is found before the token is used up.
    init::make_dir(dir.root(), 0o755)?;
    init::refuse_unless_empty(dir.root())?;
    let place = match &arguments.listen {
        Some(listen) => Place::parse(listen)?,
        None => Place::towards(monitor)?,
    };
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => node().context("this machine has no name")?.host,
    };
    let keys = new_keys(token.role, !arguments.no_monitor)?;
    let joined = block_on(ask(monitor, &token, name, &keys))?;
    match token.role {
        TokenRole::Node => {
            write_node(&dir, &joined, &keys, &place, !arguments.no_monitor)?;
            say_what_runs(&joined, &place);
            systemd::start_or_say(dir.root(), !arguments.no_start);
        }
        TokenRole::Client => {
            save(dir.root(), &joined, 0, &keys)?;
            ClientFile { monitors: joined.monitors.clone() }.save(dir.root())?;
            say::line(format_args!(
                "joined cluster {} as {}; next: mount -t okapifs -o config={} {}:/ DIRECTORY",
                joined.cluster,
                joined.name,
                dir.root().display(),
                joined.monitors.join(","),
            ));
        }
    }
    Ok(())
}

fn new_keys(role: TokenRole, monitor: bool) -> anyhow::Result<Vec<NewKey>> {
    let count = match role {
        TokenRole::Node => 3 + usize::from(monitor),
        TokenRole::Client => 1,
    };
    (0..count).map(|_| NewKey::generate().context("no key can be made")).collect()
}

/// Redeems the token.
async fn ask(
    monitor: &str,
    token: &Token,
    name: String,
    keys: &[NewKey],
) -> anyhow::Result<Joined> {
    let requests: Result<_, _> = keys.iter().map(NewKey::request).collect();
    let join = Join { secret: token.secret(), name, requests: requests? };
    let request = wire::encode(&Request::Join(join));
    let invited = Invited::by(token.authority);
    for attempt in 1.. {
        let connection = match Connection::open_invited(monitor, &invited, CONNECT).await {
            Ok(connection) => connection,
            Err(ConnectError::OtherCluster { address }) => bail!(
                "the token is of another cluster than {address}: check the address, or make a token there"
            ),
            Err(error) if error.may_pass() && attempt < ATTEMPTS => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let called = connection.call(request.clone(), Vec::new(), ANSWER).await;
        let (answer, _) = called.context("the monitor does not answer; try again")?;
        match wire::decode(&answer).context("the monitor's answer makes no sense")? {
            Response::Joined(joined) if is_complete(&joined, keys.len()) => return Ok(joined),
            Response::Refused(Refusal::NoLeader) if attempt < ATTEMPTS => {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Response::Refused(refusal) => return Err(refusal.into()),
            _ => break,
        }
    }
    Err(unexpected())
}

/// Whether all certificates came; a node may be given none for a monitor.
fn is_complete(joined: &Joined, asked: usize) -> bool {
    let came = joined.certificates.len();
    came == asked || (asked == 4 && came == 3)
}

/// Makes the directory of a node: agent, server, client, and a monitor if there is a certificate for one.
fn write_node(
    dir: &ClusterDir,
    joined: &Joined,
    keys: &[NewKey],
    place: &Place,
    spare: bool,
) -> anyhow::Result<()> {
    save(&dir.agent(), joined, 0, keys)?;
    let server = dir.of(&server_name(&joined.name));
    save(&server, joined, 1, keys)?;
    save(&dir.client(), joined, 2, keys)?;
    ClientFile { monitors: joined.monitors.clone() }.save(&dir.client())?;
    server_file(joined, place).save(&server)?;
    AgentFile { listen: place.agent(), spare }.save(&dir.agent())?;
    if !has_monitor(joined) {
        return Ok(());
    }
    let enrolled = Enrolled {
        name: monitor_name(&joined.name),
        authority: joined.authority.clone(),
        certificate: joined.certificates[3].clone(),
        monitors: joined.monitors.clone(),
    };
    new_monitor::write(dir, &enrolled, &issued(joined, 3, keys), place.monitor())
}

fn has_monitor(joined: &Joined) -> bool {
    joined.certificates.len() > 3
}

fn issued(joined: &Joined, number: usize, keys: &[NewKey]) -> Issued {
    Issued { cert_pem: joined.certificates[number].clone(), key_pem: keys[number].key_pem() }
}

fn save(home: &Path, joined: &Joined, number: usize, keys: &[NewKey]) -> anyhow::Result<()> {
    init::make_dir(&home.join("tls"), 0o700)?;
    let issued = issued(joined, number, keys);
    Ok(credentials::save(&home.join("tls"), &joined.authority, &issued)?)
}

fn server_file(joined: &Joined, place: &Place) -> ServerFile {
    ServerFile {
        cluster: joined.cluster.to_string(),
        listen: place.server(1),
        advertise: None,
        domain: joined.name.clone(),
        monitors: joined.monitors.clone(),
        capacity_bytes: None,
    }
}

fn say_what_runs(joined: &Joined, place: &Place) {
    let Joined { cluster, name, .. } = joined;
    say::line(format_args!("joined cluster {cluster} as {name}"));
    say::line(format_args!("  server   {}", place.server(1)));
    match has_monitor(joined) {
        true => say::line(format_args!("  monitor  {}", place.monitor())),
        false => say::line("  no monitor: `okapifs monitor add` adds one"),
    }
    say::line(format_args!("  agent    {}", place.agent()));
}
