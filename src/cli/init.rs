//! `okapifs init`: a cluster comes into being, on paper.
//!
//! The certificate authority is made here. From then on it lives, sealed, in the state of the monitors: the first
//! one finds it in its directory and brings it there when it starts. `DIR/ca` is the backup, for the day when no
//! monitor is left.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::cluster_dir::{AGENT, ClusterDir, server_name};
use super::config::{AgentFile, ClientFile, ClusterFile, ConfigFile, MonitorFile, ServerFile};
use super::place::Place;
use super::{find, say, systemd};
use crate::agent::ADMINISTRATOR;
use crate::agent::stages::Role as UnitRole;
use crate::crypto::seal::SealKey;
use crate::crypto::{Authority, Identity, Role, Token};
use crate::env;
use crate::env::clock::{Clock, SystemClock};
use crate::env::random::{Random, SystemRandom};
use crate::env::system::credentials;
use crate::env::system::files::{PUBLIC, SECRET, write_atomic};
use crate::monitor::founding::{self, Founding, MemberKey};
use crate::types::{
    ClientPolicy, ClusterId, MonitorGrant, Timestamp, TokenGrant, TokenHash, TokenRole, Width,
    limits,
};

/// How long the token that `okapifs init` prints may be redeemed, in seconds.
const FIRST_TOKEN_S: i64 = 24 * 60 * 60;
/// The name of the first monitor.
pub(super) const MONITOR: &str = "monitor-1";

/// Make a new cluster, with this machine as its first node: a monitor, a server, an agent that runs them.
///
/// Where systemd runs, it starts the agent; else this says how to. It prints the command with which the next machine
/// joins, good for a day (later `okapifs token new` makes others). Move DIR/ca to a safe place away from this
/// machine: whoever has it can make members of the cluster, and it is the only copy beside that of the monitors.
/// `okapifs up` makes a cluster of one machine and mounts it.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// Where; must be empty or not there yet.
    #[arg(default_value = find::NODE_DIR)]
    dir: PathBuf,

    /// Where the others reach this machine: its monitor at PORT, its server at the port after that, its agent at
    /// the next [default: the address with which it is in the network, 7001].
    #[arg(long, value_name = "HOST[:PORT]")]
    listen: Option<String>,

    /// How many servers, one a disk for instance; further ones have the ports after the agent's.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=1000))]
    servers: u32,

    /// Start nothing.
    #[arg(long)]
    no_start: bool,

    #[command(flatten)]
    shape: Shape,
}

/// The width of a cluster's stripes.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Data shards of a stripe.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=i64::from(limits::DATA_SHARDS_MAX)))]
    data: u8,

    /// Parity shards of a stripe: how many servers may be lost.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=i64::from(limits::PARITY_SHARDS_MAX)))]
    parity: u8,
}

impl From<Shape> for Width {
    fn from(shape: Shape) -> Self {
        Self { data: shape.data, parity: shape.parity }
    }
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let dir = ClusterDir::new(&arguments.dir)?;
    let place = match &arguments.listen {
        Some(listen) => Place::parse(listen)?,
        None => Place::here(),
    };
    let host = env::system::node().context("this machine has no name")?.host;
    let now = SystemClock::new().now();
    let expires = Timestamp { seconds: now.seconds + FIRST_TOKEN_S, ..now };
    let begun = begin(&dir, arguments.shape.into(), &place.monitor())?;
    let token = Token::new(TokenRole::Node, expires, begun.authority.fingerprint()?);
    add_agent(&dir, &place.agent())?;
    let mut monitor = MonitorFile::load(&dir.of(MONITOR))?;
    monitor.agent = Some(place.agent());
    monitor.save(&dir.of(MONITOR))?;
    // Disks of one machine fail together.
    add_servers(&dir, arguments.servers, |_| host.clone(), |number| place.server(number))?;
    let cluster = begun.found(&dir, Some((token.hash(), node_grant(), expires)))?;
    say::line(format_args!(
        "made cluster {} in {}: monitor, {} server{}, agent",
        cluster.cluster,
        dir.root().display(),
        arguments.servers,
        if arguments.servers == 1 { "" } else { "s" },
    ));
    systemd::start_or_say(dir.root(), !arguments.no_start);
    say::line(format_args!(
        "one more machine, within a day: okapifs join {} {token}",
        place.monitor()
    ));
    if place.is_lonely() {
        say::line(format_args!(
            "no other machine can reach {}: make the cluster with --listen HOST if it is to have several",
            place.monitor()
        ));
    }
    say::line(format_args!(
        "move {} to a safe place: it is the backup of what makes members of this cluster",
        dir.ca().display()
    ));
    Ok(())
}

