//! Rules of the configuration: faults with their place in the file, and timelines replayed against them.
//!
//! Knows: where a rule stands in which file. Refuses to know: what a rule means; that is `bcp_core::rules`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bcp_core::rules::timeline::{LineFault, Timeline};
use bcp_core::rules::{RuleSet, load_tables};
use bcp_core::topology::{Asset, AssetFault, RawAsset, Topology};
use bcp_wire::Id;

use crate::Config;
use crate::config::{Fault, Place, RuleSection};

/// The checked rules.
///
/// # Errors
/// Every fault of every rule and asset, with file, line and help.
pub fn rule_set(config: &Config) -> Result<RuleSet, Vec<Fault>> {
    let services: BTreeSet<Id> = config.policy.services.keys().cloned().collect();
    let tables = config.rules.iter().map(|section| (section.id.to_string(), section.table.clone())).collect();
    let sections: BTreeMap<&str, &RuleSection> =
        config.rules.iter().map(|section| (section.id.as_str(), section)).collect();
    let mut faults = asset_faults(config);
    match load_tables(&tables, Some(&services)) {
        Ok(rules) if faults.is_empty() => return Ok(rules),
        Ok(_) => {}
        Err(found) => faults.extend(found.into_iter().map(|fault| located(config, &sections, fault))),
    }
    Err(faults)
}

/// The configured assets, and one per service.
#[must_use]
pub fn assets(config: &Config) -> Vec<Asset> {
    let services = config.policy.services.keys().map(|id| Asset::plain(id.clone(), "service"));
    let configured = config.assets.iter().map(|(id, section)| {
        let raw = RawAsset {
            kind: section.kind.clone(),
            parent: section.parent.clone(),
            location: section.location.clone(),
            device: section.device.clone(),
            ..RawAsset::default()
        };
        Asset::configured(id.clone(), &raw)
    });
    services.chain(configured).collect()
}

/// `rule.ID.key` of a fault, as a place in the file, with the part of the expression that is at fault.
fn located(config: &Config, sections: &BTreeMap<&str, &RuleSection>, fault: bcp_core::rules::Fault) -> Fault {
    let mut parts = fault.key.splitn(3, '.').skip(1);
    let section = parts.next().and_then(|id| sections.get(id));
    let key = parts.next();
    let at = section.map_or_else(
        || Place { file: config.file.clone(), line: 1, column: 1 },
        |section| key.and_then(|key| section.places.get(key)).unwrap_or(&section.at).clone(),
    );
    let part = section
        .zip(key)
        .zip(fault.span)
        .and_then(|((section, key), (from, to))| section.table.get(key)?.as_str()?.get(from..to));
    let problem = match part.filter(|part| !part.is_empty()) {
        Some(part) => format!("{}, in `{part}`", fault.message),
        None => fault.message,
    };
    Fault { at, key: fault.key, problem, help: fault.help.unwrap_or_default() }
}

fn asset_faults(config: &Config) -> Vec<Fault> {
    let mut topology = Topology::new();
    for asset in assets(config) {
        topology.insert(asset);
    }
    let at = Place { file: config.file.clone(), line: 1, column: 1 };
    let fault = |fault: AssetFault| {
        let (asset, help) = match &fault {
            AssetFault::Kind { asset, nearest, .. } => {
                (asset.clone(), nearest.map_or_else(String::new, |nearest| format!("did you mean `{nearest}`?")))
            }
            AssetFault::Missing { asset, .. } | AssetFault::Cycle { asset, .. } => (asset.clone(), String::new()),
        };
        Fault { at: at.clone(), key: format!("asset.{asset}"), problem: fault.to_string(), help }
    };
    topology.faults().into_iter().map(fault).collect()
}

/// Why a timeline did not end as it says.
#[derive(Debug, thiserror::Error)]
pub enum TimelineError {
    #[error("failed to read {path}", path = path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("{}", list(path, faults))]
    Lines { path: PathBuf, faults: Vec<LineFault> },
}

fn list(path: &Path, faults: &[LineFault]) -> String {
    let lines: Vec<String> =
        faults.iter().map(|fault| format!("{}:{}: {}", path.display(), fault.line, fault.message)).collect();
    lines.join("\n")
}

/// Replays one timeline; gives the number of expectations that were met.
///
/// # Errors
/// The file cannot be read, a line is at fault, or an expectation was not met.
pub fn test(config: &Config, rules: &RuleSet, path: &Path) -> Result<usize, TimelineError> {
    let text = std::fs::read_to_string(path).map_err(|cause| TimelineError::Read { path: path.to_owned(), cause })?;
    let lines = |faults| TimelineError::Lines { path: path.to_owned(), faults };
    let report = Timeline::parse(&text).map_err(lines)?.run(rules.clone(), assets(config));
    if report.unmet.is_empty() { Ok(report.wanted) } else { Err(lines(report.unmet)) }
}
