//! Names of hosts to addresses.
//!
//! Knows: `/etc/hosts`, `/etc/resolv.conf`, the name servers of the configuration, answers for as long as they hold. Refuses
//! to know: what an address is for. The C library is not asked: in a static binary it cannot look anything up.
//!
//! Invariants:
//! * what is an address already, or `localhost`, is never asked for;
//! * a look-up ends within [`LIMIT`], and its error names the name and who was asked;
//! * files that have changed are read again with the next look-up.
//!
//! Cancel-safety: a dropped look-up leaves nothing behind.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};
use reqwest::dns::{Addrs, Resolve, Resolving};
use tokio::net::TcpStream;

/// Longest look-up, whatever the files say: a poll or a session waits for it.
pub const LIMIT: Duration = Duration::from_secs(5);
/// Longest wait for one answer, so that a second server is asked within the limit.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Answers kept: all names of an agent's devices, and a few.
const CACHED_ANSWERS: u64 = 1_024;
/// A device that moves is found again within this, whatever its record promised.
const KEPT_AT_MOST: Duration = Duration::from_secs(3_600);
/// A name that was added a moment ago is found soon.
const ABSENCE_KEPT_AT_MOST: Duration = Duration::from_secs(10);
/// Files larger than this are no hosts file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why there is no address. The causes are part of the text: it is shown where only the last cause is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    #[error("`{name}` is not in /etc/hosts, and there is no name server: set `resolver = [\"ADDRESS:53\"]`")]
    NoServer { name: String },
    #[error("there is no `{name}`, says name server {servers}")]
    Absent { name: String, servers: String },
    #[error("no answer about `{name}` from name server {servers}")]
    Silent { name: String, servers: String },
    #[error("name server {servers} cannot tell of `{name}`: {reason}")]
    Failed { name: String, servers: String, reason: String },
    #[error("`{name}` is no name of a host")]
    NoName { name: String },
    #[error("`{address}` is not host:port")]
    Address { address: String },
}

impl From<LookupError> for io::Error {
    fn from(error: LookupError) -> io::Error {
        let kind = match &error {
            LookupError::Silent { .. } => io::ErrorKind::TimedOut,
            LookupError::NoName { .. } | LookupError::Address { .. } => io::ErrorKind::InvalidInput,
            LookupError::NoServer { .. } | LookupError::Absent { .. } | LookupError::Failed { .. } => {
                io::ErrorKind::NotFound
            }
        };
        io::Error::new(kind, error)
    }
}

/// Looks names up. Clones share their answers.
#[derive(Clone)]
pub struct Resolver(Arc<Inner>);

struct Inner {
    /// Where `etc` is.
    root: PathBuf,
    state: Mutex<State>,
}

struct State {
    /// Asked in place of those of `/etc/resolv.conf`, where there are any.
    servers: Vec<SocketAddr>,
    ready: Option<Ready>,
}

/// What was made of the files as they were.
#[derive(Clone)]
struct Ready {
    stamps: [Stamp; 2],
    hosts: Arc<Hosts>,
    asks: TokioResolver,
    /// For people; empty where there is nobody to ask.
    servers: Arc<str>,
}

/// When a file was written, and its length.
type Stamp = Option<(SystemTime, u64)>;

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("servers", &self.state().servers).finish_non_exhaustive()
    }
}

impl Default for Resolver {
    fn default() -> Resolver {
        Resolver::new(Vec::new())
    }
}

impl Resolver {
    /// Without servers, those of `/etc/resolv.conf` are asked.
    #[must_use]
    pub fn new(servers: Vec<SocketAddr>) -> Resolver {
        Resolver::below(Path::new("/"), servers)
    }

    /// With the files of another root directory.
    #[must_use]
    pub fn below(root: &Path, servers: Vec<SocketAddr>) -> Resolver {
        Resolver(Arc::new(Inner { root: root.to_owned(), state: Mutex::new(State { servers, ready: None }) }))
    }

