//! Requests as the kernel lays them out, whole and cut.

use super::*;
use crate::fuse::kernel::abi::Body;

const AGREED: u64 = abi::init::SETXATTR_EXT;

const HEADER: Header =
    Header { opcode: 0, unique: 9, node: NodeId(7), uid: 1000, gid: 100, pid: 4711 };

/// A message as the kernel lays it out: header, fields, names or data, extensions.
fn message(opcode: Opcode, body: &[u8], extensions: usize) -> Vec<u8> {
    let length = IN_HEADER_BYTES + body.len() + extensions * 8;
    let header = Body::new()
        .u32(u32::try_from(length).unwrap())
        .u32(opcode as u32)
        .u64(HEADER.unique)
        .u64(HEADER.node.0)
        .u32(HEADER.uid)
        .u32(HEADER.gid)
        .u32(HEADER.pid)
        .u16(u16::try_from(extensions).unwrap())
        .u16(0);
    let mut bytes = [header.as_slice(), body].concat();
    bytes.resize(length, 0xEE);
    bytes
}

/// What these fields and this tail are understood as.
fn understood<'a>(opcode: Opcode, body: &'a [u8]) -> Result<Op<'a>, Malformed> {
    let header = Header { opcode: opcode as u32, ..HEADER };
    match Message::parse(&header, body, AGREED)? {
        Message::Request(request) => Ok(request.op),
        other => panic!("{other:?} is no request"),
    }
}

fn with_tail(fields: Body, tail: &[u8]) -> Vec<u8> {
    [fields.as_slice(), tail].concat()
}

#[test]
fn a_whole_message_byte_by_byte() {
    // LOOKUP of "ab" in inode 1, unique 2, by 0:0, thread 3, on a little-endian machine.
    let bytes: [u8; 43] = [
        43, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 3, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', 0,
    ];
    if cfg!(target_endian = "little") {
        let (header, body) = Header::parse(&bytes).unwrap();
        let expected = Header { opcode: 1, unique: 2, node: NodeId::ROOT, uid: 0, gid: 0, pid: 3 };
        assert_eq!(header, expected);
        let op = Op::Lookup { name: b"ab" };
        let request = Request { node: NodeId::ROOT, uid: 0, gid: 0, op };
        assert_eq!(Message::parse(&header, body, AGREED), Ok(Message::Request(request)));
    }
}

#[test]
fn extensions_are_no_part_of_the_request() {
    let bytes = message(Opcode::Unlink, b"name\0", 2);
    let (header, body) = Header::parse(&bytes).unwrap();
    assert_eq!((header.pid, body), (4711, &b"name\0"[..]));
}

#[test]
fn messages_that_do_not_fit_their_length_are_malformed() {
    let bytes = message(Opcode::Unlink, b"name\0", 0);
    assert!(Header::parse(&bytes[..bytes.len() - 1]).is_err());
    assert!(Header::parse(&bytes[..39]).is_err());
    assert!(Header::parse(&[]).is_err());
    let mut all_extension = message(Opcode::Unlink, b"", 1);
    all_extension[36] = 200;
    assert!(Header::parse(&all_extension).is_err());
}

