//! The steps of a gate for PostgreSQL: `promote stop verify-stopped seal follow`. Each may be repeated.
//!
//! `publish` and `weigh` concern whoever stands in front of the server; here there is nothing to do for them.

use std::time::{Duration, Instant};

use super::marks::Marks;
use super::server::{self, start_as_standby};
use super::sql::Session;
use super::{Postgres, PostgresError, files, rejoin};
use crate::act::{ActError, Effect, Step, StepName};

const POLL: Duration = Duration::from_millis(25);
/// A checkpoint before a promotion is needed only where somebody changed whom commits wait for.
const CHECKPOINT_LIMIT: Duration = Duration::from_millis(1_500);

fn done(what: &str) -> Effect {
    Effect::Done(what.to_owned())
}

fn already(what: &str) -> Effect {
    Effect::Already(what.to_owned())
}

impl Postgres {
    /// Carries out its part of a step. `limit`: the caller is cut off then.
    ///
    /// # Errors
    /// It was not done; it may be repeated unless it was refused.
    pub async fn carry_out(&self, step: &Step, limit: Duration) -> Result<Effect, ActError> {
        let ended = match step.name {
            StepName::Promote => return self.promote(step, limit).await,
            // There is no server that only answers reads and is not a standby.
            StepName::Stop | StepName::Demote => self.stop(),
            StepName::VerifyStopped | StepName::VerifyDemoted => self.verify_stopped(),
            StepName::Seal => self.seal(),
            StepName::Follow => rejoin::follow(self, limit).await,
            StepName::Publish | StepName::Weigh => return Ok(Effect::not_concerned()),
        };
        Ok(ended?)
    }

    #[must_use]
    pub fn marks(&self) -> Marks {
        Marks::of(self)
    }

    /// A running server that was not promoted in this boot, and that would come up as a standby again.
    #[must_use]
    pub fn is_standby(&self) -> bool {
        self.marks().promoted().is_none() && files::has_standby_signal(self)
    }

    #[must_use]
    pub fn log(&self) -> std::path::PathBuf {
        self.named(&self.state_dir, "log")
    }

    async fn promote(&self, step: &Step, limit: Duration) -> Result<Effect, ActError> {
        let began = Instant::now();
        if let Some(busy) = rejoin::busy(self)? {
            return Err(busy.into());
        }
        if !server::is_running(self) {
            step.may_act()?;
            start_as_standby(self, &self.log())?;
        }
        let session = self.session_within(limit).await?;
        if !session.is_in_recovery().await? {
            let was = self.marks().promoted();
            self.marks().set_promoted(step.epoch)?;
            let is_known = was.as_deref() == Some(&step.epoch.to_string());
            return Ok(if is_known { already("active") } else { done("was active, goes on") });
        }
        self.wait_for_peer_from_the_first_write(&session).await?;
        // From here on a stop ends this server for certain, whatever becomes of this process.
        self.marks().set_promoted(step.epoch)?;
        step.may_act()?;
        session.row("SELECT pg_promote(false)").await?;
        while session.is_in_recovery().await? {
            if began.elapsed() + POLL >= limit {
                return Err(PostgresError::Late { what: "end its recovery" }.into());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(done("promoted"))
    }

    async fn session_within(&self, limit: Duration) -> Result<Session, PostgresError> {
        let began = Instant::now();
        loop {
            match Session::open(self).await {
                Ok(session) => return Ok(session),
                Err(_) if !server::is_running(self) => return Err(PostgresError::Ended { log: self.log() }),
                Err(error) if began.elapsed() + 2 * POLL >= limit => return Err(error),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// A server that would acknowledge its first writes alone must not become active.
    async fn wait_for_peer_from_the_first_write(&self, session: &Session) -> Result<(), PostgresError> {
        if session.text("SHOW synchronous_standby_names").await? == self.peer_name {
            return Ok(());
        }
        session.wait_for_standby(&self.peer_name).await?;
        // See `copy`: the checkpointer publishes the setting before it begins what it is asked for afterwards.
        session.row_within("CHECKPOINT", CHECKPOINT_LIMIT).await?;
        Ok(())
    }

    /// A standby is nothing that has to be stopped: nobody is served by it, and it keeps the data.
    fn stop(&self) -> Result<Effect, PostgresError> {
        // The mark is in memory: what was promoted is stopped without a look at the disk.
        if self.marks().promoted().is_none() {
            if !server::is_running(self) {
                return Ok(already("not running"));
            }
            if self.is_standby() {
                return Ok(already("a standby"));
            }
        }
        server::stop(self)?;
        // The service has stopped; what follows may wait for a disk, and is repeated by `seal` and before every start.
        if let Err(error) = files::put_standby_signal(self).and_then(|()| self.marks().clear_promoted()) {
            tracing::warn!(%error, "stopped; what that means for the next start is not kept yet");
        }
        Ok(done("stopped"))
    }

    fn verify_stopped(&self) -> Result<Effect, PostgresError> {
        if !server::is_running(self) {
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], self.port));
            // Whoever else listens there would be taken for this service.
            return match std::net::TcpStream::connect_timeout(&address, POLL * 8) {
                Ok(_) => Err(PostgresError::StillThere(format!("port {} answers", self.port))),
                Err(_) => Ok(done("not running")),
            };
        }
        if self.is_standby() { Ok(done("a standby")) } else { Err(PostgresError::StillThere("it runs".to_owned())) }
    }

    /// The gate has stopped it by now.
    fn seal(&self) -> Result<Effect, PostgresError> {
        if server::is_running(self) {
            return if self.is_standby() { Ok(already("a standby")) } else { Err(PostgresError::Active) };
        }
        if rejoin::busy(self)?.is_some() || files::has_standby_signal(self) {
            return Ok(already("comes up as a standby only"));
        }
        files::put_standby_signal(self)?;
        self.marks().clear_promoted()?;
        Ok(done("comes up as a standby only"))
    }
}
