//! The agent's own figures, and what becomes of the wall clock.

use std::sync::Arc;
use std::time::Duration;

use bcp_identity::Credentials;
use bcp_wire::envelope::EventKind;
use bcp_wire::{BadReason, ClockState, Id};
use tokio::sync::{mpsc, watch};

use crate::clock::{STEP_MS, kernel_state};
use crate::outbound::Outbound;
use crate::publish::PublishFigures;
use crate::self_stats::{Board, SELF_INTERVAL, SelfDevice};

/// How often the clocks are compared, beside every poll.
const CLOCK_LOOK: Duration = Duration::from_secs(1);
/// The first report comes soon, so that a new agent is complete at a glance; then at the interval.
const FIRST_LOOK: u64 = 2;

/// What is reported from.
#[derive(Debug)]
pub struct Report {
    pub id: Id,
    pub credentials: Vec<Credentials>,
    pub board: Arc<Board>,
    pub publisher: watch::Receiver<PublishFigures>,
    pub clock: watch::Sender<ClockState>,
    pub outbound: mpsc::Sender<Outbound>,
}

impl Report {
    /// Reports until `shutdown`, or nobody listens any more.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let mut own = SelfDevice::new(self.id.clone(), self.credentials.clone(), &self.board);
        let mut told = Vec::new();
        let mut look = tokio::time::interval(CLOCK_LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let looks_per_report = (SELF_INTERVAL.as_secs() / CLOCK_LOOK.as_secs()).max(1);
        let mut looks: u64 = 0;
        loop {
            tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => return,
                _ = look.tick() => {}
            }
            if !self.look_at_clock().await {
                return;
            }
            let due = looks % looks_per_report == FIRST_LOOK;
            looks += 1;
            if due && !self.report(&mut own, &mut told).await {
                return;
            }
        }
    }

    /// False once nobody listens.
    async fn look_at_clock(&self) -> bool {
        let now = kernel_state();
        self.clock.send_if_modified(|known| {
            let other = std::mem::discriminant(known) != std::mem::discriminant(&now);
            *known = now;
            other
        });
        let Some(step_ms) = self.board.wall().take_step_ms() else { return true };
        tracing::warn!(step_ms, more_than_ms = STEP_MS, "the wall clock was stepped");
        let t_ms = self.board.wall().stamp().t_ms;
        let kind = EventKind::ClockStep { step_ms };
        self.outbound.send(Outbound::Event { device: self.id.clone(), t_ms, kind }).await.is_ok()
    }

    async fn report(&self, own: &mut SelfDevice, told: &mut Vec<bcp_wire::PointName>) -> bool {
        let stamp = self.board.wall().stamp();
        let spool = self.publisher.borrow().spool;
        let mut points = own.samples(&self.board, &spool);
        let names: Vec<_> = points.iter().map(|(name, _, _)| name.clone()).collect();
        if names != *told {
            *told = names;
            if self.outbound.send(Outbound::Meta(Box::new(own.meta(&points)))).await.is_err() {
                return false;
            }
        }
        if stamp.doubtful {
            for point in &mut points {
                point.2 = Err(BadReason::Clock);
            }
        }
        let batch = Outbound::Batch { device: self.id.clone(), t_ms: stamp.t_ms, points };
        self.outbound.send(batch).await.is_ok()
    }
}
