//! Whether a policy is safe and makes sense. Every fault at once, each with the key it is about.
//!
//! Knows: the lease arithmetic and what tickets may ask for. Refuses to know: files and lines; the loader adds those.

use std::collections::BTreeSet;
use std::fmt;

use bcp_wire::control::MAX_TICKETS_PER_GATE;
use bcp_wire::{Epoch, Id, Site};

use super::{LossPolicy, Mode, MoveWhen, Policy, TicketKind, TicketPolicy, Timing};
use crate::ledger::canonical_hash;
use crate::site::Supply;

/// Assumed bound of clock drift between any two machines, in percent. A machine beyond it raises an alarm.
pub const RHO_PERCENT: u64 = 1;
/// Longest duration a policy may name: an error of units is likelier than a wish.
pub const MAX_DURATION_MS: u64 = 30 * 24 * 3_600_000;

/// Something wrong, where, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Key path, as `["ticket", "prescriptions", "sites"]`.
    pub path: Vec<String>,
    pub problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error(
        "the old holder may still run when the new one starts: (ttl_holder {ttl_holder_ms} + stop_max {stop_max_ms}) * 1.01 / 0.99 + one tick of {tick_ms} = {stopped_by_ms} ms is not below ttl {ttl_ms} + acquire_after {acquire_after_ms} = {starts_at_ms} ms; raise ttl or acquire_after, or lower ttl_holder or stop_max"
    )]
    LeaseInequality {
        ttl_holder_ms: u64,
        stop_max_ms: u64,
        tick_ms: u64,
        ttl_ms: u64,
        acquire_after_ms: u64,
        stopped_by_ms: u64,
        starts_at_ms: u64,
    },
    #[error("{what} must hold: {why}")]
    TimingOrder { what: &'static str, why: &'static str },
    #[error("site w only witnesses and never holds a ticket; leave it out")]
    WitnessHolds,
    #[error("there is no site that may hold it; name a, b or both")]
    NoSites,
    #[error("site {site} is named twice")]
    Twice { site: Site },
    #[error("site {site} is none of the ticket's sites")]
    ForeignSite { site: Site },
    #[error("site {site} has no gate: nothing there could run or stop the service")]
    NoGate { site: Site },
    #[error("there is no service {service}")]
    UnknownService { service: Id },
    #[error("there is no ticket {ticket}")]
    UnknownTicket { ticket: Id },
    #[error("tickets depend on each other in a circle: {circle}")]
    Circle { circle: String },
    #[error(
        "nothing fences a lost holder: mode auto needs loss = \"fence\" or accept_unfenced = true, which every page will show"
    )]
    Unfenced,
    #[error(
        "with \"freeze\" nothing stops when the lease runs out, so two sites would be active; use \"stop\", \"demote\" or \"fence\""
    )]
    NothingStops,
    #[error(
        "nothing of an active-active service is promoted or stopped, so \"{loss}\" would do nothing; use \"freeze\""
    )]
    NothingToStop { loss: &'static str },
    #[error(
        "{what} cannot change while site {site} holds it (epoch {epoch}); stop its gates there first, or use another name"
    )]
    InUseChanged { what: &'static str, site: Site, epoch: Epoch },
    #[error("site {site} holds it, or may (epoch {epoch}); move it to another site first, then leave {site} out")]
    InUseAtSite { site: Site, epoch: Epoch },
    #[error(
        "{ticket} is held by site {site} (epoch {epoch}) and its service would stop; stop its gates there first, then leave it out"
    )]
    InUseRemoved { ticket: Id, site: Site, epoch: Epoch },
    #[error(
        "site {site} holds it (epoch {epoch}) and none of the gates that renew it would be left; keep one of them until it has moved"
    )]
    InUseWithoutGate { site: Site, epoch: Epoch },
    #[error("mode {mode} without move_when never moves by itself")]
    NeverMoves { mode: &'static str },
    #[error("{value_ms} ms is not between {least_ms} ms and 30 days")]
    Duration { value_ms: u64, least_ms: u64 },
    #[error("an active-active ticket needs at least two sites, so that one can be taken out")]
    OneSiteActive,
    #[error("gate {gate} of site {site} serves more than {MAX_TICKETS_PER_GATE} tickets")]
    GateFull { site: Site, gate: Id },
    #[error(
        "`{text}` is none of `site_lost(holder)`, `service_down(holder) for <duration>`, `power_runway(holder) < duration(\"<duration>\")` and the same with `cooling_runway`"
    )]
    MoveWhen { text: String },
    #[error(
        "`{text}` is none of `fresh(target)`, `active(target, \"<pool>\") >= <number>` and `load(all) <= <0.001 to 1> * capacity(target)`"
    )]
    Require { text: String },
    #[error("nothing tells the {supply} of site {site}: name its devices in [site.{site}]")]
    NoSupply { site: Site, supply: &'static str },
    #[error("there is no pool {pool}")]
    UnknownPool { pool: Id },
    #[error("pool {pool} names no servers of site {site}, so nobody would report them")]
    NoServers { pool: Id, site: Site },
    #[error("the ticket needs a pool with `each`: what one of its servers can carry")]
    NoCapacity,
    #[error(
        "the ticket needs a pool with `each` and `load`: what its servers can carry, and which point says what they carry"
    )]
    NoLoad,
    #[error("an active-active ticket has no copy that could be fresh")]
    NothingFresh,
    #[error("{needed} of {named} UPSs cannot be needed; name between 1 and {named}")]
    UpsNeeded { needed: u32, named: usize },
    #[error("{cel} Cel is not between 20 and 60")]
    TooHot { cel: u32 },
    #[error("site {site} has {most} servers, so {min} can never be up")]
    PoolShort { min: u32, site: Site, most: usize },
    #[error("only site w can be the emergency site, of an active-passive ticket, with a gate there")]
    Emergency,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.join("."), self.problem)
    }
}

