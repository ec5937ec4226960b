//! What gates say: renewals, reports, facts.
//!
//! Knows: which of it changes the agreed state. Invariants: a renewal counts only for the present epoch, at the holder's
//! site, from a gate that has not closed it; a request counts once per nonce; one that was overtaken by a later request of
//! the same gate, or comes twice, says nothing about how the gate and its copy are now.

use bcp_wire::control::MAX_TICKETS_PER_GATE;
use bcp_wire::control::{CopyRole, GateSync, Phase, ServiceFacts, StepKind, StepOutcome, StepReport, TicketSync};
use bcp_wire::{Epoch, Id, Site};

use super::State;
use super::event::{Happened, SYSTEM, TicketEvent};
use super::saga::{ReportEffect, Stage, step_key};
use super::ticket::{CopyRecord, GateRecord, Latch, MAX_RENEWALS_KEPT, Renewal, Ticket};
use crate::policy::Timing;
use crate::time::LogTime;

/// A gate may know epochs that a restored log does not; further ahead than this it is at fault and is not believed.
pub const MAX_EPOCH_LEAD: u64 = 1_000_000;
/// No incarnation above it is believed: a gate at fault must not use them up for ever. As a second since 1970, of 2096.
pub const MAX_INCARNATION: u32 = 4_000_000_000;
/// Longest text of a gate kept in the state, in bytes.
pub const MAX_TEXT_BYTES: usize = 256;
/// Pause before a failed step outside a move (seal, follow, weigh) is ordered again: doubles up to the second figure.
pub const RETRY_FIRST_MS: u64 = 2_000;
pub const RETRY_MOST_MS: u64 = 60_000;

/// A gate that says nothing new for this long and then counts fewer starts than before was restored from a backup.
pub const RESTORED_AFTER_MS: u64 = 30_000;

/// Which gate speaks, and when.
#[derive(Debug, Clone, Copy)]
struct Speaker<'a> {
    site: Site,
    gate: &'a Id,
    nonce: u64,
    seq: u64,
    now: LogTime,
}

impl State {
    /// Takes in a gate's request; true where it changed more than a renewal.
    pub(crate) fn on_gate(&mut self, sync: &GateSync, out: &mut Vec<Happened>) -> bool {
        let Some(timing) = self.timing else { return false };
        let speaker = Speaker { site: sync.site, gate: &sync.gate, nonce: sync.nonce, seq: sync.seq, now: self.now };
        let mut changed = false;
        for said in sync.tickets.iter().take(MAX_TICKETS_PER_GATE) {
            if let Some(ticket) = self.tickets.get_mut(&said.ticket) {
                changed |= take_in(ticket, said, speaker, &timing, out);
            }
        }
        changed
    }
}

fn take_in(
    ticket: &mut Ticket,
    said: &TicketSync,
    speaker: Speaker<'_>,
    timing: &Timing,
    out: &mut Vec<Happened>,
) -> bool {
    let (above, events_before) = (ticket.epoch, out.len());
    let Some(record) = ticket.gates.get_mut(&speaker.site).and_then(|gates| gates.get_mut(speaker.gate)) else {
        return false;
    };
    if counts_anew(record, speaker) {
        record.seq = 0;
    }
    let overtaken = speaker.seq != 0 && speaker.seq <= record.seq;
    let mut changed = !overtaken && hear(record, said, speaker, timing);
    record.seq = record.seq.max(speaker.seq);
    if believable(said.seen, above) {
        changed |= note_epoch(record, said);
        let was_overruled = ticket.overruled();
        ticket.floor = ticket.floor.max(said.seen);
        if ticket.overruled() && !was_overruled {
            ticket.changed();
            let (ticket, epoch) = (said.ticket.clone(), said.seen);
            out.push(Happened { author: author(speaker), event: TicketEvent::Overruled { ticket, epoch } });
        }
    }
    for report in &said.reports {
        changed |= take_report(ticket, &said.ticket, report, speaker, out);
    }
    if let Some(epoch) = said.renew {
        renew(ticket, epoch, speaker, timing);
    }
    if let (Some(facts), false) = (&said.facts, overtaken) {
        changed |= take_facts(ticket, said, facts, speaker, out);
    }
    changed || out.len() > events_before
}

/// A gate whose state was restored counts its starts from lower on. Nothing of an earlier life is under way so long.
fn counts_anew(record: &GateRecord, speaker: Speaker<'_>) -> bool {
    let fewer_starts = speaker.seq != 0 && speaker.seq >> 32 < record.seq >> 32;
    fewer_starts && record.heard.is_none_or(|heard| speaker.now.since(heard) >= RESTORED_AFTER_MS)
}

