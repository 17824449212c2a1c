//! Cables that break: hosts with addresses of their own, cut off, deaf, or split in halves, under load.
//!
//! Nothing that was acknowledged is lost, a minority acknowledges nothing, and when the cable is back all of it heals
//! by itself.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests talk to people")]

mod common;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::hosts::{CLIENT, Hosts, MONITORS};
use common::ledger::{self, Errors};
use common::runner::{long, run};

/// What is promised to those who reach a majority of the monitors, on a machine with nothing else to do.
const PROMISED: Duration = Duration::from_secs(3);
/// What is asked of a busy one.
const FAILOVER: Duration = Duration::from_secs(6);
/// So long may be held what a client has that is cut off.
const EVICTED: Duration = Duration::from_secs(15);
/// Rounds of the programs that are at work: about a second's, when nothing is wrong.
const A_WHILE: u64 = 100;

fn main() -> ExitCode {
    run(&[
        ("monitors_are_cut_off", monitors_are_cut_off),
        ("a_client_is_cut_off", a_client_is_cut_off),
        ("members_are_parted", members_are_parted),
        ("the_network_splits", the_network_splits),
    ])
}

/// Something happens to the network while programs run, for `seconds`; then it heals.
fn happens(
    hosts: &Hosts,
    what: &str,
    seconds: u64,
    errors: Errors,
    break_it: impl FnOnce(&Hosts),
) -> Duration {
    let programs = ledger::start(&hosts.mnt(), what, errors);
    programs.work_on(A_WHILE);
    break_it(hosts);
    // So long it stays broken.
    std::thread::sleep(Duration::from_secs(seconds));
    hosts.net.heal();
    let healed = hosts.wait_healthy();
    programs.work_on(A_WHILE);
    let waits = programs.finish();
    println!("{what}, {seconds} s, well again after {healed:?}: {waits}");
    waits.longest()
}

/// The same, where nobody may wait long.
fn disturbs_nobody(hosts: &Hosts, what: &str, seconds: u64, break_it: impl FnOnce(&Hosts)) {
    let longest = happens(hosts, what, seconds, Errors::Never, break_it);
    if longest > PROMISED {
        println!("{what}: {longest:?} is more than the {PROMISED:?} that are promised");
    }
    assert!(longest < FAILOVER, "{what}: somebody waited for {longest:?}");
}

/// Everybody but that host.
fn others(host: usize) -> impl Iterator<Item = usize> {
    (1..=CLIENT).filter(move |other| *other != host)
}

/// A host with a monitor that does not lead.
fn follower(leader: usize) -> usize {
    (1..=MONITORS).find(|host| *host != leader).expect("there are several")
}

fn monitors_are_cut_off() {
    let hosts = Hosts::start();
    let (times, seconds) = if long() { (3, 20) } else { (1, 5) };
    for time in 1..=times {
        disturbs_nobody(&hosts, &format!("the leader is cut off {time}"), seconds, |hosts| {
            hosts.net.cut(hosts.leader());
        });
        disturbs_nobody(&hosts, &format!("a follower is cut off {time}"), seconds, |hosts| {
            hosts.net.cut(follower(hosts.leader()));
        });
        disturbs_nobody(&hosts, &format!("the leader is deaf {time}"), seconds, |hosts| {
            let leader = hosts.leader();
            others(leader).for_each(|other| hosts.net.deafen(leader, other));
        });
        disturbs_nobody(&hosts, &format!("the leader is mute {time}"), seconds, |hosts| {
            let leader = hosts.leader();
            others(leader).for_each(|other| hosts.net.deafen(other, leader));
        });
    }
    hosts.assert_clean();
}

fn members_are_parted() {
    let hosts = Hosts::start();
    let seconds = if long() { 20 } else { 4 };
    disturbs_nobody(&hosts, "leader and client are parted", seconds, |hosts| {
        hosts.net.split(&[hosts.leader()], &[CLIENT]);
    });
    disturbs_nobody(&hosts, "leader and follower are parted", seconds, |hosts| {
        let leader = hosts.leader();
        hosts.net.split(&[leader], &[follower(leader)]);
    });
    disturbs_nobody(&hosts, "client and follower are parted from the leader", seconds, |hosts| {
        let leader = hosts.leader();
        hosts.net.split(&[leader], &[follower(leader), CLIENT]);
    });
    disturbs_nobody(&hosts, "leader and server are parted", seconds, |hosts| {
        hosts.net.split(&[hosts.leader()], &[4]);
    });
    disturbs_nobody(&hosts, "client and server are parted", seconds, |hosts| {
        hosts.net.split(&[CLIENT], &[4]);
    });
    disturbs_nobody(&hosts, "everybody hears badly", seconds, |hosts| {
        (1..=CLIENT).for_each(|host| hosts.net.lose(host, 2));
    });
    hosts.assert_clean();
}

