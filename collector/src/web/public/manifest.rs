//! The signed list of a publication's files.
//!
//! `{"manifest": {...}, "signature": "..."}`: the signature covers exactly the bytes of the inner object as they stand in
//! the file, after a line that names the purpose, so nothing has to be written again to be checked and no signature made for
//! another purpose fits. Fields may be added; a reader ignores what it does not know.
//!
//! Invariants: nothing of a manifest is used before its signature was checked against a known key of the site that it
//! names; a validity longer than a publication may have is refused, whoever signed it.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bcp_core::replica::PUBLICATION_VALID_MS;
use bcp_core::time::Wall;
use bcp_wire::Site;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::model::PublicModel;
use super::tree::{Tree, media_type};
use super::when::utc;

const PURPOSE: &[u8] = b"bcp-fleet public manifest 1\n";
/// A manifest of 500 services is about 3 MB.
pub const MAX_MANIFEST_BYTES: usize = 8 * 1024 * 1024;
/// 500 services have about 9,000 files.
pub const MAX_FILES: usize = 20_000;
/// Largest file of a publication.
pub const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// All files of a publication: what a mirror is ready to hold.
pub const MAX_TOTAL_BYTES: u64 = 512 * 1024 * 1024;
/// Longest path in the tree.
const MAX_PATH_BYTES: usize = 200;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub v: u8,
    /// Log index of the publication point.
    pub sequence: u64,
    /// Site whose collector made these files.
    pub issuer: Site,
    pub as_of: String,
    pub as_of_ms: i64,
    pub valid_until: String,
    pub valid_until_ms: i64,
    /// Issuer's wall clock when the files were written, less `as_of`: its own lag, and its clock's offset.
    pub lag_ms: i64,
    /// Measuring sites that had a say in the states, of how many.
    pub agreeing: Option<(u8, u8)>,
    pub files: BTreeMap<String, FileEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Hexadecimal.
    pub sha256: String,
    pub bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    manifest: &'a RawValue,
    signature: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest is larger than {MAX_MANIFEST_BYTES} bytes")]
    TooLarge,
    #[error("the manifest is not of the known form")]
    Malformed(#[source] serde_json::Error),
    #[error("the manifest has version {0}; known is 1")]
    Version(u8),
    #[error("no key is known for site {0}")]
    UnknownIssuer(Site),
    #[error("the signature is not one of site {0}")]
    Signature(Site),
    #[error("the manifest names an impossible file `{0}`")]
    Path(String),
    #[error("the manifest's files are too many or too large")]
    Size,
    #[error("a validity of {0} ms is longer than a publication may have")]
    Validity(i64),
}

#[must_use]
pub fn sha256_hex(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Manifest {
    #[must_use]
    pub fn of(model: &PublicModel, tree: &Tree, issuer: Site, now: Wall) -> Manifest {
        let entry = |body: &Vec<u8>| FileEntry { sha256: sha256_hex(body), bytes: body.len() as u64 };
        Manifest {
            v: 1,
            sequence: model.sequence,
            issuer,
            as_of: utc(model.as_of),
            as_of_ms: model.as_of.0,
            valid_until: utc(model.valid_until),
            valid_until_ms: model.valid_until.0,
            lag_ms: now.0.saturating_sub(model.as_of.0),
            agreeing: model.agreeing,
            files: tree.iter().map(|(path, body)| (path.clone(), entry(body))).collect(),
        }
    }

    /// The bytes of `manifest.json`.
    ///
    /// # Errors
    /// Never for a manifest made by [`Manifest::of`]; kept as an error because the serialiser can refuse.
    pub fn sign(&self, key: &SigningKey) -> Result<Vec<u8>, serde_json::Error> {
        let raw = RawValue::from_string(serde_json::to_string(self)?)?;
        let signature = STANDARD.encode(key.sign(&signed_bytes(&raw)).to_bytes());
        serde_json::to_vec(&Envelope { manifest: &raw, signature })
    }

    /// # Errors
    /// Why these bytes are no manifest of a known site.
    pub fn verify(bytes: &[u8], known: &BTreeMap<Site, VerifyingKey>) -> Result<Manifest, ManifestError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge);
        }
        #[derive(Deserialize)]
        struct Issuer {
            v: u8,
            issuer: Site,
        }
        let envelope: Envelope<'_> = serde_json::from_slice(bytes).map_err(ManifestError::Malformed)?;
        let claimed: Issuer = serde_json::from_str(envelope.manifest.get()).map_err(ManifestError::Malformed)?;
        if claimed.v != 1 {
            return Err(ManifestError::Version(claimed.v));
        }
        let key = known.get(&claimed.issuer).ok_or(ManifestError::UnknownIssuer(claimed.issuer))?;
        let refused = || ManifestError::Signature(claimed.issuer);
        let signature = STANDARD.decode(&envelope.signature).map_err(|_| refused())?;
        let signature = Signature::from_slice(&signature).map_err(|_| refused())?;
        key.verify_strict(&signed_bytes(envelope.manifest), &signature).map_err(|_| refused())?;
        let manifest: Manifest = serde_json::from_str(envelope.manifest.get()).map_err(ManifestError::Malformed)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ManifestError> {
        let validity = self.valid_until_ms.saturating_sub(self.as_of_ms);
        if !(0..=PUBLICATION_VALID_MS).contains(&validity) {
            return Err(ManifestError::Validity(validity));
        }
        let total: u64 = self.files.values().fold(0, |sum, file| sum.saturating_add(file.bytes));
        let too_large = self.files.values().any(|file| file.bytes > MAX_FILE_BYTES);
        if self.files.len() > MAX_FILES || total > MAX_TOTAL_BYTES || too_large {
            return Err(ManifestError::Size);
        }
        match self.files.keys().find(|path| !is_tree_path(path)) {
            Some(path) => Err(ManifestError::Path(path.chars().take(48).collect())),
            None => Ok(()),
        }
    }
}

