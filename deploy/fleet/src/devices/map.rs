//! From the device profiles to what a simulated device serves: the same files the agent reads, read the other way.
//!
//! Knows: points of a profile, their addresses and how a value becomes raw. Refuses to know: what a profile may say
//! beyond that (the agent checks profiles; here unknown keys are skipped).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::ber::{self, Value as SnmpValue};
use super::modbus::Image;
use super::snmp::Tree;

/// What a point is to be read as, in the units of the contract.
#[derive(Debug, Clone, PartialEq)]
pub enum PointValue {
    Num(f64),
    Word(String),
}

/// Values of one device by point name.
pub type Values = BTreeMap<String, PointValue>;

#[derive(Debug, Clone, Deserialize)]
struct RawProfile {
    #[serde(default)]
    modbus: Option<RawModbus>,
    #[serde(default)]
    point: Vec<RawPoint>,
    #[serde(default)]
    derived: Vec<RawDerived>,
}

#[derive(Debug, Clone, Deserialize)]
struct RawModbus {
    order: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct RawDerived {
    name: String,
}

#[derive(Debug, Clone, Deserialize)]
struct RawPoint {
    name: String,
    read: String,
    #[serde(default)]
    n: Vec<u16>,
    #[serde(default)]
    step: Option<u16>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    order: Option<String>,
    #[serde(default)]
    scale: Option<f64>,
    #[serde(default)]
    offset: Option<f64>,
    #[serde(default, rename = "enum")]
    words: BTreeMap<String, String>,
}

/// Why a profile cannot be simulated.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    #[error("profile {profile} is not readable")]
    Toml {
        profile: String,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("profile {profile}, point {point}: cannot be served: {reason}")]
    Point { profile: String, point: String, reason: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Space {
    Holding,
    Input,
    Coil,
    Discrete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    U16,
    U32,
    U64,
    I16,
    I32,
    I64,
    F32,
    F64,
}

#[derive(Debug, Clone)]
enum Place {
    Register { space: Space, address: u16, width: Width, order: String },
    Oid(ber::Oid),
}

#[derive(Debug, Clone)]
struct Point {
    place: Place,
    scale: f64,
    offset: f64,
    words: BTreeMap<String, f64>,
}

/// What a device of one profile serves.
#[derive(Debug, Clone)]
pub struct Map {
    points: BTreeMap<String, Point>,
    derived: Vec<String>,
    is_modbus: bool,
}

/// Why a value cannot be set.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SetError {
    #[error("no point {point}; this device has {known}")]
    NoPoint { point: String, known: String },
    #[error("{point} is computed by the agent from other points and cannot be set; this device has {known}")]
    Derived { point: String, known: String },
    #[error("{point} takes one of {words}")]
    Word { point: String, words: String },
    #[error("{point} takes a number")]
    Number { point: String },
}

impl Map {
    /// Reads a profile.
    ///
    /// # Errors
    /// The profile says something that cannot be served.
    pub fn read(profile: &str, text: &str) -> Result<Map, MapError> {
        let raw: RawProfile = toml::from_str(text)
            .map_err(|source| MapError::Toml { profile: profile.to_owned(), source: Box::new(source) })?;
        let default_order = raw.modbus.as_ref().and_then(|modbus| modbus.order.clone());
        let mut points = BTreeMap::new();
        for point in &raw.point {
            let numbers: Vec<Option<u16>> =
                if point.n.is_empty() { vec![None] } else { point.n.iter().copied().map(Some).collect() };
            for (index, n) in numbers.into_iter().enumerate() {
                let number = n.map(|n| n.to_string()).unwrap_or_default();
                let name = point.name.replace("{n}", &number);
                let fault = |reason: &str| MapError::Point {
                    profile: profile.to_owned(),
                    point: name.clone(),
                    reason: reason.to_owned(),
                };
                let read = point.read.replace("{n}", &number);
                let place = if raw.modbus.is_some() {
                    let shift = u16::try_from(index).unwrap_or(0) * point.step.unwrap_or(0);
                    register(point, &read, shift, default_order.as_deref()).ok_or_else(|| fault("bad register"))?
                } else {
                    Place::Oid(ber::parse_oid(&read).ok_or_else(|| fault("bad OID"))?)
                };
                let words: BTreeMap<String, f64> = point
                    .words
                    .iter()
                    .map(|(number, word)| number.parse().map(|number| (word.clone(), number)))
                    .collect::<Result<_, _>>()
                    .map_err(|_| fault("bad enum"))?;
                let scale = point.scale.unwrap_or(1.0);
                if scale == 0.0 {
                    return Err(fault("scale 0"));
                }
                points.insert(name, Point { place, scale, offset: point.offset.unwrap_or(0.0), words });
            }
        }
        let derived = raw.derived.into_iter().map(|derived| derived.name).collect();
        Ok(Map { points, derived, is_modbus: raw.modbus.is_some() })
    }

