//! Device profiles: `firmware-configs/<vendor>/<model>.toml` to a checked read plan.
//!
//! Knows: the file format (its README), and which names, types and formulas go together. Refuses to know: which
//! device uses it, sockets. Invariant: a [`Profile`] can be polled as it is; every fault was found before.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bcp_wire::names::{DEVICE_KINDS, lookup};
use bcp_wire::presence::ProfileRef;
use bcp_wire::{MAX_POINTS_PER_BATCH, PointName};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::decode::{Decoder, MAX_STRING_REGISTERS, RegisterType, Scale, Sentinel, WordOrder};
use crate::derive::{Condition, Formula, Test};
use crate::document::{Document, Fault, Section, nearest};
use crate::oid::Oid;
use crate::plan::{Limits, Space};
use crate::span::Span;

/// The profiles that are part of the program: id and text.
const EMBEDDED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/profiles.rs"));

/// Most rows of one table, and the default.
const MAX_ROWS: usize = 512;
const DEFAULT_ROWS: usize = 64;

/// What a device of one model measures, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    pub reference: ProfileRef,
    pub title: String,
    pub kind: String,
    pub protocol: Protocol,
    pub points: Vec<Point>,
    pub tables: Vec<Table>,
    /// Computed in this order, from `points` and those before.
    pub derived: Vec<Derived>,
    pub fingerprint: Option<Fingerprint>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Protocol {
    Modbus { limits: Limits, pause: Duration },
    Snmp { max_oids: usize },
}

impl Protocol {
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Protocol::Modbus { .. } => "modbus",
            Protocol::Snmp { .. } => "snmp",
        }
    }
}

/// One measured point.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub name: PointName,
    /// Of the contract's registry; empty for texts and unpublished points.
    pub unit: &'static str,
    pub address: Address,
    pub decoder: Decoder,
    pub optional: bool,
    pub publish: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Register { space: Space, address: u16, len: u16 },
    Oid(Oid),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Register { space, address, .. } => write!(f, "{}:{address}", space.as_str()),
            Address::Oid(oid) => write!(f, "{oid}"),
        }
    }
}

/// Points that a device has one of per row.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Column that is walked to find the rows.
    pub walk: Oid,
    /// The walked column's text names the row; else its index does.
    pub labelled: bool,
    pub filter: Option<(Oid, String)>,
    pub max_rows: usize,
    pub points: Vec<TablePoint>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TablePoint {
    /// With `{id}` or `{n}` for the row.
    pub pattern: String,
    pub column: Oid,
    pub times: Option<Oid>,
    pub decoder: Decoder,
    pub optional: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Derived {
    pub name: PointName,
    pub unit: &'static str,
    pub formula: Formula,
}

/// Where a device tells its firmware, and for which ones the profile was proven.
#[derive(Debug, Clone, PartialEq)]
pub struct Fingerprint {
    pub address: Address,
    pub proven: Vec<String>,
}

impl Fingerprint {
    /// True where nothing was proven, or this firmware was.
    #[must_use]
    pub fn covers(&self, firmware: &str) -> bool {
        self.proven.is_empty() || self.proven.iter().any(|known| firmware.starts_with(known.as_str()))
    }
}

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("there is no profile `{id}`")]
    Unknown { id: String, near: Option<String> },
    #[error("failed to read the profile {path}")]
    Read { path: String, source: std::io::Error },
    #[error("the profile `{id}` has {} faults", faults.len())]
    Faulty { id: String, faults: Vec<Fault> },
}

/// Ids of the profiles that are part of the program.
pub fn embedded_ids() -> impl Iterator<Item = &'static str> {
    EMBEDDED.iter().map(|(id, _)| *id)
}

