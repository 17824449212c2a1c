//! Several hosts on one machine: network namespaces on one bridge, with cables that can be cut.
//!
//! A process that is started on a host ([`Net::command`]) has an address of its own and hears the others only
//! over the bridge; it sees the same files and mounts as the test does.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::cluster::success;
use super::runner::skip;

/// Tells the networks of this process apart.
static NETS: AtomicU32 = AtomicU32::new(0);

/// Hosts 1 to n on one bridge. All of it goes with this value.
pub struct Net {
    name: String,
    hosts: usize,
}

impl Net {
    /// Makes them; skips the test where that cannot be done.
    pub fn new(hosts: usize) -> Self {
        for tool in ["ip", "nft", "nsenter"] {
            if Command::new(tool).arg("-V").output().is_err() {
                skip(&format!("there is no {tool}: install iproute2, nftables and util-linux"));
            }
        }
        let number = NETS.fetch_add(1, Ordering::Relaxed);
        let net = Self { name: format!("okapifs{}-{number}", std::process::id()), hosts };
        let made = Command::new("ip").args(["netns", "add", &net.bridge()]).output();
        if !made.is_ok_and(|made| made.status.success()) {
            skip("network namespaces cannot be made here");
        }
        net.on(&net.bridge(), "ip link add br0 type bridge");
        net.on(&net.bridge(), "ip link set br0 up");
        for host in 1..=hosts {
            net.add_host(host);
        }
        net
    }

    fn add_host(&self, host: usize) {
        let (bridge, space) = (self.bridge(), self.space(host));
        success(Command::new("ip").args(["netns", "add", &space]));
        // Made with their last names where they belong: names are unique only within a namespace.
        success(
            Command::new("ip").args(
                format!("link add eth0 netns {space} type veth peer name p{host} netns {bridge}")
                    .split(' '),
            ),
        );
        self.on(&bridge, &format!("ip link set p{host} master br0"));
        self.on(&bridge, &format!("ip link set p{host} up"));
        self.on(&space, &format!("ip addr add {}/24 dev eth0", self.ip(host)));
        self.on(&space, "ip link set lo up");
        self.on(&space, "ip link set eth0 up");
        self.on(&space, "nft add table inet cut");
        self.on(&space, "nft add chain inet cut heard { type filter hook input priority 0 ; }");
    }

    /// The address of a host.
    pub fn ip(&self, host: usize) -> String {
        format!("10.77.7.{host}")
    }

    /// A command that will run on a host.
    pub fn command(&self, host: usize, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.space(host))).arg(program.as_ref());
        command
    }

    /// Nobody and that host hear each other.
    pub fn cut(&self, host: usize) {
        self.on(&self.bridge(), &format!("ip link set p{host} down"));
    }

    /// `to` no longer hears `from`.
    pub fn deafen(&self, to: usize, from: usize) {
        let from = self.ip(from);
        self.on(&self.space(to), &format!("nft add rule inet cut heard ip saddr {from} drop"));
    }

    /// That host hears only part of what is said to it; `percent` are lost.
    pub fn lose(&self, host: usize, percent: u32) {
        let rule = format!("nft add rule inet cut heard numgen random mod 100 < {percent} drop");
        self.on(&self.space(host), &rule);
    }

    /// Two groups that do not hear each other.
    pub fn split(&self, left: &[usize], right: &[usize]) {
        for &one in left {
            for &other in right {
                self.deafen(one, other);
                self.deafen(other, one);
            }
        }
    }

    /// Everybody hears everybody again.
    pub fn heal(&self) {
        for host in 1..=self.hosts {
            self.on(&self.bridge(), &format!("ip link set p{host} up"));
            self.on(&self.space(host), "nft flush chain inet cut heard");
        }
    }

    fn bridge(&self) -> String {
        format!("{}-bridge", self.name)
    }

    fn space(&self, host: usize) -> String {
        format!("{}-{host}", self.name)
    }

    fn on(&self, space: &str, command: &str) {
        let enter = format!("--net=/run/netns/{space}");
        success(Command::new("nsenter").arg(enter).args(command.split(' ')));
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let hosts = (1..=self.hosts).map(|host| self.space(host));
        for space in hosts.chain([self.bridge()]) {
            // What was not made is not there to be removed.
            drop(Command::new("ip").args(["netns", "del", &space]).output());
        }
    }
}
