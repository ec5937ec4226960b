//! A drill's report as the ledger of the collector that answers has it, and whether it still is what its entries say.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bcp_core::drill::report::{Report, assemble};
use bcp_core::drill::{DrillEvent, Gathered, seq_of};
use bcp_core::ledger::{Head, LedgerEntry, LedgerEvent, verify};
use serde::Serialize;

use crate::ctl::server::Server;

/// A collector that did not lead has applied the last entry within this time.
const WITHIN: Duration = Duration::from_secs(10);
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// A report, and what is wrong with it.
#[derive(Debug, Serialize)]
pub(super) struct Checked {
    pub report: Report,
    /// Entries of the chain that were gone through.
    pub checked_entries: u64,
    /// Why it cannot be believed; absent: the chain is whole, and its entries say the same.
    pub fault: Option<String>,
}

/// Reads on from the drill's beginning to its report.
///
/// # Errors
/// There is no such drill, it is not over, or this collector's ledger begins later.
pub(super) async fn find(server: &Server, drill: &str) -> anyhow::Result<Checked> {
    let before = seq_of(drill).with_context(|| format!("`{drill}` is not the name of a drill, as drl-000123"))?;
    let (mut after, mut head, mut gathered) = (before, None, None::<Gathered>);
    let (mut fault, mut count) = (None, 0);
    let began = Instant::now();
    loop {
        let page: Vec<LedgerEntry> = server.get(&format!("/control/v1/ledger?after={after}")).await?;
        let Some(last) = page.last() else {
            if began.elapsed() < WITHIN {
                tokio::time::sleep(ASK_AGAIN_AFTER).await;
                continue;
            }
            bail!("{drill} has no report here yet: it is under way, or another collector has it");
        };
        after = last.seq;
        for entry in &page {
            let known = head.get_or_insert_with(|| Head { seq: entry.seq.saturating_sub(1), hash: entry.prev.clone() });
            count += 1;
            match verify(known, [entry]) {
                Ok(next) => *known = next,
                Err(error) => fault = fault.or_else(|| Some(error.to_string())),
            }
            if gathered.is_none() {
                let first = Gathered::from_first(entry).filter(|gathered| gathered.began.drill == drill);
                gathered = Some(first.with_context(|| format!("there is no drill {drill} in the ledger here"))?);
            } else if let Some(gathered) = gathered.as_mut() {
                match &entry.what {
                    LedgerEvent::Drill { event: DrillEvent::Reported { report } } if report.drill == drill => {
                        let same = assemble(gathered).is_some_and(|assembled| assembled == **report);
                        let differs =
                            (!same).then(|| "the ledger's entries do not say what the report says".to_owned());
                        return Ok(Checked {
                            report: (**report).clone(),
                            checked_entries: count,
                            fault: fault.or(differs),
                        });
                    }
                    _ if gathered.entries.last().is_some_and(is_end) => {}
                    _ => gathered.hear(entry),
                }
            }
        }
    }
}

const fn is_end(entry: &LedgerEntry) -> bool {
    matches!(&entry.what, LedgerEvent::Drill { event: DrillEvent::Ended { .. } })
}
