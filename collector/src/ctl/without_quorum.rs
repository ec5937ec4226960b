//! `bcpctl force --without-quorum`: an order that two operators sign and that gates take up without any collector.
//!
//! Knows: the order's file, the signing keys, the gates' own words. Invariant: nothing is signed or sent unless `--yes` is
//! given after everything it does was printed.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bcp_identity::{Identity, http_client};
use bcp_wire::force::{ForceAnswer, ForceOrder, ForceOutcome, GateSeen, SignedForce, to_hex};
use bcp_wire::{Epoch, Id, Site};
use clap::Args;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use ed25519_dalek::{Signer, SigningKey};

use super::args::Access;
use super::server::credentials;
use crate::config::parse_duration;
use crate::decide::tick::wall_now;

/// A gate answers from its disk.
const GATE_LIMIT: Duration = Duration::from_secs(4);
/// The order is good for so long unless told otherwise: enough for the second person to come.
const GOOD_FOR: &str = "1h";

/// What goes with `--without-quorum`.
#[derive(Debug, Args)]
pub(super) struct WithoutQuorum {
    /// No collector is asked: gates take up an order that two operators have signed. For the day when two sites are gone
    #[arg(long, requires_all = ["order", "signing_key"])]
    pub without_quorum: bool,
    /// File of the order: written by the first operator, signed by the second one
    #[arg(long, value_name = "FILE", requires = "without_quorum")]
    order: Option<PathBuf>,
    /// Own signing key (PEM), as `bcpctl signing-key` makes it
    #[arg(long, value_name = "FILE", requires = "without_quorum")]
    signing_key: Option<PathBuf>,
    /// A gate that is asked what it has seen, and is sent the order: SITE/GATE=URL, once per gate that can be reached
    #[arg(long = "gate", value_name = "GATE", value_parser = parse_gate, requires = "without_quorum")]
    gates: Vec<Gate>,
    /// How long the order may be taken up, as 1h
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = GOOD_FOR, requires = "without_quorum")]
    good_for: Duration,
    /// Do it; without this it is only shown
    #[arg(long, requires = "without_quorum")]
    yes: bool,
}

#[derive(Debug, Clone)]
struct Gate {
    identity: Identity,
    url: String,
}

fn parse_gate(text: &str) -> Result<Gate, String> {
    let fault = || format!("`{text}` is not SITE/GATE=URL, as b/host-b=https://10.0.1.5:18110");
    let (name, url) = text.split_once('=').ok_or_else(fault)?;
    let (site, id) = name.split_once('/').ok_or_else(fault)?;
    let site = site.parse().map_err(|_| fault())?;
    let id = id.parse().map_err(|_| fault())?;
    if !url.starts_with("https://") {
        return Err(fault());
    }
    Ok(Gate { identity: Identity::Agent { site, id }, url: url.trim_end_matches('/').to_owned() })
}

/// What the operator wants; the rest is in [`WithoutQuorum`].
pub(super) struct Wanted {
    pub ticket: Id,
    pub to: Site,
    pub reason: String,
}

/// Writes the order, or adds the second signature and sends it. False: nothing was done, or a gate refused.
pub(super) async fn force(access: &Access, wanted: Wanted, how: &WithoutQuorum) -> anyhow::Result<bool> {
    let (Some(path), Some(key)) = (&how.order, &how.signing_key) else { bail!("give --order and --signing-key") };
    let name = access.operator.clone().context("give --operator: the name whose key signs")?;
    let pem = std::fs::read_to_string(key).with_context(|| format!("failed to read {}", key.display()))?;
    let key = SigningKey::from_pkcs8_pem(&pem).with_context(|| format!("{} is no signing key", key.display()))?;
    let seen = ask_all(access, &wanted.ticket, &how.gates).await;
    let mut signed = match read(path)? {
        Some(signed) => {
            let ForceOrder { ticket, to, .. } = &signed.order;
            let is_same = (ticket, *to) == (&wanted.ticket, wanted.to);
            ensure!(is_same, "{} is an order to give {ticket} to site {to}", path.display());
            ensure!(signed.order.expires_ms > wall_now().0, "{} has expired: begin anew", path.display());
            signed
        }
        None => SignedForce { order: new_order(wanted, &seen, how.good_for)?, signatures: BTreeMap::new() },
    };
    signed.order.check()?;
    let above = seen.iter().map(|(_, seen)| seen.epoch.incarnation).max().unwrap_or(0);
    ensure!(signed.order.epoch.incarnation > above, "a gate has seen incarnation {above} by now: begin anew");
    explain(&signed.order, &seen);
    if !how.yes {
        println!("\nnothing was signed or sent; add --yes");
        return Ok(false);
    }
    let signature = key.sign(signed.order.signed_text().as_bytes());
    signed.signatures.insert(name.clone(), to_hex(&signature.to_bytes()));
    write(path, &signed)?;
    if signed.signatures.len() < 2 {
        println!("\nsigned by {name}; another operator signs the same file with --order {}", path.display());
        return Ok(true);
    }
    println!("\nsigned by {}", signed.signatures.keys().map(Id::as_str).collect::<Vec<_>>().join(" and "));
    ensure!(!how.gates.is_empty(), "two have signed; give --gate to send it");
    send(access, &signed, &how.gates).await
}

