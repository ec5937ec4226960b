//! `bcp-agent act`: one step, by the actuators of one ticket.
//!
//! Knows: where the actuators come from, and how the outcome becomes an exit code and a last line of output. Refuses to know:
//! what the actuators do.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use bcp_wire::Id;

use super::{Actuator, Outcome, Step};
use crate::config;

/// sysexits.h EX_USAGE.
const EXIT_USAGE: u8 = 64;

/// Where the actuators are named.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Given {
    /// Configuration file (TOML) with the ticket
    #[arg(long, value_name = "FILE", required_unless_present = "actuators", conflicts_with_all = ["actuators", "resolver"])]
    pub config: Option<PathBuf>,
    /// The ticket's actuators themselves, as the gate hands them on: it needs no file for a stop
    #[arg(long, value_name = "JSON")]
    pub actuators: Option<String>,
    /// Name servers in place of those of /etc/resolv.conf, beside --actuators
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub resolver: Vec<SocketAddr>,
}

/// The argv by which a gate, or a warden, runs a step with its own program. The program is named by the running process: it
/// can be replaced by another version, and this one is still there.
#[must_use]
pub fn own_argv(ticket: &Id, actuators: &[Actuator], resolver: &[SocketAddr]) -> Vec<String> {
    let actuators = serde_json::to_string(actuators).expect("structs of texts and numbers can be written as JSON");
    let program = format!("/proc/{}/exe", std::process::id());
    let mut argv = vec![program, "act".to_owned(), format!("--ticket={ticket}"), format!("--actuators={actuators}")];
    argv.extend(resolver.iter().map(|server| format!("--resolver={server}")));
    argv
}

/// Carries out the step that the environment names.
pub fn main(ticket: &Id, given: &Given) -> ExitCode {
    let said = find(ticket, given).and_then(|(actuators, resolver)| {
        let step =
            Step::read(ticket.clone(), resolver, |name| std::env::var(name).ok()).map_err(|error| error.to_string())?;
        Ok((actuators, step))
    });
    let (actuators, step) = match said {
        Ok(found) => found,
        Err(reason) => {
            eprintln!("error: {reason}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let (outcome, line) = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let ended = runtime.block_on(super::carry_out(&actuators, &step));
            // What hangs in a look-up of a name must not keep the process.
            runtime.shutdown_background();
            ended
        }
        Err(error) => (Outcome::Failed, format!("cannot start: {error}")),
    };
    // Whoever reads it may be gone, or its disk full: the exit code says it too.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
    ExitCode::from(outcome.exit_code())
}

fn find(ticket: &Id, given: &Given) -> Result<(Vec<Actuator>, Vec<SocketAddr>), String> {
    if let Some(text) = &given.actuators {
        let actuators: Vec<Actuator> =
            serde_json::from_str(text).map_err(|error| format!("--actuators cannot be read: {error}"))?;
        let faults: Vec<String> =
            actuators.iter().flat_map(Actuator::faults).map(|(key, reason)| format!("{key}: {reason}")).collect();
        return if faults.is_empty() { Ok((actuators, given.resolver.clone())) } else { Err(faults.join("; ")) };
    }
    let path = given.config.as_ref().ok_or("neither --config nor --actuators is given")?;
    let config = config::load(path).map_err(|faults| faults.to_string())?;
    let resolver = config.resolver;
    let tickets = config.gate.map(|gate| gate.tickets).unwrap_or_default();
    let found = tickets.into_iter().find(|found| found.id == *ticket);
    let found = found.ok_or_else(|| format!("{} has no ticket `{ticket}` under [gate]", path.display()))?;
    if found.actuators.is_empty() {
        return Err(format!("ticket `{ticket}` of {} is acted on by a script, not by actuators", path.display()));
    }
    Ok((found.actuators, resolver))
}
