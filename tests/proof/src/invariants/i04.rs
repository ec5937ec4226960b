//! I4: an epoch has one holder for ever, in the log and on every gate's disk.

use std::collections::BTreeMap;

use bcp_wire::{Epoch, Id, Site};

use super::{Applied, Invariant, Noted, Verdict};
use crate::host::Note;

#[derive(Debug, Clone, Hash, Default)]
pub struct OneHolder {
    holders: BTreeMap<(Id, Epoch), Site>,
}

impl OneHolder {
    fn holds(&mut self, id: &Id, epoch: Epoch, site: Site) -> Verdict {
        let known = *self.holders.entry((id.clone(), epoch)).or_insert(site);
        if known == site { Ok(()) } else { Err(format!("epoch {epoch} of {id} belongs to {known} and to {site}")) }
    }
}

impl Invariant for OneHolder {
    const NUMBER: u8 = 4;

    fn tick(&mut self, seen: &Applied<'_>) -> Verdict {
        for (id, ticket) in &seen.after.failover.tickets {
            if let Some(site) = ticket.holder {
                self.holds(id, ticket.epoch, site)?;
            }
        }
        Ok(())
    }

    fn note(&mut self, seen: &Noted<'_>) -> Verdict {
        match seen.note {
            Note::Stored { ticket, after, .. } => match after.holder {
                Some(site) => self.holds(ticket, after.epoch, site),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}
