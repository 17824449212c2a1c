//! The invitation to a cluster: one word that somebody pastes on a new machine.
//!
//! It has to do two things. The new machine knows nobody yet: by the **fingerprint** of the cluster's authority
//! it can tell whether who answers at the address is a monitor of that cluster. The cluster does not know the
//! machine: by the **secret** it can. The monitors keep only a hash of the secret, so that reading their state
//! does not help anybody to join; what a token grants, and until when, is kept with the hash, and what the
//! word itself says of that is for the reader's convenience.
//!
//! ```text
//! okapi1 BASE32( role:1  expires:8  fingerprint:16  secret:16  check:4 )        78 characters
//! ```
//!
//! `check` are the first bytes of the SHA-256 of what is before it, so that a word of which a part was lost on
//! its way is noticed before anybody is asked. Base32 is that of RFC 4648 in small letters: no character that a
//! terminal breaks words at.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;

use crate::types::{Timestamp, TokenHash, TokenRole};

/// What every token begins with; the digit is the version.
const MARK: &str = "okapi1";
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const FINGERPRINT_BYTES: usize = 16;
const SECRET_BYTES: usize = 16;
const CHECK_BYTES: usize = 4;
const BODY_BYTES: usize = 1 + 8 + FINGERPRINT_BYTES + SECRET_BYTES;

/// First half of the SHA-256 of an authority's certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint([u8; FINGERPRINT_BYTES]);

/// An invitation.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// What its redeemer becomes.
    pub role: TokenRole,
    /// Until when it may be redeemed.
    pub expires: Timestamp,
    /// Of the authority of the cluster that it is for.
    pub authority: Fingerprint,
    secret: [u8; SECRET_BYTES],
}

/// Why a word is no token.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenError {
    /// It does not begin like one.
    #[error("that is no token: one begins with okapi1, and `okapifs token new` makes it")]
    NoToken,
    /// It is of a later version.
    #[error("the token was made by a later version of okapifs: update this one")]
    OtherVersion,
    /// A part is missing or wrong.
    #[error("a part of the token is missing or wrong: copy all of it again")]
    Damaged,
}

impl Fingerprint {
    /// The fingerprint of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let hash = digest(&SHA256, certificate);
        Self(hash.as_ref()[..FINGERPRINT_BYTES].try_into().expect("SHA-256 is longer"))
    }
}

impl Token {
    /// A new token.
    ///
    /// # Panics
    ///
    /// When the system gives no random numbers.
    pub fn new(role: TokenRole, expires: Timestamp, authority: Fingerprint) -> Self {
        let mut secret = [0; SECRET_BYTES];
        aws_lc_rs::rand::fill(&mut secret).expect("the system gives random numbers");
        Self { role, expires, authority, secret }
    }

    /// What the cluster keeps of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of_secret(&self.secret)
    }

    /// What is shown to the monitors to redeem it.
    pub fn secret(&self) -> Vec<u8> {
        self.secret.to_vec()
    }

    /// Reads a token, white space around it allowed.
    ///
    /// # Errors
    ///
    /// [`TokenError`], which says in one sentence what to do.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim().to_ascii_lowercase();
        let Some(rest) = text.strip_prefix(MARK) else {
            let is_later = text
                .strip_prefix("okapi")
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            return Err(if is_later { TokenError::OtherVersion } else { TokenError::NoToken });
        };
        let bytes = from_base32(rest).ok_or(TokenError::Damaged)?;
        let (body, check) = bytes.split_at_checked(BODY_BYTES).ok_or(TokenError::Damaged)?;
        if check != check_of(body) {
            return Err(TokenError::Damaged);
        }
        let role = match body[0] {
            0 => TokenRole::Node,
            1 => TokenRole::Client,
            _ => return Err(TokenError::OtherVersion),
        };
        let (seconds, rest) = body[1..].split_first_chunk().expect("the length was checked");
        let (authority, secret) = rest.split_first_chunk().expect("the length was checked");
        Ok(Self {
            role,
            expires: Timestamp { seconds: i64::from_be_bytes(*seconds), nanos: 0 },
            authority: Fingerprint(*authority),
            secret: secret.try_into().expect("the length was checked"),
        })
    }
}

impl TokenHash {
    /// The hash of a secret.
    pub fn of_secret(secret: &[u8]) -> Self {
        Self(digest(&SHA256, secret).as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

/// The word itself: show it only to whom it is for.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            TokenRole::Node => 0,
            TokenRole::Client => 1,
        };
        let mut bytes = vec![role];
        bytes.extend(self.expires.seconds.to_be_bytes());
        bytes.extend(self.authority.0);
        bytes.extend(self.secret);
        bytes.extend(check_of(&bytes));
        write!(f, "{MARK}{}", to_base32(&bytes))
    }
}

/// Never the secret.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("role", &self.role).field("expires", &self.expires).finish()
    }
}

fn check_of(body: &[u8]) -> [u8; CHECK_BYTES] {
    digest(&SHA256, body).as_ref()[..CHECK_BYTES].try_into().expect("SHA-256 is longer")
}

fn to_base32(bytes: &[u8]) -> String {
    let mut text = String::new();
    let (mut bits, mut count) = (0u32, 0);
    for byte in bytes {
        bits = bits << 8 | u32::from(*byte);
        count += 8;
        while count >= 5 {
            count -= 5;
            text.push(char::from(ALPHABET[(bits >> count & 31) as usize]));
        }
    }
    if count > 0 {
        text.push(char::from(ALPHABET[(bits << (5 - count) & 31) as usize]));
    }
    text
}

fn from_base32(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for letter in text.bytes() {
        let value = ALPHABET.iter().position(|known| *known == letter)?;
        bits = bits << 5 | u32::try_from(value).expect("below 32");
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    // What is left over is zero, so that no two words mean the same.
    (count < 5 && bits & ((1 << count) - 1) == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        let authority = Fingerprint::of(&CertificateDer::from(vec![7; 100]));
        let expires = Timestamp { seconds: 1_795_450_536, nanos: 0 };
        Token::new(TokenRole::Client, expires, authority)
    }

    #[test]
    fn a_token_is_read_as_it_is_written() {
        let token = token();
        let text = token.to_string();
        assert_eq!(Token::parse(&text), Ok(token.clone()));
        assert_eq!(Token::parse(&format!(" {}\n", text.to_uppercase())), Ok(token.clone()));
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{text}");
        assert_eq!(token.hash(), TokenHash::of_secret(&token.secret()));
        assert!(!format!("{token:?}").contains("secret"));
    }

    #[test]
    fn a_token_of_which_a_part_was_lost_is_noticed() {
        let text = token().to_string();
        for length in MARK.len()..text.len() {
            assert_eq!(Token::parse(&text[..length]), Err(TokenError::Damaged), "{length}");
        }
        for at in MARK.len()..text.len() {
            let mut letters = text.clone().into_bytes();
            letters[at] = if letters[at] == b'a' { b'b' } else { b'a' };
            let changed = String::from_utf8(letters).unwrap();
            Token::parse(&changed).expect_err(&changed);
        }
        assert_eq!(Token::parse(&format!("{text}a")), Err(TokenError::Damaged));
        assert_eq!(Token::parse("okapi2abc"), Err(TokenError::OtherVersion));
        assert_eq!(Token::parse("secret"), Err(TokenError::NoToken));
    }
}
