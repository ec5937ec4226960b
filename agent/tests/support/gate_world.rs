//! Gates and wardens as processes, and a collector that says what the test wants.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use bcp_agent::gate::record::Record;
use bcp_agent::gate::store::LogLine;
use bcp_identity::{Credentials, Identity, pki};
use bcp_wire::control::{
    GateAnswer, GateSync, Phase, StepKind, StepOrder, StepOutcome, StepReport, SyncOutcome, TicketAnswer,
};
use bcp_wire::{Epoch, Site};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

pub const TTL: Duration = Duration::from_millis(1_500);
pub const LIMIT: Duration = Duration::from_secs(10);
pub const TIMING: &str = "{ tick_ms = 50, renew_ms = 150, ttl_holder_ms = 1500, ttl_ms = 1700, acquire_after_ms = 1200, stop_max_ms = 1000 }";

#[derive(Default)]
pub struct Agreed {
    pub silent: bool,
    pub holder: Option<Site>,
    pub counter: u64,
    pub orders: BTreeMap<Site, StepOrder>,
    pub reports: Vec<StepReport>,
    pub closed: BTreeSet<Site>,
    /// What a gate says last: its trouble, and whether it asks to renew.
    pub trouble: Option<String>,
    pub renews: bool,
    pub index: u64,
}

pub struct World {
    pub dir: PathBuf,
    pub agreed: Arc<Mutex<Agreed>>,
    pub collector: SocketAddr,
}

pub fn epoch(counter: u64) -> Epoch {
    Epoch { incarnation: 1, counter }
}

