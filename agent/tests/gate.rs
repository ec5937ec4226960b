//! Gates and wardens as real processes, against a collector that says what the test wants.
#![allow(clippy::unwrap_used)]

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

const TTL: Duration = Duration::from_millis(1_500);
const LIMIT: Duration = Duration::from_secs(10);
const TIMING: &str = "{ tick_ms = 50, renew_ms = 150, ttl_holder_ms = 1500, ttl_ms = 1700, acquire_after_ms = 1200, stop_max_ms = 1000 }";

#[derive(Default)]
struct Agreed {
    silent: bool,
    holder: Option<Site>,
    counter: u64,
    orders: BTreeMap<Site, StepOrder>,
    reports: Vec<StepReport>,
    closed: BTreeSet<Site>,
    /// What a gate says last: its trouble, and whether it asks to renew.
    trouble: Option<String>,
    renews: bool,
    index: u64,
}

struct World {
    dir: PathBuf,
    agreed: Arc<Mutex<Agreed>>,
    collector: SocketAddr,
}

fn epoch(counter: u64) -> Epoch {
    Epoch { incarnation: 1, counter }
}

async fn sync(
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
        peer_in_sync: None,
    };
    let outcome = SyncOutcome::Confirmed { index: agreed.index, tickets: vec![answer] };
    Ok(Json(GateAnswer { nonce: sync.nonce, collector: Site::A, outcome }))
}

