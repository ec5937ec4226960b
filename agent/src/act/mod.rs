//! Built-in actuators: what a gate does to a service without a script of the operator's.
//!
//! Knows: which actuators there are, in what order they act, how they share a step's time. Refuses to know: leases and
//! records; a step is a process of its own ([`crate::gate::script`]), so killing it ends all that it was doing, and gate and
//! warden run the same program.
//!
//! | module | acts on |
//! |---|---|
//! | [`systemd`] | a unit of this host |
//! | [`haproxy`] | servers of an HAProxy on this host |
//! | [`dns`] | a name, with a compare-and-set of the epoch at the name server |
//! | [`http`] | whatever is behind a webhook |
//! | [`crate::postgres`] | a PostgreSQL server of this host |
//!
//! Invariants:
//! * what brings something up is done in the order of the configuration and ends at the first failure; what takes something
//!   down is done in reverse, by all of them, whatever one of them says;
//! * each actuator looks at the lease immediately before its effect;
//! * a step needs no file of the configuration: what the gate was started with is in the arguments.

mod command;
pub mod dns;
pub mod haproxy;
pub mod http;
pub mod step;
pub mod systemd;

use std::time::Duration;

use bcp_wire::Site;
use serde::{Deserialize, Serialize};

use crate::postgres::{Postgres, PostgresError};

pub use command::{Given, main, own_argv};
pub use step::{Effect, LeaseOver, Step, StepError, StepName};

/// More than any service needs; each has a share of the step's time.
pub const MAX_ACTUATORS: usize = 16;

/// One built-in actuator, as configured. A new kind is a variant here, an arm in [`Actuator::faults`] and in
/// [`Actuator::carry_out`], and its error in [`ActError`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Actuator {
    Postgres(Box<Postgres>),
    Systemd(systemd::Systemd),
    Haproxy(haproxy::Haproxy),
    Dns(dns::Dns),
    Http(http::Http),
}

/// Why a step was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// For good: a later epoch was found at work, or the service refuses. Exit 20.
    #[error("refused: {reason}")]
    Vetoed { reason: String },
    #[error(transparent)]
    LeaseOver(#[from] LeaseOver),
    #[error("not done within its share of the step, {ms} ms")]
    Late { ms: u128 },
    #[error(transparent)]
    Postgres(PostgresError),
    #[error(transparent)]
    Systemd(#[from] systemd::SystemdError),
    #[error(transparent)]
    Haproxy(#[from] haproxy::HaproxyError),
    #[error(transparent)]
    Dns(#[from] dns::DnsError),
    #[error(transparent)]
    Http(#[from] http::HttpError),
}

impl From<PostgresError> for ActError {
    fn from(error: PostgresError) -> ActError {
        if error.is_final() { ActError::Vetoed { reason: error.to_string() } } else { ActError::Postgres(error) }
    }
}

impl Actuator {
    /// What its faults and words are headed by.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Actuator::Postgres(postgres) => format!("postgres on {}", postgres.port),
            Actuator::Systemd(systemd) => systemd.unit.clone(),
            Actuator::Haproxy(_) => "haproxy".to_owned(),
            Actuator::Dns(_) => "dns".to_owned(),
            Actuator::Http(_) => "webhook".to_owned(),
        }
    }

    /// What cannot work, as (key, reason).
    #[must_use]
    pub fn faults(&self) -> Vec<(String, String)> {
        match self {
            Actuator::Postgres(postgres) => postgres.faults(),
            Actuator::Systemd(systemd) => systemd.faults(),
            Actuator::Haproxy(haproxy) => haproxy.faults(),
            Actuator::Dns(dns) => dns.faults(),
            Actuator::Http(http) => http.faults(),
        }
    }

    /// What cannot work at this site, as (key, reason).
    #[must_use]
    pub fn faults_at(&self, site: Site) -> Vec<(String, String)> {
        match self {
            Actuator::Haproxy(haproxy) => haproxy.faults_at(site),
            Actuator::Postgres(_) | Actuator::Systemd(_) | Actuator::Dns(_) | Actuator::Http(_) => Vec::new(),
        }
    }

    /// Whether it has anything to do in such a step; who has not needs no share of its time.
    #[must_use]
    pub const fn is_concerned(&self, name: StepName) -> bool {
        match self {
            Actuator::Postgres(_) => !matches!(name, StepName::Publish | StepName::Weigh),
            Actuator::Systemd(_) => !matches!(name, StepName::Publish | StepName::Follow | StepName::Weigh),
            Actuator::Haproxy(_) => !matches!(name, StepName::Promote),
            Actuator::Dns(_) => matches!(name, StepName::Publish),
            Actuator::Http(_) => true,
        }
    }

    /// Carries out its part of a step, in the time that it is given.
    ///
    /// # Errors
    /// Why it did not.
    pub async fn carry_out(&self, step: &Step, limit: Duration) -> Result<Effect, ActError> {
        let work = async {
            match self {
                Actuator::Postgres(postgres) => postgres.carry_out(step, limit).await,
                Actuator::Systemd(systemd) => systemd.carry_out(step, limit).await,
                Actuator::Haproxy(haproxy) => haproxy.carry_out(step).await,
                Actuator::Dns(dns) => dns.carry_out(step).await,
                Actuator::Http(http) => http.carry_out(step).await,
            }
        };
        match tokio::time::timeout(limit, work).await {
            Ok(ended) => ended,
            Err(_) => Err(ActError::Late { ms: limit.as_millis() }),
        }
    }
}

/// How a whole step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Already,
    Vetoed,
    Failed,
}

impl Outcome {
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Outcome::Done => 0,
            Outcome::Already => 10,
            Outcome::Vetoed => 20,
            Outcome::Failed => 1,
        }
    }
}

/// Carries out one step by all its actuators; what each of them said, in one line.
pub async fn carry_out(actuators: &[Actuator], step: &Step) -> (Outcome, String) {
    let mut order: Vec<&Actuator> = actuators.iter().collect();
    if step.name.takes_down() {
        order.reverse();
    }
    let (mut done, mut failed) = (false, None);
    let (mut said, mut wrong) = (Vec::new(), Vec::new());
    for (at, actuator) in order.iter().enumerate() {
        // Who is quick, or has nothing to do, leaves more for the others.
        let sharers = order[at..].iter().filter(|other| other.is_concerned(step.name)).count();
        let sharers = u32::try_from(sharers).unwrap_or(u32::MAX).max(1);
        match actuator.carry_out(step, step.left() / sharers).await {
            Ok(Effect::Done(what)) => {
                done = true;
                said.push(format!("{}: {what}", actuator.name()));
            }
            Ok(Effect::Already(what)) => said.push(format!("{}: {what}", actuator.name())),
            Err(error) => {
                let vetoed = matches!(error, ActError::Vetoed { .. });
                wrong.push(format!("{}: {}", actuator.name(), chain(&error)));
                // A failure may pass, a veto stands.
                if failed != Some(Outcome::Vetoed) {
                    failed = Some(if vetoed { Outcome::Vetoed } else { Outcome::Failed });
                }
                if !step.name.takes_down() {
                    break;
                }
            }
        }
    }
    let words = if failed.is_some() { wrong } else { said };
    let line = words.join("; ").replace(['\n', '\r'], " ");
    (failed.unwrap_or(if done { Outcome::Done } else { Outcome::Already }), line)
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
