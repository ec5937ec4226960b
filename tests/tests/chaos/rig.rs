//! One site as real processes: broker, serve, and an agent that polls counting meters.
//!
//! Knows: how to start, kill and disturb each of them. Refuses to know: what has to hold in the end; that is in
//! [`super::account`].

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bcp_agent::spool::{Class, Spool, SpoolConfig};
use bcp_identity::{Identity, pki};
use bcp_tests::fleet;
use bcp_wire::Site;
use serde_json::Value;

use super::device::Meter;
use super::link::Link;

const METERS: usize = 8;
/// How often each meter is read.
const INTERVAL: &str = "250ms";
pub const AGENT: &str = "gw-a";
/// The store's disk, where it has one of its own: small, so that it is full at once.
const DISK: &str = "64m";
/// Where Debian has the library that steps one process' clock.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// A process that ends with its owner.
#[derive(Debug)]
pub struct Owned(Child);

impl Owned {
    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Addresses that nothing else takes while a process is away: below the ports that the system gives away.
#[derive(Debug)]
struct Addresses(std::ops::Range<u16>);

impl Addresses {
    const fn of(kind: Broker) -> Addresses {
        Addresses(match kind {
            Broker::Embedded => 27_400..27_420,
            Broker::Mosquitto => 27_420..27_440,
        })
    }

    fn next(&mut self) -> Result<SocketAddr> {
        let port = self.0.by_ref().find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
        Ok(SocketAddr::from(([127, 0, 0, 1], port.context("all ports of this test are in use")?)))
    }
}

/// A file system of the store's own, in a mount namespace that a sleeping process keeps.
#[derive(Debug)]
struct Disk(Owned);

impl Disk {
    /// None where this system does not let a process have mounts of its own.
    fn mount(dir: &Path) -> Option<Disk> {
        let script =
            format!("mount -t tmpfs -o size={DISK} none \"$1\" && touch \"$1/mounted\" && exec sleep infinity");
        let child = Command::new("unshare")
            .args(["-Urm", "sh", "-c", &script, "sh"])
            .arg(dir)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut disk = Disk(Owned(child));
        let began = Instant::now();
        while !disk.inside(&dir.join("mounted")).exists() {
            if disk.0.0.try_wait().ok()?.is_some() || began.elapsed() > Duration::from_secs(5) {
                return None;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Some(disk)
    }

    fn inside(&self, path: &Path) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.0.0.id(), path.display()))
    }
}

/// Which broker carries the payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broker {
    Embedded,
    Mosquitto,
}

#[derive(Debug)]
pub struct Rig {
    pub dir: PathBuf,
    kind: Broker,
    mqtt: SocketAddr,
    console: SocketAddr,
    status: SocketAddr,
    pub meters: Vec<Meter>,
    pub link: Link,
    disk: Option<Disk>,
    faketime: bool,
    broker: Option<Owned>,
    serve: Option<Owned>,
    agent: Option<Owned>,
    /// Highest number that each start of the agent gave to a payload.
    pub produced: BTreeMap<u64, u64>,
    /// When a reading under way may have been lost with the agent.
    pub agent_ended: Vec<Instant>,
    /// When the agent's clock was stepped.
    pub stepped: Vec<Instant>,
    http: reqwest::Client,
}