fn hear(record: &mut GateRecord, said: &TicketSync, speaker: Speaker<'_>, timing: &Timing) -> bool {
    let unbroken = record.present(speaker.now, gate_fresh_ms(timing));
    if !unbroken {
        record.present_since = Some(speaker.now);
    }
    record.heard = Some(speaker.now);
    let trouble = said.trouble.as_deref().map(clip);
    let before = (record.trouble.take(), record.unstopped, record.loss, record.forced);
    (record.trouble, record.unstopped, record.loss, record.forced) = (trouble, said.unstopped, said.loss, said.forced);
    before != (record.trouble.clone(), record.unstopped, record.loss, record.forced) || !unbroken
}

/// A gate is present while it was heard within four renewals.
#[must_use]
pub const fn gate_fresh_ms(timing: &Timing) -> u64 {
    timing.renew_ms.saturating_mul(4)
}

/// An incarnation is the second since 1970 in which people overruled a log or restored one: any of them may be true.
fn believable(seen: Epoch, agreed: Epoch) -> bool {
    seen.incarnation <= MAX_INCARNATION && seen.counter <= agreed.counter.saturating_add(MAX_EPOCH_LEAD)
}

/// Epochs only grow, and a closed one stays closed, in whatever order requests arrive.
fn note_epoch(record: &mut GateRecord, said: &TicketSync) -> bool {
    let before = (record.seen, record.closed);
    if said.seen > record.seen {
        (record.seen, record.closed) = (said.seen, said.closed);
    } else if said.seen == record.seen {
        record.closed |= said.closed;
    }
    before != (record.seen, record.closed)
}

/// Applies a renewal, or leaves it: the answer then says so.
fn renew(ticket: &mut Ticket, epoch: Epoch, speaker: Speaker<'_>, timing: &Timing) {
    let renewing = match (ticket.phase, ticket.moving.as_ref().map(|m| m.stage)) {
        (Phase::Held, _) | (Phase::Draining, Some(Stage::Stopping { .. })) => true,
        (Phase::Draining | Phase::Free | Phase::Granting, _) => false,
    };
    if !renewing || ticket.retired || ticket.overruled() || ticket.holder != Some(speaker.site) || ticket.epoch != epoch
    {
        return;
    }
    let Some(record) = ticket.gates.get_mut(&speaker.site).and_then(|gates| gates.get_mut(speaker.gate)) else {
        return;
    };
    if !record.listed || record.seen > epoch || (record.seen == epoch && record.closed) {
        return;
    }
    if record.renewals.iter().any(|renewal| renewal.nonce == speaker.nonce) {
        return;
    }
    if record.renewals.len() >= MAX_RENEWALS_KEPT {
        record.renewals.remove(0);
    }
    record.renewals.push(Renewal { nonce: speaker.nonce, epoch, ttl_holder_ms: timing.ttl_holder_ms });
    if let Some(lease) = ticket.lease.as_mut() {
        lease.renew(speaker.now, timing);
    }
    // From here on the holder may take writes: what was known about another copy's freshness is history.
    // A target that is stopped again never published, so it wrote nothing and changes nothing of that.
    let going_back = ticket.moving.as_ref().is_some_and(|m| m.compensating) && ticket.phase == Phase::Draining;
    if !going_back && ticket.latch.as_ref().is_none_or(|latch| latch.epoch != epoch) {
        let latch = Latch { active: speaker.site, epoch, in_sync: None, lineage: None, position: 0, at: speaker.now };
        let before = ticket.latch.replace(latch);
        if let Some(moving) = ticket.moving.as_mut() {
            moving.before = before;
        }
    }
}

fn take_facts(
    ticket: &mut Ticket,
    said: &TicketSync,
    facts: &ServiceFacts,
    speaker: Speaker<'_>,
    out: &mut Vec<Happened>,
) -> bool {
    let mut facts = facts.clone();
    facts.lineage = clip(&facts.lineage);
    let news = ticket.copies.get(&speaker.site).is_none_or(|copy| copy.facts != facts);
    let speaks_for_it = ticket.phase != Phase::Free
        && ticket.holder == Some(speaker.site)
        && said.seen == ticket.epoch
        && facts.role == CopyRole::Active;
    if speaks_for_it {
        latch(ticket, said, &facts, speaker, out);
    }
    let copy = CopyRecord { facts, gate: speaker.gate.clone(), at: speaker.now };
    ticket.copies.insert(speaker.site, copy);
    news
}

