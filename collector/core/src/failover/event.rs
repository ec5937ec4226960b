//! Ledger events of tickets, and the sentence an operator reads for each.

use serde::{Deserialize, Serialize};

use bcp_wire::control::{StepKind, StepOutcome};
use bcp_wire::{Epoch, Id, Site};

use super::decide::Cause;
use super::force::{Guard, Lapse};
use crate::time::LogTime;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum TicketEvent {
    /// The lease ran out: no gate of the holder renewed for a whole ttl.
    Expired {
        ticket: Id,
        holder: Site,
        epoch: Epoch,
    },
    /// Every gate of the holder closed the epoch by itself: nothing runs under it any more.
    Closed {
        ticket: Id,
        holder: Site,
        epoch: Epoch,
    },
    /// A planned move began: the holder is asked to stop.
    DrainStarted {
        ticket: Id,
        from: Site,
        to: Site,
        epoch: Epoch,
        cause: Cause,
    },
    /// Every gate of the holder reported that it stopped: no waiting is needed.
    Released {
        ticket: Id,
        holder: Site,
        epoch: Epoch,
    },
    /// A stop report is missing: renewals are refused from now on, and the full time is waited out.
    Lapsing {
        ticket: Id,
        holder: Site,
        epoch: Epoch,
        missing: Vec<Id>,
    },
    Granted {
        ticket: Id,
        holder: Site,
        epoch: Epoch,
        cause: Cause,
        effective_at: LogTime,
    },
    /// The grant took effect: gates of the holder may renew and promote.
    Effective {
        ticket: Id,
        holder: Site,
        epoch: Epoch,
    },
    StepDone {
        ticket: Id,
        epoch: Epoch,
        step: StepKind,
        site: Site,
        gate: Id,
        outcome: StepOutcome,
        took_ms: u64,
    },
    StepFailed {
        ticket: Id,
        epoch: Epoch,
        step: StepKind,
        site: Site,
        gate: Id,
        outcome: StepOutcome,
        detail: String,
        attempt: u32,
    },
    /// The gate could not be reached; the time waited out covers it.
    CoveredByTime {
        ticket: Id,
        epoch: Epoch,
        site: Site,
        gate: Id,
    },
    /// A move is undone: the ticket goes back to where it came from.
    Compensating {
        ticket: Id,
        back_to: Site,
        epoch: Epoch,
        reason: String,
    },
    MoveFinished {
        ticket: Id,
        from: Option<Site>,
        to: Site,
        epoch: Epoch,
        took_ms: u64,
    },
    MoveStuck {
        ticket: Id,
        to: Site,
        epoch: Epoch,
        reason: String,
    },
    Latched {
        ticket: Id,
        active: Site,
        epoch: Epoch,
        in_sync: bool,
    },
    Frozen {
        ticket: Id,
        owner: String,
        reason: String,
        until: LogTime,
    },
    Unfrozen {
        ticket: Id,
        reason: String,
    },
    /// `mode = "confirm"`: a human has to say yes before the time is up.
    ConfirmationAsked {
        ticket: Id,
        to: Site,
        epoch: Epoch,
        cause: Cause,
        until: LogTime,
    },
    ConfirmationLapsed {
        ticket: Id,
        to: Site,
        epoch: Epoch,
    },
    /// What the question was about is gone.
    ConfirmationWithdrawn {
        ticket: Id,
        to: Site,
        epoch: Epoch,
    },
    /// A drain was given up before any gate had closed its epoch: the holder just goes on.
    DrainCancelled {
        ticket: Id,
        holder: Site,
        epoch: Epoch,
        reason: String,
    },
    /// One operator asked to go around a guard; another one has to.
    ForceAsked {
        ticket: Id,
        to: Site,
        epoch: Epoch,
        guard: Guard,
        until: LogTime,
        reason: String,
    },
    /// What one operator asked came to nothing.
    ForceLapsed {
        ticket: Id,
        to: Site,
        epoch: Epoch,
        guard: Guard,
        /// Who had asked.
        by: String,
        why: Lapse,
    },
    /// `mode = "observe"`: what would have been done.
    WouldMove {
        ticket: Id,
        to: Site,
        epoch: Epoch,
        cause: Cause,
    },
    /// A move was due and was not made.
    Withheld {
        ticket: Id,
        epoch: Epoch,
        cause: Cause,
        reasons: Vec<String>,
    },
    Weighed {
        ticket: Id,
        epoch: Epoch,
        weights: std::collections::BTreeMap<Site, u32>,
        reason: String,
    },
    /// Too few servers carry it at a site: one that stands by is started.
    CapacityOrdered {
        ticket: Id,
        site: Site,
        server: Id,
        epoch: Epoch,
    },
    /// Too few servers, and none stands by any more.
    CapacityExhausted {
        ticket: Id,
        site: Site,
        started: usize,
    },
    RulesChanged {
        ticket: Id,
        rule_hash: String,
    },
    Retired {
        ticket: Id,
        epoch: Epoch,
    },
    /// A gate knows an incarnation that this log never gave.
    Overruled {
        ticket: Id,
        epoch: Epoch,
    },
    /// An operator let the collectors decide again, from this epoch on.
    Readmitted {
        ticket: Id,
        epoch: Epoch,
        /// Whose site was found with it; absent: nobody runs it.
        holder: Option<Site>,
        reason: String,
    },
}

