//! What time brings: silent sessions are evicted, silent servers become suspect, and what nobody can reach
//! any more is freed, a bounded command at a time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::{Monitor, room, trust, unreadable};
use crate::monitor::namespace::command::{Action, Outcome};
use crate::monitor::namespace::query;
use crate::wire::metadata::Refusal;

const TICK: Duration = Duration::from_millis(250);
/// A tick that comes so much too late means that this process stood still.
const LATE: Duration = Duration::from_secs(1);
/// How long freeing waits after a failure before it tries again.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn run(monitor: Arc<Monitor>, mut shutdown: watch::Receiver<bool>) {
    tokio::select! {
        _ = shutdown.wait_for(|stop| *stop) => {}
        () = close_halves(&monitor) => {}
        () = keep_time(&monitor) => {}
        () = free_orphans(&monitor) => {}
        () = trust::keep_renewed(&monitor) => {}
    }
}

/// Sessions whose closing a leader before this one did not finish hold up everybody until they are gone.
async fn close_halves(monitor: &Monitor) {
    while let Err(error) = close_all_halves(monitor).await {
        log::warn!("a session could not be closed yet: {error}");
        tokio::time::sleep(PAUSE).await;
    }
    std::future::pending::<()>().await;
}

async fn close_all_halves(monitor: &Monitor) -> Result<(), Refusal> {
    for (session, record) in query::sessions(&*monitor.store).map_err(unreadable)? {
        if record.closing {
            monitor.close_session(session, true).await?;
        }
    }
    Ok(())
}

async fn keep_time(monitor: &Monitor) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = monitor.clock.monotonic();
    loop {
        ticks.tick().await;
        look_at_room(monitor);
        let expired = {
            let now = monitor.clock.monotonic();
            let mut state = monitor.state.lock();
            // After a stop of the whole process, everybody gets the time to renew.
            let pause = now.saturating_sub(last).saturating_sub(TICK);
            if pause > LATE {
                log::warn!("this monitor stood still for {} ms", pause.as_millis());
                state.servers.excuse(pause);
                state.sessions.excuse(pause);
            }
            last = now;
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

fn look_at_room(monitor: &Monitor) {
    // What the disk has to say it says to the log, at the next write.
    let Ok(is_short) = room::is_short(&monitor.dir) else { return };
    let was_short = monitor.short_of_room.swap(is_short, Ordering::Relaxed);
    match (was_short, is_short) {
        (false, true) => log::error!(
            "the disk of {} is nearly full: new names and data are refused until it has room again",
            monitor.dir.display()
        ),
        (true, false) => log::info!("the monitor's disk has room again"),
        _ => {}
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
