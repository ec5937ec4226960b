//! Each profile against its evidence: raw values as its documents define them, and what they must become. Also: the
//! format's schema knows exactly the keys that the reader knows.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bcp_agent::adjust::Adjust;
use bcp_agent::decode::{Decoder, Raw};
use bcp_agent::profile::{self, Address, Profile};
use bcp_wire::{BadReason, Value};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Evidence {
    reading: Vec<Row>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    /// Name of a point, or the name a table point is written with.
    point: String,
    /// SNMP: a number or a text. Modbus: registers.
    raw: RawValue,
    /// What siblings say, where the point has some.
    factor: Option<f64>,
    unit: Option<toml::Value>,
    words: Option<String>,
    value: Option<f64>,
    word: Option<String>,
    bad: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum RawValue {
    Number(i64),
    Text(String),
    Registers(Vec<u16>),
}

fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../firmware-configs")
}

/// Decoders of all points of that name: one, or one per condition.
fn decoders(profile: &Profile, name: &str) -> Vec<(Arc<Decoder>, Adjust<()>)> {
    let points = profile.points.iter().filter(|point| point.name.as_str() == name);
    let rows = profile.tables.iter().flat_map(|table| &table.points).filter(|point| point.pattern == name);
    points
        .map(|point| (point.decoder.clone(), point.adjust.map(|_| ())))
        .chain(rows.map(|point| (point.decoder.clone(), point.adjust.map(|_| ()))))
        .collect()
}

fn decode(decoder: &Decoder, adjust: &Adjust<()>, row: &Row) -> Result<Value, BadReason> {
    let value = match &row.raw {
        RawValue::Number(number) => decoder.decode(Raw::Int(*number)),
        RawValue::Text(text) => decoder.decode(Raw::Bytes(text.as_bytes())),
        RawValue::Registers(words) => decoder.decode(Raw::Registers(words)),
    }?;
    if adjust.is_idle() {
        return Ok(value);
    }
    let told = [
        adjust.factor.as_ref().map(|_| row.factor.map(Value::Num)),
        adjust.units.as_ref().map(|_| {
            row.unit.as_ref().map(|unit| match unit {
                toml::Value::String(text) => Value::Text(text.clone()),
                #[allow(clippy::cast_precision_loss)]
                other => Value::Num(other.as_integer().unwrap() as f64),
            })
        }),
        adjust.words.as_ref().map(|_| row.words.clone().map(Value::Text)),
    ];
    let mut told = told.into_iter().flatten();
    adjust.map(|()| told.next().unwrap()).apply(value, |told| told.clone().ok_or(BadReason::Exception))
}

