//! From the wire to the right hands: decode, check who asks, dispatch, encode.
//!
//! A call of a client, a server or an administrator goes to the reign, if this monitor leads, and on to the
//! leader, if it does not; so does a call of a guest, who has no valid certificate. What other monitors say comes
//! through [`super::peers`].

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

use super::Monitor;
use super::origin::{Origin, OriginId, of_cluster};
use super::reign::Reign;
use crate::crypto::{Identity, Role};
use crate::env::system::rpc::{Answer, Caller, Guest, Service};
use crate::wire::metadata::{MUTATIONS_MAX, Refusal, Request, Response};
use crate::wire::peers::{self, Forward};
use crate::wire::{decode, encode, try_encode};

impl Service for Monitor {
    fn opened(&self, caller: &Arc<Caller>) {
        self.audience.joined(caller);
    }

    async fn call(self: Arc<Self>, caller: Arc<Caller>, header: Vec<u8>, payload: Bytes) -> Answer {
        if caller.identity.role == Role::Monitor {
            return self.answer_peer(&caller, &header, &payload).await;
        }
        if is_ping(&header) {
            let room = self.consensus.group().room;
            return Answer { header: encode(&Response::Alive(room)), payload: Vec::new() };
        }
        let header = match self.reign().await {
            Some(reign) => reign.serve(&Origin::Direct(caller), &header).await,
            None => self.forwarding.call(&caller, header).await.unwrap_or_else(no_leader),
        };
        Answer { header, payload: Vec::new() }
    }

    async fn guest_call(self: Arc<Self>, guest: Arc<Guest>, header: Vec<u8>) -> Option<Answer> {
        let guest = guest.identity.as_ref();
        let header = match self.reign().await {
            Some(reign) => reign.serve_guest(guest, &header).await,
            None => self.forwarding.guest_call(guest, header).await.unwrap_or_else(no_leader),
        };
        Some(Answer { header, payload: Vec::new() })
    }

    fn closed(&self, caller: &Caller) {
        self.audience.left(caller);
        self.forwarding.closed(caller);
        let mut gone = self.relays.peer_gone(caller.id);
        gone.push(OriginId::Direct(caller.id));
        if let Some(reign) = &*self.reign.borrow() {
            gone.into_iter().for_each(|origin| reign.closed(origin));
        }
    }
}

impl Monitor {
    /// Answers another monitor that speaks for others; the rest of what it may ask is for [`super::peers`].
    async fn answer_peer(&self, peer: &Arc<Caller>, header: &[u8], payload: &[u8]) -> Answer {
        match decode(header) {
            Ok(peers::Request::Forward(forward)) => self.answer_for(peer, &forward, payload).await,
            Ok(peers::Request::ForwardClosed { origin }) => {
                let gone = self.relays.ended(peer.id, origin);
                if let (Some(origin), Some(reign)) = (gone, &*self.reign.borrow()) {
                    reign.closed(origin);
                }
                to_peer(&peers::Response::Done)
            }
            Ok(peers::Request::ForwardGuest { identity }) => {
                self.answer_guest_of(peer, identity.as_deref(), payload).await
            }
            _ => to_peer(&peers::Response::Unable("nobody here can answer that".to_owned())),
        }
    }

    /// Answers a call that another monitor passes on. It is not passed on again: that could go round in circles.
    async fn answer_for(&self, peer: &Arc<Caller>, forward: &Forward, call: &[u8]) -> Answer {
        let reign = self.reign().await;
        let answer = match (reign, self.relays.origin(peer, forward)) {
            (Some(reign), Some(origin)) => reign.serve(&origin, call).await,
            _ => no_leader(),
        };
        forwarded(answer)
    }

    /// Answers a call of another monitor's guest.
    async fn answer_guest_of(&self, peer: &Caller, guest: Option<&str>, call: &[u8]) -> Answer {
        let Ok(guest) = guest.map(|name| of_cluster(peer, name).ok_or(())).transpose() else {
            let why = "the guest was never a member of this cluster".to_owned();
            return to_peer(&peers::Response::Unable(why));
        };
        forwarded(match self.reign().await {
            Some(reign) => reign.serve_guest(guest.as_ref(), call).await,
            None => no_leader(),
        })
    }
}

impl Reign {
    /// Answers an encoded call with an encoded answer. It has one as soon as the reign is over.
    async fn serve(self: &Arc<Self>, caller: &Origin, call: &[u8]) -> Vec<u8> {
        let answering = async { self.answer(caller, understood(call)?).await };
        encoded(self.while_it_lasts(answering).await)
    }

    /// [`Self::serve`] for somebody without a valid certificate; `guest` is who that was until its certificate
    /// expired, if it has one.
    async fn serve_guest(&self, guest: Option<&Identity>, call: &[u8]) -> Vec<u8> {
        let answering = async { self.answer_guest(guest, understood(call)?).await };
        let answer = self.while_it_lasts(answering).await;
        if let Err(refusal) = &answer {
            log::warn!("a guest ({guest:?}) was refused: {refusal}");
        }
        encoded(answer)
    }

