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
//! * a stop that hangs keeps no other ticket waiting.
//!
//! Threads: one per ticket, all ended by [`run`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bcp_wire::Site;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, getrlimit};

use crate::gate::record::{BootMs, Record};
use crate::gate::script::{Script, succeeded};
use crate::gate::store::{DeadlineFile, Store, StoreError, Version};
use crate::gate::{GateSetup, boot_id, boot_ms};

/// How often the deadlines are looked at.
const POLL: Duration = Duration::from_millis(50);
/// A gate in the middle of storing something gets this long to let go of the lock.
const LOCK_LIMIT: Duration = Duration::from_millis(300);
/// The kernel releases the lock of a killed process within moments.
const LOCK_AFTER_KILL: Duration = Duration::from_millis(500);
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
    limit: Duration,
    version: Version,
    record: Record,
    /// When this ticket was first seen without a lease while its gate may still be stopping it.
    noticed: Option<BootMs>,
}

/// What the files say about one ticket at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Nothing runs, or its lease does.
    Fine,
    /// The gate is about to act, or says that it acts; it gets a grace.
    GateActs,
    /// The deadline has passed and the epoch is still open.
    Late,
}

fn judge(record: &Record, deadline: Option<&DeadlineFile>, now: BootMs) -> Verdict {
    if !record.may_run {
        return Verdict::Fine;
    }
    match deadline {
        Some(file) if !record.closed && now < file.deadline => Verdict::Fine,
        Some(_) if !record.closed => Verdict::Late,
        Some(_) | None => Verdict::GateActs,
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
    let grace_ms = setup.config.timing.resolve().stop_max_ms / 4;
    let mut watches = Vec::new();
    for ticket in &setup.config.tickets {
        let fault = |source| WardenError::Store { ticket: ticket.id.clone(), source };
        let store = Store::open(&setup.dir(), &ticket.id).map_err(fault)?;
        let script = setup.script(ticket, &store);
        // What a running step writes must not be cut off by a stop that goes on at the same time.
        let script = Script { log: script.log.with_extension("warden.log"), ..script };
        let record = store.read().map_err(fault)?;
        let version = store.version();
        watches.push(Watch { store, script, limit: ticket.step_timeout.get(), version, record, noticed: None });
    }
    let boot = boot.as_str();
    std::thread::scope(|scope| {
        for mut watch in watches {
            let ticket = watch.script.ticket.clone();
            let thread = std::thread::Builder::new().name(ticket.to_string()).stack_size(STACK_BYTES);
            let body = move || {
                let _guard = AbortOnPanic;
                while !stop.load(Ordering::Relaxed) {
                    watch.look(setup.site, boot, grace_ms, stop);
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
    fn look(&mut self, site: Site, boot: &str, grace_ms: u64, stop: &AtomicBool) {
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
        let deadline = self.store.read_deadline(boot);
        let now = boot_ms();
        match judge(&self.record, deadline.as_ref(), now) {
            Verdict::Fine => self.noticed = None,
            Verdict::GateActs => {
                let since = *self.noticed.get_or_insert(now);
                if now.since(since) >= grace_ms {
                    self.act(site, boot, stop);
                }
            }
            Verdict::Late => self.act(site, boot, stop),
        }
    }

    /// The loss action: kill the step, close the epoch, stop, verify.
    fn act(&mut self, site: Site, boot: &str, stop: &AtomicBool) {
        let mut lock = self.store.lock(LOCK_LIMIT);
        if lock.is_none()
            && let Some(gate) = self.store.read_deadline(boot).map(|file| file.gate)
        {
            tracing::error!(pid = gate.pid, "the gate holds its lock beyond the deadline; it is killed");
            if gate.kill() {
                lock = self.store.lock(LOCK_AFTER_KILL);
            }
        }
        let deadline = self.store.read_deadline(boot);
        if lock.is_some() {
            match self.store.read() {
                Ok(record) => self.record = record,
                Err(error) => tracing::error!(%error, "the record cannot be read"),
            }
            // The gate may have been quicker.
            if judge(&self.record, deadline.as_ref(), boot_ms()) == Verdict::Fine {
                self.noticed = None;
                return;
            }
        } else {
            tracing::error!("the lock cannot be had; stopping all the same");
        }
        if let Some(step) = deadline.and_then(|file| file.step) {
            step.kill_group();
        }
        tracing::warn!(ticket = %self.script.ticket, epoch = %self.record.epoch, "no lease: the warden stops the service");
        if self.record.holder == Some(site) && !self.record.closed {
            self.record.closed = true;
            self.write(lock.is_some());
        }
        while !self.stopped() {
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

    fn stopped(&self) -> bool {
        let ended = self.script.stop_and_verify(self.record.epoch, self.record.holder, self.limit);
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

    use bcp_wire::{Id, Site};

    use super::{Verdict, judge, watch_all};
    use crate::gate::record::{BootMs, Record};
    use crate::gate::store::{DeadlineFile, ProcessMark, Store};
    use crate::gate::{GateSetup, boot_id};

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn a_stop_that_hangs_keeps_no_other_ticket_waiting() {
        let dir = std::env::temp_dir().join(format!("bcp-warden-{}", std::process::id()));
        let config = r#"
            listen = "127.0.0.1:0"
            credentials = { ca = "ca.pem", cert = "c.pem", key = "c.key" }
            collectors = { a = "https://127.0.0.1:1" }
            [[ticket]]
            id = "hangs"
            script = ["/bin/sh", "-c", "sleep 60"]
            step_timeout = "1s"
            [[ticket]]
            id = "stops"
            script = ["/bin/sh", "-c", "true"]
        "#;
        let config = toml::from_str(config).unwrap();
        let setup = GateSetup { site: Site::A, gate: "host-a".parse().unwrap(), config, state_dir: dir.clone() };
        let stores = ["hangs", "stops"].map(|id| {
            let ticket: Id = id.parse().unwrap();
            let store = Store::open(&setup.dir(), &ticket).unwrap();
            let record = Record { may_run: true, holder: Some(Site::A), ..Record::default() };
            store.write(&record).unwrap();
            let gate = ProcessMark { pid: i32::MAX, started: 1 };
            let boot_id = boot_id().unwrap();
            let file = DeadlineFile { boot_id, ticket, epoch: record.epoch, deadline: BootMs(1), gate, step: None };
            store.write_deadline(&file).unwrap();
            store
        });
        let stop = AtomicBool::new(false);
        let may_run = |store: &Store| store.read().unwrap().may_run;
        let (stopped, hangs) = std::thread::scope(|scope| {
            let watching = scope.spawn(|| watch_all(&setup, &stop, || {}));
            let begun = Instant::now();
            while may_run(&stores[1]) && begun.elapsed() < LIMIT {
                std::thread::sleep(Duration::from_millis(20));
            }
            let found = (!may_run(&stores[1]), may_run(&stores[0]));
            stop.store(true, Ordering::Relaxed);
            watching.join().unwrap().unwrap();
            found
        });
        std::fs::remove_dir_all(dir).unwrap();
        assert!(stopped, "one ticket waits for the other");
        assert!(hangs, "what hangs is not believed stopped");
    }

    #[test]
    fn what_the_files_mean() {
        let open = Record { may_run: true, ..Record::default() };
        let closed = Record { closed: true, ..open.clone() };
        let file = DeadlineFile {
            boot_id: "b".to_owned(),
            ticket: "rx".parse().unwrap(),
            epoch: open.epoch,
            deadline: BootMs(100),
            gate: ProcessMark { pid: 1, started: 1 },
            step: None,
        };
        for (record, file, now, verdict) in [
            (&Record::default(), None, 500, Verdict::Fine),
            (&open, Some(&file), 99, Verdict::Fine),
            (&open, Some(&file), 100, Verdict::Late),
            (&open, None, 50, Verdict::GateActs),
            (&closed, Some(&file), 50, Verdict::GateActs),
        ] {
            assert_eq!(judge(record, file, BootMs(now)), verdict, "{record:?} at {now}");
        }
    }
}
