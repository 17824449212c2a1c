//! Getting one stripe onto its servers, though some fail or hang.
//!
//! All shards are sent at once. The stripe is placed when every one is durable, never before.
//!
//! ```text
//!                 finished                     all finished
//!   sent ─────────────────────────▶ durable ──────────────────▶ Placed
//!    │ failed, or late while k' of them have finished
//!    ▼
//!   stalled ──▶ a spare domain? ── yes ──▶ sent there (the first answer of the two counts)
//!                   │ no
//!                   ▼
//!                 room to be narrower? ── yes ──▶ Narrow: encode again, under a new id
//!                   │ no
//!                   ▼
//!                 wait on (a late one may yet finish); when it has failed: Narrow, which then waits
//! ```
//!
//! Late means unanswered after max(250 ms, 4 × the median of the stripe's finished shards). As long as fewer
//! than k' have finished, everything is slow: the disks are busy, and nothing is late.

use std::time::Duration;

use super::latency::median;
use crate::types::{Epoch, ServerId};

const LATE_MIN: Duration = Duration::from_millis(250);
const LATE_FACTOR: u32 = 4;

/// What happened.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// A server has the shard.
    Finished(usize, ServerId, Epoch),
    /// A server has not, and will not.
    Failed(usize, ServerId),
    /// Time has passed.
    Tick,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Send the shard with that index there.
    Put(usize, ServerId),
    /// Leave that server alone for a while.
    Avoid(ServerId),
    /// Give this stripe up and encode its payload again.
    Narrow,
    /// Every shard is durable: by index, where, and at which epoch.
    Placed(Vec<(ServerId, Epoch)>),
}

/// What the machine asks about the cluster.
pub(crate) trait Cluster {
    /// A server for one more shard, beside `kept` and not one of `tried`.
    fn spare(&self, kept: &[ServerId], tried: &[ServerId]) -> Option<ServerId>;
    /// Whether a stripe can be placed without `tried`.
    fn can_narrow(&self, tried: &[ServerId]) -> bool;
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Placing {
    data: usize,
    shards: Vec<Shard>,
    took: Vec<Duration>,
    over: bool,
}

#[derive(Debug)]
struct Shard {
    tries: Vec<Try>,
    durable: Option<(ServerId, Epoch)>,
}

#[derive(Clone, Copy, Debug)]
struct Try {
    server: ServerId,
    since: Duration,
    state: TryState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum TryState {
    Sent,
    Late,
    Failed,
}

impl Placing {
    /// All shards have just been sent to `servers`; `data` of them carry data.
    pub(crate) fn new(data: usize, servers: &[ServerId], now: Duration) -> Self {
        let sent = |&server: &ServerId| Try { server, since: now, state: TryState::Sent };
        let shard = |server| Shard { tries: vec![sent(server)], durable: None };
        Self { data, shards: servers.iter().map(shard).collect(), took: Vec::new(), over: false }
    }

    /// Takes in an event; what to do now. After `Narrow` or `Placed` there is nothing more to do.
    pub(crate) fn on(&mut self, event: Event, now: Duration, cluster: &impl Cluster) -> Vec<Step> {
        if self.over {
            return Vec::new();
        }
        let mut steps = Vec::new();
        match event {
            Event::Finished(index, server, epoch) => self.finished(index, server, epoch, now),
            Event::Failed(index, server) => {
                self.mark(index, server, TryState::Failed);
                steps.push(Step::Avoid(server));
            }
            Event::Tick => {}
        }
        if let Some(placed) = self.placed() {
            self.over = true;
            return vec![Step::Placed(placed)];
        }
        for index in 0..self.shards.len() {
            self.look_after(index, now, cluster, &mut steps);
        }
        steps
    }

    /// When a shard becomes late if nothing happens before.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let late_after = self.late_after()?;
        let open = self.shards.iter().filter(|shard| shard.durable.is_none());
        let sent =
            open.flat_map(|shard| &shard.tries).filter(|a_try| a_try.state == TryState::Sent);
        sent.map(|a_try| a_try.since + late_after).min()
    }

