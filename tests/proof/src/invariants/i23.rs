//! I23: a change of policy takes neither site, kind nor service away from a ticket that is held.

use bcp_wire::control::Phase;

use super::{Applied, Invariant, Verdict};

#[derive(Debug, Clone, Hash, Default)]
pub struct PolicyLeavesHolder;

impl Invariant for PolicyLeavesHolder {
    const NUMBER: u8 = 23;

    fn tick(&mut self, seen: &Applied<'_>) -> Verdict {
        let (Some(old), Some(new)) = (&seen.before.policy, &seen.after.policy) else { return Ok(()) };
        for (id, ticket) in seen.before.failover.tickets.iter().filter(|_| old != new) {
            let (Phase::Held | Phase::Draining, Some(holder)) = (ticket.phase, ticket.holder) else { continue };
            let Some(before) = old.tickets.get(id) else { continue };
            let keeps = new.tickets.get(id).is_some_and(|after| {
                after.sites.contains(&holder)
                    && after.gates.get(&holder).is_some_and(|gates| !gates.is_empty())
                    && (after.kind, &after.service) == (before.kind, &before.service)
            });
            if !keeps {
                return Err(format!("a policy took {id} away from under site {holder}"));
            }
        }
        Ok(())
    }
}
