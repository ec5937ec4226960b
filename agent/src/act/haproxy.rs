//! HAProxy's runtime API: whose servers of a backend get connections.
//!
//! Knows: `set server`, `shutdown sessions server` and `show servers state` (HAProxy management guide, section 9.3). Refuses to
//! know: HAProxy's configuration; it names servers that must be there.
//!
//! A command that worked is answered by an empty line; any word is a refusal. What was set is read back. Nobody who listens at
//! the socket is an HAProxy that does not run and forwards nothing: for what is taken down that is as good.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use bcp_wire::Site;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::{ActError, Effect, Step, StepName};

/// A backend of 256 servers has about 32 KiB of state.
const ANSWER_MAX: u64 = 1024 * 1024;
/// Most of an answer that a report carries, in characters.
const WORDS_MAX: usize = 120;
/// Highest weight of a server.
const WEIGHT_MAX: u32 = 256;
/// A share of 100 % in weights, shared by the servers of a site.
const WEIGHT_OF_ALL: u32 = 200;
/// Bits of `srv_admin_state`: maintenance by command; and whatever else keeps a server from being ready (inherited, drain,
/// unresolved). 0x04 says only that the configuration disabled it once, and stays.
const FORCED_MAINT: u32 = 0x01;
const NOT_READY: u32 = 0x01 | 0x02 | 0x08 | 0x10 | 0x20;

/// As configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Haproxy {
    /// Path of the stats socket, or `127.0.0.1:port`; it must have `level admin`.
    pub socket: String,
    /// `backend/server`, by the site that serves there.
    pub servers: BTreeMap<Site, Vec<String>>,
}

/// Why HAProxy did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum HaproxyError {
    #[error("nothing can be asked at {socket}")]
    Connect { socket: String, source: io::Error },
    #[error("no answer to `{command}`")]
    Exchange { command: String, source: io::Error },
    #[error("`{command}` was refused: {words}")]
    Refused { command: String, words: String },
    #[error("the state of backend {backend} cannot be read: {why}")]
    State { backend: String, why: String },
    #[error("backend {backend} has no server {server}")]
    NoServer { backend: String, server: String },
    #[error("no servers of site {site} are configured")]
    NoSite { site: Site },
    #[error("{server} {what}, though it was set otherwise")]
    NotTaken { server: String, what: String },
    #[error("{server} may get connections: it is not in maintenance")]
    InUse { server: String },
    #[error("the share of site {site} is `{text}`, not 0 to 100")]
    Share { site: String, text: String },
    #[error("the step does not say who holds the ticket")]
    NoHolder,
}

/// What is wanted of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Maint,
    Ready,
    Weight(u32),
}

/// What HAProxy says of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    admin: u32,
    weight: u32,
}

impl Wanted {
    const fn is_met(self, state: State) -> bool {
        match self {
            Wanted::Maint => state.admin & FORCED_MAINT != 0,
            Wanted::Ready => state.admin & NOT_READY == 0,
            Wanted::Weight(weight) => state.weight == weight,
        }
    }

    fn command(self, server: &str) -> String {
        match self {
            Wanted::Maint => format!("set server {server} state maint"),
            Wanted::Ready => format!("set server {server} state ready"),
            Wanted::Weight(weight) => format!("set server {server} weight {weight}"),
        }
    }
}

