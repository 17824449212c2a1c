//! From the wire to the right hands: decode, check who asks, dispatch, encode.

use std::future::Future;
use std::sync::Arc;

use super::{Monitor, State};
use crate::crypto::Role;
use crate::env::system::rpc::{Answer, Caller, Guest, Service};
use crate::types::SessionId;
use crate::wire::metadata::{MUTATIONS_MAX, Refusal, Request, Response};
use crate::wire::{decode, encode, try_encode};

impl Service for Monitor {
    async fn call(
        self: Arc<Self>,
        caller: Arc<Caller>,
        header: Vec<u8>,
        _payload: bytes::Bytes,
    ) -> Answer {
        let response = match decode::<Request>(&header) {
            Ok(request) => self.answer(&caller, request).await.unwrap_or_else(Response::Refused),
            Err(error) => Response::Refused(Refusal::Malformed(error.to_string())),
        };
        let header = try_encode(&response).unwrap_or_else(|| {
            let why = "the answer is too long: ask for less at a time".to_owned();
            encode(&Response::Refused(Refusal::Malformed(why)))
        });
        Answer { header, payload: Vec::new() }
    }

    async fn guest_call(self: Arc<Self>, guest: Arc<Guest>, header: Vec<u8>) -> Option<Answer> {
        let answered = match decode::<Request>(&header) {
            Ok(request) => self.answer_guest(guest.identity.as_ref(), request).await,
            Err(error) => Err(Refusal::Malformed(error.to_string())),
        };
        let response = answered.unwrap_or_else(|refusal| {
            log::warn!("{guest:?} was refused: {refusal}");
            Response::Refused(refusal)
        });
        Some(Answer { header: encode(&response), payload: Vec::new() })
    }

    fn closed(&self, caller: &Caller) {
        let mut state = self.state.lock();
        let State { callers, restricted, .. } = &mut *state;
        callers.retain(|_, attached| attached.id != caller.id);
        restricted.retain(|session, _| callers.contains_key(session));
        if let Some((server, epoch)) = state.registered.remove(&caller.id) {
            let is_back = state.registered.values().any(|other| *other == (server, epoch));
            if !is_back {
                state.servers.disconnected(server, epoch);
            }
        }
    }
}

impl Monitor {
    async fn answer(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        request: Request,
    ) -> Result<Response, Refusal> {
        authorize(caller.identity.role, &request)?;
        self.check_not_revoked(&caller.identity, &request)?;
        match request {
            Request::OpenSession(client) => self.open_session(caller, client).await,
            Request::Attach(attach) => self.attach(caller, attach),
            Request::CloseSession(session) => self.close_own_session(caller, session).await,
            Request::Renew(renew) => self.renew(caller, &renew).await,
            Request::Mutate { session, mutations } => {
                self.check_attached(caller, session)?;
                check_batch(mutations.len())?;
                let mutated = self.mutate(session, mutations);
                while_connected(caller, mutated).await.map(Response::Mutated)
            }
            Request::Query { session, queries } => {
                self.check_attached(caller, session)?;
                check_batch(queries.len())?;
                let answers = self.ask_all(session, &queries);
                while_connected(caller, answers).await.map(Response::Answers)
            }
            Request::Unpin { session, pins } => {
                self.check_attached(caller, session)?;
                self.unpin(session, pins).await
            }
            Request::SessionsOfNode { node } => self.sessions_of_node(&node),
            Request::EvictDead { session, node } => self.evict_dead(session, &node).await,
            Request::Register(register) => self.register(caller, register).await,
            Request::Beat(beat) => self.beat(caller, beat).await,
            Request::Inventory(inventory) => self.inventory(inventory),
            Request::Admin(request) => {
                self.administer(&caller.identity, request).await.map(Response::Admin)
            }
            Request::RenewCertificate { request } => {
                self.renew_certificate(&caller.identity, &request).await
            }
            // Whoever has a certificate is a member already.
            Request::Join(_) => Err(Refusal::Forbidden),
        }
    }

    /// A session is used only over the connection that it is attached to, so that nobody speaks for another.
    pub(super) fn check_attached(
        &self,
        caller: &Caller,
        session: SessionId,
    ) -> Result<(), Refusal> {
        let attached = self.state.lock().callers.get(&session).is_some_and(|at| at.id == caller.id);
        attached.then_some(()).ok_or(Refusal::SessionClosed)
    }
}

/// A call may wait long for a holder or a fence: not when nobody is there any more to be answered. What was
/// put into the log goes on, and whoever comes back asks again.
async fn while_connected<T>(
    caller: &Caller,
    answer: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    tokio::select! {
        answer = answer => answer,
        () = caller.closed() => Err(Refusal::NoLeader),
    }
}

/// Which roles may ask what.
fn authorize(role: Role, request: &Request) -> Result<(), Refusal> {
    let allowed = match request {
        Request::Register(_) | Request::Beat(_) | Request::Inventory(_) => role == Role::Server,
        Request::RenewCertificate { .. } => true,
        _ => role == Role::Client,
    };
    allowed.then_some(()).ok_or(Refusal::Forbidden)
}

fn check_batch(length: usize) -> Result<(), Refusal> {
    if length <= MUTATIONS_MAX {
        Ok(())
    } else {
        Err(Refusal::Malformed(format!(
            "{length} operations in one request, {MUTATIONS_MAX} are allowed"
        )))
    }
}
