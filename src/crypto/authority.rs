//! A cluster's own certificate authority.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::ParsedCertificate;

use super::identity::{Identity, IdentityError, Role, cluster_dns_name, cluster_of_authority};
use super::request::{NewKey, Request};
use super::seal::{SealError, SealKey};
use super::token::Fingerprint;
use crate::types::{ClusterId, Timestamp};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the authority's certificate is valid: ten years.
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(3652 * DAY.as_secs());
/// How long a member's certificate is valid: one that was lost or stolen is of no use before long, and the
/// member renews it at half of that time.
const MEMBER_VALIDITY: Duration = Duration::from_secs(30 * DAY.as_secs());
/// What the authority's key is sealed as.
const SEALED_AS: &str = "okapifs authority key";

/// Makes the certificates of one cluster. Whoever holds its key can make members: the monitors have it, sealed,
/// in their replicated state, and the administrator a backup.
pub struct Authority {
    cluster: ClusterId,
    cert_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A new member's certificate and the private key it belongs to, in PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub cert_pem: String,
    /// Its private key: for the member's eyes only.
    pub key_pem: String,
}

/// Why a certificate authority cannot be read or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The authority's certificate is damaged, or something else.
    #[error("the certificate of the cluster's authority cannot be used: {0}")]
    Certificate(IdentityError),
    /// The authority's key is damaged, or something else.
    #[error("the private key of the cluster's authority cannot be read: {0}")]
    Key(String),
    /// Each is fine, but they do not belong together.
    #[error(
        "the private key is not that of the authority's certificate: take both from the same cluster"
    )]
    KeyMismatch,
    /// The member's name cannot stand in a certificate.
    #[error(transparent)]
    Name(IdentityError),
    /// What asks for a certificate is no request, or not signed by the key that it names.
    #[error("that is no request for a certificate, or not its sender's own")]
    Request,
    /// Its key is sealed, and the sealing key does not open it.
    #[error(transparent)]
    Sealed(#[from] SealError),
    /// The cryptographic library failed.
    #[error("a certificate could not be made: {0}")]
    Failed(String),
}

impl Authority {
    /// Makes the authority of a new cluster: a new key, and a certificate valid for ten years from `now`.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::Failed`] when the cryptographic library fails (no randomness, say).
    pub fn create(cluster: ClusterId, now: Timestamp) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new([cluster_dns_name(cluster)]).map_err(failed)?;
        params.distinguished_name = common_name(format!("OkapiFS cluster {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, now, AUTHORITY_VALIDITY);
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Self { cluster, cert_pem: certificate.pem(), issuer: Issuer::new(params, key) })
    }

    /// Reads back [`Self::cert_pem`] and [`Self::key_pem`].
    ///
    /// # Errors
    ///
    /// [`AuthorityError`] when they are anything else or do not belong together.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, AuthorityError> {
        let unreadable = || AuthorityError::Certificate(IdentityError::Unreadable);
        let der = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|_| unreadable())?;
        let cluster = cluster_of_authority(&der).map_err(AuthorityError::Certificate)?;
        let key =
            KeyPair::from_pem(key_pem).map_err(|error| AuthorityError::Key(error.to_string()))?;
        let parsed = ParsedCertificate::try_from(&der).map_err(|_| unreadable())?;
        if parsed.subject_public_key_info().as_ref() != key.subject_public_key_info() {
            return Err(AuthorityError::KeyMismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|_| unreadable())?;
        Ok(Self { cluster, cert_pem: cert_pem.to_owned(), issuer })
    }

    /// Reads back [`Self::cert_pem`] and [`Self::seal_key`].
    ///
    /// # Errors
    ///
    /// [`AuthorityError`] when they are anything else or do not belong together.
    pub fn unseal(cert_pem: &str, sealed: &[u8], key: &SealKey) -> Result<Self, AuthorityError> {
        let opened = key.open(SEALED_AS, sealed)?;
        let key_pem =
            String::from_utf8(opened).map_err(|error| AuthorityError::Key(error.to_string()))?;
        Self::from_pem(cert_pem, &key_pem)
    }

    /// Makes a member: a new key and a certificate valid for 30 days from `now`.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::Name`] when `name` cannot stand in a certificate.
    pub fn issue(&self, role: Role, name: &str, now: Timestamp) -> Result<Issued, AuthorityError> {
        let key = NewKey::generate()?;
        let request = Request::from_der(&key.request()?)?;
        let cert_pem = self.sign(&request, role, name, now)?;
        Ok(Issued { cert_pem, key_pem: key.key_pem() })
    }

    /// Makes a certificate, valid for 30 days from `now`, for a member that has made its own key. Gives it in
    /// PEM.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::Name`] when `name` cannot stand in a certificate.
    pub fn sign(
        &self,
        request: &Request,
        role: Role,
        name: &str,
        now: Timestamp,
    ) -> Result<String, AuthorityError> {
        let identity = Identity { cluster: self.cluster, role, name: name.to_owned() };
        let names = identity.dns_names().map_err(AuthorityError::Name)?;
        let mut params = CertificateParams::new(names).map_err(failed)?;
        params.distinguished_name = common_name(identity.to_string());
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = key_usages(role);
        set_validity(&mut params, now, MEMBER_VALIDITY);
        let key = &request.params.public_key;
        let certificate = params.signed_by(key, &self.issuer).map_err(failed)?;
        Ok(certificate.pem())
    }

    /// The cluster whose authority this is.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The authority's certificate in PEM: public, every member holds it.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The authority's private key in PEM.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// The authority's private key, sealed.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::Sealed`] when the system gives no random numbers.
    pub fn seal_key(&self, key: &SealKey) -> Result<Vec<u8>, AuthorityError> {
        Ok(key.seal(SEALED_AS, self.key_pem().as_bytes())?)
    }

    /// By what a joiner knows the authority.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::Certificate`] when the certificate cannot be read.
    pub fn fingerprint(&self) -> Result<Fingerprint, AuthorityError> {
        fingerprint_of_pem(&self.cert_pem)
    }
}

/// Monitors, servers and agents accept connections and make them; clients only make them.
fn key_usages(role: Role) -> Vec<ExtendedKeyUsagePurpose> {
    match role {
        Role::Monitor | Role::Server | Role::Agent => {
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
        }
        Role::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
    }
}

fn common_name(text: String) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

/// Begins a day early, so that a node whose clock is behind does not refuse a fresh certificate.
fn set_validity(params: &mut CertificateParams, now: Timestamp, validity: Duration) {
    let since_1970 = Duration::from_secs(u64::try_from(now.seconds).unwrap_or(0));
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_1970.saturating_sub(DAY);
    params.not_after = epoch + since_1970 + validity;
}

/// The fingerprint of an authority's certificate in PEM.
///
/// # Errors
///
/// [`AuthorityError::Certificate`] when it is none.
pub fn fingerprint_of_pem(cert_pem: &str) -> Result<Fingerprint, AuthorityError> {
    CertificateDer::from_pem_slice(cert_pem.as_bytes())
        .map(|certificate| Fingerprint::of(&certificate))
        .map_err(|_| AuthorityError::Certificate(IdentityError::Unreadable))
}

pub(super) fn failed(error: rcgen::Error) -> AuthorityError {
    AuthorityError::Failed(error.to_string())
}
