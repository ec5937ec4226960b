//! TCP_NODELAY for a listener that another crate opened.
//!
//! Knows: that Linux hands the option of a listening socket on to every connection it accepts. Refuses to know: whose
//! listener it is. rumqttd sets no option on its sockets and hands none of them out, so the listener is found among this
//! process' own descriptors; the copy made of it is closed again at once.

use std::io;
use std::net::SocketAddr;

use rustix::net::sockopt::{set_tcp_nodelay, socket_acceptconn};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// Sets the option on this process' listener at `address`; false where there is none yet.
///
/// # Errors
/// The system does not let a process look at its own descriptors (a kernel before 5.6, a strict sandbox).
pub fn set(address: SocketAddr) -> io::Result<bool> {
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let socket = match pidfd_getfd(&own, number, PidfdGetfdFlags::empty()) {
            Ok(socket) => socket,
            // Closed meanwhile, as the directory that is being read will be.
            Err(rustix::io::Errno::BADF) => continue,
            Err(cause) => return Err(cause.into()),
        };
        if socket_acceptconn(&socket).unwrap_or(false) && local_address(&socket) == Some(address) {
            set_tcp_nodelay(&socket, true)?;
            return Ok(true);
        }
    }
    Ok(false)
}

fn local_address(socket: &impl std::os::fd::AsFd) -> Option<SocketAddr> {
    rustix::net::getsockname(socket).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_take_the_option_over_from_the_listener() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = || {
            let client = std::net::TcpStream::connect(address).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            drop(client);
            accepted.nodelay().unwrap()
        };
        assert!(!accepted());
        assert!(set(address).unwrap());
        assert!(accepted());
        drop(listener);
        assert!(!set(address).unwrap());
    }
}
