//! Questions that the console and the API both ask of a [`View`].
//!
//! Knows: how what is shown adds up. Refuses to know: how it is put into words.

use bcp_core::alarms::{AlarmView, Standing};
use bcp_core::failover::TicketView;
use bcp_wire::Site;

use super::view::{AgentView, Agreement, DECIDE_STALE_MS, DeviceView, LinkState, SourceState, View};
use bcp_core::time::Mono;

/// So many of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub of: usize,
    pub good: usize,
}

impl View {
    pub fn agents_at(&self, site: Site) -> impl Iterator<Item = &AgentView> {
        self.agents.iter().map(AsRef::as_ref).filter(move |agent| agent.site == site)
    }

    /// Agents of a site, and those that are heard.
    #[must_use]
    pub fn fresh_agents(&self, site: Site) -> Part {
        let fresh = self.agents_at(site).filter(|agent| agent.source == SourceState::Fresh).count();
        Part { of: self.agents_at(site).count(), good: fresh }
    }

    pub fn devices_at(&self, site: Site) -> impl Iterator<Item = &DeviceView> {
        self.devices.values().map(AsRef::as_ref).filter(move |device| device.site == site)
    }

    /// The decide process of a site takes part, as far as this one's tells.
    #[must_use]
    pub fn decides(&self, site: Site) -> bool {
        let age = match site == self.site {
            true => self.decide.age_ms,
            false => self.decide.members.get(&site).copied().flatten(),
        };
        age.is_some_and(|age| age <= DECIDE_STALE_MS)
    }

    #[must_use]
    pub fn hears_broker(&self, site: Site) -> bool {
        self.brokers.get(&site).is_some_and(|broker| broker.link == LinkState::Up)
    }

    #[must_use]
    pub fn is_agreed(&self) -> bool {
        self.agreement == Agreement::Agreed
    }

    /// The collectors agree that the site is lost.
    #[must_use]
    pub fn is_lost(&self, site: Site) -> bool {
        self.is_agreed()
            && self.alarms.iter().any(|alarm| alarm.active && alarm.rule == "site-lost" && alarm.site == Some(site))
    }

    /// Tickets that the site runs, alone or with a share.
    pub fn runs_at(&self, site: Site) -> impl Iterator<Item = &TicketView> {
        let share = move |ticket: &TicketView| ticket.weights.get(&site).is_some_and(|share| *share > 0);
        self.tickets.iter().filter(move |ticket| ticket.holder == Some(site) || share(ticket))
    }

    pub fn alarms_that(&self, stand: Standing) -> impl Iterator<Item = &AlarmView> {
        self.alarms.iter().filter(move |alarm| alarm.standing == stand)
    }

    /// Alarms that need eyes: most urgent first; of equals what is over last, and the first that came before what followed.
    #[must_use]
    pub fn open_alarms(&self) -> Vec<&AlarmView> {
        let mut open: Vec<&AlarmView> = self.alarms_that(Standing::Open).collect();
        open.sort_by_key(|alarm| (alarm.priority, !alarm.active, alarm.order, alarm.since_wall_ms));
        open
    }
}

impl DeviceView {
    #[must_use]
    pub fn location(&self) -> Option<&str> {
        self.meta.as_ref()?.location.as_deref()
    }

    /// Since its last live batch.
    #[must_use]
    pub fn age_ms(&self, now: Mono) -> Option<u64> {
        self.received.map(|received| now.since(received))
    }
}
