//! What can go wrong, named by what the reader does next; each prints as one sentence.

use std::io;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError};

use crate::crypto::Role;
use crate::types::{ClusterId, Incarnation, Levels, Timestamp};

/// Why a call has no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CallError {
    /// None came in time. The call may have been carried out all the same.
    #[error("no answer in time")]
    Timeout,
    /// The connection is gone. The call may have been carried out all the same.
    #[error("the connection is closed")]
    Closed,
}

/// Why a port cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process has it.
    #[error(
        "port {port} of {host} is in use: choose another in `listen` of the configuration, or stop the process that has it"
    )]
    InUse {
        /// Host as written.
        host: String,
        /// Port as written.
        port: String,
    },
    /// The address is not one of this machine, cannot be understood, or is not allowed.
    #[error("cannot listen at {address}: {reason}: name another with --listen, as HOST:PORT")]
    NotPossible {
        /// As written.
        address: String,
        /// What the system says.
        reason: String,
    },
}

impl BindError {
    pub(super) fn new(address: &str, error: &io::Error) -> Self {
        match (error.kind(), address.rsplit_once(':')) {
            (io::ErrorKind::AddrInUse, Some((host, port))) => {
                Self::InUse { host: host.to_owned(), port: port.to_owned() }
            }
            _ => Self::NotPossible { address: address.to_owned(), reason: error.to_string() },
        }
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address cannot be understood or looked up.
    #[error("{address} cannot be looked up: {reason}: write HOST:PORT and check the host's name")]
    Unresolvable {
        /// As written.
        address: String,
        /// What the system says.
        reason: String,
    },
    /// The host is there, but nothing listens at the port.
    #[error("nothing listens at {address}: check the address, or start the {expect} there")]
    Refused {
        /// Where.
        address: String,
        /// Who should be there.
        expect: Role,
    },
    /// Nothing came back in time.
    #[error(
        "{address} did not answer within {} s: check that the host is up and lets this port through",
        .timeout.as_secs_f32()
    )]
    TimedOut {
        /// Where.
        address: String,
        /// How long it was given.
        timeout: Duration,
    },
    /// The network or the other end broke it off.
    #[error(
        "the connection to {address} broke off: {reason}: check that an OkapiFS {expect} runs there, and \
         its log"
    )]
    Broken {
        /// Where.
        address: String,
        /// Who should be there.
        expect: Role,
        /// What the system says.
        reason: String,
    },
    /// Something listens, and it is not OkapiFS.
    #[error("what listens at {address} is no OkapiFS {expect}: check the port ({reason})")]
    NotOkapi {
        /// Where.
        address: String,
        /// Who should be there.
        expect: Role,
        /// What was wrong with what it said.
        reason: String,
    },
    /// A member of our cluster, but in another role.
    #[error("what listens at {address} is a {found}, not a {expect}: check the port")]
    OtherRole {
        /// Where.
        address: String,
        /// Who should be there.
        expect: Role,
        /// Who is.
        found: Role,
    },
    /// Its certificate is not of our cluster's authority.
    #[error(
        "the certificate of {address} is of another cluster: check the address, and that the certificates \
         used here are of the cluster there"
    )]
    OtherCluster {
        /// Where.
        address: String,
    },
    /// Its certificate is of our authority but cannot be used.
    #[error(
        "the certificate of {address} cannot be used: {reason}: check the clocks of both machines, or have \
         the certificate issued anew"
    )]
    BadCertificate {
        /// Where.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It does not take our certificate.
    #[error(
        "{address} does not accept our certificate ({reason}): check that it was issued by the cluster there \
         and has not expired"
    )]
    NotAccepted {
        /// Where.
        address: String,
        /// What it said.
        reason: String,
    },
    /// Another version of OkapiFS.
    #[error(
        "{}: it goes up to level {}, and the other end begins with level {}",
        upgrade_first(address, ours, theirs),
        ours.newest.min(theirs.newest),
        ours.oldest.max(theirs.oldest)
    )]
    OtherLevels {
        /// Where.
        address: String,
        /// Ours.
        ours: Levels,
        /// What is spoken there.
        theirs: Levels,
    },
    /// The cluster was recovered from a disaster since we last heard of it, or the other end missed that.
    #[error(
        "{address} knows incarnation {theirs} of the cluster, this program incarnation {ours}: restart \
         whichever is older"
    )]
    OtherIncarnation {
        /// Where.
        address: String,
        /// Ours.
        ours: Incarnation,
        /// Its.
        theirs: Incarnation,
    },
    /// The clocks of the two machines are too far apart.
    #[error(
        "the clock of {address} says {theirs} and the one of this machine {ours}: set whichever is wrong (NTP \
         does), they may differ by five minutes"
    )]
    ClocksApart {
        /// Where.
        address: String,
        /// What ours says.
        ours: Timestamp,
        /// What its clock says.
        theirs: Timestamp,
    },
}

