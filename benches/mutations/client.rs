//! A client that speaks the protocol itself.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use okapifs::crypto::Role;
use okapifs::env::random::{Random, SystemRandom};
use okapifs::env::system::rpc::Connection;
use okapifs::env::system::{load_credentials, node};
use okapifs::types::{Errno, Incarnation, Program, SessionId};
use okapifs::wire;
use okapifs::wire::metadata::{
    Answer, Attach, ClientInfo, Mutation, Query, Refusal, Renew, Reply, Request, Response,
};

const TIMEOUT: Duration = Duration::from_secs(30);
const RENEWAL: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(10);

/// A session and its connection. Clones are the same.
#[derive(Clone)]
pub(crate) struct Client {
    connection: Connection,
    pub(crate) session: SessionId,
}

impl Client {
    /// Opens a session with the cluster in `dir`, and keeps it alive.
    pub(crate) async fn open(dir: &Path) -> anyhow::Result<Self> {
        let node = node()?;
        let client = ClientInfo {
            node: node.id,
            boot: node.boot,
            run_lock: String::new(),
            host: node.host,
            mountpoint: "a benchmark".to_owned(),
            pid: std::process::id(),
            program: Program::this(),
        };
        let nonce = SystemRandom.u128();
        Self::begin(dir, Request::OpenSession { client, nonce }).await
    }

    /// Goes on with a session over a new connection.
    pub(crate) async fn attach(dir: &Path, session: SessionId) -> anyhow::Result<Self> {
        Self::begin(dir, Request::Attach(Attach { session, pins: Vec::new(), more: false })).await
    }

    async fn begin(dir: &Path, request: Request) -> anyhow::Result<Self> {
        let config = std::fs::read_to_string(dir.join("client/okapifs.toml"))?;
        let config: toml::Table = config.parse()?;
        let monitors = config["monitors"].as_array().context("no monitors are configured")?;
        let credentials = load_credentials(&dir.join("client"))?;
        for address in monitors.iter().filter_map(|address| address.as_str()) {
            let opened =
                Connection::open(address, &credentials, Role::Monitor, Incarnation(0), TIMEOUT);
            let (connection, _) = opened.await?;
            if let Response::Session(opened) = call(&connection, &request).await? {
                let client = Self { connection, session: opened.session };
                drop(tokio::spawn(client.clone().keep_alive()));
                return Ok(client);
            }
        }
        bail!("no monitor gives a session");
    }

    async fn keep_alive(self) {
        loop {
            tokio::time::sleep(RENEWAL).await;
            let (session, stalled) = (self.session, Vec::new());
            let renew = Renew { session, placement_version: 0, stalled, tickets: false };
            // A connection that is gone shows where changes are sent.
            if call(&self.connection, &Request::Renew(renew)).await.is_err() {
                return;
            }
        }
    }

    /// Sends changes and waits for their answers.
    pub(crate) async fn mutate(
        &self,
        mutations: Vec<Mutation>,
    ) -> anyhow::Result<Vec<Result<Reply, Errno>>> {
        let request = Request::Mutate { session: self.session, mutations };
        match call(&self.connection, &request).await? {
            Response::Mutated(answers, _) => Ok(answers),
            other => bail!("changes were answered with {other:?}"),
        }
    }

    /// Asks one question.
    pub(crate) async fn query(&self, query: Query) -> anyhow::Result<Result<Answer, Errno>> {
        let request = Request::Query { session: self.session, queries: vec![query] };
        match call(&self.connection, &request).await? {
            Response::Answers(answers, _) => answers.into_iter().next().context("no answer"),
            other => bail!("a question was answered with {other:?}"),
        }
    }

    /// Ends the session.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        match call(&self.connection, &Request::CloseSession(self.session)).await? {
            Response::Done => Ok(()),
            other => bail!("the session's end was answered with {other:?}"),
        }
    }
}

/// Calls, again and again while there is no leader.
async fn call(connection: &Connection, request: &Request) -> anyhow::Result<Response> {
    let header = wire::encode(request);
    loop {
        let (answer, _) = connection.call(header.clone(), Vec::new(), TIMEOUT).await?;
        match wire::decode(&answer)? {
            Response::Refused(Refusal::NoLeader) => tokio::time::sleep(PAUSE).await,
            response => return Ok(response),
        }
    }
}
