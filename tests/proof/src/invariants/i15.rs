//! I15: the same log gives the same state and the same chain, from the beginning and from any snapshot.

use bcp_core::ledger::{Head, verify};
use bcp_core::replica::{Replica, Tick};

use super::{Applied, Invariant, Verdict};

#[derive(Debug, Clone)]
pub struct OneHistory {
    /// `None`: not looked at, for a model forgets the ledger.
    head: Option<Head>,
}

impl Default for OneHistory {
    fn default() -> OneHistory {
        OneHistory { head: Some(Head::default()) }
    }
}

impl OneHistory {
    pub fn forget(&mut self) {
        self.head = None;
    }
}

/// Where it is looked at, no state is compared.
impl std::hash::Hash for OneHistory {
    fn hash<H: std::hash::Hasher>(&self, _state: &mut H) {}
}

impl Invariant for OneHistory {
    const NUMBER: u8 = 15;

    fn tick(&mut self, seen: &Applied<'_>) -> Verdict {
        let Some(known) = &mut self.head else { return Ok(()) };
        *known = verify(known, seen.entries).map_err(|fault| fault.to_string())?;
        if *known == seen.after.ledger { Ok(()) } else { Err("the head is not the last entry".to_owned()) }
    }
}

/// Applies a log anew, with a snapshot taken and read back in the middle.
///
/// # Errors
/// The state is another one.
pub fn replays(ticks: &[(u64, Tick)], want: &Replica) -> Verdict {
    let mut replica = Replica::default();
    for (n, (index, tick)) in ticks.iter().enumerate() {
        replica.apply(*index, tick);
        if n == ticks.len() / 2 {
            let json = serde_json::to_string(&replica).map_err(|error| error.to_string())?;
            replica = serde_json::from_str(&json).map_err(|error| error.to_string())?;
        }
    }
    if &replica == want { Ok(()) } else { Err("a replay gives another state".to_owned()) }
}