/// Loads a profile: a file of `dir` first, then the built-in one.
///
/// # Errors
/// There is none of that id, or it is at fault.
pub fn load(id: &str, dir: Option<&Path>) -> Result<Arc<Profile>, ProfileError> {
    let is_plain = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let plain = id.split_once('/').is_some_and(|(vendor, model)| is_plain(vendor) && is_plain(model));
    let file = dir.filter(|_| plain).map(|dir| dir.join(format!("{id}.toml"))).filter(|path| path.is_file());
    let (name, text) = if let Some(path) = file {
        let name = path.display().to_string();
        let text =
            std::fs::read_to_string(&path).map_err(|source| ProfileError::Read { path: name.clone(), source })?;
        (name, text)
    } else if let Some((_, text)) = EMBEDDED.iter().find(|(known, _)| *known == id) {
        (format!("built-in:{id}.toml"), (*text).to_owned())
    } else {
        let known: Vec<&str> = embedded_ids().collect();
        return Err(ProfileError::Unknown { id: id.to_owned(), near: nearest(id, &known).map(str::to_owned) });
    };
    parse(id, &name, &text).map(Arc::new).map_err(|faults| ProfileError::Faulty { id: id.to_owned(), faults })
}

/// First 16 hexadecimal digits of the SHA-256 of a text.
#[must_use]
pub fn short_hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(8).fold(String::new(), |mut hash, byte| {
        use std::fmt::Write as _;
        let _ = write!(hash, "{byte:02x}");
        hash
    })
}

/// Reads and checks one profile.
///
/// # Errors
/// Every fault of the file.
pub fn parse(id: &str, file: &str, text: &str) -> Result<Profile, Vec<Fault>> {
    let document = Document::new(file, text);
    let mut reader = Reader { points: Vec::new(), names: BTreeMap::new(), protocol: None, order: WordOrder::Abcd };
    let mut root = document.root();
    let head = reader.head(&mut root);
    for mut section in root.sections("point") {
        reader.point(&mut section);
        section.finish();
    }
    let tables = root.sections("table").into_iter().filter_map(|section| reader.table(section)).collect();
    let mut derived = Vec::new();
    for section in root.sections("derived") {
        derived.extend(reader.derived(section));
    }
    if reader.points.len() > MAX_POINTS_PER_BATCH {
        root.fault("point", format!("more than {MAX_POINTS_PER_BATCH} points"), None);
    }
    root.finish();
    let faults = document.into_faults();
    let (true, Some((title, kind, fingerprint)), Some(protocol)) = (faults.is_empty(), head, reader.protocol) else {
        return Err(faults);
    };
    let reference = ProfileRef { id: id.to_owned(), hash: short_hash(text) };
    Ok(Profile { reference, title, kind, protocol, points: reader.points, tables, derived, fingerprint })
}

struct Reader {
    points: Vec<Point>,
    /// Index of every point and derived point by name.
    names: BTreeMap<String, usize>,
    protocol: Option<Protocol>,
    order: WordOrder,
}

type Head = (String, String, Option<Fingerprint>);

#[derive(Deserialize)]
#[serde(untagged)]
enum RawSentinel {
    Number(f64),
    Bits(String),
}

impl Reader {
    fn head(&mut self, root: &mut Section<'_, '_>) -> Option<Head> {
        let format: Option<u32> = root.required("format", "1");
        if format.is_some_and(|format| format != 1) {
            root.fault("format", "this program knows profiles of format 1", None);
        }
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
        self.protocol = self.read_protocol(root);
        let fingerprint = root.section("fingerprint").and_then(|section| self.fingerprint(section));
        Some((title?, kind?, fingerprint))
    }

