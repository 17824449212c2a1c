//! Images: what is built reads back, and whatever is changed is noticed.

use super::*;
use crate::codec::tests::Random;

fn ident(data: u8, parity: u8) -> StripeIdent {
    StripeIdent {
        cluster: ClusterId(0x1234_5678_9abc_def0_0fed_cba9_8765_4321),
        incarnation: Incarnation(3),
        stripe: StripeId(0x1122_3344_5566),
        width: Width { data, parity },
    }
}

fn pieces(length: u32) -> Vec<StripePiece> {
    (0..length.div_ceil(BLOCK))
        .map(|block| StripePiece {
            ino: Ino(100 + u64::from(block)),
            file_offset: u64::from(block) << 20,
            stripe_offset: block * BLOCK,
            length: BLOCK.min(length - block * BLOCK),
        })
        .collect()
}

fn bytes_of(image: &ShardImage) -> Vec<u8> {
    let parts = std::iter::once(&image.head).chain(&image.data);
    parts.flat_map(|part| part.iter().copied()).collect()
}

#[test]
fn what_is_built_reads_back() {
    let mut random = Random(11);
    for (data, parity) in [(1, 0), (1, 2), (2, 1), (4, 2), (32, 8)] {
        for length in [1, 4096, 4097, 70_000, 1 << 20] {
            let ident = ident(data, parity);
            let payload = Bytes::from(random.bytes(length as usize));
            let images = build(ident, &payload, &pieces(length));
            assert_eq!(images.len(), ident.width.total());
            let mut whole = Vec::new();
            for (index, image) in images.iter().enumerate() {
                let head = Head::parse(&image.head).unwrap();
                assert_eq!(head.header.ident, ident);
                assert_eq!(usize::from(head.header.index.0), index);
                assert_eq!(head.header.stripe_length, length);
                assert_eq!(head.header.hash, image.hash);
                assert_eq!(head.pieces, pieces(length));
                let bytes = bytes_of(image);
                assert_eq!(bytes.len(), head.header.image_bytes() as usize);
                assert_eq!(image.head.len(), head.header.head_bytes() as usize);
                assert!(image.data.iter().all(|part| part.len() % BLOCK as usize == 0));
                let content = &bytes[image.head.len()..];
                assert!(head.damaged_blocks(0, content).is_empty());
                if index < usize::from(data) {
                    whole.extend_from_slice(content);
                }
            }
            assert_eq!(&whole[..length as usize], &payload[..]);
            assert!(whole[length as usize..].iter().all(|byte| *byte == 0));
        }
    }
}

#[test]
fn the_payload_is_not_copied() {
    let payload = Bytes::from(vec![5; 3 << 20]);
    let images = build(ident(2, 1), &payload, &[]);
    assert_eq!(images[0].data[0].as_ptr(), payload.as_ptr());
    assert_eq!(images[1].data[0].as_ptr(), payload[3 << 19..].as_ptr());
    let copies = build(ident(1, 1), &payload, &[]);
    assert_eq!(copies[1].data[0].as_ptr(), payload.as_ptr());
    assert_ne!(copies[0].hash, copies[1].hash);
}

#[test]
fn every_flipped_bit_of_the_head_is_noticed() {
    let payload = Bytes::from(Random(5).bytes(20_000));
    let image = build(ident(2, 1), &payload, &pieces(20_000)).remove(1);
    let mut head = image.head.to_vec();
    for bit in 0..head.len() * 8 {
        head[bit / 8] ^= 1 << (bit % 8);
        Head::parse(&head).expect_err("a flipped bit");
        head[bit / 8] ^= 1 << (bit % 8);
    }
    for length in 0..head.len() {
        Head::parse(&head[..length]).expect_err("cut off");
    }
    Head::parse(&head).unwrap();
}

#[test]
fn a_flipped_or_misplaced_block_is_noticed() {
    let payload = Bytes::from(Random(6).bytes(40_000));
    let images = build(ident(2, 1), &payload, &[]);
    let head = Head::parse(&images[0].head).unwrap();
    let mut data = bytes_of(&images[0]).split_off(images[0].head.len());
    data[3 * 4096 + 17] ^= 1;
    assert_eq!(head.damaged_blocks(0, &data), [3]);
    assert_eq!(head.damaged_blocks(3, &data[3 * 4096..]), [3]);
    assert!(head.damaged_blocks(1, &data[4096..3 * 4096]).is_empty());
    assert_eq!(head.damaged_blocks(2, &data[4096..2 * 4096]), [2]);
}

#[test]
fn sizes_from_outside_are_bounded() {
    let payload = Bytes::from(vec![1; 4096]);
    let image = build(ident(1, 0), &payload, &[]).remove(0);
    for (at, value) in [(44, u32::MAX), (48, u32::MAX), (52, u32::MAX), (44, 0)] {
        let mut head = image.head.to_vec();
        head[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let crc = crc_fast::crc32_iscsi(&head[8..CRC_AT]);
        head[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        let error = Head::parse(&head).unwrap_err();
        assert!(matches!(error, BadShard::Nonsense(_)), "{error}");
    }
}

#[test]
fn a_dead_mark_leaves_the_header_readable() {
    let payload = Bytes::from(vec![1; 4096]);
    let image = build(ident(1, 0), &payload, &[]).remove(0);
    let mut head = image.head.to_vec();
    head[..8].copy_from_slice(&DEAD_MARK);
    let header = Header::parse(&head).unwrap();
    assert!(header.dead);
    assert_eq!(header.image_bytes(), 8192);
}
