//! What `bcp-collector decide` costs with many tickets, and whether a renewal is ever late.
//!
//! `cargo bench -p bcp-tests --bench decide -- [--tickets 500] [--seconds 60] [--timing metro|wide|fast]`
//!
//! Three collectors as real processes on this machine's disk; the gates of a and b renew all tickets by the real protocol
//! from this process. First decide alone: at rest, then while its leader is killed and another one elected. Then everything
//! that a site runs: at rest, and while page, history, event stream and broker of all three sites are flooded. Wants `cargo build
//! --release` (or `BCP_FLEET_BIN`), and strace for the number of fsyncs.

#[path = "decide/cost.rs"]
mod cost;
#[path = "decide/flood.rs"]
mod flood;
#[path = "decide/gates.rs"]
mod gates;
#[path = "decide/sites.rs"]
mod sites;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bcp_wire::Site;
use cost::{Traced, Watched};
use flood::Flood;
use gates::Gates;
use sites::Sites;

/// No renewal may take longer, whatever else happens.
const LATE: Duration = Duration::from_secs(2);
/// An election and what follows it.
const ELECTION: Duration = Duration::from_secs(10);
/// The ledger stands still for so long, looked at so often at most.
const SETTLED_FOR: Duration = Duration::from_secs(3);
const SETTLE_TRIES: usize = 20;
const DAY_S: f64 = 86_400.0;

fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|a| a != name).nth(1)
}

fn number(name: &str, default: u64) -> Result<u64> {
    argument(name)
        .map_or(Ok(default), |text| text.parse().with_context(|| format!("{name} takes a number, not `{text}`")))
}

fn main() -> ExitCode {
    // Losing the race to install one is as good as winning it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let done = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run()));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(fault) => {
            eprintln!("{fault:#}");
            ExitCode::FAILURE
        }
    }
}

struct Bench {
    tickets: usize,
    length: Duration,
    sites: Sites,
    gates: Gates,
}

/// True: no renewal was late while everything was flooded.
async fn run() -> Result<bool> {
    let tickets = usize::try_from(number("--tickets", 500)?)?;
    let length = Duration::from_secs(number("--seconds", 60)?.max(5));
    let timing = argument("--timing").unwrap_or_else(|| "metro".to_owned());
    let renew = match timing.as_str() {
        "metro" => Duration::from_secs(1),
        "wide" => Duration::from_secs(3),
        "fast" => Duration::from_millis(300),
        other => anyhow::bail!("--timing takes metro, wide or fast, not `{other}`"),
    };
    ensure!((1..=512).contains(&tickets), "a gate serves 1 to 512 tickets");
    // On the disk, not in memory: fsyncs are what is measured.
    let dir = std::env::temp_dir().join(format!("bcp-bench-decide-{}", std::process::id()));
    let mut sites = Sites::prepare(dir, tickets, &timing)?;
    println!("{tickets} tickets, {timing}, renewed every {renew:?}; {}", sites.dir().display());
    sites.start("decide")?;
    let gates = Gates::start(&sites, tickets, renew)?;
    let mut bench = Bench { tickets, length, sites, gates };
    println!("all held and renewed after {:?}", bench.gates.all_held(tickets).await?);
    bench.settled().await?;
    bench.rest("decide alone, at rest").await?;
    bench.election().await?;
    bench.sites.stop();
    bench.sites.start("run")?;
    bench.gates.all_held(tickets).await?;
    bench.sites.leader().await?;
    bench.settled().await?;
    bench.rest("all processes, at rest").await?;
    bench.flooded().await
}

impl Bench {
    /// No gate has anything left to do: nothing is written into the ledger for a while.
    async fn settled(&self) -> Result<()> {
        let entries = async || Ok::<_, anyhow::Error>(self.sites.status(Site::W).await?["ledger"]["seq"].as_u64());
        for _ in 0..SETTLE_TRIES {
            let before = entries().await?;
            tokio::time::sleep(SETTLED_FOR).await;
            if before == entries().await? {
                return Ok(());
            }
        }
        anyhow::bail!("the ledger grows and grows")
    }

    async fn rest(&self, title: &str) -> Result<()> {
        let before = self.sites.status(Site::W).await?;
        let (began, costs) = self.measured(self.length).await?;
        let after = self.sites.status(Site::W).await?;
        self.show(title, began, &costs).await?;
        let grown = |path: &[&str]| {
            let at = |status: &serde_json::Value| path.iter().fold(status.clone(), |at, key| at[key].clone()).as_u64();
            Some((at(&after)?.saturating_sub(at(&before)?)) as f64 / began.elapsed().as_secs_f64() * DAY_S)
        };
        println!(
            "  log entries a day {:.0} (cut behind each snapshot), ledger entries a day {:.0}, database now {:.1} MB",
            grown(&["index"]).unwrap_or(f64::NAN),
            grown(&["ledger", "seq"]).unwrap_or(f64::NAN),
            self.database_mb()
        );
        self.fsyncs(Duration::from_secs(10), async || Ok(())).await.map(|_| ())
    }

