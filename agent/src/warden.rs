//! `bcp-agent warden`: knows the deadlines, stops things, does nothing else.
//!
//! Knows: the files of [`crate::gate::store`] and the stop script. Refuses to know: the network, collectors, why a gate is
//! late. It is a process of its own, small and locked in memory, so that a gate that was killed, paused or hangs on its disk
//! keeps no service alive.
//!
//! Invariants:
//! * it never starts anything but `stop` and `verify-stopped`, and never lengthens a lease;
//! * it works under the ticket's lock; a gate that does not let go of the lock after the deadline is killed;
//! * a service is not believed stopped before `verify-stopped` said so;
//! * looking, locking, stopping and verifying are over within `stop_max` of the deadline ([`Budget`]), also where a stop hangs;
//! * a stop that hangs keeps no other ticket waiting.
//!
//! Threads: one per ticket, all ended by [`run`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bcp_wire::Site;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, getrlimit};

use crate::gate::budget::{Budget, POLL_MS, Verdict};
use crate::gate::record::{BootMs, Record};
use crate::gate::script::{Script, succeeded};
use crate::gate::store::{Store, StoreError, Version};
use crate::gate::{GateSetup, boot_id, boot_ms};

/// How often the deadlines are looked at.
const POLL: Duration = Duration::from_millis(POLL_MS);
const STOP_RETRY: Duration = Duration::from_millis(250);
/// Stack of a ticket's thread: small files and a child process. All stacks are locked in memory.
const STACK_BYTES: usize = 256 << 10;

