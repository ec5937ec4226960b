//! I1: at most one site runs the service of an active-passive ticket, while clocks drift by no more than rho. Where an actuator
//! outside of the machines compares epochs, what it refuses does not count: a machine's own clocks may have stood still.

use std::collections::BTreeSet;

use bcp_core::policy::TicketKind;

use super::{Invariant, Moment, Verdict};

#[derive(Debug, Clone, Hash, Default)]
pub struct OneActiveSide;

impl Invariant for OneActiveSide {
    const NUMBER: u8 = 1;

    fn moment(&mut self, seen: &Moment<'_>) -> Verdict {
        let passive = seen.policy.tickets.iter().filter(|(_, rule)| rule.kind == TicketKind::ActivePassive);
        for (id, _) in passive {
            let active: BTreeSet<_> =
                seen.hosts.iter().filter(|host| seen.in_effect(host, id)).map(|host| host.site).collect();
            if active.len() > 1 {
                return Err(format!("{id} runs at {active:?}"));
            }
        }
        Ok(())
    }
}