impl Haproxy {
    #[must_use]
    pub fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let is_loopback = self.socket.parse::<std::net::SocketAddr>().is_ok_and(|address| address.ip().is_loopback());
        if !Path::new(&self.socket).is_absolute() && !is_loopback {
            let reason = format!("`{}` is neither an absolute path nor a loopback address with a port", self.socket);
            faults.push(("socket".to_owned(), reason));
        }
        if self.servers.values().all(Vec::is_empty) {
            faults.push(("servers".to_owned(), "names no server, as a = [\"rx/a1\"]".to_owned()));
        }
        let mut seen = std::collections::BTreeSet::new();
        for (site, servers) in &self.servers {
            for (n, server) in servers.iter().enumerate() {
                let key = format!("servers.{site}[{n}]");
                if split(server).is_none() {
                    faults.push((key, format!("`{server}` is not backend/server, in letters, digits and - _ . :")));
                } else if !seen.insert(server) {
                    faults.push((key, format!("`{server}` is named twice")));
                }
            }
        }
        faults
    }

    #[must_use]
    pub fn faults_at(&self, site: Site) -> Vec<(String, String)> {
        self.of(site).err().map(|error| ("servers".to_owned(), error.to_string())).into_iter().collect()
    }

    pub(super) async fn carry_out(&self, step: &Step) -> Result<Effect, ActError> {
        match step.name {
            StepName::Stop | StepName::Seal | StepName::Demote => self.close(step).await,
            StepName::VerifyStopped | StepName::VerifyDemoted => Ok(self.verify_closed(step.site).await?),
            // The others first: two sites must not be served at one time.
            StepName::Publish => self.point_to(step, step.site).await,
            StepName::Follow => match step.holder.ok_or(HaproxyError::NoHolder)? {
                holder if self.of(holder).is_ok() => self.point_to(step, holder).await,
                // It knows its own servers only, and they are in maintenance since the seal.
                _ => Ok(Effect::not_concerned()),
            },
            StepName::Weigh => self.weigh(step).await,
            StepName::Promote => Ok(Effect::not_concerned()),
        }
    }

    fn of(&self, site: Site) -> Result<&[String], HaproxyError> {
        let servers = self.servers.get(&site).map(Vec::as_slice).filter(|servers| !servers.is_empty());
        servers.ok_or(HaproxyError::NoSite { site })
    }

    /// The site's servers get no connection any more, and lose those they have.
    async fn close(&self, step: &Step) -> Result<Effect, ActError> {
        let wanted: Vec<_> = self.of(step.site)?.iter().map(|server| (server.as_str(), Wanted::Maint)).collect();
        let changed = match self.set(step, &wanted).await {
            Err(ActError::Haproxy(error)) if is_down(&error) => {
                return Ok(Effect::Already("haproxy does not run".to_owned()));
            }
            other => other?,
        };
        for (server, _) in wanted {
            self.order(&format!("shutdown sessions server {server}")).await?;
        }
        Ok(if changed { done("closed") } else { Effect::Already("it is closed".to_owned()) })
    }

    async fn verify_closed(&self, site: Site) -> Result<Effect, HaproxyError> {
        for server in self.of(site)? {
            match self.state(server).await {
                Err(error) if is_down(&error) => return Ok(done("haproxy does not run")),
                Err(error) => return Err(error),
                Ok(state) if Wanted::Maint.is_met(state) => {}
                Ok(_) => return Err(HaproxyError::InUse { server: server.clone() }),
            }
        }
        Ok(done("it is closed"))
    }

    async fn point_to(&self, step: &Step, site: Site) -> Result<Effect, ActError> {
        self.of(site)?;
        let others = self.servers.iter().filter(|(of, _)| **of != site).flat_map(|(_, servers)| servers);
        let mut wanted: Vec<_> = others.map(|server| (server.as_str(), Wanted::Maint)).collect();
        wanted.extend(self.of(site)?.iter().map(|server| (server.as_str(), Wanted::Ready)));
        let changed = self.set(step, &wanted).await?;
        let what = format!("connections go to site {site}");
        Ok(if changed { Effect::Done(what) } else { Effect::Already(what) })
    }

    async fn weigh(&self, step: &Step) -> Result<Effect, ActError> {
        let mut wanted = Vec::new();
        for (site, servers) in &self.servers {
            let share = step.params.get(site.as_str()).map_or("0", String::as_str);
            let unreadable = || HaproxyError::Share { site: site.to_string(), text: share.to_owned() };
            let percent = share.parse::<u32>().ok().filter(|percent| *percent <= 100).ok_or_else(unreadable)?;
            let weight = Wanted::Weight(weight(percent, servers.len()));
            wanted.extend(servers.iter().map(|server| (server.as_str(), weight)));
        }
        let unknown = step.params.keys().find(|site| !self.servers.keys().any(|known| known.as_str() == site.as_str()));
        if let Some(site) = unknown.and_then(|site| site.parse().ok()) {
            return Err(HaproxyError::NoSite { site }.into());
        }
        // What gets more goes first: the service is never without a server.
        wanted.sort_by_key(|(_, wanted)| {
            std::cmp::Reverse(if let Wanted::Weight(weight) = wanted { *weight } else { 0 })
        });
        let changed = self.set(step, &wanted).await?;
        let what = "weights as ordered".to_owned();
        Ok(if changed { Effect::Done(what) } else { Effect::Already(what) })
    }

    /// Sets what is not so, in order, and reads it back; whether anything had to be set.
    async fn set(&self, step: &Step, wanted: &[(&str, Wanted)]) -> Result<bool, ActError> {
        let mut changed = false;
        for (server, wanted) in wanted {
            if wanted.is_met(self.state(server).await?) {
                continue;
            }
            step.may_act()?;
            changed = true;
            self.order(&wanted.command(server)).await?;
            let state = self.state(server).await?;
            if !wanted.is_met(state) {
                let what = format!("has admin state {:#x} and weight {}", state.admin, state.weight);
                return Err(HaproxyError::NotTaken { server: (*server).to_owned(), what }.into());
            }
        }
        Ok(changed)
    }

    async fn state(&self, server: &str) -> Result<State, HaproxyError> {
        let (backend, name) = split(server).unwrap_or((server, ""));
        let text = self.ask(&format!("show servers state {backend}")).await?;
        parse(&text, backend, name)
    }

    /// A command that is answered by nothing.
    async fn order(&self, command: &str) -> Result<(), HaproxyError> {
        let answer = self.ask(command).await?;
        if answer.trim().is_empty() {
            return Ok(());
        }
        let words = answer.trim().lines().next().unwrap_or_default().chars().take(WORDS_MAX).collect();
        Err(HaproxyError::Refused { command: command.to_owned(), words })
    }

    /// One command on a connection of its own: HAProxy closes it behind the answer.
    async fn ask(&self, command: &str) -> Result<String, HaproxyError> {
        let connect = |source| HaproxyError::Connect { socket: self.socket.clone(), source };
        let exchange = |source| HaproxyError::Exchange { command: command.to_owned(), source };
        if Path::new(&self.socket).is_absolute() {
            let stream = UnixStream::connect(&self.socket).await.map_err(connect)?;
            talk(stream, command).await.map_err(exchange)
        } else {
            let stream = TcpStream::connect(&self.socket).await.map_err(connect)?;
            talk(stream, command).await.map_err(exchange)
        }
    }
}

