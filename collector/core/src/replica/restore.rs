//! A backup as the beginning of a new log.

use bcp_wire::Id;

use super::Replica;
use crate::failover::observe::Board;
use crate::policy::Timing;

/// Why a backup cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreFault {
    #[error(
        "incarnation {incarnation} is not above {known}, which ticket {ticket} has seen: is this machine's clock right?"
    )]
    NotAbove { ticket: Id, incarnation: u32, known: u32 },
}

impl Replica {
    /// This state, without anything that may have changed since: who holds what, who is heard, what moves. `incarnation` is
    /// one that no other restore ever takes, of this backup or another one: the second in which it is done.
    ///
    /// # Errors
    /// The incarnation was used already.
    pub fn restored(mut self, incarnation: u32) -> Result<Replica, RestoreFault> {
        let timing = self.policy.as_ref().map_or(Timing::METRO, |policy| policy.timing);
        for (id, ticket) in &mut self.failover.tickets {
            let known = ticket.epoch.max(ticket.floor).incarnation;
            if incarnation <= known {
                return Err(RestoreFault::NotAbove { ticket: id.clone(), incarnation, known });
            }
            ticket.restore(incarnation, self.log_time, &timing);
        }
        self.failover.board = Board::default();
        self.leader = None;
        Ok(self)
    }
}
