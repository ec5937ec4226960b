//! What happened, as opposed to what was measured: events into the group, gaps to where they are shown. PURE.

use bcp_core::time::{Mono, Wall};
use bcp_wire::presence::AgentRef;
use bcp_wire::{Event, EventKind, Gap, Id};

use super::{Intake, Live, Refusal};
use crate::serve::view::{GapView, MAX_GAPS_SHOWN};
use crate::store::{Marked, StoredEvent};

impl Intake {
    pub(super) fn on_event(
        &mut self,
        now: Mono,
        wall: Wall,
        agent: &AgentRef,
        device: Id,
        event: Event,
        live: &mut dyn FnMut(Live<'_>),
    ) -> Result<(), Refusal> {
        self.agent(now, agent)?;
        if !self.is_new(agent, event.i, event.s)? {
            return Ok(());
        }
        let kind = match &event.kind {
            EventKind::Reachability { reachable, .. } => {
                live(Live::Reachability { device: &device, reachable: *reachable });
                "reachability"
            }
            EventKind::Trap { .. } => "trap",
            EventKind::Transition { .. } => "transition",
            EventKind::Gap(gap) => {
                self.on_gap(wall, agent, &device, gap);
                "gap"
            }
            EventKind::ClockStep { .. } => {
                if let Some(known) = self.agents.get_mut(agent) {
                    known.lateness.forget();
                }
                "clock_step"
            }
            EventKind::Notice { text } => {
                tracing::info!(site = %agent.site, agent = %agent.agent, "agent says: {text}");
                "notice"
            }
        };
        let stored = StoredEvent { agent: agent.clone(), device, t: event.t, kind: kind.to_owned(), event };
        self.group.events.push(stored);
        Ok(())
    }

    /// What is lost for ever is taken in as such, so that nobody waits for it, and shown where it was lost.
    fn on_gap(&mut self, wall: Wall, agent: &AgentRef, device: &Id, gap: &Gap) {
        if self.seen.insert_range(agent, gap.incarnation, gap.from, gap.through) == Marked::New {
            self.group.marks.push((agent.clone(), gap.incarnation, gap.from, gap.through));
        }
        let Ok(view) = self.device(agent, device) else { return };
        let is_same = |shown: &GapView| {
            shown.agent == agent.agent
                && (shown.incarnation, shown.from, shown.through) == (gap.incarnation, gap.from, gap.through)
        };
        // It comes again where the store did not take it the first time.
        if view.gaps.iter().any(is_same) {
            return;
        }
        view.gaps.push(GapView {
            agent: agent.agent.clone(),
            incarnation: gap.incarnation,
            from: gap.from,
            through: gap.through,
            samples: gap.samples,
            reason: gap.reason.clone(),
            recorded: wall,
        });
        if view.gaps.len() > MAX_GAPS_SHOWN {
            view.gaps.remove(0);
        }
    }
}
