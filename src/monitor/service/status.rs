//! How everything is, told so that it can be acted on.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::reign::Reign;
use super::unreadable;
use crate::monitor::namespace::query;
use crate::monitor::namespace::records::{self, MonitorState};
use crate::monitor::raft;
use crate::types::{
    DiskRoom, Health, MonitorId, MonitorRole, Program, ServerId, ServerState, Width,
};
use crate::wire::admin::{
    ClientStatus, MonitorStatus, RiseStatus, ServerStatus, Status, StatusWidth, StripesStatus,
};
use crate::wire::metadata::Refusal;
use crate::wire::servers::Usage;

/// A server is nearly full when less than one part in this many is free.
const NEARLY_FULL_PART: u64 = 20;

/// A monitor that has not answered the leader for this long is suspect ...
const MONITOR_SUSPECT: Duration = Duration::from_secs(1);
/// ... and for this long it is down.
const MONITOR_DOWN: Duration = Duration::from_secs(5);

impl Reign {
    pub(super) async fn status(&self, node: &str) -> Result<Status, Refusal> {
        let servers = self.server_status(node)?;
        let stripes = self.stripes_status().await?;
        let (width, waiting) = self.volumes_status()?;
        let (mut health, mut reasons) = health(width, &servers, stripes);
        if !waiting.is_empty() {
            health = Health::Error;
            reasons.splice(0..0, waiting);
        }
        if self.member.short_of_room.load(Ordering::Relaxed) {
            health = Health::Error;
            let why = "no majority of the monitors has room on its disk: new names and data are refused, deleting works";
            reasons.insert(0, why.to_owned());
        }
        let monitors = self.monitor_status(node)?;
        for MonitorStatus { name, address, room, .. } in &monitors {
            if let Some(advice) = room.advice(&format!("monitor {name}"), address) {
                health = health.max(Health::Warn);
                reasons.push(advice);
            }
        }
        for monitor in monitors.iter().filter(|monitor| monitor.state == ServerState::Down) {
            health = health.max(Health::Warn);
            let name = &monitor.name;
            reasons.push(match monitor.address.as_str() {
                "" => format!(
                    "monitor {name} was never started: start the agent of its node, or give it up (okapifs monitor remove {name})"
                ),
                _ => format!(
                    "monitor {name} does not answer: start it again, or replace it (okapifs monitor replace {name})"
                ),
            });
        }
        Ok(Status {
            cluster: self.member.cluster,
            health,
            reasons,
            width: StatusWidth::from(width),
            level: query::level(&*self.store).map_err(unreadable)?,
            rise: rise(query::programs(&*self.store).map_err(unreadable)?),
            monitors,
            servers,
            clients: self.client_status(node)?,
            stripes,
        })
    }

    /// Width of the root volume, and why writes to volumes wait.
    fn volumes_status(&self) -> Result<(Width, Vec<String>), Refusal> {
        let state = self.state.lock();
        let volumes = state.servers.volumes();
        let width = volumes.first().map(|root| root.width).ok_or(Refusal::NoLeader)?;
        let mut reasons = Vec::new();
        for id in state.servers.volumes_waiting() {
            let found = volumes.iter().find(|volume| volume.id == id);
            let copies = found.map_or(1, |volume| volume.min_copies);
            if let Some(path) = query::path(&*self.store, id.directory()).map_err(unreadable)? {
                reasons.push(waits(&String::from_utf8_lossy(&path), copies));
            }
        }
        Ok((width, reasons))
    }

