//! A move as ordered steps.
//!
//! Knows: which gates must do what, in which order, what they reported, and how often to try again. Refuses to know: what
//! a step does. Invariants: a key takes effect once; a step is ordered only in its stage; every stage has a limit, and
//! what lies beyond the limit is decided here and not left open.

use serde::{Deserialize, Serialize};

use bcp_wire::control::{StepKind, StepOrder, StepOutcome, StepReport};
use bcp_wire::{Epoch, Id, Site};

use super::decide::Cause;
use super::ticket::Latch;
use crate::policy::Timing;
use crate::time::LogTime;

/// Attempts of one step before the move is undone or stuck: a script that failed three times fails a fourth time.
pub const MAX_ATTEMPTS: u32 = 3;
/// Time for one stage of orderly work (stop, promote, publish), by its scripts. Longer than three tries of 10 s.
pub const STAGE_LIMIT_MS: u64 = 40_000;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Move {
    pub from: Option<Site>,
    pub to: Site,
    pub cause: Cause,
    pub started: LogTime,
    pub stage: Stage,
    /// Going back to where it came from.
    pub compensating: bool,
    /// Steps of all stages so far, in order.
    pub steps: Vec<Step>,
    /// Where the steps of the present stage begin.
    pub first: usize,
    /// The latch before the target's first renewal, to go back to if the target never got as far as taking writes.
    pub before: Option<Latch>,
}

/// Where a move stands. Each stage says what ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Stage {
    /// The holder stops. Ends with every report, or lapses at the limit.
    Stopping {
        until: LogTime,
    },
    /// A stop report is missing: nothing is renewed. Ends when the lease has run out.
    Lapsing,
    /// The next epoch is granted; losing gates are sealed. Ends at `effective_at`, and not before every seal or `until`.
    Sealing {
        effective_at: LogTime,
        until: LogTime,
    },
    /// In effect. Ends with every promote done.
    Promoting {
        until: LogTime,
    },
    Publishing {
        until: LogTime,
    },
}

impl Stage {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::Stopping { .. } => "stopping",
            Stage::Lapsing => "lapsing",
            Stage::Sealing { .. } => "sealing",
            Stage::Promoting { .. } => "promoting",
            Stage::Publishing { .. } => "publishing",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub kind: StepKind,
    pub site: Site,
    pub gate: Id,
    pub epoch: Epoch,
    pub revision: u64,
    pub attempt: u32,
    pub state: StepState,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum StepState {
    Ordered {
        since: LogTime,
    },
    Done {
        outcome: StepOutcome,
        took_ms: u64,
    },
    /// Not reachable; the time waited out stands in for it.
    CoveredByTime,
    /// Out of attempts, or refused.
    GivenUp {
        outcome: StepOutcome,
        detail: String,
    },
}

/// What a report meant to the move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReportEffect {
    /// Not of this move, or applied before.
    None,
    Done,
    /// Ordered again with a new key.
    Retried {
        attempt: u32,
    },
    GivenUp {
        attempt: u32,
    },
}

impl Step {
    /// Idempotency key of the step: one effect per key, a new key per attempt.
    #[must_use]
    pub fn key(&self, ticket: &Id) -> String {
        step_key(ticket, self.epoch, self.kind, self.site, &self.gate, self.attempt)
    }

    #[must_use]
    pub const fn settled(&self) -> bool {
        match self.state {
            StepState::Ordered { .. } => false,
            StepState::Done { .. } | StepState::CoveredByTime | StepState::GivenUp { .. } => true,
        }
    }
}

#[must_use]
pub fn step_key(ticket: &Id, epoch: Epoch, kind: StepKind, site: Site, gate: &Id, attempt: u32) -> String {
    format!("{ticket}:{epoch}:{}:{site}:{gate}:{attempt}", kind.as_str())
}

impl Move {
    /// Steps of the present stage.
    pub fn current(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().skip(self.first)
    }

