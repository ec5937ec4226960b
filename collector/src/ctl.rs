//! `bcpctl`: what an operator asks and orders, from any collector.
//!
//! Knows: the control listener's requests and how to print their answers. Every order carries an idempotency key and, where
//! it is about a ticket, the epoch and revision that were seen, so that a late or repeated order does nothing.

mod args;
mod drill;
mod print;
mod server;
mod snapshot;
mod without_quorum;
mod work;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use bcp_core::alarms::AlarmCommand;
use bcp_core::failover::{Explanation, TicketCommand};
use bcp_core::replica::CommandVerb;
use bcp_core::status::IncidentCommand;
use bcp_wire::{Epoch, Id};
use clap::{CommandFactory, Parser};

use args::{Cli, Command, Incident, Readmit, Seen};
use server::Server;

use crate::cli::EXIT_CONFIG;
use crate::decide::control::{ADMIT, BOOTSTRAP};
use crate::decide::restore::Backup;
use crate::decide::tick::wall_now;

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
        Ok(code) => code,
        Err(error) => {
            eprintln!("bcpctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let code = |done| if done { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let json = cli.json;
    if let Command::Snapshot(snapshot::Snapshot::Verify(args)) = &cli.command {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let verified = snapshot::verify(args).await?;
        show(json, &verified, print::verified)?;
        return Ok(code(verified.current));
    }
    match &cli.command {
        Command::SigningKey { file } => {
            without_quorum::new_key(file)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Force { ticket, to, reason, without_quorum: how, .. } if how.without_quorum => {
            let wanted = without_quorum::Wanted { ticket: ticket.clone(), to: *to, reason: reason.clone() };
            return without_quorum::force(&cli.access, wanted, how).await.map(code);
        }
        _ => {}
    }
    let server = Server::reach(&cli.access).await?;
    match cli.command {
        Command::Tickets => {
            let views = server.state().await?.replica.ticket_views();
            show(json, &views, |views| print::tickets(views))?;
        }
        Command::Explain { ticket, at } => {
            let at = at.map_or_else(String::new, |index| format!("&at={index}"));
            let explanation: Explanation = server.get(&format!("/control/v1/explain?ticket={ticket}{at}")).await?;
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
        Command::Backup { file } => backup(&server, &file).await?,
        Command::Bootstrap => show(json, &server.admit(BOOTSTRAP).await?, |said| println!("{}", said.message))?,
        Command::Readmit(Readmit::Site { site }) => {
            let said = server.admit(&format!("{ADMIT}?site={site}")).await?;
            show(json, &said, |said| println!("{}", said.message))?;
        }
        Command::Completions { .. } | Command::Snapshot(_) => {}
        Command::Drill(drill) => return drill::run(&server, drill, json).await,
        order => {
            let unconditional = unconditional(&order);
            let verb = verb(&server, order).await?;
            let result = server.order(verb, unconditional).await?;
            show(json, &result, print::result)?;
            return Ok(code(result.ok));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Written beside it first: a backup is whole or not there.
async fn backup(server: &Server, file: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(!file.exists(), "{} is there already", file.display());
    let backup = Backup::of(server.state().await?.replica, wall_now());
    let new = file.with_extension("new");
    std::fs::write(&new, serde_json::to_vec(&backup)?).with_context(|| format!("failed to write {}", new.display()))?;
    std::fs::File::open(&new)?.sync_all()?;
    std::fs::rename(&new, file).with_context(|| format!("failed to name {}", file.display()))?;
    println!("log index {}, ledger {}: {}", backup.replica.index, backup.replica.ledger.seq, file.display());
    Ok(())
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

const fn unconditional(order: &Command) -> bool {
    match order {
        Command::Move { seen, .. }
        | Command::Abort { seen, .. }
        | Command::Freeze { seen, .. }
        | Command::Unfreeze { seen, .. }
        | Command::Confirm { seen, .. }
        | Command::Force { seen, .. }
        | Command::Readmit(Readmit::Ticket { seen, .. }) => seen.unconditional,
        _ => false,
    }
}

/// The epoch and revision that an order to a ticket is compared with.
async fn expected(server: &Server, id: &Id, seen: &Seen) -> anyhow::Result<Option<(Epoch, u64)>> {
    if seen.unconditional || seen.expect.is_some() {
        return Ok(seen.expect);
    }
    let view = server.ticket(id).await?;
    Ok(Some((view.epoch, view.revision)))
}

async fn ticket(server: &Server, command: Command) -> anyhow::Result<(Id, TicketCommand)> {
    Ok(match command {
        Command::Move { ticket: id, to, reason, seen } => {
            let expect = expected(server, &id, &seen).await?;
            (id, TicketCommand::Move { to, reason, expect })
        }
        Command::Abort { ticket: id, reason, seen } => {
            let expect = expected(server, &id, &seen).await?;
            (id, TicketCommand::Abort { reason, expect })
        }
        Command::Freeze { ticket: id, length, reason, seen } => {
            let expect = expected(server, &id, &seen).await?;
            (id, TicketCommand::Freeze { reason, for_ms: in_ms(length), expect })
        }
        Command::Unfreeze { ticket: id, reason, seen } => {
            let expect = expected(server, &id, &seen).await?;
            (id, TicketCommand::Unfreeze { reason, expect })
        }
        Command::Force { ticket: id, to, guard, reason, seen, without_quorum: _ } => {
            let guard = guard.context("give --guard")?;
            let expect = expected(server, &id, &seen).await?;
            (id, TicketCommand::Force { to, guard, reason, expect })
        }
        Command::Readmit(Readmit::Ticket { ticket: id, holder, nobody: _, reason, seen }) => {
            let expect = expected(server, &id, &seen).await?;
            (id, TicketCommand::Readmit { holder, reason, expect })
        }
        Command::Confirm { ticket: id, epoch, seen } => {
            let view = server.ticket(&id).await?;
            let waiting = epoch.or(view.awaiting_confirmation.map(|waiting| waiting.epoch));
            let epoch = waiting.with_context(|| format!("{id} waits for no confirmation"))?;
            let now = (!seen.unconditional).then_some((view.epoch, view.revision));
            (id, TicketCommand::Confirm { epoch, expect: seen.expect.or(now) })
        }
        _ => bail!("not an order to a ticket"),
    })
}

async fn verb(server: &Server, command: Command) -> anyhow::Result<CommandVerb> {
    let alarm = |alarm: String, command: AlarmCommand| CommandVerb::Alarm { alarm, command };
    Ok(match command {
        Command::Move { .. }
        | Command::Abort { .. }
        | Command::Freeze { .. }
        | Command::Unfreeze { .. }
        | Command::Confirm { .. }
        | Command::Force { .. }
        | Command::Readmit(Readmit::Ticket { .. }) => {
            let (id, command) = ticket(server, command).await?;
            CommandVerb::Ticket { ticket: id, command }
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
        | Command::Bootstrap
        | Command::Backup { .. }
        | Command::Readmit(Readmit::Site { .. })
        | Command::SigningKey { .. }
        | Command::Snapshot(_)
        | Command::Explain { .. }
        | Command::Alarms { .. }
        | Command::Services
        | Command::Status
        | Command::Drill(_)
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
        assert!(parse("bcpctl unfreeze prescriptions --reason test --expect 1.7,31"));
        assert!(!parse("bcpctl unfreeze prescriptions --reason test --expect 1.7"));
        assert!(!parse("bcpctl abort prescriptions --reason test --expect 1.7,31 --unconditional"));
        assert!(parse("bcpctl incident update inc-1 --text en=Working --fallback en --json"));
        assert!(!parse("bcpctl move prescriptions --to x --reason test"));
        assert!(parse("bcpctl force prescriptions --to b --guard freshness --reason test"));
        assert!(!parse("bcpctl force prescriptions --to b --guard lease --reason test"));
        assert!(!parse("bcpctl force prescriptions --to b --reason test"));
        let alone = "bcpctl force prescriptions --to b --reason x --without-quorum --order o.json --signing-key k.pem";
        assert!(parse(alone));
        assert!(parse(&format!("{alone} --gate b/host-b=https://10.0.0.1:18110 --yes")));
        assert!(!parse(&format!("{alone} --gate host-b=https://10.0.0.1:18110")));
        assert!(!parse(&format!("{alone} --guard freshness")));
        assert!(!parse("bcpctl force prescriptions --to b --reason x --without-quorum"));
        assert!(parse("bcpctl readmit ticket prescriptions --holder b --reason x"));
        assert!(!parse("bcpctl readmit ticket prescriptions --reason x"));
        assert!(parse("bcpctl drill plan") && parse("bcpctl drill plan rx --json") && parse("bcpctl drill list"));
        assert!(parse("bcpctl drill move rx --to b --back") && parse("bcpctl drill isolate rx --yes"));
        assert!(parse("bcpctl drill report drl-000001 --html report.html") && parse("bcpctl drill end drl-000001"));
        assert!(!parse("bcpctl drill move") && !parse("bcpctl drill move rx --yes"));
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
