//! What is agreed about one ticket.
//!
//! Knows: holder, epoch, lease, latch, gates and the move in flight. Refuses to know: why a move is right (that is
//! `decide`) and what a step does (that is the gate). Invariants: the epoch only grows; a removed ticket keeps its epoch
//! for ever, so a name that is used again never repeats one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use bcp_wire::control::{Loss, Phase, ServiceFacts};
use bcp_wire::{Epoch, Id, Site};

use super::decide::Cause;
use super::force::ForceAsked;
use super::lease::Lease;
use super::restored::Restored;
use super::saga::Move;
use super::servers::Started;
use super::silence::Silence;
use crate::time::LogTime;

/// Renewals remembered per gate: as many requests as can be in flight at once; an older answer is worth nothing.
pub const MAX_RENEWALS_KEPT: usize = 4;
/// Finished moves kept per ticket for the console; the ledger has them all.
pub const MAX_HISTORY: usize = 8;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ticket {
    pub epoch: Epoch,
    /// Grows with every change an operator could care about; commands compare and set on it.
    pub revision: u64,
    pub phase: Phase,
    /// Who may be active under `epoch`. None while free, and always for active-active.
    pub holder: Option<Site>,
    /// The lease that may be running: of the holder, or of the one before it until it is cleared.
    pub lease: Option<Lease>,
    /// The copy that took the last writes, and what it said about its peer.
    pub latch: Option<Latch>,
    pub gates: BTreeMap<Site, BTreeMap<Id, GateRecord>>,
    /// Last facts per site; shown with their age, never a vote of their own.
    pub copies: BTreeMap<Site, CopyRecord>,
    pub moving: Option<Move>,
    pub frozen: Option<Freeze>,
    /// One operator has asked to go around a guard; another one has to.
    #[serde(default)]
    pub force: Option<ForceAsked>,
    /// A decision that waits for a human (`mode = "confirm"`).
    pub pending: Option<Pending>,
    pub cooldown_until: Option<LogTime>,
    /// Automatic moves of the last 24 h of log time.
    pub automatic_moves: Vec<LogTime>,
    pub history: Vec<MoveRecord>,
    /// Since when two of three say the service is down at a site.
    pub down_since: BTreeMap<Site, LogTime>,
    /// Since when nothing moves any more: "the service is down at the holder" counts from here at the earliest.
    pub settled_at: Option<LogTime>,
    /// Since when two of three say it is up there (active-active: when a site may take load again).
    pub up_since: BTreeMap<Site, LogTime>,
    /// Active-active: share per site, percent. Empty before the first.
    pub weights: BTreeMap<Site, u32>,
    /// Active-active: an operator set the weights; only a loss changes them until that is taken back.
    pub weights_held: bool,
    /// Servers of the reserve that were started, per site.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub started: BTreeMap<Site, Started>,
    /// The question to a human was not answered; it is not asked again until its cause is gone.
    pub lapsed: bool,
    /// Highest epoch any gate has persisted; a restored log may be behind its gates.
    pub floor: Epoch,
    /// A new grant to the same site not before this: a copy that keeps closing is not restarted in a loop.
    pub resume_after: LogTime,
    pub resumes: u32,
    /// What was last written into the ledger without any effect, so that it is written once.
    pub noted: Option<String>,
    pub noted_at: LogTime,
    pub rule_hash: String,
    /// From a backup, and nothing was granted since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<Restored>,
    /// A drill: the gates of its holder are asked to say nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence: Option<Silence>,
    /// No longer in the policy: no renewal, no grant; only the epoch is kept.
    pub retired: bool,
    /// Ledger entry of the last event of this ticket.
    pub last_entry: Option<u64>,
}