pub async fn sync(
    State(agreed): State<Arc<Mutex<Agreed>>>,
    Json(sync): Json<GateSync>,
) -> Result<Json<GateAnswer>, StatusCode> {
    let mut agreed = agreed.lock().unwrap();
    if agreed.silent {
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    agreed.index += 1;
    let part = &sync.tickets[0];
    agreed.reports.extend(part.reports.iter().cloned());
    (agreed.trouble, agreed.renews) = (part.trouble.clone(), part.renew.is_some());
    if agreed.orders.get(&sync.site).is_some_and(|order| part.reports.iter().any(|report| report.key == order.key)) {
        agreed.orders.remove(&sync.site);
    }
    if part.closed && part.seen == epoch(agreed.counter) {
        agreed.closed.insert(sync.site);
    } else {
        agreed.closed.remove(&sync.site);
    }
    let answer = TicketAnswer {
        ticket: part.ticket.clone(),
        holder: agreed.holder,
        epoch: epoch(agreed.counter),
        revision: agreed.counter,
        phase: Phase::Held,
        renewed: part.renew == Some(epoch(agreed.counter)) && agreed.holder == Some(sync.site),
        ttl_holder_ms: 1_500,
        order: agreed.orders.get(&sync.site).cloned(),
        silent_ms: None,
        peer_in_sync: None,
    };
    let outcome = SyncOutcome::Confirmed { index: agreed.index, tickets: vec![answer] };
    Ok(Json(GateAnswer { nonce: sync.nonce, collector: Site::A, outcome }))
}

impl World {
    pub async fn new(name: &str) -> World {
        let dir = std::env::temp_dir().join(format!("bcp-gate-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let keys = dir.join("keys");
        std::fs::create_dir_all(&keys).unwrap();
        pki::create_ca(&keys, "test").unwrap();
        let hosts = ["127.0.0.1".to_owned()];
        for (site, id) in [(Site::A, "host-a"), (Site::B, "host-b")] {
            pki::issue(&keys, &Identity::Agent { site, id: id.parse().unwrap() }, &hosts).unwrap();
        }
        let credentials: Credentials = pki::issue(&keys, &Identity::Collector { site: Site::A }, &hosts).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let collector = listener.local_addr().unwrap();
        let agreed = Arc::new(Mutex::new(Agreed::default()));
        let app = Router::new().route("/control/v1/sync", post(sync)).with_state(Arc::clone(&agreed));
        tokio::spawn(async move {
            bcp_identity::serve(listener, &credentials, app, std::future::pending::<()>()).await.unwrap();
        });
        let script = r#"case $BCP_STEP in
            promote) [ -e "$1.slow" ] && sleep 30; echo "$BCP_EPOCH" > "$1" ;;
            stop) rm -f "$1" ;;
            verify-stopped) [ ! -e "$1" ] ;;
        esac"#;
        std::fs::write(dir.join("service.sh"), script).unwrap();
        World { dir, agreed, collector }
    }

    pub fn grant(&self, counter: u64, holder: Site) {
        let mut agreed = self.agreed.lock().unwrap();
        (agreed.counter, agreed.holder) = (counter, Some(holder));
    }

    pub fn order(&self, key: &str, kind: StepKind, to: Site) {
        let mut agreed = self.agreed.lock().unwrap();
        let order = StepOrder {
            key: key.to_owned(),
            kind,
            epoch: epoch(agreed.counter),
            revision: agreed.counter,
            holder: agreed.holder.unwrap(),
            params: BTreeMap::new(),
        };
        agreed.orders.insert(to, order);
    }

    pub fn silence(&self, silent: bool) {
        self.agreed.lock().unwrap().silent = silent;
    }

    pub fn says(&self, trouble: &str) -> bool {
        self.agreed.lock().unwrap().trouble.as_ref().is_some_and(|said| said.contains(trouble))
    }

    pub fn outcome(&self, key: &str) -> Option<StepOutcome> {
        self.agreed.lock().unwrap().reports.iter().find(|report| report.key == key).map(|report| report.outcome)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub struct Host {
    pub dir: PathBuf,
    pub config: PathBuf,
    pub service: PathBuf,
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Host {
    pub fn new(world: &World, site: Site, port: u16, peers: &str) -> Host {
        let service = world.dir.join(site.as_str()).join("service");
        let script = world.dir.join("service.sh");
        let script = format!(r#"script = ["/bin/sh", "{}", "{}"]"#, script.display(), service.display());
        Host::with(world, site, port, &format!("peers = [ {peers} ]"), &script)
    }

    /// `gate` and `ticket`: lines for these sections.
    pub fn with(world: &World, site: Site, port: u16, gate: &str, ticket: &str) -> Host {
        let dir = world.dir.join(site.as_str());
        std::fs::create_dir_all(&dir).unwrap();
        let (keys, service) = (world.dir.join("keys"), dir.join("service"));
        let (keys, collector) = (keys.display(), world.collector);
        let text = format!(
            r#"
            site = "{site}"
            agent = "host-{site}"
            state_dir = "{dir}"
            [mqtt]
            broker = "127.0.0.1:1"
            [gate]
            listen = "127.0.0.1:{port}"
            runtime_dir = "{dir}/run"
            credentials = {{ ca = "{keys}/ca.pem", cert = "{keys}/agent-{site}-host-{site}.pem", key = "{keys}/agent-{site}-host-{site}.key" }}
            collectors = {{ a = "https://{collector}" }}
            {gate}
            timing = {TIMING}
            [[gate.ticket]]
            id = "rx"
            {ticket}
            step_timeout = "750ms"
            "#,
            dir = dir.display(),
        );
        let config = dir.join("agent.toml");
        std::fs::write(&config, text).unwrap();
        Host { dir, config, service }
    }

    pub fn start(&self, command: &str) -> Process {
        let log =
            std::fs::File::options().create(true).append(true).open(self.dir.join(format!("{command}.log"))).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_bcp-agent"))
            .args([command, "--config"])
            .arg(&self.config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Process(child)
    }

    pub fn serves(&self) -> bool {
        self.service.exists()
    }

    pub fn record(&self) -> Record {
        serde_json::from_slice(&std::fs::read(self.dir.join("gate/rx.json")).unwrap()).unwrap()
    }

    pub fn lines(&self) -> Vec<LogLine> {
        let text = std::fs::read_to_string(self.dir.join("gate/gate.log.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn active(&self) -> Vec<bool> {
        self.lines().iter().map(|line| line.active).collect()
    }
}

pub struct Process(pub Child);

impl Process {
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Pauses it while it does not hold its ticket's lock; one that does is killed by the warden, which is another story.
    pub async fn pause_at_rest(&self, site: &Host) {
        let lock = std::fs::File::open(site.dir.join("gate/rx.lock")).unwrap();
        within(LIMIT, "a pause without the lock", &site.dir, || {
            self.signal(Signal::STOP);
            let free = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
            match free {
                true => flock(&lock, FlockOperation::Unlock).unwrap(),
                false => self.signal(Signal::CONT),
            }
            free
        })
        .await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub async fn within(limit: Duration, what: &str, log: &Path, condition: impl Fn() -> bool) {
    let end = Instant::now() + limit;
    while !condition() {
        if Instant::now() > end {
            let said = std::fs::read_to_string(log.join("run.log")).unwrap_or_default();
            panic!("not within {limit:?}: {what}\n{said}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Holds for the whole time.
pub async fn throughout(time: Duration, what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        assert!(condition(), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn active_at_a(world: &World, site: &Host) {
    world.grant(1, Site::A);
    world.order("p1", StepKind::Promote, Site::A);
    within(LIMIT, "promotion", &site.dir, || site.serves() && world.outcome("p1") == Some(StepOutcome::Done)).await;
}