    #[must_use]
    pub const fn is_modbus(&self) -> bool {
        self.is_modbus
    }

    /// Names that can be set.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.points.keys().map(String::as_str)
    }

    /// Reads the text of a command as a value of a point.
    ///
    /// # Errors
    /// Says which points and words there are.
    pub fn parse(&self, name: &str, text: &str) -> Result<PointValue, SetError> {
        let known = || self.names().collect::<Vec<_>>().join(" ");
        let Some(point) = self.points.get(name) else {
            let fault = if self.derived.iter().any(|derived| derived == name) {
                SetError::Derived { point: name.to_owned(), known: known() }
            } else {
                SetError::NoPoint { point: name.chars().take(64).collect(), known: known() }
            };
            return Err(fault);
        };
        if point.words.is_empty() {
            let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
            return number.map(PointValue::Num).ok_or_else(|| SetError::Number { point: name.to_owned() });
        }
        if point.words.contains_key(text) {
            return Ok(PointValue::Word(text.to_owned()));
        }
        let words = point.words.keys().cloned().collect::<Vec<_>>().join(" ");
        Err(SetError::Word { point: name.to_owned(), words })
    }

    /// What a Modbus master finds. A point without a value is not mapped.
    #[must_use]
    pub fn image(&self, values: &Values) -> Image {
        let mut image = Image::default();
        for (name, point) in &self.points {
            let Place::Register { space, address, width, order } = &point.place else { continue };
            let Some(raw) = values.get(name).and_then(|value| point.raw(value)) else { continue };
            match space {
                Space::Coil => drop(image.coils.insert(*address, raw != 0.0)),
                Space::Discrete => drop(image.discrete.insert(*address, raw != 0.0)),
                Space::Holding => put(&mut image.holding, *address, &encode(raw, *width, order)),
                Space::Input => put(&mut image.input, *address, &encode(raw, *width, order)),
            }
        }
        fill_gaps(&mut image.coils);
        fill_gaps(&mut image.discrete);
        fill_gaps(&mut image.holding);
        fill_gaps(&mut image.input);
        image
    }

    /// Adds what an SNMP manager finds.
    pub fn tree(&self, values: &Values, tree: &mut Tree) {
        for (name, point) in &self.points {
            let Place::Oid(oid) = &point.place else { continue };
            if let Some(raw) = values.get(name).and_then(|value| point.raw(value)) {
                tree.insert(oid.clone(), snmp_value(oid, raw.round()));
            }
        }
    }
}

impl Point {
    fn raw(&self, value: &PointValue) -> Option<f64> {
        match value {
            PointValue::Num(number) => Some((number - self.offset) / self.scale),
            PointValue::Word(word) => self.words.get(word).copied(),
        }
    }
}

fn register(point: &RawPoint, read: &str, shift: u16, default_order: Option<&str>) -> Option<Place> {
    let (space, address) = read.split_once(':')?;
    let space = match space {
        "holding" => Space::Holding,
        "input" => Space::Input,
        "coil" => Space::Coil,
        "discrete" => Space::Discrete,
        _ => return None,
    };
    let width = match point.kind.as_deref().unwrap_or("u16") {
        "u16" => Width::U16,
        "i16" => Width::I16,
        "u32" => Width::U32,
        "i32" => Width::I32,
        "u64" => Width::U64,
        "i64" => Width::I64,
        "f32" => Width::F32,
        "f64" => Width::F64,
        _ => return None,
    };
    let address = address.parse::<u16>().ok()?.checked_add(shift)?;
    let order = point.order.as_deref().or(default_order).unwrap_or("abcd").to_owned();
    Some(Place::Register { space, address, width, order })
}

/// Casts saturate: a value that a register cannot hold is served as the nearest one it can.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn encode(raw: f64, width: Width, order: &str) -> Vec<u16> {
    let whole = raw.round();
    let bytes: Vec<u8> = match width {
        Width::U16 => (whole as u16).to_be_bytes().to_vec(),
        Width::I16 => (whole as i16).to_be_bytes().to_vec(),
        Width::U32 => (whole as u32).to_be_bytes().to_vec(),
        Width::I32 => (whole as i32).to_be_bytes().to_vec(),
        Width::U64 => (whole as u64).to_be_bytes().to_vec(),
        Width::I64 => (whole as i64).to_be_bytes().to_vec(),
        Width::F32 => (raw as f32).to_be_bytes().to_vec(),
        Width::F64 => raw.to_be_bytes().to_vec(),
    };
    let mut words: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    if matches!(order, "cdab" | "dcba") {
        words.reverse();
    }
    if matches!(order, "badc" | "dcba") {
        words.iter_mut().for_each(|word| *word = word.swap_bytes());
    }
    words
}

