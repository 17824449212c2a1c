//! Options of TCP sockets.

use std::io;
use std::os::fd::AsRawFd;

use tokio::net::TcpStream;

/// How long sent bytes may stay unacknowledged, and an idle peer's kernel silent, before the connection is
/// given up.
const DEAD_AFTER_MS: libc::c_int = 10_000;
const PROBE_AFTER_SECONDS: libc::c_int = 4;
const PROBE_EVERY_SECONDS: libc::c_int = 2;

/// Sends small messages at once, and notices a peer whose host is gone within ten seconds. Buffer sizes are
/// left to the kernel, which adapts them; setting them would only stop it.
pub(super) fn configure(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    set(stream, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    set(stream, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, PROBE_AFTER_SECONDS)?;
    set(stream, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, PROBE_EVERY_SECONDS)?;
    set(stream, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, DEAD_AFTER_MS)
}

fn set(
    stream: &TcpStream,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("an int is small");
    // SAFETY: the descriptor is open as long as `stream` is borrowed, and the kernel copies the int before
    // it returns.
    let result = unsafe {
        libc::setsockopt(stream.as_raw_fd(), level, option, (&raw const value).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
