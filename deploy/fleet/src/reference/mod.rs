//! The reference application `registry-db`: what a guarded service made of Debian's packages looks like.
//!
//! Knows: two PostgreSQL servers that follow each other synchronously, HAProxy as the door of their clients, BIND with the name
//! that leads to it, and a client that writes without end. Refuses to know: who is active; the gates of both sites act on it with the agent's own
//! actuators, and `bcp-agent postgres-copy` tells them how the data are.
//!
//! The gates tell HAProxy whose server gets connections, and BIND which site the name points to. HAProxy also asks the sidecars
//! which server is active: so one that was restarted, and was told nothing yet, sends clients to that one and to no other.
//!
//! Invariants: everything listens on loopback and keeps its files below the fleet's directory; PostgreSQL runs as a user
//! without rights (`postgres`, where the fleet is root's); a server is started by a step of its gate and by nothing else;
//! what runs here ends with the fleet.

mod name;
mod seed;
mod texts;
pub mod writer;

use std::path::{Path, PathBuf};

use bcp_agent::postgres::{Postgres, Rejoin, server};
use bcp_agent::span::Span;
use bcp_wire::Site;
use rustix::process::Signal;

use crate::layout::{Layout, Timing};
use crate::ports::{Lane, Port};
use crate::units;

pub use name::{SERVICE_NAME, address};
pub use seed::{SeedError, User, user};

/// The ticket and the backend of HAProxy.
pub const NAME: &str = "registry-db";
/// The sites with a server.
pub const SITES: [Site; 2] = [Site::A, Site::B];
const BIN_DIR: &str = "/usr/lib/postgresql/15/bin";
const HAPROXY: [&str; 2] = ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy"];
const NAMED: [&str; 2] = ["/usr/sbin/named", "/usr/local/sbin/named"];

/// What has to be installed.
#[derive(Debug, Clone)]
pub struct Programs {
    pub haproxy: PathBuf,
    pub named: PathBuf,
}

/// Something is not installed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{program} is not installed")]
pub struct NotInstalled {
    pub program: String,
}

impl NotInstalled {
    /// What to do about it.
    pub const HELP: &'static str = "apt-get install --no-install-recommends postgresql-15 haproxy bind9";
}

impl Programs {
    /// # Errors
    /// The first that is missing.
    pub fn find() -> Result<Programs, NotInstalled> {
        for name in ["postgres", "initdb", "pg_rewind", "pg_controldata", "psql"] {
            let path = Path::new(BIN_DIR).join(name);
            if !path.is_file() {
                return Err(NotInstalled { program: path.display().to_string() });
            }
        }
        let installed = |places: [&str; 2]| {
            let found = places.iter().map(PathBuf::from).find(|path| path.is_file());
            found.ok_or_else(|| NotInstalled { program: places[0].to_owned() })
        };
        Ok(Programs { haproxy: installed(HAPROXY)?, named: installed(NAMED)? })
    }
}

impl Layout {
    /// Below this PostgreSQL's user may go.
    #[must_use]
    pub fn reference_dir(&self) -> PathBuf {
        self.data_dir.join("registry")
    }

    #[must_use]
    pub fn haproxy_config(&self) -> PathBuf {
        self.data_dir.join("haproxy.cfg")
    }

    /// The password of writer and standby, for people and tests.
    #[must_use]
    pub fn reference_secret(&self) -> PathBuf {
        self.data_dir.join("registry.secret")
    }

    /// The server of a site, as its gate and its sidecar are told.
    #[must_use]
    pub fn postgres(&self, site: Site) -> Postgres {
        let dir = self.reference_dir();
        let other = if site == Site::A { Site::B } else { Site::A };
        Postgres {
            bin_dir: BIN_DIR.into(),
            data_dir: dir.join(site.as_str()),
            config_file: Some(dir.join(format!("{site}.conf"))),
            socket_dir: dir.join("run"),
            port: self.base.site(site, Port::Postgres),
            runtime_dir: self.site_dir(site).join("run"),
            state_dir: self.site_dir(site).join(NAME),
            user: "postgres".to_owned(),
            own_name: format!("copy_{site}"),
            peer_name: format!("copy_{other}"),
            peer: format!(
                "host=127.0.0.1 port={} user=replica passfile={} connect_timeout=3",
                self.base.link(site, other, Lane::Postgres),
                dir.join("passfile").display()
            ),
            copy_listen: crate::ports::loopback(self.base.site(site, Port::PostgresCopy)),
            rejoin: Rejoin::Rewind,
            fast_stop: Span::from_millis(if self.timing == Timing::Fast { 200 } else { 700 }),
            peer_patience: Span::from_millis(1_000),
        }
    }
}

/// Every process of a site's server, and of what brings it back.
#[must_use]
pub fn processes(layout: &Layout, site: Site) -> Vec<u32> {
    let postgres = layout.postgres(site);
    let directory = postgres.data_dir.display().to_string();
    let mut found = server::pids(&postgres);
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let arguments = units::arguments(pid);
        let Some(program) = arguments.first().map(Path::new) else { continue };
        let is_theirs = program.starts_with(BIN_DIR) || arguments.iter().any(|argument| argument == "--actuators");
        if is_theirs && pid != std::process::id() && arguments.iter().any(|argument| argument.contains(&directory)) {
            found.push(pid);
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// HAProxy and BIND, by the configurations that they were started with.
#[must_use]
pub fn front_processes(layout: &Layout) -> Vec<u32> {
    let configs = [layout.haproxy_config(), layout.named_config()].map(|path| path.display().to_string());
    let is_ours = |pid: &u32| {
        let arguments = units::arguments(*pid);
        arguments.first().is_some_and(|program| program.ends_with("/haproxy") || program.ends_with("/named"))
            && arguments.iter().any(|argument| configs.contains(argument))
    };
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_ours).collect()
}

/// What a fleet that was killed left behind, for nothing of it dies with its parent.
pub fn kill_all(layout: &Layout) {
    SITES.iter().for_each(|site| {
        kill(layout, *site);
    });
    front_processes(layout).into_iter().for_each(|pid| units::signal(pid, Signal::KILL));
}

/// As when the power goes: all of them at once, until none is left.
pub fn kill(layout: &Layout, site: Site) -> usize {
    let mut killed = 0;
    // What was about to start another process may have done so.
    for _ in 0..20 {
        let found = processes(layout, site);
        if found.is_empty() {
            break;
        }
        found.iter().for_each(|pid| units::signal(*pid, Signal::KILL));
        killed = killed.max(found.len());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    killed
}

/// Ends a site's server in order, if it lets itself.
pub fn end(layout: &Layout, site: Site) {
    if let Err(error) = server::stop(&layout.postgres(site)) {
        tracing::warn!("{:#}", anyhow::Error::from(error));
    }
    kill(layout, site);
}