    fn read_protocol(&mut self, root: &mut Section<'_, '_>) -> Option<Protocol> {
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
                section.finish();
                let limits = Limits { max_registers, max_bits, max_gap };
                Some(Protocol::Modbus { limits, pause: pause.get() })
            }
            (None, Some(mut section)) => {
                let max_oids = usize::from(bounded(&mut section, "max_oids", 30, 1, 100));
                section.finish();
                Some(Protocol::Snmp { max_oids })
            }
            (Some(_), Some(_)) => {
                root.fault("modbus", "a profile has either `[modbus]` or `[snmp]`, not both", None);
                None
            }
            (None, None) => {
                root.fault("", "a profile has a `[modbus]` or an `[snmp]` section", None);
                None
            }
        }
    }

    fn fingerprint(&self, mut section: Section<'_, '_>) -> Option<Fingerprint> {
        let proven = section.optional("proven").unwrap_or_default();
        let address = match self.protocol {
            Some(Protocol::Snmp { .. }) => {
                section.required::<String>("oid", "\"1.3.6.1.2.1.1.1.0\"").and_then(|text| {
                    text.parse().map_err(|e| section.fault("oid", format!("{e}"), None)).ok().map(Address::Oid)
                })
            }
            Some(Protocol::Modbus { .. }) => {
                let read: Option<String> = section.required("read", "\"holding:516\"");
                let len = bounded(&mut section, "len", 8, 1, 64);
                read.and_then(|read| match register(&read) {
                    Ok((space, address)) => Some(Address::Register { space, address, len }),
                    Err(message) => {
                        section.fault("read", message, None);
                        None
                    }
                })
            }
            None => None,
        };
        section.finish();
        Some(Fingerprint { address: address?, proven })
    }

    fn decoder(&self, section: &mut Section<'_, '_>) -> Decoder {
        let kind: RegisterType = section.optional("type").unwrap_or_default();
        let order = section.optional("order").unwrap_or(self.order);
        let bit: Option<u8> = section.optional("bit");
        let scale: f64 = section.optional("scale").unwrap_or(1.0);
        let offset: f64 = section.optional("offset").unwrap_or(0.0);
        if scale == 0.0 || !scale.is_finite() || !offset.is_finite() {
            section.fault("scale", "a scale is a number other than 0", None);
        }
        let widest = 16 * kind.registers().unwrap_or(0);
        if bit.is_some_and(|bit| u16::from(bit) >= widest || !matches!(kind, RegisterType::U16 | RegisterType::U32)) {
            section.fault("bit", "`bit` is one of a `u16` (0 to 15) or a `u32` (0 to 31)", None);
        }
        let raw: Vec<RawSentinel> = section.optional("sentinel").unwrap_or_default();
        let mut sentinels = Vec::new();
        for sentinel in raw {
            match sentinel {
                RawSentinel::Number(number) => sentinels.push(Sentinel::Number(number)),
                RawSentinel::Bits(text) => {
                    match text.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
                        Some(bits) => sentinels.push(Sentinel::Bits(bits)),
                        None => section.fault("sentinel", format!("`{text}` is not a number or \"0x...\""), None),
                    }
                }
            }
        }
        let range: Option<[f64; 2]> = section.optional("range");
        if range.is_some_and(|[low, high]| low.partial_cmp(&high).is_none_or(std::cmp::Ordering::is_gt)) {
            section.fault("range", "a range is [lowest, highest]", None);
        }
        let raw_words: Option<BTreeMap<String, String>> = section.optional("enum");
        let words = raw_words.map(|raw| {
            let mut words = BTreeMap::new();
            for (number, word) in raw {
                if let (Ok(number), false) = (number.parse::<i64>(), word.is_empty()) {
                    words.insert(number, word);
                } else {
                    section.fault("enum", format!("`{number}` is not a number with a word"), None);
                }
            }
            words
        });
        let range = range.map(|[low, high]| (low, high));
        Decoder { kind, order, bit, scale: Scale::new(scale, offset), sentinels, range, words }
    }

    fn point(&mut self, section: &mut Section<'_, '_>) {
        let name: Option<String> = section.required("name", "\"battery.charge\"");
        let read: Option<String> = section.required("read", "\"holding:0\"");
        let decoder = self.decoder(section);
        let optional = section.optional("optional").unwrap_or(false);
        let publish = section.optional("publish").unwrap_or(true);
        let numbers: Option<Vec<u16>> = section.optional("n");
        let step: u16 = section.optional("step").unwrap_or(decoder.kind.registers().unwrap_or(1));
        let len: Option<u16> = section.optional("len");
        let len = match (decoder.kind, len) {
            (RegisterType::String, Some(len)) if usize::from(len) <= MAX_STRING_REGISTERS && len > 0 => len,
            (RegisterType::String, _) if matches!(self.protocol, Some(Protocol::Modbus { .. })) => {
                section.fault("len", format!("a string needs `len`, 1 to {MAX_STRING_REGISTERS} registers"), None);
                1
            }
            (_, Some(_)) => {
                section.fault("len", "`len` is for strings; other types know their length", None);
                1
            }
            (kind, None) => kind.registers().unwrap_or(1),
        };
        let (Some(name), Some(read)) = (name, read) else { return };
        if name.contains("{n}") != numbers.is_some() {
            section.fault("n", "`n` and `{n}` in the name go together", None);
            return;
        }
        for (position, n) in numbers.map_or(vec![None], |ns| ns.into_iter().map(Some).collect()).into_iter().enumerate()
        {
            let fill = |text: &str| n.map_or_else(|| text.to_owned(), |n| text.replace("{n}", &n.to_string()));
            let moved = u16::try_from(position).unwrap_or(u16::MAX).checked_mul(step);
            let Some(address) = self.address(section, &fill(&read), moved, len, &decoder) else { return };
            let Some((name, unit)) = self.name(section, &fill(&name), publish) else { return };
            self.names.insert(name.as_str().to_owned(), self.points.len());
            self.points.push(Point { name, unit, address, decoder: decoder.clone(), optional, publish });
        }
    }

    fn address(
        &self,
        section: &Section<'_, '_>,
        read: &str,
        moved: Option<u16>,
        len: u16,
        decoder: &Decoder,
    ) -> Option<Address> {
        let fault = |message: String| {
            section.fault("read", message, None);
            None
        };
        match self.protocol? {
            Protocol::Snmp { .. } => match read.parse::<Oid>() {
                Ok(oid) => Some(Address::Oid(oid)),
                Err(error) => fault(error.to_string()),
            },
            Protocol::Modbus { .. } => {
                let (space, base) = match register(read) {
                    Ok(found) => found,
                    Err(message) => return fault(message),
                };
                if space.is_bits() && decoder.kind != RegisterType::U16 {
                    return fault("a coil or discrete input has no `type`".to_owned());
                }
                let end =
                    moved.and_then(|moved| base.checked_add(moved)).map(|at| (at, u32::from(at) + u32::from(len)));
                match end {
                    Some((address, end)) if end <= 65_536 => Some(Address::Register { space, address, len }),
                    _ => fault("the address lies beyond 65535".to_owned()),
                }
            }
        }
    }

    /// A checked, new name and its unit.
    fn name(&self, section: &Section<'_, '_>, name: &str, publish: bool) -> Option<(PointName, &'static str)> {
        let parsed: PointName = match name.parse() {
            Ok(parsed) => parsed,
            Err(error) => {
                section.fault("name", format!("{error}"), None);
                return None;
            }
        };
        if self.names.contains_key(name) {
            section.fault("name", format!("`{name}` is defined twice"), None);
            return None;
        }
        let Some(definition) = lookup(&parsed).filter(|_| publish) else {
            if publish {
                let help = bcp_wire::names::nearest(name).map(|near| format!("did you mean `{near}`?"));
                section.fault("name", format!("`{name}` is not a name of the contract"), help);
                return None;
            }
            return Some((parsed, ""));
        };
        Some((parsed, definition.unit))
    }

    fn table(&self, mut section: Section<'_, '_>) -> Option<Table> {
        if !matches!(self.protocol, Some(Protocol::Snmp { .. })) {
            section.fault("", "tables are for SNMP", None);
        }
        let label: Option<String> = section.required("label", "\"1.3.6.1.2.1.31.1.1.1.1\"");
        let labelled = label.as_deref() != Some("index");
        let walk: Option<String> = if labelled { label } else { section.required("walk", "\"a column's OID\"") };
        let walk = walk.and_then(|text| oid_of(&section, if labelled { "label" } else { "walk" }, &text));
        let filter = section.section("where").and_then(|mut filter| {
            let column: Option<String> = filter.required("column", "\"a column's OID\"");
            let is: Option<String> = filter.required("is", "\"a text\"");
            let column = column.and_then(|text| oid_of(&filter, "column", &text));
            filter.finish();
            Some((column?, is?))
        });
        let max_rows = section.optional("max_rows").unwrap_or(DEFAULT_ROWS);
        if !(1..=MAX_ROWS).contains(&max_rows) {
            section.fault("max_rows", format!("must be between 1 and {MAX_ROWS}"), None);
        }
        let mut points = Vec::new();
        for mut point in section.sections("point") {
            let name: Option<String> = point.required("name", "\"host.fs.{id}.size\"");
            let column: Option<String> = point.required("column", "\"a column's OID\"");
            let times: Option<String> = point.optional("times");
            let decoder = self.decoder(&mut point);
            let optional = point.optional("optional").unwrap_or(false);
            let column = column.and_then(|text| oid_of(&point, "column", &text));
            let times = times.and_then(|text| oid_of(&point, "times", &text));
            let wanted = if labelled { "{id}" } else { "{n}" };
            if let Some(pattern) = name {
                let sample = pattern.replace("{id}", "x").replace("{n}", "1");
                if pattern.contains(wanted) && self.name(&point, &sample, true).is_some() {
                    points.extend(column.map(|column| TablePoint { pattern, column, times, decoder, optional }));
                } else if !pattern.contains(wanted) {
                    point.fault("name", format!("the name needs a `{wanted}` for the row"), None);
                }
            }
            point.finish();
        }
        section.finish();
        Some(Table { walk: walk?, labelled, filter, max_rows, points })
    }

    fn derived(&mut self, mut section: Section<'_, '_>) -> Option<Derived> {
        let name: Option<String> = section.required("name", "\"ups.status\"");
        let formula = self.formula(&mut section);
        let named = name.and_then(|name| self.name(&section, &name, true));
        section.finish();
        let (name, unit) = named?;
        let next = self.names.values().max().map_or(0, |last| last + 1).max(self.points.len());
        self.names.insert(name.as_str().to_owned(), next);
        Some(Derived { name, unit, formula: formula? })
    }

    fn input(&self, section: &Section<'_, '_>, key: &str, name: &str) -> Option<usize> {
        let found = self.names.get(name).copied();
        if found.is_none() {
            let known: Vec<&str> = self.names.keys().map(String::as_str).collect();
            let help = nearest(name, &known).map(|near| format!("did you mean `{near}`?"));
            section.fault(key, format!("`{name}` is no point above this one"), help);
        }
        found
    }

    fn formula(&self, section: &mut Section<'_, '_>) -> Option<Formula> {
        let keys = ["sum", "max", "share", "flags", "cases"];
        let given: Vec<&str> = keys.into_iter().filter(|key| section.has(key)).collect();
        match given.as_slice() {
            ["sum"] => {
                let terms: BTreeMap<String, f64> = section.optional("sum")?;
                let all = section.optional("all").unwrap_or(false);
                let terms: Option<Vec<_>> = terms
                    .into_iter()
                    .map(|(name, factor)| Some((self.input(section, "sum", &name)?, factor)))
                    .collect();
                Some(Formula::Sum { terms: terms?, all })
            }
            ["max"] => {
                let names: Vec<String> = section.optional("max")?;
                let inputs: Option<Vec<_>> = names.iter().map(|name| self.input(section, "max", name)).collect();
                inputs.map(Formula::Max)
            }
            ["share"] => {
                let [part, whole]: [String; 2] = section.optional("share")?;
                let (part, whole) = (self.input(section, "share", &part)?, self.input(section, "share", &whole)?);
                Some(Formula::Share { part, whole })
            }
            ["flags"] => self.conditions(section, "flags", "flag").map(Formula::Flags),
            ["cases"] => {
                let otherwise = section.optional("otherwise");
                let cases = self.conditions(section, "cases", "value")?;
                Some(Formula::Cases { cases, otherwise })
            }
            _ => {
                section.fault("", "a derived point has exactly one of sum, max, share, flags, cases", None);
                None
            }
        }
    }

    fn conditions(
        &self,
        section: &mut Section<'_, '_>,
        key: &'static str,
        word_key: &'static str,
    ) -> Option<Vec<(String, Condition)>> {
        let mut conditions = Vec::new();
        let mut whole = true;
        for mut entry in section.sections(key) {
            let word: Option<String> = entry.required(word_key, "\"OL\"");
            let point: Option<String> = entry.required("point", "\"output.source\"");
            let is: Option<Vec<String>> = entry.optional("is");
            let above: Option<f64> = entry.optional("above");
            let below: Option<f64> = entry.optional("below");
            let test = match (is, above, below) {
                (Some(words), None, None) => Some(Test::Is(words)),
                (None, Some(limit), None) => Some(Test::Above(limit)),
                (None, None, Some(limit)) => Some(Test::Below(limit)),
                _ => {
                    entry.fault("", "a condition has exactly one of is, above, below", None);
                    None
                }
            };
            let input = point.and_then(|point| self.input(&entry, "point", &point));
            entry.finish();
            match (word, input, test) {
                (Some(word), Some(input), Some(test)) => conditions.push((word, Condition { input, test })),
                _ => whole = false,
            }
        }
        whole.then_some(conditions)
    }
}

