//! `okapifs status`: how everything is.

use std::path::PathBuf;
use std::process::ExitCode;

use super::admin::{self, Admin};
use super::{find, say};
use crate::types::{Health, MonitorRole, ServerState};
use crate::wire::admin::Status;

/// Show how the cluster is: health and its reasons, monitors, servers, mounts, stripes.
///
/// Ends with 0 when the cluster answers, however it is; scripts read `health` of the JSON.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// A path inside a mount: its cluster.
    path: Option<PathBuf>,

    /// Print JSON (described in docs/operations.md).
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, cluster: Option<&str>) -> anyhow::Result<ExitCode> {
    let cluster = match &arguments.path {
        Some(path) => find::cluster_of(path, cluster)?,
        None => find::cluster(cluster)?,
    };
    let status = admin::block_on(async { Admin::connect(&cluster).await?.status().await })?;
    if arguments.json {
        say::line(serde_json::to_string_pretty(&status)?);
    } else {
        show(&status);
    }
    Ok(ExitCode::SUCCESS)
}

fn show(status: &Status) {
    let health = match status.health {
        Health::Ok => "ok",
        Health::Warn => "warn",
        Health::Error => "ERROR",
    };
    say::line(format_args!("cluster {}  health {health}", status.cluster));
    for reason in &status.reasons {
        say::line(format_args!("  {reason}"));
    }
    let stripes = &status.stripes;
    say::line(format_args!(
        "stripes {}+{}: {} in all, {} at risk, {} shards missing",
        status.width.data,
        status.width.parity,
        stripes.total,
        stripes.at_risk,
        stripes.missing_shards
    ));
    say::line("");
    say::table(&monitors(status));
    say::line("");
    say::table(&servers(status));
    if shares_a_host(status) {
        say::line("(each counts as a failure domain of its own; some of them are on one machine)");
    }
    if !status.clients.is_empty() {
        say::line("");
        say::table(&clients(status));
    }
}

/// Whether servers of different domains run on this very machine, so that one power cut takes both.
fn shares_a_host(status: &Status) -> bool {
    let mut local: Vec<&str> = status
        .servers
        .iter()
        .filter(|server| server.pid.is_some())
        .map(|server| server.domain.as_str())
        .collect();
    local.sort_unstable();
    local.dedup();
    local.len() > 1
}

pub(super) fn monitors(status: &Status) -> Vec<Vec<String>> {
    let mut rows =
        vec![row(["MONITOR", "NAME", "ADDRESS", "ROLE", "STATE", "APPLIED", "LAG", "PID"])];
    rows.extend(status.monitors.iter().map(|monitor| {
        let role = match monitor.role {
            MonitorRole::Leader => "leader",
            MonitorRole::Follower => "follower",
            MonitorRole::Learner => "learner",
        };
        vec![
            monitor.id.to_string(),
            monitor.name.clone(),
            monitor.address.clone(),
            role.to_owned(),
            state(monitor.state).to_owned(),
            monitor.applied.to_string(),
            monitor.lag.to_string(),
            pid(monitor.pid),
        ]
    }));
    rows
}

fn servers(status: &Status) -> Vec<Vec<String>> {
    let mut rows =
        vec![row(["SERVER", "NAME", "ADDRESS", "DOMAIN", "STATE", "USED", "CAPACITY", "PID"])];
    rows.extend(status.servers.iter().map(|server| {
        vec![
            server.id.to_string(),
            server.name.clone(),
            server.address.clone(),
            server.domain.clone(),
            state(server.state).to_owned(),
            say::bytes(server.used_bytes),
            say::bytes(server.capacity_bytes),
            pid(server.pid),
        ]
    }));
    rows
}

fn clients(status: &Status) -> Vec<Vec<String>> {
    let mut rows = vec![row(["MOUNT", "HOST", "AT", "PID"])];
    rows.extend(status.clients.iter().map(|client| {
        vec![client.id.to_string(), client.host.clone(), client.mountpoint.clone(), pid(client.pid)]
    }));
    rows
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn state(state: ServerState) -> &'static str {
    match state {
        ServerState::Up => "up",
        ServerState::Suspect => "suspect",
        ServerState::Down => "DOWN",
    }
}

fn pid(pid: Option<u32>) -> String {
    pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string())
}
