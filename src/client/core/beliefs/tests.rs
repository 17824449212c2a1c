//! What is believed, and what is not when messages cross. (Several clients against one another: `tests/coherence.rs`.)

use super::*;
use crate::types::{DataVersion, FileKind, OpSeq, Timestamp, VolumeId};
use crate::wire::metadata::{Create, DirEntry, Removed, RenameMode};

const NOW: Duration = Duration::from_secs(100);
const LATER: Duration = Duration::from_secs(200);
const DIR: Ino = Ino(2);
const FILE: Ino = Ino(7);

fn attr(ino: Ino, birth: u64) -> Attr {
    let never = Timestamp::default();
    Attr {
        ino,
        kind: FileKind::Regular,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: 0,
        stored: 0,
        nlink: 1,
        rdev: 0,
        atime: never,
        mtime: never,
        ctime: never,
        crtime: never,
        dv: DataVersion(1),
        birth: OpSeq(birth),
        volume: VolumeId::ROOT,
        md5: None,
        xattrs: 0,
    }
}

fn removed(nlink: u32) -> Reply {
    let attr = Attr { nlink, ..attr(FILE, 9) };
    Reply::Removed(Removed { attr, open_elsewhere: false })
}

fn lookup(name: &str) -> Query {
    Query::Lookup { parent: DIR, name: name.into() }
}

fn found(birth: u64) -> Result<Answer, Errno> {
    Ok(Answer::Attr(attr(FILE, birth)))
}

fn leased(stamp: u64) -> Leased {
    Leased { stamp: LeaseStamp(stamp), except: Vec::new() }
}

fn learn(beliefs: &mut Beliefs, query: &Query, answer: &Result<Answer, Errno>) {
    let ticket = beliefs.begin();
    let (query, answer) = (std::slice::from_ref(query), std::slice::from_ref(answer));
    assert_eq!(beliefs.learn(&ticket, query, answer, &leased(1)), []);
}

#[test]
fn what_was_answered_once_is_answered_again() {
    let mut beliefs = Beliefs::default();
    assert_eq!(beliefs.answer(&lookup("f")), None);
    learn(&mut beliefs, &lookup("f"), &found(1));
    learn(&mut beliefs, &lookup("g"), &Err(Errno::NotFound));
    assert_eq!(beliefs.answer(&lookup("f")), Some(found(1)));
    assert_eq!(beliefs.answer(&Query::Attr { ino: FILE }), Some(found(1)));
    assert_eq!(beliefs.answer(&lookup("g")), Some(Err(Errno::NotFound)));
    // Under the lease of the directory, that of the file gone.
    beliefs.recalled(&[FILE], NOW);
    assert_eq!(beliefs.answer(&lookup("f")), None);
    assert_eq!(beliefs.answer(&lookup("g")), Some(Err(Errno::NotFound)));
}

#[test]
fn the_kernel_need_not_be_told_what_it_was_told_a_moment_ago() {
    let mut beliefs = Beliefs::default();
    learn(&mut beliefs, &lookup("f"), &found(1));
    assert!(!beliefs.is_told(DIR, FILE, NOW));
    beliefs.tell_name((DIR, b"f"), Some(FILE), NOW, LATER);
    assert!(!beliefs.is_told(DIR, FILE, NOW), "the name without the attributes");
    beliefs.tell_attr(&attr(FILE, 1), NOW, LATER);
    assert!(beliefs.is_told(DIR, FILE, NOW));
    assert!(!beliefs.is_told(DIR, FILE, NOW + BELIEVED_BY_KERNEL / 2), "not for long any more");
    beliefs.recalled(&[FILE], NOW);
    assert!(!beliefs.is_told(DIR, FILE, NOW));
}

#[test]
fn an_answer_that_a_recall_has_overtaken_teaches_nothing() {
    let mut beliefs = Beliefs::default();
    let ticket = beliefs.begin();
    beliefs.recalled(&[FILE], NOW);
    let useless = beliefs.learn(&ticket, &[lookup("f")], &[found(1)], &leased(5));
    assert_eq!(beliefs.answer(&Query::Attr { ino: FILE }), None);
    assert_eq!(useless, [(FILE, LeaseStamp(5))], "its lease is of no use");
    learn(&mut beliefs, &lookup("f"), &found(2));
    assert_eq!(beliefs.answer(&lookup("f")), Some(found(2)));
}

