//! Who may join the cluster, how, and what clients may do there.
//!
//! [`Join`] is the one thing that somebody without a certificate may ask a monitor; [`Request`] is what
//! administrators ask about tokens and clients.

use bincode::{Decode, Encode};

use crate::types::{
    ClientPolicy, ClusterId, MonitorId, Timestamp, TokenGrant, TokenHash, TokenUse,
};

/// A machine wants to become a member. Answered by [`Joined`].
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Join {
    /// The secret of its token.
    pub secret: Vec<u8>,
    /// What it would like to be called: its host name.
    pub name: String,
    /// Requests for certificates (PKCS#10, DER), in this order: of a node for its agent, its server, its
    /// client and, if it would run one, its monitor; of a client for itself.
    pub requests: Vec<Vec<u8>>,
}

/// See [`Join`].
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Joined {
    /// The cluster.
    pub cluster: ClusterId,
    /// The name that the machine got; its server's is [`server_name`] of it, its monitor's [`monitor_name`].
    pub name: String,
    /// The authority's certificate, in PEM.
    pub authority: String,
    /// The certificates, in the order of the requests, in PEM. One for a monitor is missing if the node is to run
    /// none.
    pub certificates: Vec<String>,
    /// `host:port` of the monitors.
    pub monitors: Vec<String>,
}

/// What the server of a node is called.
pub fn server_name(node: &str) -> String {
    format!("server-{node}")
}

/// What the monitor of a node is called.
pub fn monitor_name(node: &str) -> String {
    format!("monitor-{node}")
}

/// A node that is a member wants to run a monitor, too. For administrators, and for an agent that was told to
/// ([`super::metadata::AgentBeaten`]). Answered by [`Enrolled`].
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Enroll {
    /// What the monitor is to be called.
    pub name: String,
    /// The request for its certificate (PKCS#10, DER).
    pub request: Vec<u8>,
    /// Which monitor it takes the place of.
    pub replaces: Option<MonitorId>,
}

/// See [`Enroll`].
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Enrolled {
    /// What the monitor is called.
    pub name: String,
    /// The authority's certificate, in PEM.
    pub authority: String,
    /// Its certificate, in PEM.
    pub certificate: String,
    /// `host:port` of the monitors.
    pub monitors: Vec<String>,
}

/// Why a token is not accepted.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, thiserror::Error)]
pub enum TokenRefusal {
    /// There is no such token.
    #[error(
        "the cluster does not know this token: it was revoked; make another with `okapifs token new`"
    )]
    Unknown,
    /// It has expired.
    #[error("this token expired at {0}: make another with `okapifs token new`")]
    Expired(Timestamp),
    /// Somebody else has redeemed it.
    #[error(
        "this token was used already, by {} at {}: each is for one join; make another with `okapifs token new`",
        .0.name, .0.time
    )]
    Used(TokenUse),
    /// It is for another role than the requests are for.
    #[error("this token is for another role: make another with `okapifs token new --role`")]
    OtherRole,
}

/// A question or command of an administrator.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Request {
    /// A new token. Answered by [`Response::TokenAdded`].
    AddToken {
        /// Of its secret.
        hash: TokenHash,
        /// For how long it may be redeemed, in seconds.
        lifetime_s: u64,
        /// What it grants.
        grant: TokenGrant,
    },
    /// All tokens that are still remembered. Answered by [`Response::Tokens`].
    Tokens,
    /// A token is not to be redeemed. Answered by [`Response::Done`].
    RevokeToken(TokenHash),
    /// All clients with a policy of their own. Answered by [`Response::Clients`].
    Clients,
    /// What a client may do from its next mount on. Answered by [`Response::Done`].
    SetClient {
        /// Its name.
        name: String,
        /// What it may do.
        policy: ClientPolicy,
    },
    /// A client may do nothing any more, for ever. Answered by [`Response::Done`].
    RevokeClient {
        /// Its name.
        name: String,
    },
}

/// The answer to a [`Request`].
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Response {
    /// Nothing more to say.
    Done,
    /// See [`Request::AddToken`].
    TokenAdded {
        /// When it expires, by the leader's clock.
        expires: Timestamp,
    },
    /// See [`Request::Tokens`].
    Tokens(Vec<TokenEntry>),
    /// See [`Request::Clients`].
    Clients(Vec<ClientEntry>),
}

/// A token, as administrators see it.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct TokenEntry {
    /// Of its secret; its first digits are its id.
    pub hash: TokenHash,
    /// What it grants.
    pub grant: TokenGrant,
    /// Until when.
    pub expires: Timestamp,
    /// By whom it was redeemed.
    pub used: Option<TokenUse>,
}

/// A client, as administrators see it.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct ClientEntry {
    /// Its name.
    pub name: String,
    /// What it may do.
    pub policy: ClientPolicy,
    /// Whether it was revoked.
    pub revoked: bool,
}
