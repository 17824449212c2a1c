//! Who becomes a member, and who stays one.
//!
//! Every monitor can issue certificates: the authority's key is in the replicated state, sealed, and each monitor
//! has the sealing key in a file ([`Vault`]). What a token is worth, and which keys members have, is decided
//! by commands in the log ([`crate::monitor::namespace::trust`]); what is done here is to check who asks, and to
//! sign.
//!
//! A monitor that starts renews its own certificate by itself, before it talks to anybody: so monitors that were
//! off for months find one another again, and everybody else gets a new certificate from them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::reign::Reign;
use super::{Monitor, unreadable};
use crate::crypto::{self, Authority, AuthorityError, Credentials, Identity, Role};
use crate::env::system::credentials::{self, LoadError};
use crate::monitor::namespace::command::{Action, Outcome};
use crate::monitor::namespace::query;
use crate::monitor::namespace::records::Token;
use crate::monitor::namespace::trust::{MemberKey, TrustAction, TrustOutcome, certificates};
use crate::monitor::store::{Read, StoreError};
use crate::types::{ClientPolicy, IdRange, TokenHash};
use crate::wire::admin;
use crate::wire::metadata::{Refusal, Request, Response};
use crate::wire::trust::{self, ClientEntry, Enroll, Enrolled, Join, Joined, TokenEntry};

/// Most certificates that one join may ask for.
const REQUESTS_MAX: usize = 4;
/// For how long a token may be redeemed at most.
const LIFETIME_MAX_S: u64 = 30 * 24 * 60 * 60;
/// How often a monitor looks whether its own certificate is to be renewed.
const LOOK: Duration = Duration::from_secs(60 * 60);

/// What a monitor needs to issue certificates.
pub(super) struct Vault {
    dir: PathBuf,
    credentials: Credentials,
    authority: OnceLock<Arc<Authority>>,
}

/// Why a monitor cannot issue certificates.
#[derive(Debug, thiserror::Error)]
enum VaultError {
    #[error("there is no sealing key in {}: copy tls/seal.key from another monitor", .0.display())]
    NoSealKey(PathBuf),
    #[error("the cluster's certificate authority is not part of its state")]
    NoAuthority,
    #[error(transparent)]
    SealKey(#[from] LoadError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Vault {
    /// Of the monitor whose directory `dir` is.
    pub(super) fn new(dir: &Path, credentials: Credentials) -> Self {
        Self { dir: dir.to_owned(), credentials, authority: OnceLock::new() }
    }

    /// The authority, opened at its first use: a monitor that joins is given the sealing key when it is
    /// admitted.
    fn authority(&self, state: &dyn Read) -> Result<Arc<Authority>, VaultError> {
        if let Some(authority) = self.authority.get() {
            return Ok(Arc::clone(authority));
        }
        let sealed = query::authority(state)?.ok_or(VaultError::NoAuthority)?;
        let no_key = || VaultError::NoSealKey(self.dir.join("tls"));
        let key = credentials::load_seal_key(&self.dir)?.ok_or_else(no_key)?;
        let opened = Authority::unseal(&sealed.certificate, &sealed.sealed_key, &key)?;
        Ok(Arc::clone(self.authority.get_or_init(|| Arc::new(opened))))
    }

    /// Renews this monitor's own certificate, if it is time. Should that fail, it goes on with the one it has:
    /// whoever connects says what is wrong with it.
    pub(super) fn renew_own(&self, state: &dyn Read) {
        let now = self.credentials.now();
        if !self.credentials.validity().is_due(now) {
            return;
        }
        match self.issue_own(state) {
            Ok(certificate) => self.take(&certificate),
            Err(error) => log::warn!("this monitor's certificate is not renewed: {error}"),
        }
    }

    fn issue_own(&self, state: &dyn Read) -> Result<String, VaultError> {
        let Identity { role, name, .. } = self.credentials.identity();
        let request = crypto::Request::from_der(&self.credentials.request()?)?;
        let authority = self.authority(state)?;
        Ok(authority.sign(&request, *role, name, self.credentials.now())?)
    }

    fn take(&self, certificate: &str) {
        match self.credentials.replace(certificate) {
            Ok(()) => log::info!("this monitor's certificate was renewed"),
            Err(error) => log::error!("this monitor's new certificate is of no use: {error}"),
        }
        let saved = credentials::save_certificate(&self.dir.join("tls"), certificate);
        if let Err(error) = saved {
            log::warn!("the new certificate is in memory only: {error}");
        }
    }
}

/// Keeps the monitor's own certificate valid, for ever.
pub(super) async fn keep_renewed(monitor: Arc<Monitor>) {
    loop {
        tokio::time::sleep(LOOK).await;
        monitor.member.vault.renew_own(&*monitor.store);
    }
}

impl Reign {
    /// Answers somebody who has no valid certificate. `guest` is whose certificate it was, if it has one
    /// that has expired.
    pub(super) async fn answer_guest(
        &self,
        guest: Option<&Identity>,
        request: Request,
    ) -> Result<Response, Refusal> {
        match (guest, request) {
            (None, Request::Join(join)) => self.join(join).await,
            (Some(member), Request::RenewCertificate { request }) => {
                self.renew_certificate(member, &request).await
            }
            (Some(_), _) => Err(Refusal::Expired),
            (None, _) => Err(Refusal::Forbidden),
        }
    }