#[test]
fn what_came_without_a_lease_is_not_believed() {
    let mut beliefs = Beliefs::default();
    let ticket = beliefs.begin();
    let leased = Leased { stamp: LeaseStamp(5), except: vec![DIR] };
    assert_eq!(beliefs.learn(&ticket, &[lookup("f")], &[found(1)], &leased), []);
    assert_eq!(beliefs.answer(&lookup("f")), None);
    assert_eq!(beliefs.answer(&Query::Attr { ino: FILE }), Some(found(1)));
}

#[test]
fn changes_of_our_own_are_not_hidden_by_what_was_known() {
    let mut beliefs = Beliefs::default();
    learn(&mut beliefs, &lookup("f"), &found(1));
    learn(&mut beliefs, &lookup("g"), &Err(Errno::NotFound));
    let ticket = beliefs.begin();
    let op = Op::Unlink { parent: DIR, name: b"f".to_vec() };
    assert_eq!(beliefs.changed(&op, &Err(Errno::NotPermitted), NOW), None);
    assert_eq!(beliefs.answer(&lookup("f")), Some(found(1)));
    beliefs.changed(&op, &Ok(removed(0)), NOW);
    assert_eq!(beliefs.answer(&lookup("f")), None);
    assert_eq!(beliefs.answer(&Query::Attr { ino: FILE }), None);
    assert_eq!(beliefs.answer(&lookup("g")), Some(Err(Errno::NotFound)));
    beliefs.learn(&ticket, &[lookup("f")], &[found(1)], &leased(1));
    assert_eq!(beliefs.answer(&lookup("f")), None, "asked before the change was answered");
}

#[test]
fn a_read_of_our_own_costs_no_question() {
    let mut beliefs = Beliefs::default();
    learn(&mut beliefs, &lookup("f"), &found(1));
    let ticket = beliefs.begin();
    let time = Timestamp { seconds: 7, nanos: 0 };
    let read = Op::Accessed { ino: FILE, time };
    let told = Attr { atime: time, ..attr(FILE, 2) };
    beliefs.changed(&read, &Ok(Reply::Inode(told.clone())), NOW);
    assert_eq!(beliefs.attr(FILE), Some(&told));
    beliefs.learn(&ticket, &[lookup("f")], &[found(1)], &leased(1));
    assert_eq!(beliefs.attr(FILE), Some(&told), "asked before the read was noted");
    // Of two answers that overtook one another the later state counts.
    beliefs.changed(&read, &Ok(Reply::Inode(attr(FILE, 1))), NOW);
    assert_eq!(beliefs.attr(FILE), Some(&told));
}

#[test]
fn the_kernel_believes_for_a_second_and_never_longer_than_the_lease() {
    let mut beliefs = Beliefs::default();
    learn(&mut beliefs, &lookup("f"), &found(1));
    assert_eq!(beliefs.tell_attr(&attr(FILE, 1), NOW, LATER), BELIEVED_BY_KERNEL);
    let short = Duration::from_millis(300);
    assert_eq!(beliefs.tell_attr(&attr(FILE, 1), NOW, NOW + short), short);
    assert_eq!(beliefs.tell_attr(&attr(FILE, 1), NOW, NOW - short), Duration::ZERO);
    assert_eq!(beliefs.tell_attr(&attr(FILE, 2), NOW, LATER), Duration::ZERO, "another state");
    let mut tell = |name: &[u8], ino| beliefs.tell_name((DIR, name), ino, NOW, LATER);
    assert_eq!(tell(b"f", Some(FILE)), BELIEVED_BY_KERNEL);
    assert_eq!(tell(b"f", None), Duration::ZERO);
    assert_eq!(tell(b"g", None), Duration::ZERO);
}

#[test]
fn a_recall_says_what_the_kernel_may_believe() {
    let mut beliefs = Beliefs::default();
    learn(&mut beliefs, &lookup("f"), &found(1));
    beliefs.tell_name((DIR, b"f"), Some(FILE), NOW, LATER);
    // What is ours is gone from here, but not out of the kernel's mind.
    let op = Op::Unlink { parent: DIR, name: b"f".to_vec() };
    beliefs.changed(&op, &Ok(removed(1)), NOW);
    let forgotten = beliefs.recalled(&[DIR], NOW);
    let [dir] = &forgotten[..] else { panic!("{forgotten:?}") };
    assert_eq!((dir.ino, dir.heard), (DIR, LeaseStamp(1)));
    assert_eq!((&dir.names, dir.names_until), (&vec![b"f".to_vec()], NOW + BELIEVED_BY_KERNEL));
    // Others work in that directory: for a while the kernel is told nothing that it may keep.
    learn(&mut beliefs, &lookup("f"), &found(2));
    assert_eq!(beliefs.tell_name((DIR, b"f"), Some(FILE), NOW, LATER), Duration::ZERO);
    let then = NOW + BUSY;
    assert_eq!(beliefs.tell_name((DIR, b"f"), Some(FILE), then, LATER), BELIEVED_BY_KERNEL);
}

