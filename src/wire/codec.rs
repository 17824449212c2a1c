//! The only file that knows the encoder: bincode, fixed-width little-endian integers.
//!
//! Decoding is always limited: a length prefix that promises more than [`FRAME_HEADER_MAX`] bytes is refused
//! before anything is allocated for it (without the limit, a 32-byte packet could abort a process).

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::{Decode, Encode};

use crate::types::limits::FRAME_HEADER_MAX;

const LIMIT: usize = FRAME_HEADER_MAX as usize;
const CONFIG: Configuration<LittleEndian, Fixint, Limit<LIMIT>> = bincode::config::standard()
    .with_little_endian()
    .with_fixed_int_encoding()
    .with_limit::<LIMIT>();

/// Bytes that are not what they should be: cut off, too long, or of another version.
#[derive(Debug, thiserror::Error)]
#[error("undecodable message or record: {0}")]
pub struct DecodeError(String);

/// Encodes a message or a record.
///
/// # Panics
///
/// When the value encodes to more than [`FRAME_HEADER_MAX`] bytes: senders bound their batches.
pub fn encode<T: Encode>(value: &T) -> Vec<u8> {
    try_encode(value).expect("messages and records are bounded by their senders")
}

/// [`encode`] for what no sender has bounded: `None` when it is too long.
pub fn try_encode<T: Encode>(value: &T) -> Option<Vec<u8>> {
    // The encoder itself knows no limit, and what is longer could never be decoded.
    bincode::encode_to_vec(value, CONFIG).ok().filter(|bytes| bytes.len() <= LIMIT)
}

/// Encodes a record behind what `bytes` holds already: one buffer, one pass.
///
/// # Panics
///
/// When a length in it does not fit the encoding: it was bounded when it arrived.
pub fn encode_behind<T: Encode>(bytes: &mut Vec<u8>, value: &T) {
    bincode::encode_into_std_write(value, bytes, CONFIG).expect("a vector takes everything");
}

/// Decodes what [`encode`] wrote. All of `bytes` must be used up.
///
/// # Errors
///
/// [`DecodeError`] when `bytes` is anything else.
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (value, used) = bincode::decode_from_slice(bytes, CONFIG)
        .map_err(|error| DecodeError(error.to_string()))?;
    if used == bytes.len() {
        Ok(value)
    } else {
        Err(DecodeError(format!("{} bytes too many", bytes.len() - used)))
    }
}

/// Reads a value from numbers that are made up meanwhile: `number` gets the width of each read, in bytes.
///
/// # Errors
///
/// [`NotDictated`] when the last number did not fit.
#[cfg(test)]
pub(super) fn dictate<T: Decode<()>>(number: impl FnMut(usize) -> u32) -> Result<T, NotDictated> {
    struct Dictation<F>(F);
    impl<F: FnMut(usize) -> u32> bincode::de::read::Reader for Dictation<F> {
        fn read(&mut self, bytes: &mut [u8]) -> Result<(), bincode::error::DecodeError> {
            let number = (self.0)(bytes.len()).to_le_bytes();
            bytes.fill(0);
            let width = bytes.len().min(number.len());
            bytes[..width].copy_from_slice(&number[..width]);
            Ok(())
        }
    }
    use bincode::error::{AllowedEnumVariants::Range, DecodeError::UnexpectedVariant};
    bincode::decode_from_reader(Dictation(number), CONFIG).map_err(|error| match error {
        UnexpectedVariant { type_name, allowed: Range { min, max }, .. } => {
            NotDictated::Variant { of: type_name, all: *min..=*max }
        }
        other => NotDictated::Value(other.to_string()),
    })
}

/// What [`dictate`] stopped at.
#[cfg(test)]
#[derive(Debug, thiserror::Error)]
pub(super) enum NotDictated {
    /// No variant of an enum.
    #[error("{of} has the variants {all:?}")]
    Variant { of: &'static str, all: std::ops::RangeInclusive<u32> },
    /// No value of another type.
    #[error("{0}")]
    Value(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_nothing_else_is() {
        let value = (7u64, b"name".to_vec(), Some(3u8));
        let bytes = encode(&value);
        assert_eq!(decode::<(u64, Vec<u8>, Option<u8>)>(&bytes).expect("round trip"), value);
        decode::<(u64, Vec<u8>, Option<u8>)>(&bytes[..bytes.len() - 1]).expect_err("cut off");
        let longer = [bytes.as_slice(), &[0]].concat();
        decode::<(u64, Vec<u8>, Option<u8>)>(&longer).expect_err("trailing byte");
    }

    #[test]
    fn what_could_not_be_decoded_is_not_encoded() {
        let fits = vec![7u8; LIMIT - 8];
        assert_eq!(decode::<Vec<u8>>(&encode(&fits)).expect("round trip"), fits);
        assert_eq!(try_encode(&vec![7u8; LIMIT - 7]), None);
    }

    #[test]
    fn a_huge_length_is_refused_before_it_is_allocated() {
        let mut bytes = vec![0xff; 8];
        bytes.extend([0; 24]);
        decode::<Vec<u64>>(&bytes).expect_err("2^64 elements");
        bytes[..8].copy_from_slice(&(1u64 << 40).to_le_bytes());
        decode::<Vec<u8>>(&bytes).expect_err("a terabyte");
    }
}
