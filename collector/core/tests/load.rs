//! Size and speed: 500 tickets, every gate renewing, one tick after the other.

mod world;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bcp_core::policy::{Policy, ServicePolicy, Timing};
use bcp_core::replica::{Item, Replica, Tick};
use bcp_core::time::Wall;
use bcp_wire::control::{GateSync, TicketSync};
use bcp_wire::{Epoch, Id, Site};
use world::{passive, sample::id};

const TICKETS: usize = 500;

fn names() -> impl Iterator<Item = Id> {
    (0..TICKETS).map(|n| id(&format!("t{n}")))
}

fn sync(site: Site, nonce: u64, replica: &Replica) -> Item {
    let tickets = names().map(|ticket| {
        let agreed = replica.failover.tickets.get(&ticket);
        let seen = agreed.map_or(Epoch::NONE, |t| t.epoch);
        let renew = agreed.is_some_and(|t| t.holder == Some(site)).then_some(seen);
        let (reports, closed, unstopped) = (Vec::new(), false, false);
        TicketSync {
            ticket,
            seen,
            closed,
            renew,
            reports,
            facts: None,
            trouble: None,
            unstopped,
            loss: None,
            forced: false,
        }
    });
    let gate = id(&format!("host-{site}"));
    Item::Gate(GateSync { site, gate, nonce, seq: nonce, tickets: tickets.collect() })
}

#[test]
#[allow(clippy::disallowed_methods)] // Measures the core from outside it.
fn a_tick_with_the_renewals_of_500_tickets_is_quick() {
    let policy = Policy {
        timing: Timing::METRO,
        tickets: names().map(|ticket| (ticket, passive())).collect(),
        sites: Default::default(),
        pools: Default::default(),
        services: BTreeMap::from([(id("rx"), ServicePolicy::default())]),
    };
    let mut replica = Replica::default();
    let mut took = Vec::new();
    for n in 1..200_u64 {
        let mut items = vec![sync(Site::A, 2 * n, &replica), sync(Site::B, 2 * n + 1, &replica)];
        if n == 1 {
            items.insert(0, Item::Policy(Box::new(policy.clone())));
        }
        let tick = Tick { leader: Site::W, term: 1, elapsed_ms: 250, wall: Wall(0), items };
        let begin = Instant::now();
        replica.apply(n, &tick);
        took.push(begin.elapsed());
    }
    took.sort();
    let median = took[took.len() / 2];
    println!("apply: median {median:?}, most {:?}", took[took.len() - 1]);
    // 5 ms in a release build; debug builds are many times slower, and the machine may be busy.
    assert!(median < Duration::from_millis(if cfg!(debug_assertions) { 100 } else { 5 }), "{median:?}");
}
