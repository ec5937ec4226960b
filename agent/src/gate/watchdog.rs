//! `loss = "fence"`: the machine's watchdog, and what gate and warden tell each other about it.
//!
//! Knows: the device (linux, watchdog-api: any byte is a kick, a `V` before the close releases it), what sysfs says of it, the
//! file in the runtime directory by which a gate learns that it is armed. Refuses to know: when to arm, kick or release it; that
//! is [`crate::warden`]'s, and the warden alone opens it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, major, minor};
use serde::{Deserialize, Serialize};

use super::store::ProcessMark;
use crate::span::Span;

/// Watchdogs count in seconds.
const TIMEOUT_LEAST_MS: u64 = 1_000;
/// The first watchdog's older name, misc device 10:130; sysfs describes it under the name of the first one.
const FIRST: (u32, u32) = (10, 130);
const KICK: &[u8] = b"k";
const RELEASE: &[u8] = b"V";

/// `[gate.watchdog]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchdogConfig {
    #[serde(default = "default_path")]
    pub path: PathBuf,
    /// What the device is set to; the machine is reset this long after the last kick.
    pub timeout: Span,
    /// A file or pipe in place of a device, for tests and rehearsals: it fences nothing.
    #[serde(default)]
    pub stand_in: bool,
}

fn default_path() -> PathBuf {
    PathBuf::from("/dev/watchdog")
}

impl WatchdogConfig {
    /// Says what cannot work, as (key, reason).
    pub(super) fn faults(&self, stop_max_ms: u64) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let timeout_ms = self.timeout.as_millis();
        if timeout_ms < TIMEOUT_LEAST_MS || timeout_ms > stop_max_ms {
            let reason = format!(
                "{timeout_ms} ms is not between {TIMEOUT_LEAST_MS} ms and stop_max ({stop_max_ms} ms): the machine must be reset by the time its service must have stopped"
            );
            faults.push(("watchdog.timeout".to_owned(), reason));
        }
        if !self.path.is_absolute() {
            faults.push(("watchdog.path".to_owned(), format!("{} is not an absolute path", self.path.display())));
        }
        faults
    }
}

/// Why a watchdog fences nothing.
#[derive(Debug, thiserror::Error)]
pub enum WatchdogError {
    #[error("{path} cannot be used", path = path.display())]
    Use { path: PathBuf, source: io::Error },
    #[error("{path} is not a device; `stand_in = true` allows that, and fences nothing", path = path.display())]
    NoDevice { path: PathBuf },
    #[error("sysfs does not tell {what} of {path}", path = path.display())]
    NotTold { path: PathBuf, what: &'static str, source: io::Error },
    #[error("{path} is set to {found_s} s, longer than the {allowed_ms} ms of `timeout`: set it by its module's parameter or `wdctl --settimeout`", path = path.display())]
    Slow { path: PathBuf, found_s: u64, allowed_ms: u64 },
    #[error("{path} cannot be released (nowayout is set), so every stop would reset the machine", path = path.display())]
    NoWayOut { path: PathBuf },
}

/// An armed watchdog. Dropped without [`Watchdog::release`] it goes on counting.
#[derive(Debug)]
pub struct Watchdog {
    path: PathBuf,
    device: File,
}

impl Watchdog {
    /// Whether the device is there and set as it must be; does not arm it.
    ///
    /// # Errors
    /// Why it would fence nothing.
    pub fn examine(config: &WatchdogConfig, sys: &Path) -> Result<(), WatchdogError> {
        let path = || config.path.clone();
        let meta = fs::metadata(&config.path).map_err(|source| WatchdogError::Use { path: path(), source })?;
        if config.stand_in {
            return Ok(());
        }
        if !meta.file_type().is_char_device() {
            return Err(WatchdogError::NoDevice { path: path() });
        }
        let number = (major(meta.rdev()), minor(meta.rdev()));
        let dir = match number {
            FIRST => sys.join("class/watchdog/watchdog0"),
            (major, minor) => sys.join(format!("dev/char/{major}:{minor}")),
        };
        let read = |what: &'static str| {
            let told = fs::read_to_string(dir.join(what))
                .and_then(|text| text.trim().parse::<u64>().map_err(io::Error::other));
            told.map_err(|source| WatchdogError::NotTold { path: path(), what, source })
        };
        let (found_s, allowed_ms) = (read("timeout")?, config.timeout.as_millis());
        if found_s.saturating_mul(1_000) > allowed_ms {
            return Err(WatchdogError::Slow { path: path(), found_s, allowed_ms });
        }
        if read("nowayout")? != 0 {
            return Err(WatchdogError::NoWayOut { path: path() });
        }
        Ok(())
    }

