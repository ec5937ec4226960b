//! The ISA-18.2 transition table.
//!
//! Knows: phases, events, and where each pair leads, with the reason. Nothing else changes a phase.

use serde::{Deserialize, Serialize};

use crate::time::LogTime;

/// State of an alarm as ISA-18.2 / IEC 62682 name them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Phase {
    Normal,
    Unacknowledged,
    Acknowledged,
    /// Back to normal before anybody acknowledged it.
    ReturnedUnacknowledged,
    Shelved {
        until: LogTime,
        by: String,
        reason: String,
    },
    SuppressedByDesign,
    OutOfService {
        by: String,
        reason: String,
    },
}

impl Phase {
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Phase::Normal => "normal",
            Phase::Unacknowledged => "unacknowledged",
            Phase::Acknowledged => "acknowledged",
            Phase::ReturnedUnacknowledged => "returned_unacknowledged",
            Phase::Shelved { .. } => "shelved",
            Phase::SuppressedByDesign => "suppressed_by_design",
            Phase::OutOfService { .. } => "out_of_service",
        }
    }

    /// Shown and sounded, unless a cause explains it.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        match self {
            Phase::Unacknowledged | Phase::Acknowledged | Phase::ReturnedUnacknowledged => true,
            Phase::Normal | Phase::Shelved { .. } | Phase::SuppressedByDesign | Phase::OutOfService { .. } => false,
        }
    }
}

/// What may happen to an alarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    Raised,
    Cleared,
    /// Cleared before anybody was told of it.
    Untold,
    Acknowledged,
    Shelved {
        until: LogTime,
        by: String,
        reason: String,
    },
    Unshelved,
    ShelfExpired,
    SuppressionBegan,
    SuppressionEnded,
    TakenOutOfService {
        by: String,
        reason: String,
    },
    ReturnedToService,
}

