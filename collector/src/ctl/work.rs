//! `bcpctl work`: planned work on the public calendar.

use bcp_core::status::intervention::Plan;
use bcp_core::status::{Intervention, InterventionCommand};
use bcp_core::time::Wall;
use bcp_wire::{Id, Site};
use clap::{Args, Subcommand};

use super::args::{IncidentText, parse_text};
use super::languages;
use crate::web::public::when::from_local;

#[derive(Debug, Subcommand)]
pub enum Work {
    /// Planned work that is not over
    List,
    /// Announce work
    Plan(PlanArgs),
    /// Begin before the announced hour
    Start { work: String },
    /// Set another end
    Extend {
        work: String,
        /// New end, local time in Brussels, as '2026-11-23 06:30'
        #[arg(long, value_name = "TIME", value_parser = from_local)]
        to: Wall,
        #[command(flatten)]
        text: IncidentText,
    },
    /// Tell the public something in between
    Update {
        work: String,
        #[command(flatten)]
        text: IncidentText,
    },
    /// End it; what has not begun is cancelled
    Close {
        work: String,
        #[command(flatten)]
        text: IncidentText,
    },
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Service that is worked on; once per service
    #[arg(long = "service", value_name = "ID", required = true)]
    services: Vec<Id>,
    /// Site where the work is done: refused while another one is worked on
    #[arg(long)]
    site: Option<Site>,
    /// Begin, local time in Brussels, as '2026-11-23 02:00'
    #[arg(long, value_name = "TIME", value_parser = from_local)]
    from: Wall,
    /// End
    #[arg(long, value_name = "TIME", value_parser = from_local)]
    to: Wall,
    /// Title in one language, as en='New disks'; once per language
    #[arg(long = "title", value_name = "LANG=TEXT", required = true, value_parser = parse_text)]
    titles: Vec<(String, String)>,
    #[command(flatten)]
    text: IncidentText,
}

impl Work {
    /// The order; none for a question.
    pub fn command(self) -> Option<InterventionCommand> {
        Some(match self {
            Work::List => return None,
            Work::Plan(plan) => InterventionCommand::Plan(Plan {
                services: plan.services,
                site: plan.site,
                title: languages(plan.titles),
                text: languages(plan.text.texts),
                starts: plan.from,
                ends: plan.to,
                fallback: plan.text.fallback,
            }),
            Work::Start { work } => InterventionCommand::Start { intervention: work },
            Work::Extend { work, to, text } => InterventionCommand::Extend {
                intervention: work,
                ends: to,
                text: languages(text.texts),
                fallback: text.fallback,
            },
            Work::Update { work, text } => {
                InterventionCommand::Update { intervention: work, text: languages(text.texts), fallback: text.fallback }
            }
            Work::Close { work, text } => {
                InterventionCommand::Close { intervention: work, text: languages(text.texts), fallback: text.fallback }
            }
        })
    }
}

/// Work that is not over, by its hour.
pub fn open<'a>(all: impl Iterator<Item = &'a Intervention>) -> Vec<&'a Intervention> {
    let mut open: Vec<&Intervention> = all.filter(|work| !work.phase.is_over()).collect();
    open.sort_by_key(|work| (work.starts.0, &work.id));
    open
}
