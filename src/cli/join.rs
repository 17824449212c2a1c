//! `okapifs join`: this machine becomes a member of a cluster.
//!
//! Everything is written only when the cluster has said yes, and the file by which a directory is known as
//! that of a server or a client comes last: after a crash in between, nothing half made is ever started.

use std::net::{IpAddr, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};

use super::admin::{block_on, unexpected};
use super::config::{ClientFile, ConfigFile, ServerFile};
use super::{find, init, say, token};
use crate::crypto::{Invited, Issued, NewKey, Token};
use crate::env::system::credentials;
use crate::env::system::node;
use crate::env::system::rpc::{ConnectError, Connection};
use crate::types::TokenRole;
use crate::wire::metadata::{Refusal, Request, Response};
use crate::wire::trust::{Join, Joined, server_name};
use crate::wire::{self};

/// Where a node keeps everything unless told otherwise.
const NODE_DIR: &str = "/var/lib/okapifs";
/// Where a node's server listens unless told otherwise.
const SERVER_PORT: u16 = 7002;
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the cluster may take to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// How many times it is asked while it has no leader, a second apart.
const ATTEMPTS: usize = 10;

/// Make this machine a member of a cluster.
///
/// The token, made by `okapifs token new` (or by `okapifs init`), says what it becomes. A node gets DIR with a
/// storage server, an agent's certificate and a client configuration; a client gets a client configuration.
/// Keys are made here and never leave this machine.
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

    /// HOST:PORT where its server will listen [default: port 7002 of the address that it reaches the monitor from].
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let token = token::read(&arguments.token)?;
    let addresses = find::addresses(&arguments.monitor).unwrap_or_default();
    let [monitor] = addresses.as_slice() else {
        bail!("{:?} is no HOST[:PORT] of a monitor", arguments.monitor);
    };
    let dir = match (&arguments.dir, token.role) {
        (Some(dir), _) => std::path::absolute(dir)?,
        (None, TokenRole::Node) => PathBuf::from(NODE_DIR),
        (None, TokenRole::Client) => PathBuf::from(find::SYSTEM_CONFIG),
    };
    // Whatever stands in the way is found before the token is used up.
    init::make_dir(&dir, 0o755)?;
    init::refuse_unless_empty(&dir)?;
    let listen = match (&arguments.listen, token.role) {
        (Some(listen), _) => listen.clone(),
        (None, TokenRole::Node) => own_address(monitor)?,
        (None, TokenRole::Client) => String::new(),
    };
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => node().context("this machine has no name")?.host,
    };
    let keys = new_keys(token.role)?;
    let joined = block_on(ask(monitor, &token, name, &keys))?;
    write(&dir, token.role, &joined, &keys, &listen)?;
    say_what_is_next(&dir, token.role, &joined);
    Ok(())
}

fn new_keys(role: TokenRole) -> anyhow::Result<Vec<NewKey>> {
    let count = match role {
        TokenRole::Node => 3,
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
        let connection = Connection::open_invited(monitor, &invited, CONNECT).await;
        let connection = connection.map_err(|error| match error {
            ConnectError::OtherCluster { address } => anyhow!(
                "the token is of another cluster than {address}: check the address, or make a token there"
            ),
            error => error.into(),
        })?;
        let called = connection.call(request.clone(), Vec::new(), ANSWER).await;
        let (answer, _) = called.context("the monitor does not answer; try again")?;
        match wire::decode(&answer).context("the monitor's answer makes no sense")? {
            Response::Joined(joined) if joined.certificates.len() == keys.len() => {
                return Ok(joined);
            }
            Response::Refused(Refusal::NoLeader) if attempt < ATTEMPTS => {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Response::Refused(refusal) => return Err(refusal.into()),
            _ => break,
        }
    }
    Err(unexpected())
}

fn write(
    dir: &Path,
    role: TokenRole,
    joined: &Joined,
    keys: &[NewKey],
    listen: &str,
) -> anyhow::Result<()> {
    let mut issued = joined
        .certificates
        .iter()
        .zip(keys)
        .map(|(certificate, key)| Issued { cert_pem: certificate.clone(), key_pem: key.key_pem() });
    let mut next = || issued.next().expect("as many certificates came as were asked for");
    let save = |home: &Path, issued: &Issued| -> anyhow::Result<()> {
        init::make_dir(&home.join("tls"), 0o700)?;
        Ok(credentials::save(&home.join("tls"), &joined.authority, issued)?)
    };
    let client = match role {
        TokenRole::Node => {
            save(&dir.join("agent"), &next())?;
            let name = server_name(&joined.name);
            let home = dir.join(&name);
            save(&home, &next())?;
            server_file(joined, listen).save(&home)?;
            dir.join("client")
        }
        TokenRole::Client => dir.to_owned(),
    };
    save(&client, &next())?;
    ClientFile { monitors: joined.monitors.clone() }.save(&client)
}

fn server_file(joined: &Joined, listen: &str) -> ServerFile {
    ServerFile {
        cluster: joined.cluster.to_string(),
        listen: listen.to_owned(),
        advertise: None,
        domain: joined.name.clone(),
        monitors: joined.monitors.clone(),
        capacity_bytes: None,
    }
}

fn say_what_is_next(dir: &Path, role: TokenRole, joined: &Joined) {
    let (name, monitors) = (&joined.name, joined.monitors.join(","));
    match role {
        TokenRole::Node => say::line(format_args!(
            "joined cluster {} as {name}; next: okapifs server run {}",
            joined.cluster,
            dir.join(server_name(name)).display()
        )),
        TokenRole::Client => say::line(format_args!(
            "joined cluster {} as {name}; next: mount -t okapifs -o config={} {monitors}:/ DIRECTORY",
            joined.cluster,
            dir.display()
        )),
    }
}

/// The address of this machine that the monitor's network knows.
fn own_address(monitor: &str) -> anyhow::Result<String> {
    let explain = || format!("{monitor} cannot be looked up: write HOST[:PORT]");
    let target = monitor.to_socket_addrs().with_context(explain)?.next().with_context(explain)?;
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    // Nothing is sent: the system only says from where it would be.
    let socket = UdpSocket::bind(any).and_then(|socket| {
        socket.connect(target)?;
        socket.local_addr()
    });
    let ip = socket.with_context(|| format!("there is no way to {monitor}"))?.ip();
    Ok(match ip {
        IpAddr::V4(ip) => format!("{ip}:{SERVER_PORT}"),
        IpAddr::V6(ip) => format!("[{ip}]:{SERVER_PORT}"),
    })
}
