//! `bcpctl`: what an operator asks and orders, from any collector.
//!
//! Knows: the control listener's requests and how to print their answers. Every order carries an idempotency key and, for
//! moves, the epoch and revision that were seen, so that a late or repeated order does nothing.

mod print;
mod snapshot;
mod work;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use bcp_core::alarms::AlarmCommand;
use bcp_core::failover::{Explanation, TicketCommand, TicketView};
use bcp_core::replica::{CommandResult, CommandVerb, Replica};
use bcp_core::status::IncidentCommand;
use bcp_identity::{Credentials, Identity, http_client};
use bcp_wire::{Epoch, Id, Site};
use clap::{Args, CommandFactory, Parser, Subcommand};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::cli::EXIT_CONFIG;
use crate::config::parse_duration;
use crate::decide::node::CommandRequest;

/// A command is committed within a tick or two, or there is no leader.
const REQUEST_LIMIT: Duration = Duration::from_secs(8);

/// Ask and order: tickets, alarms, incidents, services.
///
/// Talks to the control listener of any collector; orders are passed on to the leader and answered once they are agreed.
/// The operator is the name in the certificate.
#[derive(Debug, Parser)]
#[command(name = "bcpctl", version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    access: Access,
    /// Print the answer as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  bcpctl --credentials pki tickets
  bcpctl --credentials pki explain prescriptions
  bcpctl --credentials pki move prescriptions --to b --reason 'power work at a'
  bcpctl --credentials pki shelve supply-air-hot/crac-a1 --for 2h --reason 'filter change'
  bcpctl --credentials pki incident update inc-000003 --text en='Working on it' --fallback en
  bcpctl --credentials pki work plan --service prescriptions --from '2026-11-23 02:00' --to '2026-11-23 05:00' \
      --title en='New disks' --text en='Prescriptions may be slow.' --fallback en
  bcpctl snapshot verify http://127.0.0.1:18000 --config collector.toml";

