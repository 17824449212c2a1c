//! Who may connect to whom: the two checks of a peer's certificate that are not the ordinary ones.
//!
//! **A monitor accepts guests.** Somebody who holds a token has no certificate yet; and a cluster that was
//! switched off for two months has only expired ones, which must still do to get new ones. So a monitor lets
//! both in, and everything behind the handshake treats them as guests: a kind of peer of its own that may ask
//! for a certificate and for nothing else ([`Peer`]).
//!
//! **A joiner knows a fingerprint.** Monitors send the certificate of their authority along; the joiner finds
//! the one whose fingerprint its token carries and from then on trusts that authority as any member does.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};

use super::identity::{Identity, IdentityError, Role, cluster_of_authority};
use super::token::Fingerprint;
use super::validity::Validity;
use crate::types::Timestamp;

/// The connecting end of an accepted connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Peer {
    /// A member of the cluster.
    Member(Identity),
    /// A member whose certificate has expired, or nobody yet (`None`).
    Guest(Option<Identity>),
}

impl Peer {
    /// Who it is, by the certificates that a handshake has verified.
    ///
    /// # Errors
    ///
    /// [`IdentityError`] when they name no member.
    pub fn of_certificates(
        certificates: Option<&[CertificateDer<'_>]>,
        now: Timestamp,
    ) -> Result<Self, IdentityError> {
        let Some(certificate) = certificates.and_then(<[_]>::first) else {
            return Ok(Self::Guest(None));
        };
        let identity = Identity::of_certificate(certificate)?;
        if Validity::of_certificate(certificate)?.is_over(now) {
            return Ok(Self::Guest(Some(identity)));
        }
        Ok(Self::Member(identity))
    }
}

/// Demands a certificate of our authority, as everybody does; of a monitor's guests it need not be valid any
/// more, or there at all.
#[derive(Debug)]
pub(super) struct MemberVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    admits_guests: bool,
}

impl MemberVerifier {
    /// For the accepting end in that role.
    pub(super) fn new(
        roots: Arc<RootCertStore>,
        provider: Arc<CryptoProvider>,
        role: Role,
    ) -> Option<Self> {
        let admits_guests = role == Role::Monitor;
        let builder = WebPkiClientVerifier::builder_with_provider(roots, provider);
        let builder = if admits_guests { builder.allow_unauthenticated() } else { builder };
        Some(Self { inner: builder.build().ok()?, admits_guests })
    }
}

impl ClientCertVerifier for MemberVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.inner.verify_client_cert(end_entity, intermediates, now) {
            // Everything else about it must be right: it is looked at as of its last moment.
            Err(Error::InvalidCertificate(CertificateError::ExpiredContext {
                not_after, ..
            })) if self.admits_guests => {
                self.inner.verify_client_cert(end_entity, intermediates, not_after)
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Demands a monitor of the cluster whose authority has that fingerprint.
#[derive(Debug)]
pub(super) struct FingerprintVerifier {
    pub(super) authority: Fingerprint,
    pub(super) provider: Arc<CryptoProvider>,
}

impl FingerprintVerifier {
    fn verifier(
        &self,
        sent: &[CertificateDer<'_>],
    ) -> Result<(Arc<WebPkiServerVerifier>, ServerName<'static>), Error> {
        let unknown = || Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let authority = find_authority(sent, self.authority).ok_or_else(unknown)?;
        let cluster = cluster_of_authority(&authority).map_err(|_| unknown())?;
        let mut roots = RootCertStore::empty();
        roots.add(authority)?;
        let provider = Arc::clone(&self.provider);
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|_| unknown())?;
        Ok((verifier, Role::Monitor.server_name(cluster)))
    }
}

/// Of the certificates that were sent, the one with that fingerprint.
pub(super) fn find_authority(
    sent: &[CertificateDer<'_>],
    fingerprint: Fingerprint,
) -> Option<CertificateDer<'static>> {
    let found = sent.iter().find(|certificate| Fingerprint::of(certificate) == fingerprint)?;
    Some(found.clone().into_owned())
}

impl ServerCertVerifier for FingerprintVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let (verifier, monitor) = self.verifier(intermediates)?;
        verifier.verify_server_cert(end_entity, intermediates, &monitor, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
