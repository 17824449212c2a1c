//! Where the processes of a node listen: one host, and ports in a row.

use std::net::{IpAddr, ToSocketAddrs, UdpSocket};

use anyhow::{Context, bail};

use super::find::{self, DEFAULT_PORT};

/// An address of the internet to which nobody ever answers (RFC 5737): good to ask which way out there is.
const SOMEWHERE: &str = "192.0.2.1:9";
/// Highest first port: a node has up to a thousand servers.
const PORT_MAX: u16 = 64_000;

/// `HOST[:PORT]`: a monitor listens at PORT, the first server at the port after that, the agent at the next, and
/// further servers at those that follow. With port 0 the system chooses all of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    host: String,
    port: u16,
}

impl Place {
    /// Reads `HOST[:PORT]`.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let addresses = find::addresses(text).unwrap_or_default();
        let [address] = addresses.as_slice() else {
            bail!("--listen {text:?} is no HOST[:PORT]");
        };
        let (host, port) = address.rsplit_once(':').expect("an address has a port");
        let port = port.parse()?;
        if port > PORT_MAX {
            bail!(
                "--listen {text:?}: choose a port up to {PORT_MAX}, others after it are used, too"
            );
        }
        Ok(Self { host: host.to_owned(), port })
    }

    /// This machine, by the address that the network of `other` (`host:port`) knows it by.
    pub(super) fn towards(other: &str) -> anyhow::Result<Self> {
        let explain = || format!("{other} cannot be looked up: write HOST[:PORT]");
        let target = other.to_socket_addrs().with_context(explain)?.next().with_context(explain)?;
        let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        // Nothing is sent: the system only says from where it would be.
        let socket = UdpSocket::bind(any).and_then(|socket| {
            socket.connect(target)?;
            socket.local_addr()
        });
        let host = match socket.with_context(|| format!("there is no way to {other}"))?.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Ok(Self { host, port: DEFAULT_PORT })
    }

    /// This machine, by the address with which it is in the internet or, where there is no way there, by one
    /// that only it knows.
    pub(super) fn here() -> Self {
        Self::towards(SOMEWHERE)
            .unwrap_or_else(|_| Self { host: "127.0.0.1".to_owned(), port: DEFAULT_PORT })
    }

    /// Whether other machines cannot reach it.
    pub(super) fn is_lonely(&self) -> bool {
        let ip = self.host.trim_matches(['[', ']']).parse::<IpAddr>();
        ip.map_or(self.host == "localhost", |ip| ip.is_loopback())
    }

    /// Its monitor.
    pub(super) fn monitor(&self) -> String {
        self.at(0)
    }

    /// Its `number`th server, from 1 on.
    pub(super) fn server(&self, number: u32) -> String {
        let after = u16::try_from(number).unwrap_or(u16::MAX - PORT_MAX);
        self.at(if after <= 1 { 1 } else { after + 1 })
    }

    /// Its agent.
    pub(super) fn agent(&self) -> String {
        self.at(2)
    }

    fn at(&self, after: u16) -> String {
        let port = if self.port == 0 { 0 } else { self.port.saturating_add(after) };
        format!("{}:{port}", self.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_anothers_port() {
        let place = Place::parse("host").expect("a place");
        assert_eq!((place.monitor(), place.agent()), ("host:7001".into(), "host:7003".into()));
        let servers = [1, 2, 3].map(|number| place.server(number));
        assert_eq!(servers, ["host:7002", "host:7004", "host:7005"]);
        let any = Place::parse("[::1]:0").expect("a place");
        assert_eq!((any.monitor(), any.server(2)), ("[::1]:0".into(), "[::1]:0".into()));
        assert!(any.is_lonely() && !place.is_lonely());
        for text in ["", "a,b", "a:65000", "a:x"] {
            Place::parse(text).expect_err(text);
        }
    }

    #[test]
    fn this_machine_is_named_as_the_other_end_sees_it() {
        let place = Place::towards("127.0.0.1:7001").expect("a way");
        assert_eq!(place.server(1), "127.0.0.1:7002");
        Place::towards("no such host.example:1").expect_err("nobody");
    }
}
