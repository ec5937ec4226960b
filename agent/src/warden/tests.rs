//! Stops by a warden whose gate is gone.

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
    let mut config: GateConfig = toml::from_str(&format!("{config}{tickets}")).unwrap();
    config.runtime_dir = state_dir.join("run");
    let setup = GateSetup { site: Site::A, gate: "host-a".parse().unwrap(), config, state_dir, resolver: Vec::new() };
    let stores = setup.config.tickets.iter().map(|ticket| {
        let store = setup.store(&ticket.id).unwrap();
        store.write(record).unwrap();
        let brief = Some(record.brief());
        let (gate, boot_id) = (ProcessMark { pid: i32::MAX, started: 1 }, boot_id().unwrap());
        let (ticket, epoch) = (ticket.id.clone(), record.epoch);
        store.write_deadline(&DeadlineFile { boot_id, ticket, epoch, deadline, gate, step: None, brief }).unwrap();
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

/// Stops by a program that leaves a mark, under a deadline that ends soon; the record is what `spoil` makes of it.
fn stopped_beside(name: &str, record: &Record, spoil: impl FnOnce(&std::path::Path)) -> Scene {
    let mark = std::env::temp_dir().join(format!("bcp-warden-{name}-{}.stopped", std::process::id()));
    let _ = std::fs::remove_file(&mark);
    let tickets = format!(
        "[[ticket]]\nid = \"rx\"\nscript = [\"/bin/sh\", \"-c\", \"touch {}\"]\nstep_timeout = \"1s\"\n",
        mark.display()
    );
    let scene = scene(name, &tickets, record, boot_ms().plus(300));
    spoil(&scene.setup.dir().join("rx.json"));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch_all(&scene.setup, &stop, || {}));
        let begun = Instant::now();
        let said = || scene.stores[0].read_deadline(&boot_id().unwrap()).and_then(|file| file.brief);
        while begun.elapsed() < LIMIT && said().is_some_and(|brief| brief.may_run) {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(mark.exists(), "not stopped");
        assert!(said().is_some_and(|brief| !brief.may_run), "not told");
        stop.store(true, Ordering::Relaxed);
        // Whoever waits for that disk is let go.
        let fifo = scene.setup.dir().join("rx.json");
        if std::fs::metadata(&fifo).is_ok_and(|meta| std::os::unix::fs::FileTypeExt::is_fifo(&meta.file_type())) {
            drop(std::fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap());
        }
        watching.join().unwrap().unwrap();
    });
    std::fs::remove_file(mark).unwrap();
    scene
}

fn active() -> Record {
    Record { may_run: true, holder: Some(Site::A), epoch: "1.3".parse().unwrap(), ..Record::default() }
}

/// Whoever opens the record waits for ever, as on a disk that hangs.
#[test]
fn a_disk_that_hangs_does_not_delay_a_stop() {
    let scene = stopped_beside("hung", &active(), |record| {
        std::fs::remove_file(record).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(record).status().unwrap().success());
    });
    let mark = scene.stores[0].stop_mark(&boot_id().unwrap()).expect("the gate is told");
    assert_eq!(mark.epoch, active().epoch);
}

#[test]
fn a_record_that_cannot_be_read_is_not_written_over() {
    let scene = stopped_beside("damaged", &active(), |record| std::fs::write(record, b"{ torn").unwrap());
    assert_eq!(std::fs::read(scene.setup.dir().join("rx.json")).unwrap(), b"{ torn");
}

/// No gate was at work in this boot, and what the record said is unknown.
#[test]
fn a_ticket_whose_record_is_gone_is_stopped() {
    let idle = Record { may_run: false, ..active() };
    let marked = std::env::temp_dir().join(format!("bcp-warden-gone-{}.mark", std::process::id()));
    let _ = std::fs::remove_file(&marked);
    let tickets = format!(
        "[[ticket]]\nid = \"rx\"\nscript = [\"/bin/sh\", \"-c\", \"touch {}\"]\nstep_timeout = \"1s\"\n",
        marked.display()
    );
    let scene = scene("gone", &tickets, &idle, BootMs(1));
    std::fs::remove_dir_all(scene.setup.runtime_dir()).unwrap();
    std::fs::remove_file(scene.setup.dir().join("rx.json")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch_all(&scene.setup, &stop, || {}));
        let begun = Instant::now();
        while begun.elapsed() < LIMIT && !marked.exists() {
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
        watching.join().unwrap().unwrap();
    });
    assert!(marked.exists(), "a record that is gone was taken for one that says that nothing runs");
    std::fs::remove_file(marked).unwrap();
}