    /// Other servers from now on.
    pub fn resettle(&self, servers: &[SocketAddr]) {
        let mut state = self.state();
        if state.servers != servers {
            *state = State { servers: servers.to_vec(), ready: None };
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A list and what was made of files: usable whatever became of the thread that held the lock.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Addresses of `host:port`, as [`Resolver::lookup`] finds them; at least one.
    ///
    /// # Errors
    /// There is none.
    pub async fn addresses(&self, address: &str) -> Result<Vec<SocketAddr>, LookupError> {
        if let Ok(literal) = address.parse() {
            return Ok(vec![literal]);
        }
        let fault = || LookupError::Address { address: address.to_owned() };
        let (host, port) = address.rsplit_once(':').ok_or_else(fault)?;
        let port: u16 = port.parse().map_err(|_| fault())?;
        let found = self.lookup(host).await?;
        Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }

    /// A connection to the first address of `host:port` that takes one.
    ///
    /// # Errors
    /// No address, or the last reason why there is no connection.
    pub async fn connect(&self, address: &str) -> io::Result<TcpStream> {
        let mut refused = io::Error::from(io::ErrorKind::NotFound);
        for at in self.addresses(address).await? {
            match TcpStream::connect(at).await {
                Ok(stream) => return Ok(stream),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    /// Addresses of a host: of version 4 where a name server has such ones, else of version 6; at least one.
    ///
    /// # Errors
    /// There is none.
    pub async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        if let Ok(literal) = host.trim_matches(['[', ']']).parse() {
            return Ok(vec![literal]);
        }
        let bare = host.strip_suffix('.').unwrap_or(host);
        // RFC 6761, 6.3.
        if bare.eq_ignore_ascii_case("localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let name = || host.to_owned();
        let asked = Name::from_utf8(host).map_err(|_| LookupError::NoName { name: name() })?;
        let ready = self.ready(host)?;
        let known = in_hosts(&ready.hosts, &asked);
        if !known.is_empty() {
            return Ok(known);
        }
        if ready.servers.is_empty() {
            return Err(LookupError::NoServer { name: name() });
        }
        let servers = || ready.servers.to_string();
        match tokio::time::timeout(LIMIT, ready.asks.lookup_ip(asked)).await {
            Err(_) => Err(LookupError::Silent { name: name(), servers: servers() }),
            Ok(Ok(found)) => {
                let found: Vec<IpAddr> = found.iter().collect();
                if found.is_empty() {
                    return Err(LookupError::Absent { name: name(), servers: servers() });
                }
                Ok(found)
            }
            Ok(Err(error)) if error.is_no_records_found() => {
                Err(LookupError::Absent { name: name(), servers: servers() })
            }
            Ok(Err(hickory_resolver::net::NetError::Timeout)) => {
                Err(LookupError::Silent { name: name(), servers: servers() })
            }
            Ok(Err(error)) => Err(LookupError::Failed { name: name(), servers: servers(), reason: error.to_string() }),
        }
    }

    /// What is there to look names up with, made anew where a file is not what it was.
    fn ready(&self, host: &str) -> Result<Ready, LookupError> {
        let files = ["etc/hosts", "etc/resolv.conf"].map(|file| self.0.root.join(file));
        let stamps = [stamp(&files[0]), stamp(&files[1])];
        let mut state = self.state();
        if let Some(ready) = state.ready.as_ref().filter(|ready| ready.stamps == stamps) {
            return Ok(ready.clone());
        }
        let [hosts, system] = files.each_ref().map(|file| read(file));
        let (config, options) = plan(&state.servers, system.as_deref());
        let shown: Vec<String> = config.name_servers().iter().map(shown).collect();
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let asks = builder.build().map_err(|error| LookupError::Failed {
            name: host.to_owned(),
            servers: shown.join(", "),
            reason: error.to_string(),
        })?;
        let ready =
            Ready { stamps, hosts: Arc::new(hosts_of(hosts.as_deref())), asks, servers: shown.join(", ").into() };
        state.ready = Some(ready.clone());
        Ok(ready)
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: reqwest::dns::Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let found = resolver.lookup(name.as_str()).await?;
            // The port is that of the URL.
            Ok(Box::new(found.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs)
        })
    }
}

fn stamp(file: &Path) -> Stamp {
    let meta = std::fs::metadata(file).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

/// A file that is not there, or too large to be one, is an empty one.
fn read(file: &Path) -> Option<Vec<u8>> {
    let small = std::fs::metadata(file).is_ok_and(|meta| meta.len() <= MAX_FILE_BYTES);
    if small { std::fs::read(file).ok() } else { None }
}

fn hosts_of(file: Option<&[u8]>) -> Hosts {
    let mut hosts = Hosts::default();
    if let Some(bytes) = file
        && let Err(error) = hosts.read_hosts_conf(bytes)
    {
        tracing::warn!(%error, "/etc/hosts cannot be read to its end");
    }
    hosts
}

/// Whom to ask, and how.
fn plan(servers: &[SocketAddr], system: Option<&[u8]>) -> (ResolverConfig, ResolverOpts) {
    let parsed = system.and_then(|bytes| {
        parse_resolv_conf(bytes).inspect_err(|error| tracing::debug!(%error, "/etc/resolv.conf names no server")).ok()
    });
    let (mut config, mut options) = parsed.unwrap_or_default();
    if !servers.is_empty() {
        let (domain, search, _) = config.into_parts();
        config = ResolverConfig::from_parts(domain, search, servers.iter().map(server).collect());
    }
    options.use_hosts_file = ResolveHosts::Never;
    // One question where there is a version 4: a server that is gone would keep the answer that is still known waiting for the
    // other one.
    options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
    options.timeout = options.timeout.min(ANSWER_LIMIT);
    options.cache_size = CACHED_ANSWERS;
    options.positive_max_ttl = Some(KEPT_AT_MOST);
    options.negative_max_ttl = Some(ABSENCE_KEPT_AT_MOST);
    (config, options)
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let at = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, connections)
}

fn shown(server: &NameServerConfig) -> String {
    let port = server.connections.first().map_or(53, |connection| connection.port);
    SocketAddr::new(server.ip, port).to_string()
}

fn in_hosts(hosts: &Hosts, name: &Name) -> Vec<IpAddr> {
    let of_kind = |kind| hosts.lookup_static_host(&Query::query(name.clone(), kind));
    let found = [RecordType::A, RecordType::AAAA].into_iter().filter_map(of_kind);
    found
        .flat_map(|found| found.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UdpSocket;

    /// A root directory of its own, gone with the test.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Root {
            let root = std::env::temp_dir().join(format!("bcp-resolver-{name}-{}", std::process::id()));
            std::fs::create_dir_all(root.join("etc")).unwrap();
            Root(root)
        }

        fn write(&self, file: &str, text: &str) {
            std::fs::write(self.0.join("etc").join(file), text).unwrap();
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn without_any_file_addresses_and_localhost_are_known_and_a_name_is_told_to_have_no_server() {
        let resolver = Resolver::below(Path::new("/nonexistent"), Vec::new());
        assert_eq!(resolver.lookup("localhost").await, Ok(ips(&["127.0.0.1", "::1"])));
        assert_eq!(resolver.lookup("[::1]").await, Ok(ips(&["::1"])));
        let addresses = resolver.addresses("10.0.0.5:502").await.unwrap();
        assert_eq!(addresses, ["10.0.0.5:502".parse().unwrap()]);
        let error = resolver.addresses("ups-a1.example:161").await.unwrap_err();
        assert_eq!(error, LookupError::NoServer { name: "ups-a1.example".to_owned() });
        for bad in ["ups-a1", "ups-a1:port"] {
            assert_eq!(resolver.addresses(bad).await, Err(LookupError::Address { address: bad.to_owned() }));
        }
        assert_eq!(resolver.lookup("a..b").await, Err(LookupError::NoName { name: "a..b".to_owned() }));
    }

    #[tokio::test]
    async fn the_hosts_file_comes_first_and_is_read_again_when_it_changes() {
        let root = Root::new("hosts");
        // A search domain must not make anybody ask for what the file has.
        root.write("resolv.conf", "nameserver 127.0.0.1\nsearch example.org\n");
        root.write("hosts", "10.0.0.7 ups-a1 ups-a1.example # in the cellar\n2001:db8::7 ups-a1\n");
        let resolver = Resolver::below(&root.0, Vec::new());
        assert_eq!(resolver.lookup("UPS-A1").await, Ok(ips(&["10.0.0.7", "2001:db8::7"])));
        root.write("hosts", "10.0.0.88 ups-a1\n");
        assert_eq!(resolver.lookup("ups-a1").await, Ok(ips(&["10.0.0.88"])));
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_costs_a_bounded_time_and_is_named() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = silent.local_addr().unwrap();
        let resolver = Resolver::below(Path::new("/nonexistent"), vec![server]);
        let began = std::time::Instant::now();
        let error = resolver.lookup("broker.example").await.unwrap_err();
        assert!(began.elapsed() < LIMIT + Duration::from_secs(1), "{:?}", began.elapsed());
        let silent = LookupError::Silent { name: "broker.example".to_owned(), servers: server.to_string() };
        assert_eq!(error, silent);
    }

    #[test]
    fn servers_of_the_configuration_take_the_place_of_the_systems() {
        let system = b"nameserver 10.0.0.1\nsearch example.org\noptions timeout:30\n";
        let told = |servers: &[SocketAddr]| {
            let (config, options) = plan(servers, Some(system));
            let servers: Vec<String> = config.name_servers().iter().map(shown).collect();
            (servers, config.search().len(), options.timeout)
        };
        assert_eq!(told(&[]), (vec!["10.0.0.1:53".to_owned()], 1, ANSWER_LIMIT));
        let own = "127.0.0.1:5353".parse().unwrap();
        assert_eq!(told(&[own]), (vec!["127.0.0.1:5353".to_owned()], 1, ANSWER_LIMIT));
    }
}
