//! One HTTP request: status, body, time to the complete answer.

use std::sync::Arc;
use std::time::Instant;

use rustls::ClientConfig;

use super::{Tried, cause};
use crate::config::HttpProbe;
use crate::resolver::Resolver;

/// Most of a body that is read and searched.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// A client that opens a connection of its own for every request, as a new user would.
pub fn client(tls: ClientConfig, resolver: &Resolver) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(0)
        .user_agent(concat!("bcp-agent/", env!("CARGO_PKG_VERSION")))
        .tls_backend_preconfigured(tls)
        .dns_resolver(Arc::new(resolver.clone()))
        .build()
}

pub async fn try_once(client: &reqwest::Client, probe: &HttpProbe) -> Tried {
    let start = Instant::now();
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
        Err(_) => return Tried::down(format!("no complete answer within {:?}", probe.timeout)),
        Ok(Err(error)) => return Tried::down(cause(&error)),
        Ok(Ok(answer)) => answer,
    };
    let latency = start.elapsed();
    let missing = probe.expect_body.as_deref().filter(|want| !contains(&body, want.as_bytes()));
    let trouble = if status == probe.expect_status {
        missing.map(|want| format!("the answer lacks `{want}`"))
    } else {
        Some(format!("status {status} instead of {}", probe.expect_status))
    };
    Tried { status: Some(status), latency: Some(latency), ..trouble.map_or_else(Tried::up, Tried::down) }
}

fn contains(body: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || body.windows(wanted.len()).any(|window| window == wanted)
}
