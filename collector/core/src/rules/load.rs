//! Rules as written, and as checked.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use bcp_wire::Id;

use super::ast::{Count, Node, Scope, parse_duration_ms};
use super::check::{Checker, Fault, clip};
use super::selector::Selector;
use crate::alarms::Priority;
use crate::status::LANGUAGES;

/// Most rules of one configuration.
pub const MAX_RULES: usize = 1_000;
/// Longest hold: what takes longer is a report, not an alarm.
pub const MAX_HOLD_MS: u64 = 24 * 3_600_000;
/// Where a rule says nothing, unknown must last this long before it counts as an alarm.
pub const UNKNOWN_AFTER_MS: u64 = 60_000;

/// `[rule.ID]` as written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRule {
    /// Selector over assets.
    pub for_each: String,
    pub when: String,
    /// Condition that ends the alarm; by default, that `when` is false.
    pub clear: Option<String>,
    /// Suppressed by design while this is true.
    pub suppress_when: Option<String>,
    /// `when` must be true this long, as `30s`.
    pub hold: Option<String>,
    /// `ignore` (default) or `alarm`.
    pub unknown: Option<String>,
    /// How long it must be unknown before that counts.
    pub unknown_after: Option<String>,
    /// `critical`, `high`, `medium` or `low`.
    pub priority: String,
    #[serde(default)]
    pub title: BTreeMap<String, String>,
    /// File below `deploy/runbooks`.
    pub runbook: Option<String>,
    pub owner: Option<String>,
    /// This alarm explains alarms of the assets that its asset feeds. By default, true for critical and high ones.
    pub causal: Option<bool>,
}

/// A rule that can be evaluated.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub id: Id,
    pub assets: Selector,
    /// What the conditions read; one list for all three.
    pub scope: Scope,
    pub counts: Vec<Count>,
    pub when: Node,
    pub clear: Option<Node>,
    pub suppress_when: Option<Node>,
    pub hold_ms: u64,
    pub unknown_is_alarm: bool,
    pub unknown_after_ms: u64,
    pub priority: Priority,
    pub title: BTreeMap<String, String>,
    pub runbook: Option<String>,
    pub owner: Option<String>,
    pub causal: bool,
    /// Ages, windows and forecasts change without a reading.
    pub uses_time: bool,
}

/// All rules, checked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RuleSet {
    pub rules: Vec<Rule>,
}

/// Checks all rules. `services`: the known ones, for `service_down("...")`.
///
/// # Errors
/// Every fault of every rule; the old set stays in force.
pub fn load(raw: &BTreeMap<String, RawRule>, services: Option<&BTreeSet<Id>>) -> Result<RuleSet, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut rules = Vec::new();
    if raw.len() > MAX_RULES {
        faults.push(fault("rule", format!("more than {MAX_RULES} rules"), None));
    }
    for (id, raw) in raw.iter().take(MAX_RULES) {
        match check(id, raw, services) {
            Ok(rule) => rules.push(rule),
            Err(found) => faults.extend(found),
        }
    }
    if faults.is_empty() { Ok(RuleSet { rules }) } else { Err(faults) }
}

/// As [`load`], from sections as a configuration reader has them.
///
/// # Errors
/// Every fault of every rule, misspelt keys included.
pub fn load_tables(
    tables: &BTreeMap<String, serde_json::Map<String, serde_json::Value>>,
    services: Option<&BTreeSet<Id>>,
) -> Result<RuleSet, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut raw = BTreeMap::new();
    for (id, table) in tables {
        let base = format!("rule.{}", clip(id));
        let misspelt: Vec<&String> = table.keys().filter(|key| !KEYS.contains(&key.as_str())).collect();
        for key in &misspelt {
            let help = Checker::nearest(key, KEYS.into_iter());
            faults.push(fault(&format!("{base}.{}", clip(key)), "rules have no such key", help));
        }
        let missing: Vec<&str> =
            ["for_each", "when", "priority"].into_iter().filter(|key| !table.contains_key(*key)).collect();
        for key in &missing {
            faults.push(fault(&format!("{base}.{key}"), "is missing", None));
        }
        if !misspelt.is_empty() || !missing.is_empty() {
            continue;
        }
        match serde_json::from_value(serde_json::Value::Object(table.clone())) {
            Ok(rule) => {
                raw.insert(id.clone(), rule);
            }
            Err(cause) => faults.push(fault(&base, cause.to_string(), None)),
        }
    }
    match load(&raw, services) {
        Ok(rules) if faults.is_empty() => Ok(rules),
        Ok(_) => Err(faults),
        Err(found) => Err(faults.into_iter().chain(found).collect()),
    }
}

