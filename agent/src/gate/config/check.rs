//! What cannot work, as (key, reason). Every fault at once.

use std::collections::BTreeSet;

use bcp_wire::Site;
use bcp_wire::control::MAX_TICKETS_PER_GATE;

use super::{GateConfig, GateTiming, Loss, TicketConfig};
use crate::act::MAX_ACTUATORS;
use crate::gate::budget::STOP_MAX_LEAST_MS;

/// A lease that lasts longer moves nothing any more.
pub(super) const TIMING_MAX_MS: u64 = 3_600_000;

type Faults = Vec<(String, String)>;

impl GateTiming {
    fn faults(self) -> Faults {
        let rules = [
            (
                self.is_safe(),
                "(ttl_holder + stop_max) * 1.01 / 0.99 + tick must be below ttl + acquire_after".to_owned(),
            ),
            (self.longest_ms() <= TIMING_MAX_MS, "no time may be longer than one hour".to_owned()),
            (
                self.renew_ms > 0 && self.renew_ms.saturating_mul(3) <= self.ttl_holder_ms,
                "three renewals must fit in ttl_holder".to_owned(),
            ),
            (
                self.stop_max_ms >= STOP_MAX_LEAST_MS,
                format!("stop_max must be at least {STOP_MAX_LEAST_MS} ms: a warden notices and stops within it"),
            ),
        ];
        let broken = rules.into_iter().filter(|(holds, _)| !holds);
        broken.map(|(_, reason)| ("timing".to_owned(), reason)).collect()
    }
}

impl GateConfig {
    /// Whatever the site is.
    #[must_use]
    pub fn faults(&self) -> Faults {
        let timing = self.timing.resolve();
        let mut faults = timing.faults();
        let mut say = |key: &str, reason: String| faults.push((key.to_owned(), reason));
        if !self.runtime_dir.is_absolute() {
            say("runtime_dir", format!("{} is not an absolute path", self.runtime_dir.display()));
        }
        if self.collectors.is_empty() {
            say("collectors", "a gate without a collector can never hold a lease".to_owned());
        }
        for (site, url) in &self.collectors {
            if !url.starts_with("https://") {
                say(&format!("collectors.{site}"), format!("the collector of {site} must be an https URL"));
            }
        }
        for (key, reason) in crate::gate::force::faults(&self.operators) {
            say(&key, reason);
        }
        let fenced = self.tickets.iter().any(|ticket| ticket.loss == Loss::Fence);
        if self.watchdog.is_some() && !fenced {
            say("watchdog", "no ticket has loss = \"fence\": nothing would arm it".to_owned());
        }
        if self.watchdog.is_none() && fenced {
            say("watchdog", "a ticket has loss = \"fence\": add `watchdog = { timeout = \"3s\" }`".to_owned());
        }
        if self.tickets.len() > MAX_TICKETS_PER_GATE {
            say("ticket", format!("at most {MAX_TICKETS_PER_GATE} tickets per gate"));
        }
        faults.extend(self.watchdog.iter().flat_map(|watchdog| watchdog.faults(timing.stop_max_ms)));
        let mut seen = BTreeSet::new();
        for (i, ticket) in self.tickets.iter().enumerate() {
            let mut say = |key: &str, reason: String| faults.push((format!("ticket[{i}].{key}"), reason));
            if !seen.insert(&ticket.id) {
                say("id", format!("`{}` is named twice", ticket.id));
            }
            ticket.faults(timing, &mut say);
        }
        faults
    }

    /// At this site.
    #[must_use]
    pub fn faults_at(&self, site: Site) -> Faults {
        let tickets = self.tickets.iter().enumerate();
        let actuators =
            tickets.flat_map(|(i, ticket)| ticket.actuators.iter().enumerate().map(move |(n, of)| (i, n, of)));
        let faults = actuators.flat_map(|(i, n, actuator)| {
            let at = move |key: &str| format!("ticket[{i}].actuators[{n}].{key}");
            actuator.faults_at(site).into_iter().map(move |(key, reason)| (at(&key), reason))
        });
        faults.collect()
    }
}

impl TicketConfig {
    fn faults(&self, timing: GateTiming, say: &mut impl FnMut(&str, String)) {
        let id = &self.id;
        match (self.script.is_empty(), self.actuators.is_empty()) {
            (true, true) => say("script", format!("`{id}` has neither a program nor `actuators`")),
            (false, false) => say("script", format!("`{id}` has a program and `actuators`")),
            (true, false) | (false, true) => {}
        }
        if self.actuators.len() > MAX_ACTUATORS {
            say("actuators", format!("`{id}`: at most {MAX_ACTUATORS} actuators per ticket"));
        }
        for (n, actuator) in self.actuators.iter().enumerate() {
            for (key, reason) in actuator.faults() {
                say(&format!("actuators[{n}].{key}"), format!("`{id}`: {reason}"));
            }
        }
        for (key, url) in self.urls() {
            if !url.starts_with("http://") && !url.starts_with("https://") {
                say(key, format!("`{id}`: `{url}` is not an http or https URL"));
            }
        }
        let (step_ms, most_ms) = (self.step_timeout.as_millis(), timing.budget().stop_ms());
        if step_ms == 0 || step_ms > most_ms {
            let reason = format!(
                "`{id}`: {step_ms} ms is not between 1 and {most_ms} ms, three quarters of stop_max ({} ms); the warden needs the rest to notice and to take over",
                timing.stop_max_ms
            );
            say("step_timeout", reason);
        }
    }
}
