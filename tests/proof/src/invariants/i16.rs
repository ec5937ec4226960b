//! I16: a gate's lease comes from a renewal that is in the log, counted from its sending, or from the promises of every
//! gate of the other sites to one question; a promise is kept; and what runs has a lease, or is being stopped and has ended
//! within `stop_max` of its deadline, as the lease arithmetic counts.

use std::collections::{BTreeMap, VecDeque};

use bcp_agent::gate::machine::Machine;
use bcp_core::replica::Item;
use bcp_wire::control::StepKind;
use bcp_wire::{Epoch, Id, Site};

use super::{Applied, Invariant, Moment, Noted, Verdict};
use crate::host::{Disk, Note};

/// As many requests as a gate has in flight, and more.
const KEPT: usize = 64;

/// Nonces whose renewal of an epoch of a ticket was applied.
type Logged = VecDeque<(u64, Id, Epoch)>;

#[derive(Debug, Clone, Hash, Default)]
pub struct LeaseByRight {
    logged: BTreeMap<(Site, Id), Logged>,
    promised: BTreeMap<(Site, Id, Id), (Epoch, u64)>,
}

impl LeaseByRight {
    fn by_renewal(&self, seen: &Noted<'_>, ticket: &Id, epoch: Epoch, nonce: u64) -> bool {
        let key = (seen.host.site, seen.host.gate.clone());
        self.logged.get(&key).is_some_and(|known| known.contains(&(nonce, ticket.clone(), epoch)))
    }

    /// Every gate of the other sites that could be promoted has promised for longer than this one may run.
    fn by_promises(seen: &Noted<'_>, ticket: &Id, epoch: Epoch, until: u64) -> Verdict {
        let others = seen.hosts.iter().filter(|host| host.site != seen.host.site && host.posts.contains_key(ticket));
        for host in others {
            let promise = host.posts.get(ticket).and_then(|post| post.disk.promise.as_ref());
            let covers = promise.is_some_and(|promise| promise.epoch >= epoch && host.real_of(promise.until) >= until);
            if !covers {
                return Err(format!("{} goes on until {until} without a promise of {}", seen.host.gate, host.gate));
            }
        }
        Ok(())
    }
}

impl Invariant for LeaseByRight {
    const NUMBER: u8 = 16;

    fn tick(&mut self, seen: &Applied<'_>) -> Verdict {
        for item in &seen.tick.items {
            let Item::Gate(sync) = item else { continue };
            for answer in seen.after.failover.answer(sync.site, &sync.gate, sync) {
                if answer.renewed {
                    let known = self.logged.entry((sync.site, sync.gate.clone())).or_default();
                    known.push_back((sync.nonce, answer.ticket, answer.epoch));
                    if known.len() > KEPT {
                        known.pop_front();
                    }
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, seen: &Noted<'_>) -> Verdict {
        match seen.note {
            Note::Extended { ticket, epoch, deadline, nonce: Some(nonce), .. } => {
                if !self.by_renewal(seen, ticket, *epoch, *nonce) {
                    return Err(format!("{} took a lease of {epoch} that is not in the log", seen.host.gate));
                }
                match seen.host.sent(*nonce) {
                    Some((sent, _)) if *deadline > sent.plus(seen.host.timing.ttl_holder_ms) => {
                        Err(format!("{} counts its lease from later than it asked", seen.host.gate))
                    }
                    Some(_) | None => Ok(()),
                }
            }
            Note::Extended { ticket, epoch, deadline, nonce: None, .. } => {
                let until = seen.host.real_of(deadline.plus(seen.host.timing.stop_max_ms));
                Self::by_promises(seen, ticket, *epoch, until)
            }
            Note::Promised { ticket, epoch, until } => {
                let key = (seen.host.site, seen.host.gate.clone(), ticket.clone());
                self.promised.insert(key, (*epoch, *until));
                Ok(())
            }
            Note::Began { ticket, order } if order.kind == StepKind::Promote => {
                let key = (seen.host.site, seen.host.gate.clone(), ticket.clone());
                match self.promised.get(&key) {
                    Some((epoch, until)) if seen.now < *until => {
                        Err(format!("{} promoted {} under a promise about {epoch}", seen.host.gate, order.epoch))
                    }
                    Some(_) | None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn moment(&mut self, seen: &Moment<'_>) -> Verdict {
        for host in seen.hosts {
            for (id, post) in &host.posts {
                let key = (host.site, host.gate.clone(), id.clone());
                if let Some((epoch, until)) = self.promised.get(&key).filter(|(_, until)| seen.now < *until)
                    && host.agent_runs()
                    && !host.paused
                    && host.disk == Disk::Fine
                    && !host.hangs()
                    && !post.gone
                    && post.disk.promise.is_none()
                {
                    return Err(format!("{} forgot its promise about {epoch} until {until}", host.gate));
                }
                let believed = post.machine.as_ref().filter(|_| !host.paused && !host.hangs());
                // One that cannot look at its files neither acts nor renews.
                let figures = believed.map(Machine::figures).filter(|figures| figures.doing != "waiting");
                let believed = figures.and_then(|figures| figures.deadline);
                if believed.is_some_and(|until| post.file.is_none_or(|file| file.deadline < until)) {
                    return Err(format!("{} goes by a lease that its warden was not told of", host.gate));
                }
                let Some(epoch) = post.running.filter(|_| host.runs(id, seen.now)) else { continue };
                let leased = post.file.is_some_and(|file| seen.now <= host.real_of(file.deadline));
                let overdue = |file: bcp_agent::gate::machine::FoundDeadline| {
                    let latest = host.real_of(file.deadline.plus(host.timing.stop_max_ms)).max(host.stop_begins_by());
                    seen.now > latest + seen.step_ms
                };
                if post.file.is_some_and(overdue) && !host.stops_fail {
                    return Err(format!("{} runs {epoch} longer than stop_max beyond its deadline", host.gate));
                }
                let late = post.file.is_none() && post.stop.is_none() && post.warden.is_none();
                if !leased
                    && late
                    && !post.machine.as_ref().is_some_and(|machine| machine.figures().doing.starts_with("stopping"))
                {
                    return Err(format!("{} runs {epoch} without a lease", host.gate));
                }
            }
        }
        Ok(())
    }
}
