//! One step as an actuator sees it: which, under what epoch, and for how long.
//!
//! Knows: the environment that [`crate::gate::script`] gives to a step. Refuses to know: what any actuator does about it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bcp_wire::{Epoch, Id, Site};

use crate::gate::boot_ms;
use crate::gate::record::BootMs;

/// A step that is not told how long it may take is one that somebody runs by hand.
const BY_HAND: Duration = Duration::from_secs(10);

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepName {
    Stop,
    Seal,
    /// In place of [`StepName::Stop`] where the copy goes on answering reads.
    Demote,
    VerifyStopped,
    VerifyDemoted,
    Promote,
    Publish,
    Follow,
    Weigh,
}

impl StepName {
    pub const ALL: [StepName; 9] = [
        StepName::Stop,
        StepName::Seal,
        StepName::Demote,
        StepName::VerifyStopped,
        StepName::VerifyDemoted,
        StepName::Promote,
        StepName::Publish,
        StepName::Follow,
        StepName::Weigh,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            StepName::Stop => "stop",
            StepName::Seal => "seal",
            StepName::Demote => "demote",
            StepName::VerifyStopped => "verify-stopped",
            StepName::VerifyDemoted => "verify-demoted",
            StepName::Promote => "promote",
            StepName::Publish => "publish",
            StepName::Follow => "follow",
            StepName::Weigh => "weigh",
        }
    }

    /// What is taken down goes the other way round, and the failure of one actuator keeps no other from it.
    #[must_use]
    pub const fn takes_down(self) -> bool {
        match self {
            StepName::Stop | StepName::Seal | StepName::Demote | StepName::VerifyStopped | StepName::VerifyDemoted => {
                true
            }
            StepName::Promote | StepName::Publish | StepName::Follow | StepName::Weigh => false,
        }
    }
}

/// One step.
#[derive(Debug, Clone)]
pub struct Step {
    pub name: StepName,
    pub ticket: Id,
    pub epoch: Epoch,
    /// Where this runs.
    pub site: Site,
    pub holder: Option<Site>,
    /// The end of the lease; steps that take something down need none.
    pub deadline: Option<BootMs>,
    pub params: BTreeMap<String, String>,
    /// Names this call for receivers that must carry it out once.
    pub key: String,
    /// Name servers in place of those of `/etc/resolv.conf`.
    pub resolver: Vec<SocketAddr>,
    pub began: Instant,
    /// All actuators of the step together have this long.
    pub limit: Duration,
}

/// Why an environment is not that of a step.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error("{name} is not set: `act` carries out one step of a gate, which sets BCP_STEP, BCP_EPOCH and BCP_SITE")]
    Missing { name: &'static str },
    #[error("{name} is `{value}`, which is not {wanted}")]
    Unreadable { name: &'static str, value: String, wanted: &'static str },
}

/// What an actuator did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    Done(String),
    /// It was so before, or this step is none of its business.
    Already(String),
}

impl Effect {
    /// This kind of actuator has nothing to do in the step.
    #[must_use]
    pub fn not_concerned() -> Effect {
        Effect::Already("nothing to do".to_owned())
    }
}

/// There is no lease any more under which something may be brought up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lease ran out at {deadline}, before the effect")]
pub struct LeaseOver {
    pub deadline: BootMs,
}

