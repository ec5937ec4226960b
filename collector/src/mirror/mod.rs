//! Process 3: the public page from exported files or from the origins of other sites, signature and validity checked.

use std::sync::Arc;

use crate::{Config, Shutdown};

/// Runs until `shutdown`.
pub async fn run(config: Arc<Config>, mut shutdown: Shutdown) -> anyhow::Result<()> {
    tracing::warn!(site = %config.site, "this build has no mirror part: no public page is served");
    shutdown.wait().await;
    Ok(())
}
