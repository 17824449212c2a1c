//! Who is who: certificates, and what TLS needs to prove them.
//!
//! A cluster has a certificate authority of its own, made together with the cluster. It gives every process
//! a certificate that says three things: of which cluster the process is, in which role, and under which
//! name. They are written as DNS names ([`Identity`] draws them), so that the ordinary check of a server's
//! name during the TLS handshake proves the role: a storage server's certificate can never pass for a
//! monitor's, and a certificate of another cluster proves nothing here at all.
//!
//! # The life of a certificate
//!
//! An administrator makes a [`Token`] and pastes it on a new machine. The machine makes a key of its own
//! ([`NewKey`]), knows the monitors by the token's fingerprint ([`Invited`]), and is given a certificate for the
//! key ([`Authority::sign`]) that is valid for 30 days. At half of its life it asks for the next with the same
//! key ([`Credentials::request`], [`Credentials::replace`]); the process goes on, its next connections show the
//! new one. Whoever was switched off for longer has an expired certificate, and may get a new one with it, and
//! nothing else ([`Peer`]).
//!
//! [`Authority`] makes certificates; [`Credentials`] is what one process holds of them and the TLS
//! configurations that follow; [`seal`] keeps the authority's own key closed. All of it works on text in PEM:
//! where the files lie is decided elsewhere, and the time comes as an argument. What somebody may ask a storage
//! server for changes too often to be written into certificates: `ticket` signs that.

mod authority;
mod credentials;
mod identity;
mod invited;
mod request;
pub mod seal;
#[cfg(test)]
mod tests;
mod ticket;
mod token;
mod validity;
mod verifier;

pub use authority::{Authority, AuthorityError, Issued, fingerprint_of_pem};
pub use credentials::{Credentials, CredentialsError};
pub use identity::{Identity, IdentityError, Role};
pub use invited::Invited;
pub use request::{NewKey, Request};
pub use rustls::time_provider::TimeProvider;
pub use token::{Fingerprint, Token, TokenError};
pub use validity::Validity;
pub use verifier::Peer;