#[test]
fn a_name_that_the_kernel_moves_to_where_we_have_no_lease_is_taken_from_it() {
    let mut beliefs = Beliefs::default();
    learn(&mut beliefs, &lookup("f"), &found(1));
    beliefs.tell_name((DIR, b"f"), Some(FILE), NOW, LATER);
    let (name, new_name) = (b"f".to_vec(), b"g".to_vec());
    let mode = RenameMode::Replace;
    let rename = Rename { parent: DIR, name, new_parent: Ino(9), new_name, mode };
    let reply = Ok(Reply::Renamed { moved: vec![attr(FILE, 2)], replaced: None });
    let orphaned = beliefs.changed(&Op::Rename(rename), &reply, NOW).expect("believed");
    assert_eq!((orphaned.ino, orphaned.names), (Ino(9), vec![b"g".to_vec()]));
}

#[test]
fn what_is_too_much_is_given_back_the_oldest_first() {
    let mut beliefs = Beliefs::default();
    for ino in 0..=INODES_MAX as u64 {
        let answer = Ok(Answer::Attr(attr(Ino(ino), 1)));
        learn(&mut beliefs, &Query::Attr { ino: Ino(ino) }, &answer);
    }
    assert!(beliefs.attr(Ino(0)).is_some());
    beliefs.tell_attr(&attr(Ino(2), 1), NOW, LATER);
    let given_up = beliefs.give_up(NOW, |ino| ino == Ino(3));
    assert_eq!(given_up.len(), 1 + INODES_MAX / GIVEN_UP_PART);
    let mut first: Vec<Ino> = given_up[..3].iter().map(|forgotten| forgotten.ino).collect();
    first.sort_unstable();
    assert_eq!(first, [Ino(1), Ino(4), Ino(5)], "used, known to the kernel, needed");
    assert_eq!(beliefs.give_up(NOW, |_| false), []);
}

#[test]
fn nothing_is_remembered_of_recalls_when_nobody_asks() {
    let mut beliefs = Beliefs::default();
    for ino in 0..10_000 {
        let ticket = beliefs.begin();
        beliefs.recalled(&[Ino(ino)], NOW);
        beliefs.done(&ticket);
    }
    assert!(beliefs.spoils.latest.is_empty() && beliefs.spoils.under_way.is_empty());
    let slow = beliefs.begin();
    for ino in 0..10_000 {
        beliefs.recalled(&[Ino(ino)], NOW);
        let ticket = beliefs.begin();
        beliefs.done(&ticket);
    }
    assert!(beliefs.spoils.is_spoiled(Ino(1), &slow));
}

fn create(name: &str) -> Op {
    Op::Create(Create {
        parent: DIR,
        name: name.into(),
        ino: FILE,
        kind: FileKind::Regular,
        mode: 0o644,
        umask: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        target: Vec::new(),
        open: false,
    })
}

fn unlink(name: &str) -> Op {
    Op::Unlink { parent: DIR, name: name.into() }
}

fn made() -> Result<Reply, Errno> {
    Ok(Reply::Inode(attr(FILE, 5)))
}

fn directory(size: u64) -> Attr {
    Attr { kind: FileKind::Directory, size, ..attr(DIR, 5) }
}

fn after(attrs: &[Attr]) -> Aftermath {
    Aftermath { attrs: attrs.to_vec(), leased: leased(7) }
}

fn learn_directory(beliefs: &mut Beliefs, size: u64) {
    learn(beliefs, &Query::Attr { ino: DIR }, &Ok(Answer::Attr(directory(size))));
}

fn change(
    beliefs: &mut Beliefs,
    ticket: &Ticket,
    changes: &[(Op, Result<Reply, Errno>)],
    after: &Aftermath,
) -> Vec<(Ino, LeaseStamp)> {
    let changes = changes.iter().map(|(op, reply)| (op, reply));
    beliefs.changed_all(ticket, changes, after, NOW).useless
}

