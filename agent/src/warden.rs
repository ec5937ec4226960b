//! `bcp-agent warden`: knows the deadlines, stops things, does nothing else.
//!
//! Knows: the files of [`crate::gate::store`], the stop script and the watchdog. Refuses to know: the network, collectors, why
//! a gate is late. It is a process of its own, small and locked in memory, so that a gate that was killed, paused or hangs on
//! its disk keeps no service alive.
//!
//! Invariants:
//! * it never starts anything but `stop` and `verify-stopped`, and never lengthens a lease;
//! * it works under the ticket's lock; a gate that does not let go of the lock after the deadline is killed;
//! * a service is not believed stopped before `verify-stopped` said so;
//! * until then nothing is asked of a disk, where a gate was at work in this boot; a record that cannot be read means that
//!   anything may run, and is not written over;
//! * looking, locking, stopping and verifying are over within `stop_max` of the deadline ([`Budget`]), also where a stop hangs;
//! * a stop that hangs keeps no other ticket waiting.
//!
//! Threads: one per ticket and one for the watchdog ([`fence`]), all ended by [`run`].

mod fence;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bcp_wire::{Epoch, Site};
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, getrlimit};

use crate::gate::budget::{Budget, POLL_MS, Verdict};
use crate::gate::record::{BootMs, Brief, Record};
use crate::gate::script::{Script, succeeded};
use crate::gate::store::{DeadlineFile, ProcessMark, StopMark, Store, StoreError, Version};
use crate::gate::{GateSetup, boot_id, boot_ms};
use fence::Tender;

/// How often the deadlines are looked at.
const POLL: Duration = Duration::from_millis(POLL_MS);
const STOP_RETRY: Duration = Duration::from_millis(250);
/// Stack of a ticket's thread: small files and a child process. All stacks are locked in memory.
const STACK_BYTES: usize = 256 << 10;

/// Of a ticket whose record cannot be read.
const UNKNOWN: Brief = Brief { may_run: true, closed: false, holder: None };

