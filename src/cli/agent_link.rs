//! Asking the agent of a node's directory.

use std::time::Duration;

use anyhow::{Context, anyhow};

use super::cluster_dir::{AGENT, ClusterDir};
use super::find;
use crate::crypto::Role;
use crate::env::system::renewal::Renewal;
use crate::env::system::rpc::Connection;
use crate::types::Incarnation;
use crate::wire;
use crate::wire::agent::{Request, Response, UnitStatus};

/// How long an agent may take to be connected to, and to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to the agent.
pub(super) struct AgentLink {
    connection: Connection,
}

impl AgentLink {
    /// Connects to the agent that runs in `dir`; `None` when none does.
    pub(super) async fn connect(dir: &ClusterDir) -> anyhow::Result<Option<Self>> {
        let Some(agent) = dir.process(AGENT).filter(|agent| !agent.address.is_empty()) else {
            return Ok(None);
        };
        let cluster = find::configured(&dir.client())?;
        let (credentials, tls) = (cluster.credentials, cluster.config_dir.join("tls"));
        let renewal = Renewal::new(credentials.clone(), tls, cluster.monitors);
        renewal.at_start().await.context("the certificate of this client has expired")?;
        let any = Incarnation::default();
        let opened =
            Connection::open(&agent.address, &credentials, Role::Agent, any, PATIENCE).await;
        let (connection, _) =
            opened.with_context(|| format!("the agent (process {}) cannot be asked", agent.pid))?;
        Ok(Some(Self { connection }))
    }

    /// How the units are.
    pub(super) async fn status(&self) -> anyhow::Result<Vec<UnitStatus>> {
        match self.ask(&Request::Status).await? {
            Response::Status(units) => Ok(units),
            _ => Err(unexpected()),
        }
    }

    /// Has it look at the directory again and start what does not run.
    pub(super) async fn refresh(&self) -> anyhow::Result<()> {
        match self.ask(&Request::Refresh).await? {
            Response::Done => Ok(()),
            _ => Err(unexpected()),
        }
    }

    async fn ask(&self, request: &Request) -> anyhow::Result<Response> {
        let asked = self.connection.call(wire::encode(request), Vec::new(), PATIENCE).await;
        let (answer, _) = asked.context("the agent does not answer")?;
        match wire::decode(&answer).context("the agent's answer makes no sense")? {
            Response::Refused(refusal) => Err(refusal.into()),
            answer => Ok(answer),
        }
    }
}

fn unexpected() -> anyhow::Error {
    anyhow!("the agent's answer does not belong to the question; restart it with this okapifs")
}
