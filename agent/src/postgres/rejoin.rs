//! `follow`: a copy becomes the standby of the other one, whatever state it is in.
//!
//! A copy that was a standby all along is only started. One that was active has a tail of its own, which nobody was told is
//! safe: `pg_rewind` takes it away. That may take longer than a step, so it is done by a process of its own under a lock; a step
//! that finds it at work says so and is repeated. A copy that took writes alone is not touched.
//!
//! Why the state in the control file decides: `pg_rewind` first ends a crash recovery without being a standby, which would end the
//! timeline of a crashed *standby* in a place of its own. Only what was active is treated so.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::server::{self, start_as_standby};
use super::sql::Session;
use super::{Postgres, PostgresError, Rejoin, files};
use crate::act::Effect;

/// Set for the process that goes on behind a step.
const BEHIND: &str = "BCP_REJOIN_BEHIND";
const POLL: Duration = Duration::from_millis(50);
/// A step ends this long before it would be killed.
const MARGIN: Duration = Duration::from_millis(300);
/// A copy that does not stream by then has to be looked at.
const STREAMS_WITHIN: Duration = Duration::from_secs(10);
const REWIND_LIMIT: Duration = Duration::from_secs(3_600);
const BASEBACKUP_LIMIT: Duration = Duration::from_secs(24 * 3_600);
const ASK_PEER_LIMIT: Duration = Duration::from_secs(2);

