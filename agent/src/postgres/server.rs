//! The server's processes and programs.
//!
//! A server is found by its processes: all of them have the data directory as their working directory. That asks no disk and
//! believes no pid file, and it finds what a postmaster that was killed left behind.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Postgres, PostgresError, files};

const POLL: Duration = Duration::from_millis(20);
/// An immediate shutdown gets this long, then every process is killed.
const IMMEDIATE: Duration = Duration::from_millis(300);
/// And the kernel this long to be done with them.
const KILLED: Duration = Duration::from_millis(800);
/// Most of a program's output that is kept, bytes.
const SAID_MAX: usize = 16 * 1024;

/// One process of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
}

fn processes(data_dir: &Path) -> Vec<Process> {
    let mut found = Vec::new();
    // The kernel names what a link leads to. What was looked up once is in its memory, so this waits for no disk.
    let real = std::fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_path_buf());
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == real || cwd == data_dir)
            && let Ok(stat) = std::fs::read_to_string(entry.path().join("stat"))
            && let Some((name, rest)) = stat.rsplit_once(')')
            && name.split_once('(').is_some_and(|(_, name)| name.starts_with("postgres"))
        {
            let mut fields = rest.split_whitespace();
            let is_dead = fields.next() == Some("Z");
            let parent = fields.next().and_then(|parent| parent.parse().ok());
            if let Some(parent) = parent.filter(|_| !is_dead) {
                found.push(Process { pid, parent });
            }
        }
    }
    found
}

/// True where any process of the server is there.
#[must_use]
pub fn is_running(config: &Postgres) -> bool {
    !processes(&config.data_dir).is_empty()
}

/// The server's processes.
#[must_use]
pub fn pids(config: &Postgres) -> Vec<u32> {
    processes(&config.data_dir).iter().filter_map(|process| u32::try_from(process.pid).ok()).collect()
}

/// Signals the processes that no other of them started: the postmaster, or what is left without one.
fn signal_roots(config: &Postgres, signal: Signal) {
    let all = processes(&config.data_dir);
    for process in all.iter().filter(|process| all.iter().all(|other| other.pid != process.parent)) {
        send(process.pid, signal);
    }
}

fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may be gone meanwhile.
        let _ = kill_process(pid, signal);
    }
}

fn gone_within(config: &Postgres, limit: Duration) -> bool {
    let began = Instant::now();
    loop {
        if !is_running(config) {
            return true;
        }
        if began.elapsed() >= limit {
            return false;
        }
        std::thread::sleep(POLL);
    }
}

/// Ends the server: in order for `fast_stop`, then at once, then by SIGKILL to every process. What was acknowledged is at the
/// standby or on the disk, so haste loses nothing.
///
/// # Errors
/// Processes are still there.
pub fn stop(config: &Postgres) -> Result<(), PostgresError> {
    signal_roots(config, Signal::INT);
    if gone_within(config, config.fast_stop.get()) {
        return Ok(());
    }
    signal_roots(config, Signal::QUIT);
    if gone_within(config, IMMEDIATE) {
        return Ok(());
    }
    let began = Instant::now();
    // Again and again: a postmaster that was about to start a child may have done so.
    while began.elapsed() < KILLED {
        for process in processes(&config.data_dir) {
            send(process.pid, Signal::KILL);
        }
        if gone_within(config, POLL * 2) {
            return Ok(());
        }
    }
    Err(PostgresError::StillThere(format!("{} processes", processes(&config.data_dir).len())))
}

/// A program of PostgreSQL, as the owner of the data.
///
/// # Errors
/// There is no data directory.
pub fn program(config: &Postgres, name: &str) -> Result<Command, PostgresError> {
    use std::os::unix::process::CommandExt;
    let (uid, gid) = files::owner(config)?;
    let mut command = Command::new(config.bin_dir.join(name));
    if rustix::process::geteuid().is_root() {
        command.uid(uid).gid(gid);
    }
    // The server outlives whoever starts it; and no message of it in a language that would have to be parsed.
    command.env_remove("BCP_DIE_WITH_PARENT").env("LC_ALL", "C").stdin(Stdio::null());
    command.current_dir("/");
    Ok(command)
}

