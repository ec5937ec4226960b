//! I24: a gate's word is honest. It renews nothing that its warden stops or has stopped, and says so where what it goes by is
//! not on its disk.

use super::{Invariant, Noted, Verdict};
use crate::host::Note;

#[derive(Debug, Clone, Hash, Default)]
pub struct HonestWord;

impl Invariant for HonestWord {
    const NUMBER: u8 = 24;

    fn note(&mut self, seen: &Noted<'_>) -> Verdict {
        match seen.note {
            Note::Said { ticket, renews: true, put_down: true, .. } => {
                Err(format!("{} renews {ticket} although its warden stopped it", seen.host.gate))
            }
            Note::Said { ticket, unsaved: true, has_trouble: false, .. } => {
                Err(format!("{} says nothing of {ticket} not being on its disk", seen.host.gate))
            }
            _ => Ok(()),
        }
    }
}
