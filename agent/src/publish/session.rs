//! The pipe: one task that keeps the MQTT connection alive and passes on what comes in.
//!
//! Task: [`drive`], ended by aborting it or by the client's disconnect. It never waits for the publisher to publish.

use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use rumqttc::{
    AsyncClient, ClientBuildError, ConnectionError, EventLoop, IncomingPacketSizeLimit, LastWill, MqttOptions, Packet,
    QoS, SessionMode, TlsConfiguration, Transport,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::MqttConfig;
use crate::resolver::Resolver;

/// Longest message from the broker: a watermark with all its marks and holes is about 100 KiB.
const MAX_INCOMING_BYTES: u32 = 512 * 1024;
/// Waits between attempts to connect. The jitter spreads 500 agents over the whole wait.
const RECONNECT_MIN_MS: u64 = 250;
const RECONNECT_MAX_MS: u64 = 15_000;
/// Requests that the client takes to one write.
const REQUESTS_PER_WRITE: usize = 256;
/// What comes within this time of the client having nothing to do is dealt with in one turn: a broker acknowledges every
/// payload by itself, and to be woken costs more than to read an acknowledgement.
const GATHER: Duration = Duration::from_millis(2);
/// Requests beside the window: state, subscriptions, replies.
pub const SIDE_REQUESTS: usize = 64;
/// Messages from the broker that wait for the publisher; the task stops reading when it is full.
pub const INBOX: usize = 256;

/// What the broker says.
#[derive(Debug)]
pub enum FromBroker {
    /// Its bounds, where it has any: of a packet, and of payloads that it has not acknowledged.
    Connected {
        max_packet_bytes: Option<u32>,
        receive_max: Option<u16>,
    },
    Lost {
        reason: String,
    },
    Message {
        topic: String,
        retained: bool,
        payload: bytes::Bytes,
    },
}

/// Why no session could be set up.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("`{broker}` is not host:port")]
    Broker { broker: String },
    #[error("failed to read {path}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("failed to set up the MQTT client")]
    Client(#[source] ClientBuildError),
}

/// Builds a client. Nothing is sent before its event loop is driven.
pub fn build(
    config: &MqttConfig,
    resolver: &Resolver,
    client_id: &str,
    will: Option<LastWill>,
) -> Result<(AsyncClient, EventLoop), SessionError> {
    let fault = || SessionError::Broker { broker: config.broker.clone() };
    let (host, port) = config.broker.rsplit_once(':').ok_or_else(fault)?;
    let port: u16 = port.parse().map_err(|_| fault())?;
    let mut options = MqttOptions::new(client_id, (host, port));
    // The agent keeps its own outbox, so the broker need not keep a session for it.
    options.set_session_mode(SessionMode::Clean);
    options.set_keep_alive(u16::try_from(config.keep_alive.get().as_secs().max(1)).unwrap_or(u16::MAX));
    options.set_connect_timeout(Duration::from_secs(5));
    options.set_incoming_packet_size_limit(IncomingPacketSizeLimit::Bytes(MAX_INCOMING_BYTES));
    options.set_max_request_batch(REQUESTS_PER_WRITE);
    // The client looks through a table of this size at every write; its default of 65,535 takes 14 MB and most of the time.
    options.set_outgoing_inflight_upper_limit(config.in_flight.saturating_add(SIDE_REQUESTS as u16));
    let mut network = options.network_options();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    let resolver = resolver.clone();
    options.set_socket_connector(move |broker, network| {
        let resolver = resolver.clone();
        async move {
            let mut refused = std::io::Error::from(std::io::ErrorKind::NotFound);
            for address in resolver.addresses(&broker).await? {
                match rumqttc::default_socket_connect(address.to_string(), network.clone()).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => refused = error,
                }
            }
            Err(refused)
        }
    });
    if let Some(will) = will {
        options.set_last_will(will);
    }
    if let Some(user) = &config.username {
        let password = match &config.password_file {
            Some(path) => read(path)?,
            None => Vec::new(),
        };
        options.set_credentials(user.clone(), password.trim_ascii_end().to_vec());
    }
    if let Some(tls) = &config.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Simple {
            ca: read(&tls.ca)?,
            alpn: None,
            client_auth: Some((read(&tls.cert)?, read(&tls.key)?)),
        }));
    }
    AsyncClient::builder(options)
        .capacity(usize::from(config.in_flight) + SIDE_REQUESTS)
        .try_build()
        .map_err(SessionError::Client)
}

/// A session that is set up. Nothing is sent before [`Link::drive`].
#[allow(missing_debug_implementations, reason = "the client's event loop has none")]
pub struct Link {
    pub client: AsyncClient,
    pub news: mpsc::Receiver<FromBroker>,
    waiting: Option<(EventLoop, mpsc::Sender<FromBroker>)>,
    task: Option<AbortOnDrop<()>>,
}

