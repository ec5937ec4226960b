//! The request log of a service: one line per answer, which is how a gap or a doubly active service would be seen.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

/// The log is turned over at this size; one older file is kept. Holds days of the visitor's requests.
const MAX_LOG_BYTES: u64 = 32 * 1024 * 1024;

/// Appends lines; a log that cannot be written never fails a request.
#[derive(Debug)]
pub struct RequestLog {
    path: PathBuf,
    open: Mutex<Option<(File, u64)>>,
}

impl RequestLog {
    #[must_use]
    pub fn new(directory: &Path) -> RequestLog {
        RequestLog { path: directory.join("requests.log"), open: Mutex::new(None) }
    }

    fn line(&self, text: &str) {
        let Ok(mut open) = self.open.lock() else { return };
        if open.as_ref().is_some_and(|(_, size)| *size > MAX_LOG_BYTES) {
            *open = None;
            let _ = std::fs::rename(&self.path, self.path.with_extension("log.1"));
        }
        if open.is_none() {
            *open = OpenOptions::new().create(true).append(true).open(&self.path).ok().map(|file| {
                let size = file.metadata().map_or(0, |meta| meta.len());
                (file, size)
            });
        }
        if let Some((file, size)) = open.as_mut()
            && file.write_all(text.as_bytes()).is_ok()
        {
            *size += text.len() as u64;
        }
    }
}

/// Milliseconds since 1970 UTC: a label, never a duration.
#[must_use]
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// What the service was when it answered, for the log line.
pub trait Label: Send + Sync {
    fn label(&self) -> String;
    fn requests(&self) -> &RequestLog;
}

/// Middleware: logs users' requests (`GET /`, `POST /write`), not the checks and not the replication.
pub async fn log<S: Label>(State(service): State<std::sync::Arc<S>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if path != "/" && path != "/write" {
        return next.run(request).await;
    }
    let line = format!("{} {path}", request.method());
    let begun = Instant::now();
    let response = next.run(request).await;
    service.requests().line(&format!(
        "{} {line} {} {} {}ms\n",
        wall_ms(),
        response.status().as_u16(),
        service.label(),
        begun.elapsed().as_millis()
    ));
    response
}
