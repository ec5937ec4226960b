//! The shared policy file: timing, tickets, services, and the sections of rules and assets.

use std::collections::{BTreeMap, BTreeSet};

use bcp_core::policy::{
    LossPolicy, Mode, MoveWhen, Policy, PoolPolicy, Problem, Require, Rpo, ServicePolicy, SitePolicy, TicketKind,
    TicketPolicy, Timing,
};
use bcp_wire::{Id, Site};
use toml_edit::Item;

use super::read::{Section, Source};
use super::value::{Parsed, count, duration_ms, flag, ids, list, map, site_map, text, word};
use super::{AssetSection, RuleSection};

const MODES: &[(&str, Mode)] =
    &[("off", Mode::Off), ("observe", Mode::Observe), ("confirm", Mode::Confirm), ("auto", Mode::Auto)];
const KINDS: &[(&str, TicketKind)] =
    &[("active-passive", TicketKind::ActivePassive), ("active-active", TicketKind::ActiveActive)];
const LOSSES: &[(&str, LossPolicy)] = &[
    ("freeze", LossPolicy::Freeze),
    ("demote", LossPolicy::Demote),
    ("stop", LossPolicy::Stop),
    ("fence", LossPolicy::Fence),
];

/// Everything of the policy file.
pub(super) struct PolicyFile {
    pub policy: Policy,
    pub rules: Vec<RuleSection>,
    pub assets: BTreeMap<Id, AssetSection>,
}

/// Reads the file; faults go to the source. None only together with faults.
pub(super) fn read(source: &Source) -> Option<PolicyFile> {
    let document = source.document()?;
    let mut root = source.root(&document);
    let timing = timing(&mut root);
    let id_help = "an id is 1 to 32 of a-z, 0-9 and -";
    let mut written = BTreeSet::new();
    let mut tickets = BTreeMap::new();
    for (id, mut section) in root.named::<Id>("ticket", id_help) {
        tickets.extend(ticket(&mut section).map(|policy| (id.clone(), policy)));
        section.close();
        written.insert(id);
    }
    let mut services = BTreeMap::new();
    for (id, mut section) in root.named::<Id>("service", id_help) {
        services.extend(service(&mut section).map(|policy| (id.clone(), policy)));
        section.close();
        written.insert(id);
    }
    let mut sites = BTreeMap::new();
    for (site, mut section) in root.named::<Site>("site", "a, b or w") {
        sites.insert(site, site_facts(&mut section));
        section.close();
    }
    let mut pools = BTreeMap::new();
    for (id, mut section) in root.named::<Id>("pool", id_help) {
        pools.extend(pool(&mut section).map(|pool| (id, pool)));
        section.close();
    }
    let rules = root.named::<Id>("rule", id_help).into_iter().map(|(id, section)| rule(id, &section)).collect();
    let mut assets = BTreeMap::new();
    for (id, mut section) in root.named::<Id>("asset", id_help) {
        assets.extend(asset(&mut section).map(|asset| (id, asset)));
        section.close();
    }
    root.close();
    let policy = Policy { timing: timing.unwrap_or(Timing::METRO), tickets, services, sites, pools };
    for fault in policy.faults() {
        // A section that could not be read has its own faults; that it is missing is not another one.
        let missing = match &fault.problem {
            Problem::UnknownService { service } => Some(service),
            Problem::UnknownTicket { ticket } => Some(ticket),
            _ => None,
        };
        if missing.is_none_or(|id| !written.contains(id)) {
            source.fault_at(&document, &fault.path, fault.problem.to_string());
        }
    }
    Some(PolicyFile { policy, rules, assets })
}

fn timing(root: &mut Section<'_>) -> Option<Timing> {
    let help = "metro (sites within 5 ms), wide (national distances) or fast (one campus), or a table of numbers";
    let parse = |item: &Item| match item.as_str() {
        Some("metro") => Ok(Timing::METRO),
        Some("wide") => Ok(Timing::WIDE),
        Some("fast") => Ok(Timing::FAST),
        Some(other) => Err(format!("`{other}` is not a timing profile")),
        None => timing_table(item),
    };
    root.required("timing", help, parse)
}

