//! Cables that break: hosts with addresses of their own, cut off, deaf, or split in halves, under load.
//!
//! Nothing that was acknowledged is lost, a minority acknowledges nothing, and when the cable is back all of it heals
//! by itself.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests talk to people")]

mod common;

use std::process::ExitCode;
use std::time::Duration;

use common::hosts::{CLIENT, Hosts, MONITORS};
use common::ledger::{Errors, Ledger};
use common::runner::{long, run};

/// What is promised to those who reach a majority of the monitors, on a machine with nothing else to do.
const PROMISED: Duration = Duration::from_secs(3);
/// What is asked of a busy one.
const FAILOVER: Duration = Duration::from_secs(6);

fn main() -> ExitCode {
    run(&[
        ("monitors_are_cut_off", monitors_are_cut_off),
        ("a_client_is_cut_off", a_client_is_cut_off),
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
    let ledger = Ledger::start(&hosts.mnt(), what, errors);
    std::thread::sleep(Duration::from_millis(1_000));
    break_it(hosts);
    std::thread::sleep(Duration::from_secs(seconds));
    hosts.net.heal();
    let healed = hosts.wait_healthy();
    std::thread::sleep(Duration::from_millis(1_000));
    let waits = ledger.finish();
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

/// A host with a monitor that does not lead.
fn follower(hosts: &Hosts) -> usize {
    let leader = hosts.leader(CLIENT);
    (1..=MONITORS).find(|host| *host != leader).expect("there are several")
}

fn monitors_are_cut_off() {
    let hosts = Hosts::start();
    let (times, seconds) = if long() { (3, 20) } else { (1, 5) };
    for time in 1..=times {
        disturbs_nobody(&hosts, &format!("the leader is cut off {time}"), seconds, |hosts| {
            hosts.net.cut(hosts.leader(CLIENT));
        });
        disturbs_nobody(&hosts, &format!("a follower is cut off {time}"), seconds, |hosts| {
            hosts.net.cut(follower(hosts));
        });
        disturbs_nobody(&hosts, &format!("the leader is deaf {time}"), seconds, |hosts| {
            let leader = hosts.leader(CLIENT);
            for other in (1..=CLIENT).filter(|host| *host != leader) {
                hosts.net.deafen(leader, other);
            }
        });
        disturbs_nobody(
            &hosts,
            &format!("leader and client are parted {time}"),
            seconds,
            |hosts| {
                hosts.net.split(&[hosts.leader(CLIENT)], &[CLIENT]);
            },
        );
    }
    hosts.assert_clean();
}

fn the_network_splits() {
    let hosts = Hosts::start();
    let seconds = if long() { 20 } else { 5 };
    disturbs_nobody(&hosts, "a server is cut off", seconds, |hosts| hosts.net.cut(4));
    disturbs_nobody(&hosts, "the client is in the majority", seconds, |hosts| {
        hosts.net.split(&[1, 2, CLIENT], &[3, 4]);
    });
    // Shorter than a lease: programs wait, and that is all they notice.
    let longest = happens(&hosts, "the client is in the minority", 6, Errors::Never, |hosts| {
        hosts.net.split(&[1, CLIENT], &[2, 3, 4]);
    });
    assert!(longest > Duration::from_secs(5), "a minority acknowledged something");
    hosts.assert_clean();
}

fn a_client_is_cut_off() {
    let hosts = Hosts::start();
    let seconds = if long() { 30 } else { 20 };
    happens(&hosts, "the client is cut off", seconds, Errors::Possible, |hosts| {
        hosts.net.cut(CLIENT);
    });
    disturbs_nobody(&hosts, "nothing", 1, |_| {});
    hosts.assert_clean();
}
