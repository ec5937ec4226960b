//! Application checks: is the service there, and how fast does it answer.
//!
//! Knows: one request at a time, always on a new connection, as a new user would come. Refuses to know: whether a
//! service is down; that takes several checks from several places.
//!
//! | module | asks |
//! |---|---|
//! | [`http`] | a URL: status, body |
//! | [`tls`] | a TLS port: chain, name, days until the certificate expires |
//! | [`dns`] | a name server: addresses of a name |
//! | [`script`] | a program |
//!
//! A check never backs off: "down" is a good reading, and the first good answer must be seen at once.

mod dns;
mod http;
mod script;
mod tls;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bcp_wire::presence::PointMeta;
use bcp_wire::{BadReason, DeviceMeta, PointName, Value, WIRE_VERSION};
use rustls::ClientConfig;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::config::{CheckConfig, CheckProbe, TcpProbe};
use crate::outbound::Sample;
use crate::schedule::Outcome;
use crate::source::{Polled, transition};
pub use tls::{Trust, TrustError};

/// Most of a greeting that is read and searched.
const MAX_GREETING_BYTES: u64 = 1_024;

/// Why a check cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("failed to set up trust for check {check}")]
    Trust { check: bcp_wire::Id, source: TrustError },
    #[error("failed to build the HTTP client of check {check}")]
    Client { check: bcp_wire::Id, source: reqwest::Error },
}

/// One check.
#[derive(Debug)]
pub struct Check {
    config: CheckConfig,
    tools: Tools,
    last: Option<&'static str>,
    names: Names,
}

/// What the probe works with.
#[derive(Debug)]
enum Tools {
    Http { client: reqwest::Client, expiry: tls::Expiry },
    Tls { client: Arc<ClientConfig>, expiry: tls::Expiry },
    None,
}

#[derive(Debug)]
struct Names {
    state: PointName,
    latency: PointName,
    status: PointName,
    days_left: PointName,
}

/// What one try gave.
#[derive(Debug)]
struct Tried {
    verdict: Verdict,
    latency: Option<Duration>,
    status: Option<u16>,
    trouble: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Up,
    Degraded,
    Down,
}

impl Tried {
    const fn up() -> Tried {
        Tried { verdict: Verdict::Up, latency: None, status: None, trouble: None }
    }

    const fn down(trouble: String) -> Tried {
        Tried { verdict: Verdict::Down, latency: None, status: None, trouble: Some(trouble) }
    }

    /// It works, but not as it should.
    fn degrade(&mut self, trouble: String) {
        if self.verdict == Verdict::Up {
            self.verdict = Verdict::Degraded;
            self.trouble = Some(trouble);
        }
    }

    const fn state(&self) -> &'static str {
        match self.verdict {
            Verdict::Up => "up",
            Verdict::Degraded => "degraded",
            Verdict::Down => "down",
        }
    }
}

