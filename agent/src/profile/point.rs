//! Points of fixed address, and how any value is decoded.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use crate::adjust::{Adjust, FactorForm};
use crate::decode::{Decoder, MAX_STRING_REGISTERS, RegisterType, Scale, Sentinel};
use crate::document::{Section, nearest};
use crate::oid::Oid;

use super::read::{Reader, register, unit_way};
use super::{Address, Point, Protocol};

#[derive(Deserialize)]
#[serde(untagged)]
enum RawSentinel {
    Number(f64),
    Text(String),
}

/// A decoder whose unit is not joined yet.
pub(super) struct Decoding {
    decoder: Decoder,
    unit: Option<String>,
}

impl Decoding {
    /// Joins the device's unit with the point's.
    pub(super) fn in_unit(&self, section: &Section<'_, '_>, wanted: &str) -> Decoder {
        let mut decoder = self.decoder.clone();
        if let Some(way) = self.unit.as_deref().and_then(|unit| unit_way(section, "unit", unit, wanted)) {
            decoder.scale = decoder.scale.then(way);
        }
        decoder
    }
}

impl Reader {
    pub(super) fn decoding(&self, section: &mut Section<'_, '_>) -> Decoding {
        let kind: RegisterType = section.optional("type").unwrap_or_default();
        let order = section.optional("order").unwrap_or(self.order);
        let scale: f64 = section.optional("scale").unwrap_or(1.0);
        let offset: f64 = section.optional("offset").unwrap_or(0.0);
        if scale == 0.0 || !scale.is_finite() || !offset.is_finite() {
            section.fault("scale", "a scale is a number other than 0", None);
        }
        let range: Option<[f64; 2]> = section.optional("range");
        if range.is_some_and(|[low, high]| low.partial_cmp(&high).is_none_or(std::cmp::Ordering::is_gt)) {
            section.fault("range", "a range is [lowest, highest]", None);
        }
        let texts: Option<BTreeMap<String, String>> = section.optional("texts");
        let texts = texts.map(|raw| raw.into_iter().map(|(text, word)| (text.trim().to_lowercase(), word)).collect());
        let decoder = Decoder {
            kind,
            order,
            bit: self.bit(section, kind),
            char_at: section.optional("char"),
            leading: section.optional("leading_number").unwrap_or(false),
            rate: section.optional("rate").unwrap_or(false),
            scale: Scale::new(scale, offset),
            sentinels: sentinels(section),
            range: range.map(|[low, high]| (low, high)),
            words: words(section),
            texts,
            other_word: section.optional("enum_else"),
        };
        let is_snmp = matches!(self.protocol, Some(Protocol::Snmp { .. }));
        for key in ["char", "leading_number", "texts", "rate"] {
            if section.has(key) && !is_snmp {
                section.fault(key, format!("`{key}` is for values of SNMP"), None);
            }
        }
        if decoder.char_at == Some(0) {
            section.fault("char", "characters count from 1", None);
        }
        if decoder.other_word.is_some() && decoder.words.is_none() && decoder.texts.is_none() {
            section.fault("enum_else", "`enum_else` goes with `enum` or `texts`", None);
        }
        Decoding { decoder, unit: section.optional("unit") }
    }

    fn bit(&self, section: &mut Section<'_, '_>, kind: RegisterType) -> Option<u8> {
        let bit: u8 = section.optional("bit")?;
        let widest = 16 * kind.registers().unwrap_or(0);
        let is_modbus = matches!(self.protocol, Some(Protocol::Modbus { .. }));
        if is_modbus && (u16::from(bit) >= widest || !matches!(kind, RegisterType::U16 | RegisterType::U32)) {
            section.fault("bit", "`bit` is one of a `u16` (0 to 15) or a `u32` (0 to 31)", None);
        }
        Some(bit)
    }