impl World {
    async fn new(name: &str) -> World {
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

    fn grant(&self, counter: u64, holder: Site) {
        let mut agreed = self.agreed.lock().unwrap();
        (agreed.counter, agreed.holder) = (counter, Some(holder));
    }

    fn order(&self, key: &str, kind: StepKind, to: Site) {
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

    fn silence(&self, silent: bool) {
        self.agreed.lock().unwrap().silent = silent;
    }

    fn says(&self, trouble: &str) -> bool {
        self.agreed.lock().unwrap().trouble.as_ref().is_some_and(|said| said.contains(trouble))
    }

    fn outcome(&self, key: &str) -> Option<StepOutcome> {
        self.agreed.lock().unwrap().reports.iter().find(|report| report.key == key).map(|report| report.outcome)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

struct Host {
    dir: PathBuf,
    config: PathBuf,
    service: PathBuf,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Host {
    fn new(world: &World, site: Site, port: u16, peers: &str) -> Host {
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
            peers = [ {peers} ]
            timing = {TIMING}
            [[gate.ticket]]
            id = "rx"
            script = ["/bin/sh", "{script}", "{service}"]
            step_timeout = "750ms"
            "#,
            dir = dir.display(),
            script = world.dir.join("service.sh").display(),
            service = service.display(),
        );
        let config = dir.join("agent.toml");
        std::fs::write(&config, text).unwrap();
        Host { dir, config, service }
    }

    fn start(&self, command: &str) -> Process {
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

    fn serves(&self) -> bool {
        self.service.exists()
    }

    fn record(&self) -> Record {
        serde_json::from_slice(&std::fs::read(self.dir.join("gate/rx.json")).unwrap()).unwrap()
    }

    fn lines(&self) -> Vec<LogLine> {
        let text = std::fs::read_to_string(self.dir.join("gate/gate.log.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn active(&self) -> Vec<bool> {
        self.lines().iter().map(|line| line.active).collect()
    }
}

struct Process(Child);

impl Process {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Pauses it while it does not hold its ticket's lock; one that does is killed by the warden, which is another story.
    async fn pause_at_rest(&self, site: &Host) {
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

async fn within(limit: Duration, what: &str, log: &Path, condition: impl Fn() -> bool) {
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
async fn throughout(time: Duration, what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        assert!(condition(), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn active_at_a(world: &World, site: &Host) {
    world.grant(1, Site::A);
    world.order("p1", StepKind::Promote, Site::A);
    within(LIMIT, "promotion", &site.dir, || site.serves() && world.outcome("p1") == Some(StepOutcome::Done)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_lease_stops_the_service_and_only_a_new_epoch_starts_it() {
    let world = World::new("lease").await;
    let site = Host::new(&world, Site::A, free_port(), "");
    let (_gate, _warden) = (site.start("run"), site.start("warden"));
    active_at_a(&world, &site).await;
    throughout(2 * TTL, "renewed, it goes on", || site.serves()).await;
    world.silence(true);
    let silent = Instant::now();
    within(TTL + Duration::from_millis(1_000), "the stop", &site.dir, || !site.serves()).await;
    assert!(silent.elapsed() > TTL / 2, "not before the lease ran out: {:?}", silent.elapsed());
    within(LIMIT, "the log", &site.dir, || site.active() == [true, false]).await;
    assert!(site.record().closed && !site.record().may_run);
    world.silence(false);
    world.order("p1-again", StepKind::Promote, Site::A);
    within(LIMIT, "refusal", &site.dir, || world.outcome("p1-again") == Some(StepOutcome::Rejected)).await;
    within(LIMIT, "closed is said", &site.dir, || world.agreed.lock().unwrap().closed.contains(&Site::A)).await;
    assert!(!site.serves());
    world.grant(2, Site::A);
    world.order("p2", StepKind::Promote, Site::A);
    within(LIMIT, "the new epoch", &site.dir, || site.serves() && world.outcome("p2") == Some(StepOutcome::Done)).await;
    world.order("s2", StepKind::Stop, Site::A);
    within(LIMIT, "an ordered stop", &site.dir, || world.outcome("s2") == Some(StepOutcome::Done)).await;
    assert!(!site.serves());
    assert_eq!(site.active(), [true, false, true, false]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_stops_nothing_and_a_death_keeps_nothing_alive() {
    let world = World::new("restart").await;
    let site = Host::new(&world, Site::A, free_port(), "");
    let (gate, _warden) = (site.start("run"), site.start("warden"));
    active_at_a(&world, &site).await;
    drop(gate);
    let gate = site.start("run");
    throughout(2 * TTL, "a restart stops nothing", || site.serves()).await;
    drop(gate);
    within(TTL + Duration::from_millis(1_500), "the warden stops it", &site.dir, || !site.serves()).await;
    within(LIMIT, "the log", &site.dir, || site.active() == [true, false]).await;
    assert!(site.lines()[1].reason.contains("warden"));
    let _gate = site.start("run");
    world.order("p1-again", StepKind::Promote, Site::A);
    within(LIMIT, "refusal", &site.dir, || world.outcome("p1-again") == Some(StepOutcome::Rejected)).await;
    assert!(!site.serves());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_gate_wakes_up_to_a_closed_epoch() {
    let world = World::new("pause").await;
    let site = Host::new(&world, Site::A, free_port(), "");
    let (gate, _warden) = (site.start("run"), site.start("warden"));
    active_at_a(&world, &site).await;
    gate.pause_at_rest(&site).await;
    world.order("queued", StepKind::Promote, Site::A);
    within(TTL + Duration::from_millis(1_500), "the warden stops it", &site.dir, || !site.serves()).await;
    within(LIMIT, "the log", &site.dir, || site.active() == [true, false]).await;
    gate.signal(Signal::CONT);
    within(LIMIT, "refusal", &site.dir, || world.outcome("queued") == Some(StepOutcome::Rejected)).await;
    throughout(TTL / 2, "it stays down", || !site.serves()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_promotion_does_not_outlive_its_gate() {
    let world = World::new("hang").await;
    let site = Host::new(&world, Site::A, free_port(), "");
    std::fs::write(site.dir.join("service.slow"), "").unwrap();
    let (gate, _warden) = (site.start("run"), site.start("warden"));
    world.grant(1, Site::A);
    world.order("p1", StepKind::Promote, Site::A);
    within(LIMIT, "the promotion begins", &site.dir, || site.active() == [true]).await;
    gate.signal(Signal::STOP);
    within(TTL + Duration::from_millis(2_000), "the warden acts", &site.dir, || site.active() == [true, false]).await;
    let record = site.record();
    assert!(record.closed && !record.may_run);
    gate.signal(Signal::CONT);
    throughout(TTL, "the killed promotion starts nothing", || !site.serves()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_collector_the_sites_keep_each_other_alive() {
    let world = World::new("failsafe").await;
    let (port_a, port_b) = (free_port(), free_port());
    let peer = |site: &str, port: u16| {
        format!(r#"{{ site = "{site}", id = "host-{site}", url = "https://127.0.0.1:{port}" }}"#)
    };
    let a = Host::new(&world, Site::A, port_a, &peer("b", port_b));
    let b = Host::new(&world, Site::B, port_b, &peer("a", port_a));
    let (_gate_a, _warden_a) = (a.start("run"), a.start("warden"));
    let _gate_b = b.start("run");
    active_at_a(&world, &a).await;
    world.silence(true);
    throughout(4 * TTL, "all collectors are gone, and nothing stops", || a.serves()).await;
    let promise = b.record().promise.expect("stored");
    assert_eq!((promise.to.as_str(), promise.epoch), ("a/host-a", epoch(1)));
    // The collectors come back and, wrongly informed, grant b: it waits until its promise has ended.
    world.grant(2, Site::B);
    world.order("p2", StepKind::Promote, Site::B);
    world.silence(false);
    within(LIMIT, "a is superseded", &a.dir, || !a.serves()).await;
    within(LIMIT, "b promotes", &b.dir, || b.serves()).await;
    let began = b.lines()[0].boot_ms;
    assert!(began >= promise.until, "not before the promise ended: {began} {}", promise.until);
    let stopped = a.lines().last().unwrap().clone();
    assert!(!stopped.active && stopped.boot_ms <= began, "never both");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_silent_peer_is_enough_to_stop() {
    let world = World::new("silent-peer").await;
    let (port_a, port_b) = (free_port(), free_port());
    let peer = format!(r#"{{ site = "b", id = "host-b", url = "https://127.0.0.1:{port_b}" }}"#);
    let a = Host::new(&world, Site::A, port_a, &peer);
    let _gate = a.start("run");
    active_at_a(&world, &a).await;
    world.silence(true);
    within(TTL + Duration::from_millis(1_000), "the stop", &a.dir, || !a.serves()).await;
}

/// A file of this name that is a directory: writes fail, as on a full disk.
fn refuse_writes(file: &Path, refuse: bool) {
    match refuse {
        true => std::fs::create_dir(file).unwrap(),
        false => std::fs::remove_dir(file).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_ends_where_the_warden_was_told_although_it_is_renewed() {
    let world = World::new("untold").await;
    let site = Host::new(&world, Site::A, free_port(), "");
    let (_gate, _warden) = (site.start("run"), site.start("warden"));
    active_at_a(&world, &site).await;
    let runtime = site.dir.join("run/host-a/rx.deadline.new");
    refuse_writes(&runtime, true);
    within(LIMIT, "trouble", &site.dir, || world.says("its warden cannot be told")).await;
    within(LIMIT, "the stop", &site.dir, || !site.serves()).await;
    within(LIMIT, "closed is said", &site.dir, || world.agreed.lock().unwrap().closed.contains(&Site::A)).await;
    assert!(!world.agreed.lock().unwrap().renews, "no false picture");
    refuse_writes(&runtime, false);
    within(LIMIT, "no trouble", &site.dir, || world.agreed.lock().unwrap().trouble.is_none()).await;
    world.grant(2, Site::A);
    world.order("p2", StepKind::Promote, Site::A);
    within(LIMIT, "the next epoch", &site.dir, || site.serves() && world.outcome("p2") == Some(StepOutcome::Done))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_warden_stopped_beside_a_full_disk_is_not_called_active() {
    let world = World::new("full").await;
    let site = Host::new(&world, Site::A, free_port(), "");
    let (gate, _warden) = (site.start("run"), site.start("warden"));
    active_at_a(&world, &site).await;
    gate.pause_at_rest(&site).await;
    refuse_writes(&site.dir.join("gate/rx.json.new"), true);
    within(LIMIT, "the warden stops it", &site.dir, || !site.serves()).await;
    within(LIMIT, "the log", &site.dir, || site.active() == [true, false]).await;
    assert!(site.record().may_run, "the disk does not know of it");
    gate.signal(Signal::CONT);
    within(LIMIT, "trouble", &site.dir, || world.says("its disk does not take its state")).await;
    assert!(!world.agreed.lock().unwrap().renews && world.agreed.lock().unwrap().closed.is_empty());
    refuse_writes(&site.dir.join("gate/rx.json.new"), false);
    within(LIMIT, "closed is said", &site.dir, || world.agreed.lock().unwrap().closed.contains(&Site::A)).await;
    assert!(site.record().closed && !site.record().may_run && !site.serves());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_vanishes_stops_the_service_and_closes_its_epoch() {
    let world = World::new("vanish").await;
    let site = Host::new(&world, Site::A, free_port(), "");
    let gate = site.start("run");
    active_at_a(&world, &site).await;
    std::fs::remove_file(site.dir.join("gate/rx.json")).unwrap();
    within(LIMIT, "the stop", &site.dir, || !site.serves()).await;
    within(LIMIT, "closed is said", &site.dir, || world.agreed.lock().unwrap().closed.contains(&Site::A)).await;
    assert!(world.says("its record was lost"));
    world.grant(2, Site::A);
    world.order("p2", StepKind::Promote, Site::A);
    within(LIMIT, "the next epoch", &site.dir, || site.serves()).await;
    // While no gate is there: what it closed and promised is unknown to the next one.
    drop(gate);
    std::fs::remove_file(site.dir.join("gate/rx.json")).unwrap();
    let _gate = site.start("run");
    within(LIMIT, "the stop", &site.dir, || !site.serves()).await;
    within(LIMIT, "closed is said", &site.dir, || {
        site.record().epoch == epoch(2) && world.agreed.lock().unwrap().closed.contains(&Site::A)
    })
    .await;
}
