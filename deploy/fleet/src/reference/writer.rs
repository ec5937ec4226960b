//! A client of the reference application that writes without end, through HAProxy, and knows what was acknowledged.
//!
//! Every row has a key of its own. A row whose INSERT was answered is acknowledged; one whose answer never came is unknown, and
//! is not written again. After every new connection the last acknowledged ones are looked for: what is not there is lost.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, NoTls};

const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// A writer gives up after this long; then the row is neither acknowledged nor refused.
const WRITE_LIMIT: Duration = Duration::from_secs(6);
const RECONNECT: Duration = Duration::from_millis(50);
/// Acknowledged rows that are looked for again.
const KEPT: usize = 20_000;

/// What the writer has seen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Written {
    pub acknowledged: u64,
    /// Refused, or without an answer.
    pub unknown: u64,
    pub lost: u64,
    pub longest_gap_ms: u64,
    /// Since the last acknowledged row.
    pub silent_ms: u64,
}

/// How it writes.
#[derive(Debug, Clone)]
pub struct Options {
    pub port: u16,
    pub password: String,
    /// Between two rows of one connection.
    pub pause: Duration,
    pub connections: usize,
    /// Keys begin here; two writers must not share any.
    pub first_key: u64,
}

#[derive(Debug, Default)]
struct Log {
    acknowledged: u64,
    unknown: u64,
    lost: u64,
    longest_gap: Duration,
    last: Option<Instant>,
    /// Keys, oldest first.
    kept: VecDeque<u64>,
}

impl Log {
    fn take(&mut self, key: u64) {
        let now = Instant::now();
        self.longest_gap = self.longest_gap.max(self.last.map_or(Duration::ZERO, |last| now - last));
        self.last = Some(now);
        self.acknowledged += 1;
        self.kept.push_back(key);
        if self.kept.len() > KEPT {
            self.kept.pop_front();
        }
    }
}

/// A writer at work.
#[derive(Debug)]
pub struct Writer {
    options: Options,
    log: Mutex<Log>,
    next: AtomicU64,
    is_over: AtomicBool,
}

impl Writer {
    /// Begins to write; ends with [`Writer::end`].
    #[must_use]
    pub fn start(options: Options) -> Arc<Writer> {
        let next = AtomicU64::new(options.first_key);
        let connections = options.connections;
        let writer = Arc::new(Writer { options, log: Mutex::default(), next, is_over: AtomicBool::new(false) });
        for _ in 0..connections {
            tokio::spawn(Arc::clone(&writer).write());
        }
        writer
    }

    pub fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    #[must_use]
    pub fn seen(&self) -> Written {
        let log = self.log();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Written {
            acknowledged: log.acknowledged,
            unknown: log.unknown,
            lost: log.lost,
            longest_gap_ms: millis(log.longest_gap),
            silent_ms: log.last.map_or(0, |last| millis(last.elapsed())),
        }
    }

    /// When the last row was acknowledged.
    #[must_use]
    pub fn last(&self) -> Option<Instant> {
        self.log().last
    }

    /// The keys that were acknowledged, as many as are kept.
    #[must_use]
    pub fn acknowledged(&self) -> Vec<u64> {
        self.log().kept.iter().copied().collect()
    }

    async fn write(self: Arc<Self>) {
        while !self.is_over.load(Ordering::Relaxed) {
            if let Some((client, driver)) = connect(self.options.port, &self.options.password).await {
                if self.look_for(&client).await.is_some() {
                    self.write_through(&client).await;
                }
                driver.abort();
            }
            tokio::time::sleep(RECONNECT).await;
        }
    }

    async fn write_through(&self, client: &Client) {
        while !self.is_over.load(Ordering::Relaxed) {
            let key = self.next.fetch_add(1, Ordering::Relaxed);
            let insert = format!("INSERT INTO entries (id) VALUES ({key})");
            let done = matches!(tokio::time::timeout(WRITE_LIMIT, client.batch_execute(&insert)).await, Ok(Ok(())));
            if !done {
                self.log().unknown += 1;
                return;
            }
            self.log().take(key);
            tokio::time::sleep(self.options.pause).await;
        }
    }

    /// Counts acknowledged rows that are not there.
    async fn look_for(&self, client: &Client) -> Option<()> {
        let keys = self.acknowledged();
        let missing = missing(client, &keys).await?;
        if !missing.is_empty() {
            tracing::error!(rows = missing.len(), "acknowledged rows are gone");
            let mut log = self.log();
            log.lost += missing.len() as u64;
            // Said once.
            log.kept.retain(|key| !missing.contains(key));
        }
        Some(())
    }
}

/// A session as the application; its driver ends with `abort`.
pub async fn connect(port: u16, password: &str) -> Option<(Client, tokio::task::JoinHandle<()>)> {
    let mut options = tokio_postgres::Config::new();
    options.host("127.0.0.1").port(port).user("app").password(password).dbname("postgres");
    options.connect_timeout(CONNECT_LIMIT);
    let connecting = tokio::time::timeout(CONNECT_LIMIT, options.connect(NoTls));
    let (client, connection) = connecting.await.ok()?.ok()?;
    let driver = tokio::spawn(async move {
        // How it ended is seen by who waits for an answer.
        let _ = connection.await;
    });
    Some((client, driver))
}

/// Those of `keys` that are no rows.
pub async fn missing(client: &Client, keys: &[u64]) -> Option<std::collections::BTreeSet<u64>> {
    if keys.is_empty() {
        return Some(std::collections::BTreeSet::new());
    }
    let list: Vec<String> = keys.iter().map(u64::to_string).collect();
    let query = format!(
        "SELECT k FROM unnest('{{{}}}'::bigint[]) k LEFT JOIN entries e ON e.id = k WHERE e.id IS NULL",
        list.join(",")
    );
    let asked = tokio::time::timeout(WRITE_LIMIT, client.simple_query(&query)).await.ok()?.ok()?;
    let rows = asked.iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    });
    Some(rows.collect())
}
