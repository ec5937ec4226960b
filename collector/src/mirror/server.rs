//! The public port: GET and HEAD of files in memory, nothing else.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::Served;
use super::snapshot::{File, Snapshot, Standing, wall_ms};
use crate::Shutdown;
use crate::web::public::lang::{Lang, Texts};

/// Files by the hash that the manifest names, whatever path and time they are for: what other mirrors ask for.
pub const BY_HASH: &str = "by-hash/";
/// Open connections; more wait in the kernel's queue. About 10 KB each.
const MAX_CONNECTIONS: usize = 4_096;
/// Request line and headers together.
const MAX_HEADER_BYTES: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;
/// Longest path that is looked up.
const MAX_PATH_BYTES: usize = 256;
/// For the headers of one request, and for the pause before the next.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// A connection older than this ends after its present answer: a client that reads nothing must not keep its place.
const CONNECTION_AGE: Duration = Duration::from_secs(120);
/// For the answer under way when a connection ends.
const LAST_ANSWER: Duration = Duration::from_secs(30);
/// For requests under way when the process is asked to stop.
const DRAIN: Duration = Duration::from_secs(2);
/// Pause after an accept that failed for want of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

type Answer = Response<Full<Bytes>>;

/// Accepts until `shutdown`, then lets open requests finish.
pub async fn serve(listener: TcpListener, served: watch::Receiver<Served>, mut shutdown: Shutdown) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let slot = tokio::select! {
            slot = slots.clone().acquire_owned() => slot,
            () = shutdown.wait() => break,
        };
        let Ok(slot) = slot else { break };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            },
            () = shutdown.wait() => break,
        };
        let (served, shutdown) = (served.clone(), shutdown.clone());
        tokio::spawn(async move {
            connection(stream, served, shutdown).await;
            drop(slot);
        });
    }
    drop(listener);
    let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(DRAIN, slots.acquire_many(all)).await;
}

async fn connection(stream: TcpStream, served: watch::Receiver<Served>, mut shutdown: Shutdown) {
    // Answers are written whole; waiting to fill a packet would only delay them.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&request, &served);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // What a client does to its own connection is its own matter.
        _ = connection.as_mut() => return,
        () = shutdown.wait() => connection.as_mut().graceful_shutdown(),
        () = tokio::time::sleep(CONNECTION_AGE) => connection.as_mut().graceful_shutdown(),
    }
    // One that does not read what it asked for is not waited for.
    let _ = tokio::time::timeout(LAST_ANSWER, connection).await;
}

fn answer(request: &Request<Incoming>, served: &watch::Receiver<Served>) -> Answer {
    let head = match *request.method() {
        Method::GET => false,
        Method::HEAD => true,
        _ => return refuse(StatusCode::METHOD_NOT_ALLOWED),
    };
    // GET and HEAD have no body here: one that announces a body is refused and its connection closed.
    let announces_body = request.headers().get(header::CONTENT_LENGTH).is_some_and(|length| length != "0")
        || request.headers().contains_key(header::TRANSFER_ENCODING);
    if announces_body {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE);
    }
    let path = request.uri().path();
    if path.len() > MAX_PATH_BYTES {
        return refuse(StatusCode::URI_TOO_LONG);
    }
    // Cloning the reference ends the borrow at once: a new publication never waits for a slow request.
    let snapshot = served.borrow().clone();
    let now = SystemTime::now();
    let mut answer = match (path, snapshot) {
        ("/healthz", snapshot) => health(snapshot.as_deref(), now),
        ("/", _) => redirect(StatusCode::FOUND, &format!("/{}/", language(request)), true),
        (_, None) => nothing_yet(path),
        (path, Some(snapshot)) => file(request, path, &snapshot, snapshot.standing(now)),
    };
    if head {
        let length = HeaderValue::from(hyper::body::Body::size_hint(answer.body()).exact().unwrap_or(0));
        answer.headers_mut().insert(header::CONTENT_LENGTH, length);
        *answer.body_mut() = Full::default();
    }
    answer
}

