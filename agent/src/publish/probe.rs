//! Before the first session: is somebody else already this agent?
//!
//! The main session would push the other one off the broker, so the question is asked under a client id of its own. The
//! answer is in the retained state: `lost` or `offline` means nobody; `online` may be a predecessor that died a moment
//! ago, so it has to prove its life by writing the next state.

use std::time::Duration;

use bcp_wire::{AgentState, AgentStatus};
use rumqttc::QoS;
use tokio::sync::{mpsc, watch};

use super::MqttConfig;
use super::session::{self, AbortOnDrop, FromBroker, SessionError};
use crate::resolver::Resolver;

/// A retained state arrives right after the subscription; an agent that never ran has none.
const RETAINED_LIMIT: Duration = Duration::from_millis(400);
/// Beyond its own promise, the other one gets this long to write its next state.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is known of a predecessor.
#[derive(Debug)]
pub enum Predecessor {
    None,
    /// It ended; this was its last state.
    Ended(AgentState),
    /// It wrote two states while we watched, or one after we asked.
    Alive(AgentState),
}

/// The look as a task, and why it does not reach the broker.
#[derive(Debug)]
pub struct Look {
    pub task: AbortOnDrop<Result<Predecessor, SessionError>>,
    pub trouble: watch::Receiver<String>,
}

impl Look {
    pub fn begin(config: MqttConfig, resolver: Resolver, client_id: String, topic: String) -> Look {
        let (told, trouble) = watch::channel(String::new());
        Look { task: AbortOnDrop(tokio::spawn(ask(config, resolver, client_id, topic, told))), trouble }
    }
}

/// Waits for the broker and looks. Cancel-safe: nothing is written.
async fn ask(
    config: MqttConfig,
    resolver: Resolver,
    client_id: String,
    topic: String,
    trouble: watch::Sender<String>,
) -> Result<Predecessor, SessionError> {
    let (client, event_loop) = session::build(&config, &resolver, &client_id, None)?;
    let (inbox, mut news) = mpsc::channel(session::INBOX);
    let driver = session::AbortOnDrop(tokio::spawn(session::drive(event_loop, inbox)));
    let mut seen: Option<AgentState> = None;
    let mut patience = None;
    loop {
        let wait = async {
            match patience {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let message = tokio::select! {
            () = wait => break,
            message = news.recv() => message,
        };
        match message {
            None => break,
            Some(FromBroker::Connected { .. }) => {
                if let Err(error) = client.try_subscribe(topic.clone(), QoS::AtLeastOnce) {
                    tracing::warn!(%error, "failed to look for a second agent");
                    break;
                }
                patience = patience.max(Some(tokio::time::Instant::now() + RETAINED_LIMIT));
            }
            Some(FromBroker::Lost { reason }) => {
                let _ = trouble.send_replace(reason);
            }
            Some(FromBroker::Message { payload, retained, .. }) => {
                let Ok(state) = AgentState::from_json(&payload) else { continue };
                match state.status {
                    AgentStatus::Lost | AgentStatus::Offline => {
                        seen = Some(state);
                        break;
                    }
                    AgentStatus::Online | AgentStatus::Draining if !retained => {
                        drop(driver);
                        return Ok(Predecessor::Alive(state));
                    }
                    AgentStatus::Online | AgentStatus::Draining => {
                        let more = Duration::from_millis(state.next_within_ms.min(60_000)) + PATIENCE;
                        patience = Some(tokio::time::Instant::now() + more);
                        seen = Some(state);
                    }
                }
            }
        }
    }
    drop(driver);
    Ok(seen.map_or(Predecessor::None, Predecessor::Ended))
}
