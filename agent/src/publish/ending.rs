//! The end of a session, and of the publisher: what is left is delivered as far as the time allows, then goodbye is said.

use std::time::Duration;

use bcp_wire::AgentStatus;
use bcp_wire::topic::Leaf;
use tokio::sync::mpsc;

use super::delivery::Sent;
use super::run::{Publisher, TICK, sync_all};
use super::session::Link;
use super::setup::{CommandRequest, PublishError};
use crate::outbound::Outbound;

/// Time to deliver what is left when stopping.
const DRAIN_LIMIT: Duration = Duration::from_millis(1_500);
/// Time for the last state to reach the broker.
const FAREWELL_LIMIT: Duration = Duration::from_millis(500);

impl Publisher {
    /// Ends a session in order, so that its will is not published.
    pub(super) async fn leave(&mut self, link: &mut Link) {
        if self.connected && link.client.disconnect_now().await.is_ok() {
            // Its task ends when the broker has been told, and closes this channel with it.
            let rest = async { while link.news.recv().await.is_some() {} };
            let _ = tokio::time::timeout(FAREWELL_LIMIT, rest).await;
        }
        self.connected = false;
        tracing::info!(broker = %self.setup.settings.mqtt.broker, "new settings: another session");
    }

    pub(super) async fn drain(
        &mut self,
        link: &mut Link,
        commands: &mpsc::Sender<CommandRequest>,
        outbound: &mut mpsc::Receiver<Outbound>,
    ) -> Result<(), PublishError> {
        self.status = AgentStatus::Draining;
        self.state_due_ms = 0;
        outbound.close();
        while let Ok(message) = outbound.try_recv() {
            self.take(message);
        }
        let deadline = tokio::time::Instant::now() + DRAIN_LIMIT;
        let mut ticker = tokio::time::interval(TICK);
        self.hand_over(&link.client);
        while self.connected && (self.outbox.unsent() > 0 || self.outbox.in_flight() + self.metas_in_flight > 0) {
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => break,
                Some(news) = link.news.recv() => self.hear(&link.client, commands, news)?,
                Some((sent, result)) = self.notices.next(), if !self.notices.is_empty() => self.settle(&sent, result),
                _ = ticker.tick() => self.tick().await,
            }
            self.hand_over(&link.client);
        }
        if self.connected {
            let payload = self.state(AgentStatus::Offline).to_json();
            self.publish(&link.client, Sent::State, self.topic(Leaf::State), payload, true);
            let farewell = async {
                while let Some((sent, result)) = self.notices.next().await {
                    self.settle(&sent, result);
                }
            };
            if tokio::time::timeout(FAREWELL_LIMIT, farewell).await.is_err() {
                tracing::warn!("the broker did not acknowledge everything before the end; it stays in the spool");
            }
            if link.client.disconnect_now().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        self.spool.close(self.now_ms());
        if let Err(error) = sync_all(&self.spool.take_unsynced()) {
            tracing::error!(%error, "the spool was not synced at the end");
        }
        tracing::info!(left = self.spool.figures().payloads, "publisher stopped");
        Ok(())
    }
}
