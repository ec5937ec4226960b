//! Both servers as restored from one backup: the same history, nothing in it yet, and each would come up as a standby.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bcp_wire::Site;
use rand::RngCore;

use super::{BIN_DIR, SITES};
use crate::layout::{Layout, own_dir};

/// Why the reference application could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    #[error("failed to prepare {path}", path = path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("there is no user `postgres`, as whom the servers of root's fleet would run")]
    NoUser,
    #[error("{program} failed: {said}")]
    Program { program: &'static str, said: String },
    #[error("{path} is too long for a socket: name a shorter --data-dir", path = path.display())]
    LongPath { path: PathBuf },
}

/// Of the path of a UNIX socket, without the server's own part.
const SOCKET_DIR_MAX: usize = 80;

/// As whom PostgreSQL and BIND run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> SeedError + '_ {
    move |source| SeedError::Io { path: path.to_path_buf(), source }
}

/// PostgreSQL refuses root, and BIND needs none of its rights.
///
/// # Errors
/// Root has no such user.
pub fn user() -> Result<User, SeedError> {
    let own = User { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw() };
    if own.uid != 0 {
        return Ok(own);
    }
    let passwd = Path::new("/etc/passwd");
    let text = fs::read_to_string(passwd).map_err(io(passwd))?;
    let fields = text.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == "postgres");
    let number = |at: usize| fields.as_ref()?.get(at)?.parse().ok();
    match (number(2), number(3)) {
        (Some(uid), Some(gid)) => Ok(User { uid, gid }),
        _ => Err(SeedError::NoUser),
    }
}

/// A directory of that user alone.
pub(super) fn make_dir(path: &Path, user: User, mode: u32) -> Result<(), SeedError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(io(path)(error)),
        _ => {}
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(io(path))?;
    chown(path, Some(user.uid), Some(user.gid)).map_err(io(path))
}

pub(super) fn put(path: &Path, text: &str, user: User) -> Result<(), SeedError> {
    let written = || {
        // Never the old file of another owner.
        let _ = fs::remove_file(path);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        chown(path, Some(user.uid), Some(user.gid))
    };
    written().map_err(io(path))
}

fn run(name: &'static str, arguments: &[&str], input: &str, user: User) -> Result<(), SeedError> {
    let said = |said: String| SeedError::Program { program: name, said };
    let mut command = Command::new(Path::new(BIN_DIR).join(name));
    command.args(arguments).env("LC_ALL", "C").env_remove(crate::signals::DIE_WITH_PARENT).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if rustix::process::getuid().is_root() {
        command.uid(user.uid).gid(user.gid);
    }
    let mut child = command.spawn().map_err(|error| said(error.to_string()))?;
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(input.as_bytes()).map_err(|error| said(error.to_string()))?;
    }
    let ended = child.wait_with_output().map_err(|error| said(error.to_string()))?;
    let errors = String::from_utf8_lossy(&ended.stderr);
    // In its single-user mode PostgreSQL goes on after an error and ends well.
    let fault = errors.lines().find(|line| line.contains("ERROR:") || line.contains("FATAL:"));
    match (ended.status.success(), fault) {
        (true, None) => Ok(()),
        (_, Some(line)) => Err(said(line.to_owned())),
        (false, None) => Err(said(errors.lines().last().unwrap_or("no word").to_owned())),
    }
}

impl Layout {
    /// What the gates are started beside: configurations are written anew, data are made once and then kept.
    ///
    /// # Errors
    /// The first thing that could not be made.
    pub fn prepare_reference(&self) -> Result<(), SeedError> {
        let user = user()?;
        let dir = self.reference_dir();
        let socket_dir = dir.join("run");
        if socket_dir.as_os_str().len() > SOCKET_DIR_MAX {
            return Err(SeedError::LongPath { path: socket_dir });
        }
        // The group may pass through, and nothing more.
        let pass = |path: &Path| {
            chown(path, None, Some(user.gid)).map_err(io(path))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o710)).map_err(io(path))
        };
        pass(&self.data_dir)?;
        make_dir(&dir, user, 0o700)?;
        make_dir(&socket_dir, user, 0o700)?;
        let secret = self.reference_password()?;
        put(&dir.join("passfile"), &format!("127.0.0.1:*:*:replica:{secret}\n"), user)?;
        put(&dir.join("hba.conf"), super::texts::HBA, user)?;
        for site in SITES {
            put(&dir.join(format!("{site}.conf")), &self.postgres_text(site), user)?;
            for path in [self.site_dir(site), self.site_dir(site).join("run"), self.site_dir(site).join(super::NAME)] {
                own_dir(&path).map_err(|fault| SeedError::Io { path, source: std::io::Error::other(fault) })?;
            }
        }
        self.prepare_name(user)?;
        self.seed_data(user, &secret)
    }

    fn reference_password(&self) -> Result<String, SeedError> {
        let path = self.reference_secret();
        match fs::read_to_string(&path) {
            Ok(text) => return Ok(text.trim().to_owned()),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(&path)(error)),
            Err(_) => {}
        }
        let secret = format!("{:016x}{:016x}", rand::rng().next_u64(), rand::rng().next_u64());
        let written = || {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            writeln!(file, "{secret}")
        };
        written().map_err(io(&path))?;
        Ok(secret)
    }

    fn seed_data(&self, user: User, secret: &str) -> Result<(), SeedError> {
        let (a, b) = (self.postgres(Site::A), self.postgres(Site::B));
        // The second is there last: a start that was broken off begins anew.
        if b.data_dir.join("standby.signal").exists() || b.data_dir.join("PG_VERSION").exists() {
            return Ok(());
        }
        for path in [&a.data_dir, &b.data_dir] {
            let _ = fs::remove_dir_all(path);
        }
        let data = a.data_dir.display().to_string();
        let how = ["-U", "postgres", "-A", "trust", "-k", "-N", "-E", "UTF8", "--locale=C", "-D", &data];
        run("initdb", &how, "", user)?;
        let config = a.config_file.as_ref().map(|file| format!("config_file={}", file.display())).unwrap_or_default();
        run("postgres", &["--single", "-D", &data, "-c", &config, "postgres"], &super::texts::schema(secret), user)?;
        fs::write(a.data_dir.join("standby.signal"), "").map_err(io(&a.data_dir))?;
        copy_dir(&a.data_dir, &b.data_dir, user)
    }
}

fn copy_dir(from: &Path, to: &Path, user: User) -> Result<(), SeedError> {
    make_dir(to, user, 0o700)?;
    for entry in fs::read_dir(from).map_err(io(from))? {
        let entry = entry.map_err(io(from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(io(&source))?;
        chown(&source, Some(user.uid), Some(user.gid)).map_err(io(&source))?;
        if kind.is_dir() {
            copy_dir(&source, &target, user)?;
        } else {
            fs::copy(&source, &target).map_err(io(&target))?;
            chown(&target, Some(user.uid), Some(user.gid)).map_err(io(&target))?;
        }
    }
    Ok(())
}
