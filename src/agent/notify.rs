//! Telling systemd how the agent is: sd_notify(3), which is a datagram of lines to a Unix socket.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

/// Where the service manager listens, if there is one.
#[derive(Debug, Default)]
pub struct Notifier(Option<(UnixDatagram, SocketAddr)>);

impl Notifier {
    /// Speaks to the socket that `NOTIFY_SOCKET` names: a path, or an abstract name after an `@`.
    ///
    /// # Errors
    ///
    /// When it can be no socket's name, or there are no sockets.
    pub fn new(socket: &Path) -> io::Result<Self> {
        let address = match socket.as_os_str().as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(socket)?,
        };
        let datagrams = UnixDatagram::unbound()?;
        // A manager that does not read must not hold up what it manages.
        datagrams.set_nonblocking(true)?;
        Ok(Self(Some((datagrams, address))))
    }

    /// Sends lines of `NAME=value`.
    pub fn tell(&self, lines: &str) {
        let Some((datagrams, address)) = &self.0 else { return };
        if let Err(error) = datagrams.send_to_addr(lines.as_bytes(), address) {
            log::debug!("the service manager was not told {lines:?}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_hears_it_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("bound");
        let heard = |manager: &UnixDatagram| {
            let mut bytes = [0; 64];
            let length = manager.recv(&mut bytes).expect("heard");
            String::from_utf8_lossy(&bytes[..length]).into_owned()
        };
        Notifier::new(&path).expect("a notifier").tell("READY=1\nSTATUS=all is well");
        assert_eq!(heard(&manager), "READY=1\nSTATUS=all is well");

        let name = format!("okapifs-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let manager = UnixDatagram::bind_addr(&address).expect("bound");
        Notifier::new(Path::new(&format!("@{name}"))).expect("a notifier").tell("WATCHDOG=1");
        assert_eq!(heard(&manager), "WATCHDOG=1");

        Notifier::default().tell("to nobody");
        Notifier::new(&dir.path().join("gone")).expect("a name").tell("nobody listens");
    }
}