    pub(super) fn point(&mut self, section: &mut Section<'_, '_>) {
        let name: Option<String> = section.required("name", "\"battery.charge\"");
        let read: Option<String> = section.required("read", "\"holding:0\"");
        let decoding = self.decoding(section);
        let optional = section.optional("optional").unwrap_or(false);
        let publish = section.optional("publish").unwrap_or(true);
        let fallback = section.optional("fallback").unwrap_or(false);
        let max_step: Option<f64> = section.optional("max_step");
        if max_step.is_some_and(|most| !(most > 0.0 && most.is_finite())) {
            section.fault("max_step", "the largest plausible change is a number above 0", None);
        }
        let numbers: Option<Vec<u16>> = section.optional("n");
        let kind = decoding.decoder.kind;
        let step: u16 = section.optional("step").unwrap_or(kind.registers().unwrap_or(1));
        let len = self.len(section, kind);
        let siblings = RawAdjust::read(section);
        let (Some(name), Some(read)) = (name, read) else { return };
        if name.contains("{n}") != numbers.is_some() {
            section.fault("n", "`n` and `{n}` in the name go together", None);
            return;
        }
        for (position, n) in numbers.map_or(vec![None], |ns| ns.into_iter().map(Some).collect()).into_iter().enumerate()
        {
            let fill = |text: &str| n.map_or_else(|| text.to_owned(), |n| text.replace("{n}", &n.to_string()));
            let moved = u16::try_from(position).unwrap_or(u16::MAX).checked_mul(step);
            let Some(address) = self.address(section, &fill(&read), moved, len, kind) else { return };
            let name = fill(&name);
            let taken = self.names.get(&name).copied().filter(|_| fallback);
            if fallback && taken.is_none() {
                section.fault("fallback", format!("`{name}` is no point above this one"), None);
                return;
            }
            let named =
                if fallback { self.name_of(section, &name, publish) } else { self.name(section, &name, publish) };
            let Some((name, unit)) = named else { return };
            let mut decoder = decoding.in_unit(section, unit);
            let mut adjust = siblings.units_of(section, unit).map(|place| self.sibling(section, place, fill));
            if adjust.is_idle() {
                adjust.range = None;
            } else {
                adjust.range = decoder.range.take();
            }
            let Some(adjust) = complete(adjust) else { return };
            let decoder = Arc::new(decoder);
            let point = Point { name, unit, address, decoder, adjust, max_step, fallback_of: taken, optional, publish };
            self.place(point);
        }
    }

    /// A point in the place of an inherited one of its name, or as the next.
    fn place(&mut self, point: Point) {
        let known = self.names.get(point.name.as_str()).copied();
        match known.filter(|_| point.fallback_of.is_none()) {
            Some(index) if index < self.points.len() => {
                self.inherited.remove(point.name.as_str());
                self.points[index] = point;
            }
            _ => {
                if point.fallback_of.is_none() {
                    self.names.insert(point.name.as_str().to_owned(), self.points.len());
                }
                self.points.push(point);
            }
        }
    }

    fn len(&self, section: &mut Section<'_, '_>, kind: RegisterType) -> u16 {
        let len: Option<u16> = section.optional("len");
        match (kind, len) {
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
        }
    }

    /// The index of a sibling point, named by `{ point = "..." }`.
    fn sibling(&self, section: &Section<'_, '_>, place: &RawPlace, fill: impl Fn(&str) -> String) -> Option<usize> {
        let Some(name) = &place.point else {
            section.fault(place.key, "a point's sibling is another `point`", None);
            return None;
        };
        let name = fill(name);
        let found = self.names.get(&name).copied();
        if found.is_none() {
            let known: Vec<&str> = self.names.keys().map(String::as_str).collect();
            let help = nearest(&name, &known).map(|near| format!("did you mean `{near}`?"));
            section.fault(place.key, format!("`{name}` is no point above this one"), help);
        }
        found
    }

