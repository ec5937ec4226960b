//! Other people's programs beside a test.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest start of a peer.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Says that a test is skipped; with `BCP_STRICT=1` that is a failure.
pub fn skipped(why: &str) {
    let line = format!("SKIPPED: {why}");
    assert!(std::env::var("BCP_STRICT").as_deref() != Ok("1"), "{line}");
    eprintln!("{line}");
}

/// True where the program is there.
pub fn installed(program: &str, package: &str) -> bool {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .any(|dir: PathBuf| dir.join(program).is_file())
    });
    if !found {
        skipped(&format!("`{program}` is not there (install {package})"));
    }
    found
}

/// A command that finds system programs too.
pub fn command(program: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).stdin(Stdio::null());
    command
}

/// A process that ends with the test, and a directory of its own.
pub struct Peer {
    pub child: Child,
    pub dir: PathBuf,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("bcp-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

pub fn free_udp_port() -> u16 {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits for a condition, and says what it waited for.
pub async fn wait_for(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < START_LIMIT, "waited {START_LIMIT:?} for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
