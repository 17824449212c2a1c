//! Who may be a member: the authority's key (sealed), tokens, the members' public keys, what clients may do.
//!
//! **The life of a token.** An administrator makes it; here arrives a hash of its secret, what it grants, and for
//! how long. Somebody shows the secret to a monitor, which proposes to redeem it. Of two who do so at the same
//! time the log has one first: it gets the token, its name and its policy in the same command, and the other
//! is told who was faster. The certificates are signed after that, outside of the state, for they need
//! randomness; should the answer be lost, the same machine asks again with the same keys and is answered again. A
//! token that nobody can use any more is forgotten some days later.
//!
//! A token of a node may bring a monitor, too: the first three machines of a cluster get one by themselves. Whether
//! this one does is decided here, where of two that join at the same time one is first.
//!
//! **The life of a member.** The public keys that it joined with are kept under its name, and its certificate is
//! renewed only for that key. One that was revoked stays on record for ever, so that its name means nobody
//! else later. Members that `okapifs init` made with the authority's backup at hand become known when they
//! renew for the first time.

use std::time::Duration;

use bincode::{Decode, Encode};

use super::command::Outcome;
use super::inodes::At;
use super::keys;
use super::monitors;
use super::records::{Authority, Client, Member, Server, Token};
use super::txn::{Txn, exists, get, scan};
use crate::crypto::Role;
use crate::monitor::store::StoreError;
use crate::types::{
    ClientPolicy, KeyHash, MonitorGrant, MonitorId, Timestamp, TokenGrant, TokenHash, TokenRole,
    TokenUse,
};
use crate::wire::trust::{TokenRefusal, monitor_name, server_name};

/// For how long a token that cannot be used any more is remembered.
const REMEMBERED: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Three monitors are the fewest of which one may fail.
const FEW_MONITORS: usize = 3;
/// How many tokens one command forgets at most.
const FORGOTTEN_MAX: usize = 64;

/// A command about members.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum TrustAction {
    /// The cluster begins with this. Later ones do nothing.
    Found(Founding),
    /// A new token.
    AddToken {
        /// Of its secret.
        hash: TokenHash,
        /// For how long it may be redeemed, in seconds.
        lifetime_s: u64,
        /// What it grants.
        grant: TokenGrant,
    },
    /// A token is not to be redeemed.
    RevokeToken(TokenHash),
    /// Somebody shows a token.
    Redeem {
        /// Of its secret.
        hash: TokenHash,
        /// What the redeemer would like to be called.
        name: String,
        /// Its public keys, one a certificate it would like to have.
        keys: Vec<KeyHash>,
    },
    /// A node that is a member already runs a monitor, too.
    Enroll {
        /// What the monitor is to be called.
        name: String,
        /// Its public key.
        key: KeyHash,
        /// Which monitor goes when this one has taken its place.
        replaces: Option<MonitorId>,
    },
    /// A member renews its certificate.
    Renew(MemberKey),
    /// What a client may do.
    SetClient {
        /// Its name.
        name: String,
        /// What it may do.
        policy: ClientPolicy,
    },
    /// A member may do nothing any more, for ever.
    Revoke {
        /// Its role.
        role: Role,
        /// Its name.
        name: String,
    },
}

/// What a cluster begins with.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Founding {
    /// The authority's certificate, in PEM.
    pub authority: String,
    /// The authority's key, sealed.
    pub sealed_key: Vec<u8>,
    /// The members that were made together with it.
    pub members: Vec<MemberKey>,
    /// The first token, and until when it may be redeemed.
    pub token: Option<(TokenHash, TokenGrant, Timestamp)>,
}

/// A member and its public key.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct MemberKey {
    /// Its role.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// Its public key.
    pub key: KeyHash,
}

/// What came of a [`TrustAction`].
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum TrustOutcome {
    /// Done; nothing more to say.
    Done,
    /// A token was made.
    Token {
        /// When it expires.
        expires: Timestamp,
    },
    /// A token was redeemed.
    Redeemed {
        /// What the redeemer became.
        role: TokenRole,
        /// What it is called.
        name: String,
        /// Whether it runs a monitor.
        monitor: bool,
    },
    /// A monitor may come.
    Enrolled {
        /// What it is called.
        name: String,
    },
    /// A token is not accepted.
    Refused(TokenRefusal),
    /// The member was revoked, or has another key.
    Revoked,
    /// There is no such thing.
    Unknown,
}

/// The certificates that come with a role, for a redeemer of that name. A node's may be asked for without the last
/// one, that of its monitor.
pub fn certificates(role: TokenRole, name: &str) -> Vec<(Role, String)> {
    match role {
        TokenRole::Node => vec![
            (Role::Agent, name.to_owned()),
            (Role::Server, server_name(name)),
            (Role::Client, name.to_owned()),
            (Role::Monitor, monitor_name(name)),
        ],
        TokenRole::Client => vec![(Role::Client, name.to_owned())],
    }
}

