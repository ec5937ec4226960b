//! Writes publications to `export/`: one directory per sequence, `current` pointing to the newest.
//!
//! A reader that follows `current` once sees one whole publication: files are complete before the link is switched by a
//! rename. What a power cut leaves of them is found by its hashes, and made anew within seconds. Older directories stay for a while, so that a reader in the middle of one can finish.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bcp_core::replica::Replica;
use bcp_core::time::Wall;
use bcp_wire::Site;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};

use super::convert::public_model;
use super::manifest::Manifest;
use super::model::PublicModel;
use super::tree;

/// Name of the link to the newest publication.
pub const CURRENT: &str = "current";
pub const MANIFEST: &str = "manifest.json";
/// Publications kept beside the current one: a reader has at least two publication intervals to finish.
const KEEP: usize = 2;

/// Makes the public files of one site.
#[derive(Debug)]
pub struct Publisher {
    site: Site,
    key: SigningKey,
    dir: PathBuf,
    /// Sequence last written by this process.
    last: Option<u64>,
}

/// What became of a state that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    New {
        sequence: u64,
        files: usize,
    },
    /// This publication, or a newer one, is out already; or there is none yet.
    Nothing,
}

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("failed to read the signing key {path}")]
    ReadKey { path: PathBuf, source: io::Error },
    #[error("{path} is no Ed25519 key in PKCS8 PEM form")]
    ParseKey { path: PathBuf, source: ed25519_dalek::pkcs8::Error },
    #[error("failed to write a new signing key to {path}")]
    WriteKey { path: PathBuf, source: io::Error },
    #[error("failed to render the pages of publication {sequence}")]
    Render { sequence: u64, source: askama::Error },
    #[error("failed to sign the manifest of publication {sequence}")]
    Sign { sequence: u64, source: serde_json::Error },
    #[error("failed to write {path}")]
    Write { path: PathBuf, source: io::Error },
}

impl Publisher {
    /// # Errors
    /// The key cannot be read, or made where there is none, or the directory cannot be made.
    pub fn open(site: Site, key_file: &Path, dir: &Path) -> Result<Publisher, PublishError> {
        let key = load_or_make_key(key_file)?;
        fs::create_dir_all(dir).map_err(|source| PublishError::Write { path: dir.to_owned(), source })?;
        Ok(Publisher { site, key, dir: dir.to_owned(), last: None })
    }

    /// The key by which mirrors know this site's publications.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    /// Publishes the state at its publication point, if that is new. Blocks on rendering and on the disk.
    ///
    /// # Errors
    /// Nothing was switched; the publication before it stays.
    pub fn publish(&mut self, replica: &Replica, now: Wall) -> Result<Published, PublishError> {
        let newer = self.last.is_none_or(|last| replica.publication.sequence > last);
        match public_model(replica) {
            Some(model) if newer => self.publish_model(&model, now),
            _ => Ok(Published::Nothing),
        }
    }

    /// # Errors
    /// As [`Publisher::publish`].
    pub fn publish_model(&mut self, model: &PublicModel, now: Wall) -> Result<Published, PublishError> {
        let sequence = model.sequence;
        let tree = tree::render(model).map_err(|source| PublishError::Render { sequence, source })?;
        let manifest = Manifest::of(model, &tree, self.site, now);
        let signed = manifest.sign(&self.key).map_err(|source| PublishError::Sign { sequence, source })?;
        self.write(sequence, &tree, &signed)?;
        self.last = Some(sequence);
        Ok(Published::New { sequence, files: tree.len() })
    }

    fn write(&self, sequence: u64, tree: &tree::Tree, manifest: &[u8]) -> Result<(), PublishError> {
        let name = directory_name(sequence);
        let (dir, unfinished) = (self.dir.join(&name), self.dir.join(format!(".{name}.new")));
        let fault = |path: &Path| {
            let path = path.to_owned();
            |source| PublishError::Write { path, source }
        };
        remove_if_there(&unfinished).map_err(fault(&unfinished))?;
        for (path, body) in tree {
            let file = unfinished.join(path);
            write_file(&file, body).map_err(fault(&file))?;
        }
        let file = unfinished.join(MANIFEST);
        write_file(&file, manifest).map_err(fault(&file))?;
        remove_if_there(&dir).map_err(fault(&dir))?;
        fs::rename(&unfinished, &dir).map_err(fault(&dir))?;
        let (link, current) = (self.dir.join(".current.new"), self.dir.join(CURRENT));
        remove_if_there(&link).map_err(fault(&link))?;
        std::os::unix::fs::symlink(&name, &link).map_err(fault(&link))?;
        fs::rename(&link, &current).map_err(fault(&current))?;
        self.remove_old(&name);
        Ok(())
    }

    /// What cannot be removed now is removed after the next publication.
    fn remove_old(&self, current: &str) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(PREFIX) && name != current)
            .collect();
        names.sort_unstable();
        names.truncate(names.len().saturating_sub(KEEP));
        for name in names {
            if let Err(error) = fs::remove_dir_all(self.dir.join(&name)) {
                tracing::warn!(%error, name, "failed to remove an old publication");
            }
        }
    }
}

const PREFIX: &str = "seq-";

/// Sorts as text in the order of the sequence.
fn directory_name(sequence: u64) -> String {
    format!("{PREFIX}{sequence:020}")
}

fn write_file(path: &Path, body: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::File::create(path)?.write_all(body)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The site's signing key; made, readable by its owner only, where there is none.
///
/// # Errors
/// See [`PublishError`].
pub fn load_or_make_key(path: &Path) -> Result<SigningKey, PublishError> {
    match fs::read_to_string(path) {
        Ok(pem) => {
            SigningKey::from_pkcs8_pem(&pem).map_err(|source| PublishError::ParseKey { path: path.to_owned(), source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = SigningKey::from_bytes(&rand::random());
            write_key(path, &key).map_err(|source| PublishError::WriteKey { path: path.to_owned(), source })?;
            Ok(key)
        }
        Err(source) => Err(PublishError::ReadKey { path: path.to_owned(), source }),
    }
}

fn write_key(path: &Path, key: &SigningKey) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(io::Error::other)?;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(pem.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::super::sample::sample;
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("bcp-export-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn publications_are_switched_whole_and_old_ones_go() {
        let dir = scratch("switch");
        let mut publisher = Publisher::open(Site::A, &dir.join("keys/publish.key"), &dir.join("export")).unwrap();
        let mut model = sample(1);
        for sequence in 100..106 {
            model.sequence = sequence;
            publisher.publish_model(&model, model.as_of).unwrap();
            let manifest = fs::read_to_string(dir.join("export/current/manifest.json")).unwrap();
            assert!(manifest.contains(&format!("\"sequence\":{sequence}")));
        }
        let kept = fs::read_dir(dir.join("export")).unwrap().count();
        assert_eq!(kept, 1 + KEEP + 1, "link, current and {KEEP} older");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_key_is_kept() {
        let dir = scratch("key");
        let first = load_or_make_key(&dir.join("k/publish.key")).unwrap();
        assert_eq!(load_or_make_key(&dir.join("k/publish.key")).unwrap(), first);
        fs::write(dir.join("k/publish.key"), "nonsense").unwrap();
        assert!(matches!(load_or_make_key(&dir.join("k/publish.key")), Err(PublishError::ParseKey { .. })));
        fs::remove_dir_all(dir).unwrap();
    }
}