    fn monitor_status(&self, node: &str) -> Result<Vec<MonitorStatus>, Refusal> {
        let monitors = query::monitors(&*self.store).map_err(unreadable)?;
        let group = self.group();
        let voters = raft::certain_voters(&*self.store).map_err(unreadable)?;
        let here = monitors.into_iter().filter(|(_, record)| record.state != MonitorState::Gone);
        let status = |(id, record): (MonitorId, records::Monitor)| {
            let is_self = id == self.member.id;
            let votes = voters.contains(&id);
            let heard = group.heard.get(&id);
            let applied = if is_self { group.applied } else { heard.map_or(0, |at| at.applied) };
            MonitorStatus {
                id,
                name: record.name,
                pid: (record.profile.node == node).then_some(record.profile.pid),
                program: record.profile.program,
                address: record.profile.address,
                role: match (is_self, votes) {
                    (true, _) => MonitorRole::Leader,
                    (false, true) => MonitorRole::Follower,
                    (false, false) => MonitorRole::Learner,
                },
                state: match heard {
                    _ if is_self => ServerState::Up,
                    Some(heard) if heard.silent < MONITOR_SUSPECT => ServerState::Up,
                    Some(heard) if heard.silent < MONITOR_DOWN => ServerState::Suspect,
                    _ => ServerState::Down,
                },
                applied,
                lag: group.applied.saturating_sub(applied),
                room: if is_self {
                    group.room
                } else {
                    heard.map_or(DiskRoom::Enough, |at| at.room)
                },
            }
        };
        Ok(here.map(status).collect())
    }

    fn server_status(&self, node: &str) -> Result<Vec<ServerStatus>, Refusal> {
        let servers = query::servers(&*self.store).map_err(unreadable)?;
        let state = self.state.lock();
        let status = |(id, record): (ServerId, records::Server)| {
            let Usage { used_bytes, capacity_bytes } = state.servers.usage(id);
            let records::Server { name, info, .. } = record;
            ServerStatus {
                id,
                name,
                address: info.address,
                domain: info.domain,
                state: state.servers.state(id),
                pid: (info.node == node).then_some(info.pid),
                program: info.program,
                dir: info.dir,
                used_bytes,
                capacity_bytes,
                trouble: state.servers.trouble(id),
            }
        };
        Ok(servers.into_iter().map(status).collect())
    }

    fn client_status(&self, node: &str) -> Result<Vec<ClientStatus>, Refusal> {
        let sessions = query::sessions(&*self.store).map_err(unreadable)?;
        Ok(sessions
            .into_iter()
            .map(|(id, record)| ClientStatus {
                id,
                name: record.owner,
                pid: (record.client.node == node).then_some(record.client.pid),
                program: record.client.program,
                host: record.client.host,
                mountpoint: record.client.mountpoint,
            })
            .collect())
    }

    /// Looks at every stripe: where are its shards, and do their servers answer?
    async fn stripes_status(&self) -> Result<StripesStatus, Refusal> {
        let (not_up, lost) = {
            let state = self.state.lock();
            (state.servers.not_up(), state.servers.lost())
        };
        self.in_background(move |store| query::stripes_status(&*store.snapshot(), &not_up, &lost))
            .await
    }
}

/// Why writes to a volume wait, and what helps.
fn waits(path: &str, copies: u8) -> String {
    format!(
        "writes to the volume {path} wait: it wants {copies} copies, and so many failure domains are not up; start servers, or have it take fewer (okapifs volume set PATH --min-copies)"
    )
}

/// Who keeps the cluster's level where it is, if anybody can do more.
fn rise(programs: Vec<(String, Program)>) -> Option<RiseStatus> {
    let to = programs.iter().map(|(_, program)| program.level).max()?;
    let behind = programs.into_iter().filter(|(_, program)| program.level < to);
    let words = |(name, Program { release, level }): (String, Program)| {
        format!("{name} ({release}, goes up to level {level})")
    };
    let waits_for: Vec<String> = behind.map(words).collect();
    (!waits_for.is_empty()).then_some(RiseStatus { to, waits_for })
}

