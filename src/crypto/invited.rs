//! Somebody who holds a token and no certificate.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::time_provider::DefaultTimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, time_provider::TimeProvider};

use super::credentials::{provider, time_now};
use super::token::Fingerprint;
use super::verifier::{FingerprintVerifier, find_authority};
use super::{IdentityError, identity};
use crate::types::{ClusterId, Timestamp};

/// What a joiner knows: the fingerprint of the cluster's authority. That is enough to talk to a monitor of
/// the cluster and to no other.
#[derive(Clone)]
pub struct Invited {
    authority: Fingerprint,
    client: Arc<ClientConfig>,
}

impl Invited {
    /// Invited by the cluster with that authority.
    pub fn by(authority: Fingerprint) -> Self {
        let verifier = FingerprintVerifier { authority, provider: provider() };
        let mut client =
            ClientConfig::builder_with_details(provider(), Arc::new(DefaultTimeProvider))
                .with_protocol_versions(&[&TLS13])
                .expect("the provider has suites for TLS 1.3")
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_no_client_auth();
        client.resumption = Resumption::disabled();
        // The name below is nobody's.
        client.enable_sni = false;
        Self { authority, client: Arc::new(client) }
    }

    /// For connecting to a monitor; demand [`Self::server_name`].
    pub fn client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }

    /// A name that TLS wants to be given and nobody looks at: the monitor's real one depends on the cluster,
    /// which is known by the fingerprint.
    pub fn server_name(&self) -> ServerName<'static> {
        ServerName::try_from("monitor.okapifs").expect("it is a DNS name")
    }

    /// Which cluster the other end belongs to, after the handshake has verified it.
    ///
    /// # Errors
    ///
    /// [`IdentityError`] when the certificates are not those of a monitor.
    pub fn cluster(
        &self,
        certificates: Option<&[CertificateDer<'_>]>,
    ) -> Result<ClusterId, IdentityError> {
        let sent = certificates.unwrap_or_default();
        let authority = find_authority(sent, self.authority).ok_or(IdentityError::NotOurs)?;
        identity::cluster_of_authority(&authority)
    }

    /// The time, by this machine's clock.
    pub fn now(&self) -> Timestamp {
        time_now(&DefaultTimeProvider as &dyn TimeProvider)
    }
}
