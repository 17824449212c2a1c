//! How the storage servers are doing.
//!
//! The replicated state knows which servers there are and their epochs; whether they answer, how full they
//! are and which shards they miss changes all the time, and only the leader keeps it, in memory. Servers beat
//! every second: silent for [`SUSPECT`] a server gets no new data, silent for [`DOWN`] it is down. A closed
//! connection makes it suspect at once. A leader that has just started takes everybody for up until it knows
//! better, so that its start narrows nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::types::{
    Epoch, PlacementMap, ServerEntry, ServerId, ServerState, VolumeEntry, VolumeId,
};
use crate::wire::servers::Usage;
use crate::wire::shards::ShardId;

/// A server silent for this long gets no new data.
pub(super) const SUSPECT: Duration = Duration::from_secs(5);
/// A server silent for this long is down.
pub(super) const DOWN: Duration = Duration::from_secs(15);
/// Changes that a reign may make to the map: a thousand each second for 49 days.
const TERM_SHIFT: u32 = 32;

/// The servers of the cluster as the leader sees them. Times are the leader's monotonic clock.
#[derive(Debug)]
pub(super) struct Servers {
    volumes: Vec<VolumeEntry>,
    version: u64,
    servers: BTreeMap<ServerId, Server>,
}

#[derive(Debug)]
struct Server {
    address: String,
    domain: String,
    epoch: Epoch,
    usage: Usage,
    beat: Duration,
    state: ServerState,
    /// Whether it has yet to say what it has since it registered, or since this leader started.
    unlisted: bool,
    missing: BTreeSet<ShardId>,
    /// What its disk says, if it does not take writes.
    trouble: Option<String>,
}

impl Servers {
    /// No server yet, and these volumes, by id.
    ///
    /// The versions begin with the `term` of this reign, so that none returns: a client that knows a version
    /// from the leader before would take another map for the one it has.
    pub(super) fn new(volumes: Vec<VolumeEntry>, term: u64) -> Self {
        Self { volumes, version: term << TERM_SHIFT, servers: BTreeMap::new() }
    }

    /// These are the volumes now, by id.
    pub(super) fn set_volumes(&mut self, volumes: Vec<VolumeEntry>) {
        if volumes != self.volumes {
            self.volumes = volumes;
            self.version += 1;
        }
    }

    /// A server registered, or is known from the replicated state. (Of two registrations that crossed the
    /// younger counts.)
    pub(super) fn known(
        &mut self,
        id: ServerId,
        epoch: Epoch,
        address: String,
        domain: String,
        usage: Usage,
        now: Duration,
    ) {
        if self.servers.get(&id).is_some_and(|server| server.epoch > epoch) {
            return;
        }
        let server = Server {
            address,
            domain,
            epoch,
            usage,
            beat: now,
            state: ServerState::Up,
            unlisted: true,
            missing: BTreeSet::new(),
            trouble: None,
        };
        self.servers.insert(id, server);
        self.version += 1;
    }

    /// A beat arrived. `None` when no server has that id at that epoch; else whether it is to list its
    /// shards.
    pub(super) fn beat(
        &mut self,
        id: ServerId,
        epoch: Epoch,
        usage: Usage,
        lost: &[ShardId],
        now: Duration,
    ) -> Option<bool> {
        let server = self.servers.get_mut(&id).filter(|server| server.epoch == epoch)?;
        server.beat = now;
        server.usage = usage;
        server.missing.extend(lost);
        if server.state != ServerState::Up {
            server.state = ServerState::Up;
            self.version += 1;
        }
        Some(server.unlisted)
    }

