//! The agent as a process beside a test.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::process::scratch;

/// The agent as a process.
pub struct Agent {
    pub child: Child,
    pub dir: PathBuf,
    pub status: u16,
}

impl Agent {
    pub fn config(dir: &Path, status: u16, rest: &str) -> String {
        format!(
            "site = \"a\"\nagent = \"gw-a\"\nstate_dir = \"{}/state\"\nprofiles_dir = \"{}\"\n\
             status_listen = \"127.0.0.1:{status}\"\n{rest}",
            dir.display(),
            dir.display()
        )
    }

    pub fn start(name: &str, rest: &str) -> Agent {
        let dir = scratch(name);
        std::fs::create_dir_all(dir.join("test")).unwrap();
        std::fs::write(
            dir.join("test/meter.toml"),
            "format = 1\ntitle = \"Meter\"\nkind = \"meter\"\nsources = [\"this test\"]\n[modbus]\n\
             [[point]]\nname = \"meter.frequency\"\nread = \"input:0\"\ntype = \"u16\"\n",
        )
        .unwrap();
        let status = free_tcp_port();
        std::fs::write(dir.join("agent.toml"), Agent::config(&dir, status, rest)).unwrap();
        Agent { child: Agent::spawn(&dir), dir, status }
    }

    pub fn spawn(dir: &Path) -> Child {
        Command::new(env!("CARGO_BIN_EXE_bcp-agent"))
            .args(["run", "--config"])
            .arg(dir.join("agent.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap())
            .spawn()
            .unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap()
    }

    /// `GET /status`, by hand: the test needs no client for it.
    pub fn status(&self) -> Option<serde_json::Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.status)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        stream.write_all(b"GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    pub fn device(&self, id: &str) -> Option<serde_json::Value> {
        self.status()?["devices"].as_array()?.iter().find(|device| device["id"] == id).cloned()
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(name).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub fn free_tcp_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A device of the profile that [`Agent::start`] writes.
pub fn meter(id: &str, port: u16, interval: &str) -> String {
    format!(
        "[[device]]\nid = \"{id}\"\nprofile = \"test/meter\"\ninterval = \"{interval}\"\n\
         modbus = {{ address = \"127.0.0.1:{port}\", timeout = \"500ms\" }}\n"
    )
}
