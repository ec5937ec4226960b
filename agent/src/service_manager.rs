//! What systemd is told: that the agent is ready, reloads, stops, lives (`sd_notify(3)`).
//!
//! Knows: the datagrams and the socket's name in the environment. Refuses to know: what readiness consists of. Without a
//! service manager every call does nothing; one that does not listen costs a line of the log and nothing else.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The connection to the service manager, if there is one.
#[derive(Debug, Default)]
pub struct ServiceManager {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// As the environment says: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`.
    #[must_use]
    pub fn of_environment() -> ServiceManager {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return ServiceManager::default() };
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        ServiceManager::at(&name, number("WATCHDOG_USEC").filter(|_| ours).map(Duration::from_micros))
    }

    /// The manager that listens at `name`: a path, or an abstract name after `@`.
    #[must_use]
    pub fn at(name: &OsStr, watchdog: Option<Duration>) -> ServiceManager {
        let connect = || {
            let address = match name.as_bytes().strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name)?,
                None => SocketAddr::from_pathname(name)?,
            };
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            socket.connect_addr(&address)?;
            Ok::<_, std::io::Error>(socket)
        };
        match connect() {
            Ok(socket) => ServiceManager { socket: Some(socket), watchdog: watchdog.filter(|w| !w.is_zero()) },
            Err(error) => {
                tracing::warn!(%error, "the service manager cannot be reached");
                ServiceManager::default()
            }
        }
    }

    /// How often it wants to hear that we live: half of its patience.
    #[must_use]
    pub fn sign_of_life_every(&self) -> Option<Duration> {
        self.watchdog.map(|patience| patience / 2)
    }

    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// The configuration is being read again; [`ServiceManager::ready`] ends it.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let usec = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1_000);
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={usec}"));
    }

    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={status}"));
    }

    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    fn send(&self, message: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(message.as_bytes()) {
            tracing::debug!(%error, "the service manager does not listen");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_systemd_reads() {
        let path = std::env::temp_dir().join(format!("bcp-notify-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixDatagram::bind(&path).unwrap();
        listener.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let manager = ServiceManager::at(path.as_os_str(), Some(Duration::from_secs(30)));
        assert_eq!(manager.sign_of_life_every(), Some(Duration::from_secs(15)));
        manager.ready("polls 3 devices");
        manager.reloading();
        manager.alive();
        manager.stopping();
        let next = || {
            let mut buffer = [0; 256];
            let length = listener.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        assert_eq!(next(), "READY=1\nSTATUS=polls 3 devices");
        assert!(next().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        assert_eq!((next(), next()), ("WATCHDOG=1".to_owned(), "STOPPING=1".to_owned()));
        std::fs::remove_file(&path).unwrap();
        ServiceManager::at(path.as_os_str(), None).ready("to nobody");
        ServiceManager::default().alive();
    }
}