/// Every request, with all of its fields different from one another.
fn samples() -> Vec<(Opcode, Vec<u8>, Op<'static>)> {
    let numbers = |count: u64| (1..=count).fold(Body::new(), |body, number| body.u64(number));
    let lock =
        Lock { handle: 1, owner: 2, start: 3, end: 4, kind: libc::F_WRLCK, pid: 6, is_flock: true };
    let lock_body = numbers(4).u32(1).u32(6).u32(1).u32(0).as_slice().to_vec();
    vec![
        (Opcode::Lookup, b"a\0".to_vec(), Op::Lookup { name: b"a" }),
        (Opcode::Symlink, b"a\0to\0".to_vec(), Op::Symlink { name: b"a", target: b"to" }),
        (
            Opcode::MkNod,
            with_tail(Body::new().u32(0o10644).u32(5).u32(0o22).u32(0), b"p\0"),
            Op::MkNod { name: b"p", mode: 0o10644, umask: 0o22, rdev: 5 },
        ),
        (
            Opcode::MkDir,
            with_tail(Body::new().u32(0o755).u32(0o22), b"d\0"),
            Op::MkDir { name: b"d", mode: 0o755, umask: 0o22 },
        ),
        (
            Opcode::Rename,
            with_tail(Body::new().u64(8), b"a\0b\0"),
            Op::Rename { name: b"a", new_parent: NodeId(8), new_name: b"b", flags: 0 },
        ),
        (
            Opcode::Rename2,
            with_tail(Body::new().u64(8).u32(2).u32(0), b"a\0b\0"),
            Op::Rename { name: b"a", new_parent: NodeId(8), new_name: b"b", flags: 2 },
        ),
        (
            Opcode::Link,
            with_tail(Body::new().u64(8), b"b\0"),
            Op::Link { node: NodeId(8), name: b"b" },
        ),
        (
            Opcode::Open,
            Body::new().u32(2).u32(0).as_slice().to_vec(),
            Op::Open { flags: libc::O_RDWR },
        ),
        (
            Opcode::Create,
            with_tail(Body::new().u32(1).u32(0o100_600).u32(0o22).u32(0), b"f\0"),
            Op::Create { name: b"f", mode: 0o100_600, umask: 0o22, flags: libc::O_WRONLY },
        ),
        (
            Opcode::TmpFile,
            with_tail(Body::new().u32(1).u32(0o100_600).u32(0o22).u32(0), b"/\0"),
            Op::TmpFile { mode: 0o100_600, umask: 0o22, flags: libc::O_WRONLY },
        ),
        (
            Opcode::Read,
            numbers(2).u32(3).u32(4).u64(5).u64(6).as_slice().to_vec(),
            Op::Read { handle: 1, offset: 2, size: 3 },
        ),
        (
            Opcode::Write,
            with_tail(numbers(2).u32(3).u32(5).u64(5).u64(6), b"abc"),
            Op::Write(Write {
                handle: 1,
                offset: 2,
                from_cache: true,
                takes_set_ids: true,
                flags: 6,
                data: b"abc",
            }),
        ),
        (Opcode::Flush, numbers(3).as_slice().to_vec(), Op::Flush { handle: 1, owner: 3 }),
        (
            Opcode::Release,
            numbers(1).u32(7).u32(2).u64(3).as_slice().to_vec(),
            Op::Release { handle: 1, owner: 3, unlocks: true },
        ),
        (Opcode::FSync, numbers(2).as_slice().to_vec(), Op::FSync { handle: 1 }),
        (
            Opcode::ReadDirPlus,
            numbers(2).u32(3).u32(4).u64(5).u64(6).as_slice().to_vec(),
            Op::ReadDir { handle: 1, offset: 2, size: 3, plus: true },
        ),
        (
            Opcode::SetXattr,
            with_tail(Body::new().u32(2).u32(1).u32(1).u32(0), b"user.a\0xy"),
            Op::SetXattr { name: b"user.a", value: b"xy", flags: 1, takes_setgid: Some(true) },
        ),
        (
            Opcode::GetXattr,
            with_tail(Body::new().u32(2).u32(0), b"user.a\0"),
            Op::GetXattr { name: b"user.a", size: 2 },
        ),
        (Opcode::GetLk, lock_body.clone(), Op::GetLock(lock)),
        (Opcode::SetLk, lock_body.clone(), Op::SetLock { lock, wait: false }),
        (Opcode::SetLkW, lock_body, Op::SetLock { lock, wait: true }),
        (
            Opcode::FAllocate,
            numbers(3).u32(4).u32(0).as_slice().to_vec(),
            Op::FAllocate { handle: 1, offset: 2, length: 3, mode: 4 },
        ),
        (
            Opcode::LSeek,
            numbers(2).u32(3).u32(0).as_slice().to_vec(),
            Op::LSeek { handle: 1, offset: 2, whence: 3 },
        ),
        (
            Opcode::CopyFileRange,
            numbers(7).as_slice().to_vec(),
            Op::CopyFileRange(CopyFileRange {
                from: 1,
                from_offset: 2,
                to_node: NodeId(3),
                to: 4,
                to_offset: 5,
                length: 6,
            }),
        ),
    ]
}

#[test]
fn every_request_is_understood_and_malformed_where_it_is_cut() {
    for (opcode, body, op) in samples() {
        assert_eq!(understood(opcode, &body), Ok(op), "{opcode:?}");
        assert!(understood(opcode, &[]).is_err(), "{opcode:?}");
        for end in 0..body.len() {
            // Some end with fields that do not matter: what is still understood is the same.
            let cut = understood(opcode, &body[..end]);
            assert!(cut.is_err() || cut == Ok(op), "{opcode:?} cut to {end} bytes");
        }
    }
}

