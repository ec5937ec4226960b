//! Three decide processes in one, over real sockets and certificates, with links that can be cut.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bcp_collector::Shutdown;
use bcp_collector::config::Control;
use bcp_collector::decide::link::{Call, CallError, Contacts, HttpPeers, Peers};
use bcp_collector::decide::{DecideError, Setup, run_with};
use bcp_collector::shutdown::ShutdownTrigger;
use bcp_core::policy::{Policy, Timing};
use bcp_identity::{Credentials, Identity, http_client, pki};
use bcp_wire::Site;
use bcp_wire::control::{GateAnswer, GateSync, SyncOutcome};
use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Pairs of sites between which nothing passes, in the direction of the request.
type Cuts = Arc<Mutex<BTreeSet<(Site, Site)>>>;

#[derive(Debug)]
struct Switched {
    site: Site,
    inner: HttpPeers,
    cuts: Cuts,
}

impl Peers for Switched {
    fn call(&self, to: Site, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>> {
        if self.cuts.lock().unwrap().contains(&(self.site, to)) {
            return Box::pin(async move { Err(CallError::Unreachable { site: to, reason: "cut".to_owned() }) });
        }
        self.inner.call(to, call)
    }
}

struct Running {
    trigger: ShutdownTrigger,
    task: JoinHandle<Result<(), DecideError>>,
}

struct Trio {
    dir: PathBuf,
    cuts: Cuts,
    addresses: BTreeMap<Site, SocketAddr>,
    running: BTreeMap<Site, Running>,
    take_back_after: Duration,
    operator: Credentials,
    gate: Credentials,
}

impl Drop for Trio {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn issue(dir: &Path, text: &str) -> Credentials {
    pki::issue(dir, &text.parse().unwrap(), &["127.0.0.1".to_owned()]).unwrap()
}

impl Trio {
    async fn start(name: &str, take_back_after: Duration) -> Trio {
        let dir = std::env::temp_dir().join(format!("bcp-trio-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        pki::create_ca(&dir, "trio").unwrap();
        let mut trio = Trio {
            operator: issue(&dir, "operator:op-1"),
            gate: issue(&dir, "agent:a:host-a"),
            dir,
            cuts: Cuts::default(),
            addresses: BTreeMap::new(),
            running: BTreeMap::new(),
            take_back_after,
        };
        let mut listeners = Vec::new();
        for site in Site::ALL {
            issue(&trio.dir, &format!("collector:{site}"));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            trio.addresses.insert(site, listener.local_addr().unwrap());
            listeners.push((site, listener));
        }
        for (site, listener) in listeners {
            trio.run(site, listener);
        }
        trio
    }

    fn run(&mut self, site: Site, listener: TcpListener) {
        let credentials = Credentials::in_dir(&self.dir, &Identity::Collector { site });
        let peers =
            site.others().into_iter().map(|other| (other, format!("https://{}", self.addresses[&other]))).collect();
        let contacts = Arc::new(Contacts::default());
        let control = Control { credentials: credentials.clone(), peers };
        let inner = HttpPeers::new(&control, Arc::clone(&contacts)).unwrap();
        let peers: Arc<dyn Peers> = Arc::new(Switched { site, inner, cuts: Arc::clone(&self.cuts) });
        let (trigger, shutdown) = Shutdown::manual();
        let (dir, take_back_after) = (self.dir.join(site.as_str()), self.take_back_after);
        let task = tokio::spawn(async move {
            let policy = Policy {
                timing: Timing::METRO,
                tickets: BTreeMap::new(),
                services: BTreeMap::new(),
                sites: BTreeMap::new(),
                pools: BTreeMap::new(),
            };
            let setup = Setup { site, dir: &dir, policy, credentials: &credentials, take_back_after };
            run_with(setup, listener, peers, contacts, shutdown).await
        });
        self.running.insert(site, Running { trigger, task });
    }

    async fn stop(&mut self, site: Site) {
        let running = self.running.remove(&site).unwrap();
        running.trigger.request();
        tokio::time::timeout(Duration::from_secs(3), running.task).await.expect("stops within 3 s").unwrap().unwrap();
    }

    async fn restart(&mut self, site: Site) {
        let listener = TcpListener::bind(self.addresses[&site]).await.unwrap();
        self.run(site, listener);
    }

    fn cut(&self, from: Site, to: Site) {
        self.cuts.lock().unwrap().insert((from, to));
        self.cuts.lock().unwrap().insert((to, from));
    }

    fn heal(&self) {
        self.cuts.lock().unwrap().clear();
    }

    fn client(&self, as_: &Credentials, site: Site) -> reqwest::Client {
        http_client(as_, &Identity::Collector { site }, Duration::from_secs(5)).unwrap()
    }

    async fn status(&self, site: Site) -> Option<Value> {
        let url = format!("https://{}/control/v1/status", self.addresses[&site]);
        self.client(&self.operator, site).get(url).send().await.ok()?.json().await.ok()
    }

    async fn leader_seen_by(&self, site: Site) -> Option<Site> {
        let status = self.status(site).await?;
        status["standing"]["leader"].as_str().and_then(|leader| leader.parse().ok())
    }

    async fn term(&self, site: Site) -> u64 {
        self.status(site).await.unwrap()["standing"]["term"].as_u64().unwrap()
    }

    /// Until every running node follows `leader`, or any one leader.
    async fn agree_on(&self, leader: Option<Site>, limit: Duration) -> Site {
        let start = Instant::now();
        loop {
            let mut seen = BTreeSet::new();
            for site in self.running.keys() {
                seen.insert(self.leader_seen_by(*site).await);
            }
            if let (1, Some(Some(found))) = (seen.len(), seen.first())
                && leader.is_none_or(|leader| leader == *found)
            {
                return *found;
            }
            assert!(start.elapsed() < limit, "no agreement on {leader:?} within {limit:?}: {seen:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn sync(&self, to: Site, nonce: u64) -> GateAnswer {
        let sync = GateSync { site: Site::A, gate: "host-a".parse().unwrap(), nonce, seq: nonce, tickets: Vec::new() };
        let url = format!("https://{}/control/v1/sync", self.addresses[&to]);
        self.client(&self.gate, to).post(url).json(&sync).send().await.unwrap().json().await.unwrap()
    }

    async fn operator_asks(&self, of: Site, path: &str) -> reqwest::StatusCode {
        let url = format!("https://{}{path}", self.addresses[&of]);
        // A node that is let in learns the log first.
        let request = self.client(&self.operator, of).post(url).timeout(Duration::from_secs(40));
        request.send().await.unwrap().status()
    }

    async fn stop_all(&mut self) {
        for site in Site::ALL {
            if self.running.contains_key(&site) {
                self.stop(site).await;
            }
        }
    }
}

const ELECTION: Duration = Duration::from_secs(8);
const NEVER: Duration = Duration::from_secs(3_600);

fn confirmed(answer: &GateAnswer) -> bool {
    matches!(answer.outcome, SyncOutcome::Confirmed { .. })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w_founds_and_leads_and_every_collector_confirms() {
    let mut trio = Trio::start("found", NEVER).await;
    assert_eq!(trio.agree_on(None, ELECTION).await, Site::W);
    for (nonce, site) in Site::ALL.into_iter().enumerate() {
        let answer = trio.sync(site, nonce as u64).await;
        assert!(confirmed(&answer), "{answer:?}");
        assert_eq!((answer.collector, answer.nonce), (site, nonce as u64));
    }
    // Renewals ride on ticks: a tick, an append and a little more.
    let client = trio.client(&trio.gate, Site::W);
    let mut worst = Duration::ZERO;
    for nonce in 0..20 {
        let sync = GateSync { site: Site::A, gate: "host-a".parse().unwrap(), nonce, seq: nonce, tickets: Vec::new() };
        let start = Instant::now();
        let url = format!("https://{}/control/v1/sync", trio.addresses[&Site::W]);
        client.post(url).json(&sync).send().await.unwrap().error_for_status().unwrap();
        worst = worst.max(start.elapsed());
    }
    assert!(worst < Duration::from_secs(1), "a renewal took {worst:?}");
    println!("worst of 20 renewals: {worst:?}");
    trio.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identities_are_checked() {
    let mut trio = Trio::start("identity", NEVER).await;
    trio.agree_on(None, ELECTION).await;
    let base = format!("https://{}", trio.addresses[&Site::A]);
    let status = |credentials: &Credentials, request: fn(&reqwest::Client, &str) -> reqwest::RequestBuilder| {
        let request = request(&trio.client(credentials, Site::A), &base);
        async move { request.send().await.unwrap().status().as_u16() }
    };
    let sync_as_b = |client: &reqwest::Client, base: &str| {
        let sync = GateSync { site: Site::B, gate: "host-b".parse().unwrap(), nonce: 1, seq: 1, tickets: Vec::new() };
        client.post(format!("{base}/control/v1/sync")).json(&sync)
    };
    assert_eq!(status(&trio.gate, sync_as_b).await, 403, "a gate speaks only for itself");
    let on_behalf = |client: &reqwest::Client, base: &str| {
        let sync = GateSync { site: Site::B, gate: "host-b".parse().unwrap(), nonce: 1, seq: 1, tickets: Vec::new() };
        client.post(format!("{base}/control/v1/sync")).header("x-bcp-for", "agent:b:host-b").json(&sync)
    };
    assert_eq!(status(&trio.gate, on_behalf).await, 403, "only collectors pass on");
    let read_state = |client: &reqwest::Client, base: &str| client.get(format!("{base}/control/v1/state"));
    assert_eq!(status(&trio.gate, read_state).await, 403);
    assert_eq!(status(&trio.operator, read_state).await, 200);
    let propose = |client: &reqwest::Client, base: &str| client.post(format!("{base}/control/v1/propose")).body("[]");
    assert_eq!(status(&trio.operator, propose).await, 403, "operators command, they do not vote");
    let vote = |client: &reqwest::Client, base: &str| client.post(format!("{base}/raft/v1/vote")).body("{}");
    assert_eq!(status(&trio.operator, vote).await, 403);
    trio.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_leader_is_replaced_and_takes_leadership_back() {
    let mut trio = Trio::start("replace", Duration::from_secs(3)).await;
    trio.agree_on(Some(Site::W), ELECTION).await;
    trio.stop(Site::W).await;
    let start = Instant::now();
    while trio.leader_seen_by(Site::A).await.is_none_or(|leader| leader == Site::W) {
        assert!(start.elapsed() < ELECTION, "a and b choose another");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let next = trio.agree_on(None, ELECTION).await;
    println!("{next} leads {:?} after w stopped", start.elapsed());
    assert_ne!(next, Site::W);
    assert!(confirmed(&trio.sync(Site::A, 1).await));
    trio.restart(Site::W).await;
    trio.agree_on(Some(Site::W), Duration::from_secs(15)).await;
    assert!(confirmed(&trio.sync(Site::B, 2).await));
    trio.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_three_come_back_from_disk() {
    let mut trio = Trio::start("disk", NEVER).await;
    trio.agree_on(None, ELECTION).await;
    assert!(confirmed(&trio.sync(Site::A, 1).await));
    let before = trio.status(Site::W).await.unwrap()["index"].as_u64().unwrap();
    trio.stop_all().await;
    for site in Site::ALL {
        trio.restart(site).await;
    }
    trio.agree_on(None, ELECTION).await;
    let answer = trio.sync(Site::B, 2).await;
    let SyncOutcome::Confirmed { index, .. } = answer.outcome else { panic!("{answer:?}") };
    assert!(index > before, "the log goes on: {index} after {before}");
    trio.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_between_a_and_b_moves_nothing() {
    let mut trio = Trio::start("cut-ab", Duration::from_secs(3)).await;
    trio.agree_on(Some(Site::W), ELECTION).await;
    let term = trio.term(Site::W).await;
    trio.cut(Site::A, Site::B);
    let start = Instant::now();
    let mut nonce = 0;
    while start.elapsed() < Duration::from_secs(6) {
        for site in Site::ALL {
            nonce += 1;
            assert!(confirmed(&trio.sync(site, nonce).await), "every collector still confirms");
            assert_eq!(trio.leader_seen_by(site).await, Some(Site::W));
        }
    }
    trio.heal();
    tokio::time::sleep(Duration::from_secs(2)).await;
    for site in Site::ALL {
        assert_eq!(trio.term(site).await, term, "no election, before or after the heal");
    }
    trio.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_isolated_node_asks_for_no_votes_and_an_isolated_leader_steps_aside() {
    let mut trio = Trio::start("isolate", NEVER).await;
    trio.agree_on(Some(Site::W), ELECTION).await;
    let term = trio.term(Site::W).await;
    trio.cut(Site::A, Site::B);
    trio.cut(Site::A, Site::W);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(trio.leader_seen_by(Site::A).await, None);
    assert_eq!(trio.term(Site::A).await, term, "an isolated node raises no term");
    assert!(!confirmed(&trio.sync(Site::A, 1).await), "no leader is no answer");
    assert!(confirmed(&trio.sync(Site::B, 2).await), "the majority goes on");
    trio.heal();
    trio.agree_on(Some(Site::W), ELECTION).await;
    assert_eq!(trio.term(Site::W).await, term);
    // Now the leader itself.
    trio.cut(Site::W, Site::A);
    trio.cut(Site::W, Site::B);
    let start = Instant::now();
    while trio.leader_seen_by(Site::W).await.is_some() {
        assert!(start.elapsed() < Duration::from_secs(4), "an isolated leader steps aside");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("w stepped aside after {:?}", start.elapsed());
    while trio.leader_seen_by(Site::A).await.is_none_or(|leader| leader == Site::W) {
        assert!(start.elapsed() < ELECTION, "a and b choose another");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("another led after {:?}", start.elapsed());
    trio.heal();
    trio.agree_on(None, ELECTION).await;
    trio.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_links_cut_for_a_while_heal_without_help() {
    let mut trio = Trio::start("all-cut", NEVER).await;
    trio.agree_on(Some(Site::W), ELECTION).await;
    trio.cut(Site::A, Site::B);
    trio.cut(Site::A, Site::W);
    trio.cut(Site::B, Site::W);
    tokio::time::sleep(Duration::from_secs(4)).await;
    for site in Site::ALL {
        assert_eq!(trio.leader_seen_by(site).await, None);
    }
    trio.heal();
    trio.agree_on(None, ELECTION).await;
    assert!(confirmed(&trio.sync(Site::A, 9).await));
    trio.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_disk_with_the_same_id_is_refused() {
    let mut trio = Trio::start("wiped", NEVER).await;
    trio.agree_on(Some(Site::W), ELECTION).await;
    trio.stop(Site::B).await;
    std::fs::remove_dir_all(trio.dir.join("b")).unwrap();
    trio.restart(Site::B).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(trio.leader_seen_by(Site::B).await, None, "it is no member any more");
    assert!(confirmed(&trio.sync(Site::A, 1).await), "the two others go on");
    // Its vote must not count: with w gone, a alone is no quorum.
    trio.stop(Site::W).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(trio.leader_seen_by(Site::A).await, None, "the wiped node does not vote");
    trio.stop_all().await;
}

const ADMIT_B: &str = "/control/v1/admit?site=b";

impl Trio {
    /// Until a request is confirmed at `site`.
    async fn goes_on(&self, site: Site, nonce: u64) {
        let start = Instant::now();
        while !confirmed(&self.sync(site, nonce).await) {
            assert!(start.elapsed() < Duration::from_secs(15), "nothing is confirmed at {site}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn comes_back_empty(&mut self, site: Site) {
        self.stop(site).await;
        let dir = self.dir.join(site.as_str());
        // A process that ends closes its files; here all three are one.
        let start = Instant::now();
        let is_open = |dir: &Path| {
            let files = std::fs::read_dir("/proc/self/fd").unwrap();
            files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok()).any(|file| file.starts_with(dir))
        };
        while is_open(&dir) {
            assert!(start.elapsed() < Duration::from_secs(20), "the files of {site} stay open");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        std::fs::remove_dir_all(dir).unwrap();
        self.restart(site).await;
        // It has introduced itself to both, and both have refused it.
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(self.leader_seen_by(site).await, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_disk_is_let_in_again_by_an_operator_and_counts_then() {
    let mut trio = Trio::start("readmit", NEVER).await;
    trio.agree_on(Some(Site::W), ELECTION).await;
    assert_ne!(trio.operator_asks(Site::W, ADMIT_B).await, 200, "nobody new is there");
    trio.comes_back_empty(Site::B).await;
    trio.goes_on(Site::A, 1).await;
    assert_ne!(trio.operator_asks(Site::W, "/control/v1/admit?site=w").await, 200, "not itself");
    // Asked of one that follows, it is passed on.
    assert_eq!(trio.operator_asks(Site::A, ADMIT_B).await, 200);
    trio.agree_on(Some(Site::W), Duration::from_secs(15)).await;
    trio.goes_on(Site::B, 2).await;
    let index = trio.status(Site::W).await.unwrap()["index"].as_u64().unwrap();
    // With a gone, w and the new disk of b are a quorum.
    trio.stop(Site::A).await;
    trio.goes_on(Site::W, 3).await;
    // With w gone and a back, b's vote counts; and it has what it learnt, on its disk too.
    trio.restart(Site::A).await;
    trio.agree_on(Some(Site::W), Duration::from_secs(15)).await;
    trio.stop(Site::B).await;
    trio.restart(Site::B).await;
    trio.agree_on(Some(Site::W), Duration::from_secs(15)).await;
    trio.stop(Site::W).await;
    trio.goes_on(Site::B, 4).await;
    for site in [Site::A, Site::B] {
        assert!(trio.status(site).await.unwrap()["index"].as_u64().unwrap() > index);
    }
    trio.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_of_w_is_let_in_again_and_w_leads_again() {
    let mut trio = Trio::start("readmit-w", Duration::from_secs(3)).await;
    trio.agree_on(Some(Site::W), ELECTION).await;
    trio.comes_back_empty(Site::W).await;
    trio.goes_on(Site::A, 1).await;
    let asked = Instant::now();
    while trio.operator_asks(Site::B, "/control/v1/admit?site=w").await != 200 {
        assert!(asked.elapsed() < Duration::from_secs(30), "w is not let in");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    trio.agree_on(Some(Site::W), Duration::from_secs(20)).await;
    trio.goes_on(Site::W, 2).await;
    trio.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_one_of_the_others_is_away_no_disk_is_let_in() {
    let mut trio = Trio::start("readmit-not", NEVER).await;
    trio.agree_on(Some(Site::W), ELECTION).await;
    trio.stop(Site::A).await;
    trio.comes_back_empty(Site::B).await;
    for site in [Site::W, Site::B] {
        assert_ne!(trio.operator_asks(site, ADMIT_B).await, 200, "it would be a quorum with a node that forgot");
    }
    // The other one is back: then it goes.
    trio.restart(Site::A).await;
    trio.goes_on(Site::A, 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(trio.operator_asks(Site::A, ADMIT_B).await, 200);
    trio.goes_on(Site::B, 2).await;
    trio.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_found_the_cluster_when_an_operator_says_so_and_the_third_joins() {
    let mut trio = Trio::start("bootstrap", NEVER).await;
    trio.stop(Site::A).await;
    for site in Site::ALL {
        if site != Site::A {
            trio.stop(site).await;
        }
        let _ = std::fs::remove_dir_all(trio.dir.join(site.as_str()));
    }
    trio.restart(Site::B).await;
    trio.restart(Site::W).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(trio.leader_seen_by(Site::W).await, None, "two do not found it by themselves");
    assert_eq!(trio.operator_asks(Site::B, "/control/v1/bootstrap").await, 200);
    trio.agree_on(None, Duration::from_secs(15)).await;
    assert!(confirmed(&trio.sync(Site::W, 1).await));
    trio.restart(Site::A).await;
    trio.agree_on(None, Duration::from_secs(15)).await;
    assert!(confirmed(&trio.sync(Site::A, 2).await));
    trio.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_the_beginning_of_a_new_log() {
    use bcp_collector::decide::restore::{Backup, RestoreError, restore};
    use bcp_core::replica::Replica;
    use bcp_core::time::Wall;
    let mut trio = Trio::start("restore", NEVER).await;
    trio.agree_on(None, ELECTION).await;
    assert!(confirmed(&trio.sync(Site::A, 1).await));
    let url = format!("https://{}/control/v1/state", trio.addresses[&Site::A]);
    let state: Value = trio.client(&trio.operator, Site::A).get(url).send().await.unwrap().json().await.unwrap();
    let replica: Replica = serde_json::from_value(state["replica"].clone()).unwrap();
    let index = replica.index;
    let file = trio.dir.join("backup");
    std::fs::write(&file, serde_json::to_vec(&Backup::of(replica, Wall(0))).unwrap()).unwrap();
    trio.stop_all().await;
    let now = Wall(1_790_000_000_000);
    let refused = restore(Site::A, &trio.dir.join("a"), &file, now).await;
    assert!(matches!(refused, Err(RestoreError::Exists { .. })), "a database is never overwritten: {refused:?}");
    for site in Site::ALL {
        std::fs::remove_dir_all(trio.dir.join(site.as_str())).unwrap();
    }
    assert_eq!(restore(Site::A, &trio.dir.join("a"), &file, now).await.unwrap(), 1_790_000_000);
    for site in Site::ALL {
        trio.restart(site).await;
    }
    trio.agree_on(None, Duration::from_secs(20)).await;
    for site in Site::ALL {
        assert!(confirmed(&trio.sync(site, 9).await), "{site}");
        assert!(trio.status(site).await.unwrap()["index"].as_u64().unwrap() > index, "the log goes on at {site}");
    }
    trio.stop_all().await;
}
