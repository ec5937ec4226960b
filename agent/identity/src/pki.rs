//! A small certificate authority for one deployment: three sites, their agents and their operators.
//!
//! Files in the directory: `ca.pem`, `ca.key`, and per identity `<identity with ':' as '-'>.pem` and `.key`. Keys are ECDSA
//! P-256, readable by their owner only; a file is complete under its name or not there at all.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use time::{Duration, OffsetDateTime};

use crate::{Credentials, Identity};

/// A CA outlives the certificates it issues; renewing it touches every machine.
const CA_DAYS: i64 = 3_650;
const CERTIFICATE_DAYS: i64 = 397;
/// Valid from before now, so that a machine whose clock is behind accepts it.
const BACKDATED: Duration = Duration::days(1);

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("failed to read {path}", path = path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("failed to write {path}", path = path.display())]
    Write {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("there is a CA in {dir} already", dir = dir.display())]
    Exists { dir: PathBuf },
    #[error("failed to make the certificate of {name}")]
    Make {
        name: String,
        #[source]
        cause: rcgen::Error,
    },
}

/// Makes `ca.pem` and `ca.key` in `dir` (created if absent). Refuses to replace a CA.
pub fn create_ca(dir: &Path, common_name: &str) -> Result<(), PkiError> {
    let made = |cause| PkiError::Make { name: common_name.to_owned(), cause };
    std::fs::create_dir_all(dir).map_err(|cause| PkiError::Write { path: dir.to_owned(), cause })?;
    let (cert_path, key_path) = (dir.join("ca.pem"), dir.join("ca.key"));
    if cert_path.exists() || key_path.exists() {
        return Err(PkiError::Exists { dir: dir.to_owned() });
    }
    let key = KeyPair::generate().map_err(made)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, CA_DAYS);
    let certificate = params.self_signed(&key).map_err(made)?;
    write_file(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
    write_file(&cert_path, certificate.pem().as_bytes(), 0o644)
}

/// Issues a certificate for `identity` with the CA in `dir`, valid for server and client use. `hosts` are the names and
/// addresses under which it is reached (`127.0.0.1`, `localhost`). An earlier one is replaced: that is a renewal.
pub fn issue(dir: &Path, identity: &Identity, hosts: &[String]) -> Result<Credentials, PkiError> {
    let made = |cause| PkiError::Make { name: identity.to_string(), cause };
    let ca_key = KeyPair::from_pem(&read_text(&dir.join("ca.key"))?).map_err(made)?;
    let issuer = Issuer::from_ca_cert_pem(&read_text(&dir.join("ca.pem"))?, ca_key).map_err(made)?;
    let key = KeyPair::generate().map_err(made)?;
    let mut params = CertificateParams::new(hosts.to_vec()).map_err(made)?;
    params.subject_alt_names.push(SanType::URI(identity.to_string().try_into().map_err(made)?));
    params.distinguished_name.push(DnType::CommonName, identity.to_string());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, CERTIFICATE_DAYS);
    let certificate = params.signed_by(&key, &issuer).map_err(made)?;
    let files = Credentials::in_dir(dir, identity);
    write_file(&files.key, key.serialize_pem().as_bytes(), 0o600)?;
    write_file(&files.cert, certificate.pem().as_bytes(), 0o644)?;
    Ok(files)
}

fn set_validity(params: &mut CertificateParams, days: i64) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATED;
    params.not_after = now + Duration::days(days);
}

fn read_text(path: &Path) -> Result<String, PkiError> {
    std::fs::read_to_string(path).map_err(|cause| PkiError::Read { path: path.to_owned(), cause })
}

fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    let fault = |cause| PkiError::Write { path: path.to_owned(), cause };
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".tmp");
    let unfinished = PathBuf::from(unfinished);
    let _ = std::fs::remove_file(&unfinished);
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&unfinished).map_err(fault)?;
    file.write_all(bytes).map_err(fault)?;
    file.sync_all().map_err(fault)?;
    std::fs::rename(&unfinished, path).map_err(fault)
}
