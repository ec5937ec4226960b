//! The collector's own file.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine;
use bcp_identity::Credentials;
use bcp_wire::Site;
use toml_edit::Item;

use super::read::{ConfigError, Faults, Section, Source};
use super::value::{Parsed, duration, host_port, site_map, socket, text, url, word};
use super::{Config, Control, Listen, Mqtt, Public, influx, policy};

/// History is kept this long unless told otherwise.
const DEFAULT_RETENTION: Duration = Duration::from_secs(30 * 86_400);

pub(super) fn load(path: &Path) -> Result<Config, ConfigError> {
    let faults: Faults = Rc::new(RefCell::new(Vec::new()));
    let source = Source::open(path, &faults)?;
    let config = match source.document() {
        Some(document) => read(path, &source, source.root(&document), &faults)?,
        None => None,
    };
    let found = faults.take();
    match config {
        Some(config) if found.is_empty() => Ok(config),
        _ => Err(ConfigError::Faults(found)),
    }
}

fn read(path: &Path, source: &Source, mut root: Section<'_>, faults: &Faults) -> Result<Option<Config>, ConfigError> {
    let site = root.required("site", "this collector's site: a, b or w", word::<Site>);
    let data_dir = root.required("data_dir", "directory for everything it keeps", text).map(|dir| source.resolve(&dir));
    let listen = root.required_section("listen", "[listen] public, console, control").and_then(listen);
    let mqtt = root.required_section("mqtt", "[mqtt] brokers = { a = \"host:port\", ... }").and_then(mqtt);
    let control =
        root.required_section("control", "[control] credentials, peers").and_then(|section| control(section, site));
    let public = root.required_section("public", "[public] key, known_keys, origins").and_then(public);
    let retention = root.section("history").and_then(|mut section| {
        let retention = section.optional("retention", "as \"30d\"", duration);
        section.close();
        retention
    });
    let influx = root.section("influx").and_then(influx::read);
    let policy_path = root.required("policy", "the policy file, the same on all three sites", text);
    root.close();
    let policy = match policy_path {
        Some(policy_path) => policy::read(&Source::open(&source.resolve(&policy_path), faults)?),
        None => None,
    };
    let assembled = || {
        let policy = policy?;
        Some(Config {
            file: path.to_owned(),
            site: site?,
            data_dir: data_dir?,
            listen: listen?,
            mqtt: mqtt?,
            control: control?,
            public: public?,
            retention: retention.unwrap_or(DEFAULT_RETENTION),
            influx,
            policy: policy.policy,
            rules: policy.rules,
            assets: policy.assets,
        })
    };
    Ok(assembled())
}

fn listen(mut section: Section<'_>) -> Option<Listen> {
    let help = "address:port, as \"127.0.0.1:18000\"";
    let public = section.required("public", help, socket);
    let console = section.required("console", help, socket);
    let control = section.required("control", help, socket);
    if let Some(console) = console.filter(|console| !console.ip().is_loopback()) {
        let problem = format!("{console} is not loopback, and the console has no TLS of its own");
        section.fault("console", problem, "listen on 127.0.0.1 and put a proxy with a login in front");
    }
    section.close();
    Some(Listen { public: public?, console: console?, control: control? })
}

fn mqtt(mut section: Section<'_>) -> Option<Mqtt> {
    let embedded = section.optional("embedded", "address:port on loopback", socket);
    if let Some(address) = embedded.filter(|address| !address.ip().is_loopback()) {
        let problem = format!("{address} is not loopback, and the embedded broker has neither TLS nor access lists");
        section.fault("embedded", problem, "use 127.0.0.1, or another broker with mutual TLS");
    }
    let brokers = section.required("brokers", "as { a = \"host:port\", b = ..., w = ... }", site_map(host_port));
    let secret = |section: &mut Section<'_>, key| {
        section.optional(key, "a file", text).map(|path| section.source.resolve(&path))
    };
    let username_file = secret(&mut section, "username_file");
    let password_file = secret(&mut section, "password_file");
    let tls = section.section("tls").and_then(credentials);
    section.close();
    Some(Mqtt { embedded, brokers: brokers?, username_file, password_file, tls })
}

fn credentials(mut section: Section<'_>) -> Option<Credentials> {
    let source = section.source;
    let ca = section.required("ca", "PEM file of the CA", text);
    let cert = section.required("cert", "PEM file of the own certificate", text);
    let key = section.required("key", "PEM file of its key", text);
    section.close();
    Some(Credentials { ca: source.resolve(&ca?), cert: source.resolve(&cert?), key: source.resolve(&key?) })
}

fn control(mut section: Section<'_>, site: Option<Site>) -> Option<Control> {
    let files = section.required_section("credentials", "credentials = { ca, cert, key }").and_then(credentials);
    let peers = section.required(
        "peers",
        "the two other sites, as { b = \"https://host:port\", w = ... }",
        site_map(url("https")),
    );
    if let (Some(site), Some(peers)) = (site, &peers) {
        let wanted = site.others();
        if peers.len() != wanted.len() || wanted.iter().any(|other| !peers.contains_key(other)) {
            let problem = format!("collector {site} needs exactly the peers {} and {}", wanted[0], wanted[1]);
            section.fault("peers", problem, "every collector talks to both others");
        }
    }
    section.close();
    Some(Control { credentials: files?, peers: peers? })
}

fn public_key(item: &Item) -> Parsed<[u8; 32]> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text(item)?).map_err(|error| format!("{error}"))?;
    <[u8; 32]>::try_from(bytes).map_err(|bytes| format!("{} bytes, an Ed25519 public key has 32", bytes.len()))
}

fn public(mut section: Section<'_>) -> Option<Public> {
    let key = section.required("key", "Ed25519 key file, made on the first start", text);
    let known_keys = section.optional("known_keys", "as { a = \"<base64 of 32 bytes>\", ... }", site_map(public_key));
    let origins = section.optional("origins", "as { b = \"http://host:port\", ... }", site_map(url("http")));
    let source = section.source;
    section.close();
    Some(Public {
        key: source.resolve(&key?),
        known_keys: known_keys.unwrap_or_default(),
        origins: origins.unwrap_or_default(),
    })
}
