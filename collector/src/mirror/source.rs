//! Where publications come from: the own export folder, and the public ports of other sites.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bcp_wire::Site;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::sync::watch;

use super::snapshot::{Keys, LoadError, Snapshot, is, wall_ms};
use super::{Served, offer, served_sequence};
use crate::Shutdown;
use crate::web::public::export::{CURRENT, MANIFEST};
use crate::web::public::manifest::{FileEntry, MAX_MANIFEST_BYTES, Manifest, ManifestError};

/// A change reaches the page within this time of being written.
const FOLDER_EVERY: Duration = Duration::from_millis(200);
/// Origins are a second way to the same publications; a third of a publication's validity would do.
const ORIGIN_EVERY: Duration = Duration::from_secs(2);
/// Longest pause between two attempts at an origin that does not answer.
const ORIGIN_BACK_OFF_MAX: Duration = Duration::from_secs(15);
/// For one answer, connect included.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Files fetched at a time from one origin.
const FETCH_CONCURRENCY: usize = 8;

/// Takes every new publication out of the folder until `shutdown`.
pub async fn watch_folder(dir: PathBuf, keys: Arc<Keys>, served: Arc<watch::Sender<Served>>, mut shutdown: Shutdown) {
    let mut known = None;
    let mut last_fault = String::new();
    loop {
        let target = tokio::fs::read_link(dir.join(CURRENT)).await.ok();
        if target.is_some() && target != known {
            let (dir, keys) = (dir.clone(), keys.clone());
            match tokio::task::spawn_blocking(move || load(&dir, &keys)).await {
                Ok(Ok(snapshot)) => {
                    known = target;
                    last_fault.clear();
                    offer(&served, snapshot);
                }
                // A reader that was overtaken by two publications tries again at once; a lasting fault is said once.
                Ok(Err(fault)) => {
                    let text = chain(&fault);
                    if text != last_fault {
                        tracing::warn!(fault = text, "a publication in the export folder cannot be used");
                        last_fault = text;
                    }
                }
                Err(_) => return,
            }
        }
        tokio::select! {
            () = tokio::time::sleep(FOLDER_EVERY) => {}
            () = shutdown.wait() => return,
        }
    }
}

fn load(dir: &std::path::Path, keys: &Keys) -> Result<Snapshot, LoadError> {
    let snapshot = Snapshot::read(dir, keys)?;
    snapshot.warm();
    Ok(snapshot)
}

#[derive(Debug, Clone)]
pub struct Origin {
    pub site: Site,
    /// Without a final slash.
    pub url: String,
    pub client: reqwest::Client,
}

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("no usable answer from {url}")]
    Http { url: String, source: reqwest::Error },
    #[error("the answer from {url} is longer than {limit} bytes")]
    TooLong { url: String, limit: u64 },
    #[error("the manifest of the origin cannot be used")]
    Manifest(#[from] ManifestError),
    #[error("the files of the origin cannot be used")]
    Load(#[from] LoadError),
}

/// # Errors
/// The TLS library cannot be set up.
pub fn client() -> Result<reqwest::Client, reqwest::Error> {
    bcp_identity::plain_http()
        .timeout(FETCH_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(FETCH_CONCURRENCY)
        .build()
}

/// Takes newer publications from one origin until `shutdown`.
pub async fn watch_origin(origin: Origin, keys: Arc<Keys>, served: Arc<watch::Sender<Served>>, mut shutdown: Shutdown) {
    let mut pause = ORIGIN_EVERY;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.wait() => return,
        }
        let outcome = tokio::select! {
            outcome = fetch_newer(&origin, &keys, &served) => outcome,
            () = shutdown.wait() => return,
        };
        let failing = pause > ORIGIN_EVERY;
        match outcome {
            Ok(()) => {
                if failing {
                    tracing::info!(site = %origin.site, "origin answers again");
                }
                pause = ORIGIN_EVERY;
            }
            Err(fault) => {
                if !failing {
                    tracing::warn!(site = %origin.site, fault = chain(&fault), "origin cannot be used");
                }
                pause = (pause * 2).min(ORIGIN_BACK_OFF_MAX);
            }
        }
    }
}