/// An event, and who caused it.
#[derive(Debug, Clone, PartialEq)]
pub struct Happened {
    pub author: String,
    pub event: TicketEvent,
}

/// How an event hangs together with the others of its ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Begins,
    Follows,
    Alone,
}

/// Author of what follows from the rules alone.
pub const SYSTEM: &str = "system";

impl TicketEvent {
    #[must_use]
    pub fn ticket(&self) -> &Id {
        use TicketEvent as E;
        match self {
            E::Expired { ticket, .. }
            | E::Closed { ticket, .. }
            | E::DrainStarted { ticket, .. }
            | E::Released { ticket, .. }
            | E::Lapsing { ticket, .. }
            | E::Granted { ticket, .. }
            | E::Effective { ticket, .. }
            | E::StepDone { ticket, .. }
            | E::StepFailed { ticket, .. }
            | E::CoveredByTime { ticket, .. }
            | E::Compensating { ticket, .. }
            | E::MoveFinished { ticket, .. }
            | E::MoveStuck { ticket, .. }
            | E::Latched { ticket, .. }
            | E::Frozen { ticket, .. }
            | E::Unfrozen { ticket, .. }
            | E::ConfirmationAsked { ticket, .. }
            | E::ConfirmationLapsed { ticket, .. }
            | E::ConfirmationWithdrawn { ticket, .. }
            | E::DrainCancelled { ticket, .. }
            | E::ForceAsked { ticket, .. }
            | E::ForceLapsed { ticket, .. }
            | E::WouldMove { ticket, .. }
            | E::Withheld { ticket, .. }
            | E::Weighed { ticket, .. }
            | E::CapacityOrdered { ticket, .. }
            | E::CapacityExhausted { ticket, .. }
            | E::RulesChanged { ticket, .. }
            | E::Overruled { ticket, .. }
            | E::Readmitted { ticket, .. }
            | E::Retired { ticket, .. } => ticket,
        }
    }

