//! What must hold at every step, one file each.
//!
//! They judge what the log agreed, what gates stored and did, and what really runs; they ask neither the core nor the gate
//! for its opinion.

mod i01;
mod i02;
mod i03;
mod i04;
mod i05;
mod i06;
mod i07;
mod i08;
mod i09;
mod i10;
mod i11;
mod i12;
mod i13;
mod i14;
pub mod i15;
mod i16;
mod i17;
mod i18;
mod i19;
mod i20;
mod i21;
mod i22;
mod i23;
mod i24;
mod i25;
mod i26;
mod i27;
mod i28;

use std::collections::BTreeMap;

use bcp_core::failover::TicketEvent;
use bcp_core::ledger::{LedgerEntry, LedgerEvent};
use bcp_core::policy::Policy;
use bcp_core::replica::{Replica, Tick};
use bcp_wire::{Epoch, Id};

use crate::host::{Host, Note};
use crate::world::Servers;

/// What is wrong, where something is.
pub type Verdict = Result<(), String>;

/// One tick that was applied.
#[derive(Debug)]
pub struct Applied<'a> {
    pub now: u64,
    pub policy: &'a Policy,
    pub before: &'a Replica,
    pub after: &'a Replica,
    pub tick: &'a Tick,
    pub entries: &'a [LedgerEntry],
    pub hosts: &'a [Host],
}

impl Applied<'_> {
    pub fn ticket_events(&self) -> impl Iterator<Item = &TicketEvent> {
        self.entries.iter().filter_map(|entry| match &entry.what {
            LedgerEvent::Ticket { event } => Some(event),
            _ => None,
        })
    }

    /// A move of the ticket is on its way back.
    #[must_use]
    pub fn undone(&self, ticket: &Id) -> bool {
        [self.before, self.after].iter().any(|replica| {
            let moving = replica.failover.tickets.get(ticket).and_then(|ticket| ticket.moving.as_ref());
            moving.is_some_and(|moving| moving.compensating)
        })
    }
}

/// Something a gate did.
#[derive(Debug)]
pub struct Noted<'a> {
    pub now: u64,
    pub policy: &'a Policy,
    pub host: &'a Host,
    pub hosts: &'a [Host],
    pub note: &'a Note,
    /// The gate was there to hear of it.
    pub heard_by_machine: bool,
    pub acknowledged: &'a BTreeMap<Id, u64>,
}

/// A moment, after everything of it has happened.
#[derive(Debug)]
pub struct Moment<'a> {
    pub now: u64,
    pub step_ms: u64,
    pub policy: &'a Policy,
    pub hosts: &'a [Host],
    pub replica: &'a Replica,
    /// Highest write per ticket that a client was told is safe.
    pub acknowledged: &'a BTreeMap<Id, u64>,
    /// What actuators outside of all machines know; see [`crate::world::World::outside`].
    pub outside: Option<&'a BTreeMap<Id, Epoch>>,
    /// Where the policy has pools.
    pub servers: Option<&'a Servers>,
}

impl Moment<'_> {
    /// The service runs at this host, and what it does has an effect.
    #[must_use]
    pub fn in_effect(&self, host: &Host, ticket: &Id) -> bool {
        let known = self.outside.and_then(|outside| outside.get(ticket));
        let under = host.posts.get(ticket).and_then(|post| post.running);
        host.runs(ticket, self.now) && known.is_none_or(|known| under.is_some_and(|under| under >= *known))
    }
}

pub trait Invariant {
    const NUMBER: u8;

    /// # Errors
    /// What is wrong with it.
    fn tick(&mut self, _seen: &Applied<'_>) -> Verdict {
        Ok(())
    }

    /// # Errors
    /// What is wrong with it.
    fn note(&mut self, _seen: &Noted<'_>) -> Verdict {
        Ok(())
    }

    /// # Errors
    /// What is wrong with it.
    fn moment(&mut self, _seen: &Moment<'_>) -> Verdict {
        Ok(())
    }
}

/// An invariant that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Breach {
    pub number: u8,
    pub at: u64,
    pub what: String,
}

/// All of them, with what they remember.
#[derive(Debug, Clone, Hash, Default)]
pub struct Invariants {
    i01: i01::OneActiveSide,
    i02: i02::NoWayBack,
    i03: i03::EpochsGrow,
    i04: i04::OneHolder,
    i05: i05::WitnessHoldsNothing,
    i06: i06::WaitedOut,
    i07: i07::RenewedByRight,
    i08: i08::OnlyInSync,
    i09: i09::SyncIsTrue,
    i10: i10::SealedFirst,
    i11: i11::OnceEach,
    i12: i12::DependenciesFirst,
    i13: i13::FrozenStays,
    i14: i14::Budget,
    i15: i15::OneHistory,
    i16: i16::LeaseByRight,
    i17: i17::RestartTakesNothing,
    i18: i18::TargetKeepsItsMinimum,
    i19: i19::ObserveOnly,
    i20: i20::LogTimeIsSlow,
    i21: i21::TwoWitnesses,
    i22: i22::OrdersCompare,
    i23: i23::PolicyLeavesHolder,
    i24: i24::HonestWord,
    i25: i25::StartedByRight,
    i26: i26::FlapsChangeNothing,
    i27: i27::ForcedByTwo,
    i28: i28::AsCharted,
    pub breaches: Vec<Breach>,
}

/// Breaches kept: the first says it all.
const KEPT: usize = 8;

fn put(breaches: &mut Vec<Breach>, number: u8, at: u64, verdict: Verdict) {
    if let Err(what) = verdict
        && breaches.len() < KEPT
    {
        breaches.push(Breach { number, at, what });
    }
}

fn number<I: Invariant>(_: &I) -> u8 {
    I::NUMBER
}

macro_rules! each {
    ($all:expr, $hook:ident, $seen:expr, $($field:ident),+) => {
        $( put(&mut $all.breaches, number(&$all.$field), $seen.now, $all.$field.$hook($seen)); )+
    };
}

impl Invariants {
    pub fn tick(&mut self, seen: &Applied<'_>) {
        each!(
            self, tick, seen, i01, i02, i03, i04, i05, i06, i07, i08, i09, i10, i11, i12, i13, i14, i15, i16, i17, i18,
            i19, i20, i21, i22, i23, i24, i25, i26, i27, i28
        );
    }

    pub fn note(&mut self, seen: &Noted<'_>) {
        each!(
            self, note, seen, i01, i02, i03, i04, i05, i06, i07, i08, i09, i10, i11, i12, i13, i14, i15, i16, i17, i18,
            i19, i20, i21, i22, i23, i24, i25, i26, i27, i28
        );
    }

    pub fn moment(&mut self, seen: &Moment<'_>) {
        each!(
            self, moment, seen, i01, i02, i03, i04, i05, i06, i07, i08, i09, i10, i11, i12, i13, i14, i15, i16, i17,
            i18, i19, i20, i21, i22, i23, i24, i25, i26, i27, i28
        );
    }

    /// The model forgets the ledger; its chain is checked in the simulation.
    pub fn forget_chain(&mut self) {
        self.i15.forget();
    }

    #[must_use]
    pub fn broken(&self, number: u8) -> bool {
        self.breaches.iter().any(|breach| breach.number == number)
    }
}
