//! How safe the stripes are.
//!
//! When everything is well the answer is a look at two counters of each volume, however many stripes there are. Where servers
//! are not up, what they hold (`R`) is walked through side by side, so that a stripe which lacks two shards is
//! counted once.

use std::collections::BTreeSet;

use super::super::keys;
use super::super::records::{Stripe, Usage};
use super::super::txn::{get, scan};
use crate::monitor::store::{Read, StoreError};
use crate::types::{ServerId, StripeId};
use crate::wire::admin::StripesStatus;
use crate::wire::shards::ShardId;

/// A live stripe that lacks a shard, and whether it is thin besides.
type Lacking = Result<(StripeId, bool), StoreError>;

/// How the live stripes are, when these servers are not up and these shards are known to be lost.
///
/// # Errors
///
/// When the store fails.
pub fn stripes_status(
    read: &dyn Read,
    not_up: &BTreeSet<ServerId>,
    lost: &BTreeSet<ShardId>,
) -> Result<StripesStatus, StoreError> {
    let mut status = StripesStatus::default();
    for usage in scan(read, &keys::all::<Usage>()) {
        let (_, Usage { stripes, thin, .. }) = usage?;
        status.total += stripes;
        status.at_risk += thin;
    }
    let mut sources = vec![lost_elsewhere(read, not_up, lost)?];
    for &server in not_up {
        sources.push(Source::new(Box::new(held_by(read, server)))?);
    }
    while let Some((stripe, thin)) = sources.iter().filter_map(|source| source.next).min() {
        for source in &mut sources {
            while source.next.is_some_and(|(next, _)| next == stripe) {
                status.missing_shards += 1;
                source.step()?;
            }
        }
        status.at_risk += u64::from(!thin);
    }
    Ok(status)
}

/// Stripes that lack a shard, ascending.
struct Source<'a> {
    next: Option<(StripeId, bool)>,
    rest: Box<dyn Iterator<Item = Lacking> + 'a>,
}

impl<'a> Source<'a> {
    fn new(rest: Box<dyn Iterator<Item = Lacking> + 'a>) -> Result<Self, StoreError> {
        let mut source = Self { next: None, rest };
        source.step()?;
        Ok(source)
    }

    fn step(&mut self) -> Result<(), StoreError> {
        self.next = self.rest.next().transpose()?;
        Ok(())
    }
}

fn held_by(read: &dyn Read, server: ServerId) -> impl Iterator<Item = Lacking> + '_ {
    scan(read, &keys::shards_from(server, StripeId(0)))
        .map(|found| found.map(|((_, stripe), shard)| (stripe, shard.thin)))
}

/// Lost shards of live stripes on servers that are up.
fn lost_elsewhere<'a>(
    read: &'a dyn Read,
    not_up: &'a BTreeSet<ServerId>,
    lost: &'a BTreeSet<ShardId>,
) -> Result<Source<'a>, StoreError> {
    let lacking = move |shard: &ShardId| -> Result<Option<(StripeId, bool)>, StoreError> {
        let stripe = get(read, &keys::stripe(shard.stripe))?.filter(Stripe::is_live);
        Ok(stripe.and_then(|stripe| {
            let place = stripe.record.shards.get(usize::from(shard.index.0))?;
            (!not_up.contains(&place.server)).then_some((shard.stripe, stripe.thin))
        }))
    };
    Source::new(Box::new(lost.iter().filter_map(move |shard| lacking(shard).transpose())))
}