fn the_network_splits() {
    let hosts = Hosts::start();
    let seconds = if long() { 30 } else { 5 };
    disturbs_nobody(&hosts, "a server is cut off", seconds, |hosts| hosts.net.cut(4));
    disturbs_nobody(&hosts, "the client is in the majority", seconds, |hosts| {
        hosts.net.split(&[1, 2, CLIENT], &[3, 4]);
    });
    // Shorter than a lease: programs wait, and that is all they notice.
    let longest = happens(&hosts, "the client is in the minority", 6, Errors::Never, |hosts| {
        hosts.net.split(&[1, CLIENT], &[2, 3, 4]);
    });
    assert!(longest > Duration::from_secs(5), "a minority acknowledged something");
    assert!(longest < Duration::from_secs(6) + FAILOVER, "somebody waited for {longest:?}");
    hosts.assert_clean();
}

fn a_client_is_cut_off() {
    let mut hosts = Hosts::start();
    let longest = happens(&hosts, "the client is deaf", 5, Errors::Never, |hosts| {
        others(CLIENT).for_each(|other| hosts.net.deafen(CLIENT, other));
    });
    assert!(longest < Duration::from_secs(5) + FAILOVER, "somebody waited for {longest:?}");
    if long() {
        happens(&hosts, "the client is cut off", 30, Errors::Possible, |hosts| {
            hosts.net.cut(CLIENT);
        });
    }
    a_client_is_given_up(&mut hosts);
    disturbs_nobody(&hosts, "all is well", 1, |_| {});
    hosts.assert_clean();
}

/// Somebody else wants what a client holds that is cut off, and gets it. When the client is back, what it had not synced
/// is written where nobody else has written meanwhile; elsewhere its programs hear of it, and the bytes are kept. Nothing
/// is read that is older than what the other one was told.
fn a_client_is_given_up(hosts: &mut Hosts) {
    let (mnt, other) = (hosts.mnt(), hosts.mount(4));
    let file = |mnt: &Path, name: &str| {
        let path = mnt.join(name);
        File::options().read(true).write(true).create(true).truncate(false).open(path)
    };
    let (read, written) = (file(&mnt, "read").expect("made"), file(&mnt, "written").expect("made"));
    let untouched = file(&mnt, "untouched").expect("made");
    for file in [&read, &written, &untouched] {
        file.write_all_at(b"before", 0).and_then(|()| file.sync_all()).expect("written");
    }
    let programs = ledger::start(&mnt, "given up", Errors::Possible);
    programs.work_on(A_WHILE);
    hosts.net.cut(CLIENT);
    let healed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let cut_off = scope.spawn(|| write_cut_off(&written));
        let undisturbed = scope.spawn(|| write_cut_off(&untouched));
        let reads = scope.spawn(|| read_until(&healed, &read));
        let since = Instant::now();
        for name in ["read", "written"] {
            let file = file(&other, name).expect("opened");
            file.write_all_at(b"others", 0).and_then(|()| file.sync_all()).expect("written");
        }
        let told = Instant::now();
        println!("what a client held that is cut off was had after {:?}", told - since);
        assert!(told - since < EVICTED + FAILOVER, "others waited for {:?}", told - since);
        // So long it could still read what it must not.
        std::thread::sleep(Duration::from_secs(1));
        hosts.net.heal();
        healed.store(true, Ordering::Relaxed);
        for (began, found) in reads.join().expect("no panic") {
            assert!(found == "others" || (found == "before" && began < told), "{found} was read");
        }
        let found = fs::read_to_string(other.join("written")).expect("read");
        match cut_off.join().expect("no panic") {
            Ok(()) => assert_eq!(found, "cutoff", "it was synced"),
            Err(is_loss) => {
                assert!(is_loss && found == "others", "{found} was read");
                let ino = written.metadata().expect("there").ino();
                let kept = fs::read_to_string(hosts.parked().join(format!("inode-{ino}-0")));
                assert_eq!(kept.expect("it is kept"), "cutoff");
            }
        }
        assert_eq!(undisturbed.join().expect("no panic"), Ok(()), "nobody else has written there");
        assert_eq!(fs::read_to_string(other.join("untouched")).expect("read"), "cutoff");
    });
    hosts.wait_healthy();
    println!("a client is given up: {}", programs.finish());
}

/// Writes and syncs; if that fails, whether it is for the loss of the data.
fn write_cut_off(file: &File) -> Result<(), bool> {
    file.write_all_at(b"cutoff", 0).and_then(|()| file.sync_all()).map_err(is_loss)
}

/// What is read, and when each read began, until one has begun after that.
fn read_until(end: &AtomicBool, file: &File) -> Vec<(Instant, String)> {
    let mut reads = Vec::new();
    let mut is_last = false;
    while !is_last {
        is_last = end.load(Ordering::Relaxed);
        let (began, mut bytes) = (Instant::now(), [0; 6]);
        match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => reads.push((began, String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) => assert!(is_loss(error), "read"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    reads
}

/// Whether that is how a program hears that its machine was given up.
fn is_loss(error: io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::ESTALE))
}
