//! The agent's outbox on disk.

use serde::Deserialize;

use crate::span::Span;

/// `[spool]`: bounds of the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolConfig {
    /// Most bytes on disk. Above it the oldest payloads go, events last.
    pub max_bytes: u64,
    /// Payloads older than this go.
    pub max_age: Span,
    /// Longest time an accepted payload waits for its fsync: what a `kill -9` with a power cut may cost.
    pub fsync: Span,
    /// Size of one segment file.
    pub segment_bytes: u64,
}

impl Default for SpoolConfig {
    fn default() -> SpoolConfig {
        SpoolConfig {
            max_bytes: 64 << 20,
            max_age: Span::from_millis(72 * 3_600_000),
            fsync: Span::from_millis(200),
            segment_bytes: 2 << 20,
        }
    }
}

impl SpoolConfig {
    /// Says what cannot work, as (key, reason).
    #[must_use]
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if !(64 << 10..=16 << 20).contains(&self.segment_bytes) {
            faults.push(("segment_bytes", "must be between 64 KiB and 16 MiB".to_owned()));
        }
        if self.max_bytes < 4 * self.segment_bytes {
            faults.push(("max_bytes", format!("must hold at least four segments ({} bytes)", 4 * self.segment_bytes)));
        }
        if self.fsync.as_millis() == 0 || self.fsync.as_millis() > 10_000 {
            faults.push(("fsync", "must be between 1ms and 10s".to_owned()));
        }
        if self.max_age.as_millis() < 60_000 {
            faults.push(("max_age", "must be at least 1m".to_owned()));
        }
        faults
    }
}
