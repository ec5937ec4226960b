//! The serve process: takes readings in, judges them, shows what is known.

pub mod feed;
pub mod view;

use std::sync::Arc;

use crate::{Config, Shutdown};

/// Runs until `shutdown`.
pub async fn run(config: Arc<Config>, mut shutdown: Shutdown) -> anyhow::Result<()> {
    tracing::warn!(site = %config.site, "this build has no serve part: nothing is ingested, judged or shown");
    shutdown.wait().await;
    Ok(())
}
