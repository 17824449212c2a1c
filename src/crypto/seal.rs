//! Secrets that are kept where others may read.
//!
//! The key of the cluster's authority is part of the replicated state, so that every monitor can issue
//! certificates and none of them is needed for it. A backup of a monitor's directory, or a log file sent to
//! somebody, must not give it away: so it is sealed with a key that lies beside the state, in a file of its own
//! that only the monitors have.
//!
//! ```text
//! version:1  nonce:12  ciphertext (as long as the secret)  tag:16        AES-256-GCM
//! ```
//!
//! What a secret is for (`purpose`) is authenticated with it: one that was sealed as something else does not
//! open.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};

const VERSION: u8 = 1;
const KEY_BYTES: usize = 32;
const HEAD_BYTES: usize = 1 + NONCE_LEN;

/// A key that seals and opens secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct SealKey([u8; KEY_BYTES]);

/// Why a sealed secret stays closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SealError {
    /// The text is no key.
    #[error(
        "that is no sealing key: it has 64 hexadecimal digits; copy it again from another monitor"
    )]
    NoKey,
    /// Another key sealed it, or it was damaged.
    #[error("the sealing key is not that of this cluster: copy it again from another monitor")]
    OtherKey,
    /// It was sealed by a later version.
    #[error("the secret was sealed by a later version of okapifs: update this one")]
    OtherVersion,
    /// The cryptographic library failed.
    #[error("the system gives no random numbers")]
    NoRandomness,
}

impl SealKey {
    /// A new key.
    ///
    /// # Errors
    ///
    /// [`SealError::NoRandomness`].
    pub fn generate() -> Result<Self, SealError> {
        let mut key = [0; KEY_BYTES];
        aws_lc_rs::rand::fill(&mut key).map_err(|_| SealError::NoRandomness)?;
        Ok(Self(key))
    }

    /// The key as it is written to a file: 64 hexadecimal digits.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads [`Self::to_hex`], white space around it allowed.
    ///
    /// # Errors
    ///
    /// [`SealError::NoKey`].
    pub fn from_hex(text: &str) -> Result<Self, SealError> {
        let digits = text.trim().as_bytes();
        if digits.len() != 2 * KEY_BYTES {
            return Err(SealError::NoKey);
        }
        let mut key = [0; KEY_BYTES];
        for (byte, pair) in key.iter_mut().zip(digits.chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| SealError::NoKey)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| SealError::NoKey)?;
        }
        Ok(Self(key))
    }

    /// Seals a secret for a purpose.
    ///
    /// # Errors
    ///
    /// [`SealError::NoRandomness`].
    pub fn seal(&self, purpose: &str, secret: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut body = secret.to_vec();
        let nonce = self
            .cipher()
            .seal_in_place_append_tag(Aad::from(purpose.as_bytes()), &mut body)
            .map_err(|_| SealError::NoRandomness)?;
        let mut sealed = vec![VERSION];
        sealed.extend_from_slice(nonce.as_ref());
        sealed.append(&mut body);
        Ok(sealed)
    }

    /// Opens what [`Self::seal`] made for the same purpose.
    ///
    /// # Errors
    ///
    /// [`SealError::OtherKey`], [`SealError::OtherVersion`].
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        if sealed.first().is_some_and(|version| *version != VERSION) {
            return Err(SealError::OtherVersion);
        }
        let (head, body) = sealed.split_at_checked(HEAD_BYTES).ok_or(SealError::OtherKey)?;
        let nonce = Nonce::try_assume_unique_for_key(&head[1..]).expect("a nonce is that long");
        let mut body = body.to_vec();
        let secret = self
            .cipher()
            .open_in_place(nonce, Aad::from(purpose.as_bytes()), &mut body)
            .map_err(|_| SealError::OtherKey)?;
        Ok(secret.to_vec())
    }

    fn cipher(&self) -> RandomizedNonceKey {
        RandomizedNonceKey::new(&AES_256_GCM, &self.0).expect("the key has the cipher's length")
    }
}

/// Never the key.
impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_with_its_key_for_its_purpose_only() {
        let (key, other) = (SealKey::generate().unwrap(), SealKey::generate().unwrap());
        let sealed = key.seal("ca", b"secret").unwrap();
        assert_eq!(key.open("ca", &sealed), Ok(b"secret".to_vec()));
        assert_eq!(key.open("else", &sealed), Err(SealError::OtherKey));
        assert_eq!(other.open("ca", &sealed), Err(SealError::OtherKey));
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            key.open("ca", &damaged).expect_err("damaged");
        }
        for length in 0..sealed.len() {
            key.open("ca", &sealed[..length]).expect_err("cut off");
        }
        assert_ne!(sealed, key.seal("ca", b"secret").unwrap(), "a nonce is never used twice");
    }

    #[test]
    fn a_key_is_read_as_it_is_written() {
        let key = SealKey::generate().unwrap();
        assert_eq!(SealKey::from_hex(&format!("{}\n", key.to_hex())), Ok(key.clone()));
        assert_eq!(SealKey::from_hex(&key.to_hex()[1..]), Err(SealError::NoKey));
        assert_eq!(SealKey::from_hex(&"g".repeat(64)), Err(SealError::NoKey));
        assert_eq!(SealKey::from_hex(&"é".repeat(32)), Err(SealError::NoKey));
        assert!(!format!("{key:?}").contains(&key.to_hex()));
    }
}