fn timing_table(item: &Item) -> Parsed<Timing> {
    let mut table = map::<String, u64>(count)(item)?;
    let mut take =
        |key: &str| table.remove(key).filter(|ms| *ms < 600_000).ok_or(format!("`{key}` is missing or too long"));
    let timing = Timing {
        tick_ms: take("tick_ms")?,
        election_min_ms: take("election_min_ms")?,
        election_max_ms: take("election_max_ms")?,
        renew_ms: take("renew_ms")?,
        ttl_holder_ms: take("ttl_holder_ms")?,
        ttl_ms: take("ttl_ms")?,
        acquire_after_ms: take("acquire_after_ms")?,
        stop_max_ms: take("stop_max_ms")?,
    };
    match table.keys().next() {
        Some(unknown) => Err(format!("unknown key `{unknown}`")),
        None => Ok(timing),
    }
}

fn one_of<T: Copy + 'static>(choices: &'static [(&'static str, T)]) -> impl Fn(&Item) -> Parsed<T> {
    move |item| {
        let found = text(item)?;
        let known = || choices.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let choice = choices.iter().find(|(name, _)| *name == found);
        choice.map(|(_, value)| *value).ok_or_else(|| format!("`{found}` is none of {}", known()))
    }
}

fn rpo(item: &Item) -> Parsed<Rpo> {
    match item.as_str() {
        Some("zero") => Ok(Rpo::Zero),
        Some("availability") => Ok(Rpo::Availability),
        Some(other) => Err(format!("`{other}` is none of zero, availability")),
        None => {
            let mut table = map::<String, u64>(count)(item)?;
            let positions = table.remove("positions").ok_or("`positions` is missing")?;
            if table.is_empty() { Ok(Rpo::Bounded { positions }) } else { Err("only `positions` is known here".into()) }
        }
    }
}

/// A condition in the core's own words.
fn condition<T: std::str::FromStr<Err = Problem>>(item: &Item) -> Parsed<T> {
    text(item)?.parse().map_err(|problem: Problem| problem.to_string())
}

fn ticket(section: &mut Section<'_>) -> Option<TicketPolicy> {
    let service = section.required("service", "the service this ticket guards", word::<Id>);
    let kind = section.optional("kind", "active-passive or active-active", one_of(KINDS));
    let mode = section.required("mode", "off, observe, confirm or auto", one_of(MODES));
    let sites = section.required("sites", "sites that may hold it, as [\"a\", \"b\"]", list(word::<Site>));
    let preferred = section.optional("preferred", "one of its sites", word::<Site>);
    let rpo = section.required("rpo", "\"zero\", \"availability\" or { positions = N }", rpo);
    let rto_ms = section.optional("rto", "recovery time that drills are measured against, as \"30s\"", duration_ms);
    let depends_on = section.optional("depends_on", "tickets that must be at the target first", ids);
    let when_help = "as [\"site_lost(holder)\", \"service_down(holder) for 30s\"]";
    let move_when = section.optional("move_when", when_help, list(condition::<MoveWhen>));
    let require_help =
        "as [\"fresh(target)\", 'active(target, \"app\") >= 2', \"load(all) <= 0.8 * capacity(target)\"]";
    let require = section.optional("require", require_help, list(condition::<Require>));
    let emergency = section.optional("emergency", "\"w\": two operators may send it there", word::<Site>);
    let pool = section.optional("pool", "servers that carry it, of [pool.NAME]", word::<Id>);
    let reserves = section.optional("reserves", "what it takes of the pool at a site, in the pool's unit", count);
    let priority = section.optional("priority", "lower numbers leave a site first; 100 unless told", count);
    let loss = section.required(
        "loss",
        "what a gate does when its lease ends: stop; freeze for active-active, where nothing stops",
        one_of(LOSSES),
    );
    let gates = section.required("gates", "as { a = [\"host-a\"], b = [\"host-b\"] }", site_map(ids));
    let accept_unfenced = section.optional("accept_unfenced", "true or false", flag);
    let confirm_within_ms = section.optional("confirm_within", "as \"5m\"", duration_ms);
    let cooldown_ms = section.optional("cooldown", "as \"1h\"", duration_ms);
    let stable_for_ms =
        section.optional("stable_for", "how long a target must have been steady, as \"30m\"", duration_ms);
    let move_budget = section.optional("move_budget", "automatic moves in 24 h", count);
    Some(TicketPolicy {
        service: service?,
        kind: kind.unwrap_or(TicketKind::ActivePassive),
        mode: mode?,
        sites: sites?,
        preferred,
        rpo: rpo?,
        rto_ms,
        depends_on: depends_on.unwrap_or_default(),
        move_when: move_when.unwrap_or_default(),
        emergency,
        require: require.unwrap_or_default(),
        pool,
        reserves: reserves.unwrap_or(0),
        priority: priority.map_or(TicketPolicy::PRIORITY, |n| u32::try_from(n).unwrap_or(u32::MAX)),
        loss: loss?,
        gates: gates?,
        accept_unfenced: accept_unfenced.unwrap_or(false),
        confirm_within_ms: confirm_within_ms.unwrap_or(300_000),
        cooldown_ms: cooldown_ms.unwrap_or(3_600_000),
        stable_for_ms: stable_for_ms.unwrap_or(1_800_000),
        move_budget: move_budget.map_or(2, |moves| u32::try_from(moves).unwrap_or(u32::MAX)),
    })
}

fn service(section: &mut Section<'_>) -> Option<ServicePolicy> {
    let by_language = || map::<String, String>(text);
    let by_profession = || map::<String, BTreeMap<String, String>>(map::<String, String>(text));
    let title = section.required("title", "as { en = \"Prescriptions\", nl = \"Voorschriften\" }", by_language());
    let summary = section.optional("summary", "one sentence by language", by_language());
    let order = section.optional("order", "position on the page", count);
    let ticket = section.optional("ticket", "the ticket that guards it", word::<Id>);
    let checks = section.optional("checks", "devices of kind `check`", ids);
    let effect = section.optional("effect", "profession, then language", by_profession());
    let procedure = section.optional("procedure", "profession, then language", by_profession());
    let still_works = section.optional("still_works", "one sentence by language", by_language());
    let contact = section.optional("contact", "one sentence by language", by_language());
    Some(ServicePolicy {
        title: title?,
        summary: summary.unwrap_or_default(),
        order: order.map_or(u32::MAX, |order| u32::try_from(order).unwrap_or(u32::MAX)),
        ticket,
        checks: checks.unwrap_or_default(),
        effect: effect.unwrap_or_default(),
        procedure: procedure.unwrap_or_default(),
        still_works: still_works.unwrap_or_default(),
        contact: contact.unwrap_or_default(),
    })
}

fn site_facts(section: &mut Section<'_>) -> SitePolicy {
    let number = |found: Option<u64>, unless: u32| found.map_or(unless, |n| u32::try_from(n).unwrap_or(u32::MAX));
    let ups = section.optional("ups", "UPSs that carry the site, as [\"ups-a1\"]", ids);
    let needed = section.optional("ups_needed", "how many of them must give power; 1 unless told", count);
    let gensets = section.optional("gensets", "generators of the site", ids);
    let cooling = section.optional("cooling", "cooling units of the site", ids);
    let rooms = section.optional("rooms", "other devices that measure its rooms", ids);
    let too_hot = section.optional("too_hot", "Cel at which equipment must be off; 35 unless told", count);
    SitePolicy {
        ups: ups.unwrap_or_default(),
        ups_needed: number(needed, 1),
        gensets: gensets.unwrap_or_default(),
        cooling: cooling.unwrap_or_default(),
        rooms: rooms.unwrap_or_default(),
        too_hot: number(too_hot, 35),
    }
}

fn pool(section: &mut Section<'_>) -> Option<PoolPolicy> {
    let servers = section.required("servers", "as { a = [\"app-a1\"], b = [\"app-b1\"] }", site_map(ids));
    let reserve = section.optional("reserve", "servers that stand by, by site, in their order", site_map(ids));
    let min = section.required("min", "servers that must be up", count);
    let rise_ms = section.optional("rise", "up for so long before it counts, as \"10s\"", duration_ms);
    let fall_ms = section.optional("fall", "not up for so long before it counts, as \"10s\"", duration_ms);
    let each = section.optional("each", "what one server can carry, in the unit of `load`", count);
    let load = section.optional("load", "point of each server that says what it carries", text);
    Some(PoolPolicy {
        servers: servers?,
        reserve: reserve.unwrap_or_default(),
        min: min.map(|min| u32::try_from(min).unwrap_or(u32::MAX))?,
        rise_ms: rise_ms.unwrap_or(10_000),
        fall_ms: fall_ms.unwrap_or(10_000),
        each: each.unwrap_or(0),
        load,
    })
}

fn rule(id: Id, section: &Section<'_>) -> RuleSection {
    let (table, places) = section.raw();
    RuleSection { id, table, at: section.source.place(Some(section.span.clone())), places }
}

fn asset(section: &mut Section<'_>) -> Option<AssetSection> {
    let kind = section.required("kind", "utility, genset, ups, pdu, rack, chiller, crac, room, host, ...", text);
    let parent = section.optional("parent", "the asset that feeds it", word::<Id>);
    let location = section.optional("location", "as a/hall1", text);
    let device = section.optional("device", "the device that measures it", word::<Id>);
    Some(AssetSection { kind: kind?, parent, location, device })
}
