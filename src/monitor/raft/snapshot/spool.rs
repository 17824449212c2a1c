//! A state on its way into the store: a file of pairs.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use crc_fast::{CrcAlgorithm, Digest};

use crate::monitor::store::{Incoming, Pair, StoreError};

/// Longest key or value that is taken, in bytes: records are bounded far below (one frame's header).
const FIELD_MAX: u32 = 8 << 20;

/// Appends a pair to `bytes`.
pub(super) fn write_pair(bytes: &mut Vec<u8>, (key, value): &Pair) {
    let length = |field: &[u8]| u32::try_from(field.len()).expect("records are bounded");
    bytes.extend_from_slice(&length(key).to_le_bytes());
    bytes.extend_from_slice(&length(value).to_le_bytes());
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(value);
}

/// The checksum of all bytes of a spool.
pub(super) struct Checksum(Box<Digest>);

impl Checksum {
    /// Of no bytes.
    pub(super) fn new() -> Self {
        Self(Box::new(Digest::new(CrcAlgorithm::Crc32Iscsi)))
    }

    /// Adds bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The CRC32C.
    pub(super) fn value(&self) -> u32 {
        u32::try_from(self.0.finalize()).expect("CRC32C has 32 bits")
    }
}

/// The file. It goes away with its owner.
pub(in super::super) struct Spool {
    path: PathBuf,
    file: File,
    written: u64,
    checksum: Checksum,
}

impl Spool {
    /// An empty one, in the place of an older one.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = File::create(path)?;
        Ok(Self { path: path.to_owned(), file, written: 0, checksum: Checksum::new() })
    }

    /// Appends bytes.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        self.checksum.update(bytes);
        Ok(())
    }

    /// Bytes in it.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Their CRC32C.
    pub(super) fn crc(&self) -> u32 {
        self.checksum.value()
    }

    /// The pairs.
    pub(super) fn pairs(&self) -> Result<Incoming<'_>, StoreError> {
        let file = File::open(&self.path).map_err(|error| self.failed(&error))?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let mut left = self.written;
        Ok(Box::new(std::iter::from_fn(move || {
            (left > 0)
                .then(|| read_pair(&mut reader, &mut left).map_err(|error| self.failed(&error)))
        })))
    }

    fn failed(&self, error: &io::Error) -> StoreError {
        StoreError(format!("{}: {error}", self.path.display()))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            log::warn!("{} is not removed: {error}", self.path.display());
        }
    }
}

/// Reads the next pair; an error ends the file.
fn read_pair(reader: &mut impl Read, left: &mut u64) -> io::Result<Pair> {
    let mut field = |length: u32| -> io::Result<Vec<u8>> {
        if length > FIELD_MAX || u64::from(length) > *left {
            *left = 0;
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "no pair is where one should be",
            ));
        }
        let mut bytes = vec![0; length as usize];
        let read = reader.read_exact(&mut bytes);
        *left = if read.is_ok() { *left - u64::from(length) } else { 0 };
        read.map(|()| bytes)
    };
    let mut length = || -> io::Result<u32> {
        Ok(u32::from_le_bytes(field(4)?.try_into().expect("four bytes were asked for")))
    };
    let (key, value) = (length()?, length()?);
    Ok((field(key)?, field(value)?))
}