    async fn while_it_lasts<T>(
        &self,
        answering: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        tokio::select! {
            biased;
            answer = answering => answer,
            () = self.ended() => Err(Refusal::NoLeader),
        }
    }

    async fn answer(
        self: &Arc<Self>,
        caller: &Origin,
        request: Request,
    ) -> Result<Response, Refusal> {
        authorize(caller.identity().role, &request)?;
        self.check_not_revoked(caller.identity(), &request)?;
        match request {
            Request::OpenSession { client, nonce } => {
                self.open_session(caller, client, nonce).await
            }
            Request::Attach(attach) => self.attach(caller, attach).await,
            Request::CloseSession(session) => self.close_own_session(caller, session).await,
            Request::Renew(renew) => self.renew(caller, &renew).await,
            Request::Mutate { session, mutations } => {
                self.check_attached(caller, session).await?;
                check_batch(mutations.len())?;
                let mutated = self.mutate(session, mutations);
                let (replies, after) = while_connected(caller, mutated).await?;
                Ok(Response::Mutated(replies, after))
            }
            Request::OldReplies { session, evicted, operations } => {
                self.check_attached(caller, session).await?;
                check_batch(operations.len())?;
                self.old_replies(session, evicted, &operations).await
            }
            Request::Query { session, queries } => {
                self.check_attached(caller, session).await?;
                check_batch(queries.len())?;
                let answers = self.ask_all(session, &queries);
                let (answers, leased) = while_connected(caller, answers).await?;
                Ok(Response::Answers(answers, leased))
            }
            Request::Unpin { session, pins } => {
                self.check_attached(caller, session).await?;
                self.unpin(session, pins).await
            }
            Request::GiveBack(back) => {
                self.check_attached(caller, back.session).await?;
                self.given_back(back)
            }
            Request::AwaitLocks { session, waits } => {
                self.check_attached(caller, session).await?;
                self.await_locks(session, &waits).await
            }
            Request::ForgetLocks { session, tickets } => {
                self.check_attached(caller, session).await?;
                self.forget_locks(session, &tickets)
            }
            Request::SessionsOfNode { node } => self.sessions_of_node(caller, &node).await,
            Request::EvictDead { session, node } => self.evict_dead(caller, session, &node).await,
            Request::Register(register) => self.register(caller, register).await,
            Request::Beat(beat) => self.beat(caller, beat).await,
            Request::Inventory(inventory) => self.inventory(caller, inventory).await,
            Request::Admin(request) => {
                self.administer(caller.identity(), request).await.map(Response::Admin)
            }
            // Answered by every monitor for itself, before it comes here.
            Request::Ping => Ok(Response::Alive(self.group().room)),
            Request::RenewCertificate { request } => {
                self.renew_certificate(caller.identity(), &request).await
            }
            Request::Enroll(enroll) => self.enroll(caller.identity(), enroll).await,
            Request::AgentBeat(beat) => self.agent_beat(caller.identity(), beat),
            // Whoever has a certificate is a member already.
            Request::Join(_) => Err(Refusal::Forbidden),
        }
    }
}

/// Whether somebody only asks whether this very monitor is there: what the leader would say is no answer to that.
fn is_ping(call: &[u8]) -> bool {
    call == encode(&Request::Ping)
}

fn understood(call: &[u8]) -> Result<Request, Refusal> {
    decode(call).map_err(|error| Refusal::Malformed(error.to_string()))
}

fn encoded(answer: Result<Response, Refusal>) -> Vec<u8> {
    try_encode(&answer.unwrap_or_else(Response::Refused)).unwrap_or_else(|| {
        let why = "the answer is too long: ask for less at a time".to_owned();
        encode(&Response::Refused(Refusal::Malformed(why)))
    })
}

/// The answer of a monitor that neither leads nor knows who does.
fn no_leader() -> Vec<u8> {
    encode(&Response::Refused(Refusal::NoLeader))
}

/// The answer to a call that was passed on.
fn forwarded(answer: Vec<u8>) -> Answer {
    let header = encode(&peers::Response::Forwarded);
    Answer { header, payload: vec![answer.into()] }
}

fn to_peer(response: &peers::Response) -> Answer {
    Answer { header: encode(response), payload: Vec::new() }
}

/// A call may wait long for a holder or a fence: not when nobody is there any more to be answered. What was
/// put into the log goes on, and whoever comes back asks again.
async fn while_connected<T>(
    caller: &Origin,
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
        Request::Ping | Request::RenewCertificate { .. } => true,
        Request::AgentBeat(_) => role == Role::Agent,
        Request::Enroll(_) => matches!(role, Role::Agent | Role::Client),
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