impl std::error::Error for Fault {}

impl Timing {
    /// When the old holder has surely stopped, counted from its last applied renewal, with one tick to spare:
    /// (ttl_holder + stop_max) * (1 + rho) / (1 - rho) + tick, rounded up.
    #[must_use]
    pub const fn stopped_by_ms(&self) -> u64 {
        let bare = self.ttl_holder_ms.saturating_add(self.stop_max_ms);
        bare.saturating_mul(100 + RHO_PERCENT).div_ceil(100 - RHO_PERCENT).saturating_add(self.tick_ms)
    }

    /// When a grant to another site takes effect at the earliest, counted from the same moment.
    #[must_use]
    pub const fn starts_at_ms(&self) -> u64 {
        self.ttl_ms.saturating_add(self.acquire_after_ms)
    }

    /// # Errors
    /// The arithmetic that does not hold.
    pub fn check_lease(&self) -> Result<(), Problem> {
        let (stopped_by_ms, starts_at_ms) = (self.stopped_by_ms(), self.starts_at_ms());
        if stopped_by_ms < starts_at_ms {
            return Ok(());
        }
        Err(Problem::LeaseInequality {
            ttl_holder_ms: self.ttl_holder_ms,
            stop_max_ms: self.stop_max_ms,
            tick_ms: self.tick_ms,
            ttl_ms: self.ttl_ms,
            acquire_after_ms: self.acquire_after_ms,
            stopped_by_ms,
            starts_at_ms,
        })
    }

    fn order_faults(&self) -> Vec<Problem> {
        let rules = [
            (self.tick_ms >= 50, "tick >= 50 ms", "each tick is a synced write on two disks"),
            (
                self.election_min_ms >= self.tick_ms.saturating_mul(3),
                "election_min >= 3 tick",
                "one lost heartbeat is no election",
            ),
            (
                self.election_max_ms > self.election_min_ms,
                "election_max > election_min",
                "two candidates must not tie for ever",
            ),
            (
                self.renew_ms.saturating_mul(3) <= self.ttl_holder_ms,
                "3 renew <= ttl_holder",
                "two lost renewals stop nothing",
            ),
            (self.ttl_holder_ms <= self.ttl_ms, "ttl_holder <= ttl", "the holder stops before its ticket expires"),
            (
                self.stop_max_ms >= 1_000,
                "stop_max >= 1 s",
                "a warden notices, gets its lock, stops and verifies within it",
            ),
        ];
        let broken = rules.into_iter().filter(|(holds, ..)| !holds);
        broken.map(|(_, what, why)| Problem::TimingOrder { what, why }).collect()
    }
}

