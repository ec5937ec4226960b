//! Which servers count as up: rise and fall times, and silence that may be the network.

use std::collections::BTreeMap;

use bcp_wire::Id;

/// What is seen of a server at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Glance {
    Up,
    Down,
    /// Its agent vanished.
    Silent,
    Unknown,
}

/// The state that counts, and what it may be on its way to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Server {
    counts: Glance,
    next: Glance,
    since_ms: u64,
}

/// Servers of one pool at one site, as one observer follows them.
#[derive(Debug, Clone, Default)]
pub struct Follower {
    servers: BTreeMap<Id, Server>,
}

impl Follower {
    /// Takes in a glance and gives the state that counts: up after `rise_ms` of up, anything worse after `fall_ms` of it. A
    /// server that was never seen before is unknown until then.
    pub fn see(&mut self, id: &Id, glance: Glance, now_ms: u64, rise_ms: u64, fall_ms: u64) -> Glance {
        let fresh = Server { counts: Glance::Unknown, next: glance, since_ms: now_ms };
        let server = self.servers.entry(id.clone()).or_insert(fresh);
        if server.next != glance {
            // From one bad state to another the fall goes on.
            let worsens = server.next != Glance::Up && glance != Glance::Up;
            server.since_ms = if worsens { server.since_ms } else { now_ms };
            server.next = glance;
        }
        let wait_ms = if glance == Glance::Up { rise_ms } else { fall_ms };
        if now_ms.saturating_sub(server.since_ms) >= wait_ms {
            server.counts = glance;
        }
        server.counts
    }

    /// Forgets servers that are no longer in the pool.
    pub fn keep(&mut self, listed: impl Fn(&Id) -> bool) {
        self.servers.retain(|id, _| listed(id));
    }
}

/// Agents that vanish within this much of each other vanish at once.
pub const INTERVAL_MS: u64 = 15_000;
/// Below this number of agents no share of them is a crowd.
pub const CROWD_LEAST: usize = 3;

/// Watches the agents of one site for a silence that takes more than half of them at once.
#[derive(Debug, Clone, Default)]
pub struct Crowd {
    /// Per agent: since when it is silent.
    silent_since: BTreeMap<Id, u64>,
    on: bool,
}

impl Crowd {
    /// `agents`: each with whether it is heard now. True while a mass silence lasts: until at least half are heard again.
    pub fn see<'a>(&mut self, agents: impl Iterator<Item = (&'a Id, bool)>, now_ms: u64) -> bool {
        let mut before = std::mem::take(&mut self.silent_since);
        let mut count = 0;
        for (id, heard) in agents {
            count += 1;
            if !heard {
                self.silent_since.insert(id.clone(), before.remove(id).unwrap_or(now_ms));
            }
        }
        let silent = self.silent_since.len();
        let many = |n: usize| count >= CROWD_LEAST && n * 2 > count;
        let newest = self.silent_since.values().copied().max().unwrap_or(0);
        let at_once = self.silent_since.values().filter(|since| newest.saturating_sub(**since) <= INTERVAL_MS).count();
        self.on = many(silent) && (self.on || many(at_once));
        self.on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> Id {
        format!("srv-{n}").parse().unwrap()
    }

    #[test]
    fn a_server_rises_and_falls_after_its_time_and_a_flap_changes_nothing() {
        let mut pool = Follower::default();
        let mut see = |glance, now| pool.see(&id(1), glance, now, 10, 20);
        assert_eq!(see(Glance::Up, 0), Glance::Unknown);
        assert_eq!(see(Glance::Up, 9), Glance::Unknown);
        assert_eq!(see(Glance::Up, 10), Glance::Up);
        assert_eq!(see(Glance::Down, 20), Glance::Up);
        assert_eq!(see(Glance::Up, 30), Glance::Up, "a flap");
        assert_eq!(see(Glance::Silent, 40), Glance::Up);
        assert_eq!(see(Glance::Down, 50), Glance::Up, "from bad to bad the fall goes on");
        assert_eq!(see(Glance::Down, 60), Glance::Down);
        assert_eq!(see(Glance::Up, 65), Glance::Down);
        assert_eq!(see(Glance::Up, 75), Glance::Up);
    }

    #[test]
    fn more_than_half_at_once_is_a_crowd_and_one_after_the_other_is_not() {
        let ids: Vec<Id> = (0..5).map(id).collect();
        let see = |crowd: &mut Crowd, silent: usize, now| {
            crowd.see(ids.iter().enumerate().map(|(n, id)| (id, n >= silent)), now)
        };
        let mut crowd = Crowd::default();
        assert!(!see(&mut crowd, 0, 0));
        assert!(!see(&mut crowd, 2, 1_000));
        assert!(see(&mut crowd, 3, 2_000), "60 %");
        assert!(see(&mut crowd, 3, 90_000), "it lasts");
        assert!(!see(&mut crowd, 2, 91_000), "most are back");
        let mut crowd = Crowd::default();
        for n in 1..=5 {
            assert!(!see(&mut crowd, n, 20_000 * n as u64), "one by one: {n}");
        }
        let mut few = Crowd::default();
        assert!(!few.see(ids.iter().take(2).map(|id| (id, false)), 0), "two are no crowd");
    }
}