/// `SetSync`: false at once and from anyone of the holder's gates, true only when all of them say so in time.
fn latch(ticket: &mut Ticket, said: &TicketSync, facts: &ServiceFacts, speaker: Speaker<'_>, out: &mut Vec<Happened>) {
    let epoch = ticket.epoch;
    let in_sync = facts.peer_in_sync && !facts.wants_alone;
    if in_sync && (speaker.seq == 0 || said.closed) {
        return;
    }
    let Some(gates) = ticket.gates.get_mut(&speaker.site) else { return };
    if let Some(record) = gates.get_mut(speaker.gate) {
        record.says_in_sync = Some(in_sync);
    }
    let agreed = in_sync && gates.values().all(|gate| gate.says_in_sync != Some(false));
    let Some(latch) = ticket.latch.as_mut().filter(|latch| latch.epoch == epoch) else { return };
    latch.lineage = Some(facts.lineage.clone());
    latch.position = latch.position.max(facts.position);
    if latch.in_sync != Some(agreed) {
        latch.in_sync = Some(agreed);
        latch.at = speaker.now;
        ticket.changed();
        out.push(Happened {
            author: author(speaker),
            event: TicketEvent::Latched { ticket: said.ticket.clone(), active: speaker.site, epoch, in_sync: agreed },
        });
    }
}

fn author(speaker: Speaker<'_>) -> String {
    format!("gate:{}:{}", speaker.site, speaker.gate)
}

fn take_report(
    ticket: &mut Ticket,
    id: &Id,
    report: &StepReport,
    speaker: Speaker<'_>,
    out: &mut Vec<Happened>,
) -> bool {
    let effect = match ticket.moving.as_mut() {
        Some(moving) => moving.report(id, speaker.site, speaker.gate, report, speaker.now),
        None => ReportEffect::None,
    };
    let effect = if effect == ReportEffect::None { report_alone(ticket, id, report, speaker) } else { effect };
    let event = match effect {
        ReportEffect::None => return false,
        ReportEffect::Done => TicketEvent::StepDone {
            ticket: id.clone(),
            epoch: report.epoch,
            step: report.kind,
            site: speaker.site,
            gate: speaker.gate.clone(),
            outcome: report.outcome,
            took_ms: report.took_ms,
        },
        ReportEffect::Retried { attempt } | ReportEffect::GivenUp { attempt } => TicketEvent::StepFailed {
            ticket: id.clone(),
            epoch: report.epoch,
            step: report.kind,
            site: speaker.site,
            gate: speaker.gate.clone(),
            outcome: report.outcome,
            detail: clip(report.detail.as_deref().unwrap_or("no reason given")),
            attempt,
        },
    };
    if effect == ReportEffect::Done {
        let now_closed = report.kind == StepKind::Stop;
        if let Some(record) = ticket.gates.get_mut(&speaker.site).and_then(|gates| gates.get_mut(speaker.gate)) {
            if now_closed && record.seen <= report.epoch {
                (record.seen, record.closed) = (report.epoch, true);
            }
            if report.kind == StepKind::Seal {
                record.sealed = record.sealed.max(report.epoch);
            }
        }
    }
    out.push(Happened { author: author(speaker), event });
    true
}

/// A step outside a move: the side that lost the ticket seals and follows, an active-active gate sets weights.
fn report_alone(ticket: &mut Ticket, id: &Id, report: &StepReport, speaker: Speaker<'_>) -> ReportEffect {
    if report.kind == StepKind::Capacity {
        return super::servers::report(id, ticket, speaker.site, report, speaker.now);
    }
    let (epoch, kind) = (ticket.epoch, super::answer::alone(ticket, speaker.site, speaker.gate, speaker.now, false));
    if report.epoch != epoch || kind != Some(report.kind) {
        return ReportEffect::None;
    }
    let Some(record) = ticket.gates.get_mut(&speaker.site).and_then(|gates| gates.get_mut(speaker.gate)) else {
        return ReportEffect::None;
    };
    let attempt = record.attempt;
    if report.key != step_key(id, epoch, report.kind, speaker.site, speaker.gate, attempt) {
        return ReportEffect::None;
    }
    match report.outcome {
        StepOutcome::Done | StepOutcome::Already => {
            match report.kind {
                StepKind::Seal => record.sealed = epoch,
                StepKind::Follow | StepKind::Weigh => record.followed = epoch,
                StepKind::Stop | StepKind::Promote | StepKind::Publish | StepKind::Capacity => {}
            }
            (record.attempt, record.retry_at, record.last_failure) = (0, speaker.now, None);
            ReportEffect::Done
        }
        StepOutcome::Failed | StepOutcome::Rejected | StepOutcome::Vetoed => {
            let pause = RETRY_FIRST_MS.saturating_mul(1 << attempt.min(6)).min(RETRY_MOST_MS);
            record.attempt = attempt.saturating_add(1);
            record.retry_at = speaker.now.plus(pause);
            record.last_failure = Some(clip(report.detail.as_deref().unwrap_or("no reason given")));
            ReportEffect::Retried { attempt }
        }
    }
}

/// At most [`MAX_TEXT_BYTES`], cut at a character.
pub(crate) fn clip(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Author of what follows from the rules alone.
pub(super) fn system(event: TicketEvent) -> Happened {
    Happened { author: SYSTEM.to_owned(), event }
}
