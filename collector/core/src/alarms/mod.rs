//! ISA-18.2 alarms, agreed from the votes of the three collectors.
//!
//! Knows: who judges which alarm how, in which state each alarm is, which one is the cause of which. Refuses to know:
//! rules and readings (votes carry the outcome), and whom to notify (that follows from [`AlarmEvent::Annunciated`]).
//!
//! Invariants:
//! * an alarm is active while any observer with a live session says so; it clears only when none says so and at least
//!   one says no; when nobody knows, it stays as it is;
//! * a cause suppresses only the annunciation of its symptoms: their state is always the true one;
//! * every change of state goes through the one table in [`table`], with a reason;
//! * everything is bounded: alarms, notes, raise times, annunciations.

pub mod state;
pub mod table;
pub mod view;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use bcp_wire::Site;

use crate::time::LogTime;

pub use state::{Alarm, State};
pub use table::Phase;
pub use view::{AlarmView, Figures, Standing};

/// Votes of an observer that said nothing for this much log time count as unknown.
pub const VOTE_EXPIRY_MS: u64 = 10_000;
/// Longest shelving: an alarm is never hidden for ever, and a shift later somebody looks again.
pub const MAX_SHELVE_MS: u64 = 12 * 3_600_000;
/// Longest reason, note or explanation kept, in bytes.
pub const MAX_TEXT_BYTES: usize = 1_000;
/// Most assets a vote may name as feeding its own: far above any real chain from rack to utility.
pub const MAX_FED_BY: usize = 24;

/// What one serve process judges of its rule instances. `full` replaces all its earlier votes.
///
/// A full set holds every instance that is true, and every instance whose alarm exists in the agreed state, whatever its
/// value. An alarm that no live observer lists is judged by nobody any more and is retired.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlarmVotes {
    pub observer: Site,
    pub session: u64,
    pub full: bool,
    /// By alarm key `rule/asset`.
    pub votes: BTreeMap<String, AlarmVote>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct AlarmVote {
    /// None: unknown.
    pub active: Option<bool>,
    pub priority: Priority,
    pub asset: String,
    pub site: Option<Site>,
    /// By language.
    pub title: BTreeMap<String, String>,
    pub runbook: Option<String>,
    /// The values that decided it, as `supply.air.temperature 35.0 Cel (0.4 s old) > 27.0`.
    pub explain: String,
    /// Who looks after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Assets whose failure would explain this alarm, nearest first, its own asset excluded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fed_by: Vec<String>,
    /// This alarm explains alarms of assets that its own asset feeds.
    #[serde(default)]
    pub causal: bool,
    /// Suppressed by design: the rule's own `suppress_when` holds.
    #[serde(default)]
    pub suppressed: bool,
}

/// A condition that the log itself agreed on (a frozen ticket, a failover that is not possible): no votes needed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgreedCondition {
    /// Key `rule/asset`, as `ticket-frozen/prescriptions`.
    pub alarm: String,
    /// `active: None` leaves the alarm as it is.
    pub vote: AlarmVote,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    Critical,
    High,
    #[default]
    Medium,
    Low,
}

impl Priority {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Priority::Critical => "critical",
            Priority::High => "high",
            Priority::Medium => "medium",
            Priority::Low => "low",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum AlarmCommand {
    Acknowledge {
        note: Option<String>,
    },
    Shelve {
        reason: String,
        for_ms: u64,
    },
    Unshelve {
        reason: String,
    },
    Note {
        text: String,
    },
    /// Taken out of service for maintenance, until it is returned.
    OutOfService {
        reason: String,
    },
    ReturnToService {
        reason: String,
    },
}

/// What happened to an alarm, for the ledger and for notification.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum AlarmEvent {
    Raised {
        alarm: String,
        priority: Priority,
        explain: String,
    },
    /// Now operators are told. Once per raise, and not while a cause explains it.
    Annunciated {
        alarm: String,
        priority: Priority,
    },
    CauseFound {
        alarm: String,
        cause: String,
    },
    Cleared {
        alarm: String,
        reason: String,
    },
    Acknowledged {
        alarm: String,
        by: String,
        note: Option<String>,
    },
    Shelved {
        alarm: String,
        by: String,
        reason: String,
        until: LogTime,
    },
    Unshelved {
        alarm: String,
        by: Option<String>,
        reason: String,
    },
    Suppressed {
        alarm: String,
        reason: String,
    },
    Unsuppressed {
        alarm: String,
        reason: String,
    },
    OutOfService {
        alarm: String,
        by: String,
        reason: String,
    },
    ReturnedToService {
        alarm: String,
        by: String,
        reason: String,
    },
    Noted {
        alarm: String,
        by: String,
        text: String,
    },
    Chattering {
        alarm: String,
        raises: u32,
    },
    ChatteringEnded {
        alarm: String,
    },
    /// Nobody judges it any more: the rule or the asset is gone.
    Retired {
        alarm: String,
        reason: String,
    },
    FloodBegan {
        annunciated: u32,
    },
    FloodEnded {
        annunciated: u32,
    },
}

