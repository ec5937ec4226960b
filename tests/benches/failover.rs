//! How long a failover takes, with real processes and Debian's HAProxy in front of the demo service.
//!
//! `cargo bench -p bcp-tests --bench failover -- [--runs 30] [--timing metro|wide|fast] [--parallel 1] [--only loss|isolation]`
//!
//! Every run has two fleets of its own, for after an automatic move a ticket stays where it is for an hour. In the first
//! one the service is moved to b and back as operators do (`fleet ctl move`), then site a is killed. In the second one a is cut
//! from b and w. Users ask HAProxy every 20 ms; times count from before the order is given. After each run the gates' own
//! logs must show that never two sides were active at once. Wants `cargo build --release` (or `BCP_FLEET_BIN`).

#[path = "failover/figures.rs"]
mod figures;
#[path = "failover/users.rs"]
mod users;

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use bcp_tests::gatelog::{self, Interval};
use bcp_tests::{Fleet, Options, wait_for};
use bcp_wire::Site;
use figures::{Figures, What};
use tokio::task::{JoinSet, block_in_place};
use users::{Balancer, User};

/// First fleet; each further one in parallel is 1,000 above.
const BASE_PORT: u16 = 20_000;
const PARALLEL_MAX: u16 = 8;
/// Anything that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(120);
const PAGE_EVERY: Duration = Duration::from_millis(50);
/// What happened before is on the page by then: checks, votes of three sites and a publication.
const PAGE_STEADY: Duration = Duration::from_secs(6);
/// What the head of the public page has in it while all services work.
const ALL_WELL: &str = "class=\"head up\"";

fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|a| a != name).nth(1)
}

fn number(name: &str, default: u16) -> Result<u16> {
    argument(name)
        .map_or(Ok(default), |text| text.parse().with_context(|| format!("{name} takes a number, not `{text}`")))
}

#[derive(Debug, Clone)]
struct Plan {
    timing: String,
    loss: bool,
    isolation: bool,
}

