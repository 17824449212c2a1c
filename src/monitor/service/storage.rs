//! Servers come, live, and say what they have.

use super::origin::Origin;
use super::reign::{Reign, State};
use super::unreadable;
use crate::monitor::namespace::command::{Action, Outcome};
use crate::monitor::namespace::query;
use crate::types::{Epoch, ServerId, TicketKey};
use crate::wire::metadata::{Refusal, Response};
use crate::wire::servers::{Beat, Beaten, Inventory, Register, Registered};

/// Most shards a server is told to delete in one beat.
const REAP_MAX: usize = 4096;

impl Reign {
    pub(super) async fn register(
        &self,
        caller: &Origin,
        register: Register,
    ) -> Result<Response, Refusal> {
        let name = caller.identity().name.clone();
        log::info!("server {name} registers at {}", register.address);
        let key = TicketKey::generate();
        let action = Action::RegisterServer { name, register: register.clone(), key };
        let (server, epoch, key) = match self.submit(action).await? {
            Outcome::Server { server, epoch, key } => (server, epoch, key),
            Outcome::Refused(why) => return Err(Refusal::Malformed(why)),
            other => {
                let why = format!("a server was registered and answered with {other:?}");
                return Err(Refusal::Malformed(why));
            }
        };
        {
            let now = self.clock.monotonic();
            let mut state = self.state.lock();
            let Register { address, domain, usage, .. } = register;
            state.servers.known(server, epoch, address, domain, usage, now);
            state.ticket_keys.insert(server, key);
            state.registered_on(caller, (server, epoch));
        }
        let state = query::op_seq(&*self.store).map_err(unreadable)?;
        let monitors = self.monitors()?;
        Ok(Response::Registered(Registered { server, epoch, key, state, monitors }))
    }

    pub(super) async fn beat(&self, caller: &Origin, beat: Beat) -> Result<Response, Refusal> {
        let Beat { server, epoch, usage, trouble, reaped, lost } = beat;
        self.confirm_leadership().await?;
        self.check_server(caller, server)?;
        let known = {
            let mut state = self.state.lock();
            let now = self.clock.monotonic();
            let known = state.servers.beat(server, epoch, usage, &lost, now);
            if known.is_some() {
                state.servers.troubled(server, trouble);
                state.registered_on(caller, (server, epoch));
            }
            known
        };
        if !lost.is_empty() {
            log::error!(
                "server {server} lost {} shards: they are read from the others",
                lost.len()
            );
        }
        if known.is_some() && !reaped.is_empty() {
            self.submit(Action::Reaped { server, shards: reaped }).await?;
        }
        let reap = match known {
            Some(_) => {
                query::reap_list(&*self.store, server, None, REAP_MAX).map_err(unreadable)?
            }
            None => Vec::new(),
        };
        Ok(Response::Beaten(Beaten {
            reap,
            list: known == Some(true),
            register: known.is_none(),
            state: query::op_seq(&*self.store).map_err(unreadable)?,
            monitors: self.monitors()?,
        }))
    }

    /// Compares a portion of what a server has with what it should have.
    pub(super) async fn inventory(
        &self,
        caller: &Origin,
        inventory: Inventory,
    ) -> Result<Response, Refusal> {
        self.confirm_leadership().await?;
        let Inventory { server, epoch, from, to, shards, as_of } = inventory;
        self.check_server(caller, server)?;
        let frozen = self.store.snapshot();
        // What was committed after the server began to list may be there and not on the list.
        let missing =
            query::missing(&*frozen, server, from, to, as_of, &shards).map_err(unreadable)?;
        if !missing.is_empty() {
            log::error!("server {server} misses {} shards that it should have", missing.len());
        }
        // A state that is older than one that the server was told before may have forgotten what is no garbage.
        let is_behind = query::op_seq(&*frozen).map_err(unreadable)? < as_of;
        let present = if is_behind { &[][..] } else { &shards };
        let garbage = query::garbage(&*frozen, server, present).map_err(unreadable)?;
        self.state.lock().servers.listed(server, epoch, from, to, missing);
        Ok(Response::Garbage(garbage))
    }
}

impl State {
    /// A server speaks on that connection. (What is told of a connection after its end would stay for ever.)
    fn registered_on(&mut self, caller: &Origin, member: (ServerId, Epoch)) {
        if !caller.is_closed() {
            self.registered.insert(caller.id(), member);
        }
    }
}
