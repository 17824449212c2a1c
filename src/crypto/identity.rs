//! What a certificate says of its holder.

use std::fmt;

use bincode::{Decode, Encode};
use rustls::pki_types::{CertificateDer, ServerName};
use webpki::EndEntityCert;

use crate::types::ClusterId;

/// Longest label of a DNS name, and so of a member's name, in bytes.
const LABEL_MAX: usize = 63;
/// Longest name that a member gets when it joins: there is room for what tells it from others.
const NAME_MAX: usize = 48;
/// Last label of every name in our certificates.
const SUFFIX: &str = "okapifs";

/// What a process is in a cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Encode, Decode)]
pub enum Role {
    /// Holds the namespace.
    Monitor,
    /// Stores shards.
    Server,
    /// Mounts the filesystem or administrates it; never accepts connections.
    Client,
    /// Looks after the processes of a node.
    Agent,
}

/// Holder of a certificate. Its certificate carries two DNS names:
///
/// ```text
///        <role>.<cluster>.okapifs      what the connecting end demands of the accepting one
/// <name>.<role>.<cluster>.okapifs      what either end reads back as the identity
/// ```
///
/// where `<role>` is `monitor`, `server`, `client` or `agent` and `<cluster>` are 32 hex digits. The certificate of the
/// authority itself carries `<cluster>.okapifs`.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Identity {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Its role there.
    pub role: Role,
    /// Its name, unique among those of its role: 1 to 63 letters, digits, `-` and `_`.
    pub name: String,
}

/// A certificate or a name that is not of the form of [`Identity`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IdentityError {
    /// It is no X.509 certificate.
    #[error("it is not a readable certificate")]
    Unreadable,
    /// It is one, but not of any OkapiFS cluster.
    #[error("it names no member of an OkapiFS cluster")]
    NotOurs,
    /// The name cannot be a DNS label.
    #[error(
        "{0:?} cannot be a member's name: use 1 to 63 letters, digits, '-' and '_', with '-' neither \
         first nor last"
    )]
    BadName(String),
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Monitor, Self::Server, Self::Client, Self::Agent];

    /// As it stands in certificates.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Monitor => "monitor",
            Self::Server => "server",
            Self::Client => "client",
            Self::Agent => "agent",
        }
    }

    /// Reads [`Self::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }

    /// The DNS name that every certificate of this role in `cluster` carries, and no other does.
    pub fn dns_name(self, cluster: ClusterId) -> String {
        format!("{self}.{}", cluster_dns_name(cluster))
    }

    /// [`Self::dns_name`] in the form in which TLS demands it of the accepting end.
    pub fn server_name(self, cluster: ClusterId) -> ServerName<'static> {
        ServerName::try_from(self.dns_name(cluster)).expect("a role's name is a DNS name")
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Identity {
    /// Reads the identity from a certificate. That the certificate is genuine must have been verified.
    ///
    /// # Errors
    ///
    /// [`IdentityError`] when it does not name exactly one member.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let names = dns_names(certificate)?;
        let mut members = names.iter().filter_map(|name| Self::parse(name));
        match (members.next(), members.next()) {
            (Some(member), None) => Ok(member),
            _ => Err(IdentityError::NotOurs),
        }
    }

    /// The two DNS names of this member's certificate.
    pub(super) fn dns_names(&self) -> Result<Vec<String>, IdentityError> {
        if !is_label(&self.name) {
            return Err(IdentityError::BadName(self.name.clone()));
        }
        Ok(vec![self.dns_name(), self.role.dns_name(self.cluster)])
    }

    /// A name that can stand in certificates, as like as possible to what somebody calls itself: a host name
    /// without its domain.
    pub fn name_like(text: &str) -> String {
        let host = text.split('.').next().unwrap_or_default();
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let label: String =
            host.chars().take(NAME_MAX).map(|c| if allowed(c) { c } else { '-' }).collect();
        match label.trim_matches('-') {
            "" => "node".to_owned(),
            label => label.to_owned(),
        }
    }

    /// The DNS name that only this member's certificate carries.
    pub fn dns_name(&self) -> String {
        format!("{}.{}", self.name, self.role.dns_name(self.cluster))
    }

    /// Reads what [`Self::dns_name`] wrote; `None` when it is something else.
    pub fn parse(dns_name: &str) -> Option<Self> {
        let labels: Vec<&str> = dns_name.split('.').collect();
        let [name, role, cluster, SUFFIX] = labels[..] else {
            return None;
        };
        Some(Self {
            cluster: ClusterId::parse(cluster)?,
            role: Role::parse(role)?,
            name: name.to_owned(),
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}

/// The DNS name in the certificate of a cluster's authority.
pub(super) fn cluster_dns_name(cluster: ClusterId) -> String {
    format!("{cluster}.{SUFFIX}")
}

/// Which cluster the certificate of an authority belongs to.
pub(super) fn cluster_of_authority(
    certificate: &CertificateDer<'_>,
) -> Result<ClusterId, IdentityError> {
    dns_names(certificate)?
        .iter()
        .find_map(|name| ClusterId::parse(name.strip_suffix(SUFFIX)?.strip_suffix('.')?))
        .ok_or(IdentityError::NotOurs)
}

fn dns_names(certificate: &CertificateDer<'_>) -> Result<Vec<String>, IdentityError> {
    let parsed = EndEntityCert::try_from(certificate).map_err(|_| IdentityError::Unreadable)?;
    Ok(parsed.valid_dns_names().map(str::to_owned).collect())
}

fn is_label(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=LABEL_MAX).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with('-')
        && !name.ends_with('-')
}
