//! Who leads, what is proposed, and what is applied.

use bcp_core::ledger::LedgerEntry;
use bcp_core::replica::{Item, Replica, Tick};
use bcp_core::time::Wall;
use bcp_wire::Site;

use super::wires::Message;
use super::{World, at, rx};
use crate::bug::Bug;
use crate::invariants::Applied;
use crate::spoil;

/// No leader for this long: a new one.
pub(super) const ELECT_MS: u64 = 1_500;
/// w leads again after this long in touch with both.
const RETURN_MS: u64 = 30_000;
/// Older submissions have lost their caller.
const INBOX_MS: u64 = 2_000;

impl World {
    fn quorum(&self, leader: Site) -> bool {
        self.decides(leader)
            && leader.others().iter().any(|other| self.decides(*other) && self.both_ways(leader, *other))
    }

    pub(super) fn lead(&mut self) {
        let now = self.now();
        let whole = Site::W.others().iter().all(|other| self.decides(*other) && self.both_ways(Site::W, *other));
        if !whole || !self.decides(Site::W) {
            self.whole_since = now;
        }
        let Some(leader) = self.leader.filter(|leader| self.quorum(*leader)) else {
            let since = *self.no_leader_since.get_or_insert(now);
            let next = [Site::W, Site::A, Site::B].into_iter().find(|site| self.quorum(*site));
            if let Some(next) = next.filter(|_| now - since >= ELECT_MS) {
                self.takes_over(next);
            }
            return;
        };
        self.no_leader_since = None;
        if leader != Site::W && now - self.whole_since >= RETURN_MS {
            self.takes_over(Site::W);
            return;
        }
        if now < self.stalled_until || self.last_tick.is_some_and(|last| now - last < self.policy.timing.tick_ms) {
            return;
        }
        self.tick(leader);
    }

    fn takes_over(&mut self, next: Site) {
        self.leader = Some(next);
        self.term += 1;
        (self.last_tick, self.no_leader_since) = (None, None);
        self.inbox.retain(|(_, item)| matches!(item, Item::Command(_)));
        self.say(&format!("the collector of {next} leads"));
        *self.seen.entry("leader changed").or_default() += 1;
    }

    fn tick(&mut self, leader: Site) {
        let now = self.now();
        let decider = &mut self.deciders[at(leader)];
        let mut last = self.last_tick;
        if self.play.bug == Some(Bug::ReelectedLeaderCounts) && last.is_none() {
            last = decider.own_last;
        }
        let elapsed = last.map_or(0, |last| (now - last) * decider.rate / 1_000);
        decider.own_last = Some(now);
        self.last_tick = Some(now);
        let mut items: Vec<Item> =
            self.inbox.drain(..).filter(|(at, _)| now - at <= INBOX_MS).map(|(_, item)| item).collect();
        if self.replica.policy.as_ref() != Some(&self.policy) {
            items.insert(0, Item::Policy(Box::new(self.policy.clone())));
        }
        let label = 1_700_000_000_000 + i64::try_from(now).unwrap_or(0) + self.wall_offset_ms;
        let elapsed_ms = match self.play.bug {
            Some(Bug::LogTimeFromWall) => {
                u64::try_from(label - self.replica.wall.0).unwrap_or(0).min(bcp_core::replica::MAX_ELAPSED_MS)
            }
            _ => elapsed,
        };
        self.commit(Tick { leader, term: self.term, elapsed_ms, wall: Wall(label), items });
    }

    fn commit(&mut self, tick: Tick) {
        self.index += 1;
        let before = self.without_what_is_only_told();
        let entries = spoil::apply(&mut self.replica, self.index, &tick, &mut self.policy, self.play.bug);
        let seen = Applied {
            now: self.play.now,
            policy: &self.believed,
            before: &before,
            after: &self.replica,
            tick: &tick,
            entries: &entries,
            hosts: &self.hosts,
        };
        self.invariants.tick(&seen);
        self.count(&entries);
        self.give_up(&entries);
        for item in &tick.items {
            if let Item::Gate(sync) = item
                && self.play.bug != Some(Bug::AnsweredBeforeLogged)
            {
                let replica = std::mem::take(&mut self.replica);
                self.answer(tick.leader, sync, &replica);
                self.replica = replica;
            }
        }
        spoil::gates(&mut self.hosts, &self.replica, &mut self.play);
        for n in 0..self.hosts.len() {
            self.judge_notes(n);
        }
        if let Some(journal) = &mut self.journal {
            let now = self.play.now;
            journal.lines.extend(entries.iter().map(|entry| format!("{now:>9} {} {}", entry.log_time, entry.text)));
            journal.entries.extend(entries);
            if journal.keep_ticks {
                journal.ticks.push((self.index, tick));
            }
        }
    }

    /// What those who judge a tick compare it with: the large parts of the agreed state are none of it.
    fn without_what_is_only_told(&mut self) -> Replica {
        let alarms = std::mem::take(&mut self.replica.alarms);
        let services = std::mem::take(&mut self.replica.services);
        let publication = std::mem::take(&mut self.replica.publication);
        let before = self.replica.clone();
        (self.replica.alarms, self.replica.services, self.replica.publication) = (alarms, services, publication);
        before
    }

    pub(super) fn answer(&mut self, leader: Site, sync: &bcp_wire::control::GateSync, replica: &Replica) {
        let Some(to) = self.hosts.iter().position(|host| host.site == sync.site && host.gate == sync.gate) else {
            return;
        };
        let mut tickets = replica.failover.answer(sync.site, &sync.gate, sync);
        spoil::answers(&mut tickets, sync, replica, self.play.bug);
        let ways = Site::ALL
            .into_iter()
            .filter(|via| self.decides(*via) && self.reaches(leader, *via) && self.reaches(*via, sync.site));
        // The first confirmed answer wins; without dice nothing is lost on the way.
        let ways = ways.take(if self.play.dice.is_some() { 3 } else { 1 }).count();
        for _ in 0..ways {
            self.send(Message::Answer { to, nonce: sync.nonce, index: self.index, tickets: tickets.clone() });
        }
    }

    fn count(&mut self, entries: &[LedgerEntry]) {
        use bcp_core::failover::TicketEvent as E;
        for entry in entries {
            let bcp_core::ledger::LedgerEvent::Ticket { event } = &entry.what else { continue };
            if let E::Effective { ticket, holder, .. } = event
                && *ticket == rx()
            {
                self.moves += u64::from(self.served_at.replace(*holder).is_some_and(|before| before != *holder));
            }
            let what = match event {
                E::Granted { cause, .. } if cause.automatic() => "takeover",
                E::Granted { .. } => "grant",
                E::Released { .. } => "clean release",
                E::CoveredByTime { .. } => "covered by time",
                E::Withheld { reasons, .. } if reasons.iter().any(|reason| reason.contains("lacks acknowledged")) => {
                    "refused as stale"
                }
                E::Withheld { .. } => "withheld",
                E::Expired { .. } => "expired",
                E::Compensating { .. } => "compensated",
                E::MoveStuck { .. } => "stuck",
                _ => continue,
            };
            *self.seen.entry(what).or_default() += 1;
        }
    }
}
