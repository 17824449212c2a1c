//! What one process holds to prove who it is, and the TLS configurations that follow from it.
//!
//! All clones are the same credentials: when the certificate is replaced, whoever holds one connects and accepts
//! with the new one from then on, and connections that are there go on.
//!
//! TLS 1.3 only, with a certificate demanded of both ends. Sessions are not resumed: connections live for
//! hours, a handshake costs half a millisecond, and this way each connection proves its certificate anew.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::authority::AuthorityError;
use super::identity::{Identity, IdentityError, Role, cluster_of_authority};
use super::request::{key_of_certificate, request_of};
use super::token::Fingerprint;
use super::validity::Validity;
use super::verifier::MemberVerifier;
use crate::types::{ClusterId, KeyHash, Timestamp};

/// A process's proof of its identity: its certificate, its private key, and the certificate of the authority
/// by which it knows its peers. Cheap to clone.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

struct Inner {
    identity: Identity,
    key_hash: KeyHash,
    authority: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    time: Arc<dyn TimeProvider>,
    current: RwLock<Current>,
}

/// What follows from the certificate.
struct Current {
    validity: Validity,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The authority's certificate is damaged or something else.
    #[error("the authority's certificate cannot be used: {0}")]
    Authority(IdentityError),
    /// The process's own certificate is damaged or something else.
    #[error("the certificate cannot be used: {0}")]
    Certificate(IdentityError),
    /// The process's own private key is damaged or something else.
    #[error("the private key cannot be read: copy it again, or have the certificate issued anew")]
    Key,
    /// The certificate was issued by another cluster's authority.
    #[error(
        "the certificate is of another cluster: it is of {certificate}, and the authority is that of \
         {authority}; take both from the same cluster"
    )]
    OtherCluster {
        /// The certificate's.
        certificate: ClusterId,
        /// The authority's.
        authority: ClusterId,
    },
    /// It is to replace a certificate of somebody else.
    #[error("the new certificate is that of {new}, not that of {old}: have it issued anew")]
    OtherMember {
        /// Whose it was.
        old: Box<Identity>,
        /// Whose it is.
        new: Box<Identity>,
    },
    /// Each is fine, but TLS does not take them together.
    #[error("the certificate and the private key do not belong together: {0}")]
    Mismatch(String),
}

impl Credentials {
    /// Reads what [`Authority::issue`](super::Authority::issue) made, all in PEM: the authority's certificate,
    /// the process's certificate, its key.
    ///
    /// Whether the certificates are still valid is found out by the first connection.
    ///
    /// # Errors
    ///
    /// [`CredentialsError`] when they are anything else or do not belong together.
    pub fn from_pem(ca_pem: &str, cert_pem: &str, key_pem: &str) -> Result<Self, CredentialsError> {
        Self::with_clock(ca_pem, cert_pem, key_pem, Arc::new(DefaultTimeProvider))
    }

    /// [`Self::from_pem`], where certificates are valid or expired by that clock, and peers are told its time.
    ///
    /// # Errors
    ///
    /// As [`Self::from_pem`].
    pub fn with_clock(
        ca_pem: &str,
        cert_pem: &str,
        key_pem: &str,
        time: Arc<dyn TimeProvider>,
    ) -> Result<Self, CredentialsError> {
        let authority = certificate(ca_pem).map_err(CredentialsError::Authority)?;
        let certificate = certificate(cert_pem).map_err(CredentialsError::Certificate)?;
        let key =
            PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| CredentialsError::Key)?;

