//! What the policy says of sites and of servers: which devices tell how long a site lasts, which servers share work, and what
//! a target must have.
//!
//! Refuses to know: whether such devices exist; they describe themselves when they are heard.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use bcp_wire::{Id, Site};

use super::check::{Fault, path};
use super::{MoveWhen, Policy, Problem, TicketKind, TicketPolicy};
use crate::site::Supply;

/// Devices whose readings tell how long a site goes on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SitePolicy {
    /// UPSs that carry the services' equipment.
    #[serde(default)]
    pub ups: Vec<Id>,
    /// So many of them must give power; the others are spare.
    #[serde(default = "one")]
    pub ups_needed: u32,
    #[serde(default)]
    pub gensets: Vec<Id>,
    /// Cooling units; the air that they take in is the room's.
    #[serde(default)]
    pub cooling: Vec<Id>,
    /// Other devices that measure the rooms.
    #[serde(default)]
    pub rooms: Vec<Id>,
    /// Cel at which equipment must be off.
    #[serde(default = "warm")]
    pub too_hot: u32,
}

const fn one() -> u32 {
    1
}
const fn warm() -> u32 {
    35
}

impl SitePolicy {
    pub(crate) fn tells(&self, supply: Supply) -> bool {
        match supply {
            Supply::Power => !self.ups.is_empty(),
            Supply::Cooling => !self.cooling.is_empty() || !self.rooms.is_empty(),
        }
    }
}

/// Servers that share work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolPolicy {
    /// Devices that say whether a server is up: a check of it, or the host itself.
    pub servers: BTreeMap<Site, Vec<Id>>,
    /// Servers that stand by, started in this order when fewer than `min` are up.
    #[serde(default)]
    pub reserve: BTreeMap<Site, Vec<Id>>,
    pub min: u32,
    pub rise_ms: u64,
    pub fall_ms: u64,
    /// What one server can carry, in the unit of `load`; 0: nobody said.
    #[serde(default)]
    pub each: u64,
    /// Point of each server that says what it carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<String>,
}

impl PoolPolicy {
    /// Servers of a site, those that stand by included.
    pub fn all(&self, site: Site) -> impl Iterator<Item = &Id> {
        self.servers.get(&site).into_iter().chain(self.reserve.get(&site)).flatten()
    }
}

/// What must hold at a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "require", rename_all = "snake_case")]
pub enum Require {
    /// The copy there has everything that was acknowledged, whatever `rpo` allows.
    Fresh,
    Active {
        pool: Id,
        at_least: u32,
    },
    /// What all sites of the ticket's pool carry now fits into this share (in 1/1000) of the target's servers.
    LoadFits {
        permille: u32,
    },
}

impl fmt::Display for Require {
    /// As it is configured.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Require::Fresh => f.write_str("fresh(target)"),
            Require::Active { pool, at_least } => write!(f, "active(target, \"{pool}\") >= {at_least}"),
            Require::LoadFits { permille } => {
                write!(f, "load(all) <= {}.{:03} * capacity(target)", permille / 1_000, permille % 1_000)
            }
        }
    }
}

