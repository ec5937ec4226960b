//! PostgreSQL as a guarded service: one server per site, one of them active, the other its synchronous standby.
//!
//! Knows: how a server is started as a standby, promoted, stopped for certain and brought back; how fresh it is. Refuses to
//! know: who should be active. [`steps`] are carried out when a gate says so, [`copy`] tells the gate how the data are.
//!
//! Invariants:
//! * no path of this module starts a server without `standby.signal`: a data directory becomes active by `promote` alone. The
//!   init system must not start it (Debian: `manual` in `start.conf`), for PostgreSQL takes that file away when it is promoted;
//!   `stop` and `seal` put it back;
//! * from the moment before a promotion is asked for until its processes are gone, a server is active, whatever it says of
//!   itself ([`marks::Marks::promoted`]): a promotion on its way cannot slip through a stop;
//! * a stop needs no disk: it finds the server by its processes and ends it by signals;
//! * a copy that took writes alone is never rewound or replaced: a person decides what becomes of them.

pub mod copy;
pub mod files;
pub mod marks;
pub mod rejoin;
pub mod server;
pub mod sql;
pub mod steps;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::span::Span;

/// PostgreSQL at this site. The same table serves the actuator and the sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postgres {
    #[serde(default = "default_bin_dir")]
    pub bin_dir: PathBuf,
    /// The server runs as the owner of this directory.
    pub data_dir: PathBuf,
    /// Outside of `data_dir`: bringing a copy back writes over what is in there.
    #[serde(default)]
    pub config_file: Option<PathBuf>,
    pub socket_dir: PathBuf,
    pub port: u16,
    /// In memory (tmpfs), there for gate, warden and sidecar: what a stop must know.
    #[serde(default = "default_runtime_dir")]
    pub runtime_dir: PathBuf,
    /// On the disk: logs, and what must outlive a boot.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// A superuser who gets in through the socket without a password.
    #[serde(default = "default_user")]
    pub user: String,
    /// `application_name` of this copy when it is the standby, and of the other one.
    pub own_name: String,
    pub peer_name: String,
    /// How the other server is reached, as a libpq connection string: for streaming, `pg_rewind` and `pg_basebackup`.
    pub peer: String,
    /// Where the sidecar answers the gate.
    pub copy_listen: SocketAddr,
    /// What `follow` may do to a copy that went its own way (and took no writes alone).
    #[serde(default)]
    pub rejoin: Rejoin,
    /// An orderly shutdown gets this long, then an immediate one.
    #[serde(default = "default_fast_stop")]
    pub fast_stop: Span,
    /// A standby that confirms nothing for this long is away: the log is asked whether to go on without it.
    #[serde(default = "default_peer_patience")]
    pub peer_patience: Span,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rejoin {
    /// `pg_rewind`; where that fails, a person is asked.
    #[default]
    Rewind,
    /// `pg_rewind`; where that fails, `pg_basebackup` into a new directory. The old one is kept beside it.
    Basebackup,
    /// Neither.
    Manual,
}

fn default_bin_dir() -> PathBuf {
    PathBuf::from("/usr/lib/postgresql/15/bin")
}
fn default_runtime_dir() -> PathBuf {
    PathBuf::from("/run/bcp-agent")
}
fn default_state_dir() -> PathBuf {
    PathBuf::from("/var/lib/bcp-agent")
}
fn default_user() -> String {
    "postgres".to_owned()
}
const fn default_fast_stop() -> Span {
    Span::from_millis(1_000)
}
const fn default_peer_patience() -> Span {
    Span::from_millis(1_500)
}

