//! Process 1: the decision log, tickets and the control listener.

pub mod machine;
pub mod raft;
pub mod store;

use std::sync::Arc;

use crate::{Config, Shutdown};

/// Runs until `shutdown`.
pub async fn run(config: Arc<Config>, mut shutdown: Shutdown) -> anyhow::Result<()> {
    tracing::warn!(site = %config.site, "this build has no decide part: nothing is agreed");
    shutdown.wait().await;
    Ok(())
}
