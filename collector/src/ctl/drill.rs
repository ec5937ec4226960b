//! `bcpctl drill`: exercises, and the reports they leave.
//!
//! Knows: which orders make a drill, and in which order. Everything they do is decided by the collectors; where this command is
//! ended in between, the drill ends by itself and nothing stays undone that would not stay so in a real loss.

mod follow;
mod ledger;
mod page;
mod print;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bcp_core::drill::plan::KindPlan;
use bcp_core::drill::report::Outcome;
use bcp_core::drill::{DrillCommand, DrillKind, Plan};
use bcp_core::replica::CommandVerb;
use bcp_wire::{Id, Site};
use clap::{Args, Subcommand};

use super::args::Seen;
use super::server::Server;
use super::show;
use follow::Follower;

/// Longer than any stage of a move may take.
const FOLLOW_FOR: Duration = Duration::from_secs(600);

#[derive(Debug, Subcommand)]
pub(super) enum Drill {
    /// What each drill would move, what users would see, and whether it may begin. Changes nothing
    Plan {
        /// Default: every ticket
        ticket: Option<Id>,
    },
    /// A planned switchover as a drill: the ticket moves in order, is followed to its end, and a report is written
    ///
    /// Gives the same order as `bcpctl move`: the holder stops and releases, the other site promotes and publishes; no lease is
    /// waited out. Users are without the service in between. Ctrl-C undoes it as long as nothing was promoted.
    /// Exit code 0: the drill passed.
    Move(Rehearsal),
    /// The loss of the holder as a drill: its gates fall silent, the lease runs out, the other site takes over
    ///
    /// THE SERVICE STOPS. The gates of the ticket at the holding site are asked to say nothing about it for a time, as if they
    /// were cut off. They renew no lease and ask for no promise; at its end they stop the service by themselves. Once the lease
    /// has run out, the other site is ordered to take over, and does so after the full wait (with metro: 11 s and 4 s after the
    /// last renewal). No firewall, link or host is touched, and no other ticket. What this does not show: that the observers
    /// agree on the loss of a site, for the site is there; the order stands in for them. If nothing takes over, the gates speak
    /// again by themselves and the service starts where it was. Refused where the other site could not take over, and in modes
    /// off and observe, where nothing would start the service again. Exit code 0: the drill passed.
    Isolate {
        #[command(flatten)]
        rehearsal: Rehearsal,
        /// Do not ask for the ticket's name
        #[arg(long)]
        yes: bool,
    },
    /// Drills under way, and the last 64 that are over
    List,
    /// End a drill whose command is gone, so that its report is written; moves nothing. By itself it ends after an hour
    End {
        drill: String,
        /// For the ledger and the report
        #[arg(long, default_value = "its command was gone")]
        reason: String,
    },
    /// The report of a drill, checked against the ledger of the collector that answers
    ///
    /// The report is assembled anew from the ledger's entries, whose chain is checked. Exit code 1 where it is not the same.
    Report {
        /// As `bcpctl drill list` names it
        drill: String,
        /// Write it as a page that needs nothing else
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(super) struct Rehearsal {
    ticket: Id,
    /// Site that is to take it over; default: the other one
    #[arg(long)]
    to: Option<Site>,
    /// Move it back, in order, once the site it came from has everything again
    #[arg(long)]
    back: bool,
    /// For the ledger and the report
    #[arg(long, default_value = "BCP test")]
    reason: String,
    #[command(flatten)]
    seen: Seen,
}

/// Runs it: what it says is also its exit code.
pub(super) async fn run(server: &Server, drill: Drill, json: bool) -> anyhow::Result<ExitCode> {
    match drill {
        Drill::Plan { ticket } => {
            let plans = server.state().await?.replica.drill_plans(ticket.as_ref());
            if let (true, Some(ticket)) = (plans.is_empty(), &ticket) {
                bail!("there is no ticket {ticket}");
            }
            show(json, &plans, |plans| plans.iter().for_each(print::plan))?;
            Ok(ExitCode::SUCCESS)
        }
        Drill::Move(rehearsal) => rehearse(server, DrillKind::Move, rehearsal, true, json).await,
        Drill::Isolate { rehearsal, yes } => rehearse(server, DrillKind::Isolate, rehearsal, yes, json).await,
        Drill::List => {
            let drills = server.state().await?.replica.drills;
            show(json, &drills, print::list)?;
            Ok(ExitCode::SUCCESS)
        }
        Drill::End { drill, reason } => {
            let end = DrillCommand::End { drill: drill.clone(), note: Some(reason) };
            let said = server.order(CommandVerb::Drill(end), true).await?;
            ensure!(said.ok, "{}", said.message);
            show(json, &ledger::find(server, &drill).await?, print::report)?;
            Ok(ExitCode::SUCCESS)
        }
        Drill::Report { drill, html } => {
            let checked = ledger::find(server, &drill).await?;
            match &html {
                Some(file) => write(file, &page::render(&checked)?)?,
                None => show(json, &checked, print::report)?,
            }
            Ok(if checked.fault.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(file, text).with_context(|| format!("failed to write {}", file.display()))?;
    println!("{}", file.display());
    Ok(())
}

async fn rehearse(
    server: &Server,
    kind: DrillKind,
    asked: Rehearsal,
    yes: bool,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let replica = server.state().await?.replica;
    let id = asked.ticket;
    let plan = replica.drill_plans(Some(&id)).pop().with_context(|| format!("there is no ticket {id}"))?;
    let to = asked.to.or(plan.to).with_context(|| format!("there is no other site that may hold {id}"))?;
    let blocks = replica.drill_blocks(&id, kind, Some(to));
    ensure!(blocks.is_empty(), "no drill of {id} may begin: {}", blocks.join("; "));
    let kind_plan = plan.kinds.iter().find(|planned| planned.kind == kind).context("no such drill")?;
    if !yes {
        confirm(&plan, kind_plan)?;
    }
    let expect = match asked.seen.unconditional {
        true => None,
        false => asked.seen.expect.or(Some((plan.standing.epoch, plan.standing.revision))),
    };
    let reason = asked.reason.clone();
    let begin = DrillCommand::Begin { ticket: id.clone(), kind, to, back: asked.back, reason, expect };
    let said = server.order(CommandVerb::Drill(begin), asked.seen.unconditional).await?;
    ensure!(said.ok, "{}", said.message);
    let drill = said.message.split_whitespace().nth(1).context("the collector does not name the drill")?.to_owned();
    let mut follower = Follower::new(server, drill.clone(), id, FOLLOW_FOR);
    let note = follower.play(kind, to, asked.back, &asked.reason).await;
    let end = DrillCommand::End { drill: drill.clone(), note };
    // Where it was ended meanwhile, its report is there.
    let _ = follower.order("end", CommandVerb::Drill(end)).await?;
    let checked = ledger::find(server, &drill).await?;
    show(json, &checked, print::report)?;
    let passed = checked.report.verdict.outcome == Outcome::Passed && checked.fault.is_none();
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The service is going to stop: its ticket's name is typed.
fn confirm(plan: &Plan, kind: &KindPlan) -> anyhow::Result<()> {
    let mut terminal = std::io::stderr().lock();
    writeln!(terminal, "what is moved:  {}", kind.moves)?;
    writeln!(terminal, "what users see: {}", kind.users_see)?;
    writeln!(terminal, "what is put back: {}", kind.put_back)?;
    for abort in &kind.aborts {
        writeln!(terminal, "it ends early where {abort}")?;
    }
    write!(terminal, "type the ticket's name to begin: ")?;
    terminal.flush()?;
    let mut typed = String::new();
    std::io::stdin().read_line(&mut typed)?;
    if typed.trim() != plan.ticket.as_str() {
        bail!("nothing was begun: `{}` is not {}", typed.trim(), plan.ticket);
    }
    Ok(())
}