/// Held by whoever changes the data directory.
struct Turn(#[allow(dead_code, reason = "the lock is held as long as the file is open")] File);

fn lock_file(postgres: &Postgres) -> PathBuf {
    postgres.named(&postgres.state_dir, "rejoin.lock")
}

fn log_file(postgres: &Postgres) -> PathBuf {
    postgres.named(&postgres.state_dir, "rejoin.log")
}

fn turn(postgres: &Postgres) -> Result<Option<Turn>, PostgresError> {
    let path = lock_file(postgres);
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = opened.map_err(PostgresError::file(&path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(Turn(file))),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(PostgresError::file(&path)(error.into())),
    }
}

/// What to say where the copy is being brought back at the moment.
///
/// # Errors
/// That cannot be known.
pub fn busy(postgres: &Postgres) -> Result<Option<PostgresError>, PostgresError> {
    if turn(postgres)?.is_some() {
        return Ok(None);
    }
    let log = log_file(postgres);
    // Its log is begun with it.
    let since = std::fs::metadata(&log).and_then(|meta| meta.created().or_else(|_| meta.modified())).ok();
    let seconds = since.and_then(|since| since.elapsed().ok()).map_or(0, |elapsed| elapsed.as_secs());
    Ok(Some(PostgresError::Rejoining { seconds, log }))
}

/// See the module.
///
/// # Errors
/// It does not follow yet; asking again may help.
pub async fn follow(postgres: &Postgres, limit: Duration) -> Result<Effect, PostgresError> {
    if std::env::var_os(BEHIND).is_some() {
        return behind(postgres).await;
    }
    if let Some(busy) = busy(postgres)? {
        return Err(busy);
    }
    if server::is_running(postgres) {
        if !postgres.is_standby() {
            return Err(PostgresError::Active);
        }
        if streams(postgres).await? {
            return Ok(Effect::Already("streams".to_owned()));
        }
    }
    go_behind(postgres, limit.saturating_sub(MARGIN))
}

/// Starts this same program once more, in a process group of its own, and waits for it as long as a step may.
fn go_behind(postgres: &Postgres, limit: Duration) -> Result<Effect, PostgresError> {
    let began = Instant::now();
    let log = log_file(postgres);
    let _ = std::fs::remove_file(&log);
    let out = File::create(&log).map_err(PostgresError::file(&log))?;
    let err = out.try_clone().map_err(PostgresError::file(&log))?;
    let failed = |source| PostgresError::Run { program: "the process behind a step", source };
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.args(std::env::args_os().skip(1)).env(BEHIND, "1").env_remove("BCP_DIE_WITH_PARENT");
    command.env("BCP_LIMIT", BASEBACKUP_LIMIT.as_millis().to_string());
    command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
    let mut child = command.spawn().map_err(failed)?;
    loop {
        match child.try_wait().map_err(failed)? {
            Some(status) if status.success() => return Ok(Effect::Done("streams".to_owned())),
            Some(_) => {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                let said = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no word").to_owned();
                return Err(PostgresError::Program { program: "bringing the copy back", said });
            }
            None if began.elapsed() >= limit => {
                return Err(PostgresError::Rejoining { seconds: began.elapsed().as_secs(), log });
            }
            None => std::thread::sleep(POLL),
        }
    }
}

async fn behind(postgres: &Postgres) -> Result<Effect, PostgresError> {
    let Some(_turn) = turn(postgres)? else {
        return Err(PostgresError::Rejoining { seconds: 0, log: log_file(postgres) });
    };
    if server::is_running(postgres) {
        // It was a standby and does not stream: see why, as `follow` did, and take it down in order for a rewind.
        if streams_within(postgres, STREAMS_WITHIN).await {
            return Ok(Effect::Already("streams".to_owned()));
        }
        upstream_is_active(postgres)?;
        postgres.marks().may_be_rewound()?;
        server::stop(postgres)?;
        rewind(postgres)?;
    } else {
        let was_active = !server::state(postgres)?.contains("recovery");
        if was_active {
            postgres.marks().may_be_rewound()?;
            upstream_is_active(postgres)?;
            rewind(postgres)?;
        }
    }
    start(postgres)?;
    if streams_within(postgres, STREAMS_WITHIN).await {
        return Ok(Effect::Done("streams".to_owned()));
    }
    Err(PostgresError::NoUpstream)
}

fn start(postgres: &Postgres) -> Result<(), PostgresError> {
    // No process is left and none is being promoted: the gate lets no promotion begin beside this.
    postgres.marks().clear_promoted()?;
    start_as_standby(postgres, &postgres.log())
}

fn upstream_is_active(postgres: &Postgres) -> Result<(), PostgresError> {
    let mut psql = server::program(postgres, "psql")?;
    psql.args(["-XAtq", "-d", &format!("{} dbname=postgres connect_timeout=2", postgres.peer)]);
    psql.args(["-c", "SELECT pg_is_in_recovery()"]);
    match server::run("psql", psql, ASK_PEER_LIMIT) {
        Ok(said) if said.trim() == "f" => Ok(()),
        Ok(_) => Err(PostgresError::NoUpstream),
        Err(error) => {
            eprintln!("{error}");
            Err(PostgresError::NoUpstream)
        }
    }
}

fn rewind(postgres: &Postgres) -> Result<(), PostgresError> {
    if postgres.rejoin == Rejoin::Manual {
        return Err(PostgresError::Forked);
    }
    let mut command = server::program(postgres, "pg_rewind")?;
    command.arg("--target-pgdata").arg(&postgres.data_dir);
    command.arg(format!("--source-server={} dbname=postgres", postgres.peer));
    if let Some(file) = &postgres.config_file {
        command.arg(format!("--config-file={}", file.display()));
    }
    files::take_standby_signal(postgres)?;
    let ended = server::run("pg_rewind", command, REWIND_LIMIT);
    files::put_standby_signal(postgres)?;
    match ended {
        Ok(said) => {
            println!("{said}");
            Ok(())
        }
        Err(error) if postgres.rejoin == Rejoin::Basebackup => {
            eprintln!("{error}");
            copy_anew(postgres)
        }
        Err(error) => Err(error),
    }
}

/// Under a name that no commit waits for: pg_basebackup confirms what it receives, long before there is a copy.
fn basebackup_source(postgres: &Postgres) -> String {
    format!("{} application_name={}_basebackup", postgres.peer, postgres.own_name)
}

/// A new directory beside the old one, which is kept as `DIR.before` (one of them).
fn copy_anew(postgres: &Postgres) -> Result<(), PostgresError> {
    let beside = |suffix: &str| {
        let mut name = postgres.data_dir.clone().into_os_string();
        name.push(suffix);
        PathBuf::from(name)
    };
    let (next, before) = (beside(".next"), beside(".before"));
    let remove = |path: &PathBuf| match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(PostgresError::file(path)(error)),
        _ => Ok(()),
    };
    remove(&next)?;
    let mut command = server::program(postgres, "pg_basebackup")?;
    command.arg("-D").arg(&next).args(["--wal-method=stream", "--checkpoint=fast"]);
    command.args(["-d", &basebackup_source(postgres)]);
    server::run("pg_basebackup", command, BASEBACKUP_LIMIT)?;
    // Before it can be started by mistake.
    files::put_standby_signal(&Postgres { data_dir: next.clone(), ..postgres.clone() })?;
    remove(&before)?;
    std::fs::rename(&postgres.data_dir, &before).map_err(PostgresError::file(&postgres.data_dir))?;
    std::fs::rename(&next, &postgres.data_dir).map_err(PostgresError::file(&next))?;
    postgres.data_dir.parent().map_or(Ok(()), files::sync_dir).map_err(PostgresError::file(&postgres.data_dir))
}

/// It receives what the other one writes.
async fn streams(postgres: &Postgres) -> Result<bool, PostgresError> {
    let session = Session::open(postgres).await?;
    Ok(session.text("SELECT status FROM pg_stat_wal_receiver").await? == "streaming")
}

async fn streams_within(postgres: &Postgres, limit: Duration) -> bool {
    let began = Instant::now();
    while began.elapsed() < limit {
        // A server that starts does not answer yet.
        if streams(postgres).await.unwrap_or(false) {
            return true;
        }
        tokio::time::sleep(POLL * 2).await;
    }
    false
}