impl ConnectError {
    /// Whether trying again later can help without anybody doing anything.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Unresolvable { .. }
                | Self::Refused { .. }
                | Self::TimedOut { .. }
                | Self::Broken { .. }
                | Self::ClocksApart { .. }
        )
    }
}

/// Which of two ends without a common level is to be upgraded.
fn upgrade_first(address: &str, ours: &Levels, theirs: &Levels) -> String {
    if ours.newest < theirs.oldest {
        format!("upgrade okapifs on this machine, it is too old for the one at {address}")
    } else {
        format!("upgrade okapifs at {address}, it is too old for the one on this machine")
    }
}

/// Whom we were connecting to: what every [`ConnectError`] has to say.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) address: &'a str,
    pub(super) expect: Role,
    pub(super) cluster: ClusterId,
}

impl Target<'_> {
    /// What an error of the socket, or of TLS (which comes wrapped in one), means.
    pub(super) fn failed(self, error: &io::Error) -> ConnectError {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
        match (tls, error.kind()) {
            (Some(tls), _) => self.tls_failed(tls),
            (None, io::ErrorKind::ConnectionRefused) => {
                ConnectError::Refused { address: self.address.to_owned(), expect: self.expect }
            }
            (None, io::ErrorKind::InvalidData) => self.not_okapi(error.to_string()),
            _ => ConnectError::Broken {
                address: self.address.to_owned(),
                expect: self.expect,
                reason: error.to_string(),
            },
        }
    }

    fn tls_failed(self, error: &rustls::Error) -> ConnectError {
        let address = self.address.to_owned();
        match error {
            rustls::Error::InvalidCertificate(error) => self.certificate_failed(error),
            rustls::Error::AlertReceived(alert) if is_about_certificates(*alert) => {
                ConnectError::NotAccepted { address, reason: format!("{alert:?}") }
            }
            _ => self.not_okapi(error.to_string()),
        }
    }

    fn certificate_failed(self, error: &CertificateError) -> ConnectError {
        let address = self.address.to_owned();
        match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                ConnectError::OtherCluster { address }
            }
            CertificateError::NotValidForNameContext { presented, .. } => {
                match self.role_among(presented) {
                    Some(found) => ConnectError::OtherRole { address, expect: self.expect, found },
                    None => ConnectError::OtherCluster { address },
                }
            }
            _ => ConnectError::BadCertificate { address, reason: error.to_string() },
        }
    }

    fn role_among(self, dns_names: &[String]) -> Option<Role> {
        Role::ALL.into_iter().find(|role| {
            let name = role.dns_name(self.cluster);
            dns_names.iter().any(|presented| presented.contains(&name))
        })
    }

    fn not_okapi(self, reason: String) -> ConnectError {
        ConnectError::NotOkapi { address: self.address.to_owned(), expect: self.expect, reason }
    }
}

fn is_about_certificates(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
    )
}
