//! The file in which a state arrives. Whole transfers are tested with groups, in `raft::tests`.

use std::fs::OpenOptions;

use super::spool::{Checksum, write_pair};
use super::*;
use crate::monitor::store::Pair;

fn pairs() -> Vec<Pair> {
    (0..500u32).map(|n| (n.to_be_bytes().to_vec(), vec![n as u8; n as usize * 7])).collect()
}

fn encoded() -> Vec<u8> {
    let mut bytes = Vec::new();
    pairs().iter().for_each(|pair| write_pair(&mut bytes, pair));
    bytes
}

#[test]
fn what_is_spooled_in_any_pieces_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool");
    for piece in [1, 1000, 1 << 20] {
        let mut spool = Spool::create(&path).unwrap();
        let mut checksum = Checksum::new();
        for bytes in encoded().chunks(piece) {
            spool.append(bytes).unwrap();
            checksum.update(bytes);
        }
        assert_eq!(spool.crc(), checksum.value());
        assert_eq!(spool.written(), encoded().len() as u64);
        let read: Result<Vec<Pair>, _> = spool.pairs().unwrap().collect();
        assert_eq!(read.unwrap(), pairs());
        drop(spool);
        assert!(!path.exists());
    }
}

#[test]
fn a_file_that_ends_early_or_is_garbage_is_an_error_and_not_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool");
    let mut spool = Spool::create(&path).unwrap();
    spool.append(&encoded()).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(encoded().len() as u64 - 1).unwrap();
    let read: Vec<_> = spool.pairs().unwrap().collect();
    assert_eq!(read.len(), 500);
    assert!(read[498].is_ok() && read[499].is_err());

    let mut spool = Spool::create(&path).unwrap();
    spool.append(&[0xff; 64]).unwrap();
    let read: Vec<_> = spool.pairs().unwrap().collect();
    assert!(matches!(read.as_slice(), [Err(_)]));
}
