//! What a drill shows, measured against what the policy asks, and what went other than planned.

use super::legs::{Leg, LegEnd};
use super::report::{Check, Deviation, Met, Outcome, RpoFound, Verdict, out_leg, rpo_goal};
use super::{Began, DrillKind, Gathered, Standing};
use crate::failover::TicketEvent;
use crate::ledger::LedgerEvent;
use crate::policy::Rpo;

/// What the drill was to show.
pub(super) fn checks(began: &Began, legs: &[Leg], rpo: &RpoFound, after: &Standing) -> Vec<Check> {
    let out = out_leg(began, legs);
    let mut checks = vec![taken_over(began, out), recovery_time(began, out), recovery_point(began, out, rpo)];
    checks.push(one_side(began, legs));
    if began.back {
        checks.push(moved_back(began, legs));
    }
    checks.push(protected_again(after));
    checks
}

fn check(what: &str, goal: String, found: String, met: Met) -> Check {
    Check { what: what.to_owned(), goal, found, met }
}

const fn met(is_met: bool) -> Met {
    if is_met { Met::Met } else { Met::Missed }
}

fn done_at(leg: Option<&Leg>, site: bcp_wire::Site) -> bool {
    leg.is_some_and(|leg| leg.end == LegEnd::Finished && leg.to == Some(site))
}

fn taken_over(began: &Began, out: Option<&Leg>) -> Check {
    let goal = format!("the service is active at site {}", began.to);
    let found = match out {
        None => "it was not moved".to_owned(),
        Some(leg) if done_at(Some(leg), began.to) => goal.clone(),
        Some(leg) => ended(leg),
    };
    check("Takeover", goal, found, met(done_at(out, began.to)))
}

fn ended(leg: &Leg) -> String {
    match &leg.end {
        LegEnd::Finished => leg.to.map_or_else(|| "it ended".to_owned(), |site| format!("it is active at site {site}")),
        LegEnd::Stuck { reason } => format!("it got stuck: {reason}"),
        LegEnd::Cancelled { reason } => format!("it was given up: {reason}"),
        LegEnd::Unfinished => "it was not finished".to_owned(),
    }
}

fn recovery_time(began: &Began, out: Option<&Leg>) -> Check {
    let took = out.filter(|leg| done_at(Some(leg), began.to)).and_then(Leg::served_after_ms);
    let found = took.map_or_else(|| "not reached".to_owned(), seconds);
    match began.goals.rto_ms {
        Some(goal) => {
            let met = met(took.is_some_and(|took| took <= goal));
            check("Recovery time (RTO)", format!("at most {}", seconds(goal)), found, met)
        }
        None => check("Recovery time (RTO)", "the policy names none".to_owned(), found, Met::NoGoal),
    }
}

fn recovery_point(began: &Began, out: Option<&Leg>, found: &RpoFound) -> Check {
    let met = match (began.goals.rpo, out) {
        (_, None) => Met::Unknown,
        (Rpo::Availability, Some(_)) => Met::Met,
        (Rpo::Zero, Some(_)) => found.in_sync.map_or(Met::Unknown, met),
        (Rpo::Bounded { .. }, Some(_)) if found.in_sync == Some(true) => Met::Met,
        (Rpo::Bounded { positions }, Some(_)) => {
            found.unsynced_positions.map_or(Met::Unknown, |behind| met(behind <= positions))
        }
    };
    check("Data loss (RPO)", rpo_goal(began.goals.rpo), found.sentence(), met)
}

/// Each grant took effect after a release by every gate, or after the lease and the wait; under an epoch above the last.
fn one_side(began: &Began, legs: &[Leg]) -> Check {
    let goal = "released or waited out before each grant; epochs grow";
    let granted: Vec<&Leg> = legs.iter().filter(|leg| leg.effective.is_some()).collect();
    let grow = granted.iter().all(|leg| leg.epoch_after.is_some_and(|after| after > leg.epoch_before));
    let waited = granted.iter().all(|leg| leg.waited(began.timing.acquire_after_ms) == Some(true));
    let found = match (granted.is_empty(), grow && waited) {
        (true, _) => "nothing was granted".to_owned(),
        (false, true) => {
            let how = |leg: &&Leg| match leg.released {
                Some(_) => "released by every gate".to_owned(),
                None => format!("lease and {} waited out", seconds(began.timing.acquire_after_ms)),
            };
            granted.iter().map(how).collect::<Vec<_>>().join("; then ")
        }
        (false, false) => "a grant took effect too early".to_owned(),
    };
    let met = if granted.is_empty() { Met::Unknown } else { met(grow && waited) };
    check("At most one active site", goal.to_owned(), found, met)
}

fn moved_back(began: &Began, legs: &[Leg]) -> Check {
    let back = legs.iter().rev().find(|leg| leg.from == began.to && leg.wanted == Some(began.from));
    let goal = format!("the service is active at site {} again", began.from);
    let found = match back {
        None => "it was not moved back".to_owned(),
        Some(leg) if done_at(back, began.from) => {
            let took = leg.served_after_ms().map_or_else(String::new, |ms| format!(" after {}", seconds(ms)));
            format!("active there{took}")
        }
        Some(leg) => ended(leg),
    };
    check("Moved back", goal, found, met(done_at(back, began.from)))
}

