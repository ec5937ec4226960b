//! What the broker brings: sessions, watermarks, states under our own id, commands.
//!
//! Everything here is a stranger's input: what cannot be read is logged and passed over.

use std::time::Duration;

use bcp_wire::topic::Leaf;
use bcp_wire::{AgentState, Command, CommandReply, CommandVerb, Topic, WIRE_VERSION, Watermark};
use rumqttc::mqttbytes::v5::PublishProperties;
use rumqttc::{AsyncClient, PublishOptions, QoS};
use tokio::sync::{mpsc, oneshot};

use super::AllowedVerb;
use super::run::Publisher;
use super::session::FromBroker;
use super::setup::{CommandRequest, PublishError};
use crate::spool::KeyRange;

/// Replies remembered, so that a repeated command is answered and not obeyed twice.
const REPLIES_MAX: usize = 64;
/// Longest wait for the application to answer a command.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// An id, a verb and one argument.
const COMMAND_MAX_BYTES: usize = 1_024;
/// How long the broker keeps a reply for somebody who is not there to read it.
const REPLY_EXPIRY_S: u32 = 60;
/// In a new session nothing is written before the retained state was seen, or this long where there is none.
const GREETING_MS: u64 = 300;
/// Room in an MQTT packet for topic and properties.
const PACKET_OVERHEAD: usize = 512;

impl Publisher {
    pub(super) fn hear(
        &mut self,
        client: &AsyncClient,
        commands: &mpsc::Sender<CommandRequest>,
        news: FromBroker,
    ) -> Result<(), PublishError> {
        match news {
            FromBroker::Connected { max_packet_bytes, receive_max } => {
                self.receive_max = usize::from(receive_max.unwrap_or(u16::MAX));
                self.welcome(client, max_packet_bytes);
            }
            FromBroker::Lost { reason } => {
                if self.connected || self.figures.last_error.as_ref() != Some(&reason) {
                    tracing::warn!(broker = %self.setup.settings.mqtt.broker, %reason, "no session with the broker; payloads stay in the spool");
                }
                self.connected = false;
                self.figures.last_error = Some(reason);
            }
            FromBroker::Message { topic, retained, payload } => {
                let Ok(topic) = topic.parse::<Topic>() else { return Ok(()) };
                if topic.site != self.setup.site || topic.agent != self.setup.agent {
                    return Ok(());
                }
                match topic.leaf {
                    Leaf::Ack { collector } if collector == self.setup.site => self.commit(&payload),
                    Leaf::State => {
                        self.greeting_until_ms = 0;
                        return self.compare(&payload);
                    }
                    Leaf::Command if !retained => self.obey(client, commands, &payload),
                    Leaf::Ack { .. }
                    | Leaf::Command
                    | Leaf::Meta { .. }
                    | Leaf::Batch { .. }
                    | Leaf::CommandReply { .. } => {}
                }
            }
        }
        Ok(())
    }