/// Why a warden cannot start.
#[derive(Debug, thiserror::Error)]
pub enum WardenError {
    #[error("failed to read the boot id")]
    BootId(#[source] std::io::Error),
    #[error("failed to use the files of ticket {ticket}")]
    Store { ticket: bcp_wire::Id, source: StoreError },
    #[error("failed to start a thread for ticket {ticket}")]
    Thread { ticket: bcp_wire::Id, source: std::io::Error },
    #[error("failed to start the thread of the watchdog")]
    Watchdog { source: std::io::Error },
}

struct Watch {
    store: Store,
    script: Script,
    budget: Budget,
    /// Longest a step of this ticket takes.
    step_ms: u64,
    site: Site,
    boot: String,
    /// The last deadline file of this boot: one that vanishes does not lengthen what it said.
    last: Option<DeadlineFile>,
    /// The record, where there is no deadline file; `None` as long as it cannot be read.
    record: Option<(Version, Record)>,
    said_unreadable: bool,
    /// When this ticket was first seen without a lease while its gate may still be stopping it.
    noticed: Option<BootMs>,
    /// What was stopped and verified: not stopped again until something else is said of it.
    stopped: Option<Known>,
}

/// What is known of a ticket at one look.
#[derive(Debug, Clone, PartialEq)]
struct Known {
    epoch: Epoch,
    brief: Brief,
    deadline: Option<BootMs>,
    step: Option<ProcessMark>,
    gate: Option<ProcessMark>,
}

impl Known {
    fn of(file: &DeadlineFile, brief: Brief) -> Known {
        let DeadlineFile { epoch, deadline, gate, step, .. } = *file;
        Known { epoch, brief, deadline: Some(deadline), step, gate: Some(gate) }
    }
}

/// Watches until `stop` turns true. Blocks.
///
/// # Errors
/// The files cannot be opened at all.
pub fn run(setup: &GateSetup, stop: &AtomicBool) -> Result<(), WardenError> {
    watch_all(setup, stop, lock_memory)
}

/// `started` is called once every thread, and so every stack, is there.
fn watch_all(setup: &GateSetup, stop: &AtomicBool, started: impl FnOnce()) -> Result<(), WardenError> {
    let boot = boot_id().map_err(WardenError::BootId)?;
    let budget = setup.config.timing.resolve().budget();
    let mut watches = Vec::new();
    for ticket in &setup.config.tickets {
        let fault = |source| WardenError::Store { ticket: ticket.id.clone(), source };
        let store = setup.store(&ticket.id).map_err(fault)?;
        if !store.is_in_memory() {
            tracing::warn!(dir = %setup.runtime_dir().display(), "the runtime directory is on a disk; a stop may have to wait for it");
        }
        let script = setup.script(ticket, &store);
        // What the gate's stop writes must not be cut off by one that goes on at the same time.
        let script = Script { stop_log: script.stop_log.with_extension("warden.log"), ..script };
        watches.push(Watch {
            store,
            script,
            budget,
            step_ms: ticket.step_timeout.as_millis(),
            site: setup.site,
            boot: boot.clone(),
            last: None,
            record: None,
            said_unreadable: false,
            noticed: None,
            stopped: None,
        });
    }
    let tender = Tender::new(setup, &boot, Path::new("/sys"));
    let tender = tender.map_err(|(ticket, source)| WardenError::Store { ticket, source })?;
    std::thread::scope(|scope| {
        if let Some(tender) = tender {
            let body = move || {
                let _guard = AbortOnPanic;
                tender.tend(stop);
            };
            let thread = std::thread::Builder::new().name("watchdog".to_owned()).stack_size(STACK_BYTES);
            thread.spawn_scoped(scope, body).map_err(|source| WardenError::Watchdog { source })?;
        }
        for mut watch in watches {
            let ticket = watch.script.ticket.clone();
            let thread = std::thread::Builder::new().name(ticket.to_string()).stack_size(STACK_BYTES);
            let body = move || {
                let _guard = AbortOnPanic;
                while !stop.load(Ordering::Relaxed) {
                    watch.look(stop);
                    std::thread::sleep(POLL);
                }
            };
            if let Err(source) = thread.spawn_scoped(scope, body) {
                stop.store(true, Ordering::Relaxed);
                return Err(WardenError::Thread { ticket, source });
            }
        }
        started();
        tracing::info!(tickets = setup.config.tickets.len(), "warden watches");
        Ok(())
    })?;
    tracing::info!("warden stopped");
    Ok(())
}

impl Watch {
    fn look(&mut self, stop: &AtomicBool) {
        let known = self.known();
        if !known.brief.may_run || self.stopped.as_ref() == Some(&known) {
            self.noticed = None;
            return;
        }
        let now = boot_ms();
        let noticed = *self.noticed.get_or_insert(now);
        match self.budget.judge(known.brief, known.deadline, noticed, now) {
            Verdict::Fine => self.noticed = None,
            Verdict::GateActs { until } if now < until => {}
            Verdict::GateActs { .. } | Verdict::Late => self.act(stop),
        }
    }

    /// From memory where a gate was at work in this boot; only where none was, from the disk.
    fn known(&mut self) -> Known {
        let found = self.store.read_deadline(&self.boot);
        if let Some(file) = &found
            && let Some(brief) = file.brief
        {
            let known = Known::of(file, brief);
            self.last = found;
            return known;
        }
        match (found, &self.last) {
            (None, Some(last)) => Known::of(last, last.brief.unwrap_or(UNKNOWN)),
            // A gate of an older version.
            (Some(file), _) => Known::of(&file, self.read_record().brief()),
            (None, None) => {
                let record = self.read_record();
                Known { epoch: record.epoch, brief: record.brief(), deadline: None, step: None, gate: None }
            }
        }
    }

    /// The record; where it cannot be read, one that says that anything may run.
    fn read_record(&mut self) -> Record {
        let version = self.store.version();
        if let Some((known, record)) = &self.record
            && *known == version
        {
            return record.clone();
        }
        match self.store.read() {
            Ok(record) => {
                self.said_unreadable = false;
                self.record = Some((version, record.clone()));
                record
            }
            Err(error) => {
                if !std::mem::replace(&mut self.said_unreadable, true) {
                    tracing::error!(%error, ticket = %self.script.ticket, "the record cannot be read; what may run is stopped");
                }
                let epoch = self.record.take().map_or(Epoch::NONE, |(_, record)| record.epoch);
                let Brief { may_run, closed, holder } = UNKNOWN;
                Record { epoch, may_run, closed, holder, ..Record::default() }
            }
        }
    }

