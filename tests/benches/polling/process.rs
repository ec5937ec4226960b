//! Processes under measurement and what they cost.

use std::path::Path;
use std::process::Child;

use anyhow::{Context, Result};

/// A process that ends with this one.
pub struct Ended(pub Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Processor time of a process, user and system.
pub fn cpu_ms(pid: u32) -> Result<u64> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().context("stat")?.split_whitespace().collect();
    // utime and stime are fields 14 and 15 of the whole line, in ticks of 10 ms.
    Ok((fields[11].parse::<u64>()? + fields[12].parse::<u64>()?) * 10)
}

pub fn memory_mb(pid: u32, what: &str) -> Result<f64> {
    let rollup = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("smaps_rollup"))?;
    let line = rollup.lines().find(|line| line.starts_with(what)).with_context(|| what.to_owned())?;
    Ok(line.split_whitespace().nth(1).context("no figure")?.parse::<f64>()? / 1024.0)
}

pub fn private_mb(pid: u32) -> Result<f64> {
    Ok(memory_mb(pid, "Private_Clean:")? + memory_mb(pid, "Private_Dirty:")?)
}