    /// What is wrong with a server's disk now, as its beat says. (Its state stays as it is: it can be read.
    /// Clients find out by themselves that it takes nothing, and when it does again.)
    pub(super) fn troubled(&mut self, id: ServerId, trouble: Option<String>) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        if server.trouble.is_none()
            && let Some(why) = &trouble
        {
            log::error!("server {id} cannot write to its disk: {why}");
        }
        server.trouble = trouble;
    }

    /// What is wrong with a server's disk.
    pub(super) fn trouble(&self, id: ServerId) -> Option<String> {
        self.servers.get(&id)?.trouble.clone()
    }

    /// A portion of what a server has was compared with what it should have: `missing` are the shards in
    /// `from..to` (to the end, without `to`) that should be there and are not. A list from before it
    /// registered again says nothing.
    pub(super) fn listed(
        &mut self,
        id: ServerId,
        epoch: Epoch,
        from: ShardId,
        to: Option<ShardId>,
        missing: impl IntoIterator<Item = ShardId>,
    ) {
        let known = self.servers.get_mut(&id).filter(|server| server.epoch == epoch);
        let Some(server) = known else { return };
        server.missing.retain(|shard| *shard < from || to.is_some_and(|to| *shard >= to));
        server.missing.extend(missing);
        server.unlisted &= to.is_some();
    }

    /// The connection of a server is gone.
    pub(super) fn disconnected(&mut self, id: ServerId, epoch: Epoch) {
        if let Some(server) = self.servers.get_mut(&id)
            && server.epoch == epoch
            && server.state == ServerState::Up
        {
            server.state = ServerState::Suspect;
            self.version += 1;
        }
    }

    /// This process stood still for a while, and could hear nobody: that is held against nobody.
    pub(super) fn excuse(&mut self, pause: Duration) {
        for server in self.servers.values_mut() {
            server.beat += pause;
        }
    }

    /// Time passes.
    pub(super) fn tick(&mut self, now: Duration) {
        for server in self.servers.values_mut() {
            let silent = now.saturating_sub(server.beat);
            let state = match server.state {
                _ if silent > DOWN => ServerState::Down,
                ServerState::Up if silent > SUSPECT => ServerState::Suspect,
                state => state,
            };
            if state != server.state {
                server.state = state;
                self.version += 1;
            }
        }
    }

    /// Where new data may go.
    pub(super) fn placement(&self) -> PlacementMap {
        let entry = |(id, server): (&ServerId, &Server)| ServerEntry {
            id: *id,
            epoch: server.epoch,
            address: server.address.clone(),
            domain: server.domain.clone(),
            state: server.state,
            free_bytes: server.usage.capacity_bytes.saturating_sub(server.usage.used_bytes),
        };
        PlacementMap {
            version: self.version,
            volumes: self.volumes.clone(),
            servers: self.servers.iter().map(entry).collect(),
        }
    }

    /// Version of [`Self::placement`].
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// All volumes, by id.
    pub(super) fn volumes(&self) -> &[VolumeEntry] {
        &self.volumes
    }

    /// How a server is doing; one that nobody knows is down.
    pub(super) fn state(&self, id: ServerId) -> ServerState {
        self.servers.get(&id).map_or(ServerState::Down, |server| server.state)
    }

    /// How full a server is.
    pub(super) fn usage(&self, id: ServerId) -> Usage {
        self.servers.get(&id).map(|server| server.usage).unwrap_or_default()
    }

    /// Servers that are not up.
    pub(super) fn not_up(&self) -> BTreeSet<ServerId> {
        let not_up = self.servers.iter().filter(|(_, server)| server.state != ServerState::Up);
        not_up.map(|(id, _)| *id).collect()
    }

    /// Shards that are not where they should be.
    pub(super) fn lost(&self) -> BTreeSet<ShardId> {
        self.servers.values().flat_map(|server| &server.missing).copied().collect()
    }

    /// Whether too few servers are up for some volume to be written to: clients wait for them.
    pub(super) fn wanting(&self) -> bool {
        self.volumes_waiting().next().is_some()
    }

    /// Volumes for which too few servers are up.
    pub(super) fn volumes_waiting(&self) -> impl Iterator<Item = VolumeId> {
        let up = self.domains_up();
        self.volumes.iter().filter(move |volume| !volume.takes_writes(up)).map(|volume| volume.id)
    }

    fn domains_up(&self) -> usize {
        let up: BTreeSet<&str> = self
            .servers
            .values()
            .filter(|server| server.state == ServerState::Up)
            .map(|server| server.domain.as_str())
            .collect();
        up.len()
    }

    /// How full each server is.
    pub(super) fn usages(&self) -> impl Iterator<Item = Usage> {
        self.servers.values().map(|server| server.usage)
    }

    /// Raw bytes that all servers together can still take.
    pub(super) fn raw_free(&self) -> u64 {
        self.usages().map(|usage| usage.capacity_bytes.saturating_sub(usage.used_bytes)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ShardIndex, StripeId, VolumePolicy, Width};

    const ONE: ServerId = ServerId(1);
    const EPOCH: Epoch = Epoch(1);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn shard(stripe: u64) -> ShardId {
        ShardId { stripe: StripeId(stripe), index: ShardIndex(0) }
    }

    fn volumes() -> Vec<VolumeEntry> {
        let policy = VolumePolicy::of_width(Width { data: 2, parity: 1 });
        vec![VolumeEntry::new(VolumeId::ROOT, &policy)]
    }

    fn one_server() -> Servers {
        let mut servers = Servers::new(volumes(), 1);
        servers.known(ONE, EPOCH, "a:1".into(), "a".into(), Usage::default(), at(0));
        servers
    }

    #[test]
    fn silence_makes_suspect_then_down_and_a_beat_brings_it_back() {
        let mut servers = one_server();
        servers.tick(at(5));
        assert_eq!(servers.state(ONE), ServerState::Up);
        let before = servers.version();
        servers.tick(at(6));
        assert_eq!(servers.state(ONE), ServerState::Suspect);
        assert!(servers.version() > before);
        servers.tick(at(16));
        assert_eq!(servers.state(ONE), ServerState::Down);
        assert_eq!(servers.beat(ONE, EPOCH, Usage::default(), &[], at(17)), Some(true));
        assert_eq!(servers.state(ONE), ServerState::Up);
        assert_eq!(servers.beat(ONE, Epoch(2), Usage::default(), &[], at(17)), None);
    }

    #[test]
    fn a_closed_connection_makes_suspect_at_once_unless_it_is_an_old_one() {
        let mut servers = one_server();
        servers.disconnected(ONE, Epoch(0));
        assert_eq!(servers.state(ONE), ServerState::Up);
        servers.disconnected(ONE, EPOCH);
        assert_eq!(servers.state(ONE), ServerState::Suspect);
        servers.tick(at(1));
        assert_eq!(servers.state(ONE), ServerState::Suspect, "only a beat brings it back");
    }

    #[test]
    fn a_listing_replaces_what_was_missing_in_its_range() {
        let mut servers = one_server();
        servers.beat(ONE, EPOCH, Usage::default(), &[shard(5), shard(50)], at(1));
        assert_eq!(servers.lost(), BTreeSet::from([shard(5), shard(50)]));
        servers.listed(ONE, EPOCH, shard(0), Some(shard(10)), [shard(7)]);
        assert_eq!(servers.lost(), BTreeSet::from([shard(7), shard(50)]));
        assert_eq!(servers.beat(ONE, EPOCH, Usage::default(), &[], at(1)), Some(true));
        servers.listed(ONE, EPOCH, shard(10), None, []);
        assert_eq!(servers.lost(), BTreeSet::from([shard(7)]));
        assert_eq!(servers.beat(ONE, EPOCH, Usage::default(), &[], at(1)), Some(false));
    }

    #[test]
    fn a_list_from_before_a_registration_says_nothing() {
        let mut servers = one_server();
        servers.known(ONE, Epoch(2), "a:1".into(), "a".into(), Usage::default(), at(1));
        servers.known(ONE, EPOCH, "a:1".into(), "a".into(), Usage::default(), at(1));
        servers.listed(ONE, EPOCH, shard(0), None, [shard(7)]);
        assert_eq!(servers.lost(), BTreeSet::new());
        assert_eq!(servers.beat(ONE, Epoch(2), Usage::default(), &[], at(1)), Some(true));
    }

    #[test]
    fn no_version_of_the_map_returns_with_the_next_leader() {
        let mut before = Servers::new(volumes(), 7);
        for epoch in 1..=20 {
            before.known(ONE, Epoch(epoch), "a:1".into(), "a".into(), Usage::default(), at(0));
        }
        assert!(Servers::new(volumes(), 8).version() > before.version());
    }
}
