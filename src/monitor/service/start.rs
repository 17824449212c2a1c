//! How a monitor comes into its group: it founds one, joins one, or comes back.
//!
//! * **Founding**: its directory says what the new cluster is to be. It gets the id 1, and leads alone.
//! * **Joining**: it has no id yet. It asks the monitors that it was told of; whoever leads takes it in, because
//!   its certificate says that it is a monitor. Then it starts empty and waits to be taught.
//! * **Coming back**: it has an id. Then it must have its log, too: what it voted and acknowledged. Without it,
//!   it might vote twice in a term and undo what was acknowledged; so it refuses, and has to be replaced.
//!
//! An id is written down only when there is a log, so that whoever has an id and no log has lost it.
//!
//! Before one that comes back takes part it introduces itself, if anybody leads: from a copied directory it might
//! run already somewhere else, and would be refused before it could do harm.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::links::Expulsion;
use super::peers::Peers;
use super::{Bootstrap, Config, RunError};
use crate::crypto::Role;
use crate::crypto::seal::SealKey;
use crate::env::system::credentials;
use crate::env::system::rpc::{ConnectError, Connection};
use crate::monitor::founding;
use crate::monitor::namespace::command::{Action, Outcome};
use crate::monitor::namespace::query;
use crate::monitor::namespace::records::MonitorState;
use crate::monitor::namespace::trust::TrustAction;
use crate::monitor::raft::Raft;
use crate::monitor::store::Store;
use crate::types::{Incarnation, Levels, MonitorId};
use crate::wire::peers::{Request, Response};

/// How long one sibling is given for an answer.
const ANSWER: Duration = Duration::from_secs(2);
/// How long between two rounds of asking.
const PAUSE: Duration = Duration::from_millis(300);
/// How often a monitor that is known as it is looks whether that is still so.
const LOOK: Duration = Duration::from_secs(2);
/// How often is said what is waited for.
const SAY: Duration = Duration::from_secs(10);
/// How long a founder may take to lead.
const ELECTION: Duration = Duration::from_secs(10);
/// The id of the monitor that founds a cluster.
const FOUNDER: MonitorId = MonitorId(1);

/// What a monitor must never forget: told when it happens, and kept with its configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Milestone {
    /// It has this id.
    Member(MonitorId),
    /// The new cluster is there: it is never founded again.
    Founded,
}

/// Keeps a [`Milestone`].
pub type Remember = Box<dyn Fn(Milestone) -> io::Result<()> + Send + Sync>;

/// The incarnation of the cluster, found before anybody connects: in its own state, or with its siblings. Where all
/// of those are of another cluster there is no point in waiting.
pub(super) async fn incarnation(config: &Config, peers: &Peers) -> Result<Incarnation, RunError> {
    if let Some(cluster) = query::cluster(&*peers.store)? {
        let expected = config.credentials.identity().cluster;
        if cluster.id != expected {
            return Err(RunError::OtherCluster { found: cluster.id, expected });
        }
        return Ok(cluster.incarnation);
    }
    if let Some(Bootstrap { incarnation, .. }) = config.bootstrap {
        return Ok(incarnation);
    }
    let mut patience = Patience::new();
    loop {
        let mut errors = Vec::new();
        for address in &config.monitors {
            let (credentials, any) = (&config.credentials, Incarnation::default());
            match Connection::open(address, credentials, Role::Monitor, any, ANSWER).await {
                Ok((connection, _)) => return Ok(connection.incarnation()),
                Err(error) => {
                    patience.note(&error);
                    errors.push(error);
                }
            }
        }
        if !errors.iter().any(ConnectError::may_pass)
            && let Some(error) = errors.pop()
        {
            return Err(RunError::Strangers(error));
        }
        patience.wait("a monitor of the cluster").await;
    }
}

/// Whether this program can do what the cluster, as this monitor knew it last, may already be doing.
pub(super) fn check_level(config: &Config, store: &dyn Store) -> Result<(), RunError> {
    let level = query::level(store)?;
    match config.hold_level {
        _ if level > Levels::OURS.newest => Err(RunError::TooOld { level }),
        Some(held) if held < Levels::OURS.oldest => Err(RunError::HeldTooLow { held }),
        Some(held) if held < level => Err(RunError::HeldTooLate { held, level }),
        _ => Ok(()),
    }
}

