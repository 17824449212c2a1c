//! A monitor on a node that is a member already: the directory that its agent runs.

use std::net::TcpListener;

use anyhow::{Context, bail};

use super::admin::{Admin, block_on};
use super::agent_link::AgentLink;
use super::cluster_dir::ClusterDir;
use super::config::{AgentFile, ConfigFile, MonitorFile};
use super::place::Place;
use super::{find, init};
use crate::crypto::{Issued, NewKey};
use crate::env::system::credentials;
use crate::wire::trust::{Enroll, Enrolled, monitor_name};

/// Asks the monitors for one more, and makes its directory. Its name, and whether its agent starts it.
pub(super) fn add(dir: &ClusterDir, listen: Option<&str>) -> anyhow::Result<(String, bool)> {
    let listen = match listen {
        Some(listen) => listen.to_owned(),
        None => free_address(dir)?,
    };
    let key = NewKey::generate().context("no key can be made")?;
    let name = wanted_name(dir)?;
    let enroll = Enroll { name, request: key.request()?, replaces: None };
    block_on(async {
        let cluster = find::configured(&dir.client())?;
        let enrolled = Admin::connect(&cluster).await?.enroll(enroll).await?;
        let issued = Issued { cert_pem: enrolled.certificate.clone(), key_pem: key.key_pem() };
        write(dir, &enrolled, &issued, listen)?;
        let agent = AgentLink::connect(dir).await?;
        if let Some(agent) = &agent {
            agent.refresh().await?;
        }
        Ok((enrolled.name, agent.is_some()))
    })
}

/// Makes the directory of a monitor. Its configuration comes last: what is half made is never started.
pub(super) fn write(
    dir: &ClusterDir,
    enrolled: &Enrolled,
    issued: &Issued,
    listen: String,
) -> anyhow::Result<()> {
    let home = dir.of(&enrolled.name);
    if home.exists() {
        bail!("{} is there already: remove it if that monitor is gone", home.display());
    }
    init::make_dir(&home.join("tls"), 0o700)?;
    credentials::save(&home.join("tls"), &enrolled.authority, issued)?;
    let file = MonitorFile {
        id: None,
        listen,
        monitors: enrolled.monitors.clone(),
        agent: Some(AgentFile::load(&dir.agent())?.listen),
        replace_after_s: None,
        removed: false,
        hold_level: None,
        new_cluster: None,
    };
    file.save(&home)
}

/// An address of this node at which nobody listens: the usual one if it is free.
pub(super) fn free_address(dir: &ClusterDir) -> anyhow::Result<String> {
    let agent = AgentFile::load(&dir.agent())?.listen;
    let host = agent.rsplit_once(':').map_or(agent.as_str(), |(host, _)| host);
    let usual = Place::parse(host)?.monitor();
    // A cluster of one machine has its ports where there is room.
    if !dir.exists() && dir.monitors()?.is_empty() && TcpListener::bind(&usual).is_ok() {
        return Ok(usual);
    }
    let free = TcpListener::bind(format!("{host}:0"))
        .with_context(|| format!("there is no free port on {host}"))?;
    Ok(free.local_addr()?.to_string())
}

/// In a directory of `okapifs init` and `okapifs up` they have numbers, elsewhere the name of the node.
fn wanted_name(dir: &ClusterDir) -> anyhow::Result<String> {
    if !dir.exists() {
        return Ok(monitor_name(&find::credentials(&dir.agent())?.identity().name));
    }
    let mut names = (2..).map(|number: u32| monitor_name(&number.to_string()));
    Ok(names.find(|name| !dir.of(name).exists()).expect("numbers do not end"))
}
