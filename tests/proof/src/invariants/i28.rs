//! I28: the chart is true. Phase and stage of a ticket never contradict each other, and the ledger's entries of a tick lead,
//! along the chart of standings, from where the ticket stood to where it stands.

use bcp_core::failover::chart::Standing;
use bcp_wire::Id;

use super::{Applied, Invariant, Verdict};

#[derive(Debug, Clone, Hash, Default)]
pub struct AsCharted;

impl Invariant for AsCharted {
    const NUMBER: u8 = 28;

    fn tick(&mut self, seen: &Applied<'_>) -> Verdict {
        seen.after.failover.tickets.iter().try_for_each(|(id, ticket)| {
            let stands = Standing::of(ticket)
                .ok_or_else(|| format!("{id} is {:?} with a move {:?}", ticket.phase, ticket.moving))?;
            let mut told = before(seen, id)?;
            for event in seen.ticket_events().filter(|event| event.ticket() == id) {
                told = told.after(event).map_err(|turn| format!("{id} was {told:?} and then: {}", turn.as_str()))?;
            }
            if stands.agrees_with(told) {
                Ok(())
            } else {
                Err(format!("{id} stands {stands:?}; its ledger says {told:?}"))
            }
        })
    }
}

/// A ticket begins free.
fn before(seen: &Applied<'_>, id: &Id) -> Result<Standing, String> {
    let Some(ticket) = seen.before.failover.tickets.get(id) else { return Ok(Standing::Free) };
    Standing::of(ticket).ok_or_else(|| format!("{id} was {:?} with a move {:?}", ticket.phase, ticket.moving))
}