fn bounded(section: &mut Section<'_, '_>, key: &'static str, default: u16, low: u16, high: u16) -> u16 {
    let value: u16 = section.optional(key).unwrap_or(default);
    if (low..=high).contains(&value) {
        value
    } else {
        section.fault(key, format!("`{key}` must be between {low} and {high}"), None);
        default
    }
}

fn oid_of(section: &Section<'_, '_>, key: &str, text: &str) -> Option<Oid> {
    text.parse().map_err(|error| section.fault(key, format!("{error}"), None)).ok()
}

/// `holding:36` to its space and address.
fn register(text: &str) -> Result<(Space, u16), String> {
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

/// A row's label as a part of a point name; `taken` makes it unique.
#[must_use]
pub fn row_id(label: &str, taken: &mut BTreeSet<String>) -> String {
    let mut id = String::new();
    for c in label.chars().flat_map(char::to_lowercase) {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            id.push(c);
        } else if !id.ends_with('-') && !id.is_empty() {
            id.push('-');
        }
    }
    let id = id.trim_end_matches('-');
    let stem: String = if id.is_empty() { "root".to_owned() } else { id.chars().take(28).collect() };
    let mut unique = stem.clone();
    let mut next = 2;
    while !taken.insert(unique.clone()) {
        unique = format!("{stem}-{next}");
        next += 1;
    }
    unique
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_profile_is_sound() {
        let ids: Vec<&str> = embedded_ids().collect();
        for want in ["ietf/ups-mib", "net-snmp/host", "airedale/pco-cooler", "schneider/iem3000", "eastron/sdm630"] {
            assert!(ids.contains(&want), "{want}");
        }
        for id in ids {
            match load(id, None) {
                Ok(profile) => assert!(!profile.points.is_empty()),
                Err(ProfileError::Faulty { faults, .. }) => {
                    panic!("{id}\n{}", crate::document::Faults(faults));
                }
                Err(error) => panic!("{id}: {error}"),
            }
        }
    }

    #[test]
    fn all_faults_of_a_profile_are_found_at_once() {
        let text = r#"
format = 2
title = "x"
kind = "upss"
sources = []
[modbus]
max_registers = 126
[[point]]
name = "batery.charge"
read = "holding:1"
[[point]]
name = "battery.charge"
read = "register:1"
[[point]]
name = "battery.voltage"
read = "holding:65535"
type = "u32"
[[point]]
name = "input.l{n}.voltage"
read = "holding:5"
[[point]]
name = "ups.load"
read = "holding:9"
range = [5, 1]
enum = { x = "a" }
bit = 16
[[derived]]
name = "ups.realpower"
max = ["battery.currant"]
"#;
        let faults = parse("a/b", "f", text).unwrap_err();
        let keys: Vec<&str> = faults.iter().map(|f| f.key.as_str()).collect();
        for want in [
            "format",
            "kind",
            "sources",
            "modbus.max_registers",
            "point[0].name",
            "point[1].read",
            "point[2].read",
            "point[3].n",
            "point[4].range",
            "point[4].enum",
            "point[4].bit",
            "derived[0].max",
        ] {
            assert!(keys.contains(&want), "{want} of {keys:?}");
        }
    }

    #[test]
    fn row_labels_become_parts_of_names() {
        let mut taken = BTreeSet::new();
        for (label, want) in
            [("/", "root"), ("/var/lib", "var-lib"), ("eth0", "eth0"), ("ETH0", "eth0-2"), ("", "root-2")]
        {
            assert_eq!(row_id(label, &mut taken), want);
        }
    }

    #[test]
    fn a_name_that_is_a_path_finds_nothing() {
        for id in ["../etc/passwd", "a", "a/../b", "ietf/ups-mibb"] {
            assert!(matches!(load(id, Some(Path::new("/"))), Err(ProfileError::Unknown { .. })), "{id}");
        }
    }
}