    /// Redeems a token.
    async fn join(&self, join: Join) -> Result<Response, Refusal> {
        if join.requests.len() > REQUESTS_MAX {
            return Err(Refusal::Malformed("that are too many requests".to_owned()));
        }
        let requests: Result<Vec<_>, _> =
            join.requests.iter().map(|der| crypto::Request::from_der(der)).collect();
        let requests = requests.map_err(malformed)?;
        // Whoever cannot sign must not use up the token.
        let authority = self.authority()?;
        let action = TrustAction::Redeem {
            hash: TokenHash::of_secret(&join.secret),
            name: Identity::name_like(&join.name),
            keys: requests.iter().map(crypto::Request::key_hash).collect(),
        };
        let (role, name, monitor) = match self.submit_trust(action).await? {
            TrustOutcome::Redeemed { role, name, monitor } => (role, name, monitor),
            TrustOutcome::Refused(refusal) => return Err(refusal.into()),
            other => return Err(unexpected(&other)),
        };
        let now = self.clock.now();
        let mut issued = Vec::new();
        let granted = |(role, _): &(Role, String)| *role != Role::Monitor || monitor;
        let granted = certificates(role, &name).into_iter().filter(granted);
        for ((role, name), request) in granted.zip(&requests) {
            issued.push(authority.sign(request, role, &name, now).map_err(malformed)?);
        }
        log::info!(
            "{name} has joined the cluster{}",
            if monitor { ", with a monitor" } else { "" }
        );
        Ok(Response::Joined(Joined {
            cluster: self.member.cluster,
            name,
            authority: authority.cert_pem().to_owned(),
            certificates: issued,
            monitors: self.monitors()?,
        }))
    }

    /// A node that is a member is to run a monitor, too.
    pub(super) async fn enroll(&self, by: &Identity, enroll: Enroll) -> Result<Response, Refusal> {
        let Enroll { name, request, replaces } = enroll;
        match by.role {
            Role::Agent => self.check_ordered(&by.name, replaces)?,
            _ => self.check_administrator(by)?,
        }
        check_name(&name)?;
        let request = crypto::Request::from_der(&request).map_err(malformed)?;
        let authority = self.authority()?;
        let action = TrustAction::Enroll { name, key: request.key_hash(), replaces };
        let name = match self.submit_trust(action).await? {
            TrustOutcome::Enrolled { name } => name,
            TrustOutcome::Unknown => return Err(not_wanted()),
            other => return Err(unexpected(&other)),
        };
        let signed = authority.sign(&request, Role::Monitor, &name, self.clock.now());
        log::info!("{name} may become a monitor, as {by} asked");
        Ok(Response::Enrolled(Enrolled {
            name,
            authority: authority.cert_pem().to_owned(),
            certificate: signed.map_err(malformed)?,
            monitors: self.monitors()?,
        }))
    }