#[test]
fn every_profile_decodes_its_evidence() {
    let mut seen = 0;
    for id in profile::embedded_ids() {
        let profile = profile::load(id, Some(&files())).unwrap_or_else(|error| panic!("{id}: {error:?}"));
        let path = files().join(format!("{id}.evidence.toml"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let evidence: Evidence = toml::from_str(&text).unwrap_or_else(|error| panic!("{id}: {error}"));
        for row in &evidence.reading {
            let decoders = decoders(&profile, &row.point);
            assert!(!decoders.is_empty(), "{id}: there is no point {}", row.point);
            let fits = |result: &Result<Value, BadReason>| match (result, row.value, &row.word, &row.bad) {
                (Ok(Value::Num(number)), Some(want), None, None) => (number - want).abs() <= 1e-6 * want.abs().max(1.0),
                (Ok(Value::Text(word)), None, Some(want), None) => word == want,
                (Err(reason), None, None, Some(want)) => reason.as_str() == want,
                _ => false,
            };
            let results: Vec<_> = decoders.iter().map(|(decoder, adjust)| decode(decoder, adjust, row)).collect();
            assert!(results.iter().any(fits), "{id} {row:?}: {results:?}");
            seen += 1;
        }
        assert!(evidence.reading.len() >= 2, "{id}: too little evidence");
    }
    println!("{seen} readings of {} profiles", profile::embedded_ids().count());
    assert!(profile::embedded_ids().count() >= 20);
}

/// Every key that a section knows: an unknown key with no likeness is told all of them.
fn known_keys(text: &str, section: &str) -> BTreeSet<String> {
    let faults = profile::parse("t/t", "t", text).unwrap_err();
    let fault = faults
        .iter()
        .find(|fault| fault.key == format!("{section}zzzzzzzzzzzzzzzzzzzzzzzz"))
        .unwrap_or_else(|| panic!("{section}: {faults:?}"));
    let help = fault.help.as_deref().unwrap();
    let keys = help.strip_prefix("known keys are ").unwrap_or_else(|| panic!("{section}: {help}"));
    keys.split(", ").map(str::to_owned).collect()
}

#[test]
fn the_schema_knows_the_keys_that_the_reader_knows() {
    const Z: &str = "zzzzzzzzzzzzzzzzzzzzzzzz = 1";
    let schema: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(files().join("profile.schema.json")).unwrap()).unwrap();
    let schema_keys = |definition: &str| -> BTreeSet<String> {
        let of = if definition.is_empty() { &schema } else { &schema["$defs"][definition] };
        of["properties"].as_object().unwrap_or_else(|| panic!("{definition}")).keys().cloned().collect()
    };
    let head = "format = 1\ntitle = \"t\"\nkind = \"pdu\"\nsources = [\"t\"]\n";
    let snmp = format!("{head}[snmp]\n");
    let modbus = format!("{head}[modbus]\n");
    let table = format!("{snmp}[[table]]\nwalk = \"1.3.6.1\"\n");
    let mut keys: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut ask = |definition, text: String, section: &str| {
        keys.entry(definition).or_default().extend(known_keys(&text, section));
    };
    ask("", format!("{Z}\n{snmp}"), "");
    ask("snmp", format!("{snmp}{Z}\n"), "snmp.");
    ask("modbus", format!("{modbus}{Z}\n"), "modbus.");
    ask("fingerprint", format!("{snmp}[fingerprint]\n{Z}\n"), "fingerprint.");
    ask("fingerprint", format!("{modbus}[fingerprint]\n{Z}\n"), "fingerprint.");
    ask("point", format!("{snmp}[[point]]\n{Z}\n"), "point[0].");
    ask("factor", format!("{snmp}[[point]]\nfactor = {{ {Z} }}\n"), "point[0].factor.");
    ask("units", format!("{snmp}[[point]]\nunits = {{ {Z} }}\n"), "point[0].units.");
    ask("words_from", format!("{snmp}[[point]]\nwords_from = {{ {Z} }}\n"), "point[0].words_from.");
    ask("table", format!("{table}{Z}\n"), "table[0].");
    ask("condition", format!("{table}where = {{ {Z} }}\n"), "table[0].where.");
    ask("table_point", format!("{table}[[table.point]]\n{Z}\n"), "table[0].point[0].");
    ask("derived", format!("{snmp}[[derived]]\n{Z}\n"), "derived[0].");
    ask("flag", format!("{snmp}[[derived]]\nflags = [{{ {Z} }}]\n"), "derived[0].flags[0].");
    ask("trap", format!("{snmp}[[trap]]\n{Z}\n"), "trap[0].");
    ask("case", format!("{snmp}[[derived]]\ncases = [{{ {Z} }}]\n"), "derived[0].cases[0].");
    for (definition, known) in keys {
        assert_eq!(schema_keys(definition), known, "{definition}");
    }
}

#[test]
fn every_profile_is_recognised_by_something() {
    for id in profile::embedded_ids() {
        let profile = profile::load(id, None).unwrap();
        let Some(fingerprint) = &profile.fingerprint else { continue };
        if matches!(fingerprint.address, Address::Oid(_)) && !["net-snmp/host", "ietf/ups-mib"].contains(&id) {
            assert!(!fingerprint.sys_object_id.is_empty() || !fingerprint.sys_descr.is_empty(), "{id}");
        }
    }
}
