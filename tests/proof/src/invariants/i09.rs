//! I9: where the log says "in sync", the standby has every write that was acknowledged; a promoted copy of a ticket with
//! rpo zero has them too.

use bcp_core::policy::Rpo;
use bcp_wire::control::{StepKind, StepOutcome};

use super::{Invariant, Moment, Noted, Verdict};
use crate::host::Note;

#[derive(Debug, Clone, Hash, Default)]
pub struct SyncIsTrue;

impl Invariant for SyncIsTrue {
    const NUMBER: u8 = 9;

    fn moment(&mut self, seen: &Moment<'_>) -> Verdict {
        for (id, ticket) in &seen.replica.failover.tickets {
            let Some(latch) = ticket.latch.as_ref().filter(|latch| latch.in_sync == Some(true)) else { continue };
            let acknowledged = seen.acknowledged.get(id).copied().unwrap_or(0);
            let behind = seen.hosts.iter().find(|host| {
                host.site != latch.active
                    && host.posts.get(id).is_some_and(|post| post.carries_data && post.copy.position < acknowledged)
            });
            if let Some(host) = behind {
                return Err(format!("{id} is latched in sync, and {} lacks acknowledged writes", host.gate));
            }
        }
        Ok(())
    }

    fn note(&mut self, seen: &Noted<'_>) -> Verdict {
        let Note::Ended { ticket, order, outcome } = seen.note else { return Ok(()) };
        let zero = seen.policy.tickets.get(ticket).is_some_and(|rule| rule.rpo == Rpo::Zero);
        let done = matches!(outcome, StepOutcome::Done | StepOutcome::Already);
        let Some(post) = seen.host.posts.get(ticket).filter(|post| post.carries_data) else { return Ok(()) };
        let acknowledged = seen.acknowledged.get(ticket).copied().unwrap_or(0);
        match order.kind {
            StepKind::Promote if zero && done && post.copy.position < acknowledged => Err(format!(
                "{} was promoted at {}, acknowledged up to {acknowledged}",
                seen.host.gate, post.copy.position
            )),
            _ => Ok(()),
        }
    }
}
