//! What this process sees of the three sites, every second.
//!
//! Invariant: a process that just started, or was thawed, says unknown until it has listened for a whole period; otherwise
//! three collectors frozen together would wake up, see nothing, and grant.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bcp_core::failover::{Observation, Sight};
use bcp_core::policy::Timing;
use bcp_core::replica::Item;
use bcp_wire::Site;
use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

use super::link::Contacts;
use super::log::DecisionLog;
use super::node::Node;
use crate::Shutdown;

/// An observation this often; it expires after 3 s of log time.
const OBSERVE_EVERY: Duration = Duration::from_secs(1);
/// What serve says of agents is good for this long; then nobody knows.
const AGENTS_VALID: Duration = Duration::from_secs(3);
/// A loop that comes round this much late was frozen, or starved so badly that it heard nothing either.
const FREEZE_GAP: Duration = Duration::from_secs(2);

/// Silence for this long makes a site silent: three quarters of the lease, so that the vote is there when the lease ends.
#[must_use]
pub fn silence_period(timing: &Timing) -> Duration {
    Duration::from_millis(timing.ttl_ms * 3 / 4)
}

/// Since when this process has listened without a gap, and what serve told it.
#[derive(Debug)]
pub struct Watchman {
    period: Duration,
    state: Mutex<Listening>,
}

#[derive(Debug)]
struct Listening {
    since: Instant,
    agents: Option<(Instant, BTreeMap<Site, Sight>)>,
}

impl Watchman {
    #[must_use]
    pub fn new(timing: &Timing) -> Watchman {
        let state = Mutex::new(Listening { since: Instant::now(), agents: None });
        Watchman { period: silence_period(timing), state }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Listening> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serve's word on the agents of each site.
    pub fn agents_seen(&self, agents: BTreeMap<Site, Sight>) {
        self.state().agents = Some((Instant::now(), agents));
    }

    /// The process did not run for a while: what it did not hear says nothing.
    pub fn thawed(&self) {
        let mut state = self.state();
        state.since = Instant::now();
        state.agents = None;
    }

    fn judge(&self, age: Option<Duration>, listened: Duration) -> Sight {
        match age {
            Some(age) if age < self.period => Sight::Seen,
            _ if listened >= self.period => Sight::Silent,
            _ => Sight::Unknown,
        }
    }

    /// Control plane and agents of every site, as of now.
    #[must_use]
    pub fn look(&self, own: Site, contacts: &Contacts) -> (BTreeMap<Site, Sight>, BTreeMap<Site, Sight>) {
        let state = self.state();
        let listened = state.since.elapsed();
        let control = |site: Site| match site == own {
            true => Sight::Seen,
            false => {
                let age = [contacts.peer_age(site), contacts.gate_age(site)].into_iter().flatten().min();
                self.judge(age, listened)
            }
        };
        let told = state.agents.as_ref().filter(|(at, _)| at.elapsed() < AGENTS_VALID);
        let agents = |site: Site| told.and_then(|(_, agents)| agents.get(&site).copied()).unwrap_or(Sight::Unknown);
        (
            Site::ALL.into_iter().map(|site| (site, control(site))).collect(),
            Site::ALL.into_iter().map(|site| (site, agents(site))).collect(),
        )
    }
}

/// Time since boot, counting the time a machine was suspended.
fn boot_time() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Number of the next word: above every one of this life, and above what the agreed state has heard from the lives before.
/// A process that restarts and has not caught up yet is ignored until it has.
#[must_use]
pub fn next_seq(last: u64, heard: Option<u64>) -> u64 {
    last.max(heard.unwrap_or(0)).saturating_add(1)
}

/// Proposes an observation every second; one task.
pub async fn run<L: DecisionLog>(node: Arc<Node<L>>, policy_hash: String, mut shutdown: Shutdown) {
    let session = rand::random();
    let mut last = boot_time();
    let mut seq = 0;
    loop {
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(OBSERVE_EVERY) => {}
        }
        let now = boot_time();
        let gap = now.saturating_sub(last);
        last = now;
        if gap > OBSERVE_EVERY + FREEZE_GAP {
            tracing::warn!(
                gap_ms = gap.as_millis(),
                "this process was frozen: it says unknown until it has listened again"
            );
            node.watchman.thawed();
        }
        let (control, agents) = node.watchman.look(node.site, &node.contacts);
        let heard = node.log.applied().read(|replica| replica.failover.board.sights.get(&node.site).map(|own| own.seq));
        seq = next_seq(seq, heard);
        let observation =
            Observation { observer: node.site, session, seq, policy_hash: policy_hash.clone(), control, agents };
        let proposal = node.propose(vec![Item::Observation(observation)]);
        // A log that takes longer must not hold up the next look: that one would come too late to see a freeze.
        let _ = tokio::time::timeout(OBSERVE_EVERY, proposal).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_process_says_unknown_of_what_it_has_not_heard() {
        let watchman = Watchman::new(&Timing::METRO);
        let contacts = Contacts::default();
        contacts.heard_peer(Site::B);
        let (control, agents) = watchman.look(Site::W, &contacts);
        assert_eq!(control[&Site::A], Sight::Unknown);
        assert_eq!(control[&Site::B], Sight::Seen);
        assert_eq!(control[&Site::W], Sight::Seen);
        assert_eq!(agents[&Site::A], Sight::Unknown);
    }

    #[test]
    fn a_new_life_goes_on_above_what_was_heard_of_the_old_one() {
        assert_eq!(next_seq(0, None), 1);
        assert_eq!(next_seq(1, None), 2);
        assert_eq!(next_seq(0, Some(900)), 901);
        assert_eq!(next_seq(905, Some(903)), 906, "some are still on their way");
    }

    #[test]
    fn silence_counts_only_after_a_whole_period() {
        let watchman = Watchman { period: Duration::ZERO, ..Watchman::new(&Timing::METRO) };
        let (control, _) = watchman.look(Site::W, &Contacts::default());
        assert_eq!(control[&Site::A], Sight::Silent);
    }
}
