//! A fleet for one scenario, and what its gates and visitors saw.
//!
//! Moves and stops are counted from what the gates themselves wrote down. A side that lost its power was not stopped.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bcp_tests::gatelog::{self, Interval};
use bcp_tests::{Disk, Fleet, Options, hold_for, wait_for};
use bcp_wire::Site;
use serde_json::Value;

use super::Scenario;

pub const SECOND: Duration = Duration::from_secs(1);
/// Anything that takes longer has failed.
pub const LIMIT: Duration = Duration::from_secs(90);
pub const TICKET: &str = "prescriptions";
/// The sites with gates.
const SIDES: [Site; 2] = [Site::A, Site::B];
/// Exit code of an actuator that refuses an order.
const VETO: i32 = 20;

#[derive(Debug)]
pub struct Stage {
    pub fleet: Fleet,
    /// After the fleet: it has to end before its disk goes.
    pub disks: Vec<(Site, Disk)>,
    /// When a site lost its power, on the clock of the gates.
    lost: RefCell<Vec<(Site, u64)>>,
    /// People forced a stale copy: what it lacks is gone.
    is_loss_accepted: Cell<bool>,
}

/// How often the service moved, and how often a side was stopped.
#[derive(Debug, Clone)]
pub struct Account {
    pub moves: usize,
    pub stops: usize,
    pub intervals: Vec<Interval>,
}

/// What is known of a scenario at its end.
#[derive(Debug, Clone)]
pub struct Ended {
    pub account: Account,
    pub longest_gap_ms: Option<u64>,
    /// What must never be, and was.
    pub fault: Option<String>,
}

