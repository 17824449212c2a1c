//! Monitors over loopback that say who leads when they are told to, and answer, refuse, or are silent.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::crypto::{Authority, Credentials, Role};
use crate::env::clock::{Clock, SystemClock};
use crate::env::system::rpc::{Answer, Caller, Listener, Service};
use crate::types::{ClusterId, Incarnation};
use crate::wire::metadata::{Notice, Refusal, Request, Response};
use crate::wire::{decode, encode};

/// Who has certificates for everybody.
pub(crate) struct FakeCluster(Authority);

impl FakeCluster {
    pub(crate) fn new(id: u128) -> Self {
        Self(Authority::create(ClusterId(id), SystemClock::new().now()).unwrap())
    }

    pub(crate) fn credentials(&self, role: Role) -> Credentials {
        let issued = self.0.issue(role, "somebody", SystemClock::new().now()).unwrap();
        Credentials::from_pem(self.0.cert_pem(), &issued.cert_pem, &issued.key_pem).unwrap()
    }

    pub(crate) fn monitor(&self, mode: Mode) -> FakeMonitor {
        let listener = Listener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_address().to_string();
        let (sender, asked) = mpsc::unbounded_channel();
        let service = Arc::new(Fake { mode, asked: sender, state: Mutex::default() });
        let (shutdown, requested) = watch::channel(false);
        let credentials = self.credentials(Role::Monitor);
        tokio::spawn(listener.serve(credentials, Incarnation(1), Arc::clone(&service), requested));
        FakeMonitor { address, asked, service, shutdown }
    }
}

/// What a monitor does when it is asked.
#[derive(Clone, Copy)]
pub(crate) enum Mode {
    /// Says `Done`.
    Answers,
    /// Says that there is no leader.
    Refuses,
    /// Nothing.
    Hangs,
}

/// A monitor that is being served until this is dropped.
pub(crate) struct FakeMonitor {
    pub(crate) address: String,
    /// What it was asked.
    pub(crate) asked: mpsc::UnboundedReceiver<Request>,
    service: Arc<Fake>,
    shutdown: watch::Sender<bool>,
}

impl FakeMonitor {
    /// Tells everybody who is connected, or will be, who leads.
    pub(crate) fn announce(&self, term: u64, leader: &str) {
        let notice = encode(&Notice::Leader { term, address: leader.to_owned() });
        let mut state = self.service.state.lock();
        state.callers.iter().for_each(|caller| caller.notify(notice.clone()));
        state.leader = Some(notice);
    }

    /// Tells everybody who is connected where there are monitors.
    pub(crate) fn introduce(&self, monitors: &[String]) {
        let notice = encode(&Notice::Monitors(monitors.to_vec()));
        let state = self.service.state.lock();
        state.callers.iter().for_each(|caller| caller.notify(notice.clone()));
    }

    pub(crate) fn stop(&self) {
        self.shutdown.send_replace(true);
    }
}

struct Fake {
    mode: Mode,
    asked: mpsc::UnboundedSender<Request>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    callers: Vec<Arc<Caller>>,
    leader: Option<Vec<u8>>,
}

impl Service for Fake {
    fn opened(&self, caller: &Arc<Caller>) {
        let mut state = self.state.lock();
        state.leader.iter().for_each(|leader| caller.notify(leader.clone()));
        state.callers.push(Arc::clone(caller));
    }

    async fn call(self: Arc<Self>, _: Arc<Caller>, header: Vec<u8>, _: Bytes) -> Answer {
        // The test may not look at it any more.
        self.asked.send(decode(&header).unwrap()).ok();
        let response = match self.mode {
            Mode::Answers => Response::Done,
            Mode::Refuses => Response::Refused(Refusal::NoLeader),
            Mode::Hangs => std::future::pending().await,
        };
        Answer { header: encode(&response), payload: Vec::new() }
    }
}
