//! Moves the group of monitors towards what the records say that it should be, one step at a time.
//!
//! The wish is replicated: `M` records, made by commands. The fact is Raft's membership. Whoever leads compares
//! the two twice a second and takes one step ([`plan`]). So nothing is lost when a leader dies in between: the
//! next one looks, and goes on.

mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use self::plan::Step;
use super::peers::Peers;
use crate::monitor::namespace::command::{Action, Outcome};
use crate::monitor::namespace::query;
use crate::monitor::raft::Raft;
use crate::monitor::store::StoreError;
use crate::types::MonitorId;

/// How often wish and fact are compared.
const TICK: Duration = Duration::from_millis(500);

/// Runs for as long as the process does; does something while this monitor leads.
pub(super) async fn run(peers: Arc<Peers>, id: MonitorId, raft: Raft) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        peers.refresh();
        let leads = raft.leadership().borrow().is_leader();
        if leads
            && raft.confirm_leadership().await.is_ok()
            && let Err(why) = reconcile(&peers, id, &raft).await
        {
            log::info!("the group of monitors is not yet as it should be: {why}");
        }
    }
}

/// Takes one step, if there is one to take.
async fn reconcile(peers: &Peers, id: MonitorId, raft: &Raft) -> Result<(), String> {
    let records = query::monitors(&*peers.store).map_err(|error| error.to_string())?;
    let me = records.iter().find(|(other, _)| *other == id);
    if me.is_none_or(|(_, record)| record.profile != peers.profile) {
        match peers.introduce_self().await {
            Ok(Outcome::Refused(why)) => return Err(why),
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        }
    }
    raise_level(peers).await?;
    let wish: BTreeMap<_, _> = records.iter().map(|(id, record)| (*id, record.state)).collect();
    let Some(step) = plan::next(id, &wish, &raft.group()) else { return Ok(()) };
    log::info!("monitors: {step:?}");
    let address = |id: MonitorId| {
        let record = records.iter().find(|(other, _)| *other == id);
        record.map_or("", |(_, record)| record.profile.address.as_str())
    };
    let taken = match step {
        Step::AddLearner(id) => raft.add_learner(id, address(id)).await,
        Step::SetVoters(voters) => raft.set_voters(&voters).await,
        Step::RemoveLearner(id) => raft.remove_learner(id).await,
        Step::Forget(id) => {
            let left = peers.propose(Action::MonitorLeft { id }).await;
            return left.map(drop).map_err(|error| error.to_string());
        }
    };
    taken.map_err(|error| error.to_string())
}

/// What everybody can do, the cluster may.
async fn raise_level(peers: &Peers) -> Result<(), String> {
    let unreadable = |error: StoreError| error.to_string();
    let now = query::level(&*peers.store).map_err(unreadable)?;
    let programs = query::programs(&*peers.store).map_err(unreadable)?;
    let Some(level) = programs.iter().map(|(_, program)| program.level).min() else {
        return Ok(());
    };
    if level <= now {
        return Ok(());
    }
    match peers.propose(Action::RaiseFeatureLevel(level)).await {
        Ok(Outcome::Refused(why)) => return Err(why),
        Ok(_) => log::info!("the cluster is at level {level} now"),
        Err(error) => return Err(error.to_string()),
    }
    Ok(())
}
