//! One connection, and what the server says first.

use std::time::Instant;

use tokio::io::AsyncReadExt;

use super::{Tried, cause};
use crate::config::TcpProbe;
use crate::resolver::Resolver;

/// Most of a greeting that is read and searched.
const MAX_GREETING_BYTES: u64 = 1_024;

pub async fn try_once(probe: &TcpProbe, resolver: &Resolver) -> Tried {
    let start = Instant::now();
    let exchange = async {
        let stream = resolver.connect(&probe.address).await?;
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
