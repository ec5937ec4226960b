//! Ticks: the leader gathers what arrived and proposes it, with the time that passed on its own clock.
//!
//! Invariants: log time never runs faster than the leader's monotonic clock; it stands still without a leader; the first
//! tick of a term adds none, also for a node that led before. One proposal at a time, so an answer is read from the state
//! that its own tick left.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bcp_core::policy::Policy;
use bcp_core::replica::{Item, MAX_ELAPSED_MS, MAX_ITEMS_PER_TICK, Tick};
use bcp_core::time::Wall;
use bcp_wire::Site;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};

use super::log::{DecisionLog, Leadership, ProposeError};
use crate::Shutdown;

/// Bytes of requests in one tick: an append must pass a slow link within its limit.
const MAX_TICK_BYTES: usize = 2 * 1024 * 1024;
/// Submissions waiting; at 250 ms a tick this is far more than the gates and processes of three sites send.
const MAX_WAITING: usize = 4_096;
/// A policy that does not take is proposed again this often.
const POLICY_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{limit} submissions wait already", limit = MAX_WAITING)]
pub struct QueueFull;

#[derive(Debug)]
struct Waiting {
    items: Vec<Item>,
    bytes: usize,
    done: oneshot::Sender<Result<u64, ProposeError>>,
}

#[derive(Debug, Default)]
struct Lanes {
    /// Ticket matters go first.
    tickets: VecDeque<Waiting>,
    rest: VecDeque<Waiting>,
}

/// What waits for the next tick.
#[derive(Debug, Default)]
pub struct Queue {
    lanes: Mutex<Lanes>,
    pub refused: AtomicU64,
}

impl Queue {
    /// Adds one submission; the receiver gets the index of the tick that carried it.
    pub fn submit(
        &self,
        items: Vec<Item>,
        bytes: usize,
    ) -> Result<oneshot::Receiver<Result<u64, ProposeError>>, QueueFull> {
        let (done, result) = oneshot::channel();
        let is_ticket_matter =
            items.iter().any(|item| !matches!(item, Item::AlarmVotes(_) | Item::ServiceVotes(_) | Item::SiteVotes(_)));
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = if is_ticket_matter { &mut lanes.tickets } else { &mut lanes.rest };
        if lane.len() >= MAX_WAITING / 2 {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(QueueFull);
        }
        lane.push_back(Waiting { items, bytes, done });
        Ok(result)
    }

    fn take(&self) -> (Vec<Item>, Vec<oneshot::Sender<Result<u64, ProposeError>>>) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut items, mut waiters, mut bytes) = (Vec::new(), Vec::new(), 0);
        let Lanes { tickets, rest } = &mut *lanes;
        for lane in [tickets, rest] {
            while let Some(next) = lane.front() {
                let fits = items.len() + next.items.len() <= MAX_ITEMS_PER_TICK && bytes + next.bytes <= MAX_TICK_BYTES;
                // A submission too large for any tick goes alone; its size was bounded when it came in.
                if !fits && !items.is_empty() {
                    return (items, waiters);
                }
                let Some(next) = lane.pop_front() else { break };
                bytes += next.bytes;
                items.extend(next.items);
                waiters.push(next.done);
            }
        }
        (items, waiters)
    }

    fn fail_all(&self, error: &ProposeError) {
        loop {
            let (_, waiters) = self.take();
            if waiters.is_empty() {
                return;
            }
            finish(waiters, &Err(error.clone()));
        }
    }
}

fn finish(waiters: Vec<oneshot::Sender<Result<u64, ProposeError>>>, result: &Result<u64, ProposeError>) {
    for waiter in waiters {
        // A waiter that gave up needs no answer.
        let _ = waiter.send(result.clone());
    }
}

/// Log time of one leader: what passed since its previous tick of the same term.
#[derive(Debug, Default)]
struct TermClock {
    last: Option<(u64, Instant)>,
}