pub(super) async fn fetch_newer(
    origin: &Origin,
    keys: &Keys,
    served: &watch::Sender<Served>,
) -> Result<(), FetchError> {
    let url = format!("{}/{MANIFEST}", origin.url);
    let bytes = fetch(&origin.client, &url, MAX_MANIFEST_BYTES as u64).await?;
    let manifest = Manifest::verify(&bytes, keys)?;
    let newer = |manifest: &Manifest| served_sequence(served).is_none_or(|sequence| manifest.sequence > sequence);
    // What has expired everywhere is worth fetching only where there is nothing at all.
    let expired = manifest.valid_until_ms <= wall_ms(SystemTime::now());
    if !newer(&manifest) || (expired && served.borrow().is_some()) {
        return Ok(());
    }
    let bodies = fetch_files(&origin.client, &origin.url, &manifest).await?;
    if !newer(&manifest) {
        return Ok(());
    }
    let snapshot = Snapshot::assemble(manifest, bytes, bodies)?;
    if let Ok(snapshot) = tokio::task::spawn_blocking(move || {
        snapshot.warm();
        snapshot
    })
    .await
    {
        offer(served, snapshot);
    }
    Ok(())
}

/// Everything that `base` publishes now, checked.
///
/// # Errors
/// What cannot be fetched, or is not as it was signed.
pub async fn fetch_whole(client: &reqwest::Client, base: &str, keys: &Keys) -> Result<Snapshot, FetchError> {
    let bytes = fetch(client, &format!("{base}/{MANIFEST}"), MAX_MANIFEST_BYTES as u64).await?;
    let manifest = Manifest::verify(&bytes, keys)?;
    let bodies = fetch_files(client, base, &manifest).await?;
    Ok(Snapshot::assemble(manifest, bytes, bodies)?)
}

/// Every file by its hash, each asked for once, so that an origin in the middle of a change gives what was signed.
async fn fetch_files(
    client: &reqwest::Client,
    base: &str,
    manifest: &Manifest,
) -> Result<HashMap<String, Bytes>, FetchError> {
    let wanted: BTreeMap<&str, &FileEntry> =
        manifest.files.values().map(|entry| (entry.sha256.as_str(), entry)).collect();
    let fetches: Vec<_> =
        wanted.into_values().map(|entry| fetch_file(client.clone(), base.to_owned(), entry.clone())).collect();
    let mut answers = futures::stream::iter(fetches).buffer_unordered(FETCH_CONCURRENCY);
    let mut by_hash: HashMap<String, Bytes> = HashMap::new();
    while let Some(answer) = answers.next().await {
        let (hash, body) = answer?;
        by_hash.insert(hash, body);
    }
    let body = |(path, entry): (&String, &FileEntry)| Some((path.clone(), by_hash.get(&entry.sha256)?.clone()));
    Ok(manifest.files.iter().filter_map(body).collect())
}

async fn fetch_file(client: reqwest::Client, base: String, entry: FileEntry) -> Result<(String, Bytes), FetchError> {
    let url = format!("{base}/{}{}", super::server::BY_HASH, entry.sha256);
    let body = fetch(&client, &url, entry.bytes).await?;
    if is(&body, &entry) { Ok((entry.sha256, body)) } else { Err(LoadError::Hash { path: entry.sha256 }.into()) }
}

async fn fetch(client: &reqwest::Client, url: &str, limit: u64) -> Result<Bytes, FetchError> {
    let fault = |source| FetchError::Http { url: url.to_owned(), source };
    let mut answer = client.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(fault)?;
    let mut body = BytesMut::new();
    while let Some(chunk) = answer.chunk().await.map_err(fault)? {
        body.extend_from_slice(&chunk);
        if body.len() as u64 > limit {
            return Err(FetchError::TooLong { url: url.to_owned(), limit });
        }
    }
    Ok(body.freeze())
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