    #[must_use]
    pub fn new(from: Option<Site>, to: Site, cause: Cause, started: LogTime, stage: Stage) -> Self {
        Move { from, to, cause, started, stage, compensating: false, steps: Vec::new(), first: 0, before: None }
    }

    /// The step a gate has to carry out now.
    #[must_use]
    pub fn order_for(&self, ticket: &Id, holder: Site, site: Site, gate: &Id) -> Option<StepOrder> {
        let step = self.current().find(|step| step.site == site && step.gate == *gate && !step.settled())?;
        Some(StepOrder {
            key: step.key(ticket),
            kind: step.kind,
            epoch: step.epoch,
            revision: step.revision,
            holder,
            params: std::collections::BTreeMap::new(),
        })
    }

    #[must_use]
    pub fn all_settled(&self) -> bool {
        self.current().all(Step::settled)
    }

    /// Every step of this stage was carried out.
    #[must_use]
    pub fn all_done(&self) -> bool {
        self.current().all(|step| matches!(step.state, StepState::Done { .. }))
    }

    /// First step of this stage that was given up, as a sentence part.
    #[must_use]
    pub fn given_up(&self) -> Option<String> {
        self.current().find_map(|step| match &step.state {
            StepState::GivenUp { detail, .. } => {
                Some(format!("step {} at gate {} of site {}: {detail}", step.kind.as_str(), step.gate, step.site))
            }
            StepState::Ordered { .. } | StepState::Done { .. } | StepState::CoveredByTime => None,
        })
    }

    /// Gates of this stage that have not reported done.
    #[must_use]
    pub fn missing(&self) -> Vec<Id> {
        self.current()
            .filter(|step| !matches!(step.state, StepState::Done { .. }))
            .map(|step| step.gate.clone())
            .collect()
    }

    /// Takes in a report. Key, epoch and revision must all be those of the order.
    pub fn report(&mut self, ticket: &Id, site: Site, gate: &Id, report: &StepReport, now: LogTime) -> ReportEffect {
        let first = self.first;
        let found = self.steps.iter_mut().skip(first).find(|step| {
            step.site == site
                && step.gate == *gate
                && step.kind == report.kind
                && step.epoch == report.epoch
                && step.revision == report.revision
                && step.key(ticket) == report.key
        });
        let Some(step) = found else { return ReportEffect::None };
        if step.settled() {
            return ReportEffect::None;
        }
        let attempt = step.attempt;
        match report.outcome {
            StepOutcome::Done | StepOutcome::Already => {
                step.state = StepState::Done { outcome: report.outcome, took_ms: report.took_ms };
                ReportEffect::Done
            }
            StepOutcome::Failed | StepOutcome::Rejected if attempt < MAX_ATTEMPTS => {
                step.attempt = attempt + 1;
                step.state = StepState::Ordered { since: now };
                ReportEffect::Retried { attempt }
            }
            StepOutcome::Failed | StepOutcome::Rejected | StepOutcome::Vetoed => {
                let detail = report.detail.clone().unwrap_or_else(|| "no reason given".to_owned());
                step.state = StepState::GivenUp { outcome: report.outcome, detail };
                ReportEffect::GivenUp { attempt }
            }
        }
    }

    /// Enters a stage with its steps. Nothing of the stage before is ordered any more.
    pub(super) fn enter(&mut self, stage: Stage, kind: StepKind, site: Site, gates: Vec<Id>, order: Order) {
        self.stage = stage;
        self.first = self.steps.len();
        let Order { epoch, revision, now } = order;
        for gate in gates {
            let state = StepState::Ordered { since: now };
            self.steps.push(Step { kind, site, gate, epoch, revision, attempt: 1, state });
        }
    }
}

/// What all orders of a stage have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub epoch: Epoch,
    pub revision: u64,
    pub now: LogTime,
}

/// Time for sealing after a clean release: the gates are there, they answered a moment ago.
#[must_use]
pub const fn seal_limit_ms(timing: &Timing) -> u64 {
    timing.renew_ms.saturating_mul(4)
}
