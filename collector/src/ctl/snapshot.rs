//! `bcpctl snapshot verify`: is this publication what a collector signed, whole, and still valid?

use std::path::PathBuf;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bcp_wire::Site;
use clap::{Args, Subcommand};
use ed25519_dalek::VerifyingKey;

use crate::Config;
use crate::mirror::Keys;
use crate::mirror::verify::{self, Verified};

#[derive(Debug, Subcommand)]
pub enum Snapshot {
    /// Check signature, every file's hash and the validity; writes nothing. Exit code 0: genuine and valid now
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// An export folder, a copy of one publication, or the address of a mirror
    #[arg(value_name = "DIR|URL")]
    place: String,
    /// Public key of a site, as a=BASE64; once per site
    #[arg(long = "trust", value_name = "SITE=KEY", value_parser = parse_key)]
    keys: Vec<(Site, VerifyingKey)>,
    /// Take the keys from a collector's configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn parse_key(argument: &str) -> Result<(Site, VerifyingKey), String> {
    let (site, key) = argument.split_once('=').ok_or("needed: site=key, as a=wq3K...")?;
    let site = site.parse().map_err(|_| format!("`{site}` is no site: a, b or w"))?;
    let bytes = STANDARD.decode(key).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let bytes = bytes.ok_or("a key is 32 bytes in base64")?;
    let key = VerifyingKey::from_bytes(&bytes).map_err(|_| "these bytes are no Ed25519 public key".to_owned())?;
    Ok((site, key))
}

/// # Errors
/// What is not as it was signed, or what is missing to say so.
pub async fn verify(args: &VerifyArgs) -> anyhow::Result<Verified> {
    let mut keys: Keys = args.keys.iter().copied().collect();
    if let Some(file) = &args.config {
        let config = Config::load(file).with_context(|| format!("failed to read {}", file.display()))?;
        keys.extend(crate::mirror::verifying_keys(&config)?);
    }
    if keys.is_empty() {
        bail!("no key to check against: give --trust SITE=KEY, or --config FILE of a collector");
    }
    let is_url = args.place.starts_with("http://") || args.place.starts_with("https://");
    Ok(match is_url {
        true => verify::origin(&args.place, &keys).await?,
        false => verify::folder(std::path::Path::new(&args.place), keys).await?,
    })
}
