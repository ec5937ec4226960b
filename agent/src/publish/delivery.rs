//! What goes out: states, descriptions and payloads, as far as the window allows; and what becomes of each.

use std::collections::VecDeque;
use std::pin::Pin;

use bcp_wire::topic::Leaf;
use bcp_wire::{Id, Lane, MAX_PAYLOAD_BYTES};
use rumqttc::{AsyncClient, PublishNotice, PublishOptions};

use super::run::Publisher;
use crate::spool::{Key, KeyRange};

/// What was handed to the client.
#[derive(Debug, Clone)]
pub(super) enum Sent {
    Payload(Key),
    Meta(Id),
    State,
}

type Fate = (Sent, Result<(), String>);

/// What was handed over and has not been acknowledged. A broker acknowledges in the order in which it was sent to
/// (MQTT 5, 4.6), so one after the other is waited for.
#[derive(Default)]
pub(super) struct Notices {
    first: Option<Pin<Box<dyn Future<Output = Fate> + Send>>>,
    others: VecDeque<(Sent, PublishNotice)>,
}

impl Notices {
    pub(super) fn push(&mut self, sent: Sent, notice: PublishNotice) {
        self.others.push_back((sent, notice));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none() && self.others.is_empty()
    }

    /// What became of the next one; `None` where nothing is waited for. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Fate> {
        let first = match &mut self.first {
            Some(first) => first,
            empty => {
                let (sent, notice) = self.others.pop_front()?;
                empty.insert(Box::pin(async move {
                    let result = notice.wait_completion_async().await;
                    (sent, result.map_err(|error| error.to_string()))
                }))
            }
        };
        let fate = first.await;
        self.first = None;
        Some(fate)
    }
}

/// What became of something that was to go to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handed {
    /// It is the client's, or gone for good.
    Over,
    /// The client's queue is full or closed; it is where it was.
    Refused,
}

impl Publisher {
    /// Hands over what fits the window: state, descriptions, then payloads.
    pub(super) fn hand_over(&mut self, client: &AsyncClient) {
        let now_ms = self.now_ms();
        self.spool.flush(now_ms);
        if !self.connected || now_ms < self.greeting_until_ms {
            return;
        }
        if now_ms >= self.state_due_ms {
            // Half a second early: the promise of `next_within_ms` includes the way.
            let next = self.setup.settings.mqtt.state_interval.as_millis().saturating_sub(500);
            self.state_due_ms = now_ms + next;
            let payload = self.state(self.status).to_json();
            if self.publish(client, Sent::State, self.topic(Leaf::State), payload, true) == Handed::Refused {
                self.state_due_ms = now_ms;
                return;
            }
        }
        // Beyond the broker's own bound the client would send one by one, a write for each.
        let window = usize::from(self.setup.settings.mqtt.in_flight).min(self.receive_max);
        while self.metas_in_flight + self.outbox.in_flight() < window
            && let Some(device) = self.dirty_metas.pop_first()
        {
            // Nothing takes back what was said of a device that is gone.
            let payload = self.metas.get(&device).map(|json| json.to_vec()).unwrap_or_default();
            if payload.len() > self.max_payload_bytes.min(MAX_PAYLOAD_BYTES) {
                tracing::error!(%device, bytes = payload.len(), "description is larger than the broker takes");
                continue;
            }
            self.metas_in_flight += 1;
            let topic = self.topic(Leaf::Meta { device: device.clone() });
            if self.publish(client, Sent::Meta(device), topic, payload, true) == Handed::Refused {
                return;
            }
        }
        if self.metas_in_flight + self.outbox.in_flight() >= window {
            self.window_full = true;
        }
        // A window that was full opens again at its half: many payloads in one write, in place of one for each that is
        // acknowledged.
        if self.window_full && self.metas_in_flight + self.outbox.in_flight() > window / 2 {
            return;
        }
        self.window_full = false;
        while self.metas_in_flight + self.outbox.in_flight() < window
            && let Some((key, _, lane)) = self.outbox.next()
            // What is refused goes back to where it came from, and would be the next again.
            && self.hand_over_payload(client, key, lane) == Handed::Over
        {}
    }

    fn hand_over_payload(&mut self, client: &AsyncClient, key: Key, lane: Lane) -> Handed {
        let record = match self.spool.read(key) {
            Ok(record) => record,
            Err(gap) => {
                self.outbox.forget(&KeyRange::one(key));
                self.record_gaps(gap.into_iter().collect());
                return Handed::Over;
            }
        };
        if record.payload.len() > self.max_payload_bytes {
            tracing::error!(device = %record.device, bytes = record.payload.len(), limit = self.max_payload_bytes, "payload is larger than the broker takes");
            let gap = self.spool.give_up(key, "larger than the broker takes");
            self.outbox.forget(&KeyRange::one(key));
            self.record_gaps(gap.into_iter().collect());
            return Handed::Over;
        }
        let topic = self.topic(Leaf::Batch { lane, device: record.device });
        self.figures.handed_over += 1;
        self.publish(client, Sent::Payload(key), topic, record.payload, false)
    }

    pub(super) fn publish(
        &mut self,
        client: &AsyncClient,
        sent: Sent,
        topic: String,
        payload: Vec<u8>,
        retain: bool,
    ) -> Handed {
        let options = PublishOptions::at_least_once().retain(retain);
        match client.try_publish_tracked(topic, payload, options) {
            Ok(notice) => {
                self.notices.push(sent, notice);
                Handed::Over
            }
            Err(error) => {
                self.settle(&sent, Err(error.to_string()));
                Handed::Refused
            }
        }
    }

    pub(super) fn settle(&mut self, sent: &Sent, result: Result<(), String>) {
        match (sent, result) {
            (Sent::Payload(key), Ok(())) => {
                let now_ms = self.now_ms();
                self.outbox.delivered(*key, now_ms);
            }
            (Sent::Payload(key), Err(reason)) => {
                tracing::debug!(?key, %reason, "payload goes back to the backlog");
                self.outbox.failed(*key);
            }
            (Sent::Meta(device), result) => {
                self.metas_in_flight = self.metas_in_flight.saturating_sub(1);
                if let Err(reason) = result {
                    tracing::debug!(%device, %reason, "description goes again");
                    self.dirty_metas.insert(device.clone());
                }
            }
            (Sent::State, Ok(())) => {}
            (Sent::State, Err(reason)) => tracing::debug!(%reason, "a state was not delivered"),
        }
    }
}