fn signed_bytes(raw: &RawValue) -> Vec<u8> {
    [PURPOSE, raw.get().as_bytes()].concat()
}

/// A path that stays inside the tree and that a mirror can serve with a known media type.
fn is_tree_path(path: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
    };
    path.len() <= MAX_PATH_BYTES && path.split('/').all(part) && media_type(path).is_some()
}

#[cfg(test)]
mod tests {
    use super::super::sample::sample;
    use super::super::tree::render;
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn known() -> BTreeMap<Site, VerifyingKey> {
        BTreeMap::from([(Site::A, key(1).verifying_key()), (Site::B, key(2).verifying_key())])
    }

    fn made(issuer: Site) -> Manifest {
        let model = sample(1);
        Manifest::of(&model, &render(&model).unwrap(), issuer, model.as_of)
    }

    #[test]
    fn a_signed_manifest_is_read_back() {
        let manifest = made(Site::A);
        assert_eq!(Manifest::verify(&manifest.sign(&key(1)).unwrap(), &known()).unwrap(), manifest);
    }

    #[test]
    fn another_sites_key_and_changed_bytes_are_refused() {
        let manifest = made(Site::A);
        let foreign = manifest.sign(&key(2)).unwrap();
        assert!(matches!(Manifest::verify(&foreign, &known()), Err(ManifestError::Signature(Site::A))));
        let text = String::from_utf8(manifest.sign(&key(1)).unwrap()).unwrap();
        let changed = text.replace("48213", "48214");
        assert!(matches!(Manifest::verify(changed.as_bytes(), &known()), Err(ManifestError::Signature(Site::A))));
        let unknown = made(Site::W).sign(&key(3)).unwrap();
        assert!(matches!(Manifest::verify(&unknown, &known()), Err(ManifestError::UnknownIssuer(Site::W))));
    }

    #[test]
    fn a_long_validity_and_a_path_out_of_the_tree_are_refused() {
        let mut manifest = made(Site::A);
        manifest.valid_until_ms += 1;
        assert!(matches!(
            Manifest::verify(&manifest.sign(&key(1)).unwrap(), &known()),
            Err(ManifestError::Validity(60_001))
        ));
        for path in ["../x.json", "a//b.json", "/a.json", "nl/.hidden.html", "nl/a.exe", "nl/A.html"] {
            let mut manifest = made(Site::A);
            manifest.files.insert(path.to_owned(), FileEntry { sha256: String::new(), bytes: 0 });
            let bytes = manifest.sign(&key(1)).unwrap();
            assert!(matches!(Manifest::verify(&bytes, &known()), Err(ManifestError::Path(_))), "{path}");
        }
    }

    #[test]
    fn random_bytes_are_refused() {
        for bytes in [&b""[..], b"{", b"{\"manifest\":{},\"signature\":\"\"}", b"[1]", &[0xff; 300]] {
            assert!(Manifest::verify(bytes, &known()).is_err());
        }
    }
}
