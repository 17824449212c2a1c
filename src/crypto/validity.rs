//! From when until when a certificate is valid, and when it is time for the next.

use std::time::Duration;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::identity::IdentityError;
use crate::types::Timestamp;

/// The time in which a certificate is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validity {
    /// From.
    pub from: Timestamp,
    /// Until.
    pub until: Timestamp,
}

impl Validity {
    /// Reads it from a certificate.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Unreadable`].
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| IdentityError::Unreadable)?;
        let at =
            |time: x509_parser::time::ASN1Time| Timestamp { seconds: time.timestamp(), nanos: 0 };
        let validity = parsed.validity();
        Ok(Self { from: at(validity.not_before), until: at(validity.not_after) })
    }

    /// Whether it is over.
    pub fn is_over(&self, now: Timestamp) -> bool {
        now.seconds > self.until.seconds
    }

    /// Whether half of it is over, so that it is time for a new certificate: there is then as much time again
    /// for monitors that are away to come back.
    pub fn is_due(&self, now: Timestamp) -> bool {
        now.seconds >= self.half()
    }

    /// How long until it [`Self::is_due`].
    pub fn until_due(&self, now: Timestamp) -> Duration {
        Duration::from_secs(u64::try_from(self.half().saturating_sub(now.seconds)).unwrap_or(0))
    }

    fn half(&self) -> i64 {
        self.from.seconds + (self.until.seconds - self.from.seconds) / 2
    }
}
