//! What one process holds to prove who it is, and the TLS configurations that follow from it.
//!
//! TLS 1.3 only, with a certificate demanded of both ends. Sessions are not resumed: connections live for
//! hours, a handshake costs half a millisecond, and this way each connection proves its certificate anew.

use std::fmt;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::identity::{Identity, IdentityError, cluster_of_authority};
use crate::types::ClusterId;

/// A process's proof of its identity: its certificate, its private key, and the certificate of the authority
/// by which it knows its peers. Cheap to clone.
#[derive(Clone)]
pub struct Credentials {
    identity: Identity,
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
        let unreadable = |_| IdentityError::Unreadable;
        let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes())
            .map_err(unreadable)
            .map_err(CredentialsError::Authority)?;
        let certificate = CertificateDer::from_pem_slice(cert_pem.as_bytes())
            .map_err(unreadable)
            .map_err(CredentialsError::Certificate)?;
        let key =
            PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| CredentialsError::Key)?;

        let authority = cluster_of_authority(&ca).map_err(CredentialsError::Authority)?;
        let identity =
            Identity::of_certificate(&certificate).map_err(CredentialsError::Certificate)?;
        if identity.cluster != authority {
            return Err(CredentialsError::OtherCluster {
                certificate: identity.cluster,
                authority,
            });
        }

        let mut roots = RootCertStore::empty();
        roots.add(ca).map_err(|_| CredentialsError::Authority(IdentityError::Unreadable))?;
        let roots = Arc::new(roots);
        Ok(Self {
            server: Arc::new(server_config(&roots, certificate.clone(), key.clone_key())?),
            client: Arc::new(client_config(&roots, certificate, key)?),
            identity,
        })
    }

    /// Who the process is by its certificate.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// For accepting connections from members of the same cluster.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// For connecting to members of the same cluster; demand [`Role::server_name`](super::Role::server_name).
    pub fn client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }
}

/// Says who, and never the key.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credentials").field(&self.identity).finish()
    }
}

/// Named here rather than taken from the process-wide default, which any dependency could have set.
/// AES-128 comes first: it is as good as any and the fastest on machines that have the instructions for it.
fn provider() -> Arc<CryptoProvider> {
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
    roots: &Arc<RootCertStore>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, CredentialsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider())
        .build()
        .map_err(|_| CredentialsError::Authority(IdentityError::Unreadable))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites for TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)
        .map_err(mismatch)?;
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client_config(
    roots: &Arc<RootCertStore>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, CredentialsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites for TLS 1.3")
        .with_root_certificates(Arc::clone(roots))
        .with_client_auth_cert(vec![certificate], key)
        .map_err(mismatch)?;
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn mismatch(error: rustls::Error) -> CredentialsError {
    CredentialsError::Mismatch(error.to_string())
}
