//! Which copy may become active without losing what was acknowledged.

use serde::{Deserialize, Serialize};

/// Three-valued; unknown is not fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Freshness {
    /// Has everything the ticket's rpo asks for, and that was in the log before any fault.
    Fresh,
    Stale,
    Unknown,
    /// A history of its own: only a human can say which one counts.
    Forked,
}
