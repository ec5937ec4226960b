//! SNMPv3 against other people's engines: snmpsim (PyPI) and net-snmp's snmpd, with every algorithm each of them has.
//!
//! A peer that is not installed skips its test with a line that says so; with `BCP_STRICT=1` it fails instead.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

#[path = "support/process.rs"]
mod process;
#[path = "support/snmp_agent.rs"]
mod snmp_agent;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bcp_agent::config::{Access, SnmpLink};
use bcp_agent::source::Polled;
use bcp_agent::source::snmp::usm::{AuthProtocol as A, PrivProtocol as P, Secret, User};
use process::{Peer, command, free_udp_port, installed, scratch, wait_for};
use snmp_agent::{device, points};

const BUDGET: Duration = Duration::from_secs(20);
const AUTH_KEY: &str = "maplesyrup";
const PRIV_KEY: &str = "syrupmaple";
const AUTHS: [A; 6] = [A::Md5, A::Sha1, A::Sha224, A::Sha256, A::Sha384, A::Sha512];

fn user(name: &str, context: &str, auth: A, privacy: Option<P>, auth_key: &str, priv_key: &str) -> Access {
    Access::V3(Arc::new(User::new(
        name.to_owned(),
        context.to_owned(),
        Some((auth, Secret::new(auth_key))),
        privacy.map(|cipher| (cipher, Secret::new(priv_key))),
    )))
}

async fn poll(port: u16, access: Access) -> Polled {
    let link = SnmpLink { address: format!("127.0.0.1:{port}"), access, timeout: Duration::from_secs(2), retries: 1 };
    device(link, &points(3)).poll(BUDGET).await
}

fn right(polled: &Polled) -> bool {
    let values: Vec<Option<f64>> =
        polled.samples.iter().map(|(_, _, value)| value.as_ref().ok().and_then(bcp_wire::Value::as_num)).collect();
    values == [Some(1.0), Some(2.0), Some(3.0)]
}

/// Tries every pair and prints a table; every one must be right.
async fn every_pair(peer: &str, port: u16, context: &str, ciphers: &[P], name: impl Fn(A, Option<P>) -> String) {
    let mut wrong = Vec::new();
    let mut count = 0;
    for auth in AUTHS {
        for privacy in std::iter::once(None).chain(ciphers.iter().copied().map(Some)) {
            let access = user(&name(auth, privacy), context, auth, privacy, AUTH_KEY, PRIV_KEY);
            let polled = poll(port, access).await;
            let result = if right(&polled) { "right" } else { polled.trouble.as_deref().unwrap_or("wrong values") };
            println!("{peer:<8}  {auth:<8?}  {:<8}  {result}", privacy.map_or("-".to_owned(), |p| format!("{p:?}")));
            count += 1;
            if !right(&polled) {
                wrong.push((auth, privacy, result.to_owned()));
            }
        }
    }
    println!("{peer}: {} of {count} pairs right", count - wrong.len());
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// What both kinds of peer do with wrong credentials.
async fn wrong_credentials_are_named(peer: &str, port: u16, context: &str, name: &str) {
    for (access, want) in [
        (user(name, context, A::Sha256, Some(P::Aes128), "maplesyrop", PRIV_KEY), &["authentication failed"][..]),
        (user(name, context, A::Sha512, Some(P::Aes128), AUTH_KEY, PRIV_KEY), &["authentication failed"]),
        (user("nobody", context, A::Sha256, Some(P::Aes128), AUTH_KEY, PRIV_KEY), &["unknown user"]),
        (user(name, context, A::Sha256, Some(P::Aes128), AUTH_KEY, "syrupmapel"), &["privacy failed"]),
        (user(name, context, A::Sha256, Some(P::Des), AUTH_KEY, PRIV_KEY), &["privacy failed"]),
    ] {
        let polled = poll(port, access).await;
        let trouble = polled.trouble.clone().unwrap_or_default();
        println!("{peer}: {} expected, got: {trouble}", want[0]);
        assert!(want.iter().any(|want| trouble.contains(want)), "{want:?}: {trouble}");
        assert!(polled.samples.iter().all(|(_, _, value)| *value == Err(bcp_wire::BadReason::Auth)));
    }
}

fn auth_word(auth: A) -> &'static str {
    match auth {
        A::Md5 => "MD5",
        A::Sha1 => "SHA",
        A::Sha224 => "SHA224",
        A::Sha256 => "SHA256",
        A::Sha384 => "SHA384",
        A::Sha512 => "SHA512",
    }
}

fn priv_word(privacy: P) -> &'static str {
    match privacy {
        P::Des => "DES",
        P::Aes128 => "AES128",
        P::Aes192 => "AES192BLMT",
        P::Aes256 => "AES256BLMT",
        P::Aes192c => "AES192",
        P::Aes256c => "AES256",
    }
}

fn sim_name(auth: A, privacy: Option<P>) -> String {
    format!("u{}{}", auth_word(auth), privacy.map_or("", priv_word))
}

