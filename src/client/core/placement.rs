//! Which servers get the shards of a new stripe.
//!
//! Never two shards in one failure domain. Not any set of domains either: with random sets, any double
//! failure hits some stripe; with a bounded number of sets (copysets, Cidon et al. 2013) it hits many stripes
//! rarely instead of a few always. A handful of fixed permutations of the domains, each cut into groups of a
//! stripe's width, gives that. Among the groups the stripe's id chooses, those with more free space more
//! often, and turns the group, so that parity is everywhere.

use std::collections::BTreeMap;

use crate::types::limits::BLOCK;
use crate::types::{
    PlacementMap, ServerEntry, ServerId, ServerState, StripeId, VolumeEntry, Width,
};

const PERMUTATIONS: u64 = 4;

/// Where a stripe can go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Choice {
    /// In this width, its shards by index on these servers.
    Place(Width, Vec<ServerId>),
    /// Nowhere: there are `up` failure domains and `needed` are needed.
    Wait {
        /// Domains that can be written to.
        up: usize,
        /// The fewest that are enough.
        needed: usize,
    },
}

/// Places a stripe of `length` bytes of that volume on servers that are up and not to be avoided.
pub(crate) fn choose(
    map: &PlacementMap,
    volume: &VolumeEntry,
    avoided: &[ServerId],
    stripe: StripeId,
    length: u32,
) -> Choice {
    let domains = usable(map, avoided);
    match width(volume, domains.len(), length) {
        Some(width) => Choice::Place(width, pick(&domains, width.total(), stripe)),
        None => Choice::Wait { up: domains.len(), needed: usize::from(volume.min_copies.max(1)) },
    }
}

/// A server for one shard more, in another domain than all of `kept`, and none of `avoided`.
pub(crate) fn spare(
    map: &PlacementMap,
    avoided: &[ServerId],
    kept: &[ServerId],
    stripe: StripeId,
) -> Option<ServerId> {
    let taken: Vec<&str> = map
        .servers
        .iter()
        .filter(|server| kept.contains(&server.id))
        .map(|server| server.domain.as_str())
        .collect();
    let mut domains = usable(map, avoided);
    domains.retain(|domain, _| !taken.contains(domain));
    (!domains.is_empty()).then(|| pick(&domains, 1, stripe)[0])
}

/// Servers that can be written to, by domain.
fn usable<'a>(
    map: &'a PlacementMap,
    avoided: &[ServerId],
) -> BTreeMap<&'a str, Vec<&'a ServerEntry>> {
    let mut domains: BTreeMap<&str, Vec<&ServerEntry>> = BTreeMap::new();
    for server in &map.servers {
        if server.state == ServerState::Up && !avoided.contains(&server.id) {
            domains.entry(&server.domain).or_default().push(server);
        }
    }
    domains
}

/// The widest stripe with full parity that `up` domains and `length` bytes allow; else as many copies as
/// there are domains; `None` when those are too few.
fn width(volume: &VolumeEntry, up: usize, length: u32) -> Option<Width> {
    if !volume.takes_writes(up) {
        return None;
    }
    let parity = usize::from(volume.width.parity);
    let data = usize::from(volume.width.data)
        .min(up.saturating_sub(parity))
        .min(usize::try_from(length.div_ceil(BLOCK)).expect("fits"));
    let (data, parity) = if data >= 1 { (data, parity) } else { (1, up.checked_sub(1)?) };
    let byte = |count: usize| u8::try_from(count).expect("a width fits in a byte");
    Some(Width { data: byte(data), parity: byte(parity) })
}

/// `count` servers of distinct domains.
fn pick(
    domains: &BTreeMap<&str, Vec<&ServerEntry>>,
    count: usize,
    stripe: StripeId,
) -> Vec<ServerId> {
    let groups = copysets(domains, count);
    let weights: Vec<u64> = groups.iter().map(|group| group_weight(domains, group)).collect();
    let group = &groups[weighted(&weights, mix(stripe.0))];
    let turn = usize::try_from(mix(stripe.0 ^ 0x5bd1_e995) % count as u64).expect("small");
    (0..count)
        .map(|at| &domains[group[(at + turn) % count]])
        .map(|servers| {
            let free: Vec<u64> = servers.iter().map(|server| weight(server)).collect();
            servers[weighted(&free, mix(stripe.0.rotate_left(32)))].id
        })
        .collect()
}

/// Groups of `count` domains; the same ones for every stripe as long as the domains are the same.
fn copysets<'a>(domains: &BTreeMap<&'a str, Vec<&ServerEntry>>, count: usize) -> Vec<Vec<&'a str>> {
    let mut groups = Vec::new();
    for permutation in 0..PERMUTATIONS {
        let mut order: Vec<&str> = domains.keys().copied().collect();
        order.sort_by_key(|domain| hash(domain, permutation));
        let circle = order.iter().copied().chain(order.iter().copied());
        let circle: Vec<&str> = circle.collect();
        groups.extend((0..order.len()).step_by(count).map(|at| circle[at..at + count].to_vec()));
    }
    groups
}