/// What the token of a node grants unless told otherwise.
fn node_grant() -> TokenGrant {
    TokenGrant {
        role: TokenRole::Node,
        name: None,
        policy: ClientPolicy::default(),
        monitor: MonitorGrant::WhileFew,
    }
}

/// A cluster that is being made: it has an authority, its first monitor and a client configuration.
pub(super) struct Begun {
    cluster: ClusterFile,
    authority: Authority,
    seal: SealKey,
}

/// Begins a cluster in an empty directory. Members can be added to it; then it has to be founded.
pub(super) fn begin(dir: &ClusterDir, width: Width, listen: &str) -> anyhow::Result<Begun> {
    make_dir(dir.root(), 0o755)?;
    refuse_unless_empty(dir.root())?;
    let id = ClusterId(SystemRandom.u128());
    let cluster = ClusterFile {
        cluster: id.to_string(),
        incarnation: 1,
        data: width.data,
        parity: width.parity,
        min_copies: if width.parity == 0 { 1 } else { 2 },
    };
    let authority = Authority::create(id, SystemClock::new().now())
        .context("the certificate authority cannot be made")?;
    make_dir(&dir.ca(), 0o700)?;
    let (certificate, key) = (dir.ca().join("ca.crt"), dir.ca().join("ca.key"));
    write_atomic(&certificate, authority.cert_pem().as_bytes(), PUBLIC)?;
    write_atomic(&key, authority.key_pem().as_bytes(), SECRET)?;

    issue(&authority, &dir.of(MONITOR), Role::Monitor, MONITOR)?;
    let monitor = MonitorFile {
        listen: listen.to_owned(),
        monitors: Vec::new(),
        id: None,
        agent: None,
        replace_after_s: None,
        removed: false,
        hold_level: None,
        new_cluster: Some(cluster.clone()),
    };
    monitor.save(&dir.of(MONITOR))?;
    let seal = SealKey::generate()?;
    credentials::save_seal_key(&dir.of(MONITOR), &seal)?;

    issue(&authority, &dir.client(), Role::Client, ADMINISTRATOR)?;
    let client = ClientFile { monitors: vec![listen.to_owned()] };
    client.save(&dir.client())?;
    Ok(Begun { cluster, authority, seal })
}

impl Begun {
    /// Leaves for the first monitor what the state is to begin with: who the members are that were made so far, and
    /// maybe a token. Then the cluster is made.
    pub(super) fn found(
        self,
        dir: &ClusterDir,
        token: Option<(TokenHash, TokenGrant, Timestamp)>,
    ) -> anyhow::Result<ClusterFile> {
        let mut homes = vec![dir.client()];
        homes.extend(dir.agent().join(AgentFile::NAME).exists().then(|| dir.agent()));
        let roles = dir.monitors()?.into_iter().chain(dir.servers()?);
        homes.extend(roles.map(|name| dir.of(&name)));
        let mut members = Vec::new();
        for home in homes {
            let credentials = find::credentials(&home)?;
            let Identity { role, name, .. } = credentials.identity().clone();
            members.push(MemberKey { role, name, key: credentials.key_hash() });
        }
        let founding = Founding {
            authority: self.authority.cert_pem().to_owned(),
            sealed_key: self.authority.seal_key(&self.seal)?,
            members,
            token,
        };
        founding::leave(&dir.of(MONITOR), &founding)?;
        // Last: where this file is, all the others are.
        self.cluster.save(dir.root())?;
        Ok(self.cluster)
    }
}

