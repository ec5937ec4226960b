//! The other end of the link: mosquitto, and a collector that takes everything in, commits it and says so.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use bcp_collector::store::Marks;
use bcp_wire::envelope::is_deflated;
use bcp_wire::presence::AgentRef;
use bcp_wire::topic::Leaf;
use bcp_wire::{Batch, Event, Id, Lane, MAX_PAYLOAD_BYTES, Site, Topic};
use flate2::read::ZlibDecoder;
use rumqttc::{AsyncClient, IncomingPacketSizeLimit, MqttOptions, Packet, PublishOptions, QoS};

use super::process::Ended;

/// How often a collector says what it has committed.
const COMMIT_EVERY: Duration = Duration::from_millis(200);

/// A broker on this port, with its configuration in `dir`; as the fleet's, it takes 200 payloads at a time.
pub fn mosquitto(dir: &Path, port: u16) -> Result<Ended> {
    let program = ["/usr/sbin/mosquitto", "/usr/bin/mosquitto", "/usr/local/sbin/mosquitto"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .context("mosquitto is not installed")?;
    let config = dir.join("mosquitto.conf");
    let text = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_queued_messages 100000\nmax_inflight_messages 200\nset_tcp_nodelay true\n"
    );
    std::fs::write(&config, text)?;
    let child = Command::new(program).arg("-c").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    Ok(Ended(child))
}

/// Takes in what the agent of site a publishes and commits it; `received` counts the samples of its meters.
pub async fn collect(port: u16, agent: Id, received: Arc<AtomicU64>) -> Result<()> {
    let mut options = MqttOptions::new("bench-collector", ("127.0.0.1", port));
    options.set_keep_alive(30);
    // The client's own bound is 10 KiB; what an agent of 500 devices says of itself is more, and comes again in every session.
    options.set_incoming_packet_size_limit(IncomingPacketSizeLimit::Bytes(MAX_PAYLOAD_BYTES as u32 + 1_024));
    let mut network = options.network_options();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    let (client, mut events) = AsyncClient::builder(options).capacity(64).build();
    let agent = AgentRef { site: Site::A, agent };
    let mut marks = Marks::default();
    let mut tick = tokio::time::interval(COMMIT_EVERY);
    loop {
        tokio::select! {
            event = events.poll() => match event {
                Ok(rumqttc::Event::Incoming(Packet::ConnAck(_))) => {
                    for filter in Topic::collector_filters(Site::A) {
                        client.try_subscribe(filter, QoS::AtLeastOnce)?;
                    }
                }
                Ok(rumqttc::Event::Incoming(Packet::Publish(message))) => {
                    let topic: Topic = String::from_utf8_lossy(&message.topic).parse()?;
                    let (incarnation, seq) = match topic.leaf {
                        Leaf::Batch { lane: Lane::Event, .. } => {
                            Event::from_json(&plain(&message.payload)?).map(|event| (event.i, event.s))?
                        }
                        Leaf::Batch { device, .. } => {
                            let batch = Batch::from_json(&plain(&message.payload)?)?;
                            if device.as_str().starts_with("meter") {
                                received.fetch_add(batch.vals.len() as u64, Ordering::Relaxed);
                            }
                            (batch.i, batch.s)
                        }
                        _ => continue,
                    };
                    marks.insert(&agent, incarnation, seq);
                }
                Ok(_) => {}
                Err(error) => {
                    eprintln!("the bench's collector: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            _ = tick.tick() => {
                let Some(mark) = marks.get(&agent).map(|marks| marks.watermark(Site::A, &BTreeSet::new())) else { continue };
                let topic = Topic::new(Site::A, agent.agent.clone(), Leaf::Ack { collector: Site::A }).to_string();
                let payload = serde_json::to_vec(&mark)?;
                let _ = client.try_publish(topic, payload, PublishOptions::at_least_once().retain(true));
            }
        }
    }
}

/// The JSON of a payload, deflated or not.
fn plain(payload: &[u8]) -> Result<Cow<'_, [u8]>> {
    if !is_deflated(payload) {
        return Ok(Cow::Borrowed(payload));
    }
    let mut json = Vec::new();
    ZlibDecoder::new(payload).read_to_end(&mut json)?;
    Ok(Cow::Owned(json))
}
