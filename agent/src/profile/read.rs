//! Reads the documents of a profile: its bases first, then itself.
//!
//! Knows: the head, names and their units, in what order sections depend on each other. A point or derived point of a
//! later document takes the place of one of the same name.

use std::collections::{BTreeMap, BTreeSet};

use bcp_wire::names::{DEVICE_KINDS, lookup, nearest as nearest_name};
use bcp_wire::presence::ProfileRef;
use bcp_wire::{MAX_POINTS_PER_BATCH, PointName};

use crate::adjust::{Linear, conversion, units};
use crate::decode::WordOrder;
use crate::document::{Document, Fault, Section, nearest};
use crate::oid::Oid;
use crate::plan::{Limits, Space};
use crate::span::Span;

use super::{Derived, Fingerprint, Point, Profile, Protocol, SunSpec, Table, Trap};

/// What was read so far.
#[derive(Default)]
pub(super) struct Reader {
    pub points: Vec<Point>,
    pub tables: Vec<Table>,
    pub derived: Vec<Derived>,
    pub row_inputs: Vec<String>,
    pub traps: Vec<Trap>,
    /// Index of every point and derived point by name.
    pub names: BTreeMap<String, usize>,
    /// Names of documents before this one, which may be taken over.
    pub inherited: BTreeSet<String>,
    pub protocol: Option<Protocol>,
    pub sunspec: Option<SunSpec>,
    pub order: WordOrder,
}

type Head = (String, String, Option<Fingerprint>);

/// Reads a chain of documents (file and text), the outermost base first.
pub(super) fn profile(
    chain: &[(String, String)],
    fault: Option<String>,
    reference: ProfileRef,
) -> Result<Profile, Vec<Fault>> {
    let documents: Vec<Document<'_>> = chain.iter().map(|(file, text)| Document::new(file, text)).collect();
    let mut roots: Vec<Section<'_, '_>> = documents.iter().map(Document::root).collect();
    let mut reader = Reader::default();
    let mut head = None;
    for root in &mut roots {
        head = reader.head(root);
    }
    if let (Some(root), Some(message)) = (roots.last(), fault) {
        root.fault("base", message, None);
    }
    for root in &mut roots {
        reader.inherited.extend(reader.names.keys().cloned());
        for mut section in root.sections("point") {
            reader.point(&mut section);
            section.finish();
        }
    }
    for root in &mut roots {
        for section in root.sections("table") {
            let table = reader.table(section);
            reader.tables.extend(table);
        }
    }
    for root in &mut roots {
        reader.inherited.extend(reader.names.keys().cloned());
        for section in root.sections("derived") {
            reader.derived(section);
        }
    }
    for root in &mut roots {
        for section in root.sections("trap") {
            reader.trap(section);
        }
    }
    if let Some(root) = roots.last()
        && reader.points.len() > MAX_POINTS_PER_BATCH
    {
        root.fault("point", format!("more than {MAX_POINTS_PER_BATCH} points"), None);
    }
    for root in roots {
        root.finish();
    }
    let faults: Vec<Fault> = documents.into_iter().flat_map(Document::into_faults).collect();
    let (true, Some((title, kind, fingerprint)), Some(protocol)) = (faults.is_empty(), head, reader.protocol) else {
        return Err(faults);
    };
    let Reader { points, tables, derived, row_inputs, traps, sunspec, .. } = reader;
    Ok(Profile { reference, title, kind, protocol, sunspec, points, tables, derived, row_inputs, fingerprint, traps })
}

impl Reader {
    fn head(&mut self, root: &mut Section<'_, '_>) -> Option<Head> {
        let format: Option<u32> = root.required("format", "1");
        if format.is_some_and(|format| format != 1) {
            root.fault("format", "this program knows profiles of format 1", None);
        }
        // Followed before this document was read.
        let based = root.optional::<String>("base").is_some();
        let title: Option<String> = root.required("title", "\"Make and model\"");
        let kind: Option<String> = root.required("kind", "\"ups\"");
        if let Some(kind) = kind.as_deref().filter(|kind| !DEVICE_KINDS.contains(kind)) {
            let help = nearest(kind, DEVICE_KINDS).map(|near| format!("did you mean `{near}`?"));
            root.fault("kind", format!("`{kind}` is not a device kind"), help);
        }
        let sources: Option<Vec<String>> = root.required("sources", "[\"manual, page\"]");
        if sources.is_some_and(|sources| sources.is_empty()) {
            root.fault("sources", "a profile names where its addresses come from", None);
        }
        let _notes: Option<String> = root.optional("notes");
        self.read_protocol(root, based);
        let fingerprint = root.section("fingerprint").and_then(|section| self.fingerprint(section));
        Some((title?, kind?, fingerprint))
    }

