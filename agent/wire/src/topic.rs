//! MQTT topics below `bcp/v1/{site}/{agent}/`.

use std::fmt;
use std::str::FromStr;

use crate::{Id, Site};

/// What every topic starts with.
pub const PREFIX: &str = "bcp/v1";

/// Which of the three batch lanes a payload travels on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Live batches.
    Data,
    /// Backlog after an outage, oldest first. Stored, never judged as "now".
    Hist,
    /// Transitions, traps and gaps. Kept longest.
    Event,
}

/// One topic of the contract.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Topic {
    pub site: Site,
    pub agent: Id,
    pub leaf: Leaf,
}

/// What follows the agent's prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Leaf {
    State,
    Meta {
        device: Id,
    },
    Batch {
        lane: Lane,
        device: Id,
    },
    /// From a collector to the agent.
    Ack {
        collector: Site,
    },
    /// To the agent.
    Command,
    CommandReply {
        id: Id,
    },
}

/// Why a topic is none of the contract's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    #[error("topic is outside bcp/v1")]
    Prefix,
    #[error("topic has a bad site, agent or device id")]
    Id,
    #[error("topic has an unknown leaf")]
    Leaf,
}

impl Topic {
    #[must_use]
    pub const fn new(site: Site, agent: Id, leaf: Leaf) -> Topic {
        Topic { site, agent, leaf }
    }

    /// Filters a collector subscribes to for one site's agents: everything that agents write.
    #[must_use]
    pub fn collector_filters(site: Site) -> [String; 5] {
        [
            format!("{PREFIX}/{site}/+/state"),
            format!("{PREFIX}/{site}/+/meta/+"),
            format!("{PREFIX}/{site}/+/data/+"),
            format!("{PREFIX}/{site}/+/hist/+"),
            format!("{PREFIX}/{site}/+/event/+"),
        ]
    }

    /// Filters an agent subscribes to: watermarks and commands.
    #[must_use]
    pub fn agent_filters(site: Site, agent: &Id) -> [String; 2] {
        [format!("{PREFIX}/{site}/{agent}/ack/+"), format!("{PREFIX}/{site}/{agent}/cmd")]
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Piece by piece: an agent writes one of these for every payload.
        let mut all = |pieces: &[&str]| pieces.iter().try_for_each(|piece| f.write_str(piece));
        all(&[PREFIX, "/", self.site.as_str(), "/", self.agent.as_str(), "/"])?;
        match &self.leaf {
            Leaf::State => all(&["state"]),
            Leaf::Meta { device } => all(&["meta/", device.as_str()]),
            Leaf::Batch { lane: Lane::Data, device } => all(&["data/", device.as_str()]),
            Leaf::Batch { lane: Lane::Hist, device } => all(&["hist/", device.as_str()]),
            Leaf::Batch { lane: Lane::Event, device } => all(&["event/", device.as_str()]),
            Leaf::Ack { collector } => all(&["ack/", collector.as_str()]),
            Leaf::Command => all(&["cmd"]),
            Leaf::CommandReply { id } => all(&["cmd/", id.as_str(), "/reply"]),
        }
    }
}

impl FromStr for Topic {
    type Err = TopicError;
    fn from_str(text: &str) -> Result<Self, TopicError> {
        let rest = text.strip_prefix(PREFIX).and_then(|r| r.strip_prefix('/')).ok_or(TopicError::Prefix)?;
        // At most five levels exist below the prefix; a sixth makes every arm below fail.
        let mut levels = rest.splitn(6, '/');
        let site = levels.next().ok_or(TopicError::Leaf)?.parse().map_err(|_| TopicError::Id)?;
        let agent: Id = levels.next().ok_or(TopicError::Leaf)?.parse().map_err(|_| TopicError::Id)?;
        let id = |text: &str| text.parse::<Id>().map_err(|_| TopicError::Id);
        let leaf = match (levels.next(), levels.next(), levels.next(), levels.next()) {
            (Some("state"), None, ..) => Leaf::State,
            (Some("meta"), Some(device), None, _) => Leaf::Meta { device: id(device)? },
            (Some("data"), Some(device), None, _) => Leaf::Batch { lane: Lane::Data, device: id(device)? },
            (Some("hist"), Some(device), None, _) => Leaf::Batch { lane: Lane::Hist, device: id(device)? },
            (Some("event"), Some(device), None, _) => Leaf::Batch { lane: Lane::Event, device: id(device)? },
            (Some("ack"), Some(collector), None, _) => {
                Leaf::Ack { collector: collector.parse().map_err(|_| TopicError::Id)? }
            }
            (Some("cmd"), None, ..) => Leaf::Command,
            (Some("cmd"), Some(command), Some("reply"), None) => Leaf::CommandReply { id: id(command)? },
            _ => return Err(TopicError::Leaf),
        };
        Ok(Topic { site, agent, leaf })
    }
}
