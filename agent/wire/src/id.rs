//! Identifiers: sites, agents, devices, points, epochs.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest identifier, in bytes: topic levels stay short and log lines stay readable.
pub const MAX_ID_BYTES: usize = 32;
/// Longest point name, in bytes.
pub const MAX_POINT_BYTES: usize = 64;

/// One of the three sites. `W` witnesses: it votes and observes, and holds a ticket only in a confirmed emergency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Site {
    A,
    B,
    W,
}

impl Site {
    pub const ALL: [Site; 3] = [Site::A, Site::B, Site::W];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Site::A => "a",
            Site::B => "b",
            Site::W => "w",
        }
    }

    /// Number of the site in the decision log: a 1, b 2, w 3.
    #[must_use]
    pub const fn node_id(self) -> u64 {
        match self {
            Site::A => 1,
            Site::B => 2,
            Site::W => 3,
        }
    }

    #[must_use]
    pub const fn from_node_id(node: u64) -> Option<Site> {
        match node {
            1 => Some(Site::A),
            2 => Some(Site::B),
            3 => Some(Site::W),
            _ => None,
        }
    }

    /// The two other sites, in order.
    #[must_use]
    pub const fn others(self) -> [Site; 2] {
        match self {
            Site::A => [Site::B, Site::W],
            Site::B => [Site::A, Site::W],
            Site::W => [Site::A, Site::B],
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("unknown site `{text}`: sites are a, b and w")]
    Site { text: String },
    #[error("`{text}` is not an id: 1 to 32 of a-z, 0-9 and -")]
    Id { text: String },
    #[error("`{text}` is not a point name: 1 to 64 bytes, dot-separated parts of a-z, 0-9 and -")]
    Point { text: String },
    #[error("`{text}` is not an epoch: incarnation.counter, as 1.41")]
    Epoch { text: String },
}

impl FromStr for Site {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        match text {
            "a" => Ok(Site::A),
            "b" => Ok(Site::B),
            "w" => Ok(Site::W),
            _ => Err(IdError::Site { text: clip(text) }),
        }
    }
}

/// An error message never repeats more than this of hostile input.
fn clip(text: &str) -> String {
    text.chars().take(48).collect()
}

/// Name of an agent, device, service, ticket or asset: `[a-z0-9-]{1,32}`.
/// Shared, because readings of the same device or point carry it by the thousand.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(Arc<str>);

impl Id {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Id {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let fits = (1..=MAX_ID_BYTES).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits { Ok(Id(text.into())) } else { Err(IdError::Id { text: clip(text) }) }
    }
}

impl TryFrom<&str> for Id {
    type Error = IdError;
    fn try_from(text: &str) -> Result<Self, IdError> {
        text.parse()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Id {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Id {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parsed(PhantomData))
    }
}

/// Name of a measured quantity of a device, as `battery.charge` or `fan.1.speed`.
/// Shared, as [`Id`] is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PointName(Arc<str>);

impl PointName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PointName {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let fits = (1..=MAX_POINT_BYTES).contains(&text.len())
            && text.split('.').all(|part| {
                !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            });
        if fits { Ok(PointName(text.into())) } else { Err(IdError::Point { text: clip(text) }) }
    }
}

impl fmt::Display for PointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for PointName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for PointName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for PointName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for PointName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parsed(PhantomData))
    }
}

/// Reads a text without making a copy of it first.
struct Parsed<T>(PhantomData<T>);

impl<T: FromStr<Err = IdError>> Visitor<'_> for Parsed<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an identifier")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// Fencing token of a ticket. The counter grows by one per grant; the incarnation grows at a restore from backup and
/// at a forced act without quorum. Written `incarnation.counter` everywhere, JSON included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch {
    pub incarnation: u32,
    pub counter: u64,
}

impl Epoch {
    /// Before any grant.
    pub const NONE: Epoch = Epoch { incarnation: 1, counter: 0 };

    /// The epoch of the next grant.
    #[must_use]
    pub const fn next(self) -> Epoch {
        Epoch { incarnation: self.incarnation, counter: self.counter + 1 }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.incarnation, self.counter)
    }
}

impl FromStr for Epoch {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let fault = || IdError::Epoch { text: clip(text) };
        let (incarnation, counter) = text.split_once('.').ok_or_else(fault)?;
        Ok(Epoch {
            incarnation: incarnation.parse().map_err(|_| fault())?,
            counter: counter.parse().map_err(|_| fault())?,
        })
    }
}

impl Serialize for Epoch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Epoch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