fn group_weight(domains: &BTreeMap<&str, Vec<&ServerEntry>>, group: &[&str]) -> u64 {
    let free = |domain: &&str| domains[*domain].iter().map(|server| weight(server)).sum::<u64>();
    group.iter().map(free).min().unwrap_or(0)
}

/// Free space in MiB; never 0, so that a full cluster is still asked and can say that it is full.
fn weight(server: &ServerEntry) -> u64 {
    (server.free_bytes >> 20) + 1
}

fn weighted(weights: &[u64], random: u64) -> usize {
    let total: u64 = weights.iter().sum();
    let mut at = random % total.max(1);
    for (index, weight) in weights.iter().enumerate() {
        if at < *weight {
            return index;
        }
        at -= weight;
    }
    0
}

fn hash(text: &str, seed: u64) -> u64 {
    text.bytes().fold(mix(seed + 1), |hash, byte| mix(hash ^ u64::from(byte)))
}

/// SplitMix64's finalizer (Steele, Lea & Flood 2014).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::types::{Epoch, VolumeId, VolumePolicy};

    fn cluster(servers: u64, data: u8, parity: u8) -> PlacementMap {
        let entry = |id| ServerEntry {
            id: ServerId(id),
            epoch: Epoch(1),
            address: String::new(),
            domain: format!("d{id}"),
            state: ServerState::Up,
            free_bytes: 100 << 30,
        };
        let root =
            VolumeEntry::new(VolumeId::ROOT, &VolumePolicy::of_width(Width { data, parity }));
        let servers = (1..=servers).map(entry).collect();
        PlacementMap { version: 1, volumes: vec![root], servers }
    }

    fn widths(map: &PlacementMap, avoided: &[u64], length: u32) -> Option<(u8, u8)> {
        let avoided: Vec<ServerId> = avoided.iter().map(|id| ServerId(*id)).collect();
        match choose(map, &map.volumes[0], &avoided, StripeId(5), length) {
            Choice::Place(width, servers) => {
                assert_eq!(servers.len(), width.total());
                assert_eq!(servers.iter().collect::<BTreeSet<_>>().len(), width.total());
                Some((width.data, width.parity))
            }
            Choice::Wait { .. } => None,
        }
    }

    #[test]
    fn width_follows_servers_and_size() {
        let map = cluster(3, 2, 1);
        assert_eq!(widths(&map, &[], 8 << 20), Some((2, 1)));
        assert_eq!(widths(&map, &[], 4096), Some((1, 1)), "one block needs one data shard");
        assert_eq!(widths(&map, &[2], 8 << 20), Some((1, 1)), "narrower");
        assert_eq!(widths(&map, &[1, 2], 8 << 20), None, "one copy is too few");
        let map = cluster(6, 4, 2);
        assert_eq!(widths(&map, &[1], 8 << 20), Some((3, 2)));
        assert_eq!(widths(&map, &[1, 2, 3, 4], 8 << 20), Some((1, 1)), "at risk, but two copies");
    }

    #[test]
    fn volumes_without_parity_or_with_one_copy_can_be_written() {
        let map = cluster(1, 2, 0);
        assert_eq!(widths(&map, &[], 8 << 20), Some((1, 0)));
        let mut lenient = cluster(3, 2, 1);
        lenient.volumes[0].min_copies = 1;
        assert_eq!(widths(&lenient, &[1, 2], 8 << 20), Some((1, 0)));
        assert_eq!(widths(&lenient, &[1, 2, 3], 8 << 20), None);
    }

    #[test]
    fn two_servers_in_one_domain_never_share_a_stripe() {
        let mut map = cluster(6, 2, 1);
        for server in &mut map.servers {
            server.domain = format!("host{}", server.id.0 % 3);
        }
        for stripe in 0..200 {
            let Choice::Place(_, servers) =
                choose(&map, &map.volumes[0], &[], StripeId(stripe), 8 << 20)
            else {
                panic!("three domains are enough");
            };
            let domains: BTreeSet<u64> = servers.iter().map(|id| id.0 % 3).collect();
            assert_eq!(domains.len(), 3);
            let spare = spare(&map, &[servers[0]], &servers[1..], StripeId(stripe)).unwrap();
            assert_eq!(spare.0 % 3, servers[0].0 % 3, "only its own domain is free");
        }
    }

    #[test]
    fn sets_are_few_and_everybody_gets_a_fair_share() {
        let mut map = cluster(12, 2, 1);
        map.servers[0].free_bytes = 1 << 30;
        let mut sets = BTreeSet::new();
        let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
        for stripe in 0..6000 {
            let Choice::Place(_, servers) =
                choose(&map, &map.volumes[0], &[], StripeId(stripe), 8 << 20)
            else {
                panic!("twelve servers are enough");
            };
            sets.insert(servers.iter().copied().collect::<BTreeSet<_>>());
            for server in servers {
                *counts.entry(server.0).or_default() += 1;
            }
        }
        assert!(sets.len() <= 16, "{}", sets.len());
        assert!(counts.get(&1).is_none_or(|&count| count < 200), "{counts:?}");
        assert!((2..=12).all(|id| counts[&id] > 700), "{counts:?}");
    }
}
