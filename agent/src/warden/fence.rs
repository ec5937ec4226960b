//! The watchdog: armed before anything runs, kicked while every running ticket has its lease, released after verified stops.
//!
//! Knows: the deadline files of the tickets with `loss = "fence"`. Refuses to know: how anything is stopped.
//!
//! Invariants:
//! * no kick once the lease of a ticket that may run has ended, until its stop is verified: a warden that cannot stop it in
//!   time is reset with it, within `timeout` (at most `stop_max`) of the deadline;
//! * a warden that ends, is killed or paused releases nothing;
//! * it is not armed where a lease is over already: a stop that cannot be verified must not reset a machine at every boot.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bcp_wire::{Id, Site};

use super::POLL;
use crate::gate::config::Loss;
use crate::gate::record::BootMs;
use crate::gate::store::{DeadlineFile, ProcessMark, Store, StoreError};
use crate::gate::watchdog::{Fence, FenceFile, Watchdog, WatchdogConfig, WatchdogError, say};
use crate::gate::{GateSetup, boot_ms};

/// Kicks in the time of one timeout.
const KICKS_PER_TIMEOUT: u64 = 4;
/// A missing device is looked for this often; and one that refuses is not asked more often.
const EXAMINE_EVERY_MS: u64 = 1_000;

/// What is known of one ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fenced {
    may_run: bool,
    /// This site holds the epoch, and it is open: a promotion may come.
    holds: bool,
    deadline: Option<BootMs>,
}

/// What is to be done about the watchdog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Rest,
    Arm,
    Kick,
    /// A lease is over and the stop not verified.
    LetRunOut,
    Release,
}

/// PURE.
fn judge(armed: bool, tickets: &[Fenced], now: BootMs) -> Order {
    let has_lease = |ticket: &Fenced| ticket.deadline.is_some_and(|deadline| now < deadline);
    let lost = tickets.iter().any(|ticket| ticket.may_run && !has_lease(ticket));
    let wanted = tickets.iter().any(|ticket| ticket.may_run || (ticket.holds && has_lease(ticket)));
    match (armed, lost, wanted) {
        (true, true, _) => Order::LetRunOut,
        (true, false, true) => Order::Kick,
        (true, false, false) => Order::Release,
        (false, false, true) => Order::Arm,
        (false, true, _) | (false, false, false) => Order::Rest,
    }
}

/// The device, as far as this warden has it.
#[derive(Debug)]
enum Device {
    Away { reason: String },
    Ready,
    Armed(Watchdog),
}

/// The watchdog and the tickets it fences.
pub(super) struct Tender<'a> {
    config: &'a WatchdogConfig,
    /// With the last deadline file of this boot: one that vanishes does not lengthen what it said.
    tickets: Vec<(Store, Option<DeadlineFile>)>,
    site: Site,
    boot: String,
    runtime_dir: PathBuf,
    sys: &'a Path,
    device: Device,
    kicked: BootMs,
    examined: Option<BootMs>,
    told: Option<Fence>,
    runs_out: bool,
}

