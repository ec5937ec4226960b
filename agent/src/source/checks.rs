//! Application checks: is the service there, and how fast does it answer.
//!
//! Knows: one HTTP request or TCP connection at a time, always a new one, as a new user would come. Refuses to know:
//! whether a service is down; that takes several checks from several places.
//!
//! A check never backs off: "down" is a good reading, and the first good answer must be seen at once.

use std::time::{Duration, Instant};

use bcp_wire::presence::PointMeta;
use bcp_wire::{BadReason, DeviceMeta, PointName, Value, WIRE_VERSION};
use tokio::net::TcpStream;

use crate::config::{CheckConfig, CheckProbe, HttpProbe};
use crate::outbound::Sample;
use crate::schedule::Outcome;
use crate::source::{Polled, transition};

/// Most of a body that is read and searched.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// One check.
#[derive(Debug)]
pub struct Check {
    config: CheckConfig,
    client: reqwest::Client,
    last: Option<&'static str>,
    names: Names,
}

#[derive(Debug)]
struct Names {
    state: PointName,
    latency: PointName,
    status: PointName,
}

/// What one try gave.
struct Tried {
    up: bool,
    latency: Option<Duration>,
    status: Option<u16>,
    trouble: Option<String>,
}

impl Check {
    /// # Errors
    /// The HTTP client cannot be built.
    pub fn new(config: CheckConfig) -> Result<Check, reqwest::Error> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .user_agent(concat!("bcp-agent/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let name = |text: &str| text.parse().expect("the names of the contract are point names");
        let names =
            Names { state: name("check.state"), latency: name("check.latency"), status: name("check.http.status") };
        Ok(Check { config, client, last: None, names })
    }

    #[must_use]
    pub fn config(&self) -> &CheckConfig {
        &self.config
    }

    #[must_use]
    pub fn meta(&self) -> DeviceMeta {
        let interval_ms = u64::try_from(self.config.interval.as_millis()).unwrap_or(u64::MAX);
        let source = match &self.config.probe {
            CheckProbe::Http(http) => http.url.clone(),
            CheckProbe::Tcp { address, .. } => address.clone(),
        };
        let point = |name: &PointName, unit: &str| PointMeta {
            name: name.clone(),
            unit: unit.to_owned(),
            interval_ms,
            source: Some(source.clone()),
        };
        let mut points = vec![point(&self.names.state, ""), point(&self.names.latency, "ms")];
        if matches!(self.config.probe, CheckProbe::Http(_)) {
            points.push(point(&self.names.status, "1"));
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
        let tried = match &self.config.probe {
            CheckProbe::Http(http) => try_http(&self.client, http).await,
            CheckProbe::Tcp { address, timeout } => try_tcp(address, *timeout).await,
        };
        let state = if tried.up { "up" } else { "down" };
        let transition = transition(&self.names.state, self.last, state);
        self.last = Some(state);
        let mut samples: Vec<Sample> = Vec::with_capacity(3);
        samples.push((self.names.state.clone(), 0, Ok(Value::Text(state.to_owned()))));
        let latency = tried.latency.and_then(|latency| Value::num((latency.as_secs_f64() * 1e6).round() / 1e3));
        samples.push((self.names.latency.clone(), 0, latency.ok_or(BadReason::Timeout)));
        if matches!(self.config.probe, CheckProbe::Http(_)) {
            let status = tried.status.map(|status| Value::Num(f64::from(status)));
            samples.push((self.names.status.clone(), 0, status.ok_or(BadReason::Timeout)));
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

async fn try_http(client: &reqwest::Client, probe: &HttpProbe) -> Tried {
    let start = Instant::now();
    let failed = |trouble: String| Tried { up: false, latency: None, status: None, trouble: Some(trouble) };
    let exchange = async {
        let mut answer = client.get(&probe.url).send().await?;
        let status = answer.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            body.extend_from_slice(chunk.get(..MAX_BODY_BYTES.saturating_sub(body.len())).unwrap_or(&chunk));
            if body.len() >= MAX_BODY_BYTES {
                break;
            }
        }
        Ok::<_, reqwest::Error>((status, body))
    };
    let (status, body) = match tokio::time::timeout(probe.timeout, exchange).await {
        Err(_) => return failed(format!("no complete answer within {:?}", probe.timeout)),
        Ok(Err(error)) => return failed(causes(&error)),
        Ok(Ok(answer)) => answer,
    };
    let latency = Some(start.elapsed());
    let trouble = if status != probe.expect_status {
        Some(format!("status {status} instead of {}", probe.expect_status))
    } else {
        let missing = probe.expect_body.as_deref().filter(|want| !contains(&body, want.as_bytes()));
        missing.map(|want| format!("the answer lacks `{want}`"))
    };
    Tried { up: trouble.is_none(), latency, status: Some(status), trouble }
}

fn contains(body: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || body.windows(wanted.len()).any(|window| window == wanted)
}

/// The last cause says what happened ("connection refused"); what is before it repeats the URL.
fn causes(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

async fn try_tcp(address: &str, timeout: Duration) -> Tried {
    let start = Instant::now();
    match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Tried { up: true, latency: Some(start.elapsed()), status: None, trouble: None },
        Ok(Err(error)) => Tried { up: false, latency: None, status: None, trouble: Some(error.to_string()) },
        Err(_) => {
            let trouble = Some(format!("no connection within {timeout:?}"));
            Tried { up: false, latency: None, status: None, trouble }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
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
        Check::new(CheckConfig { id, service, target_site: None, interval: Duration::from_secs(1), probe }).unwrap()
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
        let mut up = check(CheckProbe::Tcp { address, timeout: Duration::from_millis(300) });
        assert_eq!(state(&up.poll().await), "up");
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let mut down = check(CheckProbe::Tcp { address: closed, timeout: Duration::from_millis(300) });
        let polled = down.poll().await;
        assert_eq!(state(&polled), "down");
        assert!(polled.trouble.unwrap().contains("refused"));
    }
}
