//! Embedded MQTT broker: rumqttd, MQTT 5, loopback only.
//!
//! It has neither TLS, nor access lists, nor a disk: good for drills and for agents on the same machine. A process of its
//! own, so that a restart of the serve process loses no session.

mod nodelay;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bcp_wire::MAX_PAYLOAD_BYTES;

use crate::{Config, Shutdown};

/// Sessions at once: agents and collectors of a site, with room for a terminal or two.
const MAX_CONNECTIONS: usize = 1_024;
/// Messages per subscription log are kept in segments; size times count bounds the memory of one filter (64 MiB).
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;
const SEGMENTS: usize = 8;
/// Packets handed to one subscriber per turn of the router.
const MAX_OUTGOING_PACKETS: u64 = 200;
/// Packets taken from one client per turn; the window of unacknowledged messages to a subscriber is fixed at 100.
const PACKETS_PER_TURN: usize = 100;
/// Topic, properties and packet framing come on top of the payload.
const PACKET_OVERHEAD_BYTES: usize = 4 * 1024;
/// Time that a client has to send CONNECT.
const CONNECT_LIMIT_MS: u16 = 10_000;
/// From start to listening.
const LISTEN_LIMIT: Duration = Duration::from_secs(5);
const LISTEN_POLL: Duration = Duration::from_millis(5);

#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error("no `mqtt.embedded` in the configuration")]
    NotConfigured,
    #[error("the embedded broker refuses {address}: it may listen on loopback only")]
    NotLoopback { address: SocketAddr },
    #[error(
        "the embedded broker cannot listen on {address}; stop what listens there, or change mqtt.embedded and mqtt.brokers"
    )]
    Listen {
        address: SocketAddr,
        #[source]
        cause: std::io::Error,
    },
    #[error("failed to start the broker thread")]
    Thread(#[source] std::io::Error),
    #[error("the broker stopped: {reason}")]
    Stopped { reason: String },
}

/// Runs until `shutdown`. The broker's own threads end with the process.
pub async fn run(config: Arc<Config>, mut shutdown: Shutdown) -> Result<(), BrokerError> {
    let address = config.mqtt.embedded.ok_or(BrokerError::NotConfigured)?;
    if !address.ip().is_loopback() {
        return Err(BrokerError::NotLoopback { address });
    }
    // rumqttd only logs why it cannot listen: asked here first, so that the reason is this process' own.
    drop(std::net::TcpListener::bind(address).map_err(|cause| BrokerError::Listen { address, cause })?);
    // A broker that lost one of its threads looks alive and is not: the supervisor starts a whole one.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::exit(1);
    }));
    let (ended, end) = tokio::sync::oneshot::channel();
    let mut broker = rumqttd::Broker::new(settings(address));
    std::thread::Builder::new()
        .name("mqtt-broker".to_owned())
        .spawn(move || {
            let reason = match broker.start() {
                Ok(()) => "its listener ended".to_owned(),
                Err(cause) => cause.to_string(),
            };
            let _ = ended.send(reason);
        })
        .map_err(BrokerError::Thread)?;
    let mut end = end;
    tokio::select! {
        () = send_at_once(address) => {}
        () = shutdown.wait() => return Ok(()),
        reason = &mut end => return Err(stopped(reason)),
    }
    tracing::info!(%address, "embedded MQTT broker");
    tokio::select! {
        () = shutdown.wait() => Ok(()),
        reason = end => Err(stopped(reason)),
    }
}

fn stopped(reason: Result<String, tokio::sync::oneshot::error::RecvError>) -> BrokerError {
    BrokerError::Stopped { reason: reason.unwrap_or_else(|_| "its thread ended".to_owned()) }
}

/// Waits for the listener and makes its connections send at once. Without it a message waits up to 40 ms for the
/// acknowledgement of the one before, and a subscriber gets a few hundred a second.
async fn send_at_once(address: SocketAddr) {
    let began = Instant::now();
    while began.elapsed() < LISTEN_LIMIT {
        match nodelay::set(address) {
            Ok(true) => return,
            Ok(false) => tokio::time::sleep(LISTEN_POLL).await,
            Err(cause) => {
                tracing::warn!(%cause, "the embedded broker's sockets wait before they send: it will be slow");
                return;
            }
        }
    }
    tracing::warn!(limit = ?LISTEN_LIMIT, "the embedded broker does not listen yet");
}

fn settings(address: SocketAddr) -> rumqttd::Config {
    let server = rumqttd::ServerSettings {
        name: "embedded".to_owned(),
        listen: address,
        tls: None,
        next_connection_delay_ms: 1,
        connections: rumqttd::ConnectionSettings {
            connection_timeout_ms: CONNECT_LIMIT_MS,
            max_payload_size: MAX_PAYLOAD_BYTES + PACKET_OVERHEAD_BYTES,
            max_inflight_count: PACKETS_PER_TURN,
            auth: None,
            external_auth: None,
            // Without it a publish that nobody subscribed to yet is an error, and its retained message is lost.
            dynamic_filters: true,
        },
    };
    rumqttd::Config {
        id: 0,
        router: rumqttd::RouterConfig {
            max_connections: MAX_CONNECTIONS,
            max_outgoing_packet_count: MAX_OUTGOING_PACKETS,
            max_segment_size: SEGMENT_BYTES,
            max_segment_count: SEGMENTS,
            ..rumqttd::RouterConfig::default()
        },
        v5: Some(HashMap::from([("embedded".to_owned(), server)])),
        ..rumqttd::Config::default()
    }
}