    /// Part of a chain (loss, grant, steps, end): its cause is the entry before it in the same chain.
    #[must_use]
    pub const fn link(&self) -> Link {
        use TicketEvent as E;
        match self {
            E::Expired { .. }
            | E::Closed { .. }
            | E::DrainStarted { .. }
            | E::ConfirmationAsked { .. }
            | E::ForceAsked { .. } => Link::Begins,
            E::Released { .. }
            | E::Lapsing { .. }
            | E::Granted { .. }
            | E::Effective { .. }
            | E::StepDone { .. }
            | E::StepFailed { .. }
            | E::CoveredByTime { .. }
            | E::Compensating { .. }
            | E::MoveFinished { .. }
            | E::MoveStuck { .. }
            | E::DrainCancelled { .. }
            | E::ConfirmationLapsed { .. }
            | E::ConfirmationWithdrawn { .. }
            | E::ForceLapsed { .. }
            | E::Withheld { .. } => Link::Follows,
            E::Latched { .. }
            | E::Frozen { .. }
            | E::Unfrozen { .. }
            | E::WouldMove { .. }
            | E::Weighed { .. }
            | E::CapacityOrdered { .. }
            | E::CapacityExhausted { .. }
            | E::RulesChanged { .. }
            | E::Overruled { .. }
            | E::Readmitted { .. }
            | E::Retired { .. } => Link::Alone,
        }
    }

