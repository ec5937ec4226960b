//! Lease arithmetic, all in log time.
//!
//! Knows: when a lease has run out, and when its holder has surely stopped. Refuses to know: clocks of gates. Invariants:
//! both limits only ever move forward; they are worked out with the timing in force at the renewal, so a shorter timing
//! that is adopted later cannot cut a promise short.

use serde::{Deserialize, Serialize};

use bcp_wire::{Epoch, Site};

use crate::policy::Timing;
use crate::time::LogTime;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub site: Site,
    pub epoch: Epoch,
    /// Log time of the last applied renewal, or of the grant.
    pub renewed: LogTime,
    /// No renewal since: the ticket is free for another site.
    pub expires: LogTime,
    /// The holder has stopped by now, whatever its clock (within rho) and however slow its stop (within stop_max).
    pub clear: LogTime,
}

impl Lease {
    #[must_use]
    pub fn start(site: Site, epoch: Epoch, now: LogTime, timing: &Timing) -> Self {
        let mut lease = Lease { site, epoch, renewed: now, expires: now, clear: now };
        lease.renew(now, timing);
        lease
    }

    pub fn renew(&mut self, now: LogTime, timing: &Timing) {
        self.renewed = self.renewed.max(now);
        self.expires = self.expires.max(now.plus(timing.ttl_ms));
        self.clear = self.clear.max(now.plus(timing.ttl_ms.saturating_add(timing.acquire_after_ms)));
    }

    /// Nothing was renewed for a whole ttl.
    #[must_use]
    pub fn expired(&self, now: LogTime) -> bool {
        now >= self.expires
    }

    /// When a grant made `now` to `to` takes effect. `released`: every gate reported that it stopped.
    #[must_use]
    pub fn effective(&self, to: Site, released: bool, now: LogTime, timing: &Timing) -> LogTime {
        if released || to == self.site { now } else { self.clear.max(now.plus(timing.acquire_after_ms)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Timing = Timing::METRO;

    #[test]
    fn a_lease_runs_out_at_ttl_and_not_one_millisecond_before() {
        let lease = Lease::start(Site::A, Epoch::NONE, LogTime(1_000), &T);
        assert!(!lease.expired(LogTime(11_999)));
        assert!(lease.expired(LogTime(12_000)));
    }

    #[test]
    fn another_site_waits_from_its_grant_and_from_the_last_renewal() {
        let lease = Lease::start(Site::A, Epoch::NONE, LogTime(0), &T);
        assert_eq!(lease.effective(Site::B, false, LogTime(11_000), &T), LogTime(15_000));
        assert_eq!(lease.effective(Site::B, false, LogTime(50_000), &T), LogTime(54_000));
        assert_eq!(lease.effective(Site::B, false, LogTime(2_000), &T), LogTime(15_000));
        assert_eq!(lease.effective(Site::B, true, LogTime(2_000), &T), LogTime(2_000));
        assert_eq!(lease.effective(Site::A, false, LogTime(2_000), &T), LogTime(2_000));
    }

    #[test]
    fn a_shorter_timing_never_cuts_a_promise_short() {
        let mut lease = Lease::start(Site::A, Epoch::NONE, LogTime(0), &Timing::WIDE);
        lease.renew(LogTime(100), &Timing::FAST);
        assert!(!lease.expired(LogTime(21_999)));
        assert_eq!(lease.clear, LogTime(32_000));
    }
}