fn language(request: &Request<Incoming>) -> Lang {
    let header = request.headers().get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
    Lang::negotiate(header.unwrap_or_default())
}

fn file(request: &Request<Incoming>, path: &str, snapshot: &Snapshot, standing: Standing) -> Answer {
    let path = path.strip_prefix('/').unwrap_or(path);
    if let Some(hash) = path.strip_prefix(BY_HASH) {
        return snapshot.by_hash(hash).map_or_else(|| missing(request), |file| plain(file));
    }
    let found = match path.strip_suffix('/') {
        Some(folder) => snapshot.find(&format!("{folder}/index.html"), standing),
        None => snapshot.find(path, standing),
    };
    match found {
        Some(file) => encoded(request, file, snapshot.manifest.sequence),
        None if !path.ends_with('/') && snapshot.find(&format!("{path}/index.html"), standing).is_some() => {
            redirect(StatusCode::MOVED_PERMANENTLY, &format!("/{path}/"), false)
        }
        None => missing(request),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Plain,
    Gzip,
    Brotli,
}

fn accepted(request: &Request<Incoming>, file: &File) -> Encoding {
    if !file.compresses() {
        return Encoding::Plain;
    }
    let header = request.headers().get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    encoding(header.unwrap_or_default())
}

fn encoding(accept: &str) -> Encoding {
    let offered = |name: &str| {
        accept.split(',').any(|part| {
            let mut fields = part.split(';').map(str::trim);
            let refused = |field: &str| matches!(field.strip_prefix("q="), Some("0" | "0.0" | "0.00" | "0.000"));
            fields.next() == Some(name) && !fields.any(refused)
        })
    };
    match () {
        () if offered("br") => Encoding::Brotli,
        () if offered("gzip") => Encoding::Gzip,
        () => Encoding::Plain,
    }
}

fn encoded(request: &Request<Incoming>, file: &File, sequence: u64) -> Answer {
    let packed = match accepted(request, file) {
        Encoding::Plain => None,
        Encoding::Gzip => file.gzip().map(|body| (body, "gzip", "-g")),
        Encoding::Brotli => file.brotli().map(|body| (body, "br", "-b")),
    };
    let (body, name, suffix) =
        packed.map_or((&file.plain, None, ""), |(body, name, suffix)| (body, Some(name), suffix));
    let tag = format!("\"{}{suffix}\"", file.tag);
    let known = request.headers().get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let unchanged = known.is_some_and(|known| {
        known.split(',').map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == tag)
    });
    let mut answer = Response::new(if unchanged { Full::default() } else { Full::new(body.clone()) });
    if unchanged {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = answer.headers_mut();
    harden(headers, file.policy.as_deref());
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(file.media_type));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    headers.insert(SEQUENCE, HeaderValue::from(sequence));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    if let Some(name) = name {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
    }
    if file.policy.is_none() {
        // Public data: scripts of any page may read it, and the headers that say what it is.
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        let exposed = HeaderValue::from_static("etag, date, bcp-sequence");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        // Each says until when it holds; where nobody answers, an old one is better than none as long as it does.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(MACHINE_CACHE));
    }
    answer
}

/// For programs: a publication is asked for again after 5 s, and holds for 60.
const MACHINE_CACHE: &str = "public, max-age=5, stale-if-error=55";
const SEQUENCE: HeaderName = HeaderName::from_static("bcp-sequence");

/// A file for another mirror: as it was signed, and the same for ever.
fn plain(file: &File) -> Answer {
    let mut answer = Response::new(Full::new(file.plain.clone()));
    harden(answer.headers_mut(), None);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    answer
}