fn main() -> ExitCode {
    let plan = || -> Result<_> {
        let timing = argument("--timing").unwrap_or_else(|| "metro".to_owned());
        ensure!(["metro", "wide", "fast"].contains(&timing.as_str()), "--timing takes metro, wide or fast");
        let (loss, isolation) = match argument("--only").as_deref() {
            None => (true, true),
            Some("loss") => (true, false),
            Some("isolation") => (false, true),
            Some(other) => bail!("--only takes loss or isolation, not `{other}`"),
        };
        let (runs, parallel) = (number("--runs", 30)?, number("--parallel", 1)?);
        ensure!(runs > 0 && (1..=PARALLEL_MAX).contains(&parallel), "at least one run, one to eight in parallel");
        Ok((Plan { timing, loss, isolation }, runs, parallel))
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(8).enable_all().build();
    let done = match (plan(), runtime) {
        (Ok((plan, runs, parallel)), Ok(runtime)) => runtime.block_on(all(&plan, runs, parallel)),
        (Err(fault), _) => Err(fault),
        (_, Err(fault)) => Err(fault.into()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(fault) => {
            eprintln!("{fault:#}");
            ExitCode::FAILURE
        }
    }
}

/// True: every run went through, and every goal was met.
async fn all(plan: &Plan, runs: u16, parallel: u16) -> Result<bool> {
    println!("{runs} runs, {parallel} at a time, timing {}", plan.timing);
    let (mut figures, mut failed) = (Figures::default(), 0);
    let mut running = JoinSet::new();
    let mut free: Vec<u16> = (0..parallel).collect();
    let mut next = 0;
    while next < runs || !running.is_empty() {
        while next < runs
            && let Some(slot) = free.pop()
        {
            let plan = plan.clone();
            next += 1;
            let number = next;
            running.spawn(async move { (slot, number, run(&plan, BASE_PORT + 1_000 * slot).await) });
        }
        let Some(ended) = running.join_next().await else { break };
        let (slot, number, result) = ended?;
        free.push(slot);
        match result {
            Ok(of_run) => {
                println!("run {number:>3}: {}", of_run.brief());
                figures.merge(of_run);
            }
            Err(fault) => {
                failed += 1;
                println!("run {number:>3}: FAILED: {fault:#}");
            }
        }
    }
    let met = figures.print(&plan.timing);
    println!("{failed} of {runs} runs failed; two active sides: never in a run that did not fail");
    Ok(met && failed == 0)
}

async fn run(plan: &Plan, base_port: u16) -> Result<Figures> {
    let mut figures = Figures::default();
    if plan.loss {
        let scene = Scene::begin(plan, base_port).await?;
        scene.switchover(Site::B, &mut figures).await.context("planned, to b")?;
        scene.switchover(Site::A, &mut figures).await.context("planned, back to a")?;
        scene.loss(&mut figures).await.context("site loss")?;
    }
    if plan.isolation {
        let scene = Scene::begin(plan, base_port).await?;
        scene.isolation(&mut figures).await.context("isolated holder")?;
    }
    Ok(figures)
}

/// A fleet with users in front of it.
struct Scene {
    // Users end before what they use.
    user: User,
    _balancer: Balancer,
    fleet: Fleet,
}

impl Scene {
    async fn begin(plan: &Plan, base_port: u16) -> Result<Scene> {
        let args = vec!["--timing".to_owned(), plan.timing.clone()];
        let fleet = Fleet::up(Options { base_port, args }).await?;
        let balancer = Balancer::start(&fleet)?;
        let scene = Scene { user: User::start(&fleet)?, _balancer: balancer, fleet };
        scene.settled(Site::A).await?;
        Ok(scene)
    }

    fn order(&self, args: &[&str]) -> Result<()> {
        block_in_place(|| self.fleet.cli(args)).map(|_| ())
    }

    /// Held by `site`, nothing moves, it could move again at once, and users are served.
    async fn settled(&self, site: Site) -> Result<()> {
        let is_settled = async || {
            let ticket = self.fleet.ticket(Site::W, "prescriptions").await.ok()?;
            let here = ticket["holder"] == site.as_str() && ticket["phase"] == "held";
            (here && ticket["stage"].is_null() && ticket["can_failover_now"]["ok"] == true).then_some(())
        };
        wait_for("the ticket to be settled and the other copy in sync", LIMIT, is_settled).await?;
        let page = async || self.fleet.text(self.fleet.port(Site::W, 0), "/en/").await.ok();
        let well_since = Mutex::new(None::<Instant>);
        let is_well = async || {
            let says_so = page().await.is_some_and(|page| page.contains(ALL_WELL));
            let mut since = well_since.lock().unwrap_or_else(PoisonError::into_inner);
            *since = says_so.then(|| since.unwrap_or_else(Instant::now));
            since.filter(|since| since.elapsed() >= PAGE_STEADY).map(drop)
        };
        wait_for("the public page to say for a while that all is well", LIMIT, is_well).await?;
        self.user.served_by(site, Instant::now(), LIMIT).await?;
        Ok(())
    }

    async fn switchover(&self, to: Site, figures: &mut Figures) -> Result<()> {
        let began = Instant::now();
        self.order(&["ctl", "move", "prescriptions", "--to", to.as_str(), "--reason", "measured"])?;
        self.user.served_by(to, began, LIMIT).await?;
        self.settled(to).await?;
        figures.add(What::SwitchoverGap, self.user.longest_gap(began));
        Ok(())
    }

    async fn loss(&self, figures: &mut Figures) -> Result<()> {
        let (began, began_wall, began_boot) = (Instant::now(), wall_ms(), gatelog::boot_ms());
        let page = tokio::spawn(self.page_of_w());
        self.order(&["kill", "a"])?;
        let served = self.user.served_by(Site::B, began, LIMIT).await?;
        let (changed, well) = page.await??;
        figures.add(What::LossToGrant, self.effective_after(began_wall).await?);
        figures.add(What::LossToService, served - began);
        figures.add(What::LossToPage, changed - began);
        figures.add(What::LossToPageWell, well - began);
        self.never_two(Some(began_boot))
    }

    async fn isolation(&self, figures: &mut Figures) -> Result<()> {
        let began = Instant::now();
        self.order(&["cut", "a-b"])?;
        self.order(&["cut", "a-w"])?;
        let health = self.fleet.port(Site::A, 11);
        let stopped = async || (self.fleet.status(health, "/health").await != Some(200)).then(Instant::now);
        let (stopped, _) = wait_for("the service at a to stop", LIMIT, stopped).await?;
        let served = self.user.served_by(Site::B, began, LIMIT).await?;
        figures.add(What::IsolatedStopped, stopped - began);
        figures.add(What::IsolatedToService, served - began);
        self.never_two(None)
    }

    /// When the page of w says first that not all is well, and when it says again that it is.
    fn page_of_w(&self) -> impl Future<Output = Result<(Instant, Instant)>> + use<> {
        let url = format!("http://127.0.0.1:{}/en/", self.fleet.port(Site::W, 0));
        async move {
            let client = reqwest::Client::builder().timeout(LIMIT).no_proxy().build()?;
            let (began, mut changed) = (Instant::now(), None);
            let mut pace = tokio::time::interval(PAGE_EVERY);
            while began.elapsed() < LIMIT {
                pace.tick().await;
                let Ok(answer) = client.get(&url).send().await else { continue };
                let Ok(page) = answer.text().await else { continue };
                match (changed, page.contains(ALL_WELL)) {
                    (None, false) => changed = Some(Instant::now()),
                    (Some(changed), true) => return Ok((changed, Instant::now())),
                    (None, true) | (Some(_), false) => {}
                }
            }
            bail!("the public page of w did not change, or not back, within {LIMIT:?}")
        }
    }

    /// From then until the tick that made the grant to b effective, by its own time.
    async fn effective_after(&self, began_wall: i64) -> Result<Duration> {
        let effective = async || {
            let page = self.fleet.api(Site::W, "ledger?limit=200").await.ok()?;
            page["ledger"].as_array()?.iter().find_map(|entry| {
                let event = &entry["what"]["event"];
                let is_it =
                    event["event"] == "effective" && event["ticket"] == "prescriptions" && event["holder"] == "b";
                entry["wall"].as_i64().filter(|at| is_it && *at >= began_wall)
            })
        };
        let (at, _) = wait_for("the grant in the ledger", LIMIT, effective).await?;
        Ok(Duration::from_millis(u64::try_from(at - began_wall)?))
    }

    /// `dead_since`: site a was killed then, and its log says nothing of that.
    fn never_two(&self, dead_since: Option<u64>) -> Result<()> {
        let now = gatelog::boot_ms();
        let mut all: Vec<Interval> = Vec::new();
        for site in [Site::A, Site::B] {
            let file = self.fleet.data_dir().join(format!("{site}/host-{site}/gate/gate.log.jsonl"));
            let open_until = if site == Site::A { dead_since.unwrap_or(now) } else { now };
            all.extend(gatelog::intervals(site.as_str(), &file, "prescriptions", open_until)?);
        }
        gatelog::never_two_at_once(all)
    }
}

fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
