//! File systems: size and use of each, of which a dead one costs only itself.
//!
//! statvfs on a network mount whose server is gone does not come back until the server does. Each such mount is asked
//! on a thread of its own, and not asked again before that thread is back; those on disks share one.
//!
//! Knows: the table of mounts, who answers. Refuses to know: what a full disk means.
//!
//! Threads: one for disks, one per network mount, at most [`MAX_REMOTE`]; an idle one does not exist.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bcp_wire::BadReason;
use tokio::sync::oneshot;

use super::{Figure, MAX_ROWS, rounded};
use crate::profile::row_id;

/// Network mounts that are asked; each may hold a thread for ever.
const MAX_REMOTE: usize = 16;
/// File systems that have no disk behind them, or whose size says nothing.
const SKIPPED: &[&str] = &[
    "9p",
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "overlay",
    "proc",
    "pstore",
    "ramfs",
    "rpc_pipefs",
    "securityfs",
    "squashfs",
    "sysfs",
    "tmpfs",
    "tracefs",
];
/// File systems whose server is another machine, or a program.
const REMOTE: &[&str] =
    &["afs", "ceph", "cifs", "coda", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"];

/// What a file system says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub unit: u64,
    pub blocks: u64,
    pub free: u64,
    pub available: u64,
    pub files: u64,
    pub files_free: u64,
}

/// Asks one mount point; may never return.
pub type Ask = Arc<dyn Fn(&str) -> io::Result<Space> + Send + Sync>;

/// Asks the kernel.
pub fn statvfs(path: &str) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(Space {
        unit: stat.f_frsize,
        blocks: stat.f_blocks,
        free: stat.f_bfree,
        available: stat.f_bavail,
        files: stat.f_files,
        files_free: stat.f_ffree,
    })
}

/// One line of the mount table that matters.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    path: String,
    remote: bool,
    read_only: bool,
}

type Answers = Vec<(String, io::Result<Space>)>;

/// The mounts, and who has been asked.
pub struct FileSystems {
    ask: Ask,
    /// Answers under way, by the first mount asked: all disks together, each network mount by itself.
    asked: BTreeMap<String, oneshot::Receiver<Answers>>,
}

impl std::fmt::Debug for FileSystems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileSystems").field("asked", &self.asked.keys()).finish_non_exhaustive()
    }
}

/// Key of the disks among those that are asked.
const DISKS: &str = "";

impl FileSystems {
    #[must_use]
    pub fn new(ask: Ask) -> FileSystems {
        FileSystems { ask, asked: BTreeMap::new() }
    }

    /// Figures of every file system of this mount table; those that have not answered within `patience` are bad. Gives
    /// the first that did not answer.
    pub async fn read(&mut self, mounts: &str, patience: Duration) -> (Vec<Figure>, Option<String>) {
        let mounts = mounted(mounts);
        let (remote, disks): (Vec<&Mount>, Vec<&Mount>) = mounts.iter().partition(|mount| mount.remote);
        self.start(DISKS, disks.into_iter().map(|mount| mount.path.clone()).collect());
        for mount in remote.into_iter().take(MAX_REMOTE) {
            self.start(&mount.path, vec![mount.path.clone()]);
        }
        let deadline = tokio::time::Instant::now() + patience;
        let mut answers: BTreeMap<String, io::Result<Space>> = BTreeMap::new();
        let mut waiting = BTreeMap::new();
        for (key, mut answer) in std::mem::take(&mut self.asked) {
            match tokio::time::timeout_at(deadline, &mut answer).await {
                Ok(found) => answers.extend(found.unwrap_or_default()),
                Err(_) => drop(waiting.insert(key, answer)),
            }
        }
        self.asked = waiting;
        let mut taken = BTreeSet::new();
        let (mut figures, mut silent) = (Vec::new(), None);
        for mount in &mounts {
            let id = row_id(&mount.path, &mut taken);
            let answer = answers.remove(&mount.path);
            if answer.is_none() {
                silent.get_or_insert_with(|| mount.path.clone());
            }
            tell(&id, mount, answer, &mut figures);
        }
        (figures, silent)
    }

    /// Asks, unless the last question is still open.
    fn start(&mut self, key: &str, paths: Vec<String>) {
        if self.asked.contains_key(key) || paths.is_empty() {
            return;
        }
        let (reply, answer) = oneshot::channel();
        let ask = Arc::clone(&self.ask);
        let work = move || {
            let answers = paths.into_iter().map(|path| {
                let space = ask(&path);
                (path, space)
            });
            // Nobody waits any more when the agent is ending.
            let _ = reply.send(answers.collect());
        };
        if let Err(error) = std::thread::Builder::new().name("statvfs".to_owned()).spawn(work) {
            tracing::warn!(%error, "no thread to ask file systems with");
            return;
        }
        self.asked.insert(key.to_owned(), answer);
    }
}

fn tell(id: &str, mount: &Mount, answer: Option<io::Result<Space>>, figures: &mut Vec<Figure>) {
    let mut add = |what: &str, value| figures.push(Figure::new(format!("host.fs.{id}.{what}"), value));
    let space = match answer {
        Some(Ok(space)) => space,
        Some(Err(_)) | None => {
            let (word, reason) =
                if answer.is_some() { ("failing", BadReason::Exception) } else { ("silent", BadReason::Timeout) };
            add("state", Ok(word.into()));
            for what in ["size", "used", "used-share"] {
                add(what, Err(reason));
            }
            return;
        }
    };
    add("state", Ok(if mount.read_only { "read-only" } else { "ok" }.into()));
    // Some network file systems know no sizes.
    if space.blocks > 0 {
        let unit = space.unit as f64;
        // Servers have been seen to tell more free blocks than there are.
        let used = space.blocks.saturating_sub(space.free) as f64;
        add("size", Ok((space.blocks as f64 * unit).into()));
        add("used", Ok((used * unit).into()));
        // As `df` counts: what root keeps for itself is neither used nor free.
        let usable = used + space.available as f64;
        add("used-share", Ok(rounded(100.0 * used / usable.max(1.0), 2).into()));
    }
    if space.files > 0 {
        let used = space.files.saturating_sub(space.files_free) as f64;
        add("inodes-share", Ok(rounded(100.0 * used / space.files as f64, 2).into()));
    }
}