impl Policy {
    /// Names this policy: equal on collectors that were given the same.
    #[must_use]
    pub fn hash(&self) -> String {
        canonical_hash(self)
    }

    /// The first fault that makes it unsafe to follow, whoever proposed it.
    #[must_use]
    pub fn unsafe_fault(&self) -> Option<Fault> {
        if let Err(problem) = self.timing.check_lease() {
            return Some(Fault { path: path(&["timing"]), problem });
        }
        self.tickets.iter().find_map(|(id, ticket)| {
            let (key, problem) = match ticket {
                _ if ticket.sites.contains(&Site::W) => ("sites", Problem::WitnessHolds),
                _ if ticket.emergency.is_some_and(|site| site != Site::W) => ("emergency", Problem::Emergency),
                _ if ticket.kind == TicketKind::ActivePassive && ticket.loss == LossPolicy::Freeze => {
                    ("loss", Problem::NothingStops)
                }
                _ => return None,
            };
            Some(Fault { path: path(&["ticket", id.as_str(), key]), problem })
        })
    }

    /// Every fault, in the order of the keys.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let timing = self.timing.check_lease().err().into_iter().chain(self.timing.order_faults());
        faults.extend(timing.map(|problem| Fault { path: path(&["timing"]), problem }));
        for (id, ticket) in &self.tickets {
            let mut add = |key: &str, problem| {
                faults.push(Fault { path: path(&["ticket", id.as_str(), key]), problem });
            };
            self.ticket_faults(id, ticket, &mut add);
        }
        self.gate_faults(&mut faults);
        self.facts_faults(&mut faults);
        for (id, service) in &self.services {
            if let Some(ticket) = service.ticket.as_ref().filter(|ticket| !self.tickets.contains_key(*ticket)) {
                let problem = Problem::UnknownTicket { ticket: ticket.clone() };
                faults.push(Fault { path: path(&["service", id.as_str(), "ticket"]), problem });
            }
        }
        faults
    }

    fn ticket_faults(&self, id: &Id, ticket: &TicketPolicy, add: &mut impl FnMut(&str, Problem)) {
        if !self.services.contains_key(&ticket.service) {
            add("service", Problem::UnknownService { service: ticket.service.clone() });
        }
        site_faults(ticket, add);
        for other in ticket.depends_on.iter().filter(|other| !self.tickets.contains_key(*other)) {
            add("depends_on", Problem::UnknownTicket { ticket: other.clone() });
        }
        if let Some(circle) = self.circle(id) {
            add("depends_on", Problem::Circle { circle });
        }
        let passive = ticket.kind == TicketKind::ActivePassive;
        match ticket.loss {
            LossPolicy::Freeze if passive => add("loss", Problem::NothingStops),
            LossPolicy::Demote if !passive => add("loss", Problem::NothingToStop { loss: "demote" }),
            LossPolicy::Fence if !passive => add("loss", Problem::NothingToStop { loss: "fence" }),
            // Of an active-active service `stop` is taken for what it is without a key: nothing.
            LossPolicy::Stop | LossPolicy::Freeze | LossPolicy::Demote | LossPolicy::Fence => {}
        }
        if passive && ticket.mode == Mode::Auto && !ticket.accept_unfenced && ticket.loss != LossPolicy::Fence {
            add("mode", Problem::Unfenced);
        }
        match ticket.mode {
            Mode::Auto | Mode::Confirm if ticket.move_when.is_empty() => {
                let mode = if ticket.mode == Mode::Auto { "auto" } else { "confirm" };
                add("move_when", Problem::NeverMoves { mode });
            }
            Mode::Off | Mode::Observe | Mode::Confirm | Mode::Auto => {}
        }
        duration_faults(ticket, add);
    }

    /// The circle of dependencies through `start`, if it is the first name in it: each circle is told once.
    fn circle(&self, start: &Id) -> Option<String> {
        let mut way = vec![start];
        let mut seen = BTreeSet::new();
        self.walk(start, &mut way, &mut seen).then(|| {
            let first = way.iter().min() == Some(&start);
            first.then(|| way.iter().chain([&start]).map(|id| id.as_str()).collect::<Vec<_>>().join(" -> "))
        })?
    }

    fn walk<'a>(&'a self, start: &'a Id, way: &mut Vec<&'a Id>, seen: &mut BTreeSet<&'a Id>) -> bool {
        let Some(ticket) = way.last().and_then(|id| self.tickets.get(*id)) else { return false };
        for next in &ticket.depends_on {
            if next == start {
                return true;
            }
            if seen.insert(next) {
                way.push(next);
                if self.walk(start, way, seen) {
                    return true;
                }
                way.pop();
            }
        }
        false
    }

    fn gate_faults(&self, faults: &mut Vec<Fault>) {
        let mut load = std::collections::BTreeMap::<(Site, &Id), usize>::new();
        for (id, ticket) in &self.tickets {
            for (site, gate) in
                ticket.gates.iter().flat_map(|(site, gates)| gates.iter().map(move |gate| (*site, gate)))
            {
                let count = load.entry((site, gate)).or_default();
                *count += 1;
                if *count == MAX_TICKETS_PER_GATE + 1 {
                    let problem = Problem::GateFull { site, gate: gate.clone() };
                    faults.push(Fault { path: path(&["ticket", id.as_str(), "gates"]), problem });
                }
            }
        }
    }
}