    fn read_protocol(&mut self, root: &mut Section<'_, '_>, based: bool) {
        let (modbus, snmp) = (root.section("modbus"), root.section("snmp"));
        match (modbus, snmp) {
            (Some(mut section), None) => {
                let max_registers = bounded(&mut section, "max_registers", 100, 1, 125);
                let max_bits = bounded(&mut section, "max_bits", 800, 1, 2_000);
                let max_gap = bounded(&mut section, "max_gap", 16, 0, 124);
                self.order = section.optional("order").unwrap_or_default();
                let pause: Span = section.optional("pause").unwrap_or(Span::from_millis(0));
                if pause.as_millis() > 1_000 {
                    section.fault("pause", "a pause of more than 1s leaves no time to read", None);
                }
                if let Some(mut sunspec) = section.section("sunspec") {
                    let models: Option<Vec<u16>> = sunspec.required("models", "[101, 102, 103]");
                    let at: Option<u16> = sunspec.required("at", "40069");
                    sunspec.finish();
                    self.sunspec = models.zip(at).map(|(models, at)| SunSpec { models, at });
                }
                if based && matches!(self.protocol, Some(Protocol::Snmp { .. })) {
                    section.fault("", "the base is read by SNMP", None);
                }
                section.finish();
                let limits = Limits { max_registers, max_bits, max_gap };
                self.protocol = Some(Protocol::Modbus { limits, pause: pause.get() });
            }
            (None, Some(mut section)) => {
                let max_oids = usize::from(bounded(&mut section, "max_oids", 30, 1, 100));
                if based && matches!(self.protocol, Some(Protocol::Modbus { .. })) {
                    section.fault("", "the base is read by Modbus", None);
                }
                section.finish();
                self.protocol = Some(Protocol::Snmp { max_oids });
            }
            (Some(_), Some(_)) => root.fault("modbus", "a profile has either `[modbus]` or `[snmp]`, not both", None),
            (None, None) if based => {}
            (None, None) => root.fault("", "a profile has a `[modbus]` or an `[snmp]` section", None),
        }
    }

    /// A checked name, not used before in this document, and its unit.
    pub(super) fn name(
        &self,
        section: &Section<'_, '_>,
        name: &str,
        publish: bool,
    ) -> Option<(PointName, &'static str)> {
        let named = self.name_of(section, name, publish)?;
        if self.names.contains_key(name) && !self.inherited.contains(name) {
            section.fault("name", format!("`{name}` is defined twice"), None);
            return None;
        }
        Some(named)
    }

    /// A checked name and its unit.
    pub(super) fn name_of(
        &self,
        section: &Section<'_, '_>,
        name: &str,
        publish: bool,
    ) -> Option<(PointName, &'static str)> {
        let parsed: PointName = match name.parse() {
            Ok(parsed) => parsed,
            Err(error) => {
                section.fault("name", format!("{error}"), None);
                return None;
            }
        };
        match lookup(&parsed).filter(|_| publish) {
            Some(definition) => Some((parsed, definition.unit)),
            None if publish => {
                let help = nearest_name(name).map(|near| format!("did you mean `{near}`?"));
                section.fault("name", format!("`{name}` is not a name of the contract"), help);
                None
            }
            None => Some((parsed, "")),
        }
    }
}

/// The way from a unit of the device to the one of the contract.
pub(super) fn unit_way(section: &Section<'_, '_>, key: &str, from: &str, to: &str) -> Option<Linear> {
    let way = conversion(from, to);
    if way.is_none() {
        let known: Vec<&str> = units().collect();
        let help = if known.contains(&from) { None } else { nearest(from, &known) };
        let help = help.map(|near| format!("did you mean `{near}`?"));
        let to = if to.is_empty() { "a point without a unit" } else { to };
        section.fault(key, format!("`{from}` cannot become {to}"), help);
    }
    way
}

pub(super) fn bounded(section: &mut Section<'_, '_>, key: &'static str, default: u16, low: u16, high: u16) -> u16 {
    let value: u16 = section.optional(key).unwrap_or(default);
    if (low..=high).contains(&value) {
        value
    } else {
        section.fault(key, format!("`{key}` must be between {low} and {high}"), None);
        default
    }
}

pub(super) fn oid_of(section: &Section<'_, '_>, key: &str, text: &str) -> Option<Oid> {
    text.parse().map_err(|error| section.fault(key, format!("{error}"), None)).ok()
}

/// `holding:36` to its space and address.
pub(super) fn register(text: &str) -> Result<(Space, u16), String> {
    let form = || format!("`{text}` is not space:address, as holding:36 (spaces: holding, input, coil, discrete)");
    let (space, address) = text.split_once(':').ok_or_else(form)?;
    let space = match space {
        "holding" => Space::Holding,
        "input" => Space::Input,
        "coil" => Space::Coil,
        "discrete" => Space::Discrete,
        _ => return Err(form()),
    };
    address.parse().map(|address| (space, address)).map_err(|_| form())
}