    pub(super) fn welcome(&mut self, client: &AsyncClient, max_packet_bytes: Option<u32>) {
        tracing::info!(broker = %self.setup.settings.mqtt.broker, incarnation = self.figures.incarnation, "session with the broker");
        self.connected = true;
        self.figures.sessions += 1;
        self.figures.last_error = None;
        let packet = max_packet_bytes.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX);
        self.max_payload_bytes = packet.saturating_sub(PACKET_OVERHEAD);
        let filters = Topic::agent_filters(self.setup.site, &self.setup.agent);
        for filter in filters.into_iter().chain([self.topic(Leaf::State)]) {
            if let Err(error) = client.try_subscribe(filter, QoS::AtLeastOnce) {
                tracing::warn!(%error, "subscription did not fit the queue; the next session repeats it");
            }
        }
        self.outbox.reconnected(self.now_ms());
        self.dirty_metas = self.metas.keys().cloned().collect();
        self.state_due_ms = 0;
        self.greeting_until_ms = if self.figures.sessions > 1 { self.now_ms() + GREETING_MS } else { 0 };
    }

    pub(super) fn commit(&mut self, payload: &[u8]) {
        let mark = match Watermark::from_json(payload) {
            Ok(mark) if mark.collector == self.setup.site => mark,
            Ok(mark) => {
                tracing::warn!(collector = %mark.collector, "watermark of another collector on our collector's topic");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "unreadable watermark");
                return;
            }
        };
        let freed = self.spool.commit(&mark);
        self.figures.committed += freed.iter().map(KeyRange::count).sum::<u64>();
        let now_ms = self.now_ms();
        self.outbox.committed(&freed, now_ms);
        self.outbox.passed_over(&mark, now_ms);
    }

    /// Another session under our id with our number or a higher one: somebody else is this agent.
    pub(super) fn compare(&mut self, payload: &[u8]) -> Result<(), PublishError> {
        let Ok(other) = AgentState::from_json(payload) else { return Ok(()) };
        if other.session == self.session || other.i < self.figures.incarnation {
            return Ok(());
        }
        Err(PublishError::SecondAgent {
            site: self.setup.site,
            agent: self.setup.agent.clone(),
            session: other.session,
            incarnation: other.i,
        })
    }

    pub(super) fn obey(&mut self, client: &AsyncClient, commands: &mpsc::Sender<CommandRequest>, payload: &[u8]) {
        if payload.len() > COMMAND_MAX_BYTES {
            tracing::warn!(bytes = payload.len(), "a command as large as this is none");
            return;
        }
        let command = match Command::from_json(payload) {
            Ok(command) => command,
            Err(error) => {
                tracing::warn!(%error, "unreadable command");
                return;
            }
        };
        if let Some(known) = self.replies.iter().find(|reply| reply.id == command.id).cloned() {
            self.reply(client, known);
            return;
        }
        if self.at_work.contains(&command.id) {
            // Sent again while it is carried out: the one reply answers both.
            return;
        }
        let wanted = match &command.verb {
            CommandVerb::Rebirth => AllowedVerb::Rebirth,
            CommandVerb::PollNow { .. } => AllowedVerb::PollNow,
            CommandVerb::Reload => AllowedVerb::Reload,
            CommandVerb::LogLevel { .. } => AllowedVerb::LogLevel,
        };
        let answer =
            |ok: bool, error: Option<String>| CommandReply { v: WIRE_VERSION, id: command.id.clone(), ok, error };
        if !self.setup.settings.allow.contains(&wanted) {
            tracing::warn!(id = %command.id, verb = ?command.verb, "command is not allowed here");
            let refusal = answer(false, Some("not allowed by this agent's configuration".to_owned()));
            self.reply(client, refusal);
            return;
        }
        tracing::info!(id = %command.id, verb = ?command.verb, "command");
        if command.verb == CommandVerb::Rebirth {
            self.dirty_metas = self.metas.keys().cloned().collect();
            self.state_due_ms = 0;
            self.reply(client, answer(true, None));
            return;
        }
        let (sender, receiver) = oneshot::channel();
        match commands.try_send(CommandRequest { verb: command.verb.clone(), answer: sender }) {
            Err(_) => self.reply(client, answer(false, Some("busy".to_owned()))),
            Ok(()) => {
                let id = command.id;
                self.at_work.insert(id.clone());
                self.working.push(Box::pin(async move {
                    let result = match tokio::time::timeout(COMMAND_LIMIT, receiver).await {
                        Ok(Ok(result)) => result,
                        Ok(Err(_)) => Err("not carried out".to_owned()),
                        Err(_) => Err("no answer in time".to_owned()),
                    };
                    CommandReply { v: WIRE_VERSION, id, ok: result.is_ok(), error: result.err() }
                }));
            }
        }
    }

    pub(super) fn reply(&mut self, client: &AsyncClient, reply: CommandReply) {
        self.at_work.remove(&reply.id);
        let topic = self.topic(Leaf::CommandReply { id: reply.id.clone() });
        let properties =
            PublishProperties { message_expiry_interval: Some(REPLY_EXPIRY_S), ..PublishProperties::default() };
        let options = PublishOptions::at_least_once().properties(properties);
        if let Err(error) = client.try_publish(topic, reply.to_json(), options) {
            tracing::warn!(%error, id = %reply.id, "reply did not fit the queue");
        }
        if !self.replies.iter().any(|known| known.id == reply.id) {
            self.replies.push_back(reply);
            if self.replies.len() > REPLIES_MAX {
                self.replies.pop_front();
            }
        }
    }
}