impl<'a> Tender<'a> {
    /// `None` where no watchdog is configured.
    pub fn new(setup: &'a GateSetup, boot: &str, sys: &'a Path) -> Result<Option<Tender<'a>>, (Id, StoreError)> {
        let Some(config) = &setup.config.watchdog else { return Ok(None) };
        let fenced = setup.config.tickets.iter().filter(|ticket| ticket.loss == Loss::Fence);
        let tickets = fenced.map(|ticket| match setup.store(&ticket.id) {
            Ok(store) => Ok((store, None)),
            Err(error) => Err((ticket.id.clone(), error)),
        });
        if config.stand_in {
            tracing::warn!(path = %config.path.display(), "the watchdog is a stand-in: it fences nothing");
        }
        Ok(Some(Tender {
            config,
            tickets: tickets.collect::<Result<_, _>>()?,
            site: setup.site,
            boot: boot.to_owned(),
            runtime_dir: setup.runtime_dir(),
            sys,
            device: Device::Away { reason: "not looked at yet".to_owned() },
            kicked: BootMs(0),
            examined: None,
            told: None,
            runs_out: false,
        }))
    }

    /// Tends it until `stop` turns true.
    pub fn tend(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            self.look();
            std::thread::sleep(POLL);
        }
        if matches!(self.device, Device::Armed(_)) {
            let timeout_ms = self.config.timeout.as_millis();
            tracing::error!(timeout_ms, "the warden ends while services run: without another one the machine is reset");
        }
    }

    fn look(&mut self) {
        let fenced = self.fenced();
        let now = boot_ms();
        let order = judge(matches!(self.device, Device::Armed(_)), &fenced, now);
        let runs_out = order == Order::LetRunOut;
        if runs_out && !self.runs_out {
            tracing::error!("a lease is over and its service not stopped: the watchdog is not kicked any more");
        }
        self.runs_out = runs_out;
        match order {
            Order::Rest => self.examine(now),
            Order::Arm => self.arm(now),
            Order::Kick => self.kick(now),
            Order::LetRunOut => {}
            Order::Release => self.release(),
        }
        self.tell();
    }

    fn fenced(&mut self) -> Vec<Fenced> {
        let (boot, site) = (&self.boot, self.site);
        let look = |(store, last): &mut (Store, Option<DeadlineFile>)| {
            *last = store.read_deadline(boot).or_else(|| last.take());
            let Some(file) = last else { return Fenced { may_run: false, holds: false, deadline: None } };
            // A gate of an older version does not say: then anything may run.
            let may_run = file.brief.is_none_or(|brief| brief.may_run);
            let holds = file.brief.is_some_and(|brief| brief.holder == Some(site) && !brief.closed);
            Fenced { may_run, holds, deadline: Some(file.deadline) }
        };
        self.tickets.iter_mut().map(look).collect()
    }

    fn is_due(&mut self, now: BootMs) -> bool {
        let due = self.examined.is_none_or(|at| now.since(at) >= EXAMINE_EVERY_MS);
        if due {
            self.examined = Some(now);
        }
        due
    }

    fn examine(&mut self, now: BootMs) {
        if self.is_due(now) {
            self.device = match Watchdog::examine(self.config, self.sys) {
                Ok(()) => Device::Ready,
                Err(error) => away(&error),
            };
        }
    }

    fn arm(&mut self, now: BootMs) {
        if !matches!(self.device, Device::Ready) && !self.is_due(now) {
            return;
        }
        self.device = match Watchdog::arm(self.config, self.sys) {
            Ok(watchdog) => {
                tracing::info!(path = %self.config.path.display(), "the watchdog is armed");
                Device::Armed(watchdog)
            }
            Err(error) => away(&error),
        };
        // Arming begins a timeout.
        self.kicked = now;
    }

    fn kick(&mut self, now: BootMs) {
        if now.since(self.kicked) < self.config.timeout.as_millis() / KICKS_PER_TIMEOUT {
            return;
        }
        if let Device::Armed(watchdog) = &mut self.device {
            self.kicked = now;
            if let Err(error) = watchdog.kick() {
                tracing::error!(%error, "the watchdog cannot be kicked: the machine will be reset");
            }
        }
    }

    fn release(&mut self) {
        if let Device::Armed(watchdog) = std::mem::replace(&mut self.device, Device::Ready) {
            match watchdog.release() {
                Ok(()) => tracing::info!("everything is stopped, and verified: the watchdog is released"),
                Err(error) => {
                    tracing::error!(%error, "the watchdog cannot be released: the machine will be reset");
                    self.device = away(&error);
                }
            }
        }
    }

    /// A gate goes by this; a word that it does not get is one that it waits for.
    fn tell(&mut self) {
        let fence = match &self.device {
            Device::Away { reason } => Fence::Unusable { reason: reason.clone() },
            Device::Ready => Fence::Ready,
            Device::Armed(_) => Fence::Armed,
        };
        if self.told.as_ref() == Some(&fence) {
            return;
        }
        if let Fence::Unusable { reason } = &fence {
            tracing::error!(%reason, "there is no watchdog: no ticket that needs it is promoted here");
        }
        let Some(warden) = ProcessMark::own() else { return };
        let said = say(&self.runtime_dir, &FenceFile { boot_id: self.boot.clone(), warden, fence: fence.clone() });
        match said {
            Ok(()) => self.told = Some(fence),
            Err(error) => tracing::error!(%error, "the gate cannot be told of the watchdog"),
        }
    }
}

fn away(error: &WatchdogError) -> Device {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    Device::Away { reason: format!("{error}{cause}") }
}

#[cfg(test)]
mod tests {
    use super::{BootMs, Fenced, Order, judge};

    const NOTHING: Fenced = Fenced { may_run: false, holds: false, deadline: None };

    const fn runs(until: u64) -> Fenced {
        Fenced { may_run: true, holds: true, deadline: Some(BootMs(until)) }
    }

    #[test]
    fn a_watchdog_lives_as_long_as_the_leases() {
        let held = Fenced { may_run: false, ..runs(100) };
        // Closed in an orderly stop, which has until its deadline.
        let closing = Fenced { holds: false, ..runs(100) };
        let stopped = Fenced { may_run: false, ..closing };
        let unknown = Fenced { deadline: None, ..runs(0) };
        for (what, tickets, now, armed, unarmed) in [
            ("nothing ever ran", &[NOTHING][..], 50, Order::Release, Order::Rest),
            ("a grant, before its promotion", &[held], 50, Order::Kick, Order::Arm),
            ("a grant that ran out unused", &[held], 100, Order::Release, Order::Rest),
            ("runs", &[runs(100), NOTHING], 99, Order::Kick, Order::Arm),
            ("the deadline", &[runs(100), NOTHING], 100, Order::LetRunOut, Order::Rest),
            ("one of two lost its lease", &[runs(100), runs(200)], 150, Order::LetRunOut, Order::Rest),
            ("an ordered stop", &[closing], 50, Order::Kick, Order::Arm),
            ("an ordered stop that hangs", &[closing], 100, Order::LetRunOut, Order::Rest),
            ("verified, in time or late", &[stopped], 50, Order::Release, Order::Rest),
            ("verified while another runs", &[stopped, runs(200)], 150, Order::Kick, Order::Arm),
            ("may run, and nobody knows since when", &[unknown], 50, Order::LetRunOut, Order::Rest),
        ] {
            assert_eq!(judge(true, tickets, BootMs(now)), armed, "armed: {what}");
            assert_eq!(judge(false, tickets, BootMs(now)), unarmed, "not armed: {what}");
        }
    }
}