/// Freshness, latched before any fault: what the active copy last committed about its standby.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latch {
    pub active: Site,
    pub epoch: Epoch,
    /// None: nothing was said under this epoch. Counts as not in sync.
    pub in_sync: Option<bool>,
    pub lineage: Option<String>,
    pub position: u64,
    pub at: LogTime,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateRecord {
    /// Highest epoch it has persisted.
    pub seen: Epoch,
    pub closed: bool,
    /// Highest request number applied.
    pub seq: u64,
    pub heard: Option<LogTime>,
    /// Heard without a gap since.
    pub present_since: Option<LogTime>,
    pub trouble: Option<String>,
    /// It said last that a stop is not verified: the service may run there, and no wait stands in for that.
    #[serde(default)]
    pub unstopped: bool,
    /// What it does when its lease runs out; `None`: an older gate, which stops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
    /// Two operators gave its site `seen` without any collector.
    #[serde(default)]
    pub forced: bool,
    /// Whether its copy said in this epoch that the standby has everything.
    pub says_in_sync: Option<bool>,
    pub renewals: Vec<Renewal>,
    /// Steps outside a move: the losing side seals and follows when it comes back; weights are set.
    pub sealed: Epoch,
    pub followed: Epoch,
    pub attempt: u32,
    pub retry_at: LogTime,
    pub last_failure: Option<String>,
    /// In the policy now. A gate that left it still has to report for the epoch it took part in.
    pub listed: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Renewal {
    pub nonce: u64,
    pub epoch: Epoch,
    /// The promise made with it: a later change of timing does not lengthen it.
    pub ttl_holder_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CopyRecord {
    pub facts: ServiceFacts,
    pub gate: Id,
    pub at: LogTime,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Freeze {
    /// `operator:<name>` or `system`.
    pub owner: String,
    pub reason: String,
    pub since: LogTime,
    pub until: LogTime,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// Who asked, where an operator did: another one has to confirm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_by: Option<String>,
    pub to: Site,
    pub cause: Cause,
    pub epoch: Epoch,
    pub until: LogTime,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MoveRecord {
    pub from: Option<Site>,
    pub to: Site,
    pub epoch: Epoch,
    pub cause: Cause,
    pub started: LogTime,
    pub ended: LogTime,
    pub outcome: MoveOutcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveOutcome {
    /// Promoted and published at the target.
    Done,
    /// Went back to where it came from.
    Compensated,
    /// A step could not be finished; the ticket is frozen for a human.
    Stuck,
    /// The target was lost as well.
    Lost,
}

impl Ticket {
    #[must_use]
    pub fn new() -> Self {
        Ticket {
            epoch: Epoch::NONE,
            revision: 0,
            phase: Phase::Free,
            holder: None,
            lease: None,
            latch: None,
            gates: BTreeMap::new(),
            copies: BTreeMap::new(),
            moving: None,
            frozen: None,
            force: None,
            pending: None,
            cooldown_until: None,
            automatic_moves: Vec::new(),
            history: Vec::new(),
            down_since: BTreeMap::new(),
            settled_at: None,
            up_since: BTreeMap::new(),
            weights: BTreeMap::new(),
            weights_held: false,
            started: BTreeMap::new(),
            lapsed: false,
            floor: Epoch::NONE,
            resume_after: LogTime::default(),
            resumes: 0,
            noted: None,
            noted_at: LogTime::default(),
            rule_hash: String::new(),
            restored: None,
            silence: None,
            retired: false,
            last_entry: None,
        }
    }

    /// The site that is active, or was last.
    #[must_use]
    pub fn holder_or_last(&self) -> Option<Site> {
        self.holder.or(self.lease.as_ref().map(|lease| lease.site))
    }

    pub(super) fn changed(&mut self) {
        self.revision = self.revision.saturating_add(1);
    }

    /// Gates of a site that count: those of the policy.
    pub(super) fn listed_gates(&self, site: Site) -> impl Iterator<Item = (&Id, &GateRecord)> {
        self.gates.get(&site).into_iter().flatten().filter(|(_, gate)| gate.listed)
    }

    #[must_use]
    pub fn gate(&self, site: Site, gate: &Id) -> Option<&GateRecord> {
        self.gates.get(&site).and_then(|gates| gates.get(gate))
    }

    /// A gate of the side that had the lease is there and says that the service may still run at it.
    pub(super) fn unstopped(&self, to: Site, now: LogTime, fresh_ms: u64) -> Option<(Site, &Id)> {
        let site = self.lease.map(|lease| lease.site).filter(|site| *site != to)?;
        let mut gates = self.gates.get(&site).into_iter().flatten();
        gates.find(|(_, gate)| gate.unstopped && gate.present(now, fresh_ms)).map(|(id, _)| (site, id))
    }

    /// Gates know an incarnation that this log never gave: it was decided without these collectors, who say and do nothing
    /// about the ticket until an operator admits them again.
    #[must_use]
    pub const fn overruled(&self) -> bool {
        self.floor.incarnation > self.epoch.incarnation
    }

    /// Epoch of the next grant: above every one ever used, the gates' own included.
    #[must_use]
    pub fn next_epoch(&self) -> Epoch {
        let above = self.epoch.max(self.floor);
        Epoch { incarnation: above.incarnation, counter: above.counter.saturating_add(1) }
    }
}

impl Default for Ticket {
    fn default() -> Self {
        Ticket::new()
    }
}

impl GateRecord {
    #[must_use]
    pub fn new() -> Self {
        GateRecord {
            seen: Epoch::NONE,
            closed: false,
            seq: 0,
            heard: None,
            present_since: None,
            trouble: None,
            unstopped: false,
            loss: None,
            forced: false,
            says_in_sync: None,
            renewals: Vec::new(),
            sealed: Epoch::NONE,
            followed: Epoch::NONE,
            attempt: 0,
            retry_at: LogTime::default(),
            last_failure: None,
            listed: true,
        }
    }

    #[must_use]
    pub fn present(&self, now: LogTime, fresh_ms: u64) -> bool {
        self.heard.is_some_and(|heard| now.since(heard) <= fresh_ms)
    }
}

impl Default for GateRecord {
    fn default() -> Self {
        GateRecord::new()
    }
}
