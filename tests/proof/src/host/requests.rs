//! Requests of a gate and what their answers lead to, in the order of `agent/src/gate/driver/requests.rs`.

use std::collections::{BTreeMap, BTreeSet};

use bcp_agent::gate::machine::{Event, Machine};
use bcp_agent::gate::record::{BootMs, Record};
use bcp_wire::Id;
use bcp_wire::control::{GateSync, TicketAnswer};

use super::{Host, Note, Play, Request};
use crate::bug::Bug;
use crate::dice::Dice;

/// Requests whose answers still count, as in the driver.
const REQUESTS_MAX: usize = 16;

impl Host {
    /// The next request, if one is due.
    pub fn sync(&mut self, play: &mut Play) -> Option<GateSync> {
        let now = play.now;
        if !self.powered
            || self.paused
            || self.hangs()
            || !self.agent_runs()
            || (now < self.next_sync && !self.sync_now)
        {
            return None;
        }
        if now >= self.next_sync {
            self.next_sync = now + self.timing.renew_ms;
        }
        self.sync_now = false;
        self.seq += 1;
        let seq = (u64::from(self.boots) << 32) + self.seq;
        let nonce = play.dice.as_mut().map_or_else(|| (seq << 8) + u64::from(self.mark), Dice::next);
        let mut request = Request {
            nonce,
            sent: self.clock(now),
            sent_real: now,
            reported: BTreeMap::new(),
            asked_alone: BTreeSet::new(),
            confirmed: false,
        };
        let mut tickets = Vec::with_capacity(self.posts.len());
        for (id, post) in &self.posts {
            let Some(machine) = &post.machine else { continue };
            if post.copy.wants_alone {
                request.asked_alone.insert(id.clone());
            }
            let mut part = machine.sync_part(post.carries_data.then(|| post.facts()));
            let record = machine.record();
            match play.bug {
                Some(Bug::UnsavedIsRenewed) if record.holder == Some(self.site) && !record.closed => {
                    part.renew = Some(record.epoch);
                }
                Some(Bug::UnsavedIsUntold) => part.trouble = None,
                Some(Bug::UnstoppedWaitedOut) => part.unstopped = false,
                _ => {}
            }
            let kept = |record: &Record| (record.epoch, record.holder, record.closed, record.may_run);
            play.wishes.notes.push(Note::Said {
                ticket: id.clone(),
                renews: part.renew.is_some(),
                has_trouble: part.trouble.is_some(),
                unsaved: kept(record) != kept(&post.disk),
                put_down: post.warden.is_some() || post.puts_down || post.mark,
            });
            request.reported.insert(id.clone(), part.reports.iter().map(|report| report.key.clone()).collect());
            tickets.push(part);
        }
        self.requests.push_back(request);
        if self.requests.len() > REQUESTS_MAX {
            self.requests.pop_front();
        }
        Some(GateSync { site: self.site, gate: self.gate.clone(), nonce, seq, tickets })
    }

    /// A confirmed answer.
    pub fn answered(&mut self, nonce: u64, index: u64, answers: &[TicketAnswer], play: &mut Play) {
        let Some(request) = self.requests.iter_mut().find(|request| request.nonce == nonce) else { return };
        if std::mem::replace(&mut request.confirmed, true) {
            return;
        }
        let request = request.clone();
        for answer in answers {
            let id = answer.ticket.clone();
            let Some(post) = self.posts.get_mut(&id) else { continue };
            if answer.peer_in_sync == Some(false)
                && request.asked_alone.contains(&id)
                && post.running == Some(answer.epoch)
            {
                post.copy.alone = post.copy.wants_alone;
            }
            if play.bug == Some(Bug::LowerEpochAccepted) && answer.epoch < post.disk.epoch {
                self.accept_lower(&id, answer, play);
            }
            let reported = request.reported.get(&id).cloned().unwrap_or_default();
            let sent = if play.bug == Some(Bug::LeaseFromReceipt) { self.clock(play.now) } else { request.sent };
            let event = Event::Answered { sent, index, reported, answer: Box::new(answer.clone()) };
            self.feed(&id, event, Some(nonce), play);
        }
    }

    /// A wish to go on alone is over, or begins anew: answers to what was asked before grant it no more.
    pub fn wish_ended(&mut self, id: &Id) {
        for request in &mut self.requests {
            request.asked_alone.remove(id);
        }
    }

    fn accept_lower(&mut self, id: &Id, answer: &TicketAnswer, play: &mut Play) {
        let (terms, clock) = (self.terms(id), self.clock(play.now));
        let Some(post) = self.posts.get_mut(id).filter(|post| !post.disk.may_run) else { return };
        let before = post.disk.clone();
        (post.disk.epoch, post.disk.holder, post.disk.closed) = (answer.epoch, answer.holder, false);
        let after = Box::new(post.disk.clone());
        play.wishes.notes.push(Note::Stored { ticket: id.clone(), before: Box::new(before), after });
        post.machine = Some(Machine::new(terms, post.disk.clone(), None, clock));
    }

    /// The seeded bugs that forget a closed epoch.
    pub fn reopen(&mut self, id: &Id, play: &mut Play) {
        let Some(post) = self.posts.get_mut(id).filter(|post| post.disk.closed && !post.disk.may_run) else { return };
        let before = post.disk.clone();
        post.disk.closed = false;
        post.disk.writes += 1;
        let after = Box::new(post.disk.clone());
        play.wishes.notes.push(Note::Stored { ticket: id.clone(), before: Box::new(before), after });
    }

    /// Local and real time at which a request was sent.
    #[must_use]
    pub fn sent(&self, nonce: u64) -> Option<(BootMs, u64)> {
        self.requests.iter().find(|request| request.nonce == nonce).map(|request| (request.sent, request.sent_real))
    }
}
