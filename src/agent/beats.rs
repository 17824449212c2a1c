//! What an agent tells the monitors, and what it is told.
//!
//! Every few seconds it says that its node is there, and whether the node would run a monitor. The answer names all
//! monitors, and the node's files are kept up to date with that: so a server that starts when the monitor it once
//! joined through is long gone finds the others. And when a monitor is lost for good, the answer to one agent is to
//! make another. Then it makes a key, which never leaves the node, asks for the certificate, and has the new monitor
//! started; should anything of that fail, the monitors will choose again.

use std::time::Duration;

use super::supervisor::Handle;
use crate::crypto::{AuthorityError, Credentials, Issued, NewKey};
use crate::env::system::monitors::{AskError, MonitorLinks};
use crate::types::{Incarnation, MonitorId};
use crate::wire::metadata::{AgentBeat, AgentBeaten, Refusal, Request, Response};
use crate::wire::trust::{Enroll, Enrolled, monitor_name};

/// How long between two beats.
const PAUSE: Duration = Duration::from_secs(5);
/// How long a monitor may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long it is tried to find a monitor that leads.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node's directory, as far as the cluster changes it.
pub trait Site: Send + Sync + 'static {
    /// Whether the node has no monitor and would run one.
    fn is_spare(&self) -> bool;

    /// There are these monitors (`host:port`).
    ///
    /// # Errors
    ///
    /// A sentence, when that cannot be written down.
    fn learn_monitors(&self, monitors: &[String]) -> Result<(), String>;

    /// Makes the directory of a monitor, with its certificate and key.
    ///
    /// # Errors
    ///
    /// A sentence, when it cannot be written.
    fn add_monitor(&self, enrolled: &Enrolled, issued: &Issued) -> Result<(), String>;
}

/// Why no monitor was made.
#[derive(Debug, thiserror::Error)]
enum MakeError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error(transparent)]
    Key(#[from] AuthorityError),
    #[error("the monitors refused it: {0}")]
    Refused(Refusal),
    #[error("the monitors' answer does not belong to the question: {0:?}")]
    Unexpected(Box<Response>),
    #[error("{0}")]
    Directory(String),
}

/// Beats for as long as it is polled.
pub(super) async fn run(
    site: Box<dyn Site>,
    handle: Handle,
    credentials: Credentials,
    monitors: &[String],
) {
    let name = credentials.identity().name.clone();
    // What monitors say unasked is for mounts.
    let (links, _notices) = MonitorLinks::start(monitors, credentials, Incarnation(0));
    loop {
        match beat(&links, &*site).await {
            Ok(Some(lost)) => match make_monitor(&links, &*site, &name, lost).await {
                Ok(made) => {
                    log::info!("{made} was made, as the monitors asked: it replaces {lost}");
                    // An agent that is ending starts it when it is back.
                    handle.refresh().await;
                }
                Err(why) => log::error!("no monitor was made in the place of {lost}: {why}"),
            },
            Ok(None) => {}
            Err(why) => log::debug!("the monitors did not hear of this agent: {why}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Says that the node is there. Gives the monitor that it is to replace, if there is one.
async fn beat(links: &MonitorLinks, site: &dyn Site) -> Result<Option<MonitorId>, MakeError> {
    let request = Request::AgentBeat(AgentBeat { is_spare: site.is_spare() });
    let AgentBeaten { monitors, replace } = match links.ask(&request, ANSWER, PATIENCE).await? {
        Response::AgentBeaten(beaten) => beaten,
        other => return Err(unexpected(other)),
    };
    links.learn(&monitors);
    if let Err(why) = site.learn_monitors(&monitors) {
        log::warn!("the addresses of the monitors are not kept: {why}");
    }
    Ok(replace)
}

async fn make_monitor(
    links: &MonitorLinks,
    site: &dyn Site,
    node: &str,
    lost: MonitorId,
) -> Result<String, MakeError> {
    let key = NewKey::generate()?;
    let enroll = Enroll { name: monitor_name(node), request: key.request()?, replaces: Some(lost) };
    let enrolled = match links.ask(&Request::Enroll(enroll), ANSWER, PATIENCE).await? {
        Response::Enrolled(enrolled) => enrolled,
        other => return Err(unexpected(other)),
    };
    let issued = Issued { cert_pem: enrolled.certificate.clone(), key_pem: key.key_pem() };
    site.add_monitor(&enrolled, &issued).map_err(MakeError::Directory)?;
    Ok(enrolled.name)
}

fn unexpected(answer: Response) -> MakeError {
    match answer {
        Response::Refused(refusal) => MakeError::Refused(refusal),
        other => MakeError::Unexpected(Box::new(other)),
    }
}
