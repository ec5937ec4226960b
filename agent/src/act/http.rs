//! A webhook: something outside of this host that does what a step asks.
//!
//! Knows: one POST per step, and that its status says how it went: 200 done, 208 already, 409 refused for good, all else failed.
//! Refuses to know: what the receiver does. Redirects are not followed: a step goes where the configuration says, or nowhere.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bcp_wire::{Epoch, Id, Site};
use hmac::{Hmac, Mac};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{StatusCode, Url};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::{ActError, Effect, Step};
use crate::gate::boot_ms;
use crate::resolver::Resolver;
use crate::source::checks::{Trust, TrustError};

/// Most of an answer that is read, in bytes.
const ANSWER_MAX: usize = 4_096;
/// Most of it that a report carries, in characters.
const WORDS_MAX: usize = 120;
const SECRET_MAX: u64 = 4_096;

/// As configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// `https` only, but for a loopback address.
    pub url: String,
    /// File with a bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// File with a secret: `BCP-Signature: sha256=HEX` is the HMAC of the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hmac_file: Option<PathBuf>,
    /// Authorities (PEM) to trust in place of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

/// Why a receiver did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("{path} cannot be read", path = path.display())]
    Secret { path: PathBuf, source: std::io::Error },
    #[error("{path} holds no secret of one line", path = path.display())]
    NoSecret { path: PathBuf },
    #[error("failed to trust anybody for https")]
    Trust(#[from] TrustError),
    #[error("no answer from {url}")]
    Exchange { url: String, source: reqwest::Error },
    #[error("{url} answered {status}{words}")]
    Status { url: String, status: StatusCode, words: String },
}

/// What is sent. The wire is append-only.
#[derive(Debug, Serialize)]
struct Order<'a> {
    ticket: &'a Id,
    epoch: Epoch,
    step: &'a str,
    site: Site,
    holder: Option<Site>,
    /// How long the lease still runs, from the sending on; absent for steps that need none.
    deadline_ms: Option<u64>,
    params: &'a BTreeMap<String, String>,
}

impl Http {
    #[must_use]
    pub fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        if let Some(reason) = url_fault(&self.url) {
            faults.push(("url".to_owned(), reason));
        }
        if self.token_file.is_some() && self.hmac_file.is_some() {
            faults.push(("hmac_file".to_owned(), "either `token_file` or `hmac_file`, not both".to_owned()));
        }
        for (key, path) in [("token_file", &self.token_file), ("hmac_file", &self.hmac_file), ("ca", &self.ca)] {
            if let Some(path) = path.as_ref().filter(|path| !path.is_absolute()) {
                faults.push((key.to_owned(), format!("{} is not an absolute path", path.display())));
            }
        }
        faults
    }

    pub(super) async fn carry_out(&self, step: &Step) -> Result<Effect, ActError> {
        let client = self.client(&step.resolver)?;
        let token = self.token_file.as_ref().map(secret).transpose()?;
        let key = self.hmac_file.as_ref().map(secret).transpose()?;
        step.may_act()?;
        let order = Order {
            ticket: &step.ticket,
            epoch: step.epoch,
            step: step.name.as_str(),
            site: step.site,
            holder: step.holder,
            deadline_ms: step.deadline.map(|deadline| deadline.since(boot_ms())),
            params: &step.params,
        };
        let body = serde_json::to_vec(&order).expect("a struct of texts and numbers can be written as JSON");
        let mut request = client.post(&self.url).header(CONTENT_TYPE, "application/json");
        request = request.header("Idempotency-Key", &step.key);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(key) = key {
            request = request.header("BCP-Signature", format!("sha256={}", signature(key.as_bytes(), &body)));
        }
        let exchange =
            |source: reqwest::Error| HttpError::Exchange { url: self.url.clone(), source: source.without_url() };
        let mut answer = request.body(body).send().await.map_err(exchange)?;
        let status = answer.status();
        let mut text = Vec::new();
        while text.len() < ANSWER_MAX
            && let Some(part) = answer.chunk().await.map_err(exchange)?
        {
            text.extend_from_slice(part.get(..ANSWER_MAX - text.len()).unwrap_or(&part));
        }
        self.judge(status, &first_line(&text))
    }

    fn judge(&self, status: StatusCode, line: &str) -> Result<Effect, ActError> {
        let or = |usual: &str| if line.is_empty() { usual.to_owned() } else { line.to_owned() };
        match status {
            StatusCode::OK => Ok(Effect::Done(or("done"))),
            StatusCode::ALREADY_REPORTED => Ok(Effect::Already(or("it is so"))),
            StatusCode::CONFLICT => Err(ActError::Vetoed { reason: or("409 Conflict") }),
            status => {
                let words = if line.is_empty() { String::new() } else { format!(": {line}") };
                Err(HttpError::Status { url: self.url.clone(), status, words }.into())
            }
        }
    }

    fn client(&self, name_servers: &[SocketAddr]) -> Result<reqwest::Client, HttpError> {
        // The only provider there is: a second installation is the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (tls, _) = Trust::default().client(self.url.starts_with("https:"), self.ca.as_ref())?;
        reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("bcp-agent/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Arc::new(Resolver::new(name_servers.to_vec())))
            .build()
            .map_err(|source| HttpError::Exchange { url: self.url.clone(), source })
    }
}

fn url_fault(text: &str) -> Option<String> {
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => return Some(format!("`{text}` is not a URL: {error}")),
    };
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        _ if !url.username().is_empty() || url.password().is_some() => {
            Some("credentials belong in `token_file`, not in the URL".to_owned())
        }
        "https" => None,
        "http" if is_loopback => None,
        "http" => Some(format!("`{text}` goes over a network: https only, or a loopback address")),
        other => Some(format!("`{other}` is neither https nor http to a loopback address")),
    }
}

fn secret(path: &PathBuf) -> Result<String, HttpError> {
    let fault = |source| HttpError::Secret { path: path.clone(), source };
    if std::fs::metadata(path).map_err(fault)?.len() > SECRET_MAX {
        return Err(HttpError::NoSecret { path: path.clone() });
    }
    let text = std::fs::read_to_string(path).map_err(fault)?;
    let text = text.trim();
    if text.is_empty() || !text.chars().all(|c| c.is_ascii_graphic()) {
        return Err(HttpError::NoSecret { path: path.clone() });
    }
    Ok(text.to_owned())
}

fn signature(key: &[u8], body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("an HMAC takes a key of any length");
    mac.update(body);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn first_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{Http, signature, url_fault};

    #[test]
    fn urls_are_checked() {
        for good in ["https://hooks.example.org/rx", "http://127.0.0.1:8080/rx", "http://[::1]:8080/"] {
            assert_eq!(url_fault(good), None, "{good}");
        }
        for (bad, says) in [
            ("http://hooks.example.org/", "https only"),
            ("http://127.0.0.1.example.org/", "https only"),
            ("ftp://127.0.0.1/", "neither https"),
            ("https://op:secret@hooks.example.org/", "token_file"),
            ("hooks", "not a URL"),
        ] {
            assert!(url_fault(bad).is_some_and(|fault| fault.contains(says)), "{bad}");
        }
        let both = "url = \"https://x.example/\"\ntoken_file = \"/t\"\nhmac_file = \"h\"";
        let keys: Vec<String> =
            toml::from_str::<Http>(both).unwrap().faults().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["hmac_file", "hmac_file"]);
    }

    #[test]
    fn signs_as_rfc_4231_does() {
        // Test case 2.
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(signature(b"Jefe", b"what do ya want for nothing?"), expected);
    }
}
