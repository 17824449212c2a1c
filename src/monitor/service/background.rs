//! What time brings: silent sessions are evicted, silent servers become suspect, and what nobody can reach
//! any more is freed, a bounded command at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::{Monitor, unreadable};
use crate::monitor::namespace::command::{Action, Outcome};
use crate::monitor::namespace::query;
use crate::wire::metadata::Refusal;

const TICK: Duration = Duration::from_millis(250);
/// How long freeing waits after a failure before it tries again.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn run(monitor: Arc<Monitor>, mut shutdown: watch::Receiver<bool>) {
    tokio::select! {
        _ = shutdown.wait_for(|stop| *stop) => {}
        () = keep_time(&monitor) => {}
        () = free_orphans(&monitor) => {}
    }
}

async fn keep_time(monitor: &Monitor) {
    let mut ticks = tokio::time::interval(TICK);
    // After a stop of the whole process, everybody gets the time to renew before the next look.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let expired = {
            let now = monitor.clock.monotonic();
            let mut state = monitor.state.lock();
            state.servers.tick(now);
            state.sessions.expired(now, state.servers.wanting())
        };
        for session in expired {
            log::warn!(
                "session {session} is silent or does not release what others wait for: evicted"
            );
            if let Err(error) = monitor.close_session(session, true).await {
                log::warn!("session {session} could not be evicted yet: {error}");
            }
        }
    }
}

async fn free_orphans(monitor: &Monitor) {
    loop {
        if let Err(error) = free_all(monitor).await {
            log::warn!("freeing what was removed is put off: {error}");
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        monitor.orphaned.notified().await;
    }
}

async fn free_all(monitor: &Monitor) -> Result<(), Refusal> {
    const PORTION: usize = 256;
    loop {
        let orphans = query::doomed(&*monitor.store, PORTION).map_err(unreadable)?;
        if orphans.is_empty() {
            return Ok(());
        }
        for ino in orphans {
            while monitor.submit(Action::Free { ino }).await? == Outcome::Partly {}
        }
    }
}