impl Stage {
    /// Starts the fleet and waits until it could move. None where a disk cannot be mounted.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn set(scenario: &Scenario, base_port: u16) -> Result<Option<Stage>> {
        let options = Options { base_port, args: scenario.args.iter().map(|arg| (*arg).to_owned()).collect() };
        let data_dir = Fleet::dir(&options);
        let _ = std::fs::remove_dir_all(&data_dir);
        std::fs::create_dir_all(&data_dir)?;
        let mut disks = Vec::new();
        for (site, kind) in scenario.disks {
            match Disk::mount(&data_dir.join(format!("{site}/collector/decide")), *kind) {
                Ok(disk) => disks.push((*site, disk)),
                Err(fault) => {
                    println!("{}: {fault:#}", scenario.number);
                    return Ok(None);
                }
            }
        }
        let fleet = Fleet::up_in(data_dir, options).await?;
        let stage = Stage { fleet, disks, lost: RefCell::default(), is_loss_accepted: Cell::new(false) };
        stage.ready(Site::A).await?;
        Ok(Some(stage))
    }

    /// Active there, and the other side could take over.
    pub async fn ready(&self, site: Site) -> Result<()> {
        let what = format!("{TICKET} at {site} and able to move");
        let ready = async || {
            let ticket = self.fleet.ticket(Site::W, TICKET).await.ok()?;
            (ticket["can_failover_now"]["ok"] == true && self.is_active(site).await).then_some(())
        };
        wait_for(&what, LIMIT, ready).await?;
        Ok(())
    }

    pub fn order(&self, args: &[&str]) -> Result<()> {
        self.fleet.cli(args).map(drop)
    }

    pub fn disk(&self, site: Site) -> Result<&Disk> {
        let found = self.disks.iter().find(|(at, _)| *at == site);
        found.map(|(_, disk)| disk).with_context(|| format!("{site} has no disk of its own"))
    }

    /// As in a power cut.
    pub fn lose(&self, site: Site) -> Result<Instant> {
        let began = Instant::now();
        self.lost.borrow_mut().push((site, gatelog::boot_ms()));
        self.order(&["kill", site.as_str()])?;
        Ok(began)
    }

    /// Cuts a site off from both others, in both directions.
    pub fn isolate(&self, site: Site) -> Result<Instant> {
        let began = Instant::now();
        site.others().into_iter().try_for_each(|other| self.order(&["cut", &format!("{site}-{other}")]))?;
        Ok(began)
    }

    pub fn accept_loss(&self) {
        self.is_loss_accepted.set(true);
    }

    pub fn heal(&self) -> Result<()> {
        self.order(&["heal"])
    }

    pub async fn is_active(&self, site: Site) -> bool {
        self.fleet.status(self.fleet.port(site, 11), "/health").await == Some(200)
    }

    /// How long it took since `began` until the service answers there.
    pub async fn until_active(&self, site: Site, began: Instant) -> Result<Duration> {
        let active = async || self.is_active(site).await.then_some(());
        wait_for(&format!("{TICKET} to be active at {site}"), LIMIT, active).await?;
        Ok(began.elapsed())
    }

    /// From `since` (boot clock) until a gate or warden of `site` had verified that its side stopped.
    pub async fn until_stopped(&self, site: Site, since: u64) -> Result<Duration> {
        let stopped = async || {
            let found = self.intervals(site).ok()?;
            found.iter().map(|interval| interval.until).find(|until| (since..u64::MAX).contains(until))
        };
        let (at, _) = wait_for(&format!("the side at {site} to be stopped"), LIMIT, stopped).await?;
        Ok(Duration::from_millis(at - since))
    }

    pub async fn until_held(&self, from: Site, by: Site) -> Result<()> {
        let held = async || {
            let ticket = self.fleet.ticket(from, TICKET).await.ok()?;
            (ticket["holder"] == by.as_str() && ticket["phase"] == "held").then_some(())
        };
        wait_for(&format!("the ticket held by {by}, as {from} sees it"), LIMIT, held).await?;
        Ok(())
    }

    pub async fn epoch(&self, from: Site) -> Result<String> {
        let ticket = self.fleet.ticket(from, TICKET).await?;
        Ok(ticket["epoch"].as_str().context("the ticket has an epoch")?.to_owned())
    }

    /// What keeps the ticket from moving, as one text.
    pub async fn reasons(&self, from: Site) -> Option<String> {
        let ticket = self.fleet.ticket(from, TICKET).await.ok()?;
        let can = &ticket["can_failover_now"];
        (can["ok"] == false).then(|| can["reasons"].to_string())
    }

    /// Who leads the log, as this site sees it.
    pub async fn leader(&self, from: Site) -> Option<String> {
        let cluster = self.fleet.api(from, "cluster").await.ok()?;
        Some(cluster["leader"].as_str()?.to_owned())
    }

    /// Active alarms by their names.
    pub async fn alarms(&self, from: Site) -> Result<BTreeSet<String>> {
        let all = self.fleet.api(from, "alarms").await?;
        let active = all["alarms"].as_array().into_iter().flatten().filter(|alarm| alarm["active"] == true);
        Ok(active.filter_map(|alarm| alarm["id"].as_str().map(str::to_owned)).collect())
    }

    pub async fn until_alarm(&self, from: Site, name: &str) -> Result<()> {
        let on = async || self.alarms(from).await.ok().filter(|all| all.contains(name));
        wait_for(&format!("alarm {name} at {from}"), LIMIT, on).await?;
        Ok(())
    }

    /// Nothing is active but what was before.
    pub async fn until_no_alarm_but(&self, before: &BTreeSet<String>) -> Result<Duration> {
        let last = RefCell::new(BTreeSet::new());
        let clear = async || {
            let now = self.alarms(Site::W).await.ok()?;
            last.replace(now.difference(before).cloned().collect());
            last.borrow().is_empty().then_some(())
        };
        let waited = wait_for("the alarms to clear", LIMIT, clear).await;
        Ok(waited.with_context(|| format!("{:?}", last.borrow()))?.1)
    }

    /// The service at a answers all the time, and then nothing has moved or stopped.
    pub async fn quiet(&self, length: Duration) -> Result<()> {
        hold_for(length, async || {
            ensure!(self.is_active(Site::A).await, "{TICKET} at a does not answer");
            Ok(())
        })
        .await?;
        self.expect(0..=0, 0..=0)
    }

    /// # Errors
    /// More or fewer moves or stops than these.
    pub fn expect(&self, moves: std::ops::RangeInclusive<usize>, stops: std::ops::RangeInclusive<usize>) -> Result<()> {
        let account = self.account()?;
        let Account { moves: moved, stops: stopped, intervals } = &account;
        ensure!(moves.contains(moved), "{moved} moves: {intervals:?}");
        ensure!(stops.contains(stopped), "{stopped} stops: {intervals:?}");
        Ok(())
    }

    /// Runs one step at a site as its gate would; true where the actuator refuses it.
    pub fn is_vetoed(&self, site: Site, step: &str, epoch: &str) -> Result<bool> {
        let done = Command::new(bcp_tests::fleet::binary())
            .args(["service-step", "--service", TICKET, "--site", site.as_str(), "--data-dir"])
            .arg(self.fleet.data_dir())
            .args(["--base-port", &(self.fleet.port(Site::A, 0)).to_string()])
            .envs([("BCP_STEP", step), ("BCP_EPOCH", epoch)])
            .stdin(Stdio::null())
            .output()?;
        Ok(done.status.code() == Some(VETO))
    }

    /// When the gate of a site held its side active; an interval that goes on ends at the end of time.
    pub fn intervals(&self, site: Site) -> Result<Vec<Interval>> {
        let file = self.fleet.data_dir().join(format!("{site}/host-{site}/gate/gate.log.jsonl"));
        if !file.exists() {
            return Ok(Vec::new());
        }
        gatelog::intervals(site.as_str(), &file, TICKET, u64::MAX)
    }

    pub fn account(&self) -> Result<Account> {
        let mut all = Vec::new();
        let mut stops = 0;
        for site in SIDES {
            for mut interval in self.intervals(site)? {
                let lost = self.lost.borrow();
                let cut_short = lost
                    .iter()
                    .filter(|(at, when)| *at == site && (interval.from..interval.until).contains(when))
                    .map(|(_, when)| *when)
                    .min();
                match cut_short {
                    Some(when) => interval.until = when,
                    None => stops += usize::from(interval.until != u64::MAX),
                }
                all.push(interval);
            }
        }
        all.sort_by_key(|interval| interval.from);
        let moves = all.windows(2).filter(|pair| pair[0].gate != pair[1].gate).count();
        Ok(Account { moves, stops, intervals: all })
    }

    /// # Errors
    /// A gate's log cannot be read.
    pub fn ended(&self) -> Result<Ended> {
        let account = self.account()?;
        let said: Option<Value> =
            self.fleet.cli(&["ls", "--json"]).ok().and_then(|text| serde_json::from_str(&text).ok());
        let visitor = said.as_ref().map(|said| &said["visitor"]);
        let two = gatelog::never_two_at_once(account.intervals.clone()).err().map(|fault| fault.to_string());
        let lost = visitor
            .and_then(|visitor| visitor["writes_lost"].as_u64())
            .filter(|lost| *lost > 0 && !self.is_loss_accepted.get());
        let fault = two.or(lost.map(|lost| format!("{lost} acknowledged writes are gone")));
        Ok(Ended { account, longest_gap_ms: visitor.and_then(|visitor| visitor["longest_gap_ms"].as_u64()), fault })
    }
}

/// Seconds with one decimal.
pub fn s(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}