fn done(what: &str) -> Effect {
    Effect::Done(what.to_owned())
}

/// Nobody listens: no file, or nobody behind it.
fn is_down(error: &HaproxyError) -> bool {
    matches!(error, HaproxyError::Connect { source, .. }
        if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused))
}

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, command: &str) -> io::Result<String> {
    stream.write_all(format!("{command}\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut answer).await?;
    // An answer ends with an empty line; without one HAProxy broke off.
    if answer.ends_with('\n') { Ok(answer) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Parts of `backend/server`.
fn split(server: &str) -> Option<(&str, &str)> {
    let is_name =
        |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:".contains(c));
    server.split_once('/').filter(|(backend, name)| is_name(backend) && is_name(name))
}

/// A site's share spread over its servers. One with a share has at least weight 1: rounding takes no site out.
fn weight(percent: u32, servers: usize) -> u32 {
    let servers = u32::try_from(servers).unwrap_or(u32::MAX).max(1);
    let each = (percent * WEIGHT_OF_ALL / 100).div_ceil(servers);
    each.max(u32::from(percent > 0)).min(WEIGHT_MAX)
}

/// Format 1: a line with the number, one with `#` and the names of the columns, one per server.
fn parse(text: &str, backend: &str, server: &str) -> Result<State, HaproxyError> {
    let unreadable = |why: &str| HaproxyError::State { backend: backend.to_owned(), why: why.to_owned() };
    let mut lines = text.lines();
    match lines.next().map(str::trim) {
        Some("1") => {}
        other => return Err(unreadable(other.filter(|line| !line.is_empty()).unwrap_or("no answer"))),
    }
    let names = lines.next().and_then(|line| line.strip_prefix('#')).ok_or_else(|| unreadable("no column names"))?;
    let column = |wanted: &str| names.split_whitespace().position(|name| name == wanted);
    let columns = [column("be_name"), column("srv_name"), column("srv_admin_state"), column("srv_uweight")];
    let [Some(be), Some(srv), Some(admin), Some(weight)] = columns else {
        return Err(unreadable("columns are missing"));
    };
    for line in lines {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if fields.get(be) == Some(&backend) && fields.get(srv) == Some(&server) {
            let number = |at: usize| fields.get(at).and_then(|text| text.parse().ok());
            let found = number(admin).zip(number(weight)).map(|(admin, weight)| State { admin, weight });
            return found.ok_or_else(|| unreadable("a state or weight is no number"));
        }
    }
    Err(HaproxyError::NoServer { backend: backend.to_owned(), server: server.to_owned() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{Haproxy, State, Wanted, parse, split, weight};

    /// As HAProxy 2.6 writes it.
    const STATE: &str = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight \
        srv_time_since_last_change\n2 rx 1 a1 127.0.0.1 2 0 100 100 1\n2 rx 2 b1 127.0.0.1 0 5 30 1 1\n\n";

    #[test]
    fn states_are_read_by_the_names_of_the_columns() {
        assert_eq!(parse(STATE, "rx", "a1").unwrap(), State { admin: 0, weight: 100 });
        assert_eq!(parse(STATE, "rx", "b1").unwrap(), State { admin: 5, weight: 30 });
        for (text, server, says) in [
            (STATE, "c1", "no server c1"),
            ("Can't find backend.\n\n", "a1", "Can't find backend"),
            ("", "a1", "no answer"),
            ("2\n# be_name srv_name\n", "a1", "cannot be read: 2"),
            ("1\n# be_name srv_name srv_uweight\nrx a1 1\n", "a1", "columns are missing"),
            ("1\n# be_name srv_name srv_admin_state srv_uweight\nrx a1 x 1\n", "a1", "no number"),
            ("1\n# be_name srv_name srv_admin_state srv_uweight\nrx a1\n", "a1", "no number"),
        ] {
            let error = parse(text, "rx", server).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_server_once_disabled_in_the_configuration_can_be_ready() {
        let met = |wanted: Wanted, admin| wanted.is_met(State { admin, weight: 1 });
        assert!(met(Wanted::Ready, 0x04) && met(Wanted::Ready, 0) && met(Wanted::Ready, 0x40));
        assert!(!met(Wanted::Ready, 0x05) && !met(Wanted::Ready, 0x08) && !met(Wanted::Ready, 0x20));
        assert!(met(Wanted::Maint, 0x05) && !met(Wanted::Maint, 0x04), "disabled once is not in maintenance");
    }

    #[test]
    fn shares_become_weights() {
        for (percent, servers, expected) in
            [(0, 1, 0), (100, 1, 200), (60, 2, 60), (1, 16, 1), (100, 0, 200), (50, 3, 34)]
        {
            assert_eq!(weight(percent, servers), expected, "{percent} % of {servers}");
        }
    }

    #[test]
    fn names_and_sockets_are_checked() {
        assert_eq!(split("rx/a1"), Some(("rx", "a1")));
        for bad in ["rx", "/a1", "rx/", "rx/a1; show env", "rx/a 1", "rx/a/1"] {
            assert_eq!(split(bad), None, "{bad}");
        }
        let read = |text: &str| toml::from_str::<Haproxy>(text).unwrap().faults();
        assert!(read("socket = \"/run/haproxy/admin.sock\"\nservers = { a = [\"rx/a1\"] }").is_empty());
        assert!(read("socket = \"127.0.0.1:9999\"\nservers = { a = [\"rx/a1\"] }").is_empty());
        let keys: Vec<String> =
            read("socket = \"10.0.0.1:9999\"\nservers = { a = [\"rx/a1\", \"x\"], b = [\"rx/a1\"] }")
                .into_iter()
                .map(|(key, _)| key)
                .collect();
        assert_eq!(keys, ["socket", "servers.a[1]", "servers.b[0]"]);
        assert_eq!(read("socket = \"/s\"\nservers = {}")[0].0, "servers");
    }
}
