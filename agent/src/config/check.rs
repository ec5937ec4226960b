//! `[[check]]`: what is asked of a service, and what answer is a good one.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bcp_wire::{Id, Site};
use rustls::pki_types::ServerName;

use super::{Reader, TIMEOUT_MS, address, interval, timeout};
use crate::document::{Section, nearest};
use crate::span::Span;

/// A certificate with fewer days left makes a check "degraded".
const MIN_DAYS: u16 = 7;

/// An application check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckConfig {
    pub id: Id,
    pub service: Id,
    /// Absent: as users see it.
    pub target_site: Option<Site>,
    pub interval: Duration,
    /// A good answer later than this is "degraded".
    pub degraded_after: Option<Duration>,
    pub probe: CheckProbe,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckProbe {
    Http(HttpProbe),
    Tcp(TcpProbe),
    Tls(TlsProbe),
    Dns(DnsProbe),
    Script(ScriptProbe),
}

impl CheckProbe {
    /// What is asked, for people.
    #[must_use]
    pub fn target(&self) -> String {
        match self {
            CheckProbe::Http(probe) => probe.url.clone(),
            CheckProbe::Tcp(probe) => probe.address.clone(),
            CheckProbe::Tls(probe) => format!("tls {}", probe.address),
            CheckProbe::Dns(probe) => format!("dns {} at {}", probe.name, probe.server),
            CheckProbe::Script(probe) => probe.command.first().cloned().unwrap_or_default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProbe {
    pub url: String,
    pub expect_status: u16,
    /// The body must contain this.
    pub expect_body: Option<String>,
    pub timeout: Duration,
    /// Authorities (PEM) to trust in place of the system's.
    pub ca: Option<PathBuf>,
    pub min_days: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpProbe {
    pub address: String,
    /// What the server says first must contain this.
    pub expect: Option<String>,
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsProbe {
    pub address: String,
    /// The name that the certificate must be for; the host of the address where none is given.
    pub server_name: ServerName<'static>,
    pub timeout: Duration,
    pub ca: Option<PathBuf>,
    pub min_days: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsProbe {
    pub server: SocketAddr,
    pub name: String,
    pub ipv6: bool,
    /// Exactly these addresses, in any order; empty: any.
    pub expect: BTreeSet<IpAddr>,
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptProbe {
    /// Program and arguments; no shell.
    pub command: Vec<String>,
    pub timeout: Duration,
}

pub(super) fn read(reader: &mut Reader, mut section: Section<'_, '_>) -> Option<CheckConfig> {
    let id = reader.id(&mut section, "another check");
    let service: Option<Id> = section.required("service", "\"prescriptions\"");
    let target_site: Option<Site> = section.optional("target_site");
    let interval = interval(&mut section, "1s");
    let degraded_after: Option<Span> = section.optional("degraded_after");
    if degraded_after.is_some_and(|span| !TIMEOUT_MS.contains(&span.as_millis())) {
        section.fault("degraded_after", "a latency that matters is between 10ms and 30s", None);
    }
    let probes = [
        section.section("http").map(|section| http(section).map(CheckProbe::Http)),
        section.section("tcp").map(|section| tcp(section).map(CheckProbe::Tcp)),
        section.section("tls").map(|section| tls(section).map(CheckProbe::Tls)),
        section.section("dns").map(|section| dns(section).map(CheckProbe::Dns)),
        section.section("script").map(|section| script(section).map(CheckProbe::Script)),
    ];
    let mut given = probes.into_iter().flatten();
    let (probe, surplus) = (given.next(), given.next());
    if probe.is_none() || surplus.is_some() {
        let help = "add `http = { url = \"http://127.0.0.1:8080/health\" }`".to_owned();
        section.fault("", "a check has exactly one of `http`, `tcp`, `tls`, `dns` and `script`", Some(help));
    }
    section.finish();
    let degraded_after = degraded_after.map(Span::get);
    Some(CheckConfig { id: id?, service: service?, target_site, interval: interval?, degraded_after, probe: probe?? })
}

/// Authorities and the bound of days that a certificate may have left.
fn trust(section: &mut Section<'_, '_>) -> (Option<PathBuf>, u16) {
    let ca: Option<PathBuf> = section.optional("ca");
    if ca.as_ref().is_some_and(|path| !path.is_file()) {
        section.fault("ca", "there is no such file", None);
    }
    (ca, section.optional("min_days").unwrap_or(MIN_DAYS))
}

fn http(mut section: Section<'_, '_>) -> Option<HttpProbe> {
    let url: Option<String> = section.required("url", "\"http://127.0.0.1:8080/health\"");
    let url = url.filter(|url| match reqwest::Url::parse(url) {
        Ok(parsed) if matches!(parsed.scheme(), "http" | "https") && parsed.has_host() => true,
        Ok(parsed) => {
            let near = nearest(parsed.scheme(), &["http", "https"]).map(|near| format!("did you mean `{near}`?"));
            section.fault("url", "a check's URL starts with http:// or https:// and names a host", near);
            false
        }
        Err(error) => {
            section.fault("url", format!("`{url}` is not a URL: {error}"), None);
            false
        }
    });
    let expect_status: u16 = section.optional("expect_status").unwrap_or(200);
    if !(100..=599).contains(&expect_status) {
        section.fault("expect_status", "an HTTP status is 100 to 599", None);
    }
    let expect_body: Option<String> = section.optional("expect_body");
    let timeout = timeout(&mut section, 1_000);
    let (ca, min_days) = trust(&mut section);
    section.finish();
    Some(HttpProbe { url: url?, expect_status, expect_body, timeout, ca, min_days })
}

fn tcp(mut section: Section<'_, '_>) -> Option<TcpProbe> {
    let address = address(&mut section, 80);
    let expect: Option<String> = section.optional("expect");
    let timeout = timeout(&mut section, 1_000);
    section.finish();
    Some(TcpProbe { address: address?, expect: expect.filter(|want| !want.is_empty()), timeout })
}

fn tls(mut section: Section<'_, '_>) -> Option<TlsProbe> {
    let address = address(&mut section, 443);
    let given: Option<String> = section.optional("server_name");
    let host = address.as_deref().and_then(|address| address.rsplit_once(':')).map(|(host, _)| host);
    let name = given.clone().or_else(|| host.map(|host| host.trim_matches(['[', ']']).to_owned()));
    let server_name = name.and_then(|name| match ServerName::try_from(name) {
        Ok(name) => Some(name),
        Err(error) => {
            let key = if given.is_some() { "server_name" } else { "address" };
            section.fault(key, format!("no certificate can be for this name: {error}"), None);
            None
        }
    });
    let timeout = timeout(&mut section, 2_000);
    let (ca, min_days) = trust(&mut section);
    section.finish();
    Some(TlsProbe { address: address?, server_name: server_name?, timeout, ca, min_days })
}

fn dns(mut section: Section<'_, '_>) -> Option<DnsProbe> {
    let server: Option<SocketAddr> = section.required("server", "\"10.0.0.53:53\"");
    let name: Option<String> = section.required("name", "\"portal.example.org\"");
    let ipv6: bool = section.optional("ipv6").unwrap_or(false);
    let expect: BTreeSet<IpAddr> = section.optional("expect").unwrap_or_default();
    if expect.iter().any(|address| address.is_ipv6() != ipv6) {
        section.fault("expect", "an IPv6 address is only found with `ipv6 = true`, and an IPv4 address without", None);
    }
    let timeout = timeout(&mut section, 1_000);
    section.finish();
    Some(DnsProbe { server: server?, name: name?, ipv6, expect, timeout })
}

fn script(mut section: Section<'_, '_>) -> Option<ScriptProbe> {
    let command: Option<Vec<String>> =
        section.required("command", "[\"/usr/lib/nagios/plugins/check_ssh\", \"localhost\"]");
    if command.as_ref().is_some_and(|command| command.first().is_none_or(|program| !program.starts_with('/'))) {
        section.fault("command", "the program is named by its whole path", None);
    }
    let timeout = timeout(&mut section, 5_000);
    section.finish();
    Some(ScriptProbe { command: command?, timeout })
}