/// Gives this monitor its id, if it has none, and its place.
pub(super) async fn settle(
    config: &Config,
    peers: &Peers,
    log_dir: &Path,
) -> Result<MonitorId, RunError> {
    match (config.id, config.bootstrap) {
        (Some(id), _) if !Raft::has_log(log_dir) => {
            let (name, dir) = (peers.name.clone(), config.dir.clone());
            Err(RunError::DataGone { id, name, dir })
        }
        (Some(id), _) => {
            peers.refresh();
            introduce_before(config, peers, id).await?;
            Ok(id)
        }
        (None, founds) => {
            let id = match founds {
                Some(_) => FOUNDER,
                None => join(config, peers).await?,
            };
            if !Raft::has_log(log_dir) {
                Raft::make_log(log_dir)?;
            }
            (config.remember)(Milestone::Member(id)).map_err(RunError::Remember)?;
            Ok(id)
        }
    }
}

/// Makes the new cluster; does nothing to one that was made before.
pub(super) async fn found(
    config: &Config,
    bootstrap: Bootstrap,
    peers: &Peers,
    raft: &Raft,
) -> Result<(), RunError> {
    raft.bootstrap().await?;
    let mut leadership = raft.leadership();
    let decided = leadership.wait_for(|now| now.is_leader() || now.stopped.is_some());
    // Whether it leads after that time is for the first command to say.
    drop(tokio::time::timeout(ELECTION, decided).await);
    let Bootstrap { cluster, incarnation, width, min_copies } = bootstrap;
    // All at once: others may ask to be let in as soon as there is a cluster, and the founder is its first member.
    let mut first = vec![Action::Bootstrap { cluster, incarnation, width, min_copies }];
    first.extend(peers.introduction());
    let founding = founding::find(&config.dir)?;
    let trusts = founding.is_some();
    first.extend(founding.map(TrustAction::Found).map(Action::Trust));
    first.push(Action::RaiseFeatureLevel(peers.profile.program.level));
    for outcome in peers.propose_all(first).await? {
        if let Outcome::Refused(why) = outcome {
            return Err(RunError::Refused(why));
        }
    }
    if trusts {
        founding::remove(&config.dir)?;
    }
    persist(peers).await?;
    (config.remember)(Milestone::Founded).map_err(RunError::Remember)
}

/// Makes the state durable that this monitor needs to begin: which cluster it is of. Who has an id finds it there at
/// its next start, before it has applied its log.
pub(super) async fn persist(peers: &Peers) -> Result<(), RunError> {
    let store = Arc::clone(&peers.store);
    let persisted = tokio::task::spawn_blocking(move || store.persist()).await;
    Ok(persisted.map_err(io::Error::other)??)
}

/// Introduces this monitor whenever the others do not know it as it is. Gives why, if it is refused: it may have
/// been removed meanwhile.
pub(super) async fn introduce(
    peers: Arc<Peers>,
    id: MonitorId,
    monitors: Vec<String>,
) -> Expulsion {
    loop {
        peers.refresh();
        let known = peers.links.record(id);
        let known_as_it_is = known.as_ref().is_some_and(|known| known.profile == peers.profile);
        // One that is to leave asks until it is told that it has left.
        if known_as_it_is && known.is_some_and(|known| known.state == MonitorState::Member) {
            tokio::time::sleep(LOOK).await;
            continue;
        }
        // Who leads introduces itself (`members`).
        let leader = peers.leader().filter(|(leader, _)| *leader != id);
        let addresses = match leader {
            Some((_, address)) => vec![address],
            None => siblings(&peers, &monitors),
        };
        if let Verdict::Never(why) = ask_all(&peers, &addresses, &introduction(&peers, id)).await {
            return why;
        }
        tokio::time::sleep(if known_as_it_is { LOOK } else { PAUSE }).await;
    }
}

/// One round of asking before it takes part: without a leader nobody can say anything, and it is needed to elect
/// one.
async fn introduce_before(config: &Config, peers: &Peers, id: MonitorId) -> Result<(), RunError> {
    let addresses = siblings(peers, &config.monitors);
    match ask_all(peers, &addresses, &introduction(peers, id)).await {
        Verdict::Never(why) => Err(ended(why, peers, config)),
        Verdict::Done(_) | Verdict::Nobody(_) => Ok(()),
    }
}

