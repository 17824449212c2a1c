//! Asking the monitors what an administrator asks.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};

use super::find::Cluster;
use crate::crypto::{Credentials, Role};
use crate::env::system::monitors::{AskError, MonitorLinks};
use crate::env::system::renewal::Renewal;
use crate::env::system::rpc::Connection;
use crate::types::{DiskRoom, Incarnation, PlacementMap, SignedTicket};
use crate::wire::{self, admin, metadata, trust};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long a monitor may take to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// How long monitors without a leader are given to elect one.
const ELECTION: Duration = Duration::from_secs(10);

/// The way to the monitors.
pub(super) struct Admin {
    monitors: MonitorLinks,
    /// `host:port` of those that were known when it began.
    addresses: Vec<String>,
    credentials: Credentials,
}

impl Admin {
    /// Connects to the monitors; one that answers is enough.
    pub(super) async fn connect(cluster: &Cluster) -> anyhow::Result<Self> {
        let credentials = cluster.credentials.clone();
        let tls = cluster.config_dir.join("tls");
        let renewal = Renewal::new(credentials.clone(), tls, cluster.monitors.clone());
        renewal.within(ELECTION).await.context("the certificate of this client has expired")?;
        // What monitors say unasked is for mounts.
        let (monitors, _) =
            MonitorLinks::start(&cluster.monitors, credentials.clone(), Incarnation(0));
        monitors.connected_at_once(CONNECT).await.context("the cluster cannot be reached")?;
        Ok(Self { monitors, addresses: cluster.monitors.clone(), credentials })
    }

    /// The incarnation that the monitors are at.
    pub(super) fn incarnation(&self) -> Incarnation {
        self.monitors.incarnation()
    }

    /// Asks whichever monitor leads, waiting a little where there is none at the moment.
    pub(super) async fn ask(&self, question: &admin::Request) -> anyhow::Result<admin::Response> {
        let request = metadata::Request::Admin(question.clone());
        let asked = match self.monitors.ask(&request, ANSWER, ELECTION).await {
            Err(error @ AskError::NoLeader) => {
                let reasons = self.why_no_leader().await;
                let told = anyhow::Error::from(error);
                return Err(reasons.into_iter().fold(told, anyhow::Error::context));
            }
            asked => asked?,
        };
        match asked {
            metadata::Response::Admin(answer) => Ok(answer),
            metadata::Response::Refused(refusal) => Err(refusal.into()),
            _ => Err(unexpected()),
        }
    }

    /// What is wrong with the monitors that this command knows of, by what each says for itself.
    async fn why_no_leader(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        for address in &self.addresses {
            let monitor = format!("the monitor at {address}");
            match self.room_of(address).await {
                Ok(room) => reasons.extend(room.advice(&monitor, "that machine")),
                Err(error) => reasons.push(format!("{monitor} does not answer: {error:#}")),
            }
        }
        reasons
    }

    async fn room_of(&self, address: &str) -> anyhow::Result<DiskRoom> {
        let (credentials, ping) = (&self.credentials, wire::encode(&metadata::Request::Ping));
        let opened =
            Connection::open(address, credentials, Role::Monitor, self.incarnation(), CONNECT);
        let (connection, _) = opened.await?;
        let (answer, _) = connection.call(ping, Vec::new(), CONNECT).await?;
        match wire::decode(&answer)? {
            metadata::Response::Alive(room) => Ok(room),
            metadata::Response::Refused(refusal) => Err(refusal.into()),
            _ => Err(unexpected()),
        }
    }

    /// How everything is.
    pub(super) async fn status(&self) -> anyhow::Result<admin::Status> {
        let node = crate::env::system::node().context("this machine has no id")?.id;
        match self.ask(&admin::Request::Status { node }).await? {
            admin::Response::Status(status) => Ok(*status),
            _ => Err(unexpected()),
        }
    }

    /// Asks about tokens and clients.
    pub(super) async fn ask_trust(
        &self,
        question: trust::Request,
    ) -> anyhow::Result<trust::Response> {
        match self.ask(&admin::Request::Trust(question)).await? {
            admin::Response::Trust(answer) => Ok(answer),
            _ => Err(unexpected()),
        }
    }

    /// What shows the servers that this command may read.
    pub(super) async fn tickets(&self) -> anyhow::Result<Vec<SignedTicket>> {
        match self.ask(&admin::Request::Tickets).await? {
            admin::Response::Tickets(tickets) => Ok(tickets),
            _ => Err(unexpected()),
        }
    }

    /// Asks for one more monitor.
    pub(super) async fn enroll(&self, enroll: trust::Enroll) -> anyhow::Result<trust::Enrolled> {
        let request = metadata::Request::Enroll(enroll);
        match self.monitors.ask(&request, ANSWER, ELECTION).await? {
            metadata::Response::Enrolled(enrolled) => Ok(enrolled),
            metadata::Response::Refused(refusal) => Err(refusal.into()),
            _ => Err(unexpected()),
        }
    }

    /// Where the servers are.
    pub(super) async fn placement(&self) -> anyhow::Result<PlacementMap> {
        match self.ask(&admin::Request::Placement).await? {
            admin::Response::Placement(placement) => Ok(placement),
            _ => Err(unexpected()),
        }
    }
}

/// An answer that does not belong to its question: the other end is of another version.
pub(super) fn unexpected() -> anyhow::Error {
    anyhow!("the monitor's answer does not belong to the question; update okapifs on both ends")
}

/// Runs a command that only asks and waits: one thread is enough.
pub(super) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")?
        .block_on(work)
}

/// The runtime of a process that serves.
pub(super) fn serving_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")
}

/// Resolves when the process is asked to end, by Ctrl-C or SIGTERM.
pub(super) async fn asked_to_end() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Refuses an address that others could not reach: they are told the one that is listened at.
pub(super) fn refuse_wildcard(listen: &str) -> anyhow::Result<()> {
    let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host);
    if matches!(host, "" | "0.0.0.0" | "[::]" | "*") {
        bail!(
            "`listen = {listen:?}` names no address that others could reach; put this machine's own there"
        );
    }
    Ok(())
}
