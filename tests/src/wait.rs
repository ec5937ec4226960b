//! Waiting without guessing.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Looks until `look` gives a value, and returns it with the time it took.
///
/// # Errors
/// Names `what` when `limit` has passed.
pub async fn wait_for<T, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> Result<(T, Duration)>
where
    F: Future<Output = Option<T>>,
{
    let began = Instant::now();
    let mut pace = tokio::time::interval(LOOK_EVERY);
    loop {
        pace.tick().await;
        if let Some(found) = look().await {
            return Ok((found, began.elapsed()));
        }
        if began.elapsed() > limit {
            bail!("waited {limit:?} in vain for: {what}");
        }
    }
}

/// Checks `holds` over and over for `length`; an `Err` is the violation.
///
/// # Errors
/// The first violation.
pub async fn hold_for<F>(length: Duration, mut holds: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let began = Instant::now();
    let mut pace = tokio::time::interval(LOOK_EVERY);
    while began.elapsed() < length {
        pace.tick().await;
        holds().await?;
    }
    Ok(())
}