#[test]
fn setattr_tells_what_is_set() {
    let fields = |valid: u32| {
        let times = Body::new().u32(valid).u32(0).u64(1).u64(77).u64(2);
        let times = times.u64(3).u64((-4_i64).cast_unsigned()).u64(5).u32(30).u32(40).u32(50);
        times.u32(0o640).u32(0).u32(60).u32(70).u32(0).as_slice().to_vec()
    };
    let set = |valid| match understood(Opcode::SetAttr, &fields(valid)) {
        Ok(Op::SetAttr(set)) => set,
        other => panic!("{other:?}"),
    };
    let nothing = SetAttr {
        mode: None,
        uid: None,
        gid: None,
        size: None,
        atime: None,
        mtime: None,
        takes_set_ids: false,
    };
    assert_eq!(set(0), nothing);
    let now = fattr::ATIME | fattr::ATIME_NOW;
    let before_1970 = TimeOrNow::Time(Timestamp { seconds: -4, nanos: 40 });
    assert_eq!(
        set(now | fattr::MTIME | fattr::SIZE | fattr::KILL_SUIDGID),
        SetAttr {
            size: Some(77),
            atime: Some(TimeOrNow::Now),
            mtime: Some(before_1970),
            takes_set_ids: true,
            ..nothing
        }
    );
    assert_eq!(
        set(fattr::MODE | fattr::UID | fattr::GID),
        SetAttr { mode: Some(0o640), uid: Some(60), gid: Some(70), ..nothing }
    );
}

#[test]
fn the_upper_capabilities_count_where_there_are_some() {
    let parse = |lower: u64| {
        let lower_half = u32::try_from(lower).unwrap();
        let body = Body::new().u32(7).u32(45).u32(1 << 20).u32(lower_half).u32(1 << 4).zeros(44);
        let header = Header { opcode: Opcode::Init as u32, ..HEADER };
        match Message::parse(&header, body.as_slice(), AGREED) {
            Ok(Message::Init(init)) => init,
            other => panic!("{other:?}"),
        }
    };
    let with = parse(abi::init::INIT_EXT | abi::init::ASYNC_READ);
    assert_eq!((with.major, with.minor, with.max_readahead), (7, 45, 1 << 20));
    assert!(with.flags & abi::init::DIRECT_IO_ALLOW_MMAP != 0);
    assert_eq!(parse(abi::init::ASYNC_READ).flags, abi::init::ASYNC_READ);
}

#[test]
fn signals_and_the_unknown() {
    let header = Header { opcode: Opcode::Interrupt as u32, ..HEADER };
    let body = Body::new().u64(90);
    assert_eq!(Message::parse(&header, body.as_slice(), AGREED), Ok(Message::Interrupt(90)));
    let header = Header { opcode: 9999, ..HEADER };
    let Ok(Message::Request(request)) = Message::parse(&header, b"whatever", AGREED) else {
        panic!("an unknown request is a request");
    };
    assert_eq!(request.op, Op::Other);
    let malformed = understood(Opcode::Write, &[0; 40]).map(drop);
    assert_eq!(malformed, Ok(()), "nothing written");
    assert!(understood(Opcode::Write, &[1; 40]).is_err(), "less data than said");
}

#[test]
fn what_is_forgotten_comes_alone_or_in_numbers() {
    let forgotten = |opcode: Opcode, body: &Body| {
        let header = Header { opcode: opcode as u32, ..HEADER };
        match Message::parse(&header, body.as_slice(), AGREED) {
            Ok(Message::Forget(nodes)) => nodes.collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(forgotten(Opcode::Forget, &Body::new().u64(3)), [HEADER.node]);
    let two = Body::new().u32(2).u32(0).u64(8).u64(1).u64(9).u64(4);
    assert_eq!(forgotten(Opcode::BatchForget, &two), [NodeId(8), NodeId(9)]);
}

#[test]
fn kernels_without_the_extension_send_short_extended_attributes() {
    let header = Header { opcode: Opcode::SetXattr as u32, ..HEADER };
    let body = with_tail(Body::new().u32(2).u32(1), b"user.a\0xy");
    let Ok(Message::Request(request)) = Message::parse(&header, &body, 0) else { panic!() };
    let op = Op::SetXattr { name: b"user.a", value: b"xy", flags: 1, takes_setgid: None };
    assert_eq!(request.op, op);
}