/// Mount points of real file systems, each device once.
fn mounted(table: &str) -> Vec<Mount> {
    let mut devices = BTreeSet::new();
    let found = table.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (device, path, kind, options) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let real = path == "/" || !SKIPPED.contains(&kind);
        // Directories below /etc and the like that containers mount from the host's disk.
        let whole = !["/etc/", "/proc/", "/sys/", "/dev/", "/run/"].iter().any(|below| path.starts_with(below));
        (real && whole && devices.insert(device.to_owned())).then(|| Mount {
            path: unescaped(path),
            remote: REMOTE.contains(&kind) || kind.starts_with("fuse"),
            read_only: options.split(',').any(|option| option == "ro"),
        })
    });
    found.take(MAX_ROWS).collect()
}

/// The kernel writes blanks, tabs, line ends and `\` as three octal digits.
fn unescaped(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |path, (from, to)| path.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc;

    const TABLE: &str = "/dev/sda1 / ext4 rw,relatime 0 0\nproc /proc proc rw 0 0\n/dev/sda1 /mnt/again ext4 rw 0 0\n\
                         /dev/sdb1 /srv/my\\040data xfs ro,noatime 0 0\n/dev/sda2 /etc/hosts ext4 rw 0 0\n\
                         filer:/home /home nfs4 rw,hard 0 0\nme@far:/ /mnt/far fuse.sshfs rw 0 0\n";

    fn space() -> Space {
        Space { unit: 4_096, blocks: 1_000, free: 400, available: 350, files: 200, files_free: 50 }
    }

    fn value(figures: &[Figure], name: &str) -> Option<Result<String, BadReason>> {
        let found = figures.iter().find(|figure| figure.name == name)?;
        Some(found.value.clone().map(|value| value.to_string()))
    }

    #[test]
    fn the_mount_table_is_understood() {
        let mount = |path: &str, remote, read_only| Mount { path: path.to_owned(), remote, read_only };
        let want = [
            mount("/", false, false),
            mount("/srv/my data", false, true),
            mount("/home", true, false),
            mount("/mnt/far", true, false),
        ];
        assert_eq!(mounted(TABLE), want);
    }

    #[tokio::test]
    async fn a_dead_network_mount_costs_only_itself_and_one_thread() {
        let (release, gate) = mpsc::channel::<()>();
        let (gate, asked) = (Mutex::new(gate), Arc::new(Mutex::new(Vec::new())));
        let calls = Arc::clone(&asked);
        let ask: Ask = Arc::new(move |path| {
            calls.lock().unwrap().push(path.to_owned());
            if path == "/home" {
                let _ = gate.lock().unwrap().recv();
            }
            Ok(space())
        });
        let mut systems = FileSystems::new(ask);
        let patience = Duration::from_millis(100);
        for _ in 0..3 {
            let (figures, silent) = systems.read(TABLE, patience).await;
            assert_eq!(silent.as_deref(), Some("/home"));
            assert_eq!(value(&figures, "host.fs.home.state"), Some(Ok("silent".to_owned())));
            assert_eq!(value(&figures, "host.fs.home.used"), Some(Err(BadReason::Timeout)));
            assert_eq!(value(&figures, "host.fs.root.used-share"), Some(Ok("63.16".to_owned())));
            assert_eq!(value(&figures, "host.fs.root.inodes-share"), Some(Ok("75".to_owned())));
            assert_eq!(value(&figures, "host.fs.srv-my-data.state"), Some(Ok("read-only".to_owned())));
            assert_eq!(value(&figures, "host.fs.mnt-far.state"), Some(Ok("ok".to_owned())));
        }
        let of_home = |asked: &Mutex<Vec<String>>| asked.lock().unwrap().iter().filter(|path| *path == "/home").count();
        assert_eq!(of_home(&asked), 1, "nobody waits behind the one that hangs");
        release.send(()).unwrap();
        let (figures, silent) = systems.read(TABLE, Duration::from_secs(10)).await;
        assert_eq!((silent, value(&figures, "host.fs.home.state")), (None, Some(Ok("ok".to_owned()))));
        drop(release);
    }

    #[tokio::test]
    async fn impossible_figures_and_errors_are_no_panic() {
        let odd = Space { free: 5_000, available: u64::MAX, files: 1, files_free: 9, ..space() };
        let ask: Ask = Arc::new(move |path| if path == "/" { Ok(odd) } else { Err(io::ErrorKind::NotFound.into()) });
        let (figures, silent) = FileSystems::new(ask).read(TABLE, Duration::from_secs(10)).await;
        assert_eq!(silent, None);
        assert_eq!(value(&figures, "host.fs.root.used"), Some(Ok("0".to_owned())));
        assert_eq!(value(&figures, "host.fs.home.state"), Some(Ok("failing".to_owned())));
        assert_eq!(value(&figures, "host.fs.home.used"), Some(Err(BadReason::Exception)));
    }
}
