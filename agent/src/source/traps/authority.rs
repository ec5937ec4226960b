//! Our own engine: informs of version 3 are sent to it, so it has an identity, boots and time (RFC 3411, 3414).
//!
//! Knows: the file that keeps identity and boots. Invariant: the same identity never shows lower boots; where the file
//! cannot be kept, the identity is a new one at every start.

use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

const FILE: &str = "snmp-engine.json";
/// RFC 3411, SnmpEngineID: no enterprise, "octets" of our own.
const PREFIX: [u8; 5] = [0x80, 0, 0, 0, 5];
const RANDOM_BYTES: usize = 12;
/// RFC 3414, 2.2.3.
const WINDOW_S: u32 = 150;

/// Identity, boots and time.
#[derive(Debug)]
pub struct Authority {
    pub id: Vec<u8>,
    pub boots: u32,
    started: Instant,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    id: Vec<u8>,
    boots: u32,
}

impl Authority {
    /// Starts once more.
    #[must_use]
    pub fn open(dir: &Path) -> Authority {
        let path = dir.join(FILE);
        let kept = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
        let fresh = || Kept { id: [&PREFIX[..], &rand::random::<[u8; RANDOM_BYTES]>()].concat(), boots: 0 };
        let sound = |kept: &Kept| kept.id.len() == PREFIX.len() + RANDOM_BYTES && kept.boots < u32::MAX / 2 - 1;
        let mut kept = kept.filter(sound).unwrap_or_else(fresh);
        kept.boots += 1;
        let written = serde_json::to_vec(&kept).map_err(std::io::Error::from).and_then(|bytes| {
            let new = path.with_extension("new");
            std::fs::write(&new, bytes)?;
            std::fs::rename(&new, &path)
        });
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "our SNMP identity cannot be kept: it is a new one each time");
            kept = Kept { boots: 1, ..fresh() };
        }
        Authority { id: kept.id, boots: kept.boots, started: Instant::now() }
    }

    #[must_use]
    pub fn time(&self) -> u32 {
        u32::try_from(self.started.elapsed().as_secs()).unwrap_or(u32::MAX)
    }

    /// True where a message of these boots and time is of now.
    #[must_use]
    pub fn is_timely(&self, boots: u32, time: u32) -> bool {
        boots == self.boots && time.abs_diff(self.time()) <= WINDOW_S
    }
}

/// The newest boots and time heard of an engine that sends to us.
#[derive(Debug, Clone, Copy)]
pub struct Heard {
    boots: u32,
    time: u32,
}

impl Heard {
    #[must_use]
    pub const fn new(boots: u32, time: u32) -> Heard {
        Heard { boots, time }
    }

    /// True where a message is no older than the newest one, give or take the window; then it may be the newest.
    pub fn accepts(&mut self, boots: u32, time: u32) -> bool {
        let older = boots < self.boots || (boots == self.boots && time.saturating_add(WINDOW_S) < self.time);
        if !older && (boots, time) > (self.boots, self.time) {
            (self.boots, self.time) = (boots, time);
        }
        !older
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_stays_and_boots_rise() {
        let dir = std::env::temp_dir().join(format!("bcp-authority-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (first, second) = (Authority::open(&dir), Authority::open(&dir));
        assert_eq!(first.id, second.id);
        assert_eq!((first.boots, second.boots), (1, 2));
        std::fs::write(dir.join(FILE), "not a file of ours").unwrap();
        assert_ne!(Authority::open(&dir).id, first.id);
        std::fs::remove_dir_all(&dir).unwrap();
        // No place to keep it: another identity, so that boots that fell back can harm nobody.
        let nowhere = (Authority::open(&dir), Authority::open(&dir));
        assert_ne!(nowhere.0.id, nowhere.1.id);
    }

    #[test]
    fn old_messages_are_not_taken_again() {
        let mut heard = Heard::new(3, 1_000);
        assert!(heard.accepts(3, 1_100) && heard.accepts(3, 960) && !heard.accepts(3, 900));
        assert!(heard.accepts(4, 5) && !heard.accepts(3, 2_000));
    }
}