/// The last cause says what happened ("connection refused"); what is before it repeats the address.
fn cause(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

impl Check {
    /// # Errors
    /// Its authorities cannot be read.
    pub fn new(config: CheckConfig, trust: &Trust) -> Result<Check, CheckError> {
        let trusting = |encrypted, ca| {
            trust.client(encrypted, ca).map_err(|source| CheckError::Trust { check: config.id.clone(), source })
        };
        let tools = match &config.probe {
            CheckProbe::Http(http) => {
                let (tls, expiry) = trusting(http.url.starts_with("https:"), http.ca.as_ref())?;
                let client =
                    http::client(tls).map_err(|source| CheckError::Client { check: config.id.clone(), source })?;
                Tools::Http { client, expiry }
            }
            CheckProbe::Tls(probe) => {
                let (client, expiry) = trusting(true, probe.ca.as_ref())?;
                Tools::Tls { client: Arc::new(client), expiry }
            }
            CheckProbe::Tcp(_) | CheckProbe::Dns(_) | CheckProbe::Script(_) => Tools::None,
        };
        let name = |text: &str| text.parse().expect("the names of the contract are point names");
        let names = Names {
            state: name("check.state"),
            latency: name("check.latency"),
            status: name("check.http.status"),
            days_left: name("check.tls.days-left"),
        };
        Ok(Check { config, tools, last: None, names })
    }

    #[must_use]
    pub fn config(&self) -> &CheckConfig {
        &self.config
    }

    const fn has_status(&self) -> bool {
        matches!(self.config.probe, CheckProbe::Http(_))
    }

    fn has_expiry(&self) -> bool {
        match &self.config.probe {
            CheckProbe::Http(http) => http.url.starts_with("https:"),
            CheckProbe::Tls(_) => true,
            CheckProbe::Tcp(_) | CheckProbe::Dns(_) | CheckProbe::Script(_) => false,
        }
    }

    #[must_use]
    pub fn meta(&self) -> DeviceMeta {
        let interval_ms = u64::try_from(self.config.interval.as_millis()).unwrap_or(u64::MAX);
        let source = self.config.probe.target();
        let point = |name: &PointName, unit: &str| PointMeta {
            name: name.clone(),
            unit: unit.to_owned(),
            interval_ms,
            source: Some(source.clone()),
        };
        let mut points = vec![point(&self.names.state, ""), point(&self.names.latency, "ms")];
        if self.has_status() {
            points.push(point(&self.names.status, "1"));
        }
        if self.has_expiry() {
            points.push(point(&self.names.days_left, "d"));
        }
        DeviceMeta {
            v: WIRE_VERSION,
            i: 0,
            device: self.config.id.clone(),
            kind: "check".to_owned(),
            profile: None,
            firmware: None,
            firmware_proven: true,
            parent: Some(self.config.service.clone()),
            location: Some(self.config.target_site.map_or_else(|| "users".to_owned(), |site| site.to_string())),
            points,
        }
    }

    pub async fn poll(&mut self) -> Polled {
        let (mut tried, days_left) = match (&self.config.probe, &self.tools) {
            (CheckProbe::Http(probe), Tools::Http { client, expiry }) => {
                let mut tried = http::try_once(client, probe).await;
                let days_left = expiry.take_days_left();
                tls::judge_expiry(&mut tried, days_left, probe.min_days);
                (tried, days_left)
            }
            (CheckProbe::Tls(probe), Tools::Tls { client, expiry }) => {
                let mut tried = tls::try_once(client, probe).await;
                let days_left = expiry.take_days_left();
                tls::judge_expiry(&mut tried, days_left, probe.min_days);
                (tried, days_left)
            }
            (CheckProbe::Tcp(probe), _) => (try_tcp(probe).await, None),
            (CheckProbe::Dns(probe), _) => (dns::try_once(probe).await, None),
            (CheckProbe::Script(probe), _) => (script::try_once(probe).await, None),
            // `new` pairs them.
            (CheckProbe::Http(_) | CheckProbe::Tls(_), _) => (Tried::down("not set up".to_owned()), None),
        };
        if let (Some(bound), Some(latency)) = (self.config.degraded_after, tried.latency)
            && latency > bound
        {
            tried.degrade(format!("answered after {latency:.0?}, later than {bound:?}"));
        }
        self.told(tried, days_left)
    }

    fn told(&mut self, tried: Tried, days_left: Option<f64>) -> Polled {
        let state = tried.state();
        let transition = transition(&self.names.state, self.last, state);
        self.last = Some(state);
        let mut samples: Vec<Sample> = Vec::with_capacity(4);
        samples.push((self.names.state.clone(), 0, Ok(Value::Text(state.to_owned()))));
        let latency = tried.latency.and_then(|latency| Value::num((latency.as_secs_f64() * 1e6).round() / 1e3));
        samples.push((self.names.latency.clone(), 0, latency.ok_or(BadReason::Timeout)));
        if self.has_status() {
            let status = tried.status.map(|status| Value::Num(f64::from(status)));
            samples.push((self.names.status.clone(), 0, status.ok_or(BadReason::Timeout)));
        }
        if self.has_expiry() {
            let days = days_left.and_then(Value::num);
            samples.push((self.names.days_left.clone(), 0, days.ok_or(BadReason::Timeout)));
        }
        Polled {
            outcome: Outcome::Answered,
            samples,
            meta: None,
            trouble: tried.trouble,
            rtt: tried.latency,
            transition,
        }
    }
}

async fn try_tcp(probe: &TcpProbe) -> Tried {
    let start = Instant::now();
    let exchange = async {
        let stream = TcpStream::connect(probe.address.as_str()).await?;
        let mut greeting = Vec::new();
        if let Some(want) = &probe.expect {
            let mut stream = stream.take(MAX_GREETING_BYTES);
            while !greeting.windows(want.len()).any(|part| part == want.as_bytes()) {
                if stream.read_buf(&mut greeting).await? == 0 {
                    return Ok(Some(format!("the greeting lacks `{want}`")));
                }
            }
        }
        Ok::<_, std::io::Error>(None)
    };
    match tokio::time::timeout(probe.timeout, exchange).await {
        Err(_) if probe.expect.is_some() => {
            Tried::down(format!("no connection and greeting within {:?}", probe.timeout))
        }
        Err(_) => Tried::down(format!("no connection within {:?}", probe.timeout)),
        Ok(Err(error)) => Tried::down(cause(&error)),
        Ok(Ok(Some(trouble))) => Tried { latency: Some(start.elapsed()), ..Tried::down(trouble) },
        Ok(Ok(None)) => Tried { latency: Some(start.elapsed()), ..Tried::up() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HttpProbe, TlsProbe};
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    /// Answers each connection with the next of these texts; after the last, it accepts and says nothing.
    async fn server(answers: Vec<&'static str>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let mut answers = answers.into_iter();
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                if let Some(answer) = answers.next() {
                    let mut head = [0; 1024];
                    let _ = stream.read(&mut head).await;
                    let _ = stream.write_all(answer.as_bytes()).await;
                } else {
                    open.push(stream);
                }
            }
        });
        address
    }

    fn check(probe: CheckProbe) -> Check {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let id = "c".parse().unwrap();
        let service = "s".parse().unwrap();
        let interval = Duration::from_secs(1);
        let config = CheckConfig { id, service, target_site: None, interval, degraded_after: None, probe };
        Check::new(config, &Trust::default()).unwrap()
    }

    fn tcp(address: String, expect: Option<&str>) -> CheckProbe {
        CheckProbe::Tcp(TcpProbe { address, expect: expect.map(str::to_owned), timeout: Duration::from_millis(300) })
    }

    fn state(polled: &Polled) -> String {
        polled.samples[0].2.as_ref().unwrap().to_string()
    }

    #[tokio::test]
    async fn an_http_check_sees_status_body_and_silence() {
        let address = server(vec![
            "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nrole: active\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nrole: standby",
            "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
        ])
        .await;
        let mut check = check(CheckProbe::Http(HttpProbe {
            url: format!("http://{address}/health"),
            expect_status: 200,
            expect_body: Some("active".to_owned()),
            timeout: Duration::from_millis(300),
            ca: None,
            min_days: 7,
        }));
        let first = check.poll().await;
        assert_eq!((state(&first), first.trouble.is_none(), first.transition.is_some()), ("up".to_owned(), true, true));
        let second = check.poll().await;
        assert_eq!((state(&second), second.transition.is_some()), ("down".to_owned(), true));
        assert!(second.trouble.unwrap().contains("lacks `active`"));
        let third = check.poll().await;
        assert_eq!((third.samples[2].2.clone(), third.transition.is_some()), (Ok(Value::Num(503.0)), false));
        let silent = check.poll().await;
        assert_eq!((state(&silent), silent.samples[1].2.clone()), ("down".to_owned(), Err(BadReason::Timeout)));
        assert_eq!(silent.outcome, Outcome::Answered, "a check never backs off");
    }

    #[tokio::test]
    async fn a_tcp_check_sees_a_listener_and_its_absence() {
        let address = server(vec![]).await;
        let mut up = check(tcp(address, None));
        assert_eq!(state(&up.poll().await), "up");
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let mut down = check(tcp(closed, None));
        let polled = down.poll().await;
        assert_eq!(state(&polled), "down");
        assert!(polled.trouble.unwrap().contains("refused"));
    }

    #[tokio::test]
    async fn a_tcp_check_reads_the_greeting() {
        let greeter = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = greeter.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let mut open = Vec::new();
            for greeting in ["220 ready\r\n", "554 no\r\n", ""] {
                let (mut stream, _) = greeter.accept().await.unwrap();
                stream.write_all(greeting.as_bytes()).await.unwrap();
                if greeting.starts_with("554") {
                    stream.shutdown().await.unwrap();
                }
                open.push(stream);
            }
            std::future::pending::<()>().await;
        });
        let mut check = check(tcp(address, Some("220 ")));
        assert_eq!(state(&check.poll().await), "up");
        assert!(check.poll().await.trouble.unwrap().contains("lacks `220 `"));
        assert!(check.poll().await.trouble.unwrap().contains("greeting within"));
    }

    #[tokio::test]
    async fn slow_is_degraded() {
        let address = server(vec!["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"; 2]).await;
        let probe = HttpProbe {
            url: format!("http://{address}/"),
            expect_status: 200,
            expect_body: None,
            timeout: Duration::from_secs(2),
            ca: None,
            min_days: 7,
        };
        let mut check = check(CheckProbe::Http(probe));
        assert_eq!(state(&check.poll().await), "up");
        check.config.degraded_after = Some(Duration::from_nanos(1));
        let slow = check.poll().await;
        assert_eq!((state(&slow), slow.transition.is_some()), ("degraded".to_owned(), true));
    }

    /// A TLS server with a certificate of this life, and the file of its authority.
    async fn tls_server(dir: &std::path::Path, days: i64) -> (String, std::path::PathBuf) {
        use rcgen::{CertificateParams, KeyPair, date_time_ymd};
        let _ = rustls::crypto::ring::default_provider().install_default();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        let hours = Duration::from_secs(3_600);
        let (now, span) =
            (std::time::SystemTime::now() + hours, hours * 24 * u32::try_from(days.unsigned_abs()).unwrap());
        params.not_after = if days > 0 { now + span } else { now - span }.into();
        let certificate = params.self_signed(&key).unwrap();
        let ca = dir.join(format!("ca{days}.pem"));
        std::fs::write(&ca, certificate.pem()).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(mut stream) = acceptor.accept(stream).await {
                        let mut head = [0; 1024];
                        let _ = stream.read(&mut head).await;
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                        let _ = stream.shutdown().await;
                    }
                });
            }
        });
        (address, ca)
    }

    #[tokio::test]
    async fn a_certificate_is_told_by_its_days() {
        let dir = std::env::temp_dir().join(format!("bcp-checks-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for (days, min_days, want) in [(90, 7, "up"), (3, 7, "degraded"), (-3, 7, "down")] {
            let (address, ca) = tls_server(&dir, days).await;
            let port = address.rsplit(':').next().unwrap().to_owned();
            let tls = CheckProbe::Tls(TlsProbe {
                address,
                server_name: "localhost".try_into().unwrap(),
                timeout: Duration::from_secs(2),
                ca: Some(ca.clone()),
                min_days,
            });
            let http = CheckProbe::Http(HttpProbe {
                url: format!("https://localhost:{port}/"),
                expect_status: 200,
                expect_body: None,
                timeout: Duration::from_secs(2),
                ca: Some(ca),
                min_days,
            });
            for probe in [tls, http] {
                let polled = check(probe).poll().await;
                assert_eq!(state(&polled), want, "{days} days: {:?}", polled.trouble);
                let left = polled.samples.last().unwrap().2.as_ref().unwrap().as_num().unwrap();
                #[allow(clippy::cast_precision_loss)]
                let off = (left - days as f64).abs();
                assert!(off < 0.1, "{left} instead of {days}");
            }
        }
        let (address, _) = tls_server(&dir, 90).await;
        let mut stranger = check(CheckProbe::Tls(TlsProbe {
            address,
            server_name: "localhost".try_into().unwrap(),
            timeout: Duration::from_secs(2),
            ca: None,
            min_days: 7,
        }));
        let polled = stranger.poll().await;
        assert_eq!(state(&polled), "down");
        assert!(polled.samples[2].2.is_ok(), "its days are told all the same");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