impl Rig {
    pub fn start(name: &str, kind: Broker) -> Result<Rig> {
        let dir = std::env::temp_dir().join(format!("bcp-chaos-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("data/serve"))?;
        std::fs::create_dir_all(dir.join("profiles/chaos"))?;
        let mut addresses = Addresses::of(kind);
        let (mqtt, console, status) = (addresses.next()?, addresses.next()?, addresses.next()?);
        let disk = Disk::mount(&dir.join("data/serve"));
        let mut rig = Rig {
            kind,
            mqtt,
            console,
            status,
            meters: (0..METERS).map(|_| Meter::start()).collect::<Result<_>>()?,
            link: Link::to(mqtt)?,
            disk,
            faketime: Path::new(FAKETIME).exists(),
            broker: None,
            serve: None,
            agent: None,
            produced: BTreeMap::new(),
            agent_ended: Vec::new(),
            stepped: Vec::new(),
            http: reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(3)).build()?,
            dir,
        };
        rig.write_config(&mut addresses)?;
        rig.write_agent(true)?;
        rig.step_clock(0)?;
        rig.stepped.clear();
        rig.start_broker()?;
        rig.start_serve()?;
        rig.start_agent()?;
        Ok(rig)
    }

    pub const fn has_disk(&self) -> bool {
        self.disk.is_some()
    }
    pub const fn has_clock(&self) -> bool {
        self.faketime
    }

    fn write_config(&self, addresses: &mut Addresses) -> Result<()> {
        let pki_dir = self.dir.join("pki");
        pki::create_ca(&pki_dir, "chaos")?;
        pki::issue(&pki_dir, &Identity::Collector { site: Site::A }, &["127.0.0.1".to_owned()])?;
        let embedded = match self.kind {
            Broker::Embedded => format!("embedded = \"{}\"\n", self.mqtt),
            Broker::Mosquitto => String::new(),
        };
        let (elsewhere, public, control) = (addresses.next()?, addresses.next()?, addresses.next()?);
        let text = format!(
            "site = \"a\"\ndata_dir = \"data\"\npolicy = \"policy.toml\"\n\
             [listen]\npublic = \"{public}\"\nconsole = \"{console}\"\ncontrol = \"{control}\"\n\
             [mqtt]\n{embedded}brokers = {{ a = \"{mqtt}\" }}\n\
             [control]\ncredentials = {{ ca = \"pki/ca.pem\", cert = \"pki/collector-a.pem\", key = \"pki/collector-a.key\" }}\n\
             peers = {{ b = \"https://{elsewhere}\", w = \"https://{elsewhere}\" }}\n\
             [public]\nkey = \"data/keys/publish.key\"\n",
            console = self.console,
            mqtt = self.mqtt,
        );
        std::fs::write(self.dir.join("collector.toml"), text)?;
        std::fs::write(self.dir.join("policy.toml"), "timing = \"metro\"\n")?;
        let profile = "format = 1\ntitle = \"Counting meter\"\nkind = \"meter\"\nsources = [\"this test\"]\n\
                       [modbus]\nmax_registers = 125\norder = \"abcd\"\n\
                       [[point]]\nname = \"outlet.1.current\"\nread = \"input:0\"\ntype = \"u32\"\n";
        std::fs::write(self.dir.join("profiles/chaos/meter.toml"), profile)?;
        let user = if rustix::process::getuid().is_root() { "user root\n" } else { "" };
        let mosquitto = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {dir}/\n\
             autosave_interval 5\n{user}max_queued_messages 100000\nmax_inflight_messages 200\nset_tcp_nodelay true\n",
            port = self.mqtt.port(),
            dir = self.dir.display(),
        );
        std::fs::write(self.dir.join("mosquitto.conf"), mosquitto)?;
        Ok(())
    }

    /// With its meters, or with nothing left to read.
    fn write_agent(&self, with_meters: bool) -> Result<()> {
        let dir = self.dir.display();
        let mut text = format!(
            "site = \"a\"\nagent = \"{AGENT}\"\nstate_dir = \"{dir}/agent\"\nprofiles_dir = \"{dir}/profiles\"\n\
             status_listen = \"{}\"\n[mqtt]\nbroker = \"{}\"\n",
            self.status, self.link.address
        );
        for (n, meter) in self.meters.iter().enumerate().filter(|_| with_meters) {
            text.push_str(&format!(
                "[[device]]\nid = \"meter-{n}\"\nkind = \"meter\"\nprofile = \"chaos/meter\"\ninterval = \"{INTERVAL}\"\n\
                 modbus = {{ address = \"{}\", unit = 1, timeout = \"5s\" }}\n",
                meter.address
            ));
        }
        Ok(std::fs::write(self.dir.join("agent.toml"), text)?)
    }

    fn log(&self, name: &str) -> Result<std::fs::File> {
        let path = self.dir.join(format!("{name}.log"));
        Ok(std::fs::OpenOptions::new().create(true).append(true).open(path)?)
    }

    fn spawn(&self, mut command: Command, name: &str) -> Result<Owned> {
        let log = self.log(name)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Ok(Owned(command.spawn().with_context(|| format!("{name} cannot be started"))?))
    }

    pub fn start_broker(&mut self) -> Result<()> {
        let mut command;
        match self.kind {
            Broker::Embedded => {
                command = Command::new(fleet::binary());
                command.args(["collector", "broker", "--config"]).arg(self.dir.join("collector.toml"));
            }
            Broker::Mosquitto => {
                command = Command::new("mosquitto");
                command.arg("-c").arg(self.dir.join("mosquitto.conf"));
            }
        }
        self.broker = Some(self.spawn(command, "broker")?);
        Ok(())
    }

    pub fn kill_broker(&mut self) {
        self.broker = None;
    }

    pub fn start_serve(&mut self) -> Result<()> {
        let mut command = match &self.disk {
            None => Command::new(fleet::binary()),
            Some(disk) => {
                let mut command = Command::new("nsenter");
                command.args(["-U", "-m", "--preserve-credentials", "-t", &disk.0.0.id().to_string(), "--"]);
                command.arg(fleet::binary());
                command
            }
        };
        command.args(["collector", "serve", "--config"]).arg(self.dir.join("collector.toml"));
        self.serve = Some(self.spawn(command, "serve")?);
        Ok(())
    }

    pub fn kill_serve(&mut self) {
        self.serve = None;
    }

    /// The store's directory as this process can read it.
    pub fn store(&self) -> PathBuf {
        let dir = self.dir.join("data/serve");
        self.disk.as_ref().map_or_else(|| dir.clone(), |disk| disk.inside(&dir))
    }

