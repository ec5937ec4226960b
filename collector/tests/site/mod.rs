//! One site in a directory of its own, its processes real: for tests and measurements of serve and broker.
//!
//! Knows: the least configuration that starts. Refuses to know: what is asked of it.
#![allow(dead_code, reason = "each user of this module takes a part of it")]
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use bcp_identity::{Identity, pki};
use bcp_wire::Site;
use serde_json::Value;

/// One request to the console.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

pub struct SiteDir {
    pub dir: PathBuf,
    pub console: SocketAddr,
    pub mqtt: SocketAddr,
}

/// A process that ends with its owner.
pub struct Running(pub Child);

/// An address nobody listens on now.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl SiteDir {
    pub fn new(name: &str) -> SiteDir {
        let dir = std::env::temp_dir().join(format!("bcp-site-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Self::in_dir(dir)
    }

    pub fn in_dir(dir: PathBuf) -> SiteDir {
        std::fs::create_dir_all(&dir).unwrap();
        let pki_dir = dir.join("pki");
        pki::create_ca(&pki_dir, "site").unwrap();
        pki::issue(&pki_dir, &Identity::Collector { site: Site::A }, &["127.0.0.1".to_owned()]).unwrap();
        let (console, mqtt, elsewhere) = (free_address(), free_address(), free_address());
        let config = format!(
            r#"site = "a"
data_dir = "data"
policy = "policy.toml"
[listen]
public = "{public}"
console = "{console}"
control = "{control}"
[mqtt]
embedded = "{mqtt}"
brokers = {{ a = "{mqtt}" }}
[control]
credentials = {{ ca = "pki/ca.pem", cert = "pki/collector-a.pem", key = "pki/collector-a.key" }}
peers = {{ b = "https://{elsewhere}", w = "https://{elsewhere}" }}
[public]
key = "data/keys/publish.key"
known_keys = {{ a = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" }}
origins = {{ b = "http://{elsewhere}" }}
[history]
retention = "36500d"
"#,
            public = free_address(),
            control = free_address(),
        );
        std::fs::write(dir.join("collector.toml"), config).unwrap();
        std::fs::write(dir.join("policy.toml"), "timing = \"metro\"\n").unwrap();
        SiteDir { dir, console, mqtt }
    }

    pub fn config(&self) -> PathBuf {
        self.dir.join("collector.toml")
    }

    pub fn store(&self) -> PathBuf {
        self.dir.join("data/serve")
    }

    pub fn command(&self, process: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bcp-collector"));
        command.arg(process).arg("--config").arg(self.config()).env("BCP_DIE_WITH_PARENT", "1").stdin(Stdio::null());
        command
    }

    /// Starts a process; its log goes to a file of its name.
    pub fn start(&self, process: &str) -> Running {
        let log = std::fs::File::create(self.log(process)).unwrap();
        Running(self.command(process).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    pub fn log(&self, process: &str) -> PathBuf {
        self.dir.join(format!("{process}.log"))
    }

    /// Runs a process that is expected to end by itself.
    pub fn output(&self, process: &str) -> Output {
        self.command(process).output().unwrap()
    }

    /// `GET` on the console port; none where nobody answers.
    pub fn get(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect_timeout(&self.console, REQUEST_LIMIT).ok()?;
        stream.set_read_timeout(Some(REQUEST_LIMIT)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: site\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        // A chunked body of one chunk, or a plain one: the JSON is between the outermost braces.
        serde_json::from_str(&body[body.find('{')?..=body.rfind('}')?]).ok()
    }

    pub fn ingest(&self) -> Option<Value> {
        self.get("/api/v1/ingest")
    }
}

impl Drop for SiteDir {
    fn drop(&mut self) {
        if std::env::var_os("BCP_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// User and system time, seconds.
    pub fn cpu_s(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
        (ticks(11) + ticks(12)) / 100.0
    }

    /// `VmRSS` or `VmHWM`, MB.
    pub fn memory_mb(&self, field: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(0.0) / 1_024.0
    }

    /// Waits until it ends; none where it does not.
    pub fn ended(&mut self, limit: Duration) -> Option<std::process::ExitStatus> {
        wait_for(limit, || self.0.try_wait().ok().flatten())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks until there is an answer, or the limit has passed.
pub fn wait_for<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if began.elapsed() > limit {
            return None;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
