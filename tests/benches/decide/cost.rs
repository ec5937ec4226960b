//! What processes cost over a time: processor, memory, bytes to the disk, fsyncs.
//!
//! fsyncs are counted by `strace` in a window of its own, for it slows the process down; the number of them does not depend
//! on that, for decide writes with each tick.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bcp_wire::Site;

#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    cpu_ms: u64,
    written: u64,
}

/// One process under observation.
pub struct Watched {
    pub site: Site,
    pid: u32,
    begin: Reading,
}

pub struct Cost {
    pub site: Site,
    pub cpu_percent: f64,
    pub rss_mb: f64,
    /// Bytes that went to the disk, per second.
    pub written_per_s: f64,
}

fn reading(pid: u32) -> Result<Reading> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().context("stat")?.split_whitespace().collect();
    // utime and stime are fields 14 and 15 of the whole line, in ticks of 10 ms.
    let cpu_ms = (fields[11].parse::<u64>()? + fields[12].parse::<u64>()?) * 10;
    let io = std::fs::read_to_string(format!("/proc/{pid}/io"))?;
    let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).context("io")?.parse()?;
    Ok(Reading { at: Instant::now(), cpu_ms, written })
}

impl Watched {
    pub fn begin((site, pid): (Site, u32)) -> Result<Watched> {
        Ok(Watched { site, pid, begin: reading(pid)? })
    }

    pub fn end(&self) -> Result<Cost> {
        let end = reading(self.pid)?;
        let passed = (end.at - self.begin.at).as_secs_f64();
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let rss_kb: f64 = rss.split_whitespace().next().context("VmRSS")?.parse()?;
        Ok(Cost {
            site: self.site,
            cpu_percent: (end.cpu_ms - self.begin.cpu_ms) as f64 / passed / 10.0,
            rss_mb: rss_kb / 1_024.0,
            written_per_s: (end.written - self.begin.written) as f64 / passed,
        })
    }
}

/// `strace` at one process, until it is ended.
pub struct Traced {
    strace: Child,
    out: std::path::PathBuf,
    began: Instant,
}

impl Traced {
    /// None where there is no strace.
    pub fn begin(dir: &Path, (site, pid): (Site, u32)) -> Option<Traced> {
        let out = dir.join(format!("strace-{site}-{pid}"));
        let strace = Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=fsync,fdatasync", "-o"])
            .arg(&out)
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        Some(Traced { strace, out, began: Instant::now() })
    }

    /// fsync and fdatasync per second.
    pub fn end(mut self) -> Result<f64> {
        let passed: Duration = self.began.elapsed();
        if let Some(pid) = rustix::process::Pid::from_raw(self.strace.id().cast_signed()) {
            // It lets go of what it traces, which a kill would take with it.
            rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
        }
        self.strace.wait()?;
        let text = std::fs::read_to_string(&self.out)?;
        // A call that was interrupted by another thread's has two lines; the second one says `resumed`.
        let calls = text.lines().filter(|line| line.contains("sync(") && !line.contains("resumed")).count();
        Ok(calls as f64 / passed.as_secs_f64())
    }
}