impl TermClock {
    fn elapsed_ms(&mut self, term: u64, now: Instant) -> u64 {
        let passed = match self.last {
            Some((last_term, at)) if last_term == term => now.saturating_duration_since(at),
            _ => Duration::ZERO,
        };
        let elapsed_ms = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        // The part of a millisecond that is not counted now is counted with the next tick.
        let uncounted = passed.saturating_sub(Duration::from_millis(elapsed_ms));
        self.last = Some((term, now.checked_sub(uncounted).unwrap_or(now)));
        elapsed_ms.min(MAX_ELAPSED_MS)
    }
}

/// Milliseconds since 1970 of this machine's wall clock: a label.
#[must_use]
pub fn wall_now() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Proposes ticks while this node leads; one task.
pub async fn run<L: DecisionLog>(site: Site, log: Arc<L>, queue: Arc<Queue>, policy: Policy, mut shutdown: Shutdown) {
    let mut timer = tokio::time::interval(Duration::from_millis(policy.timing.tick_ms));
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let leadership = log.leadership();
    let policy_hash = policy.hash();
    let mut clock = TermClock::default();
    let mut policy_sent: Option<Instant> = None;
    loop {
        tokio::select! {
            () = shutdown.wait() => return queue.fail_all(&ProposeError::NotLeader),
            _ = timer.tick() => {}
        }
        let Leadership::Leader { term } = *leadership.borrow() else {
            queue.fail_all(&ProposeError::NotLeader);
            continue;
        };
        let (mut items, waiters) = queue.take();
        let policy_differs = log
            .applied()
            .read(|replica| replica.policy.as_ref() != Some(&policy) || replica.failover.policy_hash != policy_hash);
        if policy_differs && policy_sent.is_none_or(|at| at.elapsed() >= POLICY_EVERY) {
            items.insert(0, Item::Policy(Box::new(policy.clone())));
            policy_sent = Some(Instant::now());
        }
        let elapsed_ms = clock.elapsed_ms(term, Instant::now());
        let tick = Tick { leader: site, term, elapsed_ms, wall: wall_now(), items };
        let result = tokio::select! {
            () = shutdown.wait() => Err(ProposeError::Lost),
            result = log.propose(tick) => result,
        };
        finish(waiters, &result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_time_starts_anew_in_every_term_and_is_capped() {
        let mut clock = TermClock::default();
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_micros(ms * 1_000 + 700);
        assert_eq!(clock.elapsed_ms(1, start), 0);
        assert_eq!(clock.elapsed_ms(1, at(250)), 250);
        assert_eq!(
            clock.elapsed_ms(1, start + Duration::from_micros(500_400)),
            250,
            "the rest of a millisecond is kept"
        );
        assert_eq!(clock.elapsed_ms(2, at(750)), 0, "a new term");
        assert_eq!(clock.elapsed_ms(2, at(3_600_000)), MAX_ELAPSED_MS);
    }

    #[test]
    fn ticket_matters_go_first() {
        use bcp_core::alarms::AlarmVotes;
        use bcp_wire::control::GateSync;
        let queue = Queue::default();
        let votes = AlarmVotes { observer: Site::A, session: 1, full: true, votes: Default::default() };
        let sync = GateSync { site: Site::A, gate: "host-a".parse().unwrap(), nonce: 1, seq: 1, tickets: Vec::new() };
        let _first = queue.submit(vec![Item::AlarmVotes(votes)], 10).unwrap();
        let _second = queue.submit(vec![Item::Gate(sync)], 10).unwrap();
        let (items, _) = queue.take();
        assert!(matches!(items.as_slice(), [Item::Gate(_), Item::AlarmVotes(_)]));
    }

    #[test]
    fn a_full_queue_says_so() {
        let queue = Queue::default();
        let kept: Vec<_> = (0..MAX_WAITING / 2).map(|_| queue.submit(Vec::new(), 0).unwrap()).collect();
        assert!(queue.submit(Vec::new(), 0).is_err());
        assert_eq!(kept.len(), MAX_WAITING / 2);
        queue.fail_all(&ProposeError::NotLeader);
    }
}
