//! PURE: how `stop_max` is shared out between a gate and its warden.
//!
//! Knows: that a service whose lease ends at a deadline must have stopped `stop_max` later, and what may happen before that:
//! the warden notices, gets the ticket's lock (if need be by killing the gate), stops and verifies. Refuses to know: clocks,
//! files, processes.
//!
//! Invariants (a test tries every moment): a gate that begins to stop by its deadline, and a warden that looks every
//! [`POLL_MS`], are both done within `stop_max` of the deadline, however long their stops hang and their locks are held.
//!
//! ```text
//! deadline      + 1/4: the warden's grace for a gate that closed its epoch in time        + stop_max
//! |-- gate: stop and verify, 3/4 at most --------------------------|                      |
//! |                    |- lock 1/8 -|- after a kill 1/16 -|- warden: all that is left ----|
//! ```

use super::record::{BootMs, Brief};

/// How often a warden looks at the files.
pub const POLL_MS: u64 = 50;
/// Shorter, and the warden's looks and locks leave too little of it to stop anything.
pub const STOP_MAX_LEAST_MS: u64 = 1_000;

/// The shares of one `stop_max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    pub stop_max_ms: u64,
}

/// What the files say about one ticket at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing runs, or its lease does.
    Fine,
    /// The gate says that it acts, or is about to; the warden acts from this moment on.
    GateActs { until: BootMs },
    /// The deadline has passed and the epoch is still open.
    Late,
}

impl Budget {
    /// Most that a gate's `stop` and `verify-stopped` may take together.
    #[must_use]
    pub const fn stop_ms(self) -> u64 {
        self.stop_max_ms / 4 * 3
    }

    /// How long a gate that closed its epoch is left alone after its deadline.
    #[must_use]
    pub const fn grace_ms(self) -> u64 {
        self.stop_max_ms / 4
    }

    /// A gate in the middle of storing something gets this long to let go of the lock.
    #[must_use]
    pub const fn lock_ms(self) -> u64 {
        self.stop_max_ms / 8
    }

    /// The kernel releases the lock of a killed process within moments.
    #[must_use]
    pub const fn after_kill_ms(self) -> u64 {
        self.stop_max_ms / 16
    }

    /// What the warden's stop and verify may take together when they begin `now`: what is left, and no more than a step
    /// takes. A warden that was late itself takes the time that a stop needs.
    #[must_use]
    pub fn warden_stop_ms(self, deadline: Option<BootMs>, now: BootMs, step_ms: u64) -> u64 {
        let step_ms = step_ms.min(self.stop_ms());
        let left = deadline.map_or(step_ms, |deadline| deadline.plus(self.stop_max_ms).since(now));
        if left >= self.stop_max_ms / 2 { left.min(step_ms) } else { step_ms }
    }

    /// What is to be done about a record. `noticed`: when its ticket was first seen without a lease that runs.
    #[must_use]
    pub fn judge(self, record: Brief, deadline: Option<BootMs>, noticed: BootMs, now: BootMs) -> Verdict {
        if !record.may_run {
            return Verdict::Fine;
        }
        match deadline {
            Some(deadline) if !record.closed && now < deadline => Verdict::Fine,
            Some(_) if !record.closed => Verdict::Late,
            // A planned stop of a lease that still runs has until its deadline as well.
            Some(deadline) => Verdict::GateActs { until: deadline.plus(self.grace_ms()) },
            None => Verdict::GateActs { until: noticed.plus(self.grace_ms()) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, POLL_MS, STOP_MAX_LEAST_MS, Verdict};
    use crate::gate::record::{BootMs, Brief, Record};

    /// The moment a warden that looks every [`POLL_MS`] acts, if nothing is done about the record.
    fn acts_at(budget: Budget, record: Brief, deadline: BootMs, looks: impl Iterator<Item = u64>) -> BootMs {
        let mut noticed = None;
        for now in looks.map(BootMs) {
            let since = *noticed.get_or_insert(now);
            match budget.judge(record, Some(deadline), since, now) {
                Verdict::Fine => noticed = None,
                Verdict::GateActs { until } if now < until => {}
                Verdict::GateActs { .. } | Verdict::Late => return now,
            }
        }
        unreachable!("a warden looks for ever")
    }

    #[test]
    fn whatever_hangs_the_stop_ends_within_stop_max_of_the_deadline() {
        for stop_max_ms in [STOP_MAX_LEAST_MS, 1_400, 4_000, 10_000] {
            let budget = Budget { stop_max_ms };
            let deadline = BootMs(60_000);
            let ends_by = deadline.plus(stop_max_ms);
            assert!(deadline.plus(budget.stop_ms()) < ends_by, "the gate's own stop");
            let open = Brief { may_run: true, ..Record::default().brief() };
            let closed = Brief { closed: true, ..open };
            for record in [open, closed] {
                for phase in 0..POLL_MS {
                    let looks = (0..).map(|n| 59_000 + phase + n * POLL_MS);
                    let acts = acts_at(budget, record, deadline, looks);
                    // The lock is held as long as it may be, the gate has to be killed, both its stop and its look hang.
                    let begins = acts.plus(budget.lock_ms() + budget.after_kill_ms());
                    for step_ms in [budget.stop_ms(), stop_max_ms, 60_000] {
                        let takes = budget.warden_stop_ms(Some(deadline), begins, step_ms);
                        let (ends, least) = (begins.plus(takes), stop_max_ms / 2);
                        assert!(ends <= ends_by, "{stop_max_ms} {phase} {record:?}: ends at {ends}, not by {ends_by}");
                        assert!(takes >= least, "{stop_max_ms} {phase}: {takes} ms is no time to stop anything");
                    }
                }
            }
        }
    }

    #[test]
    fn a_late_warden_takes_the_time_that_a_stop_needs() {
        let budget = Budget { stop_max_ms: 4_000 };
        assert_eq!(budget.warden_stop_ms(Some(BootMs(1)), BootMs(60_000), 2_000), 2_000);
        assert_eq!(budget.warden_stop_ms(Some(BootMs(1)), BootMs(60_000), 9_000), 3_000);
        assert_eq!(budget.warden_stop_ms(None, BootMs(60_000), 2_000), 2_000, "a boot later nobody knows the deadline");
    }

    #[test]
    fn what_the_files_mean() {
        let budget = Budget { stop_max_ms: 4_000 };
        let open = Brief { may_run: true, ..Record::default().brief() };
        let closed = Brief { closed: true, ..open };
        let acts = |until| Verdict::GateActs { until: BootMs(until) };
        for (record, deadline, now, verdict) in [
            (Record::default().brief(), None, 500, Verdict::Fine),
            (open, Some(100), 99, Verdict::Fine),
            (open, Some(100), 100, Verdict::Late),
            (open, None, 50, acts(1_040)),
            (closed, Some(100), 50, acts(1_100)),
        ] {
            let found = budget.judge(record, deadline.map(BootMs), BootMs(40), BootMs(now));
            assert_eq!(found, verdict, "{record:?} at {now}");
        }
    }
}
