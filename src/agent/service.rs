//! Answering who asks the agent: who may ask what.

use std::sync::Arc;

use bytes::Bytes;

use super::supervisor::Handle;
use crate::crypto::{Identity, Role};
use crate::env::system::rpc;
use crate::wire::agent::{Refusal, Request, Response};
use crate::wire::{decode, encode};

/// The client that may administrate: the name in the certificate that `okapifs init` makes for it.
pub const ADMINISTRATOR: &str = "admin";

/// The agent as others see it.
pub(super) struct Service {
    pub(super) handle: Handle,
    /// The agent's name, which is that of its node: the node's own client may have it looked after.
    pub(super) node: String,
}

impl Service {
    async fn answer(&self, caller: &Identity, header: &[u8]) -> Result<Response, Refusal> {
        let request = decode(header).map_err(|error| Refusal::Malformed(error.to_string()))?;
        if !is_allowed(caller, &self.node, &request) {
            return Err(Refusal::Forbidden);
        }
        match request {
            Request::Status => self.handle.status().await.map(Response::Status),
            Request::Restart { unit, seen_start } => {
                self.handle.restart(unit, seen_start).await.map(Response::Restart)
            }
            Request::Refresh => match self.handle.refresh().await {
                Some(Err(why)) => return Err(Refusal::Directory(why)),
                looked => looked.map(|_| Response::Done),
            },
        }
        .ok_or(Refusal::Ending)
    }
}

impl rpc::Service for Service {
    async fn call(
        self: Arc<Self>,
        caller: Arc<rpc::Caller>,
        header: Vec<u8>,
        _payload: Bytes,
    ) -> rpc::Answer {
        let answered = self.answer(&caller.identity, &header).await;
        let response = answered.unwrap_or_else(Response::Refused);
        rpc::Answer { header: encode(&response), payload: Vec::new() }
    }
}

fn is_allowed(caller: &Identity, node: &str, request: &Request) -> bool {
    let is_administrator =
        caller.role == Role::Client && [ADMINISTRATOR, node].contains(&&*caller.name);
    match (request, caller.role) {
        (_, Role::Server) => false,
        (Request::Status, _) => true,
        (Request::Restart { .. }, Role::Monitor) => true,
        (Request::Restart { .. } | Request::Refresh, _) => is_administrator,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ClusterId;

    #[test]
    fn only_siblings_and_administrators_may_restart() {
        let restart = Request::Restart { unit: "monitor-1".to_owned(), seen_start: 1 };
        let may = |role, name: &str, request: &Request| {
            let caller = Identity { cluster: ClusterId(1), role, name: name.to_owned() };
            is_allowed(&caller, "node", request)
        };
        assert!(may(Role::Monitor, "monitor-2", &restart));
        assert!(may(Role::Client, ADMINISTRATOR, &restart));
        assert!(may(Role::Client, "node", &restart), "it is its own");
        assert!(!may(Role::Client, "laptop", &restart));
        assert!(!may(Role::Server, "server-1", &restart));
        assert!(!may(Role::Agent, "node", &restart), "agents have no business with one another");
        assert!(may(Role::Client, "laptop", &Request::Status));
        assert!(!may(Role::Server, ADMINISTRATOR, &Request::Status));
        assert!(may(Role::Client, ADMINISTRATOR, &Request::Refresh));
        assert!(!may(Role::Agent, ADMINISTRATOR, &Request::Refresh));
    }
}