    /// Shards that are not durable yet, and the servers they wait for.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (usize, ServerId)> {
        let open = self.shards.iter().enumerate().filter(|(_, shard)| shard.durable.is_none());
        open.flat_map(|(index, shard)| {
            let live = shard.tries.iter().filter(|a_try| a_try.state != TryState::Failed);
            live.map(move |a_try| (index, a_try.server))
        })
    }

    fn look_after(
        &mut self,
        index: usize,
        now: Duration,
        cluster: &impl Cluster,
        steps: &mut Vec<Step>,
    ) {
        if self.over || self.shards[index].durable.is_some() {
            return;
        }
        let late = self.late_tries(index, now);
        let waits = self.shards[index].tries.iter().any(|a_try| a_try.state == TryState::Sent);
        if waits && late.is_empty() {
            return;
        }
        let tried: Vec<ServerId> =
            self.shards[index].tries.iter().map(|a_try| a_try.server).collect();
        if let Some(spare) = cluster.spare(&self.kept(index), &tried) {
            for server in late {
                self.mark(index, server, TryState::Late);
                steps.push(Step::Avoid(server));
            }
            let sent = Try { server: spare, since: now, state: TryState::Sent };
            self.shards[index].tries.push(sent);
            steps.push(Step::Put(index, spare));
        } else if self.all_failed(index) || cluster.can_narrow(&tried) {
            steps.extend(late.into_iter().map(Step::Avoid));
            steps.push(Step::Narrow);
            self.over = true;
        }
    }

    fn finished(&mut self, index: usize, server: ServerId, epoch: Epoch, now: Duration) {
        let Some(shard) = self.shards.get_mut(index) else {
            return;
        };
        let Some(a_try) = shard.tries.iter().find(|a_try| a_try.server == server) else {
            return;
        };
        self.took.push(now.saturating_sub(a_try.since));
        shard.durable.get_or_insert((server, epoch));
    }

    fn mark(&mut self, index: usize, server: ServerId, state: TryState) {
        let tries = self.shards.get_mut(index).map(|shard| shard.tries.iter_mut());
        if let Some(a_try) = tries.into_iter().flatten().find(|a_try| a_try.server == server) {
            a_try.state = state;
        }
    }

    fn placed(&self) -> Option<Vec<(ServerId, Epoch)>> {
        self.shards.iter().map(|shard| shard.durable).collect()
    }

    fn all_failed(&self, index: usize) -> bool {
        self.shards[index].tries.iter().all(|a_try| a_try.state == TryState::Failed)
    }

    fn late_after(&self) -> Option<Duration> {
        let durable = self.shards.iter().filter(|shard| shard.durable.is_some()).count();
        (durable >= self.data).then(|| LATE_MIN.max(median(&self.took) * LATE_FACTOR))
    }

    fn late_tries(&self, index: usize, now: Duration) -> Vec<ServerId> {
        let Some(late_after) = self.late_after() else {
            return Vec::new();
        };
        let tries = self.shards[index].tries.iter();
        let late =
            tries.filter(|a_try| a_try.state == TryState::Sent && now >= a_try.since + late_after);
        late.map(|a_try| a_try.server).collect()
    }

