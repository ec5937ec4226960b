//! What a drill would do, and whether it may begin. Reads; changes nothing.

use serde::{Deserialize, Serialize};

use bcp_wire::{Id, Site};

use super::judge::seconds;
use super::{DrillKind, Goals, SILENT_MORE_MS, Standing};
use crate::failover::{CanFailover, TicketView};
use crate::policy::{Mode, TicketKind, Timing};
use crate::replica::Replica;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub ticket: Id,
    pub service: Id,
    pub mode: Mode,
    pub from: Option<Site>,
    pub to: Option<Site>,
    pub goals: Goals,
    pub standing: Standing,
    pub kinds: Vec<KindPlan>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindPlan {
    pub kind: DrillKind,
    pub may_begin: bool,
    /// What stands in the way.
    pub blocks: Vec<String>,
    pub moves: String,
    pub users_see: String,
    pub put_back: String,
    pub aborts: Vec<String>,
}

/// What a gate of the holder is asked to keep silent for.
#[must_use]
pub const fn silent_ms(timing: &Timing) -> u64 {
    timing.ttl_ms.saturating_add(timing.acquire_after_ms).saturating_add(SILENT_MORE_MS)
}

impl Replica {
    /// Plans of every ticket, or of one.
    #[must_use]
    pub fn drill_plans(&self, only: Option<&Id>) -> Vec<Plan> {
        let views = self.ticket_views();
        views.iter().filter(|view| only.is_none_or(|id| view.id == *id)).filter_map(|view| self.plan(view)).collect()
    }

    fn plan(&self, view: &TicketView) -> Option<Plan> {
        let policy = self.policy.as_ref()?;
        let rule = policy.tickets.get(&view.id)?;
        let to = view.sites.iter().copied().find(|site| Some(*site) != view.holder && *site != Site::W);
        let kinds = [DrillKind::Move, DrillKind::Isolate].map(|kind| {
            let blocks = self.drill_blocks(&view.id, kind, to);
            kind_plan(kind, view, to, &policy.timing, blocks)
        });
        Some(Plan {
            ticket: view.id.clone(),
            service: view.service.clone(),
            mode: view.mode,
            from: view.holder,
            to: to.filter(|_| view.holder.is_some()),
            goals: Goals { rpo: rule.rpo, rto_ms: rule.rto_ms },
            standing: Standing::of(view),
            kinds: kinds.to_vec(),
        })
    }

    /// Everything between a ticket and an operator's order that it goes to `to`.
    #[must_use]
    pub fn order_blocks(&self, id: &Id, to: Site) -> Vec<String> {
        match &self.policy {
            Some(policy) => self.failover.order_blocks(policy, id, to),
            None => vec!["there is no agreed policy yet".to_owned()],
        }
    }

    /// Everything between a ticket and a drill to `to`.
    #[must_use]
    pub fn drill_blocks(&self, id: &Id, kind: DrillKind, to: Option<Site>) -> Vec<String> {
        let Some(policy) = &self.policy else { return vec!["there is no agreed policy yet".to_owned()] };
        let Some(view) = self.failover.view(policy, id) else { return vec![format!("there is no ticket {id}")] };
        if view.kind == TicketKind::ActiveActive {
            return vec!["it is active at several sites: its weights are moved, and no lease is waited out".to_owned()];
        }
        let mut blocks = Vec::new();
        if let Some(running) = self.drills.running.get(id) {
            blocks.push(format!("drill {} of it is under way", running.gathered.began.drill));
        }
        match to {
            Some(to) if view.holder.is_some() => blocks.extend(self.failover.order_blocks(policy, id, to)),
            Some(_) => blocks.push("no site holds it".to_owned()),
            None => blocks.push("there is no other site that may hold it".to_owned()),
        }
        if kind == DrillKind::Isolate {
            blocks.extend(isolate_blocks(&view));
        }
        blocks.dedup();
        blocks
    }
}

/// In these modes a site that stopped would stay so: nothing gives it back by itself.
fn isolate_blocks(view: &TicketView) -> Option<String> {
    let mode = view.mode.as_str();
    match view.mode {
        Mode::Off | Mode::Observe => Some(format!(
            "its mode is {mode}: its gates would stop the service, and nothing would start it again by itself"
        )),
        Mode::Confirm | Mode::Auto => None,
    }
}

fn kind_plan(kind: DrillKind, view: &TicketView, to: Option<Site>, timing: &Timing, blocks: Vec<String>) -> KindPlan {
    let (ticket, service) = (&view.id, &view.service);
    let name = |site: Option<Site>| site.map_or_else(|| "the other site".to_owned(), |site| format!("site {site}"));
    let from = view.holder.map_or_else(|| "its holder".to_owned(), |site| format!("site {site}"));
    let to = name(to);
    let (moves, users_see, put_back, aborts) = match kind {
        DrillKind::Move => (
            format!(
                "{ticket}: {from} is asked to stop, releases it, and {to} promotes and publishes under the next epoch"
            ),
            format!(
                "{service} answers nothing from the stop at {from} until it is published at {to}: no lease is waited out"
            ),
            format!("nothing by itself: the service stays at {to}; --back moves it to {from} the same way"),
            vec![
                format!("{from} does not stop in time: it goes on where it is, under the next epoch"),
                format!("the copy at {to} falls behind while {from} stops: it goes back to {from}"),
                "before anything is promoted: bcpctl abort, or Ctrl-C of the drill, undoes it".to_owned(),
            ],
        ),
        DrillKind::Isolate => (
            format!(
                "{ticket}: its gates at {from} say nothing about it for {}, as if they were cut off; its lease runs out, {from} stops the service, and {to} takes over after the wait",
                seconds(silent_ms(timing))
            ),
            format!(
                "{service} answers nothing from the stop at {from} (up to {} after its last renewal) until it is published at {to} (the lease of {}, the wait of {}, and the steps)",
                seconds(timing.ttl_holder_ms),
                seconds(timing.ttl_ms),
                seconds(timing.acquire_after_ms)
            ),
            format!(
                "the gates at {from} speak again by themselves and follow {to}; --back moves the service to {from} again"
            ),
            vec![
                format!(
                    "{to} does not take over: the gates at {from} speak again, and the service starts where it was"
                ),
                "the drill's command is ended: the same".to_owned(),
                format!("a gate at {from} is restarted: it speaks again at once"),
            ],
        ),
    };
    KindPlan { kind, may_begin: blocks.is_empty(), blocks, moves, users_see, put_back, aborts }
}

impl Plan {
    /// It could be taken over now, were its site lost.
    #[must_use]
    pub const fn can_failover_now(&self) -> &CanFailover {
        &self.standing.can_failover_now
    }
}