    pub fn fill_disk(&self) -> Result<()> {
        ensure!(self.disk.is_some(), "the store has no disk of its own");
        let mut filler = std::fs::File::create(self.store().join("filler"))?;
        let block = vec![0u8; 4_096];
        while std::io::Write::write_all(&mut filler, &block).is_ok() {}
        Ok(())
    }

    pub fn free_disk(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.store().join("filler"))?)
    }

    pub fn start_agent(&mut self) -> Result<()> {
        let mut command = Command::new(fleet::binary());
        command.args(["agent", "run", "--config"]).arg(self.dir.join("agent.toml"));
        if self.faketime {
            // Its wall clock alone: what is measured goes by the other one.
            command
                .env("LD_PRELOAD", FAKETIME)
                .env("FAKETIME_TIMESTAMP_FILE", self.dir.join("clock"))
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        self.agent = Some(self.spawn(command, "agent")?);
        Ok(())
    }

    /// Kills the agent, notes what it had given numbers to, and where asked tears the end of its outbox off, as a power cut
    /// does.
    pub fn kill_agent(&mut self, tear: bool) -> Result<()> {
        if let Some(mut agent) = self.agent.take() {
            agent.kill();
            // A killed process leaves libfaketime's two files behind, by its number.
            for file in ["faketime_shm", "sem.faketime_sem"] {
                let _ = std::fs::remove_file(format!("/dev/shm/{file}_{}", agent.0.id()));
            }
        }
        self.agent_ended.push(Instant::now());
        self.note_produced()?;
        if tear {
            let mut segments: Vec<PathBuf> = std::fs::read_dir(self.dir.join("agent/spool"))?
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains("data")))
                .collect();
            segments.sort();
            if let Some(last) = segments.last() {
                let file = std::fs::OpenOptions::new().write(true).open(last)?;
                file.set_len(file.metadata()?.len().saturating_sub(7))?;
            }
        }
        Ok(())
    }

    /// Names a process that ended by itself.
    pub fn all_run(&mut self) -> Result<()> {
        let all = [("agent", &mut self.agent), ("serve", &mut self.serve), ("broker", &mut self.broker)];
        for (name, process) in all {
            if let Some(status) = process.as_mut().map(|process| process.0.try_wait()).transpose()?.flatten() {
                bail!("{name} ended by itself: {status}");
            }
        }
        Ok(())
    }

    /// Restarts the agent where it ended by itself, which it does when it finds its start counter behind.
    pub fn see_to_agent(&mut self) -> Result<()> {
        let ended = self.agent.as_mut().is_some_and(|agent| agent.0.try_wait().is_ok_and(|status| status.is_some()));
        if ended {
            self.kill_agent(false)?;
            self.start_agent()?;
        }
        Ok(())
    }

    pub fn step_clock(&mut self, seconds: i64) -> Result<()> {
        self.stepped.push(Instant::now());
        let new = self.dir.join("clock.new");
        std::fs::write(&new, format!("{seconds:+}\n"))?;
        Ok(std::fs::rename(new, self.dir.join("clock"))?)
    }

    /// Reads a copy of the outbox: what is in it has a number. Returns how many payloads it holds.
    pub fn note_produced(&mut self) -> Result<usize> {
        let copy = self.dir.join("outbox-copy");
        let _ = std::fs::remove_dir_all(&copy);
        std::fs::create_dir_all(&copy)?;
        for entry in std::fs::read_dir(self.dir.join("agent/spool"))? {
            let path = entry?.path();
            std::fs::copy(&path, copy.join(path.file_name().context("a file has a name")?))?;
        }
        let opened = Spool::open(&copy, SpoolConfig::default(), 0);
        let held = opened.spool.keys().map(|(key, _): (_, Class)| (key.incarnation, key.seq));
        let gone = opened.gaps.iter().map(|gap| (gap.incarnation, gap.through));
        let mut count = 0;
        for (incarnation, seq) in held.chain(gone) {
            let highest = self.produced.entry(incarnation).or_default();
            *highest = seq.max(*highest);
            count += 1;
        }
        Ok(count)
    }

    /// Nothing is read any more; what is left is delivered.
    pub fn stop_reading(&mut self) -> Result<()> {
        self.kill_agent(false)?;
        self.write_agent(false)?;
        self.start_agent()
    }

    /// Ends everything; the agent in order, so that it says goodbye.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(agent) = &mut self.agent {
            if let Some(pid) = rustix::process::Pid::from_raw(agent.0.id().cast_signed()) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            let _ = agent.0.wait();
        }
        self.agent = None;
        self.serve = None;
        self.broker = None;
        Ok(())
    }

    async fn get(&self, address: SocketAddr, path: &str) -> Option<Value> {
        self.http.get(format!("http://{address}{path}")).send().await.ok()?.json().await.ok()
    }

    pub async fn ingest(&self) -> Option<Value> {
        self.get(self.console, "/api/v1/ingest").await
    }

    pub async fn agent_status(&self) -> Option<Value> {
        self.get(self.status, "/status").await
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        (self.agent, self.serve, self.broker, self.disk) = (None, None, None, None);
        if std::env::var_os("BCP_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}