fn protected_again(after: &Standing) -> Check {
    let (found, met) = match after.in_sync {
        Some(true) => ("the standby had everything", Met::Met),
        Some(false) => ("the standby lacked data", Met::Missed),
        None => ("nothing was said about the standby", Met::Unknown),
    };
    check("Protected again at the end", "the standby is latched in sync".to_owned(), found.to_owned(), met)
}

pub(super) fn verdict(began: &Began, legs: &[Leg], checks: &[Check], note: Option<&str>) -> Verdict {
    let (ticket, from, to) = (&began.ticket, began.from, began.to);
    let is = |wanted: Met| checks.iter().filter(move |check| check.met == wanted).map(|check| check.what.as_str());
    let outcome = match (legs.is_empty(), is(Met::Missed).count(), is(Met::Unknown).count()) {
        (true, _, _) => Outcome::NotDone,
        (false, 0, 0) if note.is_none() => Outcome::Passed,
        (false, 0, _) => Outcome::Inconclusive,
        (false, _, _) => Outcome::Failed,
    };
    let names = |wanted| is(wanted).collect::<Vec<_>>().join(", ");
    let because = note.map_or_else(String::new, |note| format!(" ({note})"));
    let took = out_leg(began, legs).and_then(Leg::served_after_ms).map_or_else(String::new, seconds);
    let sentence = match outcome {
        Outcome::Passed => match began.kind {
            DrillKind::Move => format!("Passed: {ticket} went from site {from} to site {to} in {took}."),
            DrillKind::Isolate => {
                format!(
                    "Passed: site {to} served {ticket} {took} after site {from} had renewed its lease for the last time."
                )
            }
        },
        Outcome::Failed => format!("Failed: {} of {ticket} was missed{because}.", names(Met::Missed)),
        Outcome::Inconclusive if is(Met::Unknown).next().is_none() => {
            format!("Inconclusive: the drill of {ticket} was given up{because}.")
        }
        Outcome::Inconclusive => format!("Inconclusive: {} of {ticket} is unknown{because}.", names(Met::Unknown)),
        Outcome::NotDone => format!("Not done: {ticket} was not moved{because}."),
    };
    Verdict { outcome, sentence }
}

/// What went other than planned.
pub(super) fn deviations(gathered: &Gathered, legs: &[Leg], after: &Standing) -> Vec<Deviation> {
    let began = &gathered.began;
    let mut found: Vec<Deviation> = gathered
        .entries
        .iter()
        .filter(|entry| match &entry.what {
            LedgerEvent::Ticket { event } => unplanned(began.kind, event),
            LedgerEvent::Leader { .. } | LedgerEvent::Policy { .. } => true,
            LedgerEvent::Command { ok, .. } => !ok,
            _ => false,
        })
        .map(|entry| Deviation { seq: Some(entry.seq), text: entry.text.clone() })
        .collect();
    let mut missing = |text: String| found.push(Deviation { seq: None, text });
    if legs
        .iter()
        .filter(|leg| leg.wanted == Some(began.to))
        .any(|leg| leg.cause.as_ref().is_some_and(|c| !c.contains(&began.drill)))
    {
        missing(
            "The move was not caused by the drill's own order: the rules, or somebody else, were quicker.".to_owned(),
        );
    }
    let others = legs.len().saturating_sub(if began.back { 2 } else { 1 });
    if others > 0 {
        missing(format!("The ticket moved {others} times more than the drill wanted."));
    }
    let home = if began.back { began.from } else { began.to };
    if after.holder != Some(home) {
        let holder = after.holder.map_or_else(|| "nobody".to_owned(), |site| format!("site {site}"));
        missing(format!("At the end {holder} held the ticket, and not site {home}."));
    }
    if gathered.left_out > 0 {
        missing(format!("{} ledger entries of the drill are not in this report.", gathered.left_out));
    }
    found
}

fn unplanned(kind: DrillKind, event: &TicketEvent) -> bool {
    use TicketEvent as E;
    match event {
        E::StepFailed { .. }
        | E::Lapsing { .. }
        | E::Compensating { .. }
        | E::MoveStuck { .. }
        | E::DrainCancelled { .. }
        | E::Frozen { .. }
        | E::Withheld { .. }
        | E::Closed { .. }
        | E::ForceAsked { .. }
        | E::CapacityExhausted { .. }
        | E::RulesChanged { .. }
        | E::Overruled { .. }
        | E::Retired { .. } => true,
        // What an isolation is about.
        E::Expired { .. } | E::CoveredByTime { .. } => match kind {
            DrillKind::Move => true,
            DrillKind::Isolate => false,
        },
        E::DrainStarted { .. }
        | E::Released { .. }
        | E::Granted { .. }
        | E::Effective { .. }
        | E::StepDone { .. }
        | E::MoveFinished { .. }
        | E::Latched { .. }
        | E::Unfrozen { .. }
        | E::ConfirmationAsked { .. }
        | E::ConfirmationLapsed { .. }
        | E::ConfirmationWithdrawn { .. }
        | E::ForceLapsed { .. }
        | E::WouldMove { .. }
        | E::Weighed { .. }
        | E::CapacityOrdered { .. }
        | E::Readmitted { .. } => false,
    }
}

/// Milliseconds as an operator reads them.
pub(super) fn seconds(ms: u64) -> String {
    format!("{}.{:03} s", ms / 1_000, ms % 1_000)
}