    /// Where the other shards are, or may yet be.
    fn kept(&self, except: usize) -> Vec<ServerId> {
        let others = self.shards.iter().enumerate().filter(|(index, _)| *index != except);
        others
            .flat_map(|(_, shard)| match shard.durable {
                Some((server, _)) => vec![server],
                None => shard.tries.iter().map(|a_try| a_try.server).collect(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Duration = Duration::from_secs(100);

    struct Fake {
        servers: Vec<u64>,
        narrow: bool,
    }

    impl Cluster for Fake {
        fn spare(&self, kept: &[ServerId], tried: &[ServerId]) -> Option<ServerId> {
            let free =
                |id: &&u64| !kept.contains(&ServerId(**id)) && !tried.contains(&ServerId(**id));
            self.servers.iter().find(free).map(|id| ServerId(*id))
        }
        fn can_narrow(&self, _tried: &[ServerId]) -> bool {
            self.narrow
        }
    }

    fn three() -> Placing {
        Placing::new(2, &[ServerId(1), ServerId(2), ServerId(3)], T0)
    }

    fn ms(milliseconds: u64) -> Duration {
        T0 + Duration::from_millis(milliseconds)
    }

    fn ok(index: usize, server: u64) -> Event {
        Event::Finished(index, ServerId(server), Epoch(7))
    }

    #[test]
    fn a_stripe_is_placed_only_when_every_shard_is_durable() {
        let (mut placing, cluster) = (three(), Fake { servers: vec![1, 2, 3], narrow: true });
        assert_eq!(placing.on(ok(0, 1), ms(10), &cluster), []);
        assert_eq!(placing.on(ok(2, 3), ms(11), &cluster), []);
        let places = [1, 2, 3].map(|id| (ServerId(id), Epoch(7))).to_vec();
        assert_eq!(placing.on(ok(1, 2), ms(12), &cluster), [Step::Placed(places)]);
    }

    #[test]
    fn a_hung_server_is_replaced_by_a_spare() {
        let (mut placing, cluster) = (three(), Fake { servers: vec![1, 2, 3, 4], narrow: true });
        placing.on(ok(0, 1), ms(10), &cluster);
        assert_eq!(placing.deadline(), None, "too few have finished to call anybody late");
        placing.on(ok(1, 2), ms(11), &cluster);
        assert_eq!(placing.deadline(), Some(ms(250)));
        assert_eq!(placing.on(Event::Tick, ms(249), &cluster), []);
        let steps = placing.on(Event::Tick, ms(250), &cluster);
        assert_eq!(steps, [Step::Avoid(ServerId(3)), Step::Put(2, ServerId(4))]);
        let steps = placing.on(ok(2, 3), ms(300), &cluster);
        assert!(matches!(&steps[..], [Step::Placed(at)] if at[2].0 == ServerId(3)), "late is fine");
    }

    #[test]
    fn without_a_spare_the_stripe_becomes_narrower() {
        let (mut placing, cluster) = (three(), Fake { servers: vec![1, 2, 3], narrow: true });
        placing.on(ok(0, 1), ms(100), &cluster);
        placing.on(ok(1, 2), ms(100), &cluster);
        assert_eq!(placing.on(Event::Tick, ms(399), &cluster), [], "4 × 100 ms");
        let steps = placing.on(Event::Tick, ms(400), &cluster);
        assert_eq!(steps, [Step::Avoid(ServerId(3)), Step::Narrow]);
        assert_eq!(placing.on(ok(2, 3), ms(401), &cluster), [], "it is over");
    }

    #[test]
    fn slow_disks_narrow_nothing() {
        let (mut placing, cluster) = (three(), Fake { servers: vec![1, 2, 3, 4], narrow: true });
        placing.on(ok(0, 1), ms(10), &cluster);
        assert_eq!(placing.on(Event::Tick, ms(20_000), &cluster), []);
    }

    #[test]
    fn a_failed_put_does_not_wait_to_be_late() {
        let (mut placing, cluster) = (three(), Fake { servers: vec![1, 2, 3, 4], narrow: true });
        let steps = placing.on(Event::Failed(1, ServerId(2)), ms(1), &cluster);
        assert_eq!(steps, [Step::Avoid(ServerId(2)), Step::Put(1, ServerId(4))]);
        let steps = placing.on(Event::Failed(1, ServerId(4)), ms(2), &cluster);
        assert_eq!(steps, [Step::Avoid(ServerId(4)), Step::Narrow]);
    }

    #[test]
    fn where_nothing_else_is_left_a_late_server_is_waited_for() {
        let mut placing = Placing::new(1, &[ServerId(1), ServerId(2)], T0);
        let cluster = Fake { servers: vec![1, 2], narrow: false };
        placing.on(ok(0, 1), ms(10), &cluster);
        assert_eq!(placing.on(Event::Tick, ms(9000), &cluster), []);
        assert!(matches!(&placing.on(ok(1, 2), ms(9001), &cluster)[..], [Step::Placed(_)]));
    }
}
