//! `okapifs status`: how everything is.

use std::path::PathBuf;
use std::process::ExitCode;

use super::admin::{self, Admin};
use super::agent_link::AgentLink;
use super::cluster_dir::ClusterDir;
use super::{find, say};
use crate::types::{Health, MonitorRole, Program, ServerState};
use crate::wire::admin::Status;
use crate::wire::agent::{UnitState, UnitStatus};

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
    let (status, units) = admin::block_on(async {
        let status = Admin::connect(&cluster).await?.status().await?;
        Ok((status, units(&cluster).await))
    })?;
    if arguments.json {
        let mut json = serde_json::to_value(&status)?;
        json["units"] = units.iter().map(unit_json).collect();
        say::line(serde_json::to_string_pretty(&json)?);
    } else {
        show(&status);
        show_units(&units);
    }
    Ok(ExitCode::SUCCESS)
}

/// What this machine's agent runs, when the cluster was named by the agent's directory (or by a mount of it).
/// Without an agent there is nothing to tell.
async fn units(cluster: &find::Cluster) -> Vec<UnitStatus> {
    let Some(root) = cluster.config_dir.parent() else { return Vec::new() };
    let asked = async {
        match AgentLink::connect(&ClusterDir::new(root)?).await? {
            Some(agent) => agent.status().await,
            None => Ok(Vec::new()),
        }
    };
    asked.await.unwrap_or_else(|error| {
        say::note(format_args!("{error:#}"));
        Vec::new()
    })
}

fn unit_json(unit: &UnitStatus) -> serde_json::Value {
    serde_json::json!({
        "name": unit.name,
        "state": unit_state(unit.state),
        "start": unit.start,
        "pid": unit.pid,
        "failures": unit.failures,
        "trouble": unit.trouble,
    })
}

fn show_units(units: &[UnitStatus]) {
    if units.is_empty() {
        return;
    }
    let mut rows = vec![row(["UNIT OF THIS NODE", "STATE", "START", "PID", "TROUBLE"])];
    rows.extend(units.iter().map(|unit| {
        let trouble = match unit.failures {
            0 => unit.trouble.clone(),
            failures => format!("failures in 10 minutes: {failures}; {}", unit.trouble),
        };
        let state = unit_state(unit.state).to_owned();
        vec![unit.name.clone(), state, unit.start.to_string(), pid(unit.pid), trouble]
    }));
    say::line("");
    say::table(&rows);
}

fn unit_state(state: UnitState) -> &'static str {
    match state {
        UnitState::Due => "due",
        UnitState::Starting => "starting",
        UnitState::Up => "up",
        UnitState::Killed => "killed",
        UnitState::Ended => "ended",
        UnitState::Retired => "removed",
    }
}

fn show(status: &Status) {
    let health = match status.health {
        Health::Ok => "ok",
        Health::Warn => "warn",
        Health::Error => "ERROR",
    };
    say::line(format_args!("cluster {}  health {health}  level {}", status.cluster, status.level));
    for reason in &status.reasons {
        say::line(format_args!("  {reason}"));
    }
    if let Some(rise) = &status.rise {
        let waits_for = rise.waits_for.join(", ");
        say::line(format_args!("  level {} waits for an upgrade of: {waits_for}", rise.to));
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
        vec![row(["MONITOR", "NAME", "ADDRESS", "ROLE", "STATE", "APPLIED", "LAG", "PID", "RUNS"])];
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
            runs(&monitor.program),
        ]
    }));
    rows
}

fn servers(status: &Status) -> Vec<Vec<String>> {
    let mut rows = vec![row([
        "SERVER", "NAME", "ADDRESS", "DOMAIN", "STATE", "USED", "CAPACITY", "PID", "RUNS",
    ])];
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
            runs(&server.program),
        ]
    }));
    rows
}

fn clients(status: &Status) -> Vec<Vec<String>> {
    let mut rows = vec![row(["MOUNT", "CLIENT", "HOST", "AT", "PID", "RUNS"])];
    rows.extend(status.clients.iter().map(|client| {
        vec![
            client.id.to_string(),
            client.name.clone(),
            client.host.clone(),
            client.mountpoint.clone(),
            pid(client.pid),
            runs(&client.program),
        ]
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

/// Nothing of a monitor that was never started.
fn runs(program: &Program) -> String {
    match program.release.as_str() {
        "" => "-".to_owned(),
        release => format!("{release} (level {})", program.level),
    }
}

fn pid(pid: Option<u32>) -> String {
    pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string())
}
