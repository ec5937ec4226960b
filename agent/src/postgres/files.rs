//! Files of a data directory: `standby.signal` and the settings that belong to the role.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use super::{Postgres, PostgresError};

/// Settings of this module in `postgresql.auto.conf`; everything else in there is kept.
const OURS: [&str; 4] =
    ["primary_conninfo", "primary_slot_name", "recovery_target_timeline", "synchronous_standby_names"];

/// The server's user, who owns its data.
///
/// # Errors
/// There is no data directory.
pub fn owner(config: &Postgres) -> Result<(u32, u32), PostgresError> {
    let meta = fs::metadata(&config.data_dir).map_err(PostgresError::file(&config.data_dir))?;
    Ok((meta.uid(), meta.gid()))
}

#[must_use]
pub fn has_standby_signal(config: &Postgres) -> bool {
    config.data_dir.join("standby.signal").exists()
}

/// From now on whoever starts this directory starts a standby.
///
/// # Errors
/// It is not on the disk.
pub fn put_standby_signal(config: &Postgres) -> Result<(), PostgresError> {
    if has_standby_signal(config) {
        return Ok(());
    }
    write(config, "standby.signal", "")
}

/// For `pg_rewind` alone, which ends a crash recovery without accepting anybody.
///
/// # Errors
/// It stays.
pub fn take_standby_signal(config: &Postgres) -> Result<(), PostgresError> {
    let path = config.data_dir.join("standby.signal");
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(PostgresError::file(&path)(error)),
        _ => Ok(()),
    }
}

/// Whom it follows, and whom it waits for once it is active. Only while no server runs.
///
/// # Errors
/// It is not on the disk.
pub fn write_role(config: &Postgres) -> Result<(), PostgresError> {
    let path = config.data_dir.join("postgresql.auto.conf");
    let before = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(PostgresError::file(&path)(error)),
    };
    write(config, "postgresql.auto.conf", &with_role(&before, config))
}

fn with_role(before: &str, config: &Postgres) -> String {
    let is_ours = |line: &&str| {
        let key = line.split(['=', ' ']).next().unwrap_or("").trim().to_ascii_lowercase();
        OURS.contains(&key.as_str())
    };
    let mut text: String = before.lines().filter(|line| !is_ours(line)).map(|line| format!("{line}\n")).collect();
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "primary_conninfo = '{}'\nrecovery_target_timeline = 'latest'\nsynchronous_standby_names = '{}'\n",
        config.upstream(),
        config.peer_name
    );
    text
}

fn write(config: &Postgres, name: &str, text: &str) -> Result<(), PostgresError> {
    let (path, next) = (config.data_dir.join(name), config.data_dir.join(format!("{name}.bcp")));
    let (uid, gid) = owner(config)?;
    let written = || {
        // Made anew: the directory is another user's, who may have put a link there.
        let _ = fs::remove_file(&next);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&next)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        if rustix::process::geteuid().is_root() {
            chown(&next, Some(uid), Some(gid))?;
        }
        fs::rename(&next, &path)?;
        sync_dir(&config.data_dir)
    };
    written().map_err(PostgresError::file(&path))
}

pub(super) fn sync_dir(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::with_role;

    #[test]
    fn the_role_replaces_what_a_rewind_brought_along_and_nothing_else() {
        let before = "# keep\nwork_mem = '8MB'\nsynchronous_standby_names = ''\nprimary_conninfo = 'host=x'\n";
        let after = with_role(before, &config());
        assert_eq!(
            after,
            "# keep\nwork_mem = '8MB'\nprimary_conninfo = 'host=10.0.1.5 user=replica passfile=/etc/bcp/pgpass \
             application_name=bcp_a'\nrecovery_target_timeline = 'latest'\nsynchronous_standby_names = 'bcp_b'\n"
        );
        assert_eq!(with_role(&after, &config()), after);
    }
}
