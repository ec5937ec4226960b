//! One publication in memory, ready to be sent: every file plain, gzip and brotli, with its tag.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use bcp_core::replica::PUBLICATION_VALID_MS;
use bcp_wire::Site;
use bytes::Bytes;
use ed25519_dalek::VerifyingKey;

use crate::web::public::export::{CURRENT, MANIFEST};
use crate::web::public::manifest::{FileEntry, Manifest, ManifestError, sha256_hex};
use crate::web::public::tree::{EXPIRED, media_type};

/// Below this compression gains nothing over the size of a packet.
const MIN_COMPRESS_BYTES: usize = 512;
/// Good at text, and about a millisecond for a page.
const BROTLI_QUALITY: u32 = 6;
const BROTLI_WINDOW: u32 = 20;
const GZIP_LEVEL: u32 = 6;
/// A publication from a clock this far ahead of ours is not taken as the present state.
const MAX_AHEAD_MS: i64 = 30_000;

pub type Keys = BTreeMap<Site, VerifyingKey>;

#[derive(Debug)]
pub struct File {
    pub plain: Bytes,
    gzip: OnceLock<Option<Bytes>>,
    brotli: OnceLock<Option<Bytes>>,
    pub media_type: &'static str,
    /// First half of the SHA-256; each encoding adds its own suffix.
    pub tag: String,
    /// The page's own content security policy, as its `meta` element has it.
    pub policy: Option<String>,
}

#[derive(Debug)]
pub struct Snapshot {
    pub manifest: Manifest,
    pub files: HashMap<String, Arc<File>>,
    by_hash: HashMap<String, Arc<File>>,
    /// When this process first had it: a clock that is set back keeps nothing alive.
    seen: Instant,
}

/// Whether the files of the present or those for the time after it are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Current,
    Expired,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("failed to read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the manifest cannot be used")]
    Manifest(#[from] ManifestError),
    #[error("`{path}` is not the file that the manifest names")]
    Hash { path: String },
}

impl File {
    fn new(path: &str, body: Bytes, hash: &str) -> File {
        let media_type = media_type(path).unwrap_or("application/octet-stream");
        let policy = if path.ends_with(".html") { page_policy(&body) } else { None };
        let tag = hash.get(..32).unwrap_or(hash).to_owned();
        File { plain: body, gzip: OnceLock::new(), brotli: OnceLock::new(), media_type, tag, policy }
    }

    /// Compressed once, by whoever asks first; [`Snapshot::warm`] asks for all files that are served now.
    pub fn gzip(&self) -> Option<&Bytes> {
        self.gzip.get_or_init(|| self.smaller(gzip(&self.plain))).as_ref()
    }

    pub fn brotli(&self) -> Option<&Bytes> {
        self.brotli.get_or_init(|| self.smaller(brotli(&self.plain))).as_ref()
    }

    /// Only what saves something is worth its header.
    fn smaller(&self, packed: std::io::Result<Vec<u8>>) -> Option<Bytes> {
        packed.ok().filter(|packed| packed.len() < self.plain.len()).map(Bytes::from)
    }

    #[must_use]
    pub fn compresses(&self) -> bool {
        self.plain.len() >= MIN_COMPRESS_BYTES
    }
}

fn gzip(plain: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL));
    out.write_all(plain)?;
    out.finish()
}

fn brotli(plain: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut packed = Vec::new();
    let mut out = brotli::CompressorWriter::new(&mut packed, 4096, BROTLI_QUALITY, BROTLI_WINDOW);
    out.write_all(plain)?;
    // Dropping the writer ends the stream.
    drop(out);
    Ok(packed)
}

/// What the page allows itself. It is signed with the page, so it may be repeated in the header.
fn page_policy(body: &[u8]) -> Option<String> {
    let head = std::str::from_utf8(body).ok()?;
    let rest = head.split_once("http-equiv=\"Content-Security-Policy\" content=\"")?.1;
    let policy = rest.split_once('"')?.0;
    (policy.len() < 1024 && policy.is_ascii()).then(|| policy.replace("&#39;", "'").replace("&apos;", "'"))
}

