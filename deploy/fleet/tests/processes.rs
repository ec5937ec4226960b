//! The fleet as a user starts it: one at a time per base port, and nothing left behind, however it ends.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const BASE: &str = "27000";
/// What the kernel ends with its parent. Nothing here ends by itself, so a long wait hides no survivor.
const GONE_WITHIN: Duration = Duration::from_secs(10);

fn fleet(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleet"));
    command.args(["--base-port", BASE]).args(args).stdin(Stdio::null());
    command
}

fn ask(args: &[&str]) -> Output {
    fleet(args).output().unwrap()
}

fn wait_for<T>(what: &str, limit: Duration, mut found: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Living processes that were started with this directory, or serve this base port, on their command line.
fn processes_of(data_dir: &Path) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let is_fleet = line.contains(env!("CARGO_BIN_EXE_fleet"));
        if is_fleet && (line.contains(&*data_dir.to_string_lossy()) || line.contains(BASE)) {
            found.push((pid, line));
        }
    }
    found
}

struct Up {
    child: Child,
    data_dir: PathBuf,
}

impl Up {
    fn start(name: &str) -> Up {
        let data_dir = std::env::temp_dir().join(format!("bcp-fleet-{name}-{}", std::process::id()));
        let child =
            fleet(&["up", "--data-dir"]).arg(&data_dir).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let up = Up { child, data_dir };
        wait_for("all processes", Duration::from_secs(120), || (processes_of(&up.data_dir).len() > 20).then_some(()));
        up
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().cast_signed()).unwrap(), signal).unwrap();
    }

    fn nothing_is_left(&mut self, limit: Duration) {
        let begun = Instant::now();
        wait_for("the fleet to end", limit, || self.child.try_wait().unwrap());
        // What the kernel ends, it ends a moment later.
        println!("ended after {:?}", begun.elapsed());
        let until = Instant::now() + GONE_WITHIN;
        while Instant::now() < until && !processes_of(&self.data_dir).is_empty() {
            std::thread::sleep(Duration::from_millis(50));
        }
        let left = processes_of(&self.data_dir);
        assert!(left.is_empty(), "left behind: {left:#?}");
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.data_dir);
    }
}

#[test]
fn one_fleet_per_base_port_and_nothing_outlives_it() {
    let mut up = Up::start("ends");
    let second = ask(&["up"]);
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.starts_with("error: a fleet is already running on base port 27000\n  help: "), "{said}");

    // A frozen process is no reason to stay.
    let paused = ask(&["pause", "w"]);
    assert!(paused.status.success(), "{paused:?}");
    up.signal(Signal::INT);
    up.nothing_is_left(Duration::from_secs(20));
    drop(up);

    let mut up = Up::start("killed");
    up.signal(Signal::KILL);
    up.nothing_is_left(Duration::from_secs(10));
    drop(up);

    let nobody = ask(&["ls"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8(nobody.stderr).unwrap().contains("no fleet is running on base port 27000"));
    assert_eq!(ask(&["cut", "a-a"]).status.code(), Some(64));
}
