//! The emergency (BCP) procedure per service and profession: off, armed, on, being stood down.

use serde::{Deserialize, Serialize};

use super::{ServiceEvent, ServiceStatus, State};
use crate::policy::Policy;
use crate::time::{LogTime, Wall};

/// A service must be down this long before users are asked to switch to their emergency procedure.
pub const DOWN_BEFORE_ON_MS: u64 = 5_000;
/// Users keep both ways for this long after the service is back: what was written on paper has to be entered.
pub const STAND_DOWN_MS: u64 = 15 * 60_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Procedure {
    pub phase: ProcedurePhase,
    pub since: LogTime,
    pub since_wall: Wall,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProcedurePhase {
    #[default]
    Off,
    /// The service is degraded, or just went down: be ready.
    Armed,
    On,
    StandingDown,
}

impl ProcedurePhase {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            ProcedurePhase::Off => "off",
            ProcedurePhase::Armed => "armed",
            ProcedurePhase::On => "on",
            ProcedurePhase::StandingDown => "standing-down",
        }
    }

    /// As an operator reads it.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            ProcedurePhase::Off => "off",
            ProcedurePhase::Armed => "armed",
            ProcedurePhase::On => "on",
            ProcedurePhase::StandingDown => "being stood down",
        }
    }
}

/// Where a procedure goes. `status_ms`: how long the service has had this status; `phase_ms`: the same of the phase.
#[must_use]
pub fn next(phase: ProcedurePhase, status: ServiceStatus, status_ms: u64, phase_ms: u64) -> ProcedurePhase {
    use ProcedurePhase::{Armed, Off, On, StandingDown};
    use ServiceStatus::{Degraded, Down, Planned, Unknown, Up};
    match (phase, status) {
        (Off | Armed, Down) => {
            if status_ms >= DOWN_BEFORE_ON_MS {
                On
            } else {
                Armed
            }
        }
        (On, Down) => On,
        (StandingDown, Down) => On,
        (Off | Armed, Degraded) => Armed,
        (On, Degraded) => On,
        (StandingDown, Degraded) => StandingDown,
        (Off | Armed, Up | Planned) => Off,
        (On, Up | Planned) => StandingDown,
        (StandingDown, Up | Planned) => {
            if phase_ms >= STAND_DOWN_MS {
                Off
            } else {
                StandingDown
            }
        }
        // Nobody knows: nothing that users do is changed.
        (Off, Unknown) => Off,
        (Armed, Unknown) => Armed,
        (On, Unknown) => On,
        (StandingDown, Unknown) => StandingDown,
    }
}

pub(super) fn follow(state: &mut State, now: LogTime, wall: Wall, policy: &Policy, events: &mut Vec<ServiceEvent>) {
    for (id, service) in &mut state.services {
        let Some(wanted) = policy.services.get(id) else { continue };
        service.procedures.retain(|profession, _| wanted.procedure.contains_key(profession));
        for profession in wanted.procedure.keys() {
            let fresh = Procedure { phase: ProcedurePhase::Off, since: now, since_wall: wall };
            let procedure = service.procedures.entry(profession.clone()).or_insert(fresh);
            let status_ms = now.since(service.since);
            let to = next(procedure.phase, service.status, status_ms, now.since(procedure.since));
            if to != procedure.phase {
                let from = std::mem::replace(&mut procedure.phase, to);
                procedure.since = now;
                procedure.since_wall = wall;
                events.push(ServiceEvent::Procedure { service: id.clone(), profession: profession.clone(), from, to });
            }
        }
    }
}