    /// A new certificate for a member whose current one was verified, expired or not.
    pub(super) async fn renew_certificate(
        &self,
        member: &Identity,
        request: &[u8],
    ) -> Result<Response, Refusal> {
        let request = crypto::Request::from_der(request).map_err(malformed)?;
        let Identity { role, name, .. } = member;
        let key = MemberKey { role: *role, name: name.clone(), key: request.key_hash() };
        match self.submit_trust(TrustAction::Renew(key)).await? {
            TrustOutcome::Done => {}
            TrustOutcome::Revoked => return Err(Refusal::Revoked),
            other => return Err(unexpected(&other)),
        }
        let signed = self.authority()?.sign(&request, *role, name, self.clock.now());
        log::info!("the certificate of {member} was renewed");
        signed.map(Response::Certificate).map_err(malformed)
    }

    /// Refuses a member that was revoked. What it asks for every moment is not checked: a session of a client
    /// that is revoked is closed then.
    pub(super) fn check_not_revoked(
        &self,
        member: &Identity,
        request: &Request,
    ) -> Result<(), Refusal> {
        let begins = matches!(
            request,
            Request::OpenSession { .. }
                | Request::Attach(_)
                | Request::Register(_)
                | Request::Admin(_)
                | Request::Enroll(_)
                | Request::AgentBeat(_)
        );
        if begins && self.is_revoked(member)? {
            return Err(Refusal::Revoked);
        }
        Ok(())
    }

    fn is_revoked(&self, member: &Identity) -> Result<bool, Refusal> {
        let known = query::member(&*self.store, member.role, &member.name).map_err(unreadable)?;
        Ok(known.is_some_and(|member| member.revoked))
    }

    /// Refuses a client that may not change the cluster.
    pub(super) fn check_administrator(&self, client: &Identity) -> Result<(), Refusal> {
        let policy = self.policy_of(&client.name)?;
        policy.admin.then_some(()).ok_or(Refusal::Forbidden)
    }

    /// Refuses commands to a client that does not administrate; and, if it is kept to a directory, questions about
    /// files and stripes too: they do not stop at its edge.
    pub(super) fn check_may_ask(
        &self,
        client: &Identity,
        request: &admin::Request,
    ) -> Result<(), Refusal> {
        let policy = self.policy_of(&client.name)?;
        let may = match request {
            admin::Request::RemoveMonitor { .. } | admin::Request::Trust(_) => policy.admin,
            admin::Request::Status { .. } | admin::Request::Placement => true,
            _ => policy.admin || policy.subtree.is_empty(),
        };
        may.then_some(()).ok_or(Refusal::Forbidden)
    }

    /// What administrators ask about tokens and clients.
    pub(super) async fn administer_trust(
        &self,
        request: trust::Request,
    ) -> Result<trust::Response, Refusal> {
        let action = match request {
            trust::Request::Tokens => return self.tokens(),
            trust::Request::Clients => return self.clients(),
            trust::Request::AddToken { hash, lifetime_s, grant } => {
                if let Some(name) = &grant.name {
                    check_name(name)?;
                }
                check_policy(&grant.policy)?;
                let lifetime_s = lifetime_s.min(LIFETIME_MAX_S);
                TrustAction::AddToken { hash, lifetime_s, grant }
            }
            trust::Request::RevokeToken(hash) => TrustAction::RevokeToken(hash),
            trust::Request::SetClient { name, policy } => {
                check_policy(&policy)?;
                return self.set_client(name, policy).await;
            }
            trust::Request::RevokeClient { name } => return self.revoke_client(name).await,
        };
        match self.submit_trust(action).await? {
            TrustOutcome::Done => Ok(trust::Response::Done),
            TrustOutcome::Token { expires } => Ok(trust::Response::TokenAdded { expires }),
            TrustOutcome::Unknown => Err(Refusal::Malformed("there is no such token".to_owned())),
            other => Err(unexpected(&other)),
        }
    }