fn new_order(wanted: Wanted, seen: &[(Gate, GateSeen)], good_for: Duration) -> anyhow::Result<ForceOrder> {
    let now_ms = wall_now().0;
    // The second of today, so that two orders never get the same one; above everything seen, should a clock be wrong.
    let of_now = u32::try_from(now_ms / 1_000).context("this machine's clock is wrong")?;
    let above = seen.iter().map(|(_, seen)| seen.epoch.incarnation).max().unwrap_or(0);
    let epoch = Epoch { incarnation: of_now.max(above.saturating_add(1)), counter: 1 };
    let expires_ms = now_ms.saturating_add(i64::try_from(good_for.as_millis()).unwrap_or(i64::MAX));
    Ok(ForceOrder { ticket: wanted.ticket, to: wanted.to, epoch, expires_ms, reason: wanted.reason.trim().to_owned() })
}

fn explain(order: &ForceOrder, seen: &[(Gate, GateSeen)]) {
    let ForceOrder { ticket, to, epoch, expires_ms, reason } = order;
    println!("{ticket} is to be run by site {to} as epoch {epoch}, without any collector: {reason}");
    for (gate, seen) in seen {
        let holder = seen.holder.map_or_else(|| "nobody".to_owned(), |site| format!("site {site}"));
        println!("  {} has seen epoch {} of {holder}, and is {}", gate.identity, seen.epoch, seen.doing);
    }
    let left_s = (expires_ms - wall_now().0).max(0) / 1_000;
    println!(
        "what it does:\n\
         \x20 * the gate of site {to} waits one promise length (15 s with metro) and every promise that stands, then promotes;\n\
         \x20 * nobody renews it: it goes on until it is stopped, its host boots, or a later order comes;\n\
         \x20 * a gate of another site that gets the order stops the service there and obeys no older epoch;\n\
         \x20 * collectors do nothing about {ticket} until `bcpctl readmit ticket {ticket}`.\n\
         what it does not do:\n\
         \x20 * it does not stop a site that the order does not reach. Where such a site is alive, both run: be sure that the\n\
         \x20   other sites are down, or switch them off;\n\
         \x20 * it does not ask whether the copy at site {to} has everything: what it lacks is lost.\n\
         it can be taken up for another {left_s} s"
    );
}

async fn ask_all(access: &Access, ticket: &Id, gates: &[Gate]) -> Vec<(Gate, GateSeen)> {
    let mut found = Vec::new();
    for gate in gates {
        let all = async {
            let client = http_client(&credentials(access)?, &gate.identity, GATE_LIMIT)?;
            let answer = client.get(format!("{}/gate/v1/seen", gate.url)).send().await?.error_for_status()?;
            anyhow::Ok(answer.json::<Vec<GateSeen>>().await?)
        };
        match all.await {
            Ok(all) => match all.into_iter().find(|seen| seen.ticket == *ticket) {
                Some(seen) => found.push((gate.clone(), seen)),
                None => eprintln!("bcpctl: {} has no ticket {ticket}", gate.identity),
            },
            Err(error) => eprintln!("bcpctl: {} does not say what it has seen: {error:#}", gate.identity),
        }
    }
    found
}

/// To the gates of other sites first: what they run is stopped before anything is begun.
async fn send(access: &Access, signed: &SignedForce, gates: &[Gate]) -> anyhow::Result<bool> {
    let is_target = |gate: &Gate| matches!(&gate.identity, Identity::Agent { site, .. } if *site == signed.order.to);
    let (targets, others): (Vec<&Gate>, Vec<&Gate>) = gates.iter().partition(|gate| is_target(gate));
    ensure!(!targets.is_empty(), "none of the gates given is of site {}", signed.order.to);
    let mut all_well = true;
    for gate in others.into_iter().chain(targets) {
        let answer = async {
            let client = http_client(&credentials(access)?, &gate.identity, GATE_LIMIT)?;
            let answer = client.post(format!("{}/gate/v1/force", gate.url)).json(signed).send().await?;
            let status = answer.status();
            ensure!(status.is_success(), "{status}: {}", answer.text().await.unwrap_or_default());
            Ok(answer.json::<ForceAnswer>().await?.outcome)
        };
        let said = match answer.await {
            Ok(ForceOutcome::WillPromote { after_ms }) => format!("promotes after {:.1} s", after_ms as f64 / 1e3),
            Ok(ForceOutcome::Yielded) => "yields".to_owned(),
            Ok(ForceOutcome::Refused { reason }) => {
                all_well = false;
                format!("REFUSES: {reason}")
            }
            Err(error) => {
                all_well &= !is_target(gate);
                format!("does not answer: {error:#}")
            }
        };
        println!("{}: {said}", gate.identity);
    }
    Ok(all_well)
}

fn read(path: &Path) -> anyhow::Result<Option<SignedForce>> {
    match std::fs::read(path) {
        Ok(bytes) => {
            Ok(Some(serde_json::from_slice(&bytes).with_context(|| format!("{} is no order", path.display()))?))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("failed to read {}", path.display())),
    }
}

fn write(path: &Path, signed: &SignedForce) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(signed)?;
    std::fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
}

/// `bcpctl signing-key FILE`: a new key, its public half for `gate.operators`.
pub(super) fn new_key(path: &Path) -> anyhow::Result<()> {
    let key = SigningKey::from_bytes(&rand::random());
    let pem = key.to_pkcs8_pem(LineEnding::LF)?;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(pem.as_bytes()))
        .with_context(|| format!("failed to write {}", path.display()))?;
    println!("{}", to_hex(key.verifying_key().as_bytes()));
    eprintln!("bcpctl: the line above is its public half: gate.operators in the configuration of every gate");
    Ok(())
}
