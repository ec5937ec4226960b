//! The rules, runbooks and timelines that are delivered with the product hold together.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bcp_core::rules::timeline::Timeline;
use bcp_core::rules::{RuleSet, load_tables};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn rules() -> RuleSet {
    let text = std::fs::read_to_string(deploy().join("rules/default.toml")).unwrap();
    let mut root: BTreeMap<String, BTreeMap<String, serde_json::Map<String, serde_json::Value>>> =
        toml::from_str(&text).unwrap_or_else(|cause| panic!("{}", cause.message()));
    let tables = root.remove("rule").unwrap();
    load_tables(&tables, None)
        .unwrap_or_else(|faults| panic!("{}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))
}

#[test]
fn every_default_rule_is_sound_and_has_a_runbook() {
    let rules = rules();
    assert!(rules.rules.len() > 30);
    for rule in &rules.rules {
        let runbook = rule.runbook.as_ref().unwrap_or_else(|| panic!("{} has no runbook", rule.id));
        let text = std::fs::read_to_string(deploy().join("runbooks").join(runbook))
            .unwrap_or_else(|cause| panic!("{} of {}: {cause}", runbook, rule.id));
        for part in ["## What it means", "## First checks", "## Who", "## When to move services"] {
            assert!(text.contains(part), "{runbook} has no `{part}`");
        }
    }
}

#[test]
fn the_default_timelines_end_as_they_say() {
    let mut seen = 0;
    for entry in std::fs::read_dir(deploy().join("rules/timelines")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let timeline = Timeline::parse(&text).unwrap_or_else(|faults| panic!("{}: {faults:?}", path.display()));
        let report = timeline.run(rules(), Vec::new());
        assert!(report.unmet.is_empty(), "{}: {:#?}\n{:#?}", path.display(), report.unmet, report.votes);
        assert!(report.wanted > 0, "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 4);
}