impl Snapshot {
    /// Reads what `current` in `dir` points to, or the one publication that `dir` is. Blocks.
    ///
    /// # Errors
    /// Anything that is missing, unsigned or not what the manifest says; nothing of it is used then.
    pub fn read(dir: &Path, keys: &Keys) -> Result<Snapshot, LoadError> {
        let read = |path: PathBuf| match std::fs::read(&path) {
            Ok(body) => Ok(body),
            Err(source) => Err(LoadError::Read { path, source }),
        };
        let current = dir.join(CURRENT);
        let dir = match std::fs::read_link(&current) {
            Ok(target) => dir.join(target),
            // A copy of one publication has no link.
            Err(_) if dir.join(MANIFEST).is_file() => dir.to_owned(),
            Err(source) => return Err(LoadError::Read { path: current, source }),
        };
        let manifest_bytes = read(dir.join(MANIFEST))?;
        let manifest = Manifest::verify(&manifest_bytes, keys)?;
        let mut bodies = HashMap::with_capacity(manifest.files.len());
        for path in manifest.files.keys() {
            bodies.insert(path.clone(), Bytes::from(read(dir.join(path))?));
        }
        Snapshot::assemble(manifest, Bytes::from(manifest_bytes), bodies)
    }

    /// Checks every body against the manifest.
    ///
    /// # Errors
    /// [`LoadError::Hash`] for the first that is missing or differs.
    pub fn assemble(
        manifest: Manifest,
        manifest_bytes: Bytes,
        mut bodies: HashMap<String, Bytes>,
    ) -> Result<Snapshot, LoadError> {
        let mut files = HashMap::with_capacity(manifest.files.len() + 1);
        let mut by_hash = HashMap::with_capacity(manifest.files.len());
        for (path, entry) in &manifest.files {
            let body = bodies.remove(path).filter(|body| is(body, entry));
            let body = body.ok_or_else(|| LoadError::Hash { path: path.clone() })?;
            let file = Arc::new(File::new(path, body, &entry.sha256));
            by_hash.insert(entry.sha256.clone(), file.clone());
            files.insert(path.clone(), file);
        }
        let hash = sha256_hex(&manifest_bytes);
        files.insert(MANIFEST.to_owned(), Arc::new(File::new(MANIFEST, manifest_bytes, &hash)));
        Ok(Snapshot { manifest, files, by_hash, seen: Instant::now() })
    }

    #[must_use]
    pub fn standing(&self, now: SystemTime) -> Standing {
        let now_ms = wall_ms(now);
        let fresh = self.seen.elapsed() < Duration::from_millis(PUBLICATION_VALID_MS.unsigned_abs());
        if fresh && now_ms < self.manifest.valid_until_ms && now_ms >= self.manifest.as_of_ms - MAX_AHEAD_MS {
            Standing::Current
        } else {
            Standing::Expired
        }
    }

    /// The file to send for a path of the tree.
    #[must_use]
    pub fn find(&self, path: &str, standing: Standing) -> Option<&Arc<File>> {
        match standing {
            Standing::Current => self.files.get(path),
            Standing::Expired if path == MANIFEST => self.files.get(path),
            Standing::Expired => self.files.get(&format!("{EXPIRED}{path}")),
        }
    }

    #[must_use]
    pub fn by_hash(&self, hash: &str) -> Option<&Arc<File>> {
        self.by_hash.get(hash)
    }

    /// Compresses what is served while the publication is valid, so that no request has to wait for it. Blocks.
    pub fn warm(&self) {
        for (_, file) in self.files.iter().filter(|(path, file)| !path.starts_with(EXPIRED) && file.compresses()) {
            let _ = (file.gzip(), file.brotli());
        }
    }
}

#[must_use]
pub fn is(body: &Bytes, entry: &FileEntry) -> bool {
    body.len() as u64 == entry.bytes && sha256_hex(body) == entry.sha256
}

#[must_use]
pub fn wall_ms(now: SystemTime) -> i64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
