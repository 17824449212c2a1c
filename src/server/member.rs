//! Staying a member: says what [`super::membership`] decides, to whichever monitor leads.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::membership::{Deleting, Member, Membership, Step};
use super::reaper::Reaper;
use super::service::Shared;
use super::store::Identity;
use crate::crypto::Credentials;
use crate::env::system::monitors::{AskError, MonitorLinks};
use crate::env::system::rpc::ConnectError;
use crate::types::{Program, ServerId};
use crate::wire::metadata::{Refusal, Request, Response};
use crate::wire::servers::{self, Beat, Inventory, Usage};
use crate::wire::shards::ShardId;

/// How long the monitors may take to answer; they may have to elect a leader.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Most shards of one portion of an inventory.
const PORTION: usize = 8192;
/// How often at most the metadata state is written down.
const NOTE_STATE: Duration = Duration::from_secs(10);

/// Why the cluster does not take a server.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No monitor can be talked to, and waiting will not help.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A monitor says no.
    #[error("the monitors do not take this server: {0}")]
    Refused(Refusal),
    /// The directory is another server's.
    #[error(
        "this directory is that of server {of}, and the certificate is that of server {ours}: start it with the \
         certificate it had, for its shards are listed under that one's name"
    )]
    OtherServer {
        /// The directory's server.
        of: ServerId,
        /// The certificate's.
        ours: ServerId,
    },
}

/// What a server says of itself when it registers.
pub(super) struct Register {
    pub(super) address: String,
    pub(super) domain: String,
    pub(super) node: String,
    pub(super) instance: u64,
    pub(super) dir: String,
}

/// The task that keeps a server a member.
pub(super) struct MemberTask {
    pub(super) register: Register,
    pub(super) monitors: Vec<String>,
    pub(super) credentials: Credentials,
    pub(super) shared: Arc<Shared>,
    pub(super) reaper: Reaper,
}

/// The way to the monitors.
struct Link {
    monitors: MonitorLinks,
    is_complaining: bool,
}

/// Why a call brought no answer.
enum CallFailure {
    /// Perhaps the next try does.
    Later(String),
    /// No try will.
    Never(JoinError),
}

impl MemberTask {
    /// Registers, and beats until `shutdown` becomes true. `ready` is called at the first registration.
    pub(super) async fn run(
        self,
        ready: impl FnOnce(ServerId),
        mut shutdown: watch::Receiver<bool>,
    ) -> Result<(), JoinError> {
        let identity = self.shared.store.identity();
        let mut membership = Membership::new(identity.state, identity.deleting_held);
        complain_about(Deleting::Allowed, membership.deleting());
        let (credentials, known) = (self.credentials.clone(), identity.incarnation);
        // Monitors have nothing to tell a server unasked but who leads, which the links see to.
        let (monitors, _) = MonitorLinks::start(&self.monitors, credentials, known);
        let mut link = Link { monitors, is_complaining: false };
        let mut ready = Some(ready);
        let mut noted_at = Duration::ZERO;
        loop {
            membership.report_reaped(self.reaper.take_gone());
            membership.report_lost(self.shared.store.take_lost());
            let step = membership.next(self.shared.clock.monotonic());
            let done = tokio::select! {
                done = self.step(step, &mut membership, &mut link) => done,
                _ = shutdown.wait_for(|is_over| *is_over) => break,
            };
            match done {
                Ok(()) => {}
                Err(CallFailure::Never(error)) if ready.is_some() => return Err(error),
                Err(CallFailure::Never(error)) => self.retry(&mut membership, &mut link, &error),
                Err(CallFailure::Later(why)) => self.retry(&mut membership, &mut link, &why),
            }
            let standing = membership.standing();
            *self.shared.standing.write() = standing;
            if let Some(standing) = standing {
                if let Some(ready) = ready.take() {
                    ready(standing.member.server);
                }
                let now = self.shared.clock.monotonic();
                let is_time = noted_at.is_zero() || now - noted_at >= NOTE_STATE;
                if self.note(&membership, standing.member.server, &link, is_time).await {
                    noted_at = now;
                }
            }
        }
        if let Some(standing) = membership.standing() {
            self.note(&membership, standing.member.server, &link, true).await;
        }
        Ok(())
    }

