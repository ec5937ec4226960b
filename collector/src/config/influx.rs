//! `[influx]`: a database that speaks the InfluxDB v2 write API.

use std::path::PathBuf;
use std::time::Duration;

use super::read::Section;
use super::value::{Parsed, count, duration, text, url};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_REQUEST_BYTES: usize = 1024 * 1024;
/// A day of a site of 10,000 points a second is about 20 GiB of lines; this is an hour of it.
const DEFAULT_QUEUE_BYTES: u64 = 1024 * MIB;
const MIB: u64 = 1024 * 1024;

/// Where own readings go for the long term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Influx {
    /// `http://host:port` or `https://host:port`, without a final slash.
    pub url: String,
    pub org: String,
    pub bucket: String,
    pub token_file: Option<PathBuf>,
    /// PEM file of the CAs that an https server's certificate may come from.
    pub ca: Option<PathBuf>,
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// Largest request before it is compressed.
    pub request_bytes: usize,
    /// Bound of the queue on the disk.
    pub queue_bytes: u64,
}

fn any_url(item: &toml_edit::Item) -> Parsed<String> {
    let is_plain = text(item)?.starts_with("http://");
    url(if is_plain { "http" } else { "https" })(item)
        .map_err(|_| format!("`{}` is neither http://host:port nor https://host:port", text(item).unwrap_or_default()))
}

fn is_loopback(url: &str) -> bool {
    let host = url.split("://").nth(1).unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Bounds are part of the check: a request of no bytes or a queue smaller than a segment would never work.
fn within(section: &Section<'_>, key: &str, value: u64, least: u64, most: u64) -> bool {
    let fits = (least..=most).contains(&value);
    if !fits {
        section.fault(key, format!("{value} is not within {least} to {most}"), "");
    }
    fits
}

pub(super) fn read(mut section: Section<'_>) -> Option<Influx> {
    let source = section.source;
    let url = section.required("url", "as \"https://influx.example.org:8086\"", any_url);
    let org = section.optional("org", "name of the organisation", text).unwrap_or_default();
    let bucket = section.required("bucket", "name of the bucket", text);
    let token_file = section.optional("token_file", "a file with an API token", text).map(|path| source.resolve(&path));
    let ca = section.optional("ca", "PEM file of the CA", text).map(|path| source.resolve(&path));
    let timeout = section.optional("timeout", "as \"10s\"", duration).unwrap_or(DEFAULT_TIMEOUT);
    let request_kib = section.optional("request_kib", "KiB of a request", count).unwrap_or(1024);
    let queue_mib = section.optional("queue_mib", "MiB on the disk", count);
    let mut fits = within(&section, "request_kib", request_kib, 128, 16 * 1024);
    fits &= queue_mib.is_none_or(|mib| within(&section, "queue_mib", mib, 16, 1024 * 1024));
    let timeout_s = timeout.as_secs();
    fits &= within(&section, "timeout", timeout_s, 1, 300);
    if let Some(url) = &url {
        if url.starts_with("https://") && ca.is_none() {
            section.fault("ca", "missing".to_owned(), "https needs the CA its server's certificate comes from");
            fits = false;
        }
        if url.starts_with("http://") && token_file.is_some() && !is_loopback(url) {
            let problem = format!("{url} would get the token in clear");
            section.fault("url", problem, "use https, or a database on this machine");
            fits = false;
        }
    }
    section.close();
    let (url, bucket) = (url?, bucket?);
    fits.then_some(Influx {
        url,
        org,
        bucket,
        token_file,
        ca,
        timeout,
        request_bytes: usize::try_from(request_kib * 1024).unwrap_or(DEFAULT_REQUEST_BYTES),
        queue_bytes: queue_mib.map_or(DEFAULT_QUEUE_BYTES, |mib| mib * MIB),
    })
}