    /// One English sentence, complete without context.
    #[must_use]
    pub fn sentence(&self) -> String {
        use TicketEvent as E;
        match self {
            E::Expired { ticket, holder, epoch } => {
                format!("The lease of {ticket} at site {holder} (epoch {epoch}) ran out: no gate renewed it in time.")
            }
            E::Closed { ticket, holder, epoch } => {
                format!("Every gate of site {holder} closed epoch {epoch} of {ticket}: nothing runs under it any more.")
            }
            E::DrainStarted { ticket, from, to, epoch, cause } => {
                format!(
                    "{ticket} is to move from site {from} to site {to} ({cause}); site {from} was asked to stop epoch {epoch}."
                )
            }
            E::Released { ticket, holder, epoch } => {
                format!("Site {holder} released {ticket}: every gate reported that epoch {epoch} is stopped.")
            }
            E::Lapsing { ticket, holder, epoch, missing } => format!(
                "{ticket}: no stop report of epoch {epoch} from {} at site {holder}; its lease is renewed no more and the full time is waited out.",
                names(missing)
            ),
            E::Granted { ticket, holder, epoch, cause, effective_at } => {
                format!(
                    "{ticket} was granted to site {holder} as epoch {epoch} ({cause}); in effect from log time {effective_at}."
                )
            }
            E::Effective { ticket, holder, epoch } => {
                format!("The grant of {ticket} to site {holder} as epoch {epoch} is in effect.")
            }
            E::StepDone { ticket, epoch, step, site, gate, outcome, took_ms } => format!(
                "{ticket}: step {} of epoch {epoch} at gate {gate} of site {site} is {} after {took_ms} ms.",
                step.as_str(),
                if *outcome == StepOutcome::Already { "already done" } else { "done" }
            ),
            E::StepFailed { ticket, epoch, step, site, gate, outcome, detail, attempt } => format!(
                "{ticket}: step {} of epoch {epoch} at gate {gate} of site {site} {} (attempt {attempt}): {detail}.",
                step.as_str(),
                match outcome {
                    StepOutcome::Vetoed => "was vetoed",
                    StepOutcome::Rejected => "was rejected by the gate",
                    StepOutcome::Done | StepOutcome::Already | StepOutcome::Failed => "failed",
                }
            ),
            E::CoveredByTime { ticket, epoch, site, gate } => format!(
                "{ticket}: gate {gate} of site {site} could not be sealed for epoch {epoch}; the time waited out covers it."
            ),
            E::Compensating { ticket, back_to, epoch, reason } => {
                format!("{ticket}: the move under epoch {epoch} is undone, back to site {back_to}: {reason}.")
            }
            E::MoveFinished { ticket, from: Some(from), to, epoch, took_ms } if from != to => {
                format!("{ticket} moved from site {from} to site {to} as epoch {epoch} in {took_ms} ms of log time.")
            }
            E::MoveFinished { ticket, to, epoch, took_ms, .. } => {
                format!("{ticket} is active at site {to} as epoch {epoch} after {took_ms} ms of log time.")
            }
            E::MoveStuck { ticket, to, epoch, reason } => {
                format!("The move of {ticket} to site {to} as epoch {epoch} is stuck: {reason}.")
            }
            E::Latched { ticket, active, epoch, in_sync: true } => {
                format!("{ticket}: the standby of site {active} is in sync under epoch {epoch}.")
            }
            E::Latched { ticket, active, epoch, in_sync: false } => {
                format!("{ticket}: the standby of site {active} is not in sync under epoch {epoch}.")
            }
            E::Frozen { ticket, owner, reason, until } => {
                format!("{ticket} was frozen by {owner} until log time {until}: {reason}.")
            }
            E::Unfrozen { ticket, reason } => format!("{ticket} is no longer frozen: {reason}."),
            E::ConfirmationAsked { ticket, to, epoch, cause, .. } => {
                format!("{ticket} (epoch {epoch}) should move to site {to} ({cause}); a human has to confirm.")
            }
            E::ConfirmationLapsed { ticket, to, .. } => {
                format!("Nobody confirmed in time that {ticket} moves to site {to}: nothing was moved.")
            }
            E::ConfirmationWithdrawn { ticket, to, .. } => {
                format!("{ticket} need not move to site {to} any more: the question is withdrawn.")
            }
            E::ForceAsked { ticket, to, epoch, guard, until, reason } => format!(
                "{ticket} (epoch {epoch}) is to be forced to site {to} around its {guard}: {reason}; another operator has to ask the same before log time {until}."
            ),
            E::ForceLapsed { ticket, to, guard, by, why, .. } => {
                let why = why.as_str();
                format!("{ticket} is not forced to site {to} around its {guard} as {by} asked: {why}.")
            }
            E::DrainCancelled { ticket, holder, epoch, reason } => {
                format!("{ticket} stays at site {holder} under epoch {epoch}; the planned move was given up: {reason}.")
            }
            E::WouldMove { ticket, to, cause, .. } => {
                format!("{ticket} would have moved to site {to} ({cause}); its mode is observe, so nothing was done.")
            }
            E::Withheld { ticket, cause, reasons, .. } => {
                format!("{ticket} was not moved although {cause}: {}.", reasons.join("; "))
            }
            E::Weighed { ticket, epoch, weights, reason } => {
                let shares: Vec<String> = weights.iter().map(|(site, share)| format!("{site} {share} %")).collect();
                format!("{ticket}: weights of epoch {epoch} are {} ({reason}).", shares.join(", "))
            }
            E::CapacityOrdered { ticket, site, server, .. } => {
                format!("{ticket}: too few servers are up at site {site}; {server}, which stands by, is started.")
            }
            E::CapacityExhausted { ticket, site, started } => {
                format!("{ticket}: too few servers are up at site {site}, and none stands by ({started} were started).")
            }
            E::RulesChanged { ticket, rule_hash } => format!("{ticket} follows rules {rule_hash} from now on."),
            E::Overruled { ticket, epoch } => format!(
                "{ticket}: its gates were given epoch {epoch} without these collectors; they do nothing about it until an operator readmits it."
            ),
            E::Readmitted { ticket, epoch, holder: Some(site), reason } => format!(
                "{ticket} is decided by the collectors again, from epoch {epoch} on, with site {site} as it was found: {reason}."
            ),
            E::Readmitted { ticket, epoch, holder: None, reason } => {
                format!("{ticket} is decided by the collectors again, from epoch {epoch} on; nobody runs it: {reason}.")
            }
            E::Retired { ticket, epoch } => {
                format!(
                    "{ticket} is no longer in the policy; its last epoch {epoch} is kept so that it is never used twice."
                )
            }
        }
    }
}

fn names(ids: &[Id]) -> String {
    ids.iter().map(Id::as_str).collect::<Vec<_>>().join(", ")
}
