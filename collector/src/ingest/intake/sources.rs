//! Whether what an agent says may be taken as present: its own word, its silence, and the link to its broker. PURE.

use std::collections::BTreeMap;
use std::sync::Arc;

use bcp_core::time::Mono;
use bcp_wire::presence::AgentRef;
use bcp_wire::{AgentStatus, Id, Quality, Site};

use super::{Intake, Live};
use crate::serve::view::{STALE_TENTHS, SourceState};

/// A link may be down this long before its readings are unknown: a reconnect takes less.
pub const LINK_GRACE_MS: u64 = 2_000;
/// Nothing heard on a link for this long, pings included: it is dead whatever TCP says.
pub const LINK_SILENT_MS: u64 = 6_000;
/// An agent that says nothing for this long, and for 2.5 times what it promised, is silent.
pub const AGENT_SILENT_MS: u64 = 10_000;

/// How one broker's link is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkHealth {
    pub connected: bool,
    /// Last packet of any kind.
    pub heard: Option<Mono>,
    /// Since when it is not connected.
    pub lost: Mono,
}

impl LinkHealth {
    /// True while what came over it may be taken as present.
    #[must_use]
    pub fn is_trusted(&self, now: Mono) -> bool {
        match self.heard {
            Some(heard) if self.connected => now.since(heard) <= LINK_SILENT_MS,
            Some(_) => now.since(self.lost) <= LINK_GRACE_MS,
            None => false,
        }
    }
}

impl Intake {
    /// Looks at every agent again: links come and go, agents fall silent.
    pub fn judge_sources(&mut self, now: Mono, links: &BTreeMap<Site, LinkHealth>, live: &mut dyn FnMut(Live<'_>)) {
        let agents: Vec<AgentRef> = self.agents.keys().cloned().collect();
        for agent in agents {
            let trusted = links.get(&agent.site).is_some_and(|link| link.is_trusted(now));
            self.judge_agent(now, &agent, trusted, live);
        }
    }

    pub(super) fn judge_agent(
        &mut self,
        now: Mono,
        agent: &AgentRef,
        link_trusted: bool,
        live: &mut dyn FnMut(Live<'_>),
    ) {
        let Some(known) = self.agents.get_mut(agent) else { return };
        let view = &known.view;
        let promised = view.state.as_ref().map_or(0, |state| state.next_within_ms.saturating_mul(STALE_TENTHS) / 10);
        let source = match view.state.as_ref().map(|state| state.status) {
            _ if !link_trusted => SourceState::BrokerAway,
            Some(AgentStatus::Lost) => SourceState::AgentLost,
            Some(AgentStatus::Offline) => SourceState::AgentOffline,
            _ if now.since(view.received) > promised.max(AGENT_SILENT_MS) => SourceState::AgentSilent,
            Some(AgentStatus::Online | AgentStatus::Draining) | None => SourceState::Fresh,
        };
        if known.told.replace(source) != Some(source) {
            live(Live::Agent { site: agent.site, agent: &agent.agent, source });
        }
        if source == view.source {
            return;
        }
        Arc::make_mut(&mut known.view).source = source;
        let owned: Vec<Id> = known.devices.iter().cloned().collect();
        let devices = Arc::make_mut(&mut self.devices);
        for id in owned {
            let Some(view) = devices.get_mut(&id) else { continue };
            let view = Arc::make_mut(view);
            view.source = source;
            if source != SourceState::Fresh {
                for point in &view.points {
                    let (point, sampled) = (&point.info.name, point.received);
                    live(Live::Reading { device: &id, point, value: None, quality: Quality::Stale, sampled });
                }
            }
            self.changed.insert(id);
        }
    }

    /// When a fresh live batch of any agent of a site last arrived.
    #[must_use]
    pub fn site_heard(&self, site: Site) -> Option<Mono> {
        self.agents.iter().filter(|(agent, _)| agent.site == site).filter_map(|(_, known)| known.fresh).max()
    }
}