/// Makes monitors' directories until there are `count`: each asks one that is there to let it in.
pub(super) fn add_monitors(dir: &ClusterDir, count: u32, listen: &str) -> anyhow::Result<()> {
    let there = dir.live_monitors()?;
    let missing = (count as usize).saturating_sub(there.len());
    let Some(asked) = there.first().map(|name| dir.of(name)).filter(|_| missing > 0) else {
        return Ok(());
    };
    let first = MonitorFile::load(&asked)?.listen;
    // Whichever of them leads can issue certificates.
    let Some(seal) = credentials::load_seal_key(&asked)? else {
        bail!("{} has no tls/seal.key: copy it from another monitor", asked.display());
    };
    let authority = load_authority(dir)?;
    for number in (dir.next_number(UnitRole::Monitor)?..).take(missing) {
        let name = format!("monitor-{number}");
        let home = dir.of(&name);
        issue(&authority, &home, Role::Monitor, &name)?;
        credentials::save_seal_key(&home, &seal)?;
        let monitor = MonitorFile {
            listen: listen.to_owned(),
            monitors: vec![first.clone()],
            id: None,
            agent: None,
            replace_after_s: None,
            removed: false,
            hold_level: None,
            new_cluster: None,
        };
        monitor.save(&home)?;
    }
    Ok(())
}

/// Makes the agent's directory, if there is none.
pub(super) fn add_agent(dir: &ClusterDir, listen: &str) -> anyhow::Result<()> {
    let home = dir.agent();
    if home.join(AgentFile::NAME).exists() {
        return Ok(());
    }
    issue(&load_authority(dir)?, &home, Role::Agent, AGENT)?;
    AgentFile { listen: listen.to_owned(), spare: true }.save(&home)
}

/// Makes servers' directories until there are `count`, under new names: that of one that is gone belonged to other
/// data. `domain` and `listen` say of the one of that name and
/// number with what it fails and where it listens.
pub(super) fn add_servers(
    dir: &ClusterDir,
    count: u32,
    domain: impl Fn(&str) -> String,
    listen: impl Fn(u32) -> String,
) -> anyhow::Result<()> {
    let missing = (count as usize).saturating_sub(dir.servers()?.len());
    if missing == 0 {
        return Ok(());
    }
    let cluster = find::credentials(&dir.client())?.identity().cluster;
    let authority = load_authority(dir)?;
    for number in (dir.next_number(UnitRole::Server)?..).take(missing) {
        let name = server_name(number);
        let home = dir.of(&name);
        issue(&authority, &home, Role::Server, &name)?;
        let server = ServerFile {
            cluster: cluster.to_string(),
            listen: listen(number),
            advertise: None,
            domain: domain(&name),
            monitors: ClientFile::load(&dir.client())?.monitors,
            capacity_bytes: None,
        };
        server.save(&home)?;
    }
    Ok(())
}

fn load_authority(dir: &ClusterDir) -> anyhow::Result<Authority> {
    let read = |name: &str| {
        let path = dir.ca().join(name);
        fs::read_to_string(&path).with_context(|| {
            format!(
                "{} cannot be read; without the authority no member can be added",
                path.display()
            )
        })
    };
    Authority::from_pem(&read("ca.crt")?, &read("ca.key")?)
        .with_context(|| format!("{} holds no certificate authority", dir.ca().display()))
}

/// Gives the directory of a role its certificate and key.
fn issue(authority: &Authority, home: &Path, role: Role, name: &str) -> anyhow::Result<()> {
    let issued = authority
        .issue(role, name, SystemClock::new().now())
        .with_context(|| format!("the certificate of {name} cannot be made"))?;
    make_dir(home, 0o755)?;
    make_dir(&home.join("tls"), 0o700)?;
    Ok(credentials::save(&home.join("tls"), authority.cert_pem(), &issued)?)
}

/// Makes a directory and those above it, unless they are there.
pub(super) fn make_dir(path: &Path, mode: u32) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(|| format!("directory {} cannot be made", path.display()))
}

pub(super) fn refuse_unless_empty(dir: &Path) -> anyhow::Result<()> {
    let mut entries =
        fs::read_dir(dir).with_context(|| format!("{} cannot be read", dir.display()))?;
    // The lock of an `up` that is just making it does not count.
    if entries.any(|entry| entry.map_or(true, |entry| entry.file_name() != "up.lock")) {
        bail!("{} is not empty and holds no cluster; choose another directory", dir.display());
    }
    Ok(())
}