    /// Opens the device, which arms it.
    ///
    /// # Errors
    /// It is missing, in use by another program, or not set as it must be.
    pub fn arm(config: &WatchdogConfig, sys: &Path) -> Result<Watchdog, WatchdogError> {
        Watchdog::examine(config, sys)?;
        let path = config.path.clone();
        // Not created where it is missing, and a pipe that nobody reads is not waited for.
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(device) => Ok(Watchdog { path, device: device.into() }),
            Err(error) => Err(WatchdogError::Use { path, source: error.into() }),
        }
    }

    /// The machine lives for another timeout.
    ///
    /// # Errors
    /// The device refuses.
    pub fn kick(&mut self) -> Result<(), WatchdogError> {
        self.write(KICK)
    }

    /// Ends the counting.
    ///
    /// # Errors
    /// The device refuses; it goes on counting.
    pub fn release(mut self) -> Result<(), WatchdogError> {
        self.write(RELEASE)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), WatchdogError> {
        self.device.write_all(bytes).map_err(|source| WatchdogError::Use { path: self.path.clone(), source })
    }
}

/// What a warden says of the watchdog.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Fence {
    /// There, and not armed: nothing runs.
    Ready,
    Armed,
    Unusable {
        reason: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceFile {
    pub boot_id: String,
    pub warden: ProcessMark,
    pub fence: Fence,
}

fn file(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("watchdog.json")
}

/// # Errors
/// The runtime directory refuses.
pub fn say(runtime_dir: &Path, said: &FenceFile) -> io::Result<()> {
    let new = runtime_dir.join("watchdog.json.new");
    fs::write(&new, serde_json::to_vec(said)?)?;
    fs::rename(new, file(runtime_dir))
}

/// What the warden says, if it lives.
#[must_use]
pub fn hear(runtime_dir: &Path, boot_id: &str) -> Fence {
    let silent = |reason: &str| Fence::Unusable { reason: reason.to_owned() };
    let Ok(bytes) = fs::read(file(runtime_dir)) else { return silent("no warden says that it has the watchdog") };
    match serde_json::from_slice::<FenceFile>(&bytes) {
        Ok(said) if said.boot_id != boot_id || ProcessMark::of(said.warden.pid) != Some(said.warden) => {
            silent("the warden that had the watchdog is gone")
        }
        Ok(said) => said.fence,
        Err(_) => silent("what the warden says of the watchdog cannot be read"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn config(path: &Path, stand_in: bool) -> WatchdogConfig {
        WatchdogConfig { path: path.to_owned(), timeout: Span::from_millis(3_000), stand_in }
    }

    #[test]
    fn a_device_must_be_one_and_be_set_right() {
        let dir = std::env::temp_dir().join(format!("bcp-watchdog-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        // /dev/null is character device 1:3; what sysfs says of it is written here.
        let about = dir.join("dev/char/1:3");
        fs::create_dir_all(&about).unwrap();
        let null = config(Path::new("/dev/null"), false);
        let error = || Watchdog::arm(&null, &dir).unwrap_err().to_string();
        assert!(error().contains("does not tell timeout"), "{}", error());
        fs::write(about.join("timeout"), "60\n").unwrap();
        fs::write(about.join("nowayout"), "1\n").unwrap();
        assert!(error().contains("set to 60 s"), "{}", error());
        fs::write(about.join("timeout"), "3\n").unwrap();
        assert!(error().contains("nowayout"), "{}", error());
        fs::write(about.join("nowayout"), "0\n").unwrap();
        let mut armed = Watchdog::arm(&null, &dir).unwrap();
        armed.kick().unwrap();
        armed.release().unwrap();
        let plain = dir.join("plain");
        assert!(Watchdog::arm(&config(&plain, true), &dir).is_err(), "a device that is missing is not made");
        fs::write(&plain, "").unwrap();
        let refused = Watchdog::arm(&config(&plain, false), &dir).unwrap_err().to_string();
        assert!(refused.contains("not a device"), "{refused}");
        let mut armed = Watchdog::arm(&config(&plain, true), &dir).unwrap();
        armed.kick().unwrap();
        armed.kick().unwrap();
        armed.release().unwrap();
        assert_eq!(fs::read(&plain).unwrap(), b"kkV");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_gate_hears_a_living_warden_of_this_boot_only() {
        let dir = std::env::temp_dir().join(format!("bcp-fence-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        assert!(matches!(hear(&dir, "b1"), Fence::Unusable { .. }));
        let warden = ProcessMark::own().unwrap();
        let armed = FenceFile { boot_id: "b1".to_owned(), warden, fence: Fence::Armed };
        say(&dir, &armed).unwrap();
        assert_eq!(hear(&dir, "b1"), Fence::Armed);
        assert!(matches!(hear(&dir, "b2"), Fence::Unusable { .. }), "of another boot");
        let dead = ProcessMark { started: warden.started + 1, ..warden };
        say(&dir, &FenceFile { warden: dead, ..armed }).unwrap();
        assert!(matches!(hear(&dir, "b1"), Fence::Unusable { .. }), "another process has its number");
        fs::remove_dir_all(dir).unwrap();
    }
}
