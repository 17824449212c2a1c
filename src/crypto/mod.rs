//! Who is who: certificates, and what TLS needs to prove them.
//!
//! A cluster has a certificate authority of its own, made together with the cluster. It gives every process
//! a certificate that says three things: of which cluster the process is, in which role, and under which
//! name. They are written as DNS names ([`Identity`] draws them), so that the ordinary check of a server's
//! name during the TLS handshake proves the role: a storage server's certificate can never pass for a
//! monitor's, and a certificate of another cluster proves nothing here at all.
//!
//! [`Authority`] makes certificates; [`Credentials`] is what one process holds of them and the TLS
//! configurations that follow. All of it works on text in PEM: where the files lie is decided elsewhere, and
//! the time comes as an argument.

mod authority;
mod credentials;
mod identity;
#[cfg(test)]
mod tests;

pub use authority::{Authority, AuthorityError, Issued};
pub use credentials::{Credentials, CredentialsError};
pub use identity::{Identity, IdentityError, Role};
