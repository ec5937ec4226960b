//! A visitor who uses `prescriptions` through the front door all day, and remembers every gap.
//!
//! Reads ten times a second, writes once a second, and reads back what was acknowledged: an acknowledged write that is
//! gone is counted as lost. Tasks: the reader and the writer. Knows nothing of sites.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Ten requests a second.
const READ_EVERY: Duration = Duration::from_millis(100);
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// A user gives up after this long.
const READ_TIMEOUT: Duration = Duration::from_millis(1_000);
/// A write may wait for the other site or for the log.
const WRITE_TIMEOUT: Duration = Duration::from_secs(6);
/// Shorter pauses are not called a gap: three missed requests.
const GAP: Duration = Duration::from_millis(350);

/// What the visitor has seen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Seen {
    pub answered: u64,
    pub failed: u64,
    /// Time between two answers around a gap.
    pub longest_gap_ms: u64,
    pub last_gap_ms: Option<u64>,
    pub last_gap_ended_ms_ago: Option<u64>,
    /// Not answered for this long now.
    pub open_gap_ms: Option<u64>,
    pub writes_acknowledged: u64,
    pub writes_refused: u64,
    pub longest_write_gap_ms: u64,
    /// Acknowledged, and not there when read back.
    pub writes_lost: u64,
}

#[derive(Debug, Default)]
struct Memory {
    seen: Seen,
    last_answer: Option<Instant>,
    last_gap_ended: Option<Instant>,
    last_write: Option<Instant>,
}

/// Shared between its tasks and those who ask.
#[derive(Debug, Default)]
pub struct Visitor {
    memory: Mutex<Memory>,
}

impl Visitor {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What was seen until now.
    #[must_use]
    pub fn seen(&self) -> Seen {
        let memory = self.lock();
        let ms = |since: Instant| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let open = memory.last_answer.filter(|last| last.elapsed() > GAP).map(ms);
        Seen {
            last_gap_ended_ms_ago: memory.last_gap_ended.map(ms),
            open_gap_ms: open,
            longest_gap_ms: memory.seen.longest_gap_ms.max(open.unwrap_or(0)),
            ..memory.seen.clone()
        }
    }

    fn answered(&self) {
        let mut memory = self.lock();
        let now = Instant::now();
        memory.seen.answered += 1;
        if let Some(last) = memory.last_answer.replace(now)
            && now - last > GAP
        {
            let gap_ms = u64::try_from((now - last).as_millis()).unwrap_or(u64::MAX);
            memory.seen.last_gap_ms = Some(gap_ms);
            memory.seen.longest_gap_ms = memory.seen.longest_gap_ms.max(gap_ms);
            memory.last_gap_ended = Some(now);
        }
    }

    /// Starts reading and writing.
    ///
    /// # Errors
    /// No HTTP client can be made.
    pub fn start(self: &Arc<Self>, door: u16) -> Result<(), reqwest::Error> {
        // Every request is a connection of its own, as of another user.
        let client = bcp_identity::plain_http().pool_max_idle_per_host(0).build()?;
        let url = format!("http://127.0.0.1:{door}");
        tokio::spawn(Arc::clone(self).read(client.clone(), url.clone()));
        tokio::spawn(Arc::clone(self).write(client, url));
        Ok(())
    }

    async fn read(self: Arc<Self>, client: reqwest::Client, url: String) {
        let mut every = tokio::time::interval(READ_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let answer = client.get(&url).timeout(READ_TIMEOUT).send().await;
            match answer {
                Ok(answer) if answer.status().is_success() => self.answered(),
                _ => self.lock().seen.failed += 1,
            }
        }
    }

    async fn write(self: Arc<Self>, client: reqwest::Client, url: String) {
        #[derive(Deserialize)]
        struct Written {
            position: u64,
        }
        #[derive(Deserialize)]
        struct Entry {
            text: String,
        }
        let mut every = tokio::time::interval(WRITE_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut kept: Option<(u64, String)> = None;
        let mut number = 0_u64;
        loop {
            every.tick().await;
            if let Some((position, text)) = &kept {
                let asked = client.get(format!("{url}/entry?position={position}")).timeout(READ_TIMEOUT).send().await;
                if let Ok(answer) = asked {
                    let is_gone = match answer.status().as_u16() {
                        404 => Some(true),
                        200 => answer.json::<Entry>().await.ok().map(|entry| entry.text != *text),
                        _ => None,
                    };
                    if is_gone == Some(true) {
                        tracing::error!(position, "an acknowledged write is gone");
                        self.lock().seen.writes_lost += 1;
                        kept = None;
                    }
                }
            }
            number += 1;
            let text = format!("visit {number} of process {}", std::process::id());
            let sent = client.post(format!("{url}/write")).body(text.clone()).timeout(WRITE_TIMEOUT).send().await;
            let written = match sent.and_then(reqwest::Response::error_for_status) {
                Ok(answer) => answer.json::<Written>().await.ok(),
                Err(_) => None,
            };
            let mut memory = self.lock();
            match written {
                Some(written) => {
                    kept = Some((written.position, text));
                    memory.seen.writes_acknowledged += 1;
                    let now = Instant::now();
                    if let Some(last) = memory.last_write.replace(now) {
                        let gap_ms = u64::try_from((now - last).as_millis()).unwrap_or(u64::MAX);
                        memory.seen.longest_write_gap_ms = memory.seen.longest_write_gap_ms.max(gap_ms);
                    }
                }
                None => memory.seen.writes_refused += 1,
            }
        }
    }
}
