//! A report as one HTML page that needs nothing else: no script, no other file, no network.

use askama::Template;
use bcp_core::drill::report::{Check, LegEnd, Met, Moment, Outcome, rpo_goal};
use bcp_core::drill::{DrillKind, Report, Standing};
use bcp_core::time::LogTime;
use bcp_wire::Site;
use bcp_wire::control::StepOutcome;

use super::ledger::Checked;
use super::print::seconds;
use crate::web::public::lang::Lang;
use crate::web::public::when;

#[derive(Template, Debug)]
#[template(path = "drill/report.html")]
struct Page<'a> {
    report: &'a Report,
    checked: &'a Checked,
    kind: &'static str,
    mark: Mark,
    began: when::Moment,
    ended: when::Moment,
    lasted: String,
    /// What the recovery time counts from.
    counted_from: &'static str,
    rto: String,
    rto_goal: String,
    active_after: String,
    rpo: String,
    rpo_goal: String,
    checks: Vec<CheckRow<'a>>,
    legs: Vec<LegRow>,
    steps: Vec<StepRow<'a>>,
    standings: [StandingRow<'a>; 2],
}

/// Word, shape and colour of a state.
#[derive(Debug, Clone, Copy)]
struct Mark {
    class: &'static str,
    word: &'static str,
}

#[derive(Debug)]
struct CheckRow<'a> {
    check: &'a Check,
    mark: Mark,
}

#[derive(Debug)]
struct LegRow {
    title: String,
    cause: String,
    epochs: String,
    phases: Vec<Phase>,
    end: String,
}

/// A stretch of a move, to scale.
#[derive(Debug)]
struct Phase {
    what: &'static str,
    class: &'static str,
    at: String,
    took: String,
    /// Of the whole move, thousandths.
    left: u64,
    width: u64,
}

#[derive(Debug)]
struct StepRow<'a> {
    after: String,
    seq: u64,
    index: u64,
    at: when::Moment,
    author: &'a str,
    text: &'a str,
}

#[derive(Debug)]
struct StandingRow<'a> {
    title: &'static str,
    standing: &'a Standing,
    holder: String,
    sync: &'static str,
    can: String,
}

impl Page<'_> {
    const fn outcome_word(outcome: StepOutcome) -> &'static str {
        match outcome {
            StepOutcome::Done => "done",
            StepOutcome::Already => "already done",
            StepOutcome::Vetoed => "vetoed",
            StepOutcome::Failed => "failed",
            StepOutcome::Rejected => "rejected",
        }
    }
}

pub(super) fn render(checked: &Checked) -> Result<String, askama::Error> {
    let report = &checked.report;
    let unknown = || "not reached".to_owned();
    let page = Page {
        kind: match report.kind {
            DrillKind::Move => "planned switchover",
            DrillKind::Isolate => "rehearsed loss of a site's gates",
        },
        mark: outcome(report.verdict.outcome),
        began: when::full(report.began.wall, Lang::En),
        ended: when::full(report.ended.wall, Lang::En),
        lasted: seconds(report.ended.log_time.since(report.began.log_time)),
        counted_from: match report.kind {
            DrillKind::Move => "the order",
            DrillKind::Isolate => "the last renewal of the lease",
        },
        rto: report.rto_ms.map_or_else(unknown, seconds),
        rto_goal: report.goals.rto_ms.map_or_else(|| "none set".to_owned(), |ms| format!("at most {}", seconds(ms))),
        active_after: report.active_after_ms.map_or_else(unknown, seconds),
        rpo: report.rpo.sentence(),
        rpo_goal: rpo_goal(report.goals.rpo),
        checks: report.checks.iter().map(|check| CheckRow { check, mark: met(check.met) }).collect(),
        legs: report.legs.iter().map(leg).collect(),
        steps: report.steps.iter().map(step).collect(),
        standings: [standing("Before", &report.evidence.before), standing("After", &report.evidence.after)],
        report,
        checked,
    };
    page.render()
}

const fn outcome(outcome: Outcome) -> Mark {
    match outcome {
        Outcome::Passed => Mark { class: "up", word: "Passed" },
        Outcome::Failed => Mark { class: "down", word: "Failed" },
        Outcome::Inconclusive => Mark { class: "degraded", word: "Inconclusive" },
        Outcome::NotDone => Mark { class: "unknown", word: "Not done" },
    }
}

const fn met(met: Met) -> Mark {
    match met {
        Met::Met => Mark { class: "up", word: "met" },
        Met::Missed => Mark { class: "down", word: "missed" },
        Met::Unknown => Mark { class: "unknown", word: "unknown" },
        Met::NoGoal => Mark { class: "unknown", word: "no goal set" },
    }
}

fn leg(leg: &bcp_core::drill::report::Leg) -> LegRow {
    let name = |site: Option<Site>| site.map_or_else(|| "nowhere".to_owned(), |site| format!("site {site}"));
    let last = [leg.published, leg.promoted, leg.effective, leg.granted].into_iter().flatten().next();
    let whole = last.map_or(0, |moment| moment.log_time.since(leg.fault)).max(1);
    let mut phases = Vec::new();
    let mut from = leg.fault;
    let mut add = |what, class, to: Option<LogTime>| {
        let Some(to) = to else { return };
        let (left, took) = (from.since(leg.fault), to.since(from));
        let share = |ms: u64| ms.saturating_mul(1_000) / whole;
        phases.push(Phase {
            what,
            class,
            at: seconds(left),
            took: seconds(took),
            left: share(left),
            width: share(took).max(4),
        });
        from = to;
    };
    let at = |moment: Option<Moment>| moment.map(|moment| moment.log_time);
    if leg.planned {
        add("the holder stops", "degraded", at(leg.released.or(leg.granted)));
    } else {
        add("the lease runs out", "degraded", Some(leg.began.log_time));
    }
    add(if leg.planned { "sealed" } else { "waited out" }, "unknown", at(leg.effective));
    add("promoted", "planned", at(leg.promoted));
    add("published", "up", at(leg.published));
    LegRow {
        title: format!("From site {} to {}", leg.from, name(leg.to.or(leg.wanted))),
        cause: leg.cause.clone().unwrap_or_else(|| "its lease ran out".to_owned()),
        epochs: match leg.epoch_after {
            Some(after) => format!("epoch {} to {after}", leg.epoch_before),
            None => format!("epoch {}", leg.epoch_before),
        },
        phases,
        end: match &leg.end {
            LegEnd::Finished => format!("served after {}", leg.served_after_ms().map_or_else(String::new, seconds)),
            LegEnd::Stuck { reason } => format!("stuck: {reason}"),
            LegEnd::Cancelled { reason } => format!("given up: {reason}"),
            LegEnd::Unfinished => "not finished".to_owned(),
        },
    }
}

fn step(step: &bcp_core::drill::report::Step) -> StepRow<'_> {
    StepRow {
        after: seconds(step.after_ms),
        seq: step.at.seq,
        index: step.at.index,
        at: when::full(step.at.wall, Lang::En),
        author: &step.author,
        text: &step.text,
    }
}

fn standing<'a>(title: &'static str, standing: &'a Standing) -> StandingRow<'a> {
    let can = &standing.can_failover_now;
    StandingRow {
        title,
        standing,
        holder: standing.holder.map_or_else(|| "nobody".to_owned(), |site| format!("site {site}")),
        sync: match standing.in_sync {
            Some(true) => "latched in sync",
            Some(false) => "latched as lacking data",
            None => "unknown",
        },
        can: if can.ok { "yes".to_owned() } else { format!("no: {}", can.reasons.join("; ")) },
    }
}