        let cluster = cluster_of_authority(&authority).map_err(CredentialsError::Authority)?;
        let identity =
            Identity::of_certificate(&certificate).map_err(CredentialsError::Certificate)?;
        if identity.cluster != cluster {
            return Err(CredentialsError::OtherCluster {
                certificate: identity.cluster,
                authority: cluster,
            });
        }
        let key_hash = key_of_certificate(&certificate)
            .ok_or(CredentialsError::Certificate(IdentityError::Unreadable))?;
        let current = Current::new(identity.role, &authority, certificate, &key, &time)?;
        let current = RwLock::new(current);
        Ok(Self(Arc::new(Inner { identity, key_hash, authority, key, time, current })))
    }

    /// Goes on with a new certificate (in PEM) for the same member and key.
    ///
    /// # Errors
    ///
    /// [`CredentialsError`] when it is of anybody else or for another key; the old one stays then.
    pub fn replace(&self, cert_pem: &str) -> Result<(), CredentialsError> {
        let Inner { identity, authority, key, time, current, .. } = &*self.0;
        let certificate = certificate(cert_pem).map_err(CredentialsError::Certificate)?;
        let new = Identity::of_certificate(&certificate).map_err(CredentialsError::Certificate)?;
        if new != *identity {
            let (old, new) = (Box::new(identity.clone()), Box::new(new));
            return Err(CredentialsError::OtherMember { old, new });
        }
        let replacement = Current::new(identity.role, authority, certificate, key, time)?;
        *current.write() = replacement;
        Ok(())
    }

    /// The request for the next certificate, for the same key, in DER.
    ///
    /// # Errors
    ///
    /// When the cryptographic library fails.
    pub fn request(&self) -> Result<Vec<u8>, AuthorityError> {
        request_of(&self.0.key)
    }

    /// Who the process is by its certificate.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Its public key.
    pub fn key_hash(&self) -> KeyHash {
        self.0.key_hash
    }

    /// From when until when its certificate is valid.
    pub fn validity(&self) -> Validity {
        self.0.current.read().validity
    }

    /// By what joiners know the cluster's authority.
    pub fn authority(&self) -> Fingerprint {
        Fingerprint::of(&self.0.authority)
    }

    /// The time, by the clock that decides whether certificates are valid.
    pub fn now(&self) -> Timestamp {
        time_now(&*self.0.time)
    }

    /// For accepting connections from members of the same cluster.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.current.read().server)
    }

    /// For connecting to members of the same cluster; demand [`Role::server_name`](super::Role::server_name).
    pub fn client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0.current.read().client)
    }
}

impl Current {
    fn new(
        role: Role,
        authority: &CertificateDer<'static>,
        certificate: CertificateDer<'static>,
        key: &PrivateKeyDer<'static>,
        time: &Arc<dyn TimeProvider>,
    ) -> Result<Self, CredentialsError> {
        let validity =
            Validity::of_certificate(&certificate).map_err(CredentialsError::Certificate)?;
        let unreadable = || CredentialsError::Authority(IdentityError::Unreadable);
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone()).map_err(|_| unreadable())?;
        let roots = Arc::new(roots);
        let verifier =
            MemberVerifier::new(Arc::clone(&roots), provider(), role).ok_or_else(unreadable)?;
        // A joiner knows the authority only by its fingerprint, and is shown the rest.
        let chain = match role {
            Role::Monitor => vec![certificate.clone(), authority.clone()],
            _ => vec![certificate.clone()],
        };
        Ok(Self {
            validity,
            server: Arc::new(server_config(verifier, chain, key.clone_key(), time)?),
            client: Arc::new(client_config(roots, certificate, key.clone_key(), time)?),
        })
    }
}

fn certificate(pem: &str) -> Result<CertificateDer<'static>, IdentityError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| IdentityError::Unreadable)
}

/// The time that a provider tells; 1970 when it does not know, when no certificate is valid.
pub(super) fn time_now(time: &dyn TimeProvider) -> Timestamp {
    let since_1970 =
        time.current_time().map_or(Duration::ZERO, |time| Duration::from_secs(time.as_secs()));
    Timestamp { seconds: i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX), nanos: 0 }
}

/// Says who, and never the key.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credentials").field(&self.0.identity).finish()
    }
}

/// Named here rather than taken from the process-wide default, which any dependency could have set.
/// AES-128 comes first: it is as good as any and the fastest on machines that have the instructions for it.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    })
}

fn server_config(
    verifier: MemberVerifier,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    time: &Arc<dyn TimeProvider>,
) -> Result<ServerConfig, CredentialsError> {
    let mut config = ServerConfig::builder_with_details(provider(), Arc::clone(time))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites for TLS 1.3")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(chain, key)
        .map_err(mismatch)?;
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client_config(
    roots: Arc<RootCertStore>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    time: &Arc<dyn TimeProvider>,
) -> Result<ClientConfig, CredentialsError> {
    let mut config = ClientConfig::builder_with_details(provider(), Arc::clone(time))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites for TLS 1.3")
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .map_err(mismatch)?;
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn mismatch(error: rustls::Error) -> CredentialsError {
    CredentialsError::Mismatch(error.to_string())
}