impl AlarmEvent {
    /// Key of the alarm; none for an event of the whole system.
    #[must_use]
    pub fn alarm(&self) -> Option<&str> {
        match self {
            AlarmEvent::Raised { alarm, .. }
            | AlarmEvent::Annunciated { alarm, .. }
            | AlarmEvent::CauseFound { alarm, .. }
            | AlarmEvent::Cleared { alarm, .. }
            | AlarmEvent::Acknowledged { alarm, .. }
            | AlarmEvent::Shelved { alarm, .. }
            | AlarmEvent::Unshelved { alarm, .. }
            | AlarmEvent::Suppressed { alarm, .. }
            | AlarmEvent::Unsuppressed { alarm, .. }
            | AlarmEvent::OutOfService { alarm, .. }
            | AlarmEvent::ReturnedToService { alarm, .. }
            | AlarmEvent::Noted { alarm, .. }
            | AlarmEvent::Chattering { alarm, .. }
            | AlarmEvent::ChatteringEnded { alarm }
            | AlarmEvent::Retired { alarm, .. } => Some(alarm),
            AlarmEvent::FloodBegan { .. } | AlarmEvent::FloodEnded { .. } => None,
        }
    }

    /// Ledger subject: `alarm:rule/asset`, or `alarms`.
    #[must_use]
    pub fn subject(&self) -> String {
        self.alarm().map_or_else(|| "alarms".to_owned(), |alarm| format!("alarm:{alarm}"))
    }

    /// Operator who caused it; none where it follows from readings or time.
    #[must_use]
    pub fn by(&self) -> Option<&str> {
        match self {
            AlarmEvent::Acknowledged { by, .. }
            | AlarmEvent::Shelved { by, .. }
            | AlarmEvent::OutOfService { by, .. }
            | AlarmEvent::ReturnedToService { by, .. }
            | AlarmEvent::Noted { by, .. } => Some(by),
            AlarmEvent::Unshelved { by, .. } => by.as_deref(),
            AlarmEvent::Raised { .. }
            | AlarmEvent::Annunciated { .. }
            | AlarmEvent::CauseFound { .. }
            | AlarmEvent::Cleared { .. }
            | AlarmEvent::Suppressed { .. }
            | AlarmEvent::Unsuppressed { .. }
            | AlarmEvent::Chattering { .. }
            | AlarmEvent::ChatteringEnded { .. }
            | AlarmEvent::Retired { .. }
            | AlarmEvent::FloodBegan { .. }
            | AlarmEvent::FloodEnded { .. } => None,
        }
    }

    /// One English sentence, complete without context.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            AlarmEvent::Raised { alarm, priority, explain } => {
                format!("Alarm {alarm} ({}) raised: {explain}.", priority.as_str())
            }
            AlarmEvent::Annunciated { alarm, priority } => {
                format!("Alarm {alarm} ({}) annunciated to operators.", priority.as_str())
            }
            AlarmEvent::CauseFound { alarm, cause } => format!("Alarm {alarm} is a symptom of {cause}."),
            AlarmEvent::Cleared { alarm, reason } => format!("Alarm {alarm} cleared: {reason}."),
            AlarmEvent::Acknowledged { alarm, by, note: None } => format!("{by} acknowledged alarm {alarm}."),
            AlarmEvent::Acknowledged { alarm, by, note: Some(note) } => {
                format!("{by} acknowledged alarm {alarm}: {note}.")
            }
            AlarmEvent::Shelved { alarm, by, reason, until } => {
                format!("{by} shelved alarm {alarm} until log time {until}: {reason}.")
            }
            AlarmEvent::Unshelved { alarm, by: Some(by), reason } => format!("{by} unshelved alarm {alarm}: {reason}."),
            AlarmEvent::Unshelved { alarm, by: None, reason } => format!("Alarm {alarm} left the shelf: {reason}."),
            AlarmEvent::Suppressed { alarm, reason } => format!("Alarm {alarm} suppressed by design: {reason}."),
            AlarmEvent::Unsuppressed { alarm, reason } => format!("Alarm {alarm} no longer suppressed: {reason}."),
            AlarmEvent::OutOfService { alarm, by, reason } => {
                format!("{by} took alarm {alarm} out of service: {reason}.")
            }
            AlarmEvent::ReturnedToService { alarm, by, reason } => {
                format!("{by} returned alarm {alarm} to service: {reason}.")
            }
            AlarmEvent::Noted { alarm, by, text } => format!("{by} noted on alarm {alarm}: {text}."),
            AlarmEvent::Chattering { alarm, raises } => {
                format!("Alarm {alarm} chatters ({raises} raises within a minute) and is held on until it is steady.")
            }
            AlarmEvent::ChatteringEnded { alarm } => format!("Alarm {alarm} no longer chatters."),
            AlarmEvent::Retired { alarm, reason } => format!("Alarm {alarm} retired: {reason}."),
            AlarmEvent::FloodBegan { annunciated } => {
                format!("Alarm flood: {annunciated} alarms annunciated within 10 minutes.")
            }
            AlarmEvent::FloodEnded { annunciated } => {
                format!("Alarm flood over: {annunciated} alarms annunciated within the last 10 minutes.")
            }
        }
    }
}

/// Cuts a text to the bound, at a character.
fn clip(text: &str) -> String {
    if text.len() <= MAX_TEXT_BYTES {
        return text.to_owned();
    }
    let end = (0..=MAX_TEXT_BYTES).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &text[..end])
}
