//! The task that delivers: takes the oldest lines, sends them, and does what the answer asks for.
//!
//! Knows: one request at a time, its limits, and how to make it smaller. Refuses to know: where lines come from. A request
//! that is too large, or that holds a line the server refuses, goes again in halves; a line that is refused alone is set
//! aside with the server's words. Everything else waits: as long as the server asks, or twice as long each time.
//!
//! Task: [`Writer::run`], cancel-safe: what was not marked as delivered goes again.

use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;

use super::answer::{self, Answer, MAX_REASON_BYTES};
use super::quarantine::Quarantine;
use super::queue::{FRAME_BYTES, QueueError, Taken};
use super::{Export, queue};
use crate::config::Influx;
use crate::ingest::link::chain;

/// Lines wait this long for company while there are less than a request of them.
const GATHER: Duration = Duration::from_secs(1);
const BACK_OFF_MIN: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(60);
/// Connecting takes this long, or there is nobody.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// After so many requests of a size that was not refused, a larger one is tried.
const GROW_AFTER: u32 = 64;

/// Why the writer cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    #[error("failed to read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} holds no token that a header can carry", path.display())]
    Token { path: PathBuf },
    #[error("{} holds no PEM certificate of a CA", path.display())]
    Ca { path: PathBuf },
    #[error("failed to set up TLS for the long-term database")]
    Tls(#[source] rustls::Error),
    #[error("failed to set up the HTTP client of the long-term database")]
    Client(#[source] reqwest::Error),
}

/// How much a request holds: shrinks when it is too large, grows again in time.
#[derive(Debug)]
struct Size {
    now: usize,
    most: usize,
    taken: u32,
}

impl Size {
    fn too_large(&mut self, bytes: usize) {
        self.now = (bytes / 2).clamp(1, self.most);
        self.taken = 0;
    }

    fn taken(&mut self) {
        self.taken += 1;
        if self.taken >= GROW_AFTER && self.now < self.most {
            self.now = self.now.saturating_mul(2).min(self.most);
            self.taken = 0;
        }
    }
}

/// Sends what the queue holds to one database.
#[derive(Debug)]
pub struct Writer {
    export: Arc<Export>,
    client: reqwest::Client,
    url: String,
    token: Option<reqwest::header::HeaderValue>,
    timeout: Duration,
    quarantine: Quarantine,
    size: Size,
    back_off: Duration,
}

impl Writer {
    /// # Errors
    /// The token or the CA cannot be read, or is none.
    pub fn new(config: &Influx, export: Arc<Export>) -> Result<Writer, WriterError> {
        let token = match &config.token_file {
            None => None,
            Some(path) => Some(token(&read(path)?).ok_or_else(|| WriterError::Token { path: path.clone() })?),
        };
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(config.ca.as_deref())?)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_LIMIT)
            .timeout(config.timeout)
            .tcp_nodelay(true)
            .build()
            .map_err(WriterError::Client)?;
        let quarantine = Quarantine::in_dir(export.queue.dir());
        let most = config.request_bytes.max(FRAME_BYTES);
        Ok(Writer {
            url: write_url(config),
            token,
            client,
            timeout: config.timeout,
            quarantine,
            size: Size { now: most, most, taken: 0 },
            back_off: BACK_OFF_MIN,
            export,
        })
    }

    /// Delivers for ever.
    pub async fn run(mut self) {
        loop {
            match self.take().await {
                Ok(Some(taken)) => {
                    let is_full = taken.lines.len() + FRAME_BYTES > self.size.most;
                    self.deliver(&taken.lines).await;
                    let export = Arc::clone(&self.export);
                    let marked = tokio::task::spawn_blocking(move || export.queue.delivered(&taken)).await;
                    self.export.note_rescued(marked.unwrap_or(0));
                    if !is_full {
                        tokio::time::sleep(GATHER).await;
                    }
                }
                Ok(None) => self.export.queued.notified().await,
                Err(error) => {
                    self.export.note(Some(("queue", &chain(&error))));
                    tokio::time::sleep(BACK_OFF_MAX).await;
                }
            }
        }
    }

    async fn take(&self) -> Result<Option<Taken>, QueueError> {
        let (export, most) = (Arc::clone(&self.export), self.size.most);
        match tokio::task::spawn_blocking(move || export.queue.peek(most)).await {
            Ok(taken) => taken,
            // Only at the end of the process.
            Err(_) => Ok(None),
        }
    }

    /// Delivers every line, or sets it aside. Returns when none of them is left.
    async fn deliver(&mut self, lines: &[u8]) {
        let mut todo: Vec<Range<usize>> = std::iter::once(0..lines.len()).collect();
        while let Some(part) = todo.pop() {
            // A size that was refused lately is not tried again with every request.
            if part.len() > self.size.now
                && let Some(middle) = middle_line(&lines[part.clone()])
            {
                push_halves(&mut todo, part, middle);
                continue;
            }
            let body = &lines[part.clone()];
            match self.send(body).await {
                Answer::Written => {
                    self.back_off = BACK_OFF_MIN;
                    self.size.taken();
                    self.export.note(None);
                    self.export.note_written(queue::count_lines(body));
                }
                Answer::Later { kind, after, reason } => {
                    self.export.note(Some((kind, &reason)));
                    todo.push(part);
                    self.wait(after).await;
                }
                Answer::TooLarge => match middle_line(body) {
                    Some(middle) => {
                        self.size.too_large(body.len());
                        self.export.note_split("too_large");
                        push_halves(&mut todo, part, middle);
                    }
                    None => self.set_aside(body, "HTTP 413: the line alone is too large").await,
                },
                Answer::BadLines { reason } => match middle_line(body) {
                    Some(middle) => {
                        self.export.note_split("bad_lines");
                        push_halves(&mut todo, part, middle);
                    }
                    None => self.set_aside(body, &reason).await,
                },
            }
        }
    }

    async fn set_aside(&mut self, line: &[u8], reason: &str) {
        let shown = String::from_utf8_lossy(&line[..line.len().min(MAX_REASON_BYTES)]).trim_end().to_owned();
        let path = self.quarantine.path().display().to_string();
        tracing::error!(%reason, line = %shown, kept_in = %path, "the long-term database refuses a line");
        self.export.note_quarantined(queue::count_lines(line), &format!("{reason}: {shown}; see {path}"));
        if let Err(error) = self.quarantine.keep(line, reason) {
            tracing::error!(%error, "the refused line could not be kept aside");
        }
    }

    /// As long as the server asked, or longer every time; a little less than all others.
    async fn wait(&mut self, after: Option<Duration>) {
        let own = self.back_off;
        self.back_off = (own * 2).min(BACK_OFF_MAX);
        let wait = after.map_or_else(|| own.mul_f64(rand::random_range(0.8..1.0)), |after| after.max(BACK_OFF_MIN));
        tokio::time::sleep(wait).await;
    }

    async fn send(&self, body: &[u8]) -> Answer {
        let failed = |kind, reason| Answer::Later { kind, after: None, reason };
        let packed = match gzip(body) {
            Ok(packed) => packed,
            Err(error) => return failed("gzip", error.to_string()),
        };
        let mut request = self
            .client
            .post(&self.url)
            .header(CONTENT_TYPE, "text/plain; charset=utf-8")
            .header(CONTENT_ENCODING, "gzip")
            .body(Bytes::from(packed));
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token.clone());
        }
        // The client's own limit begins with the connection; this one holds whatever it does.
        match tokio::time::timeout(self.timeout + CONNECT_LIMIT, answer_of(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) if error.is_timeout() => failed("timeout", format!("no answer within {:?}", self.timeout)),
            Ok(Err(error)) => failed("connection", chain(&error.without_url())),
            Err(_) => failed("timeout", format!("no answer within {:?}", self.timeout)),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, WriterError> {
    std::fs::read(path).map_err(|source| WriterError::Read { path: path.to_owned(), source })
}

/// Trusts the CA of the configuration and nobody else; without one, no server.
fn tls(ca: Option<&Path>) -> Result<rustls::ClientConfig, WriterError> {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(path) = ca {
        let pem = read(path)?;
        for cert in CertificateDer::pem_slice_iter(&pem) {
            let fault = || WriterError::Ca { path: path.to_owned() };
            roots.add(cert.map_err(|_| fault())?).map_err(|_| fault())?;
        }
        if roots.is_empty() {
            return Err(WriterError::Ca { path: path.to_owned() });
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(config.map_err(WriterError::Tls)?.with_root_certificates(roots).with_no_client_auth())
}

async fn answer_of(request: reqwest::RequestBuilder) -> Result<Answer, reqwest::Error> {
    let mut answer = request.send().await?;
    let status = answer.status().as_u16();
    let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut text = Vec::new();
    // What is longer than an operator reads is not waited for.
    while text.len() < MAX_REASON_BYTES
        && let Some(part) = answer.chunk().await?
    {
        text.extend_from_slice(&part);
    }
    let text = String::from_utf8_lossy(&text);
    Ok(answer::read(status, retry_after.as_deref(), &text, OffsetDateTime::now_utc()))
}

fn write_url(config: &Influx) -> String {
    let encode = |text: &str| -> String {
        let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        text.bytes().map(|b| if unreserved(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
    };
    let (org, bucket) = (encode(&config.org), encode(&config.bucket));
    format!("{}/api/v2/write?org={org}&bucket={bucket}&precision=ms", config.url)
}

fn token(bytes: &[u8]) -> Option<reqwest::header::HeaderValue> {
    let text = std::str::from_utf8(bytes.trim_ascii()).ok().filter(|text| !text.is_empty())?;
    let mut value = reqwest::header::HeaderValue::from_str(&format!("Token {text}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn gzip(body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut packed = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
    packed.write_all(body)?;
    packed.finish()
}

/// Where the second half of the lines begins; none for a single line.
fn middle_line(lines: &[u8]) -> Option<usize> {
    let half = lines.len() / 2;
    let after = lines[half..].iter().position(|byte| *byte == b'\n').map(|at| half + at + 1);
    after
        .filter(|at| *at < lines.len())
        .or_else(|| lines[..half].iter().rposition(|byte| *byte == b'\n').map(|at| at + 1))
}

/// The first half is sent first.
fn push_halves(todo: &mut Vec<Range<usize>>, part: Range<usize>, middle: usize) {
    todo.push(part.start + middle..part.end);
    todo.push(part.start..part.start + middle);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halving_ends_with_each_line_alone() {
        let text = b"a\nbbbbbbbbbbbbbbbbbbbbbb\nc\nd\n";
        let mut todo: Vec<Range<usize>> = std::iter::once(0..text.len()).collect();
        let mut found = Vec::new();
        while let Some(part) = todo.pop() {
            match middle_line(&text[part.clone()]) {
                Some(middle) => push_halves(&mut todo, part, middle),
                None => found.push(&text[part]),
            }
        }
        let wanted: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
        assert_eq!(found, wanted);
        assert_eq!(middle_line(b"x\n"), None);
        assert_eq!(middle_line(b""), None);
    }

    #[test]
    fn a_size_that_was_refused_is_not_tried_again_soon_and_grows_again() {
        let mut size = Size { now: 1_000, most: 1_000, taken: 0 };
        size.too_large(1_000);
        size.too_large(500);
        assert_eq!(size.now, 250);
        for _ in 0..GROW_AFTER {
            size.taken();
        }
        assert_eq!(size.now, 500);
    }

    #[test]
    fn a_token_is_one_header_and_is_not_shown() {
        assert!(token(b" \n").is_none() && token(b"a\nb").is_none());
        let token = token(b"abc123\n").unwrap();
        assert_eq!(token.to_str().unwrap(), "Token abc123");
        assert!(!format!("{token:?}").contains("abc123"));
    }

    #[test]
    fn names_are_encoded() {
        let config = Influx {
            url: "http://127.0.0.1:8086".to_owned(),
            org: "our org".to_owned(),
            bucket: "a&b".to_owned(),
            token_file: None,
            ca: None,
            timeout: Duration::from_secs(1),
            request_bytes: 1,
            queue_bytes: 1,
        };
        assert_eq!(write_url(&config), "http://127.0.0.1:8086/api/v2/write?org=our%20org&bucket=a%26b&precision=ms");
    }
}