/// Applies a command.
pub(super) fn apply(
    txn: &mut Txn<'_>,
    at: At,
    action: &TrustAction,
) -> Result<Outcome, StoreError> {
    let outcome = match action {
        TrustAction::Found(founding) => found(txn, at, founding)?,
        TrustAction::AddToken { hash, lifetime_s, grant } => {
            forget_tokens(txn, at.time)?;
            let expires = later(at.time, *lifetime_s);
            let token = Token { grant: grant.clone(), expires, used: None, birth: at.op };
            txn.put(&keys::token(*hash), &token);
            TrustOutcome::Token { expires }
        }
        TrustAction::RevokeToken(hash) => {
            let known = exists(txn, &keys::token(*hash))?;
            txn.delete(&keys::token(*hash));
            if known { TrustOutcome::Done } else { TrustOutcome::Unknown }
        }
        TrustAction::Redeem { hash, name, keys } => redeem(txn, at, *hash, name, keys)?,
        TrustAction::Enroll { name, key, replaces } => enroll(txn, at, name, *key, *replaces)?,
        TrustAction::Renew(member) => renew(txn, at, member)?,
        TrustAction::SetClient { name, policy } => {
            if get(txn, &keys::member(Role::Client, name))?.is_none_or(|member| member.revoked) {
                TrustOutcome::Unknown
            } else {
                let client = Client { policy: policy.clone(), birth: at.op };
                txn.put(&keys::client(name), &client);
                TrustOutcome::Done
            }
        }
        TrustAction::Revoke { role, name } => revoke(txn, at, *role, name)?,
    };
    Ok(Outcome::Trust(outcome))
}

fn found(txn: &mut Txn<'_>, at: At, founding: &Founding) -> Result<TrustOutcome, StoreError> {
    if exists(txn, &keys::authority())? {
        return Ok(TrustOutcome::Done);
    }
    let Founding { authority, sealed_key, members, token } = founding.clone();
    let authority = Authority { certificate: authority, sealed_key, birth: at.op };
    txn.put(&keys::authority(), &authority);
    for member in &members {
        put_member(txn, at, member, true);
    }
    if let Some((hash, grant, expires)) = token {
        txn.put(&keys::token(hash), &Token { grant, expires, used: None, birth: at.op });
    }
    Ok(TrustOutcome::Done)
}

fn redeem(
    txn: &mut Txn<'_>,
    at: At,
    hash: TokenHash,
    wanted: &str,
    keys: &[KeyHash],
) -> Result<TrustOutcome, StoreError> {
    let Some(mut token) = get(txn, &keys::token(hash))? else {
        return Ok(TrustOutcome::Refused(TokenRefusal::Unknown));
    };
    let role = token.grant.role;
    if let Some(used) = token.used {
        return Ok(match used.keys == keys {
            true => {
                let monitor = keys.get(3).copied();
                let monitor = monitor.is_some() && key_of_monitor(txn, &used.name)? == monitor;
                TrustOutcome::Redeemed { role, name: used.name, monitor }
            }
            false => TrustOutcome::Refused(TokenRefusal::Used(used)),
        });
    }
    if at.time > token.expires {
        return Ok(TrustOutcome::Refused(TokenRefusal::Expired(token.expires)));
    }
    let wanted = token.grant.name.as_deref().unwrap_or(wanted);
    let name = free_name(txn, wanted)?;
    let members = certificates(role, &name);
    let fewest = if role == TokenRole::Node { members.len() - 1 } else { members.len() };
    if !(fewest..=members.len()).contains(&keys.len()) {
        return Ok(TrustOutcome::Refused(TokenRefusal::OtherRole));
    }
    let grant = token.grant.monitor;
    let may_monitor = grant != MonitorGrant::Never;
    let gets_monitor = match grant {
        MonitorGrant::Never => false,
        MonitorGrant::WhileFew => monitors::wanted(txn)? < FEW_MONITORS,
        MonitorGrant::Always => true,
    };
    let mut monitor = false;
    for ((role, name), key) in members.into_iter().zip(keys) {
        if role == Role::Monitor {
            monitor = gets_monitor;
            if !gets_monitor {
                break;
            }
            monitors::expect(txn, at, &name);
        }
        put_member(txn, at, &MemberKey { role, name, key: *key }, may_monitor);
    }
    let client = Client { policy: token.grant.policy.clone(), birth: at.op };
    txn.put(&keys::client(&name), &client);
    token.used = Some(TokenUse { name: name.clone(), time: at.time, keys: keys.to_vec() });
    txn.put(&keys::token(hash), &token);
    Ok(TrustOutcome::Redeemed { role, name, monitor })
}

