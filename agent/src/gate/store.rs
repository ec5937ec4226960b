//! Files of one ticket, shared by gate and warden under a lock.
//!
//! On the disk: `TICKET.json` the record (fsync, rename, directory fsync), `TICKET.begun` (there must be a record),
//! `TICKET.lock`, `TICKET.step.log` output of the last step, and one `gate.log.jsonl` for all. In the runtime directory, which
//! is memory and does not hang or outlive a boot: `TICKET.deadline` what the warden must know to stop the service,
//! `TICKET.stopped` its word that it did, and the output of stops.
//!
//! Invariant: what a warden reads and writes until the service has stopped is in the runtime directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bcp_wire::{Epoch, Id};
use rustix::fs::{FlockOperation, flock, statfs};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};

use super::record::{BootMs, Brief, Record};

const LOCK_POLL: Duration = Duration::from_millis(10);
/// tmpfs and ramfs, as in linux/magic.h.
const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];
/// As long as a deadline file is.
const TRY_BYTES: usize = 512;

/// Why a ticket's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("failed to make {path}", path = path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("failed to make {path}, the runtime directory (`gate.runtime_dir`) of gate and warden", path = path.display())]
    Runtime { path: PathBuf, source: io::Error },
    #[error("{path} is gone; what this gate closed and promised is unknown", path = path.display())]
    Gone { path: PathBuf },
    #[error("failed to read {path}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is damaged; what this gate closed and promised is unknown", path = path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
}

/// What the warden knows of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadlineFile {
    pub boot_id: String,
    pub ticket: Id,
    pub epoch: Epoch,
    pub deadline: BootMs,
    pub gate: ProcessMark,
    /// Process group of the running step.
    #[serde(default)]
    pub step: Option<ProcessMark>,
    /// The record in short. Absent in files of older gates: then the record itself is read.
    #[serde(default)]
    pub brief: Option<Brief>,
}

/// The warden's word that it stops, or has stopped, what ran under a deadline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopMark {
    pub boot_id: String,
    pub epoch: Epoch,
    pub at: BootMs,
}

/// A process that cannot be mistaken for a later one with its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessMark {
    pub pid: i32,
    /// Start time in clock ticks since boot, from /proc.
    pub started: u64,
}

impl ProcessMark {
    /// `None` where the process is gone.
    #[must_use]
    pub fn of(pid: i32) -> Option<ProcessMark> {
        started(pid).map(|started| ProcessMark { pid, started })
    }

    #[must_use]
    pub fn own() -> Option<ProcessMark> {
        i32::try_from(std::process::id()).ok().and_then(ProcessMark::of)
    }

    /// Kills the process group that this process leads or led.
    pub fn kill_group(self) {
        // A living leader with another start time is somebody else's.
        if started(self.pid).is_some_and(|now| now != self.started) {
            return;
        }
        if let Some(pid) = Pid::from_raw(self.pid)
            && let Err(error) = kill_process_group(pid, Signal::KILL)
            && error != rustix::io::Errno::SRCH
        {
            tracing::error!(%error, pgid = self.pid, "a step's process group cannot be killed");
        }
    }

    /// Kills this one process, if it is still the same.
    pub fn kill(self) -> bool {
        let same = started(self.pid) == Some(self.started);
        same && Pid::from_raw(self.pid).is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
    }
}

fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may contain anything; field 22 is the 20th after it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// A line of `gate.log.jsonl`: what tests and auditors read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// CLOCK_BOOTTIME, milliseconds.
    pub boot_ms: BootMs,
    pub ticket: Id,
    pub epoch: Epoch,
    /// True from before the promotion begins until after the stop was verified.
    pub active: bool,
    pub reason: String,
}

/// See the module.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    run: PathBuf,
    ticket: Id,
    lock: Arc<File>,
    /// `TICKET.begun` is there.
    begun: AtomicBool,
    /// A gate of an older version keeps its deadline on the disk.
    old_deadline: AtomicBool,
}

