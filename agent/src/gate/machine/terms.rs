//! What goes into the machine and what comes out of it.

use std::collections::BTreeSet;

use bcp_wire::control::{PromiseAnswer, PromiseAsk, StepOrder, StepOutcome, TicketAnswer};
use bcp_wire::force::ForceOutcome;
use bcp_wire::{Epoch, Id, Site};

use crate::gate::config::{GateTiming, Loss};
use crate::gate::record::{BootMs, Record};

/// A gate of another site.
pub type Peer = (Site, Id);

/// What does not change while the gate runs.
#[derive(Debug, Clone, Hash)]
pub struct Terms {
    pub site: Site,
    pub gate: Id,
    pub ticket: Id,
    pub timing: GateTiming,
    pub loss: Loss,
    pub failsafe: bool,
    /// All that must promise. Empty: no failsafe.
    pub peers: BTreeSet<Peer>,
    pub boot_id: String,
}

/// What the deadline file of this boot said at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FoundDeadline {
    pub epoch: Epoch,
    pub deadline: BootMs,
}

#[derive(Debug, Clone, PartialEq, Hash)]
pub enum Event {
    /// Time passed. `dice` is random, for the nonce of a failsafe round.
    Ticked {
        dice: u64,
    },
    /// The stored record is not what this machine wrote: the warden has acted, or a write failed.
    RecordFound(Box<Record>),
    /// The stored record is gone or damaged, and one was there.
    RecordLost {
        reason: String,
    },
    /// The warden left word that it stopped the service.
    WardenStopped,
    /// The answer to [`Action::NoteDeadline`], before any other event. `fault`: why the warden does not know of it.
    DeadlineNoted {
        epoch: Epoch,
        deadline: BootMs,
        fault: Option<String>,
    },
    /// A collector confirmed the request that was sent at `sent` and carried the reports `reported`.
    Answered {
        sent: BootMs,
        index: u64,
        reported: Vec<String>,
        answer: Box<TicketAnswer>,
    },
    StepEnded {
        key: String,
        outcome: StepOutcome,
        detail: Option<String>,
        took_ms: u64,
    },
    StopEnded {
        verified: bool,
        detail: Option<String>,
    },
    /// Two operators ordered it; their signatures were checked.
    Forced {
        epoch: Epoch,
        to: Site,
    },
    PromiseAsked(PromiseAsk),
    PromiseGiven {
        peer: Peer,
        nonce: u64,
        for_ms: u64,
    },
    PromiseDenied {
        peer: Peer,
        nonce: u64,
        reason: String,
    },
}

#[derive(Debug, Clone, PartialEq, Hash)]
pub enum Action {
    /// To be on disk before the next action is begun.
    Persist(Box<Record>),
    /// To be in the warden's file before the next action is begun; answered by [`Event::DeadlineNoted`].
    NoteDeadline {
        epoch: Epoch,
        deadline: BootMs,
    },
    ForgetDeadline,
    /// For the gate's log.
    NoteActive {
        epoch: Epoch,
        active: bool,
        reason: String,
    },
    KillStep,
    /// `deadline` is absent for steps that need no lease.
    RunStep {
        order: StepOrder,
        deadline: Option<BootMs>,
    },
    /// Run `stop`, then `verify-stopped`.
    RunStop {
        epoch: Epoch,
        holder: Option<Site>,
    },
    SyncNow,
    AskPeers {
        epoch: Epoch,
        nonce: u64,
    },
    AnswerPromise(PromiseAnswer),
    AnswerForce(ForceOutcome),
}

/// One line of status.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TicketFigures {
    pub ticket: Id,
    pub epoch: Epoch,
    pub holder: Option<Site>,
    pub closed: bool,
    /// The service may be running here.
    pub active: bool,
    pub doing: String,
    /// Milliseconds of CLOCK_BOOTTIME.
    pub deadline: Option<BootMs>,
    pub promised_until: Option<BootMs>,
    pub trouble: Option<String>,
}
