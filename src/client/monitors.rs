//! The link to the monitors: whichever of them leads, and to the next when another does.
//!
//! Callers never see a broken connection or a change of leaders: a call waits until there is somebody to ask,
//! and is asked again, at once, when its connection broke or somebody else leads. (Whether the old leader did it
//! before it went does not matter: the slots of the session see to that.) Before anything is asked of a new
//! leader the session is attached there, so that it knows what this client has open before it answers anything.
//! And before that this client forgets all that it believes, for a new leader knows nothing of that.
//!
//! Whom to ask is decided in [`crate::env::system::monitors`]. What is added here is the order of things at a
//! change:
//!
//! ```text
//!  a new target ──▶ nobody is served: calls under way are given up, later ones wait
//!                     │ attach, in parts, to the new target
//!                     ▼
//!                   served: everything unanswered is asked again
//! ```
//!
//! That the monitors are away is logged once, and once when they are back.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};

use super::link::Monitors;
use crate::crypto::Credentials;
use crate::env::system::monitors::{MonitorLinks, Pause, Target};
use crate::env::system::rpc::{CallError, ConnectError};
use crate::types::Incarnation;
use crate::wire;
use crate::wire::metadata::{Attach, Notice, Refusal, Request, Response};

/// A monitor that does not answer in this time what needs no waiting for anybody is left for another.
const PROMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longer than the longest recall.
const CALL_TIMEOUT: Duration = Duration::from_secs(25);
/// How long after an expired certificate was refused the next connection is made.
const EXPIRED_PAUSE: Duration = Duration::from_secs(2);

type AttachWith = Box<dyn Fn() -> BoxFuture<'static, Vec<Attach>> + Send + Sync>;

/// See the module.
pub(crate) struct MonitorLink {
    links: MonitorLinks,
    served: watch::Sender<Option<Served>>,
    attach: OnceLock<AttachWith>,
}

/// A target at which the session is attached.
#[derive(Clone)]
struct Served {
    target: Target,
    /// Another one each time.
    number: u64,
}

impl MonitorLink {
    /// Connects to `addresses`, trying for `patience` until one answers. The receiver gets what monitors say
    /// unasked.
    pub(crate) async fn connect(
        addresses: &[String],
        credentials: Credentials,
        patience: Duration,
    ) -> Result<(Arc<Self>, mpsc::UnboundedReceiver<Notice>), ConnectError> {
        let (links, told) = MonitorLinks::start(addresses, credentials, Incarnation(0));
        links.connected(patience).await?;
        let link =
            Arc::new(Self { links, served: watch::Sender::new(None), attach: OnceLock::new() });
        tokio::spawn(Arc::clone(&link).keep());
        Ok((link, told))
    }

    /// What to say first to each further leader: the parts of an attachment, as soon as they are true.
    pub(crate) fn attach_with(&self, attach: AttachWith) {
        assert!(self.attach.set(attach).is_ok(), "it is set once");
    }

    /// Has the session attached wherever the target is, for ever.
    async fn keep(self: Arc<Self>) {
        let mut targets = self.links.target();
        let mut number = 0;
        // Across targets: while none leads, each of them refuses in turn.
        let mut pause = Pause::for_election();
        loop {
            let target = targets.borrow_and_update().clone();
            self.served.send_if_modified(|served| served.take().is_some());
            let work = async {
                match target {
                    Some(target) => {
                        number += 1;
                        self.serve(target, number, &mut pause).await;
                    }
                    None => self.complain().await,
                }
            };
            tokio::select! {
                biased;
                // The sender is in `self`: this is another target.
                _ = targets.changed() => {}
                () = work => {}
            }
        }
    }

    /// Attaches the session to that target, and serves until somebody finds that it is not attached any more.
    async fn serve(&self, target: Target, number: u64, pause: &mut Pause) {
        if self.attach(&target, pause).await {
            *pause = Pause::for_election();
            let mut served = self.served.subscribe();
            self.served.send_replace(Some(Served { target, number }));
            // The sender is in `self`.
            drop(served.wait_for(Option::is_none).await);
        } else {
            self.links.silent(&target);
        }
    }

    /// There is nobody to be asked. Returns only when dropped.
    async fn complain(&self) {
        let mut failure = self.links.failure();
        failure.mark_unchanged();
        let mut complained = Complained::default();
        // The sender is in `self`.
        while failure.changed().await.is_ok() {
            if let Some(error) = &*failure.borrow_and_update() {
                complained.about(error);
            }
        }
        std::future::pending::<()>().await;
    }