impl Step {
    /// Reads a step from its environment.
    ///
    /// # Errors
    /// What is missing or makes no sense.
    pub fn read(
        ticket: Id,
        resolver: Vec<SocketAddr>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Step, StepError> {
        let given = |name: &'static str| environment(name).filter(|value| !value.is_empty());
        let required = |name| given(name).ok_or(StepError::Missing { name });
        let unreadable = |name, value, wanted| StepError::Unreadable { name, value, wanted };
        let name = required("BCP_STEP")?;
        let name = StepName::ALL
            .into_iter()
            .find(|known| known.as_str() == name)
            .ok_or_else(|| unreadable("BCP_STEP", name, "a step"))?;
        let epoch = required("BCP_EPOCH")?;
        let epoch = epoch.parse().map_err(|_| unreadable("BCP_EPOCH", epoch, "an epoch, as 1.42"))?;
        let site = required("BCP_SITE")?;
        let site = site.parse().map_err(|_| unreadable("BCP_SITE", site, "a site"))?;
        let holder = given("BCP_HOLDER")
            .map(|text| text.parse().map_err(|_| unreadable("BCP_HOLDER", text, "a site")))
            .transpose()?;
        let number = |name: &'static str| {
            given(name)
                .map(|text| text.parse::<u64>().map_err(|_| unreadable(name, text, "a number of milliseconds")))
                .transpose()
        };
        let deadline = number("BCP_DEADLINE")?.map(BootMs);
        let limit = number("BCP_LIMIT")?.map_or(BY_HAND, Duration::from_millis);
        let params = given("BCP_PARAMS").unwrap_or_else(|| "{}".to_owned());
        let params =
            serde_json::from_str(&params).map_err(|_| unreadable("BCP_PARAMS", params, "a JSON object of texts"))?;
        // A stop has no order and so no key: every call is one of its own, for one that is verified anew must not be answered
        // from memory.
        let own_key = || format!("{ticket}:{epoch}:{}:{site}:{}", name.as_str(), boot_ms().0);
        let key = given("BCP_KEY").unwrap_or_else(own_key);
        let began = Instant::now();
        Ok(Step { name, ticket, epoch, site, holder, deadline, params, key, resolver, began, limit })
    }

    /// To be asked immediately before anything is brought up: the time since the gate looked may have been long.
    ///
    /// # Errors
    /// The lease has run out.
    pub fn may_act(&self) -> Result<(), LeaseOver> {
        match self.deadline {
            Some(deadline) if boot_ms() >= deadline => Err(LeaseOver { deadline }),
            Some(_) | None => Ok(()),
        }
    }

    /// What is left of the step's time.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.limit.saturating_sub(self.began.elapsed())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;

    /// A step under an epoch of incarnation 1, whose lease runs on.
    pub fn step(name: StepName, counter: u64) -> Step {
        Step {
            name,
            ticket: "rx".parse().unwrap(),
            epoch: Epoch { incarnation: 1, counter },
            site: Site::A,
            holder: Some(Site::A),
            deadline: None,
            params: BTreeMap::new(),
            key: "rx:1.4:promote:a:host-a:1".to_owned(),
            resolver: Vec::new(),
            began: Instant::now(),
            limit: Duration::from_secs(10),
        }
    }

    #[test]
    fn is_read_from_the_environment() {
        let full = [
            ("BCP_STEP", "weigh"),
            ("BCP_EPOCH", "1.4"),
            ("BCP_SITE", "a"),
            ("BCP_HOLDER", "b"),
            ("BCP_DEADLINE", "1"),
            ("BCP_LIMIT", "1500"),
            ("BCP_KEY", ""),
            ("BCP_PARAMS", r#"{"a":"60","b":"40"}"#),
        ];
        let with = |changed: &str, value: &'static str| {
            let changed = changed.to_owned();
            Step::read("rx".parse().unwrap(), Vec::new(), move |name| {
                let found = full.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
                if name == changed { Some(value.to_owned()) } else { found }
            })
        };
        let step = with("", "").unwrap();
        assert_eq!((step.name, step.site, step.holder), (StepName::Weigh, Site::A, Some(Site::B)));
        assert_eq!((step.params["b"].as_str(), step.limit), ("40", Duration::from_millis(1_500)));
        assert_eq!(step.may_act(), Err(LeaseOver { deadline: BootMs(1) }));
        let stop = with("BCP_DEADLINE", "").unwrap();
        assert_eq!((stop.may_act(), stop.key.starts_with("rx:1.4:weigh:a:")), (Ok(()), true));
        assert_eq!(with("BCP_KEY", "k").unwrap().key, "k");
        for (name, value, says) in [
            ("BCP_STEP", "", "BCP_STEP is not set"),
            ("BCP_STEP", "dance", "not a step"),
            ("BCP_EPOCH", "four", "not an epoch"),
            ("BCP_SITE", "x", "not a site"),
            ("BCP_DEADLINE", "-1", "not a number"),
            ("BCP_PARAMS", "[1]", "not a JSON object"),
        ] {
            let error = with(name, value).unwrap_err().to_string();
            assert!(error.contains(says), "{name}={value}: {error}");
        }
    }
}