/// Why a warden cannot start.
#[derive(Debug, thiserror::Error)]
pub enum WardenError {
    #[error("failed to read the boot id")]
    BootId(#[source] std::io::Error),
    #[error("failed to use the files of ticket {ticket}")]
    Store { ticket: bcp_wire::Id, source: StoreError },
    #[error("failed to start a thread for ticket {ticket}")]
    Thread { ticket: bcp_wire::Id, source: std::io::Error },
}

struct Watch {
    store: Store,
    script: Script,
    budget: Budget,
    /// Longest a step of this ticket takes.
    step_ms: u64,
    version: Version,
    record: Record,
    /// When this ticket was first seen without a lease while its gate may still be stopping it.
    noticed: Option<BootMs>,
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
        let store = Store::open(&setup.dir(), &ticket.id).map_err(fault)?;
        let script = setup.script(ticket, &store);
        // What a running step writes must not be cut off by a stop that goes on at the same time.
        let script = Script { log: script.log.with_extension("warden.log"), ..script };
        let record = store.read().map_err(fault)?;
        let version = store.version();
        let step_ms = ticket.step_timeout.as_millis();
        watches.push(Watch { store, script, budget, step_ms, version, record, noticed: None });
    }
    let boot = boot.as_str();
    std::thread::scope(|scope| {
        for mut watch in watches {
            let ticket = watch.script.ticket.clone();
            let thread = std::thread::Builder::new().name(ticket.to_string()).stack_size(STACK_BYTES);
            let body = move || {
                let _guard = AbortOnPanic;
                while !stop.load(Ordering::Relaxed) {
                    watch.look(setup.site, boot, stop);
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
    fn look(&mut self, site: Site, boot: &str, stop: &AtomicBool) {
        let version = self.store.version();
        if version != self.version {
            match self.store.read() {
                Ok(record) => {
                    self.record = record;
                    self.version = version;
                }
                // The last record that could be read stands; it can only make the warden stop something.
                Err(error) => tracing::error!(%error, "the record cannot be read"),
            }
        }
        if !self.record.may_run {
            self.noticed = None;
            return;
        }
        let deadline = self.store.read_deadline(boot).map(|file| file.deadline);
        let now = boot_ms();
        let noticed = *self.noticed.get_or_insert(now);
        match self.budget.judge(&self.record, deadline, noticed, now) {
            Verdict::Fine => self.noticed = None,
            Verdict::GateActs { until } if now < until => {}
            Verdict::GateActs { .. } | Verdict::Late => self.act(site, boot, stop),
        }
    }

    /// The loss action: kill the step, close the epoch, stop, verify.
    fn act(&mut self, site: Site, boot: &str, stop: &AtomicBool) {
        let mut lock = self.store.lock(Duration::from_millis(self.budget.lock_ms()));
        if lock.is_none()
            && let Some(gate) = self.store.read_deadline(boot).map(|file| file.gate)
        {
            tracing::error!(pid = gate.pid, "the gate holds its lock beyond the deadline; it is killed");
            if gate.kill() {
                lock = self.store.lock(Duration::from_millis(self.budget.after_kill_ms()));
            }
        }
        let file = self.store.read_deadline(boot);
        let deadline = file.as_ref().map(|file| file.deadline);
        if lock.is_some() {
            match self.store.read() {
                Ok(record) => self.record = record,
                Err(error) => tracing::error!(%error, "the record cannot be read"),
            }
            // The gate may have been quicker.
            let now = boot_ms();
            if self.budget.judge(&self.record, deadline, now, now) == Verdict::Fine {
                self.noticed = None;
                return;
            }
        } else {
            tracing::error!("the lock cannot be had; stopping all the same");
        }
        if let Some(step) = file.and_then(|file| file.step) {
            step.kill_group();
        }
        tracing::warn!(ticket = %self.script.ticket, epoch = %self.record.epoch, "no lease: the warden stops the service");
        if self.record.holder == Some(site) && !self.record.closed {
            self.record.closed = true;
            self.write(lock.is_some());
        }
        while !self.stopped(deadline) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(STOP_RETRY);
        }
        self.record.may_run = false;
        self.record.promoted = None;
        self.write(lock.is_some());
        self.store.log(boot_ms(), self.record.epoch, false, "warden: no lease");
        if let Err(error) = self.store.forget_deadline() {
            tracing::warn!(%error, "an old deadline file stays");
        }
        self.noticed = None;
    }

    fn stopped(&self, deadline: Option<BootMs>) -> bool {
        let limit = Duration::from_millis(self.budget.warden_stop_ms(deadline, boot_ms(), self.step_ms));
        let ended = self.script.stop_and_verify(self.record.epoch, self.record.holder, limit);
        if !succeeded(ended.outcome) {
            tracing::error!(ticket = %self.script.ticket, detail = ended.detail.as_deref().unwrap_or(""), "the stop is not verified; it is tried again");
        }
        succeeded(ended.outcome)
    }

    /// Without the lock nothing is written: the gate would not know.
    fn write(&mut self, locked: bool) {
        if !locked {
            return;
        }
        self.record.writes += 1;
        match self.store.write(&self.record) {
            Ok(()) => self.version = self.store.version(),
            Err(error) => tracing::error!(%error, "the record cannot be stored; stopping all the same"),
        }
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
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use bcp_wire::Site;

    use super::watch_all;
    use crate::gate::config::GateConfig;
    use crate::gate::record::{BootMs, Record};
    use crate::gate::store::{DeadlineFile, LogLine, ProcessMark, Store};
    use crate::gate::{GateSetup, boot_id, boot_ms};

    const LIMIT: Duration = Duration::from_secs(20);

    struct Scene {
        setup: GateSetup,
        stores: Vec<Store>,
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.setup.state_dir);
        }
    }

    /// Tickets whose gate is gone; each with its record and its deadline.
    fn scene(name: &str, tickets: &str, record: &Record, deadline: BootMs) -> Scene {
        let state_dir = std::env::temp_dir().join(format!("bcp-warden-{name}-{}", std::process::id()));
        let config = r#"
            listen = "127.0.0.1:0"
            credentials = { ca = "ca.pem", cert = "c.pem", key = "c.key" }
            collectors = { a = "https://127.0.0.1:1" }
        "#;
        let config: GateConfig = toml::from_str(&format!("{config}{tickets}")).unwrap();
        let setup =
            GateSetup { site: Site::A, gate: "host-a".parse().unwrap(), config, state_dir, resolver: Vec::new() };
        let stores = setup.config.tickets.iter().map(|ticket| {
            let store = Store::open(&setup.dir(), &ticket.id).unwrap();
            store.write(record).unwrap();
            let (gate, boot_id) = (ProcessMark { pid: i32::MAX, started: 1 }, boot_id().unwrap());
            let (ticket, epoch) = (ticket.id.clone(), record.epoch);
            store.write_deadline(&DeadlineFile { boot_id, ticket, epoch, deadline, gate, step: None }).unwrap();
            store
        });
        Scene { stores: stores.collect(), setup }
    }

    impl Scene {
        fn may_run(&self, at: usize) -> bool {
            self.stores[at].read().unwrap().may_run
        }

        /// Lets the warden watch until ticket `at` is stopped; which tickets may run at that moment.
        fn watch_until_stopped(&self, at: usize) -> Vec<bool> {
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let watching = scope.spawn(|| watch_all(&self.setup, &stop, || {}));
                let begun = Instant::now();
                while self.may_run(at) && begun.elapsed() < LIMIT {
                    std::thread::sleep(Duration::from_millis(20));
                }
                let found = (0..self.stores.len()).map(|at| self.may_run(at)).collect();
                stop.store(true, Ordering::Relaxed);
                watching.join().unwrap().unwrap();
                found
            })
        }
    }

    #[test]
    fn a_stop_that_hangs_keeps_no_other_ticket_waiting() {
        let tickets = r#"
            [[ticket]]
            id = "hangs"
            script = ["/bin/sh", "-c", "sleep 60"]
            step_timeout = "1s"
            [[ticket]]
            id = "stops"
            script = ["/bin/sh", "-c", "true"]
        "#;
        let record = Record { may_run: true, holder: Some(Site::A), ..Record::default() };
        let found = scene("others", tickets, &record, BootMs(1)).watch_until_stopped(1);
        assert_eq!(found, [true, false], "one ticket waits for the other, or what hangs is believed stopped");
    }

    /// The gate closed the epoch in time and died; its program hangs in `stop`, and has stopped the service all the same.
    #[test]
    fn a_stop_that_hangs_after_the_grace_still_ends_within_stop_max() {
        let tickets = r#"
            [[ticket]]
            id = "hangs"
            script = ["/bin/sh", "-c", "[ $BCP_STEP = stop ] && exec sleep 60; true"]
            step_timeout = "4s"
        "#;
        let record = Record { may_run: true, closed: true, holder: Some(Site::A), ..Record::default() };
        let deadline = boot_ms();
        let scene = scene("grace", tickets, &record, deadline);
        assert_eq!(scene.watch_until_stopped(0), [false]);
        let log = std::fs::read_to_string(scene.setup.dir().join("gate.log.jsonl")).unwrap();
        let line: LogLine = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        let stop_max_ms = scene.setup.config.timing.resolve().stop_max_ms;
        assert!(line.boot_ms <= deadline.plus(stop_max_ms), "stopped {} ms after it", line.boot_ms.since(deadline));
    }
}