/// Held while the record is read, decided on, and the decision begun.
#[derive(Debug)]
pub struct Locked(Arc<File>);

impl Drop for Locked {
    fn drop(&mut self) {
        if let Err(error) = flock(&self.0, FlockOperation::Unlock) {
            tracing::error!(%error, "a ticket's lock cannot be released");
        }
    }
}

/// Tells one written version of a file from another.
pub type Version = Option<(u64, i64, i64, u64)>;
/// Of a record that was written and not looked at since.
pub const WRITTEN: Version = Some((0, 0, 0, 0));

impl Store {
    /// `dir` on the disk, `run` in memory.
    ///
    /// # Errors
    /// A directory or the lock file cannot be made.
    pub fn open(dir: &Path, run: &Path, ticket: &Id) -> Result<Store, StoreError> {
        let fault = |path: &Path, source| StoreError::Make { path: path.to_owned(), source };
        fs::create_dir_all(run).map_err(|source| StoreError::Runtime { path: run.to_owned(), source })?;
        fs::create_dir_all(dir).map_err(|source| fault(dir, source))?;
        let path = dir.join(format!("{ticket}.lock"));
        let lock = OpenOptions::new().create(true).append(true).open(&path);
        // A disk that became read-only has it, and it can be locked all the same.
        let lock =
            lock.or_else(|source| File::open(&path).map_err(|_| source)).map_err(|source| fault(&path, source))?;
        let store = Store {
            dir: dir.to_owned(),
            run: run.to_owned(),
            ticket: ticket.clone(),
            lock: Arc::new(lock),
            begun: AtomicBool::new(false),
            old_deadline: AtomicBool::new(false),
        };
        store.begun.store(store.path("begun").exists(), Ordering::Relaxed);
        store.old_deadline.store(store.path("deadline").exists(), Ordering::Relaxed);
        Ok(store)
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.dir.join(format!("{}.{suffix}", self.ticket))
    }

    fn runtime_path(&self, suffix: &str) -> PathBuf {
        self.run.join(format!("{}.{suffix}", self.ticket))
    }

    #[must_use]
    pub fn step_log(&self) -> PathBuf {
        self.path("step.log")
    }

    /// A stop must not wait for a disk to take its words.
    #[must_use]
    pub fn stop_log(&self) -> PathBuf {
        self.runtime_path("stop.log")
    }

