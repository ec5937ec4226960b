//! The start counter of the agent, kept on disk.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The number of this start, and why it could not be kept where that failed.
#[derive(Debug)]
pub struct Incarnation {
    pub number: u64,
    pub trouble: Option<String>,
}

/// More starts than this were never counted: such a number is damage.
const STARTS_MAX: u64 = u32::MAX as u64;

/// Takes the next number: above the stored one and above `at_least`.
///
/// Where the disk refuses, seconds since 1970 serve: above every honest counter, and growing from start to start.
#[must_use]
pub fn take(path: &Path, at_least: u64) -> Incarnation {
    let stored = match fs::read_to_string(path) {
        Ok(text) => match text.trim().parse::<u64>() {
            Ok(count) if count <= STARTS_MAX => Ok(count),
            Ok(count) => Err(format!("start counter is damaged: it says {count}")),
            Err(error) => Err(format!("start counter is damaged: {error}")),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(format!("start counter cannot be read: {error}")),
    };
    let number = match &stored {
        Ok(stored) => stored.max(&at_least).saturating_add(1),
        Err(_) => now_s().max(at_least.saturating_add(1)),
    };
    let kept = keep(path, number).map_err(|error| format!("start counter cannot be written: {error}"));
    match (stored, kept) {
        (Ok(_), Ok(())) => Incarnation { number, trouble: None },
        (Err(trouble), Ok(())) => Incarnation { number, trouble: Some(trouble) },
        (_, Err(trouble)) => Incarnation { number: now_s().max(number), trouble: Some(trouble) },
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs())
}

/// Writes the counter so that it survives a power cut.
pub fn keep(path: &Path, number: u64) -> io::Result<()> {
    let dir = path.parent().ok_or_else(|| io::Error::other("no directory"))?;
    fs::create_dir_all(dir)?;
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    writeln!(file, "{number}")?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::take;

    #[test]
    fn counts_starts() {
        let dir = std::env::temp_dir().join(format!("bcp-incarnation-{}", std::process::id()));
        let path = dir.join("incarnation");
        assert_eq!(take(&path, 0).number, 1);
        assert_eq!(take(&path, 0).number, 2);
        assert_eq!(take(&path, 7).number, 8, "above what the spool holds");
        for damage in ["x", "18446744073709551615"] {
            std::fs::write(&path, damage).unwrap();
            let damaged = take(&path, 0);
            assert!(damaged.number > 1_000_000_000 && damaged.trouble.is_some(), "{damage}: {damaged:?}");
            assert_eq!(take(&path, 0).number, damaged.number + 1);
        }
        std::fs::remove_dir_all(dir).unwrap();
        assert!(take(std::path::Path::new("/proc/no/such"), 0).trouble.is_some());
    }
}