    /// Goes on with the session at this target. `false`: better try another.
    async fn attach(&self, target: &Target, pause: &mut Pause) -> bool {
        let Some(attach) = self.attach.get() else {
            return true;
        };
        let parts: Vec<Vec<u8>> =
            attach().await.into_iter().map(|part| wire::encode(&Request::Attach(part))).collect();
        loop {
            match attach_all(target, &parts).await {
                Ok(response @ Response::Session(_)) => {
                    self.learn_addresses(&response);
                    return true;
                }
                // A closed session is noticed, and replaced, by the next call; the other two by all that follow.
                Ok(Response::Refused(
                    Refusal::SessionClosed | Refusal::NotOwner | Refusal::Revoked,
                )) => return true,
                Ok(Response::Refused(Refusal::Expired)) => {
                    log::warn!("this client's certificate has expired, waiting for a new one");
                    tokio::time::sleep(EXPIRED_PAUSE).await;
                    return false;
                }
                Ok(Response::Refused(Refusal::NoLeader)) => {
                    // First: that it refused may give another target, and this ends.
                    pause.rest().await;
                    self.links.refused(target);
                }
                Ok(other) => {
                    log::error!("unexpected answer of a monitor to a reattachment: {other:?}");
                    return false;
                }
                Err(_) => return false,
            }
        }
    }

    /// Whoever answers tells of all monitors when a session begins.
    fn learn_addresses(&self, response: &Response) {
        if let Response::Session(opened) = response {
            self.links.learn(&opened.monitors);
        }
    }

    async fn call_until_answered(&self, request: &Request) -> Response {
        let header = wire::encode(request);
        let timeout = match request {
            Request::Renew(_) => PROMPT_TIMEOUT,
            _ => CALL_TIMEOUT,
        };
        let mut changes = self.served.subscribe();
        let mut pause = Pause::for_election();
        loop {
            let served = match changes.wait_for(Option::is_some).await {
                Ok(served) => served.clone(),
                // The sender is in `self`.
                Err(_) => None,
            };
            let Some(Served { target, number }) = served else {
                continue;
            };
            let answer = tokio::select! {
                // First, so that no answer of the past is taken for one of the present.
                biased;
                _ = changes.changed() => continue,
                answer = call_once(&target, header.clone(), timeout) => answer,
            };
            match answer {
                Ok(Response::Refused(Refusal::NoLeader)) => {
                    tokio::select! {
                        _ = changes.changed() => {}
                        () = pause.rest() => self.links.refused(&target),
                    }
                }
                Ok(Response::Refused(Refusal::NotAttached)) => {
                    self.served
                        .send_if_modified(|now| now.take_if(|now| now.number == number).is_some());
                    pause.rest().await;
                }
                Ok(response) => {
                    self.learn_addresses(&response);
                    return response;
                }
                Err(error) => {
                    if error == CallError::Timeout {
                        log::warn!("the monitor does not answer; trying another");
                    }
                    self.links.silent(&target);
                    // The sender is in `self`, and the target has changed.
                    drop(changes.changed().await);
                }
            }
        }
    }
}

impl Monitors for MonitorLink {
    fn call<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Response> {
        self.call_until_answered(request).boxed()
    }

    fn incarnation(&self) -> Incarnation {
        self.links.incarnation()
    }
}

/// Says once that the monitors are away, and, when it is dropped, that they are back.
#[derive(Default)]
struct Complained(bool);

impl Complained {
    fn about(&mut self, error: &ConnectError) {
        if !std::mem::replace(&mut self.0, true) {
            log::warn!("no monitor can be reached, waiting: {error}");
        }
    }
}

impl Drop for Complained {
    fn drop(&mut self) {
        if self.0 {
            log::info!("the monitors are back");
        }
    }
}

/// Says all parts; the answer to the last, or to the first that is refused.
async fn attach_all(target: &Target, parts: &[Vec<u8>]) -> Result<Response, CallError> {
    let mut answer = Response::Done;
    for part in parts {
        answer = call_once(target, part.clone(), PROMPT_TIMEOUT).await?;
        if answer != Response::Done {
            break;
        }
    }
    Ok(answer)
}

async fn call_once(
    target: &Target,
    header: Vec<u8>,
    timeout: Duration,
) -> Result<Response, CallError> {
    let (answer, _) = target.connection.call(header, Vec::new(), timeout).await?;
    wire::decode(&answer).map_err(|error| {
        log::error!("a monitor answered something incomprehensible: {error}");
        CallError::Closed
    })
}