/// Headers of every answer. A page brings its own policy; what is no page may do nothing.
fn harden(headers: &mut hyper::HeaderMap, policy: Option<&str>) {
    let own = policy.and_then(|policy| HeaderValue::from_str(&format!("{policy}; frame-ancestors 'none'")).ok());
    let nothing = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers.insert(header::CONTENT_SECURITY_POLICY, own.unwrap_or(nothing));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(
        HeaderName::from_static("permissions-policy"),
        HeaderValue::from_static("camera=(), geolocation=(), microphone=(), interest-cohort=()"),
    );
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin"));
    // A stored copy is used only after asking whether it still holds: the page never claims more than it knows.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
}

fn message(status: StatusCode, media_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    harden(answer.headers_mut(), None);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}

fn refuse(status: StatusCode) -> Answer {
    let reason = status.canonical_reason().unwrap_or("refused");
    let mut answer = message(status, "text/plain; charset=utf-8", format!("{reason}\n"));
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    answer
}

fn redirect(status: StatusCode, to: &str, by_language: bool) -> Answer {
    let mut answer = message(status, "text/plain; charset=utf-8", String::new());
    // Only paths that were found in the tree, or a language code, come here.
    if let Ok(to) = HeaderValue::from_str(to) {
        answer.headers_mut().insert(header::LOCATION, to);
    }
    if by_language {
        answer.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-language"));
    }
    answer
}

fn missing(request: &Request<Incoming>) -> Answer {
    let first = request.uri().path().split('/').nth(1).unwrap_or_default();
    let lang = Lang::from_code(first).unwrap_or_else(|| language(request));
    let texts = Texts::of(lang);
    let body =
        small_page(lang, &texts.get("not-found"), &format!("<p><a href=\"/{lang}/\">{}</a></p>", texts.get("back")));
    message(StatusCode::NOT_FOUND, "text/html; charset=utf-8", body)
}

/// No publication was ever seen: the state is unknown, in every language and for machines.
fn nothing_yet(path: &str) -> Answer {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    if path.ends_with(".json") {
        let body = "{\"status\":{\"indicator\":\"unknown\",\"description\":\"State unknown\"}}\n";
        return message(status, "application/json", body.to_owned());
    }
    let first = path.split('/').nth(1).and_then(Lang::from_code);
    let (lang, langs) = first.map_or((Lang::En, Lang::ALL.to_vec()), |lang| (lang, vec![lang]));
    let line = |lang: &Lang| {
        let texts = Texts::of(*lang);
        format!("<p lang=\"{lang}\">{}: {}</p>", texts.get("site-title"), texts.get("state-unknown"))
    };
    let body: String = langs.iter().map(line).collect();
    let mut answer =
        message(status, "text/html; charset=utf-8", small_page(lang, &Texts::of(lang).get("state-unknown"), &body));
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    answer
}

fn small_page(lang: Lang, title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"{lang}\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"></head><body><main><h1>{title}</h1>{body}</main></body></html>\n"
    )
}

fn health(snapshot: Option<&Snapshot>, now: SystemTime) -> Answer {
    let body = match snapshot {
        None => serde_json::json!({"state": "empty"}),
        Some(snapshot) => serde_json::json!({
            "state": match snapshot.standing(now) {
                Standing::Current => "current",
                Standing::Expired => "expired",
            },
            "sequence": snapshot.manifest.sequence,
            "issuer": snapshot.manifest.issuer,
            "as_of": snapshot.manifest.as_of,
            "valid_until": snapshot.manifest.valid_until,
            "lag_ms": snapshot.manifest.lag_ms,
            "age_ms": wall_ms(now) - snapshot.manifest.as_of_ms,
        }),
    };
    message(StatusCode::OK, "application/json", format!("{body}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_accepted_encoding_is_sent() {
        assert!(encoding("gzip, deflate, br, zstd") == Encoding::Brotli);
        assert!(encoding("gzip;q=1.0, br;q=0") == Encoding::Gzip);
        assert!(encoding("identity") == Encoding::Plain);
        assert!(encoding("brotli") == Encoding::Plain);
        assert!(encoding("") == Encoding::Plain);
    }
}
