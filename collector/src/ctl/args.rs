//! The command line of `bcpctl`.

use std::path::PathBuf;
use std::time::Duration;

use bcp_core::failover::Guard;
use bcp_wire::{Epoch, Id, Site};
use clap::{Args, Parser, Subcommand};

use super::without_quorum::WithoutQuorum;
use super::{drill, snapshot, work};
use crate::config::parse_duration;

/// Ask and order: tickets, alarms, incidents, services.
///
/// Talks to the control listener of any collector; orders are passed on to the leader and answered once they are agreed.
/// The operator is the name in the certificate.
#[derive(Debug, Parser)]
#[command(name = "bcpctl", version, after_help = EXAMPLES)]
pub(super) struct Cli {
    #[command(flatten)]
    pub access: Access,
    /// Print the answer as JSON
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "Examples:
  bcpctl --credentials pki tickets
  bcpctl --credentials pki explain prescriptions
  bcpctl --credentials pki move prescriptions --to b --reason 'power work at a'
  bcpctl --credentials pki force prescriptions --to b --guard freshness --reason 'a is gone for days' --operator op-2
  bcpctl --credentials pki --operator op-1 force prescriptions --to b --reason 'a and w are gone' \
      --without-quorum --order order.json --signing-key op-1.key --gate b/host-b=https://10.0.1.5:18110
  bcpctl --credentials pki readmit ticket prescriptions --holder b --reason 'w is back'
  bcpctl --credentials pki shelve supply-air-hot/crac-a1 --for 2h --reason 'filter change'
  bcpctl --credentials pki incident update inc-000003 --text en='Working on it' --fallback en
  bcpctl --credentials pki work plan --service prescriptions --from '2026-11-23 02:00' --to '2026-11-23 05:00' \
      --title en='New disks' --text en='Prescriptions may be slow.' --fallback en
  bcpctl --credentials pki drill move prescriptions --back --reason 'yearly BCP test'
  bcpctl snapshot verify http://127.0.0.1:18000 --config collector.toml";

#[derive(Debug, Args)]
pub(super) struct Access {
    /// Control listener of a collector
    #[arg(long, global = true, env = "BCPCTL_URL", default_value = "https://127.0.0.1:18002")]
    pub url: String,
    /// Directory with ca.pem and one operator-NAME.pem and .key
    #[arg(long, global = true, env = "BCPCTL_CREDENTIALS", value_name = "DIR", conflicts_with_all = ["ca", "cert", "key"])]
    pub credentials: Option<PathBuf>,
    /// Which operator, where the directory has several
    #[arg(long, global = true, value_name = "NAME")]
    pub operator: Option<Id>,
    /// CA certificate (PEM), in place of a directory
    #[arg(long, global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Own certificate (PEM)
    #[arg(long, global = true, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Own key (PEM)
    #[arg(long, global = true, value_name = "FILE")]
    pub key: Option<PathBuf>,
}

/// What an order to a ticket is compared with: where the ticket has another epoch or revision by then, nothing is done.
#[derive(Debug, Args)]
pub(super) struct Seen {
    /// Epoch and revision that were seen, as 1.7,31; default: those of this moment
    #[arg(long, value_name = "EPOCH,REVISION", value_parser = parse_expect, conflicts_with = "unconditional")]
    pub expect: Option<(Epoch, u64)>,
    /// Do it whatever the ticket has become meanwhile
    #[arg(long)]
    pub unconditional: bool,
}

fn parse_expect(text: &str) -> Result<(Epoch, u64), String> {
    let (epoch, revision) = text.split_once(',').ok_or("epoch and revision belong together, as 1.7,31")?;
    let epoch = epoch.parse().map_err(|_| format!("`{epoch}` is not an epoch, as 1.7"))?;
    let revision = revision.parse().map_err(|_| format!("`{revision}` is not a revision, as 31"))?;
    Ok((epoch, revision))
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// All tickets: holder, epoch, phase, and whether they can fail over now
    Tickets,
    /// Why a ticket is where it is: rule, inputs, votes, what was done and what was not
    Explain {
        ticket: Id,
        /// As it was at this log index, replayed from the log of the collector that answers; the ledger has the indexes
        #[arg(long, value_name = "INDEX")]
        at: Option<u64>,
    },
    /// Move a ticket to another site, in order: drain, stop, release, grant, promote
    Move {
        ticket: Id,
        /// Site that is to hold it
        #[arg(long)]
        to: Site,
        /// For the ledger
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        seen: Seen,
    },
    /// Abort the move of a ticket
    Abort {
        ticket: Id,
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        seen: Seen,
    },
    /// Stop automatic moves of a ticket for a time; its holder keeps renewing
    Freeze {
        ticket: Id,
        /// How long, as 30m or 2h
        #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
        length: Duration,
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        seen: Seen,
    },
    /// Allow automatic moves of a ticket again
    Unfreeze {
        ticket: Id,
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        seen: Seen,
    },
    /// Confirm the move that a ticket in mode `confirm` waits for
    Confirm {
        ticket: Id,
        /// Epoch of the waiting move; default: the one that waits now
        #[arg(long)]
        epoch: Option<Epoch>,
        #[command(flatten)]
        seen: Seen,
    },
    /// Move a ticket around one guard; done when a second, different operator gives the same order within 10 minutes
    Force {
        ticket: Id,
        /// Site that is to hold it
        #[arg(long)]
        to: Site,
        /// What is gone around: freshness (acknowledged data may be lost) or dependency
        #[arg(long, required_unless_present = "without_quorum", conflicts_with = "without_quorum")]
        guard: Option<Guard>,
        /// For the ledger
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        seen: Seen,
        #[command(flatten)]
        without_quorum: WithoutQuorum,
    },
    /// Exercises that leave a BCP test report
    #[command(subcommand)]
    Drill(drill::Drill),
    /// Let in again what decided or lives without the others
    #[command(subcommand)]
    Readmit(Readmit),
    /// Write the agreed state into a file, for `bcp-collector decide --restore`
    Backup {
        /// A new file
        file: PathBuf,
    },
    /// Before the first start is over: two collectors are enough, the third one comes later. To be asked of one of the two
    Bootstrap,
    /// Make a key for orders without a quorum; prints its public half
    SigningKey {
        /// Where the key is written; only its owner may read it
        file: PathBuf,
    },
    /// Alarms, most urgent first
    Alarms {
        /// Also those that are normal
        #[arg(long)]
        all: bool,
    },
    /// Acknowledge an alarm
    Ack {
        alarm: String,
        #[arg(long)]
        note: Option<String>,
    },
    /// Put an alarm on the shelf for a time
    Shelve {
        alarm: String,
        /// How long, as 30m or 2h
        #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
        length: Duration,
        #[arg(long)]
        reason: String,
    },
    /// Take an alarm from the shelf
    Unshelve {
        alarm: String,
        #[arg(long)]
        reason: String,
    },
    /// Texts of incidents on the public page
    #[command(subcommand)]
    Incident(Incident),
    /// Planned work on the public calendar
    #[command(subcommand)]
    Work(work::Work),
    /// Publications of the public page
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    /// Services and open incidents
    Services,
    /// The collector that answers: leader, contacts, log
    Status,
    /// Print completions for a shell
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, Subcommand)]
pub(super) enum Readmit {
    /// A ticket that was given to a site without a quorum: the collectors decide about it again
    Ticket {
        ticket: Id,
        /// The site that runs it
        #[arg(long, required_unless_present = "nobody", conflicts_with = "nobody")]
        holder: Option<Site>,
        /// Nobody runs it any more, at no site; it stays frozen until people say where it goes
        #[arg(long)]
        nobody: bool,
        /// For the ledger
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        seen: Seen,
    },
    /// A collector with another disk: it is the member of its site from now on. To be asked of the collector that leads
    Site { site: Site },
}

#[derive(Debug, Subcommand)]
pub(super) enum Incident {
    /// Publish a text
    Update {
        incident: String,
        #[command(flatten)]
        text: IncidentText,
        /// When the reader will hear more, as 30m
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        next_update: Option<Duration>,
    },
    /// Close it with a text
    Resolve {
        incident: String,
        #[command(flatten)]
        text: IncidentText,
    },
}

#[derive(Debug, Args)]
pub(super) struct IncidentText {
    /// Text in one language, as en='...'; once per language
    #[arg(long = "text", value_name = "LANG=TEXT", required = true, value_parser = parse_text)]
    pub texts: Vec<(String, String)>,
    /// Language shown where another one is missing
    #[arg(long, value_name = "LANG")]
    pub fallback: Option<String>,
}

pub(super) fn parse_text(argument: &str) -> Result<(String, String), String> {
    let (language, text) = argument.split_once('=').ok_or("needed: language=text, as en='Working on it'")?;
    Ok((language.to_owned(), text.to_owned()))
}