fn site_faults(ticket: &TicketPolicy, add: &mut impl FnMut(&str, Problem)) {
    if ticket.sites.contains(&Site::W) {
        add("sites", Problem::WitnessHolds);
    }
    if ticket.sites.is_empty() {
        add("sites", Problem::NoSites);
    }
    if ticket.kind == TicketKind::ActiveActive && ticket.sites.len() == 1 {
        add("sites", Problem::OneSiteActive);
    }
    let mut known = BTreeSet::new();
    for site in &ticket.sites {
        if !known.insert(*site) {
            add("sites", Problem::Twice { site: *site });
        }
        if ticket.gates.get(site).is_none_or(Vec::is_empty) {
            add("gates", Problem::NoGate { site: *site });
        }
    }
    let passive = ticket.kind == TicketKind::ActivePassive;
    let has_gate = |site: &Site| ticket.gates.get(site).is_some_and(|gates| !gates.is_empty());
    if ticket.emergency.is_some_and(|site| site != Site::W || !passive || !has_gate(&site)) {
        add("emergency", Problem::Emergency);
    }
    for site in ticket.gates.keys().filter(|site| !ticket.places().any(|place| place == **site)) {
        add("gates", Problem::ForeignSite { site: *site });
    }
    if let Some(site) = ticket.preferred.filter(|site| !ticket.sites.contains(site)) {
        add("preferred", Problem::ForeignSite { site });
    }
}

fn duration_faults(ticket: &TicketPolicy, add: &mut impl FnMut(&str, Problem)) {
    let mut check = |key: &str, value_ms: u64, least_ms: u64| {
        if value_ms < least_ms || value_ms > MAX_DURATION_MS {
            add(key, Problem::Duration { value_ms, least_ms });
        }
    };
    if ticket.mode == Mode::Confirm {
        check("confirm_within", ticket.confirm_within_ms, 1_000);
    }
    check("cooldown", ticket.cooldown_ms, 0);
    check("stable_for", ticket.stable_for_ms, 0);
    for when in &ticket.move_when {
        match when {
            MoveWhen::SiteLost => {}
            MoveWhen::ServiceDown { for_ms } => check("move_when", *for_ms, 1_000),
            // A switchover takes seconds, and a UPS tells whole minutes.
            MoveWhen::RunsOut { under_ms, .. } => check("move_when", *under_ms, 60_000),
        }
    }
}

