//! I17: a restart never lengthens a lease: a new life learns from the file when to stop, and nothing else.

use super::{Invariant, Noted, Verdict};
use crate::host::Note;

#[derive(Debug, Clone, Hash, Default)]
pub struct RestartTakesNothing;

impl Invariant for RestartTakesNothing {
    const NUMBER: u8 = 17;

    fn note(&mut self, seen: &Noted<'_>) -> Verdict {
        match seen.note {
            Note::Started { found, taken: Some(taken), .. } if found.is_none_or(|found| *taken > found) => {
                Err(format!("{} started with a lease until {taken}, the file said {found:?}", seen.host.gate))
            }
            _ => Ok(()),
        }
    }
}
