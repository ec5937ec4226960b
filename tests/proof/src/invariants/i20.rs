//! I20: log time never goes back, and never runs faster than real time at the fastest permitted clock.

use super::{Applied, Invariant, Verdict};

#[derive(Debug, Clone, Hash, Default)]
pub struct LogTimeIsSlow {
    start: Option<(u64, u64)>,
    last: Option<u64>,
}

impl Invariant for LogTimeIsSlow {
    const NUMBER: u8 = 20;

    fn tick(&mut self, seen: &Applied<'_>) -> Verdict {
        if seen.after.log_time < seen.before.log_time {
            return Err("log time went back".to_owned());
        }
        // A tick counts no more than the time since the tick before it, whoever proposed that one.
        let step_ms = seen.after.log_time.0 - seen.before.log_time.0;
        let since = self.last.replace(seen.now).map_or(u64::MAX / 2_000, |last| seen.now - last);
        if step_ms * 1_000 > since * 1_010 {
            return Err(format!("a tick of {step_ms} ms, {since} ms after the one before it"));
        }
        let (real, log) = *self.start.get_or_insert((seen.now, seen.after.log_time.0));
        let (real_ms, log_ms) = (seen.now - real, seen.after.log_time.0 - log);
        if log_ms * 1_000 <= real_ms * 1_010 { Ok(()) } else { Err(format!("{log_ms} ms of log time in {real_ms} ms")) }
    }
}