    async fn step(
        &self,
        step: Step,
        membership: &mut Membership,
        link: &mut Link,
    ) -> Result<(), CallFailure> {
        match step {
            Step::Wait(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
            Step::Register => self.register(membership, link).await,
            Step::Beat { member, reaped, lost } => {
                self.beat(member, reaped, lost, membership, link).await
            }
            Step::List { member, from } => self.list(member, from, membership, link).await,
        }
    }

    async fn register(
        &self,
        membership: &mut Membership,
        link: &mut Link,
    ) -> Result<(), CallFailure> {
        let sent = self.shared.clock.monotonic();
        let request = Request::Register(servers::Register {
            address: self.register.address.clone(),
            domain: self.register.domain.clone(),
            node: self.register.node.clone(),
            pid: std::process::id(),
            instance: self.register.instance,
            dir: self.register.dir.clone(),
            usage: self.usage().await?,
            program: Program::this(),
        });
        let answer = match self.call(link, request).await? {
            Response::Registered(answer) => answer,
            Response::Refused(
                refusal @ (Refusal::Forbidden | Refusal::Revoked | Refusal::Malformed(_)),
            ) => {
                return Err(CallFailure::Never(JoinError::Refused(refusal)));
            }
            other => return Err(unexpected(&other)),
        };
        let ours = answer.server;
        match self.shared.store.identity().server {
            Some(of) if of != ours => {
                return Err(CallFailure::Never(JoinError::OtherServer { of, ours }));
            }
            _ => {}
        }
        log::info!("registered as server {ours}, epoch {}", answer.epoch);
        let was = membership.deleting();
        link.monitors.learn(&answer.monitors);
        self.shared.admission.learn(ours, answer.key);
        membership.registered(sent, self.shared.clock.monotonic(), &answer);
        complain_about(was, membership.deleting());
        Ok(())
    }

    async fn beat(
        &self,
        member: Member,
        reaped: Vec<ShardId>,
        lost: Vec<ShardId>,
        membership: &mut Membership,
        link: &mut Link,
    ) -> Result<(), CallFailure> {
        let sent = self.shared.clock.monotonic();
        let request = Request::Beat(Beat {
            server: member.server,
            epoch: member.epoch,
            usage: self.usage().await?,
            trouble: self.trouble().await,
            reaped,
            lost,
        });
        let answer = match self.call(link, request).await? {
            Response::Beaten(answer) => answer,
            other => return Err(unexpected(&other)),
        };
        link.monitors.learn(&answer.monitors);
        let was = membership.deleting();
        let doomed = membership.beaten(sent, self.shared.clock.monotonic(), answer);
        complain_about(was, membership.deleting());
        self.reaper.doom(doomed);
        Ok(())
    }

    async fn list(
        &self,
        member: Member,
        from: ShardId,
        membership: &mut Membership,
        link: &mut Link,
    ) -> Result<(), CallFailure> {
        let as_of = membership.seen();
        let (shards, to) = self.shared.store.list(from, PORTION);
        let request = Request::Inventory(Inventory {
            server: member.server,
            epoch: member.epoch,
            as_of,
            from,
            to,
            shards,
        });
        let garbage = match self.call(link, request).await? {
            Response::Garbage(garbage) => garbage,
            other => return Err(unexpected(&other)),
        };
        self.reaper.doom(membership.listed(to, garbage));
        Ok(())
    }

    async fn usage(&self) -> Result<Usage, CallFailure> {
        let shared = Arc::clone(&self.shared);
        let asked = tokio::task::spawn_blocking(move || shared.store.usage()).await;
        asked.map_err(std::io::Error::other).flatten().map_err(|error| {
            CallFailure::Later(format!("the disk does not say how full it is: {error}"))
        })
    }

    async fn trouble(&self) -> Option<String> {
        let shared = Arc::clone(&self.shared);
        let asked = tokio::task::spawn_blocking(move || shared.store.trouble()).await;
        asked.unwrap_or_else(|panic| Some(panic.to_string()))
    }

    /// Asks whichever monitor leads.
    async fn call(&self, link: &mut Link, request: Request) -> Result<Response, CallFailure> {
        match link.monitors.ask(&request, TIMEOUT, TIMEOUT).await {
            Ok(response) => {
                if std::mem::take(&mut link.is_complaining) {
                    log::info!("the monitors answer again");
                }
                Ok(response)
            }
            Err(AskError::Unreachable(error)) if !error.may_pass() => {
                Err(CallFailure::Never(error.into()))
            }
            Err(error) => Err(CallFailure::Later(error.to_string())),
        }
    }

    /// A call failed: it will be tried again in a moment. Says so once.
    fn retry(&self, membership: &mut Membership, link: &mut Link, why: &impl std::fmt::Display) {
        if !std::mem::replace(&mut link.is_complaining, true) {
            log::warn!("no monitor answers, trying again until one does: {why}");
        }
        membership.failed(self.shared.clock.monotonic());
    }

    /// Writes down what must be known after a restart, if it has changed: at once what is important, the
    /// metadata state only now and then. Says whether it was written.
    async fn note(
        &self,
        membership: &Membership,
        server: ServerId,
        link: &Link,
        is_time: bool,
    ) -> bool {
        let identity = self.shared.store.identity();
        let now = Identity {
            server: Some(server),
            incarnation: link.monitors.incarnation().max(identity.incarnation),
            deleting_held: membership.deleting() == Deleting::Held,
            state: membership.seen(),
            ..identity
        };
        let of_state = Identity { state: now.state, ..identity };
        if now == identity || (now == of_state && !is_time) {
            return false;
        }
        let shared = Arc::clone(&self.shared);
        let writing = tokio::task::spawn_blocking(move || shared.store.set_identity(now));
        if let Err(error) = writing.await.map_err(std::io::Error::other).flatten() {
            log::error!("the server's identity cannot be written: {error}");
        }
        true
    }
}

/// Says that deleting stops, or goes on.
fn complain_about(was: Deleting, is: Deleting) {
    match is {
        _ if was == is => {}
        Deleting::Allowed => log::info!("the monitors have caught up: deleting goes on"),
        Deleting::Waiting => log::error!(
            "the monitors are at an older state than they have told before: nothing is deleted until they catch up"
        ),
        Deleting::Held => log::error!(
            "the monitors stay at an older state than they have told before; were they restored from a backup? \
             Nothing is deleted any more. To allow it: stop this server, remove the file `identity` in its \
             directory, and start it"
        ),
    }
}

fn unexpected(response: &Response) -> CallFailure {
    CallFailure::Later(match response {
        Response::Refused(refusal) => refusal.to_string(),
        _ => "the monitor's answer is not one to what it was asked".to_owned(),
    })
}
