//! Drills: their beginning, their end, and the report that is written with it.

use bcp_wire::Id;

use super::Replica;
use crate::drill::{
    Began, DrillCommand, DrillEvent, DrillKind, Gathered, Goals, Past, Running, Standing, name_of, plan, report,
};
use crate::failover::{Refusal, clip};
use crate::ledger::LedgerEntry;
use crate::policy::Policy;

/// What is said where a drill is not there to be ended.
fn unknown(drill: &str) -> String {
    format!("no drill {drill} is under way")
}

impl Replica {
    /// Carries out a command, or says why not. The entry of the command itself comes next in the ledger.
    pub(super) fn on_drill(
        &mut self,
        operator: &str,
        command: &DrillCommand,
        out: &mut Option<DrillEvent>,
    ) -> Result<String, String> {
        match command {
            DrillCommand::Begin { .. } => {
                let began = self.begin_drill(operator, command)?;
                let said = format!("drill {} began", began.drill);
                *out = Some(DrillEvent::Began { began: Box::new(began) });
                Ok(said)
            }
            DrillCommand::End { drill, note } => {
                *out = Some(self.end_drill(drill, note.as_deref().map(clip)).ok_or_else(|| unknown(drill))?);
                Ok(format!("drill {drill} is over"))
            }
        }
    }

    fn begin_drill(&mut self, operator: &str, command: &DrillCommand) -> Result<Began, String> {
        let DrillCommand::Begin { ticket: id, kind, to, back, reason, expect } = command else {
            return Err("nothing begins".to_owned());
        };
        let policy: &Policy = self.policy.as_ref().ok_or("there is no agreed policy yet")?;
        let view = self.failover.view(policy, id).ok_or_else(|| Refusal::Unknown { ticket: id.clone() }.to_string())?;
        let rule = policy.tickets.get(id).ok_or_else(|| Refusal::Unknown { ticket: id.clone() }.to_string())?;
        if expect.is_some_and(|seen| seen != (view.epoch, view.revision)) {
            let (epoch, revision) = (view.epoch, view.revision);
            return Err(Refusal::Changed { ticket: id.clone(), epoch, revision }.to_string());
        }
        if reason.trim().is_empty() {
            return Err(Refusal::NoReason.to_string());
        }
        if !rule.sites.contains(to) {
            return Err(Refusal::NotASite { ticket: id.clone(), site: *to }.to_string());
        }
        if view.holder == Some(*to) {
            return Err(Refusal::AlreadyThere { ticket: id.clone(), site: *to }.to_string());
        }
        let blocks = self.drill_blocks(id, *kind, Some(*to));
        let (true, Some(from)) = (blocks.is_empty(), view.holder) else {
            return Err(format!("no drill of {id} may begin: {}", blocks.join("; ")));
        };
        let silent_ms = match kind {
            DrillKind::Move => 0,
            DrillKind::Isolate => plan::silent_ms(&policy.timing),
        };
        let began = Began {
            drill: name_of(self.ledger.seq.saturating_add(1)),
            ticket: id.clone(),
            service: rule.service.clone(),
            kind: *kind,
            from,
            to: *to,
            back: *back,
            operator: operator.to_owned(),
            reason: clip(reason.trim()),
            timing: policy.timing,
            goals: Goals { rpo: rule.rpo, rto_ms: rule.rto_ms },
            policy_hash: self.failover.policy_hash.clone(),
            silent_ms,
            standing: Standing::of(&view),
        };
        if silent_ms > 0 {
            self.failover.silence(id, silent_ms);
        }
        Ok(began)
    }

    fn end_drill(&mut self, drill: &str, note: Option<String>) -> Option<DrillEvent> {
        let ticket: Id = self.drills.running_named(drill)?.gathered.began.ticket.clone();
        self.failover.speak(&ticket);
        // A ticket that left the policy meanwhile stands as it did.
        let view = self.policy.as_ref().and_then(|policy| self.failover.view(policy, &ticket));
        let standing = match view {
            Some(view) => Standing::of(&view),
            None => self.drills.running_named(drill)?.gathered.began.standing.clone(),
        };
        Some(DrillEvent::Ended { drill: drill.to_owned(), ticket, note, standing: Box::new(standing) })
    }

    /// Drills that nobody has ended in time.
    pub(super) fn overdue_drills(&mut self) -> Vec<DrillEvent> {
        let note = "nobody had ended it for an hour".to_owned();
        let overdue = self.drills.overdue(self.log_time);
        overdue.iter().filter_map(|drill| self.end_drill(drill, Some(note.clone()))).collect()
    }

    /// After the entry of a drill's event was written: what begins is listened for, what ends is reported.
    pub(super) fn after_drill_entry(&mut self, entry: &LedgerEntry, event: &DrillEvent) -> Option<DrillEvent> {
        match event {
            DrillEvent::Began { began } => {
                let gathered = Gathered::from_first(entry)?;
                self.drills.running.insert(began.ticket.clone(), Running { at: entry.log_time, gathered });
                None
            }
            DrillEvent::Ended { ticket, .. } => {
                let running = self.drills.running.remove(ticket)?;
                let report = Box::new(report::assemble(&running.gathered)?);
                Some(DrillEvent::Reported { report })
            }
            DrillEvent::Reported { report } => {
                self.drills.keep(Past {
                    drill: report.drill.clone(),
                    ticket: report.ticket.clone(),
                    kind: report.kind,
                    from: report.from,
                    to: report.to,
                    operator: report.asked_by.clone(),
                    began: report.began.wall,
                    ended: report.ended.wall,
                    verdict: report.verdict.outcome,
                    rto_ms: report.rto_ms,
                    seq: entry.seq,
                });
                None
            }
        }
    }
}