pub(super) fn path(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

/// `site_lost(holder)`, `service_down(holder) for 30s` or `power_runway(holder) < duration("6m")` (`ms`, `s`, `m`, `h`).
impl std::str::FromStr for MoveWhen {
    type Err = Problem;
    fn from_str(text: &str) -> Result<Self, Problem> {
        let fault = || Problem::MoveWhen { text: text.chars().take(64).collect() };
        let words: Vec<&str> = text.split_whitespace().collect();
        match words.as_slice() {
            ["site_lost(holder)"] => Ok(MoveWhen::SiteLost),
            ["service_down(holder)", "for", length] => {
                Ok(MoveWhen::ServiceDown { for_ms: duration_ms(length).ok_or_else(fault)? })
            }
            _ => runs_out(text).ok_or_else(fault),
        }
    }
}

fn runs_out(text: &str) -> Option<MoveWhen> {
    let dense: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let (runway, limit) = dense.split_once('<')?;
    let supply = match runway {
        "power_runway(holder)" => Supply::Power,
        "cooling_runway(holder)" => Supply::Cooling,
        _ => return None,
    };
    let limit = limit.strip_prefix("duration(")?.strip_suffix(')')?.trim_matches(['"', '\'']);
    Some(MoveWhen::RunsOut { supply, under_ms: duration_ms(limit)? })
}

fn duration_ms(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(scale)
}

#[cfg(test)]
#[path = "../../tests/sample/mod.rs"]
mod sample;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ServicePolicy;
    use bcp_wire::control::Loss;
    use std::collections::BTreeMap;

    use super::sample::{id, passive};

    fn ticket() -> TicketPolicy {
        TicketPolicy { move_when: vec![MoveWhen::SiteLost], ..passive() }
    }

    fn policy(tickets: &[(&str, TicketPolicy)]) -> Policy {
        let service = ServicePolicy::default();
        Policy {
            sites: Default::default(),
            pools: Default::default(),
            timing: Timing::METRO,
            tickets: tickets.iter().map(|(name, ticket)| (id(name), ticket.clone())).collect(),
            services: BTreeMap::from([(id("rx"), service)]),
        }
    }

    fn faults(policy: &Policy) -> Vec<String> {
        policy.faults().iter().map(Fault::to_string).collect()
    }

    #[test]
    fn the_three_profiles_are_safe_and_in_order() {
        for timing in [Timing::METRO, Timing::WIDE, Timing::FAST] {
            assert_eq!(timing.check_lease(), Ok(()));
            assert_eq!(timing.order_faults(), Vec::new());
        }
        assert_eq!(Timing::METRO.stopped_by_ms(), 14_533);
    }

    #[test]
    fn the_inequality_is_strict_and_its_arithmetic_is_shown() {
        let mut timing = Timing { acquire_after_ms: 3_534, ..Timing::METRO };
        assert_eq!(timing.check_lease(), Ok(()));
        timing.acquire_after_ms = 3_533;
        let text = timing.check_lease().unwrap_err().to_string();
        assert!(
            text.contains("(ttl_holder 10000 + stop_max 4000) * 1.01 / 0.99 + one tick of 250 = 14533 ms"),
            "{text}"
        );
        assert!(text.contains("= 14533 ms; raise"), "{text}");
    }

    #[test]
    fn a_sound_policy_has_no_fault() {
        assert_eq!(faults(&policy(&[("rx", ticket())])), Vec::<String>::new());
    }

    #[test]
    fn every_fault_is_told_at_once_with_its_key() {
        let mut bad = ticket();
        bad.sites = vec![Site::A, Site::W, Site::A];
        bad.service = id("nothing");
        bad.preferred = Some(Site::B);
        (bad.loss, bad.accept_unfenced) = (LossPolicy::Freeze, false);
        bad.depends_on = vec![id("ghost")];
        let found = faults(&policy(&[("rx", bad)]));
        for key in ["service", "sites", "gates", "preferred", "mode", "loss", "depends_on"] {
            assert!(found.iter().any(|text| text.starts_with(&format!("ticket.rx.{key}: "))), "{key} in {found:#?}");
        }
    }

    #[test]
    fn a_loss_policy_that_no_gate_carries_out_is_refused() {
        let with = |kind, loss| faults(&policy(&[("rx", TicketPolicy { kind, loss, ..ticket() })])).join("; ");
        let (passive, active) = (TicketKind::ActivePassive, TicketKind::ActiveActive);
        for (kind, loss, says) in [
            (active, LossPolicy::Fence, "\"fence\" would do nothing"),
            (active, LossPolicy::Demote, "\"demote\" would do nothing"),
            (passive, LossPolicy::Freeze, "two sites would be active"),
        ] {
            assert!(with(kind, loss).contains(says), "{kind:?} {loss:?}: {}", with(kind, loss));
        }
        for (kind, loss) in [(active, LossPolicy::Freeze), (passive, LossPolicy::Fence), (passive, LossPolicy::Demote)]
        {
            assert_eq!(with(kind, loss), "");
        }
        // The log refuses it as well, whoever proposed it.
        let frozen = policy(&[("rx", TicketPolicy { loss: LossPolicy::Freeze, ..ticket() })]);
        assert_eq!(frozen.unsafe_fault().map(|fault| fault.problem), Some(Problem::NothingStops));
    }

    #[test]
    fn only_a_fence_stands_in_for_a_word_of_the_operator() {
        let auto = |loss| TicketPolicy { mode: Mode::Auto, accept_unfenced: false, loss, ..ticket() };
        assert_eq!(faults(&policy(&[("rx", auto(LossPolicy::Fence))])), Vec::<String>::new());
        let stop = faults(&policy(&[("rx", auto(LossPolicy::Stop))]));
        assert!(stop[0].starts_with("ticket.rx.mode: nothing fences"), "{stop:?}");
    }

    #[test]
    fn a_gate_that_is_set_otherwise_is_not_relied_on() {
        let differs = |loss, said| TicketPolicy { loss, ..ticket() }.loss_differs(said);
        assert_eq!(differs(LossPolicy::Stop, None), None, "an older gate stops");
        assert_eq!(differs(LossPolicy::Fence, Some(Loss::Fence)), None);
        let text = differs(LossPolicy::Fence, Some(Loss::Stop)).unwrap();
        assert_eq!(text, "the policy says loss = \"fence\", this gate is set to \"stop\"");
        assert!(differs(LossPolicy::Demote, None).is_some());
        let active = TicketPolicy { kind: TicketKind::ActiveActive, loss: LossPolicy::Freeze, ..ticket() };
        assert_eq!(active.loss_differs(Some(Loss::Stop)), None);
    }

    #[test]
    fn a_circle_is_told_once() {
        let with = |other: &str| TicketPolicy { depends_on: vec![id(other)], ..ticket() };
        let found = faults(&policy(&[("p", with("q")), ("q", with("r")), ("r", with("p")), ("s", with("p"))]));
        assert_eq!(found, ["ticket.p.depends_on: tickets depend on each other in a circle: p -> q -> r -> p"]);
    }

    #[test]
    fn conditions_are_read_as_written() {
        assert_eq!("site_lost(holder)".parse(), Ok(MoveWhen::SiteLost));
        let down = "service_down(holder) for 30s".parse::<MoveWhen>().unwrap();
        assert_eq!(down, MoveWhen::ServiceDown { for_ms: 30_000 });
        assert_eq!(down.to_string(), "service_down(holder) for 30s");
        for text in [
            "",
            "site_lost(w)",
            "service_down(holder)",
            "service_down(holder) for 3 days",
            "service_down(holder) for s",
        ] {
            assert!(text.parse::<MoveWhen>().is_err(), "{text}");
        }
    }
}
