//! Messages between gates and deciders: lost, late, twice, held back; and what a gate did, told to those who judge it.

use std::hash::{Hash, Hasher};

use bcp_agent::gate::machine::Event;
use bcp_core::replica::{Item, Tick};
use bcp_core::time::Wall;
use bcp_wire::Site;
use bcp_wire::control::{PromiseAnswer, PromiseAsk, PromiseVerdict, StepKind, StepOutcome, TicketAnswer};

use super::World;
use crate::bug::Bug;
use crate::digest;
use crate::host::{Host, Note};
use crate::invariants::Noted;

#[derive(Debug, Clone)]
pub enum Message {
    Item { to: Site, item: Item },
    Answer { to: usize, nonce: u64, index: u64, tickets: Vec<TicketAnswer> },
    Ask { to: usize, from: usize, ask: PromiseAsk },
    Promise { to: usize, from: usize, answer: PromiseAnswer },
}

impl Hash for Message {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Message::Item { to, item } => {
                to.hash(state);
                digest::feed(state, item);
            }
            Message::Answer { to, nonce, index, tickets } => (to, nonce, index, tickets).hash(state),
            Message::Ask { to, from, ask } => (to, from, ask).hash(state),
            Message::Promise { to, from, answer } => (to, from, answer).hash(state),
        }
    }
}

impl Message {
    /// The gate it comes from or goes to.
    fn gate(&self, hosts: &[Host]) -> Option<usize> {
        match self {
            Message::Item { item: Item::Gate(sync), .. } => {
                hosts.iter().position(|host| host.site == sync.site && host.gate == sync.gate)
            }
            Message::Item { .. } => None,
            Message::Answer { to, .. } | Message::Ask { to, .. } | Message::Promise { to, .. } => Some(*to),
        }
    }
}

impl World {
    /// A collector passes an item on to the leader, if it reaches it.
    pub(super) fn relay(&mut self, via: Site, item: Item) -> bool {
        let Some(leader) = self.leader else { return false };
        let way = self.decides(via) && self.reaches(via, leader);
        if way {
            self.send(Message::Item { to: leader, item });
        }
        way
    }

    pub(super) fn send(&mut self, message: Message) {
        if let Some(gate) = message.gate(&self.hosts) {
            let answer = matches!(message, Message::Answer { .. } | Message::Promise { .. });
            let now = self.now();
            match self.hold.get_mut(&(gate, answer)) {
                Some(since) if since.is_none_or(|since| since == now) => {
                    *since = Some(now);
                    self.held.push(message);
                    return;
                }
                Some(_) => {
                    self.hold.remove(&(gate, answer));
                }
                None => {}
            }
        }
        let now = self.now();
        let Some(dice) = &mut self.play.dice else {
            self.queue.push((now, message));
            return;
        };
        let copies = 1 + usize::from(dice.percent(self.repeat_percent));
        for _ in 0..copies {
            if !dice.percent(self.loss_percent) {
                let at = now + 5 + dice.below(self.max_delay_ms + 1);
                self.queue.push((at, message.clone()));
            }
        }
    }

    /// Holds back the next message from a gate, or to it.
    pub fn hold_back(&mut self, gate: usize, answer: bool) {
        self.hold.insert((gate, answer), None);
    }

    /// A message that was held back arrives after all; `again`: and will once more.
    pub fn release(&mut self, n: usize, again: bool) {
        if n < self.held.len() {
            let message = if again { self.held[n].clone() } else { self.held.remove(n) };
            let now = self.now();
            self.queue.push((now, message));
        }
    }

    pub(super) fn send_requests(&mut self) {
        for n in 0..self.hosts.len() {
            let Some(sync) = self.hosts[n].sync(&mut self.play) else { continue };
            self.judge_notes(n);
            let said = sync.tickets.iter().flat_map(|said| &said.reports);
            if said.into_iter().any(|report| report.outcome == StepOutcome::Rejected) {
                self.rejected = true;
                *self.seen.entry("gate rejected").or_default() += 1;
            }
            let site = self.hosts[n].site;
            for collector in Site::ALL {
                let sent = self.reaches(site, collector) && self.relay(collector, Item::Gate(sync.clone()));
                // Without dice nothing is lost on the way, so one copy will do.
                if sent && self.play.dice.is_none() {
                    break;
                }
            }
        }
    }

