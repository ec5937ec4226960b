//! I5: w holds nothing.

use bcp_wire::Site;

use super::{Applied, Invariant, Verdict};

#[derive(Debug, Clone, Default)]
pub struct WitnessHoldsNothing;

impl Invariant for WitnessHoldsNothing {
    const NUMBER: u8 = 5;

    fn tick(&mut self, seen: &Applied<'_>) -> Verdict {
        let held = seen.after.failover.tickets.iter().find(|(_, ticket)| ticket.holder == Some(Site::W));
        held.map_or(Ok(()), |(id, _)| Err(format!("w holds {id}")))
    }
}