/// `fresh(target)`, `active(target, "app") >= 2` or `load(all) <= 0.8 * capacity(target)`.
impl FromStr for Require {
    type Err = Problem;
    fn from_str(text: &str) -> Result<Self, Problem> {
        let dense: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let fault = || Problem::Require { text: text.chars().take(64).collect() };
        if dense == "fresh(target)" {
            return Ok(Require::Fresh);
        }
        if let Some(rest) = dense.strip_prefix("active(target,") {
            let (pool, at_least) = rest.split_once(")>=").ok_or_else(fault)?;
            let pool = pool.trim_matches(['"', '\'']).parse().map_err(|_| fault())?;
            return Ok(Require::Active { pool, at_least: at_least.parse().map_err(|_| fault())? });
        }
        let factor = dense.strip_prefix("load(all)<=").and_then(|rest| rest.strip_suffix("capacity(target)"));
        let factor = factor.ok_or_else(fault)?.trim_end_matches('*');
        let share: f64 = if factor.is_empty() { 1.0 } else { factor.parse().map_err(|_| fault())? };
        if !(0.001..=1.0).contains(&share) {
            return Err(fault());
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let permille = (share * 1_000.0).round() as u32;
        Ok(Require::LoadFits { permille })
    }
}

impl Policy {
    /// Faults of pools and sites, and of tickets that ask for what nobody would report.
    pub(super) fn facts_faults(&self, faults: &mut Vec<Fault>) {
        for (site, told) in &self.sites {
            let needed = usize::try_from(told.ups_needed).unwrap_or(usize::MAX);
            if !told.ups.is_empty() && (needed == 0 || needed > told.ups.len()) {
                let problem = Problem::UpsNeeded { needed: told.ups_needed, named: told.ups.len() };
                faults.push(Fault { path: path(&["site", site.as_str(), "ups_needed"]), problem });
            }
            if !(20..=60).contains(&told.too_hot) {
                let problem = Problem::TooHot { cel: told.too_hot };
                faults.push(Fault { path: path(&["site", site.as_str(), "too_hot"]), problem });
            }
        }
        for (id, pool) in &self.pools {
            for (site, servers) in &pool.servers {
                let most = servers.len() + pool.reserve.get(site).map_or(0, Vec::len);
                if usize::try_from(pool.min).unwrap_or(usize::MAX) > most {
                    let problem = Problem::PoolShort { min: pool.min, site: *site, most };
                    faults.push(Fault { path: path(&["pool", id.as_str(), "min"]), problem });
                }
            }
            for (key, value_ms) in [("rise", pool.rise_ms), ("fall", pool.fall_ms)] {
                if value_ms > super::MAX_DURATION_MS {
                    let problem = Problem::Duration { value_ms, least_ms: 0 };
                    faults.push(Fault { path: path(&["pool", id.as_str(), key]), problem });
                }
            }
        }
        for (id, ticket) in &self.tickets {
            let add = |key: &str, problem| Fault { path: path(&["ticket", id.as_str(), key]), problem };
            faults.extend(self.unheard(ticket).into_iter().map(|(key, problem)| add(key, problem)));
        }
    }

    fn unheard(&self, ticket: &TicketPolicy) -> Vec<(&'static str, Problem)> {
        let mut found = Vec::new();
        for when in &ticket.move_when {
            let MoveWhen::RunsOut { supply, .. } = when else { continue };
            let silent =
                ticket.sites.iter().filter(|site| !self.sites.get(site).is_some_and(|told| told.tells(*supply)));
            found.extend(silent.map(|site| ("move_when", Problem::NoSupply { site: *site, supply: supply.as_str() })));
        }
        if let Some(pool) = ticket.pool.as_ref().filter(|pool| !self.pools.contains_key(*pool)) {
            found.push(("pool", Problem::UnknownPool { pool: pool.clone() }));
        }
        let own = ticket.pool.as_ref().and_then(|pool| self.pools.get(pool));
        if ticket.reserves > 0 && own.is_none_or(|pool| pool.each == 0) {
            found.push(("reserves", Problem::NoCapacity));
        }
        for require in &ticket.require {
            match require {
                Require::Fresh if ticket.kind == TicketKind::ActiveActive => {
                    found.push(("require", Problem::NothingFresh));
                }
                Require::Fresh => {}
                Require::Active { pool, .. } => {
                    let servers = self.pools.get(pool).map(|pool| &pool.servers);
                    let silent = ticket.sites.iter().find(|site| servers.is_none_or(|all| !all.contains_key(site)));
                    found
                        .extend(silent.map(|site| ("require", Problem::NoServers { pool: pool.clone(), site: *site })));
                }
                Require::LoadFits { .. } => {
                    if own.is_none_or(|pool| pool.each == 0 || pool.load.is_none()) {
                        found.push(("require", Problem::NoLoad));
                    }
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_are_read_and_written_alike() {
        for text in ["fresh(target)", "active(target, \"app\") >= 2", "load(all) <= 0.800 * capacity(target)"] {
            let require: Require = text.parse().unwrap();
            assert_eq!(require.to_string(), text);
        }
        assert_eq!("load(all)<=capacity( target )".parse(), Ok(Require::LoadFits { permille: 1_000 }));
        for wrong in [
            "",
            "fresh(holder)",
            "active(target) >= 2",
            "active(target, \"A B\")>=1",
            "load(all) <= 3 * capacity(target)",
            "load(all) <= x",
        ] {
            assert!(matches!(wrong.parse::<Require>(), Err(Problem::Require { .. })), "{wrong}");
        }
    }
}
