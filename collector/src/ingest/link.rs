//! Two MQTT 5 sessions per broker: the pipes between a broker and the intake.
//!
//! Knows: how to connect, subscribe and stay connected. Refuses to know: what a payload means.
//!
//! The session of *payloads* persists at the broker, so what agents publish while this process restarts is delivered
//! later; acknowledgements are sent by the owner after the commit, and only within the connection that delivered the
//! payload. A session that the broker kept and this process did not can neither subscribe nor publish at QoS 1, so
//! states, metas and watermarks have a session of their own, new with every connection: retained messages then come
//! again, and watermarks go out.
//!
//! Tasks: one [`drive`] per session, cancel-safe, ends with its channel.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bcp_wire::{MAX_PAYLOAD_BYTES, Site, Topic};
use rumqttc::{
    AckMode, AsyncClient, BrokerSessionResumePolicy, ClientBuildError, ConnectionError, EventLoop,
    IncomingPacketSizeLimit, MqttOptions, Packet, Publish, QoS, TlsConfiguration, Transport,
};
use tokio::sync::mpsc;

use crate::config::Mqtt;

/// Payload plus topic, properties and framing.
const MAX_PACKET_BYTES: u32 = MAX_PAYLOAD_BYTES as u32 + 16 * 1024;
/// A dead connection is noticed after about twice this.
pub const KEEP_ALIVE_S: u16 = 2;
/// Unacknowledged payloads a broker may have under way to us.
const RECEIVE_MAXIMUM: u16 = 2_000;
/// Unacknowledged messages of ours: watermarks. The client looks through a table of this size at every write, so its
/// default of 65,535 costs more than all the rest.
const WATERMARKS_UNDER_WAY: u16 = 256;
/// Acknowledgements written at once; the default is one write, and one turn of the broker, for each.
const REQUESTS_AT_ONCE: usize = 256;
/// Room for every acknowledgement under way, and for watermarks.
const REQUESTS: usize = 3 * RECEIVE_MAXIMUM as usize;
/// A broker keeps what we miss for this long; after it the agents' spools and the watermark do.
const SESSION_EXPIRY_S: u32 = 24 * 3_600;
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
const RECONNECT_MIN: Duration = Duration::from_millis(250);
/// Three brokers, three collectors: no stampede to spread, but a cut link is found healed within this.
const RECONNECT_MAX: Duration = Duration::from_secs(2);

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// Batches and events: persistent, acknowledged by hand after the commit.
    Payloads,
    /// States and metas in, watermarks out: begins anew with every connection.
    Retained,
}

/// What a link tells.
#[derive(Debug)]
pub enum LinkNews {
    /// A connection stands; acknowledgements of earlier ones are void.
    Connected,
    Lost {
        reason: String,
    },
    /// Anything arrived that is no payload: the broker lives.
    Alive,
    Arrived(Box<Publish>),
}

/// One broker's news.
#[derive(Debug)]
pub struct FromLink {
    pub broker: Site,
    pub session: Session,
    /// Counts connections of this session.
    pub connection: u64,
    pub news: LinkNews,
}

/// Why a link cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("broker `{broker}` is not host:port")]
    Broker { broker: String },
    #[error("failed to read {path}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("failed to set up the MQTT client")]
    Client(#[source] ClientBuildError),
}

fn read(path: &Path) -> Result<Vec<u8>, LinkError> {
    std::fs::read(path).map_err(|source| LinkError::Read { path: path.to_owned(), source })
}

/// Builds the client of one broker. Nothing is sent before [`drive`] runs.
///
/// # Errors
/// A malformed address, unreadable credentials.
pub fn build(mqtt: &Mqtt, own: Site, broker: &str, session: Session) -> Result<(AsyncClient, EventLoop), LinkError> {
    let fault = || LinkError::Broker { broker: broker.to_owned() };
    let (host, port) = broker.rsplit_once(':').ok_or_else(fault)?;
    let port: u16 = port.parse().map_err(|_| fault())?;
    let mut options = match session {
        Session::Payloads => {
            let mut options = MqttOptions::new(format!("collector-{own}"), (host, port));
            options
                .set_clean_start(false)
                .set_session_expiry_interval(Some(SESSION_EXPIRY_S))
                // Nothing is published here: there is no in-flight state of ours to reconcile.
                .set_broker_session_resume_policy(BrokerSessionResumePolicy::AllowBrokerOnly)
                .set_outgoing_inflight_upper_limit(1)
                .set_ack_mode(AckMode::Manual);
            options
        }
        Session::Retained => {
            let mut options = MqttOptions::new(format!("collector-{own}-state"), (host, port));
            options.set_clean_start(true).set_outgoing_inflight_upper_limit(WATERMARKS_UNDER_WAY);
            options
        }
    };
    options
        .set_receive_maximum(Some(RECEIVE_MAXIMUM))
        .set_max_request_batch(REQUESTS_AT_ONCE)
        .set_keep_alive(KEEP_ALIVE_S)
        .set_connect_timeout(CONNECT_LIMIT)
        .set_incoming_packet_size_limit(IncomingPacketSizeLimit::Bytes(MAX_PACKET_BYTES));
    let mut network = options.network_options();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    if let Some(file) = &mqtt.username_file {
        let user = String::from_utf8_lossy(read(file)?.trim_ascii()).into_owned();
        let password = match &mqtt.password_file {
            Some(file) => read(file)?.trim_ascii_end().to_vec(),
            None => Vec::new(),
        };
        options.set_credentials(user, password);
    }
    if let Some(tls) = &mqtt.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Simple {
            ca: read(&tls.ca)?,
            alpn: None,
            client_auth: Some((read(&tls.cert)?, read(&tls.key)?)),
        }));
    }
    AsyncClient::builder(options).capacity(REQUESTS).try_build().map_err(LinkError::Client)
}

/// Keeps one session alive until nobody listens to `news` any more.
pub async fn drive(
    (broker, session): (Site, Session),
    client: AsyncClient,
    mut events: EventLoop,
    news: mpsc::Sender<FromLink>,
) {
    let mut connection = 0;
    let mut pause = RECONNECT_MIN;
    loop {
        let said = match events.poll().await {
            Ok(rumqttc::Event::Incoming(Packet::ConnAck(answer))) => {
                connection += 1;
                pause = RECONNECT_MIN;
                let [state, meta, data, hist, event] = Topic::collector_filters(broker);
                let filters = match session {
                    Session::Retained => vec![state, meta],
                    // A session the broker has kept is subscribed already.
                    Session::Payloads if answer.session_present => Vec::new(),
                    Session::Payloads => vec![data, hist, event],
                };
                for filter in filters {
                    if client.try_subscribe(filter, QoS::AtLeastOnce).is_err() {
                        tracing::warn!(%broker, "the request queue is full: subscribed again at the next connection");
                    }
                }
                LinkNews::Connected
            }
            Ok(rumqttc::Event::Incoming(Packet::Publish(publish))) => LinkNews::Arrived(Box::new(publish)),
            Ok(rumqttc::Event::Incoming(_)) => LinkNews::Alive,
            Ok(_) => continue,
            Err(ConnectionError::RequestsDone) => return,
            Err(error) => {
                let reason = chain(&error);
                if news.send(FromLink { broker, session, connection, news: LinkNews::Lost { reason } }).await.is_err() {
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RECONNECT_MAX);
                continue;
            }
        };
        if news.send(FromLink { broker, session, connection, news: said }).await.is_err() {
            return;
        }
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text.push_str(": ");
            text.push_str(&next_text);
        }
        cause = next.source();
    }
    text
}