    fn tokens(&self) -> Result<trust::Response, Refusal> {
        let tokens = query::tokens(&*self.store).map_err(unreadable)?;
        let entry = |(hash, token): (TokenHash, _)| {
            let Token { grant, expires, used, .. } = token;
            TokenEntry { hash, grant, expires, used }
        };
        Ok(trust::Response::Tokens(tokens.into_iter().map(entry).collect()))
    }

    fn clients(&self) -> Result<trust::Response, Refusal> {
        let clients = query::clients(&*self.store).map_err(unreadable)?;
        let entry = |(name, policy, revoked)| ClientEntry { name, policy, revoked };
        Ok(trust::Response::Clients(clients.into_iter().map(entry).collect()))
    }

    async fn set_client(
        &self,
        name: String,
        policy: ClientPolicy,
    ) -> Result<trust::Response, Refusal> {
        let action = TrustAction::SetClient { name: name.clone(), policy };
        match self.submit_trust(action).await? {
            TrustOutcome::Done => {}
            TrustOutcome::Unknown => return Err(no_client(&name)),
            other => return Err(unexpected(&other)),
        }
        self.restrict_sessions_of(&name)?;
        Ok(trust::Response::Done)
    }

    /// A client that is revoked loses its sessions with everything that it has not committed.
    async fn revoke_client(&self, name: String) -> Result<trust::Response, Refusal> {
        let known = query::member(&*self.store, Role::Client, &name).map_err(unreadable)?;
        if known.is_none() {
            return Err(no_client(&name));
        }
        let action = TrustAction::Revoke { role: Role::Client, name: name.clone() };
        self.submit_trust(action).await?;
        for (session, _) in self.sessions_of_client(&name)? {
            log::warn!("session {session} is closed: client {name} was revoked");
            self.close_session(session, true).await?;
        }
        Ok(trust::Response::Done)
    }

    async fn submit_trust(&self, action: TrustAction) -> Result<TrustOutcome, Refusal> {
        match self.submit(Action::Trust(action)).await? {
            Outcome::Trust(outcome) => Ok(outcome),
            other => Err(Refusal::Malformed(format!(
                "a command about members was answered with {other:?}"
            ))),
        }
    }

    fn authority(&self) -> Result<Arc<Authority>, Refusal> {
        self.member.vault.authority(&*self.store).map_err(|error| {
            log::error!("this monitor cannot issue certificates: {error}");
            Refusal::Malformed(format!(
                "monitor {} cannot issue certificates: {error}",
                self.member.id
            ))
        })
    }
}

fn check_name(name: &str) -> Result<(), Refusal> {
    if Identity::name_like(name) == name {
        return Ok(());
    }
    Err(Refusal::Malformed(format!(
        "{name:?} is no name for a member: it has up to 48 letters, digits, - and _"
    )))
}

fn check_policy(policy: &ClientPolicy) -> Result<(), Refusal> {
    const RANGES_MAX: usize = 64;
    let ranges = &policy.id_map;
    let overlap =
        |(at, range): (usize, &IdRange)| ranges[..at].iter().any(|other| range.overlaps(*other));
    let is_ambiguous = ranges.iter().enumerate().any(overlap);
    if ranges.len() > RANGES_MAX || is_ambiguous || ranges.iter().any(|range| !range.is_valid()) {
        return Err(Refusal::Malformed(
            "the ids in --uid-map overlap, or there are none in a range".to_owned(),
        ));
    }
    Ok(())
}

fn no_client(name: &str) -> Refusal {
    Refusal::Malformed(format!("there is no client {name}; `okapifs client list` shows all"))
}

fn not_wanted() -> Refusal {
    Refusal::Malformed("no monitor is to be replaced by this one (any more)".to_owned())
}

fn malformed(error: AuthorityError) -> Refusal {
    Refusal::Malformed(error.to_string())
}

fn unexpected(outcome: &TrustOutcome) -> Refusal {
    Refusal::Malformed(format!("a command about members came to {outcome:?}"))
}