impl Link {
    pub fn new(
        config: &MqttConfig,
        resolver: &Resolver,
        client_id: &str,
        will: LastWill,
    ) -> Result<Link, SessionError> {
        let (client, event_loop) = build(config, resolver, client_id, Some(will))?;
        let (inbox, news) = mpsc::channel(INBOX);
        Ok(Link { client, news, waiting: Some((event_loop, inbox)), task: None })
    }

    pub fn drive(&mut self) {
        if let Some((event_loop, inbox)) = self.waiting.take() {
            self.task = Some(AbortOnDrop(tokio::spawn(drive(event_loop, inbox))));
        }
    }

    pub const fn is_driven(&self) -> bool {
        self.task.is_some()
    }
}

/// When each file of a session was last written, and its length.
pub type Stamps = Vec<Option<(SystemTime, u64)>>;

/// Password and certificates as they are on the disk.
pub fn stamps(config: &MqttConfig) -> Stamps {
    let tls = config.tls.iter().flat_map(|tls| [&tls.ca, &tls.cert, &tls.key]);
    let stamp = |path: &PathBuf| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    };
    config.password_file.iter().chain(tls).map(stamp).collect()
}

fn read(path: &PathBuf) -> Result<Vec<u8>, SessionError> {
    std::fs::read(path).map_err(|source| SessionError::Read { path: path.clone(), source })
}

/// A last will at least once, retained.
#[must_use]
pub fn last_will(topic: &str, payload: Vec<u8>) -> LastWill {
    LastWill::new(topic, payload, QoS::AtLeastOnce, true, None)
}

/// Keeps the connection alive until the client disconnects or nobody listens any more.
pub async fn drive(mut event_loop: EventLoop, inbox: mpsc::Sender<FromBroker>) {
    let mut attempt: u32 = 0;
    loop {
        let news = match next_event(&mut event_loop).await {
            Ok(rumqttc::Event::Incoming(Packet::ConnAck(ack))) => {
                attempt = 0;
                let bounds = ack.properties.as_ref();
                FromBroker::Connected {
                    max_packet_bytes: bounds.and_then(|bounds| bounds.max_packet_size),
                    receive_max: bounds.and_then(|bounds| bounds.receive_max),
                }
            }
            Ok(rumqttc::Event::Incoming(Packet::Publish(message))) => FromBroker::Message {
                topic: String::from_utf8_lossy(&message.topic).into_owned(),
                retained: message.retain,
                payload: message.payload,
            },
            Ok(_) => continue,
            Err(ConnectionError::RequestsDone) => return,
            Err(error) => {
                let news = FromBroker::Lost { reason: chain(&error) };
                if inbox.send(news).await.is_err() {
                    return;
                }
                tokio::time::sleep(back_off(attempt, rand::random::<f64>())).await;
                attempt = attempt.saturating_add(1);
                continue;
            }
        };
        if inbox.send(news).await.is_err() {
            return;
        }
    }
}

async fn next_event(event_loop: &mut EventLoop) -> Result<rumqttc::Event, ConnectionError> {
    let mut event = pin!(event_loop.poll());
    if let Some(event) = event.as_mut().now_or_never() {
        return event;
    }
    tokio::time::sleep(GATHER).await;
    event.await
}

/// A task that ends with its owner.
#[derive(Debug)]
pub struct AbortOnDrop<T>(pub JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Wait before attempt `attempt`: doubles up to a bound, of which `dice` (0..1) takes between a half and the whole.
fn back_off(attempt: u32, dice: f64) -> Duration {
    let full = RECONNECT_MIN_MS.saturating_mul(1 << attempt.min(10)).min(RECONNECT_MAX_MS);
    Duration::from_millis(full).mul_f64(0.5 + dice.clamp(0.0, 1.0) / 2.0)
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{RECONNECT_MAX_MS, back_off};

    #[test]
    fn waits_grow_and_are_spread() {
        assert_eq!(back_off(0, 0.0).as_millis(), 125);
        assert_eq!(back_off(0, 1.0).as_millis(), 250);
        assert!(back_off(40, 1.0).as_millis() <= u128::from(RECONNECT_MAX_MS));
        assert!(back_off(40, 0.0) < back_off(40, 1.0));
    }

    #[test]
    fn five_hundred_agents_do_not_stampede() {
        // A broker that was away for long comes back: everybody is somewhere in the longest wait.
        let waits: Vec<f64> = (0..500).map(|n| back_off(20, f64::from(n) * 0.618_034 % 1.0).as_secs_f64()).collect();
        for second in 0..16 {
            let at_once =
                waits.iter().filter(|wait| (f64::from(second)..f64::from(second + 1)).contains(*wait)).count();
            assert!(at_once <= 80, "{at_once} in second {second}");
        }
    }
}
