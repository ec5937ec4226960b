//! Plans, lists and reports of drills as text for a terminal.

use bcp_core::drill::report::{Met, Outcome};
use bcp_core::drill::{Plan, State};

use super::ledger::Checked;
use crate::ctl::print::{BOLD, GREEN, RED, YELLOW, paint, site, table};
use crate::web::public::lang::Lang;
use crate::web::public::when;

pub(super) fn plan(plan: &Plan) {
    let rto = plan.goals.rto_ms.map_or_else(|| "none set".to_owned(), seconds);
    println!(
        "{}: held by {}, epoch {}, mode {}; goals: recovery time {rto}, data: {}",
        paint(BOLD, plan.ticket.as_ref()),
        site(plan.from),
        plan.standing.epoch,
        plan.mode.as_str(),
        bcp_core::drill::report::rpo_goal(plan.goals.rpo)
    );
    for kind in &plan.kinds {
        let may = match kind.may_begin {
            true => paint(GREEN, &format!("may begin, to {}", site(plan.to))),
            false => format!("{}: {}", paint(RED, "may not begin"), kind.blocks.join("; ")),
        };
        println!("  drill {:<8} {may}", kind.kind.as_str());
        println!("    moves      {}", kind.moves);
        println!("    users      {}", kind.users_see);
        println!("    put back   {}", kind.put_back);
        for (n, abort) in kind.aborts.iter().enumerate() {
            println!("    {:<10} {abort}", if n == 0 { "ends early" } else { "" });
        }
    }
}

pub(super) fn list(drills: &State) {
    if drills.running.is_empty() && drills.past.is_empty() {
        println!("no drills");
        return;
    }
    let running = drills.running.values().map(|running| {
        let began = &running.gathered.began;
        let at =
            running.gathered.entries.first().map_or_else(String::new, |entry| when::full(entry.wall, Lang::En).text);
        let way = format!("{} to {}", began.from, began.to);
        vec![
            began.drill.clone(),
            at,
            began.ticket.to_string(),
            began.kind.as_str().to_owned(),
            way,
            "under way".to_owned(),
            "-".to_owned(),
            began.operator.clone(),
        ]
    });
    let past = drills.past.iter().rev().map(|past| {
        vec![
            past.drill.clone(),
            when::full(past.began, Lang::En).text,
            past.ticket.to_string(),
            past.kind.as_str().to_owned(),
            format!("{} to {}", past.from, past.to),
            past.verdict.as_str().to_owned(),
            past.rto_ms.map_or_else(|| "-".to_owned(), seconds),
            past.operator.clone(),
        ]
    });
    let rows: Vec<Vec<String>> = running.chain(past).collect();
    table(&["DRILL", "BEGAN", "TICKET", "KIND", "FROM", "VERDICT", "RECOVERED IN", "ASKED BY"], &rows);
}

pub(super) fn report(checked: &Checked) {
    let report = &checked.report;
    let colour = match report.verdict.outcome {
        Outcome::Passed => GREEN,
        Outcome::Failed => RED,
        Outcome::Inconclusive | Outcome::NotDone => YELLOW,
    };
    println!(
        "{} {}",
        paint(BOLD, &format!("BCP test report {}:", report.drill)),
        paint(colour, &report.verdict.sentence)
    );
    println!(
        "{} of {} (service {}), asked by {}: {}",
        report.kind.as_str(),
        report.ticket,
        report.service,
        report.asked_by,
        report.reason
    );
    let (began, ended) = (&report.began, &report.ended);
    println!(
        "from {} to {}, Brussels time; log time {} to {}",
        when::full(began.wall, Lang::En).text,
        when::full(ended.wall, Lang::En).text,
        began.log_time,
        ended.log_time
    );
    let row = |check: &bcp_core::drill::report::Check| {
        vec![met(check.met).to_owned(), check.what.clone(), check.goal.clone(), check.found.clone()]
    };
    table(&["", "WHAT", "GOAL", "FOUND"], &report.checks.iter().map(row).collect::<Vec<_>>());
    println!("{}", paint(BOLD, "what happened"));
    for step in &report.steps {
        println!("  {:>10}  {:>6}  {}", seconds(step.after_ms), step.at.seq, step.text);
    }
    println!("{}", paint(BOLD, "other than planned"));
    if report.deviations.is_empty() {
        println!("  nothing");
    }
    for found in &report.deviations {
        println!("  {:>6}  {}", found.seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string()), found.text);
    }
    let evidence = &report.evidence;
    println!(
        "evidence: log indices {} to {}, ledger {} to {}, epochs {}",
        evidence.first_index,
        evidence.last_index,
        evidence.first_seq,
        evidence.last_seq,
        evidence.epochs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    );
    println!("  chain {} to {}", evidence.hash_before, evidence.hash_after);
    match &checked.fault {
        None => println!("  {} entries gone through: the chain is whole, and says the same", checked.checked_entries),
        Some(fault) => println!("  {}: {fault}", paint(RED, "NOT TO BE BELIEVED")),
    }
}

const fn met(met: Met) -> &'static str {
    match met {
        Met::Met => "met",
        Met::Missed => "MISSED",
        Met::Unknown => "unknown",
        Met::NoGoal => "no goal",
    }
}

pub(super) fn seconds(ms: u64) -> String {
    format!("{}.{:03} s", ms / 1_000, ms % 1_000)
}
