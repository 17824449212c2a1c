//! What time brings: silent sessions are evicted, silent servers become suspect, and what nobody can reach
//! any more is freed, a bounded command at a time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::reign::Reign;
use super::{room, spares, unreadable};
use crate::monitor::namespace::command::{Action, Outcome};
use crate::monitor::namespace::{REPLIES_KEPT, query};
use crate::wire::metadata::Refusal;

const TICK: Duration = Duration::from_millis(250);
/// A tick that comes so much too late means that this process stood still.
const LATE: Duration = Duration::from_secs(1);
/// Most names that are removed free their inode at once. Whether there is more to free is looked for this often at
/// most, not after each of them.
const FREE_PAUSE: Duration = Duration::from_millis(100);
/// How long freeing waits after a failure before it tries again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often replies of evicted sessions are looked at.
const FORGET_EVERY: Duration = Duration::from_secs(30);

/// Does all of it until the reign is over.
pub(super) async fn run(reign: Arc<Reign>) {
    tokio::select! {
        () = reign.ended() => {}
        () = close_halves(&reign) => {}
        () = keep_time(&reign) => {}
        () = free_orphans(&reign) => {}
        () = forget_evicted(&reign) => {}
        () = spares::run(&reign) => {}
    }
}

/// Sessions whose closing a leader before this one did not finish hold up everybody until they are gone.
async fn close_halves(reign: &Reign) {
    while let Err(error) = close_all_halves(reign).await {
        log::warn!("a session could not be closed yet: {error}");
        tokio::time::sleep(PAUSE).await;
    }
    std::future::pending::<()>().await;
}

async fn close_all_halves(reign: &Reign) -> Result<(), Refusal> {
    for (session, record) in query::sessions(&*reign.store).map_err(unreadable)? {
        if record.closing.is_some() {
            reign.close_session(session, true).await?;
        }
    }
    Ok(())
}

async fn keep_time(reign: &Reign) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = reign.clock.monotonic();
    loop {
        ticks.tick().await;
        look_at_room(reign);
        reign.lapse_lockers();
        let expired = {
            let now = reign.clock.monotonic();
            let mut state = reign.state.lock();
            // After a stop of the whole process, everybody gets the time to renew.
            let pause = now.saturating_sub(last).saturating_sub(TICK);
            if pause > LATE {
                log::warn!("this monitor stood still for {} ms", pause.as_millis());
                state.servers.excuse(pause);
                state.sessions.excuse(pause);
            }
            last = now;
            state.servers.tick(now);
            state.sessions.condemn_expired(now)
        };
        for session in expired {
            log::warn!(
                "session {session} is silent or does not release what others wait for: evicted"
            );
            if let Err(error) = reign.close_session(session, true).await {
                log::warn!("session {session} could not be evicted yet: {error}");
            }
        }
    }
}

/// Replies of evicted sessions go when nobody can want them any more.
async fn forget_evicted(reign: &Reign) {
    loop {
        if let Err(error) = forget_old(reign).await {
            log::warn!("the replies of evicted sessions are kept for longer: {error}");
        }
        tokio::time::sleep(FORGET_EVERY).await;
    }
}

async fn forget_old(reign: &Reign) -> Result<(), Refusal> {
    let now = reign.clock.now();
    for (session, at) in query::evicted(&*reign.store).map_err(unreadable)? {
        let age = now.seconds.saturating_sub(at.seconds);
        if age >= REPLIES_KEPT.as_secs() as i64 {
            reign.submit(Action::ForgetSession { session }).await?;
        }
    }
    Ok(())
}

fn look_at_room(reign: &Reign) {
    let is_short = room::is_short(reign.member.id, &reign.group());
    let was_short = reign.member.short_of_room.swap(is_short, Ordering::Relaxed);
    match (was_short, is_short) {
        (false, true) => log::error!(
            "the disks of the monitors are nearly full: new names and data are refused until a majority has room again"
        ),
        (true, false) => log::info!("a majority of the monitors has room again"),
        _ => {}
    }
}

async fn free_orphans(reign: &Reign) {
    loop {
        if let Err(error) = free_all(reign).await {
            log::warn!("freeing what was removed is put off: {error}");
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        reign.orphaned.notified().await;
        tokio::time::sleep(FREE_PAUSE).await;
    }
}

async fn free_all(reign: &Reign) -> Result<(), Refusal> {
    const PORTION: usize = 256;
    loop {
        let orphans = query::doomed(&*reign.store, PORTION).map_err(unreadable)?;
        if orphans.is_empty() {
            return Ok(());
        }
        for ino in orphans {
            while reign.submit(Action::Free { ino }).await? == Outcome::Partly {}
        }
    }
}
