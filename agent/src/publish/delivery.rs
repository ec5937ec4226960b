//! What goes out: states, descriptions and payloads, as far as the window allows; and what becomes of each.

use std::collections::VecDeque;
use std::pin::Pin;

use bcp_wire::topic::Leaf;
use bcp_wire::{Gap, Id, Lane, MAX_PAYLOAD_BYTES};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rumqttc::{AsyncClient, PublishNotice, PublishOptions};

use super::run::Publisher;
use crate::spool::{Key, KeyRange, Unread};

/// What was handed to the client.
#[derive(Debug, Clone)]
pub(super) enum Sent {
    Payload(Key),
    Meta(Id),
    State,
}

type Fate = (Sent, Result<(), String>);
type Awaited = Pin<Box<dyn Future<Output = Fate> + Send>>;

/// Looks, one each [`super::run::TICK`], at the one that is waited for until it is passed by: two seconds.
const PASSED_BY_AFTER: u32 = 20;

/// What was handed over and has not been acknowledged. Brokers acknowledge in the order in which they were sent to, so one
/// after the other is waited for, which costs less than to wait for all. One that a broker does not acknowledge is passed by
/// after a while, and keeps nobody else from being heard of. Never more than the client's queue and window take.
#[derive(Default)]
pub(super) struct Notices {
    first: Option<Awaited>,
    looked_at: u32,
    others: VecDeque<(Sent, PublishNotice)>,
    passed_by: FuturesUnordered<Awaited>,
}

impl Notices {
    pub(super) fn push(&mut self, sent: Sent, notice: PublishNotice) {
        self.others.push_back((sent, notice));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none() && self.others.is_empty() && self.passed_by.is_empty()
    }

    /// To be called now and then, in even steps.
    pub(super) fn look(&mut self) {
        self.looked_at += 1;
        if self.looked_at >= PASSED_BY_AFTER {
            self.passed_by.extend(self.first.take());
        }
    }

    /// What became of the next one; `None` where nothing is waited for. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Fate> {
        if self.first.is_none()
            && let Some((sent, notice)) = self.others.pop_front()
        {
            self.looked_at = 0;
            self.first = Some(Box::pin(async move {
                let result = notice.wait_completion_async().await;
                (sent, result.map_err(|error| error.to_string()))
            }));
        }
        let Some(first) = &mut self.first else { return self.passed_by.next().await };
        tokio::select! {
            biased;
            fate = first => {
                self.first = None;
                Some(fate)
            }
            Some(fate) = self.passed_by.next(), if !self.passed_by.is_empty() => Some(fate),
        }
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
        let record = match self.spool.read(key, self.now_ms()) {
            Ok(record) => record,
            Err(unread) => {
                self.pass_over(key, unread);
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

    /// A payload whose turn it was and that is not handed out.
    fn pass_over(&mut self, key: Key, unread: Unread) {
        match unread {
            Unread::NotOwed => self.outbox.forget(&KeyRange::one(key)),
            Unread::Later { first, last, until_ms } => self.outbox.put_off(key, (first, last), until_ms),
            Unread::Lost(gaps) => {
                for gap in &gaps {
                    let Gap { incarnation, from, through, .. } = *gap;
                    self.outbox.forget(&KeyRange { incarnation, from, through });
                }
                self.record_gaps(gaps);
            }
        }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::FutureExt;
    use rumqttc::MqttOptions;

    use super::*;

    #[test]
    fn one_that_is_never_acknowledged_keeps_nobody_else_from_being_heard_of() {
        let publish = |notices: &mut Notices, seq: u64| {
            let (client, event_loop) =
                AsyncClient::builder(MqttOptions::new("t", ("127.0.0.1", 1))).capacity(1).build();
            let notice = client.try_publish_tracked("t", "x", PublishOptions::at_least_once()).unwrap();
            notices.push(Sent::Payload(Key { incarnation: 1, seq }), notice);
            (client, event_loop)
        };
        let mut notices = Notices::default();
        let silent = publish(&mut notices, 1);
        drop(publish(&mut notices, 2));
        for _ in 0..PASSED_BY_AFTER {
            assert!(notices.next().now_or_never().is_none(), "the first one is waited for");
            notices.look();
        }
        let heard = notices.next().now_or_never().flatten().unwrap();
        assert!(matches!(heard, (Sent::Payload(Key { seq: 2, .. }), Err(_))));
        assert!(notices.next().now_or_never().is_none() && !notices.is_empty());
        drop(silent);
        let heard = notices.next().now_or_never().flatten().unwrap();
        assert!(matches!(heard, (Sent::Payload(Key { seq: 1, .. }), Err(_))) && notices.is_empty());
    }
}