/// Controllers map their variables in long runs; what a profile does not read in between is there all the same.
const GAP: u16 = 128;

fn fill_gaps<T: Default>(space: &mut BTreeMap<u16, T>) {
    let known: Vec<u16> = space.keys().copied().collect();
    for pair in known.windows(2) {
        if pair[1] - pair[0] <= GAP {
            for address in pair[0] + 1..pair[1] {
                space.insert(address, T::default());
            }
        }
    }
}

fn put(space: &mut BTreeMap<u16, u16>, address: u16, words: &[u16]) {
    for (shift, word) in (0..).zip(words) {
        space.insert(address.saturating_add(shift), *word);
    }
}

/// The SYNTAX of the MIB, where it is not INTEGER.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn snmp_value(oid: &[u32], raw: f64) -> SnmpValue {
    const HR_SYSTEM_UPTIME: &[u32] = &[1, 3, 6, 1, 2, 1, 25, 1, 1, 0];
    const HR_SYSTEM_PROCESSES: &[u32] = &[1, 3, 6, 1, 2, 1, 25, 1, 6, 0];
    match oid {
        HR_SYSTEM_UPTIME => SnmpValue::TimeTicks(raw as u32),
        HR_SYSTEM_PROCESSES => SnmpValue::Gauge32(raw as u32),
        _ => SnmpValue::Integer(raw as i32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = r#"
        format = 1
        [modbus]
        order = "abcd"
        [[point]]
        name = "supply.air.temperature"
        read = "holding:36"
        type = "i16"
        scale = 0.1
        [[point]]
        name = "fan.{n}.state"
        read = "holding:162"
        n = [1, 2]
        step = 1
        enum = { 0 = "off", 1 = "on" }
        [[point]]
        name = "meter.realpower"
        read = "input:52"
        type = "f32"
        [[point]]
        name = "leak.1.state"
        read = "coil:37"
        enum = { 0 = "dry", 1 = "wet" }
        [[derived]]
        name = "unit.state"
        otherwise = "on"
    "#;

    #[test]
    fn values_become_registers_and_coils() {
        let map = Map::read("test", PROFILE).unwrap();
        let values: Values = [
            ("supply.air.temperature", PointValue::Num(-12.34)),
            ("fan.1.state", PointValue::Word("on".into())),
            ("fan.2.state", PointValue::Word("off".into())),
            ("meter.realpower", PointValue::Num(1.5)),
            ("leak.1.state", PointValue::Word("wet".into())),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let image = map.image(&values);
        let holding: Vec<u16> = [36, 162, 163].map(|address| image.holding[&address]).into();
        assert_eq!(holding, [(-123_i16).cast_unsigned(), 1, 0]);
        assert_eq!(image.input, [(52, 0x3fc0), (53, 0)].into());
        assert_eq!(image.coils, [(37, true)].into());
        assert_eq!(encode(1.5, Width::F32, "cdab"), [0, 0x3fc0]);
        assert_eq!(encode(1.5, Width::F32, "dcba"), [0, 0xc03f]);
        assert_eq!(encode(70_000.0, Width::U16, "abcd"), [0xffff]);
    }

    #[test]
    fn short_gaps_are_there_and_long_ones_are_not() {
        let mut space: BTreeMap<u16, u16> = [(0, 7), (3, 7), (200, 7)].into();
        fill_gaps(&mut space);
        assert_eq!(space, [(0, 7), (1, 0), (2, 0), (3, 7), (200, 7)].into());
    }

    #[test]
    fn commands_are_checked_against_the_profile() {
        let map = Map::read("test", PROFILE).unwrap();
        assert_eq!(map.parse("supply.air.temperature", "35"), Ok(PointValue::Num(35.0)));
        assert!(matches!(map.parse("supply.air.temperature", "warm"), Err(SetError::Number { .. })));
        assert!(matches!(map.parse("supply.air.temperature", "NaN"), Err(SetError::Number { .. })));
        assert!(matches!(map.parse("fan.1.state", "2"), Err(SetError::Word { .. })));
        assert!(matches!(map.parse("unit.state", "on"), Err(SetError::Derived { .. })));
        assert!(matches!(map.parse("supply.air.temp", "1"), Err(SetError::NoPoint { .. })));
    }
}