    /// The loss action: kill the step, say so in memory, stop, verify. The disk is told last.
    fn act(&mut self, stop: &AtomicBool) {
        let mut lock = self.store.lock(Duration::from_millis(self.budget.lock_ms()));
        if lock.is_none()
            && let Some(gate) = self.known().gate
        {
            tracing::error!(pid = gate.pid, "the gate holds its lock beyond the deadline; it is killed");
            if gate.kill() {
                lock = self.store.lock(Duration::from_millis(self.budget.after_kill_ms()));
            }
        }
        let known = self.known();
        if lock.is_some() {
            // The gate may have been quicker.
            let now = boot_ms();
            if self.budget.judge(known.brief, known.deadline, now, now) == Verdict::Fine {
                self.noticed = None;
                return;
            }
        } else {
            tracing::error!("the lock cannot be had; stopping all the same");
        }
        if let Some(step) = known.step {
            step.kill_group();
        }
        tracing::warn!(ticket = %self.script.ticket, epoch = %known.epoch, "no lease: the warden stops the service");
        let mark = StopMark { boot_id: self.boot.clone(), epoch: known.epoch, at: boot_ms() };
        if let Err(error) = self.store.mark_stopped(&mark) {
            tracing::error!(%error, "the gate cannot be told; stopping all the same");
        }
        while !self.stop(&known) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(STOP_RETRY);
        }
        let at = boot_ms();
        (self.noticed, self.stopped) = (None, Some(known.clone()));
        // Without the lock nothing else is written: the gate would not know.
        if lock.is_some() {
            self.put_down(at, known.epoch);
        }
    }

    fn stop(&self, known: &Known) -> bool {
        let limit = Duration::from_millis(self.budget.warden_stop_ms(known.deadline, boot_ms(), self.step_ms));
        let ended = self.script.stop_and_verify(known.epoch, known.brief.holder, limit);
        if !succeeded(ended.outcome) {
            tracing::error!(ticket = %self.script.ticket, detail = ended.detail.as_deref().unwrap_or(""), "the stop is not verified; it is tried again");
        }
        succeeded(ended.outcome)
    }

    /// The service has stopped: from here on a disk may take its time. What cannot be read is not written over.
    fn put_down(&mut self, at: BootMs, epoch: Epoch) {
        // The word for the gate stays: a gate takes it away.
        if let Err(error) = self.store.say_stopped(&self.boot) {
            tracing::warn!(%error, "an old deadline file stays");
        }
        match self.store.read() {
            Ok(mut record) => {
                record.closed |= record.holder == Some(self.site);
                (record.may_run, record.promoted) = (false, None);
                record.writes += 1;
                match self.store.write(&record) {
                    Ok(()) => self.record = Some((self.store.version(), record)),
                    Err(error) => tracing::error!(%error, "that the service was stopped cannot be stored"),
                }
            }
            Err(error) => {
                tracing::error!(%error, "that the service was stopped is not stored: the record cannot be read")
            }
        }
        self.store.log(at, epoch, false, "warden: no lease");
    }
}

/// A ticket that nobody watches is worse than a warden that is started anew: one thread's panic ends the process.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// A warden that waits for its pages from a full or hung disk is no warden. Without the right to lock it works unlocked.
fn lock_memory() {
    let unlimited = getrlimit(Resource::Memlock).current.is_none() || rustix::process::geteuid().is_root();
    // Under a limit, locking what comes later would make allocations fail.
    let flags = if unlimited { MlockAllFlags::CURRENT | MlockAllFlags::FUTURE } else { MlockAllFlags::CURRENT };
    if let Err(error) = mlockall(flags) {
        tracing::warn!(%error, "memory is not locked; allow it with LimitMEMLOCK");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
