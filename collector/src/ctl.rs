//! `bcpctl`: what an operator asks and orders, from any collector.
//!
//! Knows: the control listener's requests and how to print their answers. Every order carries an idempotency key and, for
//! moves, the epoch and revision that were seen, so that a late or repeated order does nothing.

mod args;
mod print;
mod server;
mod snapshot;
mod work;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use bcp_core::alarms::AlarmCommand;
use bcp_core::failover::{Explanation, TicketCommand};
use bcp_core::replica::CommandVerb;
use bcp_core::status::IncidentCommand;
use bcp_wire::Id;
use clap::{CommandFactory, Parser};

use args::{Cli, Command, Incident};
use server::Server;

use crate::cli::EXIT_CONFIG;

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
