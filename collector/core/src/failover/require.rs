//! What a target must have besides a gate and fresh data: servers, room for the load, and time.
//!
//! Knows: how the words of three observers become yes, no or nobody knows. Invariants: a requirement holds only where two of
//! three observers say so; room is taken by every ticket that is at the target or on its way there, so several that leave a
//! site together do not count the same servers twice.

use std::fmt;

use bcp_wire::{Id, Site};

use super::decide::{Block, Cause, Facts};
use super::freshness::{self, Freshness};
use super::observe::{Board, MAJORITY};
use super::ticket::Ticket;
use crate::policy::{MoveWhen, Require, Rpo};
use crate::site::{Runway, SiteWord, Supply};
use crate::time::LogTime;

/// A target must last this much longer than the site that is left: to move twice is worse than to stay.
pub const RUNWAY_MARGIN_MS: u64 = 600_000;

/// A requirement that does not hold; its text has no figures that run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unmet {
    Require { text: String, site: Site, known: bool },
    Room { pool: Id, site: Site, reserves: u64 },
    Runway { site: Site, known: bool },
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unmet::Require { text, site, known: true } => write!(f, "at site {site} it does not hold that {text}"),
            Unmet::Require { text, site, known: false } => {
                write!(f, "two of three observers do not know whether at site {site} {text}")
            }
            Unmet::Room { pool, site, reserves } => {
                write!(f, "pool {pool} at site {site} has no room for the {reserves} that it reserves")
            }
            Unmet::Runway { site, known: true } => {
                write!(f, "site {site} does not last {} min longer", RUNWAY_MARGIN_MS / 60_000)
            }
            Unmet::Runway { site, known: false } => write!(f, "how long site {site} lasts is unknown"),
        }
    }
}

/// What two of three observers say; `None` where they do not.
fn agreed(
    board: &Board,
    now: LogTime,
    says: impl Fn(&std::collections::BTreeMap<Site, SiteWord>) -> Option<bool>,
) -> Option<bool> {
    let words: Vec<bool> = Site::ALL.iter().filter_map(|observer| says(board.site_words(*observer, now)?)).collect();
    let yes = words.iter().filter(|word| **word).count();
    match (yes >= MAJORITY, words.len() - yes >= MAJORITY) {
        (true, _) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    }
}

/// Two of three say that a supply of the site lasts for less than this.
pub(super) fn runs_out(supply: Supply, site: Site, under_ms: u64, facts: Facts<'_>) -> bool {
    let short = agreed(facts.board, facts.now, |sites| match sites.get(&site)?.runway(supply)? {
        Runway::Unknown => None,
        known @ (Runway::Endless | Runway::Left { .. }) => Some(known.is_under(under_ms)),
    });
    short == Some(true)
}

/// Requirements of the ticket that a move to `to` does not meet.
pub(super) fn unmet(ticket: &Ticket, to: Site, cause: Option<&Cause>, facts: Facts<'_>) -> Vec<Block> {
    let mut found: Vec<Unmet> =
        facts.rule.require.iter().filter_map(|require| one(ticket, to, require, facts)).collect();
    found.extend(room(to, facts));
    if let Some(Cause::RunsOut { site, supply, .. }) = cause.map(Cause::root) {
        found.extend(outlasts(to, *site, *supply, facts));
    }
    found.into_iter().map(Block::Unmet).collect()
}

fn one(ticket: &Ticket, to: Site, require: &Require, facts: Facts<'_>) -> Option<Unmet> {
    let holds = match require {
        Require::Fresh => match freshness::of(ticket, to, Rpo::Zero) {
            Freshness::Fresh => Some(true),
            Freshness::Stale | Freshness::Forked => Some(false),
            Freshness::Unknown => None,
        },
        Require::Active { pool, at_least } => agreed(facts.board, facts.now, |sites| {
            let word = sites.get(&to)?.pools.get(pool)?;
            let most = word.up.saturating_add(word.silent).saturating_add(word.unknown);
            if word.up >= *at_least { Some(true) } else { (most < *at_least).then_some(false) }
        }),
        Require::LoadFits { permille } => {
            let (id, pool) = facts.rule.pool.as_ref().and_then(|id| Some((id, facts.policy.pools.get(id)?)))?;
            agreed(facts.board, facts.now, |sites| {
                let words = sites.values().filter_map(|site| site.pools.get(id));
                let load = words.map(|word| word.load).try_fold(0_u64, |sum, load| Some(sum.saturating_add(load?)))?;
                let up = u64::from(sites.get(&to)?.pools.get(id)?.up);
                let fits = up.saturating_mul(pool.each).saturating_mul(u64::from(*permille)) / 1_000;
                Some(load <= fits)
            })
        }
    };
    let known = holds.is_some();
    (holds != Some(true)).then(|| Unmet::Require { text: require.to_string(), site: to, known })
}

/// Room that the pool has at the target, after every other ticket that is there or goes there.
fn room(to: Site, facts: Facts<'_>) -> Option<Unmet> {
    let (id, reserves) = facts.rule.pool.as_ref().map(|id| (id, facts.rule.reserves)).filter(|(_, n)| *n > 0)?;
    let each = facts.policy.pools.get(id)?.each;
    let there = |ticket: &Ticket| match &ticket.moving {
        Some(moving) => moving.to == to,
        None => ticket.holder == Some(to),
    };
    let others = facts.others.iter().filter(|(_, ticket)| there(ticket));
    let taken = others
        .filter_map(|(other, _)| facts.policy.tickets.get(other).filter(|rule| rule.pool.as_ref() == Some(id)))
        .fold(0_u64, |sum, rule| sum.saturating_add(rule.reserves));
    let fits = agreed(facts.board, facts.now, |sites| {
        let up = u64::from(sites.get(&to)?.pools.get(id)?.up);
        Some(taken.saturating_add(reserves) <= up.saturating_mul(each))
    });
    (fits != Some(true)).then(|| Unmet::Room { pool: id.clone(), site: to, reserves })
}

fn outlasts(to: Site, site: Site, supply: Supply, facts: Facts<'_>) -> Option<Unmet> {
    let longer = agreed(facts.board, facts.now, |sites| {
        let (target, left) = (sites.get(&to)?.shortest()?, sites.get(&site)?.runway(supply)?);
        (target != Runway::Unknown).then(|| target.exceeds(left, RUNWAY_MARGIN_MS))
    });
    (longer != Some(true)).then(|| Unmet::Runway { site: to, known: longer.is_some() })
}

/// What each observer says of a site's supplies, for the explanation.
pub(super) fn runways(site: Site, facts: Facts<'_>) -> Vec<(Supply, String)> {
    let asked = facts.rule.move_when.iter().filter_map(|when| match when {
        MoveWhen::RunsOut { supply, .. } => Some(*supply),
        MoveWhen::SiteLost | MoveWhen::ServiceDown { .. } => None,
    });
    asked.map(|supply| (supply, said(supply, site, facts))).collect()
}

fn said(supply: Supply, site: Site, facts: Facts<'_>) -> String {
    let words = Site::ALL.iter().map(|observer| {
        let word = facts.board.site_words(*observer, facts.now).and_then(|sites| sites.get(&site)?.runway(supply));
        format!("{observer} says {}", word.unwrap_or(Runway::Unknown))
    });
    words.collect::<Vec<_>>().join(", ")
}