/// Runs a program to its end; its output where it succeeded, else its last line as the error.
///
/// # Errors
/// It failed, could not be run, or took longer than `limit`.
pub fn run(name: &'static str, mut command: Command, limit: Duration) -> Result<String, PostgresError> {
    let failed = |source| PostgresError::Run { program: name, source };
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?;
    // Both pipes are read while it runs, for a full one would stop it.
    let out = child.stdout.take().map(read_all);
    let err = child.stderr.take().map(read_all);
    let status = wait(&mut child, limit).map_err(failed)?;
    let text = |reader: Option<std::thread::JoinHandle<String>>| {
        reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
    };
    let Some(status) = status else {
        return Err(PostgresError::Program { program: name, said: format!("killed after {} s", limit.as_secs()) });
    };
    let (out, err) = (text(out), text(err));
    if status.success() {
        return Ok(out);
    }
    let said = err.lines().chain(out.lines()).rfind(|line| !line.trim().is_empty()).unwrap_or("no word").to_owned();
    Err(PostgresError::Program { program: name, said })
}

fn read_all(mut pipe: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        let mut buffer = [0_u8; 4_096];
        // The end of the output is what counts; the rest is read so that the program can go on.
        while let Ok(count) = pipe.read(&mut buffer) {
            if count == 0 {
                break;
            }
            kept.extend_from_slice(&buffer[..count]);
            let surplus = kept.len().saturating_sub(SAID_MAX);
            kept.drain(..surplus);
        }
        String::from_utf8_lossy(&kept).into_owned()
    })
}

fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<std::process::ExitStatus>> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if began.elapsed() >= limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

/// Begins to start the server. `standby.signal` and the settings of the role are there first.
///
/// # Errors
/// It runs already, or cannot be started.
pub fn start_as_standby(config: &Postgres, log: &Path) -> Result<(), PostgresError> {
    if is_running(config) {
        return Err(PostgresError::Active);
    }
    files::write_role(config)?;
    files::put_standby_signal(config)?;
    let mut command = program(config, "postgres")?;
    // From its first moment on it can be found.
    command.current_dir(&config.data_dir);
    command.arg("-D").arg(&config.data_dir);
    if let Some(file) = &config.config_file {
        command.arg("-c").arg(format!("config_file={}", file.display()));
    }
    let out = std::fs::OpenOptions::new().create(true).append(true).open(log).map_err(PostgresError::file(log))?;
    let err = out.try_clone().map_err(PostgresError::file(log))?;
    command.stdout(out).stderr(err);
    // Of its own: killing a step's group does not kill what it started, and a signal to a terminal does not reach it.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn().map_err(|source| PostgresError::Run { program: "postgres", source })?;
    Ok(())
}

/// What the control file says: "in production", "shut down", "in archive recovery" ...
///
/// # Errors
/// `pg_controldata` cannot read it.
pub fn state(config: &Postgres) -> Result<String, PostgresError> {
    let mut command = program(config, "pg_controldata")?;
    command.arg("-D").arg(&config.data_dir);
    let text = run("pg_controldata", command, Duration::from_secs(5))?;
    let said = text.lines().find_map(|line| line.strip_prefix("Database cluster state:"));
    said.map(|state| state.trim().to_owned())
        .ok_or(PostgresError::Program { program: "pg_controldata", said: "says no state".to_owned() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::config;
    use super::*;

    #[test]
    fn a_program_that_fails_or_hangs_is_said_and_ended() {
        let sh = |text: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", text]);
            command
        };
        assert_eq!(run("sh", sh("echo fine"), Duration::from_secs(5)).unwrap(), "fine\n");
        let error = run("sh", sh("echo one >&2; echo two >&2; exit 3"), Duration::from_secs(5)).unwrap_err();
        assert_eq!(error.to_string(), "sh failed: two");
        let error = run("sh", sh("exec sleep 60"), Duration::from_millis(100)).unwrap_err();
        assert_eq!(error.to_string(), "sh failed: killed after 0 s");
    }

    #[test]
    fn processes_of_other_directories_are_let_alone() {
        let mut config = config();
        // This test works there, and is no server.
        config.data_dir = std::env::current_dir().unwrap();
        assert!(!is_running(&config));
        stop(&config).unwrap();
    }
}
