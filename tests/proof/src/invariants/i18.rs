//! I18: nothing goes to a site that lacks the servers its policy asks for there, unless two people force it.

use bcp_core::failover::TicketEvent;
use bcp_core::failover::decide::Cause;
use bcp_core::policy::Require;
use bcp_wire::Site;

use super::{Applied, Invariant, Verdict};

/// An older word of an observer is no knowledge.
const WORD_MS: u64 = 10_000;

#[derive(Debug, Clone, Hash, Default)]
pub struct TargetKeepsItsMinimum;

impl Invariant for TargetKeepsItsMinimum {
    const NUMBER: u8 = 18;

    fn tick(&mut self, seen: &Applied<'_>) -> Verdict {
        for event in seen.ticket_events() {
            // A move begins by the drain of its holder, or by the grant of a ticket that is free.
            let (ticket, to, cause) = match event {
                TicketEvent::DrainStarted { ticket, to, cause, .. } => (ticket, *to, cause),
                TicketEvent::Granted { ticket, holder, cause, .. } => (ticket, *holder, cause),
                _ => continue,
            };
            let drained = seen.before.failover.tickets.get(ticket).is_some_and(|before| before.moving.is_some());
            let leaves = matches!(
                cause,
                Cause::SiteLost { .. }
                    | Cause::ServiceDown { .. }
                    | Cause::RunsOut { .. }
                    | Cause::Operator { .. }
                    | Cause::Confirmed { .. }
            );
            let Some(rule) = seen.policy.tickets.get(ticket).filter(|_| leaves && !drained) else { continue };
            for require in &rule.require {
                let Require::Active { pool, at_least } = require else { continue };
                let board = &seen.after.failover.board.sites;
                let fresh = board.values().filter(|word| seen.after.log_time.since(word.at) < WORD_MS);
                let say_so = fresh
                    .filter(|word| {
                        word.by_site.get(&to).and_then(|site| site.pools.get(pool)).is_some_and(|p| p.up >= *at_least)
                    })
                    .count();
                if say_so * 2 <= Site::ALL.len() {
                    return Err(format!("{ticket} goes to {to}, where {say_so} of 3 see {at_least} servers of {pool}"));
                }
            }
        }
        Ok(())
    }
}