/// Keys of [`RawRule`].
const KEYS: [&str; 12] = [
    "for_each",
    "when",
    "clear",
    "suppress_when",
    "hold",
    "unknown",
    "unknown_after",
    "priority",
    "title",
    "runbook",
    "owner",
    "causal",
];

fn fault(key: &str, message: impl Into<String>, help: Option<String>) -> Fault {
    Fault { key: key.to_owned(), span: None, message: message.into(), help }
}

fn check(id: &str, raw: &RawRule, services: Option<&BTreeSet<Id>>) -> Result<Rule, Vec<Fault>> {
    let base = format!("rule.{}", clip(id));
    let key = |field: &str| format!("{base}.{field}");
    let mut checker = Checker::new(services);
    let assets = checker.selector(&key("for_each"), &raw.for_each);
    let when = checker.condition(&key("when"), &raw.when);
    let clear = raw.clear.as_ref().map(|text| checker.condition(&key("clear"), text));
    let suppress_when = raw.suppress_when.as_ref().map(|text| checker.condition(&key("suppress_when"), text));

    let mut faults = std::mem::take(&mut checker.faults);
    let mut duration = |field: &str, text: Option<&String>, default: u64| {
        let Some(text) = text else { return default };
        match parse_duration_ms(text) {
            Ok(ms) if ms <= MAX_HOLD_MS => ms,
            Ok(_) => {
                faults.push(fault(&key(field), "longer than 24h", None));
                default
            }
            Err(message) => {
                faults.push(fault(&key(field), message, None));
                default
            }
        }
    };
    let hold_ms = duration("hold", raw.hold.as_ref(), 0);
    let unknown_after_ms = duration("unknown_after", raw.unknown_after.as_ref(), UNKNOWN_AFTER_MS.max(hold_ms));

    let id = id.parse::<Id>().map_err(|cause| faults.push(fault(&base, cause.to_string(), None))).ok();
    let priority = priority(&raw.priority);
    if priority.is_none() {
        let known = ["critical", "high", "medium", "low"];
        let help = Checker::nearest(&raw.priority, known.into_iter());
        let help = help.or_else(|| Some("critical, high, medium or low".to_owned()));
        faults.push(fault(&key("priority"), format!("`{}` is no priority", clip(&raw.priority)), help));
    }
    let unknown_is_alarm = match raw.unknown.as_deref() {
        None | Some("ignore") => false,
        Some("alarm") => true,
        Some(other) => {
            let help = Some("alarm or ignore".to_owned());
            faults.push(fault(&key("unknown"), format!("`{}` is not known here", clip(other)), help));
            false
        }
    };
    faults.extend(title_faults(&key("title"), &raw.title));
    if let Some(path) = &raw.runbook
        && (path.starts_with('/') || path.contains("..") || !path.ends_with(".md"))
    {
        let help = Some("a file below the runbooks, as cooling/supply-air-hot.md".to_owned());
        faults.push(fault(&key("runbook"), format!("`{}` is no runbook", clip(path)), help));
    }
    // Every part has reported its own fault where it is missing.
    let sound = (
        id,
        assets,
        when,
        priority,
        clear.map_or(Some(None), |c| c.map(Some)),
        suppress_when.map_or(Some(None), |c| c.map(Some)),
    );
    match sound {
        (Some(id), Some(assets), Some(when), Some(priority), Some(clear), Some(suppress_when)) if faults.is_empty() => {
            Ok(Rule {
                id,
                assets,
                scope: checker.scope,
                counts: checker.counts,
                when,
                clear,
                suppress_when,
                hold_ms,
                unknown_is_alarm,
                unknown_after_ms,
                priority,
                title: raw.title.clone(),
                runbook: raw.runbook.clone(),
                owner: raw.owner.clone(),
                causal: raw.causal.unwrap_or(matches!(priority, Priority::Critical | Priority::High)),
                uses_time: checker.uses_time,
            })
        }
        _ => Err(faults),
    }
}

fn priority(text: &str) -> Option<Priority> {
    [Priority::Critical, Priority::High, Priority::Medium, Priority::Low]
        .into_iter()
        .find(|priority| priority.as_str() == text)
}

fn title_faults(key: &str, title: &BTreeMap<String, String>) -> Vec<Fault> {
    let mut faults = Vec::new();
    let missing: Vec<&str> = LANGUAGES
        .into_iter()
        .filter(|language| title.get(*language).is_none_or(|text| text.trim().is_empty()))
        .collect();
    if !missing.is_empty() {
        let help = Some("operators and reports read nl, fr, de and en".to_owned());
        faults.push(fault(key, format!("no text in {}", missing.join(", ")), help));
    }
    for language in title.keys().filter(|language| !LANGUAGES.contains(&language.as_str())) {
        faults.push(fault(key, format!("`{}` is no language of this system", clip(language)), None));
    }
    faults
}
