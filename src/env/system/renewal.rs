//! A certificate that never runs out while its process can reach the monitors.
//!
//! A certificate is valid for 30 days. The process that uses it asks the monitors for the next at half of that
//! time, over a connection of its own that shows the current one; so monitors may be away for two weeks
//! before anybody notices. Whoever was switched off for longer comes with an expired certificate: that is good
//! for this one question ([`crate::crypto::Peer`]), so a cluster that was off for two months starts.
//!
//! The key stays the same. So there is one file to replace, and replacing it is atomic; and processes that
//! share a directory (the mounts and the commands of one machine) take over what another of them has
//! renewed. A process that may not write there (a command of an ordinary user) keeps the new one in its
//! memory.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::credentials;
use super::rpc::{CallError, ConnectError, Connection};
use crate::crypto::{AuthorityError, Credentials, CredentialsError, Role};
use crate::types::Incarnation;
use crate::wire::metadata::{Refusal, Request, Response};
use crate::wire::{self, DecodeError};

/// How long a monitor may take to be connected to, and to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked whether a renewal is due: clocks are set, and machines sleep.
const LOOK: Duration = Duration::from_secs(60 * 60);
/// How soon a renewal that failed is tried again ...
const RETRY: Duration = Duration::from_secs(5 * 60);
/// ... when there is no valid certificate to go on with.
const RETRY_EXPIRED: Duration = Duration::from_secs(1);

/// Keeps the certificate of one directory valid.
pub struct Renewal {
    credentials: Credentials,
    dir: PathBuf,
    monitors: Vec<String>,
}

/// Why a certificate was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// No monitor can be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A monitor was reached and did not answer.
    #[error("the monitor does not answer: {0}")]
    Call(#[from] CallError),
    /// A monitor says no.
    #[error("the monitors do not renew this certificate: {0}")]
    Refused(Refusal),
    /// A monitor says something else.
    #[error("the monitor's answer makes no sense; update okapifs on both ends: {0}")]
    Answer(String),
    /// The certificate that came cannot be used.
    #[error(transparent)]
    Unusable(#[from] CredentialsError),
    /// Asking was not possible.
    #[error(transparent)]
    Request(#[from] AuthorityError),
}

impl RenewError {
    /// Whether trying again later can help without anybody doing anything.
    fn may_pass(&self) -> bool {
        match self {
            Self::Connect(error) => error.may_pass(),
            Self::Call(_) | Self::Refused(Refusal::NoLeader) => true,
            Self::Refused(_) | Self::Answer(_) | Self::Unusable(_) | Self::Request(_) => false,
        }
    }
}

impl From<DecodeError> for RenewError {
    fn from(error: DecodeError) -> Self {
        Self::Answer(error.to_string())
    }
}

impl Renewal {
    /// Of these credentials, which are in the files of `dir`, at these monitors (`host:port`).
    pub fn new(credentials: Credentials, dir: PathBuf, monitors: Vec<String>) -> Self {
        Self { credentials, dir, monitors }
    }

    /// Renews the certificate now, if it is time. What fails is of no consequence as long as the certificate
    /// is valid: it is logged then and not an error.
    ///
    /// # Errors
    ///
    /// [`RenewError`] when the certificate has expired and there is no new one.
    pub async fn at_start(&self) -> Result<(), RenewError> {
        match self.if_due().await {
            Err(error) if !self.is_expired() => {
                log::warn!("this process's certificate is not renewed yet: {error}");
                Ok(())
            }
            done => done,
        }
    }

    /// [`Self::at_start`], where an expired certificate is tried to be renewed for that long.
    ///
    /// # Errors
    ///
    /// As [`Self::at_start`].
    pub async fn within(&self, patience: Duration) -> Result<(), RenewError> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            match self.at_start().await {
                Err(error) if error.may_pass() && tokio::time::Instant::now() < deadline => {}
                done => return done,
            }
            tokio::time::sleep(RETRY_EXPIRED).await;
        }
    }

    /// Renews the certificate, should it have expired: for as long as it takes.
    pub async fn until_valid(&self) {
        let mut is_complaining = false;
        while let Err(error) = self.at_start().await {
            if !is_complaining {
                log::error!(
                    "this process's certificate has expired, waiting for a new one: {error}"
                );
                is_complaining = true;
            }
            tokio::time::sleep(RETRY_EXPIRED).await;
        }
    }

    /// Renews the certificate whenever it is time, for ever.
    pub async fn keep(self) {
        loop {
            let pause = match self.if_due().await {
                Ok(()) => {
                    let due = self.credentials.validity().until_due(self.credentials.now());
                    due.clamp(RETRY_EXPIRED, LOOK)
                }
                Err(error) => {
                    log::warn!("this process's certificate is not renewed yet: {error}");
                    if self.is_expired() { RETRY_EXPIRED } else { RETRY }
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn is_due(&self) -> bool {
        self.credentials.validity().is_due(self.credentials.now())
    }

    fn is_expired(&self) -> bool {
        self.credentials.validity().is_over(self.credentials.now())
    }

    async fn if_due(&self) -> Result<(), RenewError> {
        if self.is_due() {
            self.take_over();
        }
        if !self.is_due() {
            return Ok(());
        }
        let certificate = self.ask_any().await?;
        self.credentials.replace(&certificate)?;
        log::info!("the certificate of {} was renewed", self.credentials.identity());
        self.save(&certificate);
        Ok(())
    }

    /// Takes over what another process of this machine has renewed in the same directory.
    fn take_over(&self) {
        let Ok(found) = credentials::read_certificate(&self.dir) else { return };
        // Anything else than a certificate for our key is not for us: the monitors are asked.
        if let Err(error) = self.credentials.replace(&found) {
            log::debug!("what lies in {} is not taken over: {error}", self.dir.display());
        }
    }

    fn save(&self, certificate: &str) {
        if let Err(error) = credentials::save_certificate(&self.dir, certificate) {
            let level = match error.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    log::Level::Debug
                }
                _ => log::Level::Warn,
            };
            log::log!(level, "the new certificate is in memory only: {error}");
        }
    }

    async fn ask_any(&self) -> Result<String, RenewError> {
        let mut failure = RenewError::Answer("no monitor is configured".to_owned());
        for address in &self.monitors {
            match self.ask(address).await {
                Ok(certificate) => return Ok(certificate),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn ask(&self, address: &str) -> Result<String, RenewError> {
        let any = Incarnation(0);
        let (connection, _notices) =
            Connection::open(address, &self.credentials, Role::Monitor, any, TIMEOUT).await?;
        let request = Request::RenewCertificate { request: self.credentials.request()? };
        let (answer, _) = connection.call(wire::encode(&request), Vec::new(), TIMEOUT).await?;
        match wire::decode(&answer)? {
            Response::Certificate(certificate) => Ok(certificate),
            Response::Refused(refusal) => Err(RenewError::Refused(refusal)),
            other => Err(RenewError::Answer(format!("{other:?}"))),
        }
    }
}