#[test]
fn what_a_change_of_our_own_leaves_is_known() {
    let mut beliefs = Beliefs::default();
    learn_directory(&mut beliefs, 3);
    assert_eq!(beliefs.answer(&lookup("f")), None, "it has names that we do not know");
    let ticket = beliefs.begin();
    let left = after(&[directory(4), attr(FILE, 5)]);
    assert_eq!(change(&mut beliefs, &ticket, &[(create("f"), made())], &left), []);
    assert_eq!(beliefs.answer(&lookup("f")), Some(found(5)));
    assert_eq!(beliefs.attr(DIR), Some(&directory(4)));
    let ticket = beliefs.begin();
    let gone = [(unlink("f"), Ok(removed(0)))];
    assert_eq!(change(&mut beliefs, &ticket, &gone, &after(&[directory(3)])), []);
    assert_eq!(beliefs.answer(&lookup("f")), Some(Err(Errno::NotFound)));
    assert_eq!(beliefs.answer(&lookup("g")), None);
}

#[test]
fn in_a_directory_that_was_empty_every_name_is_known() {
    let mut beliefs = Beliefs::default();
    learn_directory(&mut beliefs, 0);
    assert_eq!(beliefs.answer(&lookup("f")), Some(Err(Errno::NotFound)));
    // What the kernel was told has to be taken from it, although nobody has looked for it among the monitors.
    assert_eq!(beliefs.tell_name((DIR, b"f"), None, NOW, LATER), BELIEVED_BY_KERNEL);
    let ticket = beliefs.begin();
    let other = beliefs.begin();
    let left = after(&[directory(1), attr(FILE, 5)]);
    change(&mut beliefs, &ticket, &[(create("g"), made())], &left);
    assert_eq!(beliefs.answer(&lookup("g")), Some(found(5)));
    assert_eq!(beliefs.answer(&lookup("h")), Some(Err(Errno::NotFound)));
    // Of two changes at a time the order is not known.
    change(&mut beliefs, &other, &[(create("h"), made())], &left);
    assert_eq!(beliefs.answer(&lookup("h")), None);
    assert_eq!(beliefs.answer(&lookup("i")), Some(Err(Errno::NotFound)));
    let forgotten = beliefs.recalled(&[DIR], NOW);
    assert!(forgotten[0].names.contains(&b"f".to_vec()));
    learn_directory(&mut beliefs, 2);
    assert_eq!(beliefs.answer(&lookup("i")), None);
}

#[test]
fn a_listing_to_the_end_tells_of_every_name() {
    let mut beliefs = Beliefs::default();
    let mut list = |after, name: &str, next, end| {
        let row =
            DirEntry { name: name.into(), ino: FILE, kind: FileKind::Regular, next, attr: None };
        let query = Query::ReadDir { dir: DIR, after, limit: 1, attrs: false };
        let answer = Answer::Entries { parent: DIR, entries: vec![row], end };
        learn(&mut beliefs, &query, &Ok(answer));
        beliefs.answer(&lookup("none"))
    };
    assert_eq!(list(5, "b", 9, true), None, "what comes before is not known");
    assert_eq!(list(0, "a", 5, false), Some(Err(Errno::NotFound)));
}

#[test]
fn names_under_a_lease_that_is_younger_than_our_change_are_not_believed() {
    let mut beliefs = Beliefs::default();
    // Made, removed by somebody else, and only then were we given a lease of the directory.
    let ticket = beliefs.begin();
    let left = after(&[directory(3), attr(FILE, 5)]);
    change(&mut beliefs, &ticket, &[(create("f"), made())], &left);
    assert_eq!(beliefs.answer(&lookup("f")), None);
    assert_eq!(beliefs.attr(DIR), Some(&directory(3)));
    // The lease that we had was wanted back on the way.
    let ticket = beliefs.begin();
    beliefs.recalled(&[DIR], NOW);
    let useless = change(&mut beliefs, &ticket, &[(create("g"), made())], &left);
    assert_eq!(useless, [(DIR, LeaseStamp(7))]);
    assert_eq!((beliefs.answer(&lookup("g")), beliefs.attr(DIR)), (None, None));
    // Two changes of one name in a message.
    learn_directory(&mut beliefs, 0);
    let ticket = beliefs.begin();
    let both = [(create("f"), made()), (unlink("f"), Ok(removed(0)))];
    change(&mut beliefs, &ticket, &both, &after(&[directory(1)]));
    assert_eq!(beliefs.answer(&lookup("f")), None);
}
