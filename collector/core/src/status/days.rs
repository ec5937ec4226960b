//! Ninety days of each service in five states, for the bars of the public page.
//!
//! Time is log time; what the log stood still (no quorum) is unmeasured. Wall time only says which day it was.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use bcp_wire::Id;

use super::{Service, ServiceStatus, State, Vote};
use crate::time::{LogTime, Wall};

/// Days kept: 90 whole ones and today.
pub const DAYS_KEPT: usize = 91;
/// Wall clock running ahead of log time by up to this much between two ticks is drift and jitter, not a standstill.
const STANDSTILL_MS: i64 = 5_000;
pub const DAY_MS: i64 = 86_400_000;

/// Milliseconds of one UTC day by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Day {
    /// Days since 1970-01-01 UTC.
    pub day: i64,
    pub up_ms: u64,
    pub degraded_ms: u64,
    pub down_ms: u64,
    pub planned_ms: u64,
    pub unmeasured_ms: u64,
}

impl Day {
    fn add(&mut self, status: ServiceStatus, ms: u64) {
        let counter = match status {
            ServiceStatus::Up => &mut self.up_ms,
            ServiceStatus::Degraded => &mut self.degraded_ms,
            ServiceStatus::Down => &mut self.down_ms,
            ServiceStatus::Planned => &mut self.planned_ms,
            ServiceStatus::Unknown => &mut self.unmeasured_ms,
        };
        *counter = counter.saturating_add(ms);
    }

    /// The state its bar shows: the worst that happened; unmeasured where less than half of it was measured.
    #[must_use]
    pub const fn bar(&self) -> ServiceStatus {
        let measured = self.up_ms + self.degraded_ms + self.down_ms + self.planned_ms;
        if self.down_ms > 0 {
            ServiceStatus::Down
        } else if self.degraded_ms > 0 {
            ServiceStatus::Degraded
        } else if self.planned_ms > 0 {
            ServiceStatus::Planned
        } else if measured == 0 || measured < self.unmeasured_ms {
            ServiceStatus::Unknown
        } else {
            ServiceStatus::Up
        }
    }
}

/// What the public page shows of the state that runs on between publication points, as it was at one of them.
///
/// Whatever else it shows changes only together with a new point.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Frozen {
    /// Observers that had a say.
    pub observers: u8,
    /// The running day of each service. The days before it change no more.
    pub today: BTreeMap<Id, Day>,
}

impl State {
    /// The running counters, to be kept with a publication point.
    #[must_use]
    pub fn freeze(&self) -> Frozen {
        let running = |(id, service): (&Id, &Service)| Some((id.clone(), *service.days.last()?));
        // One that knows nothing of any service has no say.
        let knows = |vote: &&Vote| vote.services.values().any(|sight| sight.status != ServiceStatus::Unknown);
        Frozen {
            observers: u8::try_from(self.votes.values().filter(knows).count()).unwrap_or(u8::MAX),
            today: self.services.iter().filter_map(running).collect(),
        }
    }
}

impl Frozen {
    /// All days of a service as they were at the point, oldest first.
    #[must_use]
    pub fn days(&self, id: &Id, service: &Service) -> Vec<Day> {
        let Some(today) = self.today.get(id) else { return Vec::new() };
        let before = service.days.iter().filter(|day| day.day < today.day);
        before.chain(std::iter::once(today)).copied().collect()
    }
}

/// Adds the time since the last tick to the state each service was in.
pub(super) fn accrue(state: &mut State, now: LogTime, wall: Wall) {
    let Some((last, last_wall)) = state.ticked else { return };
    let measured = now.since(last);
    let wall_ms = wall.0.saturating_sub(last_wall.0);
    let stood_still = wall_ms.saturating_sub(i64::try_from(measured).unwrap_or(i64::MAX));
    let today = wall.0.div_euclid(DAY_MS);
    for service in state.services.values_mut() {
        if stood_still > STANDSTILL_MS {
            add_unmeasured(service, last_wall.0, last_wall.0.saturating_add(stood_still));
        }
        let status = service.status;
        day(service, today).add(status, measured);
    }
}

/// Spreads a standstill over the days it lasted; at most [`DAYS_KEPT`] of them.
fn add_unmeasured(service: &mut Service, from: i64, until: i64) {
    let keep = i64::try_from(DAYS_KEPT).unwrap_or(i64::MAX).saturating_mul(DAY_MS);
    let mut at = from.max(until.saturating_sub(keep));
    while at < until {
        let number = at.div_euclid(DAY_MS);
        let end = number.saturating_add(1).saturating_mul(DAY_MS).min(until);
        if end <= at {
            return;
        }
        day(service, number).add(ServiceStatus::Unknown, u64::try_from(end - at).unwrap_or(0));
        at = end;
    }
}

/// The entry of a day. A wall clock that went back adds to the latest day instead of reopening an old one.
fn day(service: &mut Service, number: i64) -> &mut Day {
    let newer = service.days.last().is_none_or(|last| last.day < number);
    if newer {
        if service.days.len() >= DAYS_KEPT {
            service.days.remove(0);
        }
        service.days.push(Day { day: number, ..Day::default() });
    }
    let last = service.days.len() - 1;
    &mut service.days[last]
}