    fn address(
        &self,
        section: &Section<'_, '_>,
        read: &str,
        moved: Option<u16>,
        len: u16,
        kind: RegisterType,
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
                if space.is_bits() && kind != RegisterType::U16 {
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
}

fn sentinels(section: &mut Section<'_, '_>) -> Vec<Sentinel> {
    let raw: Vec<RawSentinel> = section.optional("sentinel").unwrap_or_default();
    let mut sentinels = Vec::new();
    for sentinel in raw {
        match sentinel {
            RawSentinel::Number(number) => sentinels.push(Sentinel::Number(number)),
            RawSentinel::Text(text) => match text.strip_prefix("0x") {
                Some(digits) => match u64::from_str_radix(digits, 16) {
                    Ok(bits) => sentinels.push(Sentinel::Bits(bits)),
                    Err(_) => section.fault("sentinel", format!("`{text}` is not a number of base 16"), None),
                },
                None => sentinels.push(Sentinel::Text(text)),
            },
        }
    }
    sentinels
}

fn words(section: &mut Section<'_, '_>) -> Option<BTreeMap<i64, String>> {
    let raw: BTreeMap<String, String> = section.optional("enum")?;
    let mut words = BTreeMap::new();
    for (number, word) in raw {
        if let (Ok(number), false) = (number.parse::<i64>(), word.is_empty()) {
            words.insert(number, word);
        } else {
            section.fault("enum", format!("`{number}` is not a number with a word"), None);
        }
    }
    Some(words)
}

/// Where a sibling stands, as written.
#[derive(Debug, Clone)]
pub(super) struct RawPlace {
    pub key: &'static str,
    pub point: Option<String>,
    pub column: Option<String>,
    pub read: Option<String>,
}

impl RawPlace {
    fn read(section: &mut Section<'_, '_>, key: &'static str) -> RawPlace {
        let place = RawPlace {
            key,
            point: section.optional("point"),
            column: section.optional("column"),
            read: section.optional("read"),
        };
        let given = [&place.point, &place.column, &place.read].into_iter().flatten().count();
        if given != 1 {
            section.fault("", "a sibling is one of `point`, `column`, `read`", None);
        }
        place
    }
}

/// Siblings as written, before it is known where they stand.
pub(super) struct RawAdjust {
    factor: Option<(RawPlace, FactorForm)>,
    units: Option<(RawPlace, BTreeMap<String, String>)>,
    words: Option<RawPlace>,
}

impl RawAdjust {
    pub(super) fn read(section: &mut Section<'_, '_>) -> RawAdjust {
        let factor = section.section("factor").and_then(|mut factor| {
            let place = RawPlace::read(&mut factor, "factor");
            let form: Option<FactorForm> = factor.required("as", "\"decimals\"");
            factor.finish();
            Some((place, form?))
        });
        let units = section.section("units").and_then(|mut units| {
            let place = RawPlace::read(&mut units, "units");
            let is: Option<BTreeMap<String, String>> = units.required("is", "{ 1 = \"Cel\", 2 = \"degF\" }");
            units.finish();
            Some((place, is?))
        });
        let words = section.section("words_from").map(|mut words| {
            let place = RawPlace::read(&mut words, "words_from");
            words.finish();
            place
        });
        RawAdjust { factor, units, words }
    }

    /// With the ways from each unit that a sibling may tell.
    pub(super) fn units_of(&self, section: &Section<'_, '_>, wanted: &str) -> Adjust<RawPlace> {
        let ways = self.units.as_ref().map(|(place, units)| {
            let way = |(told, unit): (&String, &String)| {
                unit_way(section, "units", unit, wanted).map(|way| (told.clone(), way))
            };
            (place.clone(), units.iter().filter_map(way).collect())
        });
        Adjust { factor: self.factor.clone(), units: ways, words: self.words.clone(), range: None }
    }
}

/// All siblings, or none where one was not found.
pub(super) fn complete<R>(adjust: Adjust<Option<R>>) -> Option<Adjust<R>> {
    let Adjust { factor, units, words, range } = adjust;
    let factor = match factor {
        Some((place, form)) => Some((place?, form)),
        None => None,
    };
    let units = match units {
        Some((place, units)) => Some((place?, units)),
        None => None,
    };
    let words = match words {
        Some(place) => Some(place?),
        None => None,
    };
    Some(Adjust { factor, units, words, range })
}
