//! A drill: the gates of the holder are asked to say nothing about a ticket for a time, as if they were cut off.
//!
//! Knows: whom to ask, and for how long. What follows is decided by nothing new: a gate that says nothing is one that is cut
//! off. Invariant: only gates of the epoch that was seen are asked, and only until its lease must have run out.

use serde::{Deserialize, Serialize};

use bcp_wire::control::Phase;
use bcp_wire::{Epoch, Id, Site};

use super::State;
use super::decide::{self, Block};
use super::ticket::Ticket;
use crate::policy::Policy;
use crate::time::LogTime;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    pub site: Site,
    pub epoch: Epoch,
    pub for_ms: u64,
    /// Who has not heard it by then is not asked any more.
    pub until: LogTime,
}

impl State {
    /// What stands between a ticket and an operator's order that it goes to `to`.
    pub(crate) fn order_blocks(&self, policy: &Policy, id: &Id, to: Site) -> Vec<String> {
        let Some((ticket, facts)) = self.facts(policy, id) else { return vec![format!("there is no ticket {id}")] };
        let mut blocks = decide::blocks_of_order(ticket, to, facts);
        if ticket.phase != Phase::Held && !blocks.contains(&Block::Busy) {
            blocks.push(Block::Busy);
        }
        blocks.iter().map(Block::to_string).collect()
    }

    /// From now on its gates at the holder are asked to be silent.
    pub(crate) fn silence(&mut self, id: &Id, for_ms: u64) {
        let (now, ttl_ms) = (self.now, self.timing.map_or(0, |timing| timing.ttl_ms));
        if let Some(ticket) = self.tickets.get_mut(id)
            && let Some(site) = ticket.holder
        {
            ticket.silence = Some(Silence { site, epoch: ticket.epoch, for_ms, until: now.plus(ttl_ms) });
        }
    }

    /// Nobody is asked any more; who was, keeps silent for the time that was asked.
    pub(crate) fn speak(&mut self, id: &Id) {
        if let Some(ticket) = self.tickets.get_mut(id) {
            ticket.silence = None;
        }
    }
}

/// For how long a gate of `site` is asked to be silent.
pub(super) fn asked(ticket: &Ticket, site: Site, now: LogTime) -> Option<u64> {
    let silence = ticket.silence.filter(|silence| silence.site == site && now < silence.until)?;
    let is_held = ticket.phase == Phase::Held && ticket.moving.is_none() && ticket.holder == Some(site);
    (is_held && ticket.epoch == silence.epoch).then_some(silence.for_ms)
}