async fn join(config: &Config, peers: &Peers) -> Result<MonitorId, RunError> {
    let request = Request::Join(peers.profile.clone());
    let mut patience = Patience::new();
    loop {
        match ask_all(peers, &config.monitors, &request).await {
            Verdict::Done(Response::Joined { id, seal_key }) => {
                if let Some(key) = seal_key {
                    let key = SealKey::from_hex(&key)?;
                    credentials::save_seal_key(&config.dir, &key)?;
                }
                return Ok(id);
            }
            Verdict::Never(why) => return Err(ended(why, peers, config)),
            Verdict::Done(_) => {}
            Verdict::Nobody(why) => patience.note(why),
        }
        patience.wait("the leader of the monitors").await;
    }
}

fn introduction(peers: &Peers, id: MonitorId) -> Request {
    Request::Introduce { id, instance: peers.instance, profile: peers.profile.clone() }
}

/// Where the others may be: as it was told, and as the records say.
fn siblings(peers: &Peers, told: &[String]) -> Vec<String> {
    let mut addresses: BTreeSet<String> = told.iter().cloned().collect();
    addresses.extend(peers.links.addresses());
    addresses.remove(&peers.profile.address);
    addresses.into_iter().collect()
}

/// What a round of asking gave.
enum Verdict {
    /// The leader has done it.
    Done(Response),
    /// It never will be.
    Never(Expulsion),
    /// No leader was found; the last reason.
    Nobody(String),
}

/// Asks all of them at the same time, and the leader that one of them names.
async fn ask_all(peers: &Peers, addresses: &[String], request: &Request) -> Verdict {
    let asked = addresses.iter().map(|address| peers.links.call(address, request, ANSWER));
    let answers = futures::future::join_all(asked).await;
    let (mut leader, mut last) = (None, "no other monitor is known".to_owned());
    for (address, answer) in addresses.iter().zip(answers) {
        match answer {
            Ok(Response::Refused(why)) => return Verdict::Never(Expulsion::Refused(why)),
            Ok(Response::Removed { by, .. }) => return Verdict::Never(Expulsion::Removed(by)),
            Ok(Response::Unable(why)) => last = why,
            Ok(Response::NotLeader { here, leader: named }) => {
                here.inspect(|here| peers.links.saw(*here, address));
                leader = named.or(leader);
                "no monitor leads at the moment".clone_into(&mut last);
            }
            Ok(done) => return Verdict::Done(done),
            Err(error) => last = error.to_string(),
        }
    }
    let Some((_, address)) = leader.filter(|(_, address)| !addresses.contains(address)) else {
        return Verdict::Nobody(last);
    };
    match peers.links.call(&address, request, ANSWER).await {
        Ok(Response::Refused(why)) => Verdict::Never(Expulsion::Refused(why)),
        Ok(Response::Removed { by, .. }) => Verdict::Never(Expulsion::Removed(by)),
        Ok(Response::Unable(why)) => Verdict::Nobody(why),
        Ok(Response::NotLeader { .. }) => Verdict::Nobody(last),
        Ok(done) => Verdict::Done(done),
        Err(error) => Verdict::Nobody(error.to_string()),
    }
}

/// Why a monitor ends that has no place in the group.
pub(super) fn ended(why: Expulsion, peers: &Peers, config: &Config) -> RunError {
    match why {
        Expulsion::Refused(why) => RunError::Refused(why),
        Expulsion::Removed(by) => {
            RunError::Removed { name: peers.name.clone(), by, dir: config.dir.clone() }
        }
    }
}

/// Waits between two rounds, and now and then says for what.
struct Patience {
    said: Instant,
    why: String,
}

impl Patience {
    fn new() -> Self {
        Self { said: Instant::now(), why: String::new() }
    }

    fn note(&mut self, why: impl ToString) {
        self.why = why.to_string();
    }

    async fn wait(&mut self, what: &str) {
        if self.said.elapsed() >= SAY {
            self.said = Instant::now();
            log::warn!("still waiting for {what}: {}", self.why);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
