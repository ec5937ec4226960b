//! I2: no gate accepts e after e' > e, and a closed epoch is never opened again, and neither gate nor warden writes
//! over what the other one wrote without having looked at it. No clock is assumed.

use super::{Invariant, Noted, Verdict};
use crate::host::Note;

#[derive(Debug, Clone, Hash, Default)]
pub struct NoWayBack;

impl Invariant for NoWayBack {
    const NUMBER: u8 = 2;

    fn note(&mut self, seen: &Noted<'_>) -> Verdict {
        match seen.note {
            Note::Stored { before, after, .. } if after.epoch < before.epoch => {
                Err(format!("{} went from epoch {} back to {}", seen.host.gate, before.epoch, after.epoch))
            }
            Note::Stored { before, after, .. } if after.epoch == before.epoch && before.closed && !after.closed => {
                Err(format!("{} opened epoch {} again", seen.host.gate, after.epoch))
            }
            Note::Stored { before, after, .. } if after.writes <= before.writes => {
                Err(format!("{} wrote over a record that it had not looked at", seen.host.gate))
            }
            Note::Began { ticket, order } => match seen.host.posts.get(ticket) {
                Some(post) if order.epoch < post.disk.epoch => {
                    Err(format!("{} began {:?} of epoch {}", seen.host.gate, order.kind, order.epoch))
                }
                Some(_) | None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}
