//! Questions about members, tokens and clients.

use super::super::keys;
use super::super::records::{Authority, Member, Token};
use super::super::txn::{get, scan};
use crate::crypto::Role;
use crate::monitor::store::{Read, StoreError};
use crate::types::{ClientPolicy, TokenHash};

/// The authority, its key sealed; `None` before the cluster has begun.
///
/// # Errors
///
/// When the store fails.
pub fn authority(read: &dyn Read) -> Result<Option<Authority>, StoreError> {
    get(read, &keys::authority())
}

/// A member, if it is known.
///
/// # Errors
///
/// When the store fails.
pub fn member(read: &dyn Read, role: Role, name: &str) -> Result<Option<Member>, StoreError> {
    get(read, &keys::member(role, name))
}

/// Whether the node of that agent may run a monitor. One that is not known was made by `okapifs init`.
///
/// # Errors
///
/// When the store fails.
pub fn may_monitor(read: &dyn Read, agent: &str) -> Result<bool, StoreError> {
    Ok(member(read, Role::Agent, agent)?.is_none_or(|member| member.may_monitor))
}

/// What a client may do.
///
/// # Errors
///
/// When the store fails.
pub fn client_policy(read: &dyn Read, name: &str) -> Result<ClientPolicy, StoreError> {
    Ok(get(read, &keys::client(name))?.map_or_else(ClientPolicy::default, |client| client.policy))
}

/// All tokens.
///
/// # Errors
///
/// When the store fails.
pub fn tokens(read: &dyn Read) -> Result<Vec<(TokenHash, Token)>, StoreError> {
    scan(read, &keys::all::<Token>()).collect()
}

/// All clients that are known: their names, what they may do, and whether they were revoked.
///
/// # Errors
///
/// When the store fails.
pub fn clients(read: &dyn Read) -> Result<Vec<(String, ClientPolicy, bool)>, StoreError> {
    let mut clients = Vec::new();
    for found in scan(read, &keys::members(Role::Client)) {
        let ((_, name), member) = found?;
        let policy = client_policy(read, &name)?;
        clients.push((name, policy, member.revoked));
    }
    Ok(clients)
}
