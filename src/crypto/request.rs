//! How a member asks for a certificate: with its public key, signed by its private one.
//!
//! A private key never leaves the machine where it was made. What is sent is a PKCS#10 request; of what such
//! a request may say only the key is looked at, for who the member is was settled before: by its token, or by
//! the certificate that it has.

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{CertificateParams, CertificateSigningRequestParams, KeyPair, PublicKeyData};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use rustls::server::ParsedCertificate;

use super::authority::{AuthorityError, failed};
use crate::types::KeyHash;

/// A new private key that waits for its certificate.
pub struct NewKey {
    key: KeyPair,
}

/// A request whose signature was verified: the sender has the private key.
pub struct Request {
    pub(super) params: CertificateSigningRequestParams,
}

impl NewKey {
    /// Makes a key.
    ///
    /// # Errors
    ///
    /// When the cryptographic library fails.
    pub fn generate() -> Result<Self, AuthorityError> {
        KeyPair::generate().map(|key| Self { key }).map_err(failed)
    }

    /// The key in PEM: for its owner's eyes only.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The request for a certificate, in DER.
    ///
    /// # Errors
    ///
    /// When the cryptographic library fails.
    pub fn request(&self) -> Result<Vec<u8>, AuthorityError> {
        request(&self.key)
    }
}

impl Request {
    /// Reads a request and verifies that its sender has the key.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::Request`].
    pub fn from_der(der: &[u8]) -> Result<Self, AuthorityError> {
        let der = CertificateSigningRequestDer::from(der);
        let params = CertificateSigningRequestParams::from_der(&der);
        params.map(|params| Self { params }).map_err(|_| AuthorityError::Request)
    }

    /// Whose key it is.
    pub fn key_hash(&self) -> KeyHash {
        hash(&self.params.public_key.subject_public_key_info())
    }
}

/// The request of somebody who has that private key.
pub(super) fn request_of(key: &PrivateKeyDer<'_>) -> Result<Vec<u8>, AuthorityError> {
    request(&KeyPair::try_from(key).map_err(failed)?)
}

/// The key in a certificate; `None` when it is no certificate.
pub(super) fn key_of_certificate(certificate: &CertificateDer<'_>) -> Option<KeyHash> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    Some(hash(parsed.subject_public_key_info().as_ref()))
}

fn request(key: &KeyPair) -> Result<Vec<u8>, AuthorityError> {
    let request = CertificateParams::default().serialize_request(key).map_err(failed)?;
    Ok(request.der().to_vec())
}

fn hash(public_key_info: &[u8]) -> KeyHash {
    KeyHash(digest(&SHA256, public_key_info).as_ref().try_into().expect("SHA-256 has 32 bytes"))
}
