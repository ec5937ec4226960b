//! Which agent speaks for a device, and what it says the device is. PURE.

use std::sync::Arc;

use bcp_core::time::Mono;
use bcp_wire::presence::AgentRef;
use bcp_wire::{AgentState, AgentStatus, DeviceMeta, Id, MAX_POINTS_PER_BATCH, PayloadError};

use super::{Intake, Live, MAX_DEVICES, Refusal};
use crate::serve::view::{DeviceView, PointInfo, SourceState};

impl Intake {
    pub(super) fn on_state(
        &mut self,
        now: Mono,
        agent: &AgentRef,
        state: AgentState,
        live: &mut dyn FnMut(Live<'_>),
    ) -> Result<(), Refusal> {
        let known = self.agent(now, agent)?;
        let view = Arc::make_mut(&mut known.view);
        let (incarnation, session) = view.state.as_ref().map_or((0, ""), |s| (s.i, s.session.as_str()));
        if state.i < incarnation {
            return Ok(());
        }
        if state.i > incarnation || state.session != session {
            known.lateness.forget();
        }
        if state.status != AgentStatus::Lost {
            view.received = now;
        }
        view.state = Some(state);
        self.judge_agent(now, agent, true, live);
        Ok(())
    }

    /// The device, if this agent may speak for it: a device belongs to the agent that first described it, until that one
    /// is gone.
    pub(super) fn device(&mut self, agent: &AgentRef, device: &Id) -> Result<&mut DeviceView, Refusal> {
        let count = self.devices.len();
        let source = self.agents.get(agent).map_or(SourceState::AgentSilent, |known| known.view.source);
        let devices = Arc::make_mut(&mut self.devices);
        if !devices.contains_key(device) {
            if count >= MAX_DEVICES {
                return Err(Refusal::TooMany);
            }
            let view = DeviceView {
                id: device.clone(),
                site: agent.site,
                agent: agent.agent.clone(),
                source,
                meta: None,
                points: Vec::new(),
                gaps: Vec::new(),
                received: None,
            };
            devices.insert(device.clone(), Arc::new(view));
        }
        let Some(view) = devices.get_mut(device) else { return Err(Refusal::TooMany) };
        if view.site != agent.site || view.agent != agent.agent {
            if view.source == SourceState::Fresh {
                return Err(Refusal::TakenDevice);
            }
            let old = AgentRef { site: view.site, agent: view.agent.clone() };
            let own = Arc::make_mut(view);
            own.site = agent.site;
            own.agent = agent.agent.clone();
            own.source = source;
            self.slots.entry(device.clone()).or_default().newest = (0, 0);
            if let Some(old) = self.agents.get_mut(&old) {
                old.devices.remove(device);
                Arc::make_mut(&mut old.view).devices = old.devices.len();
            }
        }
        if let Some(known) = self.agents.get_mut(agent)
            && known.devices.insert(device.clone())
        {
            Arc::make_mut(&mut known.view).devices = known.devices.len();
        }
        self.changed.insert(device.clone());
        Ok(Arc::make_mut(view))
    }

    pub(super) fn on_meta(
        &mut self,
        now: Mono,
        agent: &AgentRef,
        meta: DeviceMeta,
        live: &mut dyn FnMut(Live<'_>),
    ) -> Result<(), Refusal> {
        if meta.points.len() > MAX_POINTS_PER_BATCH {
            return Err(PayloadError::TooManyPoints.into());
        }
        self.agent(now, agent)?;
        let view = self.device(agent, &meta.device)?;
        let mut points = std::mem::take(&mut view.points);
        for described in &meta.points {
            let info = PointInfo {
                name: described.name.clone(),
                unit: described.unit.clone(),
                interval_ms: described.interval_ms.max(1),
                source: described.source.clone(),
            };
            // A described point appears with its first reading; one that is there gets its new description.
            if let Ok(at) = points.binary_search_by(|point| point.info.name.cmp(&described.name))
                && *points[at].info != info
            {
                points[at].info = Arc::new(info);
            }
        }
        view.points = points;
        let meta = Arc::new(meta);
        view.meta = Some(Arc::clone(&meta));
        live(Live::Device { site: agent.site, agent: &agent.agent, meta: &meta });
        Ok(())
    }
}