#[derive(Debug, Args)]
struct Access {
    /// Control listener of a collector
    #[arg(long, global = true, env = "BCPCTL_URL", default_value = "https://127.0.0.1:18002")]
    url: String,
    /// Directory with ca.pem and one operator-NAME.pem and .key
    #[arg(long, global = true, env = "BCPCTL_CREDENTIALS", value_name = "DIR", conflicts_with_all = ["ca", "cert", "key"])]
    credentials: Option<PathBuf>,
    /// Which operator, where the directory has several
    #[arg(long, global = true, value_name = "NAME")]
    operator: Option<Id>,
    /// CA certificate (PEM), in place of a directory
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Own certificate (PEM)
    #[arg(long, global = true, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Own key (PEM)
    #[arg(long, global = true, value_name = "FILE")]
    key: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All tickets: holder, epoch, phase, and whether they can fail over now
    Tickets,
    /// Why a ticket is where it is: rule, inputs, votes, what was done and what was not
    Explain { ticket: Id },
    /// Move a ticket to another site, in order: drain, stop, release, grant, promote
    Move {
        ticket: Id,
        /// Site that is to hold it
        #[arg(long)]
        to: Site,
        /// For the ledger
        #[arg(long)]
        reason: String,
        /// Do not compare with the epoch and revision seen just now
        #[arg(long)]
        unconditional: bool,
    },
    /// Abort the move of a ticket
    Abort {
        ticket: Id,
        #[arg(long)]
        reason: String,
    },
    /// Stop automatic moves of a ticket for a time; its holder keeps renewing
    Freeze {
        ticket: Id,
        /// How long, as 30m or 2h
        #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
        length: Duration,
        #[arg(long)]
        reason: String,
    },
    /// Allow automatic moves of a ticket again
    Unfreeze {
        ticket: Id,
        #[arg(long)]
        reason: String,
    },
    /// Confirm the move that a ticket in mode `confirm` waits for
    Confirm {
        ticket: Id,
        /// Epoch of the waiting move; default: the one that waits now
        #[arg(long)]
        epoch: Option<Epoch>,
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
enum Incident {
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
struct IncidentText {
    /// Text in one language, as en='...'; once per language
    #[arg(long = "text", value_name = "LANG=TEXT", required = true, value_parser = parse_text)]
    texts: Vec<(String, String)>,
    /// Language shown where another one is missing
    #[arg(long, value_name = "LANG")]
    fallback: Option<String>,
}

fn parse_text(argument: &str) -> Result<(String, String), String> {
    let (language, text) = argument.split_once('=').ok_or("needed: language=text, as en='Working on it'")?;
    Ok((language.to_owned(), text.to_owned()))
}

/// Runs the command line (`args` starts with the program name): 0 done, 1 refused or failed, 64 wrong command line.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_CONFIG } else { 0 });
        }
    };
    if let Command::Completions { shell } = cli.command {
        clap_complete::generate(shell, &mut Cli::command(), "bcpctl", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("bcpctl: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bcpctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug, Deserialize)]
struct StateAnswer {
    leader: Option<Site>,
    quorum: bool,
    replica: Replica,
}

async fn run(cli: Cli) -> anyhow::Result<bool> {
    let json = cli.json;
    if let Command::Snapshot(snapshot::Snapshot::Verify(args)) = &cli.command {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let verified = snapshot::verify(args).await?;
        show(json, &verified, print::verified)?;
        return Ok(verified.current);
    }
    let server = Server::reach(&cli.access).await?;
    match cli.command {
        Command::Tickets => {
            let views = server.state().await?.replica.ticket_views();
            show(json, &views, |views| print::tickets(views))?;
        }
        Command::Explain { ticket } => {
            let explanation: Explanation = server.get(&format!("/control/v1/explain?ticket={ticket}")).await?;
            show(json, &explanation, print::explanation)?;
        }
        Command::Alarms { all } => {
            let replica = server.state().await?.replica;
            let mut views = replica.alarms.views(replica.log_time);
            views.retain(|view| all || view.state != "normal");
            show(json, &views, |views| print::alarms(views))?;
        }
        Command::Services => show(json, &server.state().await?.replica.services, print::services)?,
        Command::Status => {
            let status: serde_json::Value = server.get("/control/v1/status").await?;
            show(json, &status, print::status)?;
        }
        Command::Work(work::Work::List) => {
            let services = server.state().await?.replica.services;
            show(json, &work::open(services.interventions.values()), |open| print::works(open))?;
        }
        Command::Completions { .. } | Command::Snapshot(_) => {}
        order => {
            let verb = verb(&server, order).await?;
            let result = server.order(verb).await?;
            show(json, &result, print::result)?;
            return Ok(result.ok);
        }
    }
    Ok(true)
}

fn show<T: serde::Serialize>(json: bool, value: &T, print: impl Fn(&T)) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(value)?);
    } else {
        print(value);
    }
    Ok(())
}

fn in_ms(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

async fn verb(server: &Server, command: Command) -> anyhow::Result<CommandVerb> {
    let ticket = |ticket: Id, command: TicketCommand| CommandVerb::Ticket { ticket, command };
    let alarm = |alarm: String, command: AlarmCommand| CommandVerb::Alarm { alarm, command };
    Ok(match command {
        Command::Move { ticket: id, to, reason, unconditional } => {
            let expect = if unconditional {
                None
            } else {
                let view = server.ticket(&id).await?;
                Some((view.epoch, view.revision))
            };
            ticket(id, TicketCommand::Move { to, reason, expect })
        }
        Command::Abort { ticket: id, reason } => ticket(id, TicketCommand::Abort { reason }),
        Command::Freeze { ticket: id, length, reason } => {
            ticket(id, TicketCommand::Freeze { reason, for_ms: in_ms(length) })
        }
        Command::Unfreeze { ticket: id, reason } => ticket(id, TicketCommand::Unfreeze { reason }),
        Command::Confirm { ticket: id, epoch } => {
            let epoch = match epoch {
                Some(epoch) => epoch,
                None => {
                    let waiting = server.ticket(&id).await?.awaiting_confirmation;
                    waiting.with_context(|| format!("{id} waits for no confirmation"))?.epoch
                }
            };
            ticket(id, TicketCommand::Confirm { epoch })
        }
        Command::Ack { alarm: key, note } => alarm(key, AlarmCommand::Acknowledge { note }),
        Command::Shelve { alarm: key, length, reason } => {
            alarm(key, AlarmCommand::Shelve { reason, for_ms: in_ms(length) })
        }
        Command::Unshelve { alarm: key, reason } => alarm(key, AlarmCommand::Unshelve { reason }),
        Command::Incident(Incident::Update { incident, text, next_update }) => {
            CommandVerb::Incident(IncidentCommand::Update {
                incident,
                text: languages(text.texts),
                next_update_in_ms: next_update.map(in_ms),
                fallback: text.fallback,
            })
        }
        Command::Incident(Incident::Resolve { incident, text }) => CommandVerb::Incident(IncidentCommand::Resolve {
            incident,
            text: languages(text.texts),
            fallback: text.fallback,
        }),
        Command::Work(work) => CommandVerb::Intervention(work.command().context("not an order")?),
        Command::Tickets
        | Command::Snapshot(_)
        | Command::Explain { .. }
        | Command::Alarms { .. }
        | Command::Services
        | Command::Status
        | Command::Completions { .. } => bail!("not an order"),
    })
}

fn languages(texts: Vec<(String, String)>) -> BTreeMap<String, String> {
    texts.into_iter().collect()
}

/// The collector that answers.
struct Server {
    url: String,
    client: reqwest::Client,
}

impl Server {
    /// The address does not say which site it is: any of the three collectors will do, and nothing else.
    async fn reach(access: &Access) -> anyhow::Result<Server> {
        let credentials = credentials(access)?;
        let url = access.url.trim_end_matches('/').to_owned();
        let mut last = None;
        for site in Site::ALL {
            let client = http_client(&credentials, &Identity::Collector { site }, REQUEST_LIMIT)?;
            match client.get(format!("{url}/control/v1/status")).send().await {
                Ok(_) => return Ok(Server { url, client }),
                Err(error) => last = Some(error),
            }
        }
        let Some(error) = last else { bail!("no collector to try") };
        Err(error).with_context(|| format!("no collector answers at {url}"))
    }

    async fn answer<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> anyhow::Result<T> {
        let answer = request.send().await?;
        let status = answer.status();
        let body = answer.bytes().await?;
        if status.is_success() {
            return Ok(serde_json::from_slice(&body)?);
        }
        let reason = serde_json::from_slice::<serde_json::Value>(&body).ok();
        let reason = reason.and_then(|reason| Some(reason.get("reason")?.as_str()?.to_owned()));
        bail!("{}", reason.unwrap_or_else(|| format!("the collector answered {status}")))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.answer(self.client.get(format!("{}{path}", self.url))).await
    }

    async fn state(&self) -> anyhow::Result<StateAnswer> {
        let state: StateAnswer = self.get("/control/v1/state").await?;
        if !state.quorum || state.leader.is_none() {
            eprintln!("bcpctl: this collector hears no leader; what follows may be old");
        }
        Ok(state)
    }

    async fn ticket(&self, id: &Id) -> anyhow::Result<TicketView> {
        let views = self.state().await?.replica.ticket_views();
        views.into_iter().find(|view| view.id == *id).with_context(|| format!("there is no ticket {id}"))
    }

    async fn order(&self, verb: CommandVerb) -> anyhow::Result<CommandResult> {
        let request = CommandRequest { key: format!("{:032x}", rand::random::<u128>()), verb };
        self.answer(self.client.post(format!("{}/control/v1/command", self.url)).json(&request)).await
    }
}

fn credentials(access: &Access) -> anyhow::Result<Credentials> {
    if let (Some(ca), Some(cert), Some(key)) = (&access.ca, &access.cert, &access.key) {
        return Ok(Credentials { ca: ca.clone(), cert: cert.clone(), key: key.clone() });
    }
    let dir = access.credentials.as_ref().context("give --credentials DIR, or --ca, --cert and --key")?;
    if let Some(name) = &access.operator {
        return Ok(Credentials::in_dir(dir, &Identity::Operator { name: name.clone() }));
    }
    let entries = std::fs::read_dir(dir).with_context(|| format!("failed to read {}", dir.display()))?;
    let names: Vec<Id> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| name.strip_prefix("operator-")?.strip_suffix(".pem")?.parse().ok())
        .collect();
    match names.as_slice() {
        [name] => Ok(Credentials::in_dir(dir, &Identity::Operator { name: name.clone() })),
        [] => bail!("{} has no operator-NAME.pem", dir.display()),
        several => {
            let names: Vec<&str> = several.iter().map(AsRef::as_ref).collect();
            bail!("{} has several operators; give --operator: {}", dir.display(), names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let parse = |line: &str| Cli::try_parse_from(line.split_whitespace()).is_ok();
        assert!(parse("bcpctl move prescriptions --to b --reason test"));
        assert!(parse("bcpctl freeze prescriptions --for 2h --reason test"));
        assert!(parse("bcpctl incident update inc-1 --text en=Working --fallback en --json"));
        assert!(!parse("bcpctl move prescriptions --to x --reason test"));
        assert!(!parse("bcpctl freeze prescriptions --for ever --reason test"));
        assert!(!parse("bcpctl incident resolve inc-1"));
        assert!(parse(
            "bcpctl work plan --service rx --from 2026-11-23T02:00 --to 2026-11-23T05:00 --title en=x --text en=y"
        ));
        assert!(!parse("bcpctl work plan --service rx --from tomorrow --to 2026-11-23T05:00 --title en=x --text en=y"));
        assert!(parse("bcpctl snapshot verify export --trust a=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="));
        assert!(!parse("bcpctl snapshot verify export --trust a=short"));
    }
}