/// snmpsim beside the interpreter that `BCP_PYTHON` names, or in the path.
fn snmpsim() -> Option<PathBuf> {
    const PROGRAM: &str = "snmpsim-command-responder";
    let beside = std::env::var_os("BCP_PYTHON").map(PathBuf::from).and_then(|p| Some(p.parent()?.join(PROGRAM)));
    if let Some(found) = beside.filter(|path| path.is_file()) {
        return Some(found);
    }
    installed(PROGRAM, "snmpsim from PyPI").then(|| PROGRAM.into())
}

#[tokio::test]
async fn every_algorithm_reads_snmpsim() {
    let Some(program) = snmpsim() else { return };
    let ciphers = [P::Des, P::Aes128, P::Aes192, P::Aes256, P::Aes192c, P::Aes256c];
    let dir = scratch("snmpsim");
    let mut records = "1.3.6.1.2.1.1.3.0|67|123456\n".to_owned();
    for n in 1..=3 {
        let _ = writeln!(records, "1.3.6.1.4.1.4242.1.{n}|2|{n}");
    }
    std::fs::create_dir_all(dir.join("data")).unwrap();
    std::fs::write(dir.join("data/public.snmprec"), records).unwrap();
    let port = free_udp_port();
    let owner = if rustix::process::geteuid().is_root() {
        vec!["--process-user=root".to_owned(), "--process-group=root".to_owned()]
    } else {
        Vec::new()
    };
    let mut sim = command(program.to_str().unwrap());
    sim.arg(format!("--cache-dir={}", dir.join("cache").display())).args(owner).arg("--v3-engine-id=auto");
    for auth in AUTHS {
        for privacy in std::iter::once(None).chain(ciphers.into_iter().map(Some)) {
            sim.arg(format!("--v3-user={}", sim_name(auth, privacy)));
            sim.arg(format!("--v3-auth-key={AUTH_KEY}")).arg(format!("--v3-auth-proto={}", auth_word(auth)));
            if let Some(privacy) = privacy {
                sim.arg(format!("--v3-priv-key={PRIV_KEY}")).arg(format!("--v3-priv-proto={}", priv_word(privacy)));
            }
        }
    }
    sim.arg(format!("--data-dir={}", dir.join("data").display()));
    sim.arg(format!("--agent-udpv4-endpoint=127.0.0.1:{port}"));
    let child = sim.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let _peer = Peer { child, dir };
    wait_for("snmpsim", async || right(&poll(port, Access::community("public")).await)).await;
    every_pair("snmpsim", port, "public", &ciphers, sim_name).await;
    let v1 = poll(port, Access::V1 { community: "public".to_owned() }).await;
    assert!(right(&v1), "{v1:?}");
    wrong_credentials_are_named("snmpsim", port, "public", &sim_name(A::Sha256, Some(P::Aes128))).await;
}

#[tokio::test]
async fn every_algorithm_reads_snmpd() {
    if !installed("snmpd", "snmpd") {
        return;
    }
    let ciphers = [P::Des, P::Aes128, P::Aes192, P::Aes256];
    let words = |auth: A, privacy: Option<P>| {
        let auth = match auth {
            A::Md5 => "MD5".to_owned(),
            A::Sha1 => "SHA".to_owned(),
            auth => auth_word(auth).replace("SHA", "SHA-"),
        };
        let privacy = privacy.map(|p| match p {
            P::Des => "DES",
            P::Aes128 => "AES",
            P::Aes192 | P::Aes192c => "AES-192",
            P::Aes256 | P::Aes256c => "AES-256",
        });
        (auth, privacy)
    };
    let dir = scratch("snmpd-v3");
    let port = free_udp_port();
    let mut conf = format!("agentAddress udp:127.0.0.1:{port}\nrocommunity public 127.0.0.1\n");
    for n in 1..=3 {
        let _ = writeln!(conf, "override 1.3.6.1.4.1.4242.1.{n} integer {n}");
    }
    for auth in AUTHS {
        for privacy in std::iter::once(None).chain(ciphers.into_iter().map(Some)) {
            let (name, (auth, privacy)) = (sim_name(auth, privacy), words(auth, privacy));
            let (tail, level) = privacy.map_or((String::new(), "auth"), |p| (format!(" {p} \"{PRIV_KEY}\""), "priv"));
            let _ = writeln!(conf, "createUser {name} {auth} \"{AUTH_KEY}\"{tail}\nrouser {name} {level}");
        }
    }
    let file = dir.join("snmpd.conf");
    std::fs::write(&file, conf).unwrap();
    let child = command("snmpd")
        .args(["-f", "-LS0-4d", "-C", "-c"])
        .arg(&file)
        .args(["-I", "-smux", "-p"])
        .arg(dir.join("pid"))
        .env("SNMP_PERSISTENT_DIR", dir.join("state"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _peer = Peer { child, dir };
    wait_for("snmpd", async || right(&poll(port, Access::community("public")).await)).await;
    every_pair("snmpd", port, "", &ciphers, sim_name).await;
    let v1 = poll(port, Access::V1 { community: "public".to_owned() }).await;
    assert!(right(&v1), "{v1:?}");
    wrong_credentials_are_named("snmpd", port, "", &sim_name(A::Sha256, Some(P::Aes128))).await;
}