impl Postgres {
    /// Says what cannot work, as (key, reason).
    #[must_use]
    pub fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let mut say = |key: &str, reason: String| faults.push((key.to_owned(), reason));
        for (key, path) in [
            ("bin_dir", Some(&self.bin_dir)),
            ("data_dir", Some(&self.data_dir)),
            ("socket_dir", Some(&self.socket_dir)),
            ("runtime_dir", Some(&self.runtime_dir)),
            ("state_dir", Some(&self.state_dir)),
            ("config_file", self.config_file.as_ref()),
        ] {
            if let Some(path) = path.filter(|path| !path.is_absolute()) {
                say(key, format!("{} is not an absolute path", path.display()));
            }
        }
        if self.config_file.as_ref().is_some_and(|file| file.starts_with(&self.data_dir)) {
            say("config_file", "it is inside of data_dir, where pg_rewind writes over it".to_owned());
        }
        for (key, name) in [("own_name", &self.own_name), ("peer_name", &self.peer_name)] {
            let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if name.is_empty() || name.len() > 60 || !plain || name.starts_with(|c: char| c.is_ascii_digit()) {
                say(key, format!("`{name}` is not a name of lower case letters, digits and _"));
            }
        }
        if self.own_name == self.peer_name {
            say("peer_name", "both copies have the same name".to_owned());
        }
        if !self.copy_listen.ip().is_loopback() {
            say("copy_listen", format!("{} is not on this host alone (127.0.0.1)", self.copy_listen));
        }
        if self.peer.contains(['\'', '\\', '\n']) {
            say("peer", "quotes, backslashes and line ends are not taken".to_owned());
        }
        faults
    }

    fn named(&self, dir: &std::path::Path, suffix: &str) -> PathBuf {
        dir.join(format!("postgres-{}.{suffix}", self.port))
    }

    /// What the standby says to the other server.
    #[must_use]
    pub fn upstream(&self) -> String {
        format!("{} application_name={}", self.peer, self.own_name)
    }
}

/// Why a step or a look failed.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    #[error("failed to use {path}", path = path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("failed to run {program}")]
    Run { program: &'static str, source: std::io::Error },
    #[error("{program} failed: {said}")]
    Program { program: &'static str, said: String },
    #[error("the server does not answer on its socket")]
    Connect(#[source] tokio_postgres::Error),
    #[error("the server ended; {log} says why", log = log.display())]
    Ended { log: PathBuf },
    #[error("the server did not do what it was asked")]
    Query(#[source] tokio_postgres::Error),
    #[error("the server did not {what} in time")]
    Late { what: &'static str },
    #[error("this copy took writes alone, which the other one may not have; look at both, then remove {path}", path = path.display())]
    TookWritesAlone { path: PathBuf },
    #[error("this copy went its own way and may not be rewound (`rejoin = \"manual\"`)")]
    Forked,
    #[error("this copy is being brought back ({seconds} s so far, see {log})", log = log.display())]
    Rejoining { seconds: u64, log: PathBuf },
    #[error("the other server is not active or cannot be reached")]
    NoUpstream,
    #[error("the server is active here; it has to be stopped first")]
    Active,
    #[error("the server is still there: {0}")]
    StillThere(String),
}

impl PostgresError {
    /// Trying again would not help.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, PostgresError::TookWritesAlone { .. } | PostgresError::Forked)
    }

    pub(crate) fn file(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> PostgresError + '_ {
        move |source| PostgresError::File { path: path.to_path_buf(), source }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    pub(crate) fn config() -> Postgres {
        toml::from_str(
            r#"
            data_dir = "/var/lib/postgresql/15/main"
            config_file = "/etc/postgresql/15/main/postgresql.conf"
            socket_dir = "/run/postgresql"
            port = 5432
            own_name = "bcp_a"
            peer_name = "bcp_b"
            peer = "host=10.0.1.5 user=replica passfile=/etc/bcp/pgpass"
            copy_listen = "127.0.0.1:9180"
            "#,
        )
        .unwrap()
    }

    #[test]
    fn reads_the_table_and_says_every_fault() {
        let good = config();
        assert!(good.faults().is_empty(), "{:?}", good.faults());
        assert_eq!(good.rejoin, Rejoin::Rewind);
        let wrong = Postgres {
            config_file: Some(good.data_dir.join("postgresql.conf")),
            own_name: "bcp_b".to_owned(),
            copy_listen: "10.0.0.1:1".parse().unwrap(),
            peer: "host='x'".to_owned(),
            ..good
        };
        let keys: Vec<String> = wrong.faults().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["config_file", "peer_name", "copy_listen", "peer"]);
    }
}
