//! I15: the same log gives the same state and the same chain, from the beginning and from any snapshot.

use bcp_core::ledger::{Head, verify};
use bcp_core::replica::{Replica, Tick};

use super::{Applied, Invariant, Verdict};

#[derive(Debug, Clone, Default)]
pub struct OneHistory {
    head: Head,
}

impl Invariant for OneHistory {
    const NUMBER: u8 = 15;

    fn tick(&mut self, seen: &Applied<'_>) -> Verdict {
        self.head = verify(&self.head, seen.entries).map_err(|fault| fault.to_string())?;
        if self.head == seen.after.ledger { Ok(()) } else { Err("the head is not the last entry".to_owned()) }
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