    async fn measured(&self, length: Duration) -> Result<(Instant, Vec<Watched>)> {
        let began = Instant::now();
        let watched = self.sites.decide_pids().into_iter().map(Watched::begin).collect::<Result<Vec<_>>>()?;
        tokio::time::sleep(length).await;
        Ok((began, watched))
    }

    async fn show(&self, title: &str, began: Instant, watched: &[Watched]) -> Result<Vec<gates::Asked>> {
        println!("\n{title}, {:.0} s:", began.elapsed().as_secs_f64());
        for watched in watched {
            let cost = watched.end()?;
            println!(
                "  decide {}: {:>5.1} % of a core, {:>6.1} MB, {:>7.1} kB/s to the disk ({:.1} GB a day)",
                cost.site,
                cost.cpu_percent,
                cost.rss_mb,
                cost.written_per_s / 1e3,
                cost.written_per_s * DAY_S / 1e9
            );
        }
        let asked = self.gates.since(began);
        println!("  {}", latency(&asked));
        Ok(asked)
    }

    fn database_mb(&self) -> f64 {
        let dir = self.sites.dir().join("w/data/decide");
        let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
        files.filter_map(|file| Some(file.metadata().ok()?.len() as f64 / 1e6)).sum()
    }

    /// Counted while `then` happens and for as long as told.
    async fn fsyncs(&self, length: Duration, then: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
        let traced: Vec<_> = self
            .sites
            .decide_pids()
            .into_iter()
            .map(|process| (process.0, Traced::begin(self.sites.dir(), process)))
            .collect();
        then().await?;
        tokio::time::sleep(length).await;
        for (site, traced) in traced {
            match traced {
                Some(traced) => println!("  decide {site}: {:.1} fsyncs a second (strace)", traced.end()?),
                None => println!("  decide {site}: fsyncs are not known, strace is not installed"),
            }
        }
        Ok(())
    }

    /// The leader is killed, and comes back afterwards. Twice, for strace would be seen in the first figures.
    async fn election(&mut self) -> Result<()> {
        let leader = self.sites.leader().await?;
        let began = Instant::now();
        self.sites.kill(leader)?;
        let (_, watched) = self.measured(ELECTION).await?;
        let asked = self.show(&format!("leader {leader} killed"), began, &watched).await?;
        println!("  renewals confirmed again after {:.2} s", again(began, &asked)?);
        println!("  now leads: {}", self.sites.leader().await?);
        self.sites.start_one(leader, "decide")?;
        self.gates.all_held(self.tickets).await?;
        let leader = self.sites.leader().await?;
        self.sites.kill(leader)?;
        println!("leader {leader} killed once more:");
        self.fsyncs(ELECTION, async || Ok(())).await?;
        self.sites.start_one(leader, "decide")?;
        self.gates.all_held(self.tickets).await?;
        Ok(())
    }

    async fn flooded(&self) -> Result<bool> {
        let flood = Flood::start()?;
        let (began, watched) = self.measured(self.length).await?;
        let said = flood.per_second(began.elapsed());
        let asked = self.show("page, history, event stream and broker of all sites flooded", began, &watched).await?;
        println!("  the flood: {said}");
        let late = asked.iter().filter(|(_, took)| took.is_none_or(|took| took > LATE)).count();
        println!("  renewals later than {LATE:?}: {late} (goal 0)");
        Ok(late == 0)
    }
}

/// From the kill until the first request after it was confirmed, seconds.
fn again(began: Instant, asked: &[gates::Asked]) -> Result<f64> {
    let ends = asked.iter().filter_map(|(sent, took)| Some(*sent + (*took)? - began));
    Ok(ends.min().context("no renewal was confirmed after the kill")?.as_secs_f64())
}

fn latency(asked: &[gates::Asked]) -> String {
    let mut took: Vec<Duration> = asked.iter().filter_map(|(_, took)| *took).collect();
    took.sort_unstable();
    let Some(most) = took.last() else { return "no renewal was confirmed".to_owned() };
    let at = |share: f64| took[((share * took.len() as f64).ceil() as usize).clamp(1, took.len()) - 1].as_millis();
    format!(
        "renewals: {} confirmed, {} not; median {} ms, p99 {} ms, max {} ms",
        took.len(),
        asked.len() - took.len(),
        at(0.5),
        at(0.99),
        most.as_millis()
    )
}
