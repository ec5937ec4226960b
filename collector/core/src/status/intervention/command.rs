//! What operators order: plan, start, extend, tell, close; and why not.

use std::collections::BTreeMap;

use bcp_wire::{Id, Site};

use super::{
    DAY_MS, Intervention, InterventionCommand, InterventionEvent, MAX_AHEAD_MS, MAX_LENGTH_MS, MAX_OPEN, MAX_SERVICES,
    MAX_TITLE_BYTES, Plan, WorkPhase, WorkText,
};
use crate::status::incident::{Author, gate};
use crate::status::{State, Text};
use crate::time::{LogTime, Wall};

/// # Errors
/// One English sentence for the operator: what is wrong with the command.
pub(in crate::status) fn on_command(
    state: &mut State,
    now: LogTime,
    wall: Wall,
    operator: &str,
    command: &InterventionCommand,
) -> Result<Vec<InterventionEvent>, String> {
    let mut events = Vec::new();
    let by = Author::Operator { name: operator.to_owned() };
    match command {
        InterventionCommand::Plan(plan) => announce(state, now, wall, by, plan, &mut events)?,
        InterventionCommand::Start { intervention } => {
            let work = open(state, intervention)?;
            if work.phase == WorkPhase::InProgress {
                return Err(format!("{intervention} is in progress already"));
            }
            let (site, ends) = (work.site, work.ends);
            check_conflict(state, Some(intervention), site, wall, ends)?;
            open(state, intervention)?.begin(now, wall, by, &mut events);
        }
        InterventionCommand::Extend { intervention, ends, text, fallback } => {
            let text = human(text, fallback.as_deref())?;
            let work = open(state, intervention)?;
            let (site, starts) = (work.site, work.started.unwrap_or(work.starts));
            if ends.0 <= wall.0 {
                return Err("the new end has passed already; close it instead".to_owned());
            }
            check_length(starts, *ends)?;
            check_conflict(state, Some(intervention), site, starts, *ends)?;
            let work = open(state, intervention)?;
            let from = std::mem::replace(&mut work.ends, *ends);
            events.push(InterventionEvent::Extended { intervention: work.id.clone(), from, to: *ends, by: by.clone() });
            work.say(now, wall, by, text, &mut events);
        }
        InterventionCommand::Update { intervention, text, fallback } => {
            let text = human(text, fallback.as_deref())?;
            open(state, intervention)?.say(now, wall, by, text, &mut events);
        }
        InterventionCommand::Close { intervention, text, fallback } => {
            let text = human(text, fallback.as_deref())?;
            let work = open(state, intervention)?;
            let phase = match work.phase {
                WorkPhase::Scheduled => WorkPhase::Cancelled,
                WorkPhase::InProgress | WorkPhase::Completed | WorkPhase::Cancelled => WorkPhase::Completed,
            };
            work.end(now, wall, phase, by, text, &mut events);
        }
    }
    Ok(events)
}

fn announce(
    state: &mut State,
    now: LogTime,
    wall: Wall,
    by: Author,
    plan: &Plan,
    events: &mut Vec<InterventionEvent>,
) -> Result<(), String> {
    let fallback = plan.fallback.as_deref();
    if let Some((language, _)) = plan.title.iter().find(|(_, title)| title.len() > MAX_TITLE_BYTES) {
        return Err(format!("the title in {language} is longer than {MAX_TITLE_BYTES} bytes"));
    }
    let (title, text) = (gate(&plan.title, fallback)?, human(&plan.text, fallback)?);
    check_services(state, &plan.services)?;
    check_times(wall, plan.starts, plan.ends)?;
    check_conflict(state, None, plan.site, plan.starts, plan.ends)?;
    if state.interventions.values().filter(|work| !work.phase.is_over()).count() >= MAX_OPEN {
        return Err(format!("{MAX_OPEN} interventions are planned already"));
    }
    state.intervention_count += 1;
    let mut work = Intervention {
        id: format!("work-{:06}", state.intervention_count),
        services: plan.services.clone(),
        site: plan.site,
        title,
        phase: WorkPhase::Scheduled,
        starts: plan.starts,
        ends: plan.ends,
        started: None,
        ended: None,
        updates: Vec::new(),
    };
    events.push(InterventionEvent::Planned {
        intervention: work.id.clone(),
        services: plan.services.clone(),
        starts: plan.starts,
        ends: plan.ends,
        by: by.clone(),
    });
    work.say(now, wall, by, text, events);
    state.interventions.insert(work.id.clone(), work);
    Ok(())
}

fn human(text: &BTreeMap<String, String>, fallback: Option<&str>) -> Result<WorkText, String> {
    match gate(text, fallback)? {
        Text::Human { text, fallback } => Ok(WorkText::Human { text, fallback }),
        Text::Template { .. } => Err("a text is written by people".to_owned()),
    }
}

fn check_services(state: &State, services: &[Id]) -> Result<(), String> {
    if services.is_empty() || services.len() > MAX_SERVICES {
        return Err(format!("1 to {MAX_SERVICES} services are named"));
    }
    if let Some(unknown) = services.iter().find(|id| !state.services.contains_key(*id)) {
        return Err(format!("there is no service `{unknown}`"));
    }
    let twice = services.iter().enumerate().find(|(at, id)| services[..*at].contains(id));
    twice.map_or(Ok(()), |(_, id)| Err(format!("service {id} is named twice")))
}

fn check_times(wall: Wall, starts: Wall, ends: Wall) -> Result<(), String> {
    if ends.0 <= wall.0 {
        return Err("the end has passed already".to_owned());
    }
    if starts.0.saturating_sub(wall.0) > MAX_AHEAD_MS {
        return Err("work is announced at most 400 days ahead".to_owned());
    }
    if wall.0.saturating_sub(starts.0) > DAY_MS {
        return Err("the start lies more than a day back".to_owned());
    }
    check_length(starts, ends)
}

fn check_length(starts: Wall, ends: Wall) -> Result<(), String> {
    match ends.0.saturating_sub(starts.0) {
        ..=0 => Err("the end comes before the start".to_owned()),
        length if length > MAX_LENGTH_MS => Err("planned work takes at most 30 days".to_owned()),
        _ => Ok(()),
    }
}

/// Work at one site is refused for a time in which another site is worked on: nothing could be moved out of the way.
fn check_conflict(state: &State, own: Option<&str>, site: Option<Site>, from: Wall, to: Wall) -> Result<(), String> {
    let Some(site) = site else { return Ok(()) };
    let conflict =
        state.interventions.values().filter(|work| !work.phase.is_over() && Some(work.id.as_str()) != own).find(
            |work| {
                let elsewhere = work.site.is_some_and(|other| other != site);
                elsewhere && work.started.unwrap_or(work.starts).0 < to.0 && from.0 < work.ends.0
            },
        );
    match conflict {
        Some(other) => Err(format!("{} works on another site at that time", other.id)),
        None => Ok(()),
    }
}

fn open<'a>(state: &'a mut State, id: &str) -> Result<&'a mut Intervention, String> {
    match state.interventions.get_mut(id) {
        None => Err(format!("there is no intervention `{id}`")),
        Some(work) if work.phase.is_over() => Err(format!("intervention {id} is over")),
        Some(work) => Ok(work),
    }
}