/// Outcome of one pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    To(Phase, &'static str),
    /// Nothing changes, and that is right.
    Stays(&'static str),
    /// An operator asked for what makes no sense here.
    Refused(&'static str),
}

/// The table. `active` is the agreed condition after the trigger.
#[must_use]
pub fn transition(phase: &Phase, trigger: &Trigger, active: bool) -> Outcome {
    use Outcome::{Refused, Stays, To};
    use Phase::{
        Acknowledged, Normal, OutOfService, ReturnedUnacknowledged, Shelved, SuppressedByDesign, Unacknowledged,
    };
    let resumed = || if active { Unacknowledged } else { Normal };
    let shelve = |until: &LogTime, by: &String, reason: &String| Shelved {
        until: *until,
        by: by.clone(),
        reason: reason.clone(),
    };
    let out = |by: &String, reason: &String| OutOfService { by: by.clone(), reason: reason.clone() };
    match (phase, trigger) {
        (Normal, Trigger::Raised) => To(Unacknowledged, "the condition became true"),
        (Unacknowledged | Acknowledged, Trigger::Raised) => Stays("it is active already"),
        (ReturnedUnacknowledged, Trigger::Raised) => To(Unacknowledged, "the condition came back unacknowledged"),
        (Shelved { .. }, Trigger::Raised) => Stays("shelved: the condition is followed, nobody is called"),
        (SuppressedByDesign, Trigger::Raised) => Stays("suppressed by design: the condition is followed"),
        (OutOfService { .. }, Trigger::Raised) => Stays("out of service: the condition is followed"),

        (Normal | ReturnedUnacknowledged, Trigger::Cleared) => Stays("it is not active"),
        (Unacknowledged, Trigger::Cleared) => To(ReturnedUnacknowledged, "back to normal, not yet acknowledged"),
        (Acknowledged, Trigger::Cleared) => To(Normal, "back to normal after acknowledgement"),
        (Shelved { .. }, Trigger::Cleared) => Stays("shelved: stays on the shelf until it expires"),
        (SuppressedByDesign, Trigger::Cleared) => Stays("suppressed by design: the condition is followed"),
        (OutOfService { .. }, Trigger::Cleared) => Stays("out of service: the condition is followed"),

        (ReturnedUnacknowledged, Trigger::Untold) => To(Normal, "back to normal before anybody was told"),
        (
            Normal | Unacknowledged | Acknowledged | Shelved { .. } | SuppressedByDesign | OutOfService { .. },
            Trigger::Untold,
        ) => Stays("nothing waits for an acknowledgement"),

        (Normal, Trigger::Acknowledged) => Refused("the alarm is normal: there is nothing to acknowledge"),
        (Unacknowledged, Trigger::Acknowledged) => To(Acknowledged, "acknowledged"),
        (Acknowledged, Trigger::Acknowledged) => Refused("the alarm is acknowledged already"),
        (ReturnedUnacknowledged, Trigger::Acknowledged) => To(Normal, "acknowledged after it returned to normal"),
        (Shelved { .. }, Trigger::Acknowledged) => Refused("the alarm is shelved: unshelve it first"),
        (SuppressedByDesign, Trigger::Acknowledged) => Refused("the alarm is suppressed by design"),
        (OutOfService { .. }, Trigger::Acknowledged) => Refused("the alarm is out of service"),

        (Normal | Unacknowledged | Acknowledged | ReturnedUnacknowledged, Trigger::Shelved { until, by, reason }) => {
            To(shelve(until, by, reason), "shelved by an operator")
        }
        (Shelved { .. }, Trigger::Shelved { until, by, reason }) => {
            To(shelve(until, by, reason), "shelved anew by an operator")
        }
        (SuppressedByDesign, Trigger::Shelved { .. }) => Refused("the alarm is suppressed by design"),
        (OutOfService { .. }, Trigger::Shelved { .. }) => Refused("the alarm is out of service"),

        (
            Normal | Unacknowledged | Acknowledged | ReturnedUnacknowledged | SuppressedByDesign | OutOfService { .. },
            Trigger::Unshelved,
        ) => Refused("the alarm is not shelved"),
        (Shelved { .. }, Trigger::Unshelved) => To(resumed(), "unshelved by an operator"),

        (
            Normal | Unacknowledged | Acknowledged | ReturnedUnacknowledged | SuppressedByDesign | OutOfService { .. },
            Trigger::ShelfExpired,
        ) => Stays("it is not shelved"),
        (Shelved { .. }, Trigger::ShelfExpired) => To(resumed(), "the shelving time is over"),

        (Normal | Unacknowledged | Acknowledged | ReturnedUnacknowledged, Trigger::SuppressionBegan) => {
            To(SuppressedByDesign, "the rule's suppression condition holds")
        }
        (Shelved { .. }, Trigger::SuppressionBegan) => Stays("shelved by an operator, which goes first"),
        (SuppressedByDesign, Trigger::SuppressionBegan) => Stays("suppressed already"),
        (OutOfService { .. }, Trigger::SuppressionBegan) => Stays("out of service, which goes first"),

        (
            Normal | Unacknowledged | Acknowledged | ReturnedUnacknowledged | Shelved { .. } | OutOfService { .. },
            Trigger::SuppressionEnded,
        ) => Stays("it is not suppressed"),
        (SuppressedByDesign, Trigger::SuppressionEnded) => To(resumed(), "the suppression condition ended"),

        (
            Normal | Unacknowledged | Acknowledged | ReturnedUnacknowledged | Shelved { .. } | SuppressedByDesign,
            Trigger::TakenOutOfService { by, reason },
        ) => To(out(by, reason), "taken out of service by an operator"),
        (OutOfService { .. }, Trigger::TakenOutOfService { .. }) => Refused("the alarm is out of service already"),

        (
            Normal | Unacknowledged | Acknowledged | ReturnedUnacknowledged | Shelved { .. } | SuppressedByDesign,
            Trigger::ReturnedToService,
        ) => Refused("the alarm is in service"),
        (OutOfService { .. }, Trigger::ReturnedToService) => To(resumed(), "returned to service by an operator"),
    }
}