/// The same key asks again when its answer was lost.
fn enroll(
    txn: &mut Txn<'_>,
    at: At,
    wanted: &str,
    key: KeyHash,
    replaces: Option<MonitorId>,
) -> Result<TrustOutcome, StoreError> {
    let mut names = (1u64..).map(|number| numbered(wanted, number));
    let name = loop {
        let name = names.next().expect("numbers do not end");
        match get(txn, &keys::member(Role::Monitor, &name))? {
            Some(member) if member.key == Some(key) && !member.revoked => {
                return Ok(TrustOutcome::Enrolled { name });
            }
            None if !monitors::is_taken(txn, &name)? => break name,
            _ => {}
        }
    };
    if let Some(lost) = replaces
        && !monitors::give_up(txn, at, lost)?
    {
        return Ok(TrustOutcome::Unknown);
    }
    monitors::expect(txn, at, &name);
    let member = MemberKey { role: Role::Monitor, name: name.clone(), key };
    put_member(txn, at, &member, true);
    Ok(TrustOutcome::Enrolled { name })
}

fn key_of_monitor(txn: &Txn<'_>, node: &str) -> Result<Option<KeyHash>, StoreError> {
    let member = get(txn, &keys::member(Role::Monitor, &monitor_name(node)))?;
    Ok(member.and_then(|member| member.key))
}

/// The wanted name, with a number behind it when it is taken.
fn free_name(txn: &Txn<'_>, wanted: &str) -> Result<String, StoreError> {
    let mut number = 1;
    while is_taken(txn, &numbered(wanted, number))? {
        number += 1;
    }
    Ok(numbered(wanted, number))
}

fn numbered(name: &str, number: u64) -> String {
    if number == 1 { name.to_owned() } else { format!("{name}-{number}") }
}

/// Whether that is some machine's name, in whatever role: the client that is called like a node is that node's own, and
/// its agent obeys it.
fn is_taken(txn: &Txn<'_>, name: &str) -> Result<bool, StoreError> {
    for (role, name) in certificates(TokenRole::Node, name) {
        // The certificates of these may be older than the record of members.
        let is_known = match role {
            Role::Server => has_registered(txn, &name)?,
            Role::Monitor => monitors::is_taken(txn, &name)?,
            Role::Agent | Role::Client => false,
        };
        if is_known || exists(txn, &keys::member(role, &name))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a server of that name stores shards.
fn has_registered(txn: &Txn<'_>, name: &str) -> Result<bool, StoreError> {
    for server in scan(txn, &keys::all::<Server>()) {
        if server?.1.name == name {
            return Ok(true);
        }
    }
    Ok(false)
}

fn renew(txn: &mut Txn<'_>, at: At, member: &MemberKey) -> Result<TrustOutcome, StoreError> {
    let MemberKey { role, name, key } = member;
    match get(txn, &keys::member(*role, name))? {
        Some(known) if known.revoked || known.key != Some(*key) => Ok(TrustOutcome::Revoked),
        Some(_) => Ok(TrustOutcome::Done),
        None => {
            put_member(txn, at, member, true);
            Ok(TrustOutcome::Done)
        }
    }
}

fn revoke(txn: &mut Txn<'_>, at: At, role: Role, name: &str) -> Result<TrustOutcome, StoreError> {
    let known = get(txn, &keys::member(role, name))?;
    let key = known.and_then(|member| member.key);
    let member = Member { key, revoked: true, may_monitor: false, birth: at.op };
    txn.put(&keys::member(role, name), &member);
    Ok(TrustOutcome::Done)
}

fn put_member(txn: &mut Txn<'_>, at: At, member: &MemberKey, may_monitor: bool) {
    let MemberKey { role, name, key } = member;
    let may_monitor = may_monitor && *role == Role::Agent;
    let member = Member { key: Some(*key), revoked: false, may_monitor, birth: at.op };
    txn.put(&keys::member(*role, name), &member);
}

fn forget_tokens(txn: &mut Txn<'_>, now: Timestamp) -> Result<(), StoreError> {
    let mut old = Vec::new();
    for found in scan(txn, &keys::all::<Token>()) {
        let (hash, token) = found?;
        if later(token.expires, REMEMBERED.as_secs()) < now {
            old.push(hash);
        }
        if old.len() == FORGOTTEN_MAX {
            break;
        }
    }
    for hash in old {
        txn.delete(&keys::token(hash));
    }
    Ok(())
}

fn later(time: Timestamp, seconds: u64) -> Timestamp {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    Timestamp { seconds: time.seconds.saturating_add(seconds), ..time }
}