/// The worst of everything, and why.
fn health(width: Width, servers: &[ServerStatus], stripes: StripesStatus) -> (Health, Vec<String>) {
    let mut reasons: Vec<(Health, String)> = Vec::new();
    let mut domains: BTreeMap<&str, bool> = BTreeMap::new();
    for server in servers {
        let up = server.state == ServerState::Up;
        *domains.entry(&server.domain).or_default() |= up && server.trouble.is_none();
        if !up {
            let why = format!(
                "server {} is {}: start it again (its directory is {})",
                server.name,
                if server.state == ServerState::Down { "down" } else { "not answering" },
                server.dir
            );
            reasons.push((Health::Warn, why));
        }
        if up && let Some(trouble) = &server.trouble {
            let why = format!(
                "server {} cannot write to its disk ({}): {trouble}",
                server.name, server.dir
            );
            reasons.push((Health::Warn, why));
        }
        let free = server.capacity_bytes.saturating_sub(server.used_bytes);
        if up && free < server.capacity_bytes / NEARLY_FULL_PART {
            reasons.push((
                Health::Warn,
                format!("server {} is nearly full: add a server", server.name),
            ));
        }
    }
    let up = domains.values().filter(|up| **up).count();
    if up <= usize::from(width.parity) {
        let why = format!(
            "only {up} of {} failure domains are up: new data cannot survive the loss of {} of them",
            domains.len(),
            width.parity
        );
        reasons.push((Health::Error, why));
    }
    if stripes.at_risk > 0 {
        let why = format!(
            "{} of {} stripes are at risk: {} shards are missing or on servers that are not up",
            stripes.at_risk, stripes.total, stripes.missing_shards
        );
        reasons.push((Health::Warn, why));
    }
    reasons.sort_by_key(|(health, _)| std::cmp::Reverse(*health));
    let worst = reasons.first().map_or(Health::Ok, |(health, _)| *health);
    (worst, reasons.into_iter().map(|(_, why)| why).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str, state: ServerState) -> ServerStatus {
        ServerStatus {
            id: ServerId(1),
            name: name.to_owned(),
            address: "127.0.0.1:1".to_owned(),
            domain: name.to_owned(),
            state,
            pid: None,
            program: Program::this(),
            dir: format!("/{name}"),
            used_bytes: 10,
            capacity_bytes: 100,
            trouble: None,
        }
    }

    const WIDTH: Width = Width { data: 2, parity: 1 };

    #[test]
    fn all_up_and_nothing_missing_is_ok() {
        let servers = ["a", "b", "c"].map(|name| server(name, ServerState::Up));
        assert_eq!(health(WIDTH, &servers, StripesStatus::default()), (Health::Ok, vec![]));
    }

    #[test]
    fn the_level_waits_for_those_who_cannot_do_what_somebody_can() {
        let runs =
            |name: &str, level| (name.to_owned(), Program { release: "0.3.0".to_owned(), level });
        assert_eq!(rise(vec![runs("a", 2), runs("b", 2)]), None);
        let waits_for = vec!["b (0.3.0, goes up to level 1)".to_owned()];
        assert_eq!(rise(vec![runs("a", 2), runs("b", 1)]), Some(RiseStatus { to: 2, waits_for }));
    }

    #[test]
    fn the_worst_reason_comes_first() {
        let mut servers = ["a", "b", "c"].map(|name| server(name, ServerState::Down));
        servers[0].state = ServerState::Up;
        let stripes = StripesStatus { total: 9, at_risk: 9, missing_shards: 18 };
        let (worst, reasons) = health(WIDTH, &servers, stripes);
        assert_eq!(worst, Health::Error);
        assert!(reasons[0].starts_with("only 1 of 3 failure domains are up"), "{reasons:?}");
        assert_eq!(reasons.len(), 4);
    }

    #[test]
    fn a_server_whose_disk_takes_no_writes_is_said_and_counts_as_none_for_new_data() {
        let mut servers = ["a", "b"].map(|name| server(name, ServerState::Up));
        servers[0].trouble = Some("Input/output error".to_owned());
        let (worst, reasons) = health(WIDTH, &servers, StripesStatus::default());
        assert_eq!((worst, reasons.len()), (Health::Error, 2));
        assert!(reasons[1].starts_with("server a cannot write to its disk (/a): "), "{reasons:?}");
    }

    #[test]
    fn a_nearly_full_server_is_said() {
        let mut one = server("a", ServerState::Up);
        one.used_bytes = 96;
        let servers = [one, server("b", ServerState::Up), server("c", ServerState::Up)];
        let (worst, reasons) = health(WIDTH, &servers, StripesStatus::default());
        assert_eq!((worst, reasons.len()), (Health::Warn, 1));
    }
}