    /// False where the runtime directory is on a disk, which may hang.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        statfs(&self.run).is_ok_and(|found| IN_MEMORY.iter().any(|kind| i128::from(found.f_type) == i128::from(*kind)))
    }

    /// The lock, if it is free within `limit`.
    #[must_use]
    pub fn lock(&self, limit: Duration) -> Option<Locked> {
        let begun = Instant::now();
        loop {
            match flock(&self.lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Some(Locked(Arc::clone(&self.lock))),
                Err(_) if begun.elapsed() >= limit => return None,
                Err(_) => std::thread::sleep(LOCK_POLL.min(limit)),
            }
        }
    }

    /// The stored record; the default one before the first write.
    ///
    /// # Errors
    /// It is there but cannot be read, or was there and is gone: the gate must not guess.
    pub fn read(&self) -> Result<Record, StoreError> {
        let path = self.path("json");
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| StoreError::Damaged { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.must_be_there() => {
                Err(StoreError::Gone { path })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Record::default()),
            Err(source) => Err(StoreError::Read { path, source }),
        }
    }

    /// A record was written once: its mark says so, or what a gate left in memory in this boot.
    fn must_be_there(&self) -> bool {
        self.begun.load(Ordering::Relaxed) || self.path("begun").exists() || self.runtime_path("deadline").exists()
    }

    /// Keeps what is no record for whoever wants to look at it.
    pub fn set_aside(&self) {
        if let Err(error) = fs::rename(self.path("json"), self.path("json.damaged"))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, ticket = %self.ticket, "a damaged record cannot be kept aside");
        }
    }

    #[must_use]
    pub fn version(&self) -> Version {
        let meta = fs::metadata(self.path("json")).ok()?;
        Some((meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()))
    }

    /// Stores the record so that it survives a power cut.
    ///
    /// # Errors
    /// The disk refuses; the old record stands.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let path = self.path("json");
        let new = self.path("json.new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(record)?)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(&self.dir)?.sync_all()?;
        // Not before there is a record: one that was never written is not missing.
        if !self.begun.load(Ordering::Relaxed) {
            File::create(self.path("begun"))?.sync_all()?;
            File::open(&self.dir)?.sync_all()?;
            self.begun.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The deadline file, if it is of this boot. A damaged one counts as none: then there is no lease.
    #[must_use]
    pub fn read_deadline(&self, boot_id: &str) -> Option<DeadlineFile> {
        let read = |path: PathBuf| {
            let file = serde_json::from_slice::<DeadlineFile>(&fs::read(path).ok()?).ok();
            file.filter(|file| file.boot_id == boot_id)
        };
        let found = read(self.runtime_path("deadline"));
        if found.is_some() {
            self.old_deadline.store(false, Ordering::Relaxed);
        } else if self.old_deadline.load(Ordering::Relaxed) {
            return read(self.path("deadline"));
        }
        found
    }

    /// # Errors
    /// The runtime directory refuses; the old deadline stands, which is earlier.
    pub fn write_deadline(&self, file: &DeadlineFile) -> io::Result<()> {
        self.write_runtime("deadline", &serde_json::to_vec(file)?)
    }

    /// Nothing runs any more, and the warden's word is taken note of.
    ///
    /// # Errors
    /// As [`Store::say_stopped`].
    pub fn forget_deadline(&self, boot_id: &str) -> io::Result<()> {
        self.say_stopped(boot_id)?;
        remove(&self.runtime_path("stopped"))
    }

    /// Nothing runs any more. The file stays, so that one that vanished can be told from it.
    ///
    /// # Errors
    /// The runtime directory refuses; an old deadline that stays has passed or will.
    pub fn say_stopped(&self, boot_id: &str) -> io::Result<()> {
        if let Some(mut file) = self.read_deadline(boot_id) {
            (file.step, file.brief) = (None, Some(Brief { may_run: false, closed: true, holder: None }));
            self.write_deadline(&file).or_else(|_| remove(&self.runtime_path("deadline")))?;
        }
        Ok(())
    }

    fn write_runtime(&self, suffix: &str, bytes: &[u8]) -> io::Result<()> {
        let new = self.runtime_path(&format!("{suffix}.new"));
        fs::write(&new, bytes)?;
        fs::rename(&new, self.runtime_path(suffix))
    }

    /// # Errors
    /// The runtime directory takes nothing.
    pub fn try_runtime(&self) -> io::Result<()> {
        let new = self.runtime_path("deadline.new");
        fs::write(&new, [b'\n'; TRY_BYTES])?;
        fs::remove_file(new)
    }

    /// # Errors
    /// The runtime directory refuses: a gate that wakes up goes by its own clock.
    pub fn mark_stopped(&self, mark: &StopMark) -> io::Result<()> {
        self.write_runtime("stopped", &serde_json::to_vec(mark)?)
    }

    /// The warden has begun to stop the service, and not verified it.
    #[must_use]
    pub fn is_being_stopped(&self, boot_id: &str) -> bool {
        let brief = self.read_deadline(boot_id).and_then(|file| file.brief);
        self.stop_mark(boot_id).is_some() && brief.is_none_or(|brief| brief.may_run)
    }

    /// What the warden left behind in this boot and no gate has taken note of.
    #[must_use]
    pub fn stop_mark(&self, boot_id: &str) -> Option<StopMark> {
        let mark: StopMark = serde_json::from_slice(&fs::read(self.runtime_path("stopped")).ok()?).ok()?;
        (mark.boot_id == boot_id).then_some(mark)
    }

    /// Appends to the gate's log; a disk that refuses costs the line only.
    pub fn log(&self, boot_ms: BootMs, epoch: Epoch, active: bool, reason: &str) {
        let line = LogLine { boot_ms, ticket: self.ticket.clone(), epoch, active, reason: reason.to_owned() };
        let written = serde_json::to_string(&line).map_err(io::Error::other).and_then(|text| {
            let mut file = OpenOptions::new().create(true).append(true).open(self.dir.join("gate.log.jsonl"))?;
            file.write_all(format!("{text}\n").as_bytes())
        });
        if let Err(error) = written {
            tracing::error!(%error, ticket = %self.ticket, active, "the gate's log cannot be written");
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::{DeadlineFile, ProcessMark, StopMark, Store, StoreError};
    use crate::gate::record::{BootMs, Record};

    #[test]
    fn keeps_locks_and_refuses_damage() {
        let dir = std::env::temp_dir().join(format!("bcp-store-{}", std::process::id()));
        let run = dir.join("run");
        let store = Store::open(&dir, &run, &"rx".parse().unwrap()).unwrap();
        let other = Store::open(&dir, &run, &"rx".parse().unwrap()).unwrap();
        assert_eq!(store.read().unwrap(), Record::default());
        let record = Record { writes: 3, may_run: true, epoch: "1.4".parse().unwrap(), ..Record::default() };
        let before = store.version();
        store.write(&record).unwrap();
        assert_ne!(store.version(), before);
        assert_eq!(other.read().unwrap(), record);
        let held = store.lock(Duration::ZERO).unwrap();
        assert!(other.lock(Duration::from_millis(30)).is_none());
        drop(held);
        assert!(other.lock(Duration::ZERO).is_some());
        let file = DeadlineFile {
            boot_id: "b1".to_owned(),
            ticket: "rx".parse().unwrap(),
            epoch: record.epoch,
            deadline: BootMs(7),
            gate: ProcessMark::own().unwrap(),
            step: None,
            brief: Some(record.brief()),
        };
        store.write_deadline(&file).unwrap();
        assert_eq!(other.read_deadline("b1"), Some(file));
        assert_eq!(other.read_deadline("b2"), None, "of another boot");
        let mark = StopMark { boot_id: "b1".to_owned(), epoch: record.epoch, at: BootMs(8) };
        other.mark_stopped(&mark).unwrap();
        assert_eq!((store.stop_mark("b1"), store.stop_mark("b2")), (Some(mark), None));
        store.forget_deadline("b1").unwrap();
        let told = other.read_deadline("b1").and_then(|file| file.brief).map(|brief| brief.may_run);
        assert_eq!((told, other.stop_mark("b1")), (Some(false), None), "nothing runs, and that is known");
        std::fs::write(dir.join("rx.json"), b"{").unwrap();
        assert!(matches!(store.read(), Err(StoreError::Damaged { .. })));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_record_that_was_there_and_is_gone_is_not_a_new_one() {
        let dir = std::env::temp_dir().join(format!("bcp-store-gone-{}", std::process::id()));
        let run = dir.join("run");
        let open = || Store::open(&dir, &run, &"rx".parse().unwrap()).unwrap();
        let store = open();
        assert_eq!(store.read().unwrap(), Record::default(), "nothing was ever there");
        store.write(&Record { may_run: true, ..Record::default() }).unwrap();
        for store in [store, open()] {
            let _ = std::fs::remove_file(dir.join("rx.json"));
            assert!(matches!(store.read(), Err(StoreError::Gone { .. })));
        }
        // The whole directory is gone; in this boot a gate was at work.
        std::fs::remove_dir_all(&dir).unwrap();
        std::fs::create_dir_all(&run).unwrap();
        std::fs::write(run.join("rx.deadline"), b"{}").unwrap();
        assert!(matches!(open().read(), Err(StoreError::Gone { .. })));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
