//! Files of one ticket, shared by gate and warden under a lock.
//!
//! `TICKET.json` the record (fsync, rename, directory fsync), `TICKET.deadline` what the warden must know (rename only: after
//! a power cut it is another boot anyway), `TICKET.lock`, `TICKET.step.log` output of the last step, and one
//! `gate.log.jsonl` for all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bcp_wire::{Epoch, Id};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};

use super::record::{BootMs, Record};

const LOCK_POLL: Duration = Duration::from_millis(10);

/// Why a ticket's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("failed to make {path}", path = path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("failed to read {path}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is damaged; the highest epoch of this gate is unknown, so it must not act (see the runbook)", path = path.display())]
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
    ticket: Id,
    lock: Arc<File>,
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

impl Store {
    /// # Errors
    /// The directory or the lock file cannot be made.
    pub fn open(dir: &Path, ticket: &Id) -> Result<Store, StoreError> {
        let fault = |path: &Path, source| StoreError::Make { path: path.to_owned(), source };
        fs::create_dir_all(dir).map_err(|source| fault(dir, source))?;
        let path = dir.join(format!("{ticket}.lock"));
        let lock = OpenOptions::new().create(true).append(true).open(&path).map_err(|source| fault(&path, source))?;
        Ok(Store { dir: dir.to_owned(), ticket: ticket.clone(), lock: Arc::new(lock) })
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.dir.join(format!("{}.{suffix}", self.ticket))
    }

    #[must_use]
    pub fn step_log(&self) -> PathBuf {
        self.path("step.log")
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
    /// It is there but cannot be read: the gate must not guess.
    pub fn read(&self) -> Result<Record, StoreError> {
        let path = self.path("json");
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| StoreError::Damaged { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Record::default()),
            Err(source) => Err(StoreError::Read { path, source }),
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
        File::open(&self.dir)?.sync_all()
    }

    /// The deadline file, if it is of this boot. A damaged one counts as none: then there is no lease.
    #[must_use]
    pub fn read_deadline(&self, boot_id: &str) -> Option<DeadlineFile> {
        let bytes = fs::read(self.path("deadline")).ok()?;
        serde_json::from_slice::<DeadlineFile>(&bytes).ok().filter(|file| file.boot_id == boot_id)
    }

    /// # Errors
    /// The disk refuses; the old deadline stands, which is earlier.
    pub fn write_deadline(&self, file: &DeadlineFile) -> io::Result<()> {
        let new = self.path("deadline.new");
        fs::write(&new, serde_json::to_vec(file)?)?;
        fs::rename(&new, self.path("deadline"))
    }

    /// # Errors
    /// The disk refuses; an old deadline that stays has passed or will.
    pub fn forget_deadline(&self) -> io::Result<()> {
        match fs::remove_file(self.path("deadline")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::{DeadlineFile, ProcessMark, Store, StoreError};
    use crate::gate::record::{BootMs, Record};

    #[test]
    fn keeps_locks_and_refuses_damage() {
        let dir = std::env::temp_dir().join(format!("bcp-store-{}", std::process::id()));
        let store = Store::open(&dir, &"rx".parse().unwrap()).unwrap();
        let other = Store::open(&dir, &"rx".parse().unwrap()).unwrap();
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
        };
        store.write_deadline(&file).unwrap();
        assert_eq!(other.read_deadline("b1"), Some(file));
        assert_eq!(other.read_deadline("b2"), None, "of another boot");
        std::fs::write(dir.join("rx.json"), b"{").unwrap();
        assert!(matches!(store.read(), Err(StoreError::Damaged { .. })));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