    pub(super) fn deliver(&mut self) {
        let now = self.now();
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.queue).into_iter().partition(|(at, _)| *at <= now);
        self.queue = later;
        for (_, message) in due {
            match message {
                Message::Item { to, item } => self.submit(to, item),
                Message::Answer { to, nonce, index, tickets } => {
                    self.sees_race(to, &tickets);
                    self.hosts[to].answered(nonce, index, &tickets, &mut self.play);
                    self.judge_notes(to);
                }
                Message::Ask { to, from, ask } => {
                    let ticket = ask.ticket.clone();
                    self.hosts[to].feed(&ticket, Event::PromiseAsked(ask), None, &mut self.play);
                    let answers = std::mem::take(&mut self.play.wishes.promises);
                    self.judge_notes(to);
                    for answer in answers {
                        if self.reaches(self.hosts[to].site, self.hosts[from].site) {
                            self.send(Message::Promise { to: from, from: to, answer });
                        }
                    }
                }
                Message::Promise { to, from, answer } => self.promised(to, from, answer),
            }
        }
    }

    /// A renewal comes back, and the lease it lengthens is nearly over or has just run out: either may be first.
    fn sees_race(&mut self, to: usize, tickets: &[TicketAnswer]) {
        let (host, clock) = (&self.hosts[to], self.hosts[to].clock(self.play.now));
        for answer in tickets.iter().filter(|answer| answer.renewed) {
            let Some(post) = host.posts.get(&answer.ticket).filter(|post| post.disk.epoch == answer.epoch) else {
                continue;
            };
            let near = post.file.is_some_and(|file| clock.0.abs_diff(file.deadline.0) < host.timing.renew_ms * 2);
            let what = match (post.disk.closed, near) {
                (true, _) => "stopped before it was answered",
                (false, true) => "answered before it stopped",
                (false, false) => continue,
            };
            *self.seen.entry(what).or_default() += 1;
        }
    }

    fn submit(&mut self, to: Site, item: Item) {
        if self.leader != Some(to) || !self.decides(to) {
            return;
        }
        if let (Some(Bug::AnsweredBeforeLogged), Item::Gate(sync)) = (self.play.bug, &item) {
            let mut ahead = self.replica.clone();
            let tick = Tick { leader: to, term: self.term, elapsed_ms: 0, wall: Wall(0), items: vec![item.clone()] };
            ahead.apply(self.index + 1, &tick);
            self.answer(to, sync, &ahead);
        }
        self.inbox.push((self.now(), item));
    }

    fn promised(&mut self, to: usize, from: usize, answer: PromiseAnswer) {
        let peer = (self.hosts[from].site, self.hosts[from].gate.clone());
        let mut nonce = answer.nonce;
        if self.play.bug == Some(Bug::PromisesAddUp)
            && let Some(asked) = self.asked.get(&(to, answer.ticket.clone()))
        {
            nonce = *asked;
        }
        let event = match answer.verdict {
            PromiseVerdict::Promised { for_ms } => Event::PromiseGiven { peer, nonce, for_ms },
            PromiseVerdict::Refused { reason, .. } => Event::PromiseDenied { peer, nonce, reason },
        };
        self.hosts[to].feed(&answer.ticket, event, None, &mut self.play);
        self.judge_notes(to);
    }

    /// What a gate asked for is sent, what it did is judged.
    pub(super) fn judge_notes(&mut self, n: usize) {
        let notes = std::mem::take(&mut self.play.wishes.notes);
        for note in &notes {
            match note {
                Note::ServiceStopped { .. } => {
                    self.stops += 1;
                    *self.seen.entry("service stopped").or_default() += 1;
                }
                Note::Extended { nonce: None, .. } => {
                    self.failsafe_used = true;
                    *self.seen.entry("failsafe used").or_default() += 1;
                }
                Note::Ended { order, outcome: StepOutcome::Done | StepOutcome::Already, .. } => {
                    self.started(self.hosts[n].site, order);
                }
                Note::Began { ticket, order } if order.kind == StepKind::Promote => {
                    if let Some(known) = self.outside.as_mut().and_then(|outside| outside.get_mut(ticket)) {
                        *known = (*known).max(order.epoch);
                    }
                }
                _ => {}
            }
            if let Note::Began { ticket, order } = note {
                let (site, gate) = (self.hosts[n].site, self.hosts[n].gate.clone());
                self.say(&format!("gate {site}/{gate} {ticket}: {} of {} begins", order.kind.as_str(), order.epoch));
            }
            let seen = Noted {
                now: self.play.now,
                policy: &self.believed,
                host: &self.hosts[n],
                hosts: &self.hosts,
                note,
                heard_by_machine: self.hosts[n].agent_runs(),
                acknowledged: &self.acknowledged,
            };
            self.invariants.note(&seen);
        }
        // Who asked before a disk hung waits no more.
        self.play.wishes.promises.clear();
        let asks = std::mem::take(&mut self.play.wishes.asks);
        for (ticket, epoch, nonce) in &asks {
            self.asked.insert((n, ticket.clone()), *nonce);
            let (site, gate) = (self.hosts[n].site, self.hosts[n].gate.clone());
            for to in 0..self.hosts.len() {
                let peer = (self.hosts[to].site, self.hosts[to].gate.clone());
                if self.hosts[n].peers().contains(&peer) && self.reaches(site, peer.0) {
                    let ask =
                        PromiseAsk { site, gate: gate.clone(), ticket: ticket.clone(), epoch: *epoch, nonce: *nonce };
                    self.send(Message::Ask { to, from: n, ask });
                }
            }
        }
    }
}
