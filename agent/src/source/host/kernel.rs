//! What the kernel tells in `/proc` and `/sys`.
//!
//! Knows: the forms of these texts. Refuses to know: anything that may wait for another machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Instant;

use sysinfo::System;

use super::disks::Disks;
use super::processes::Processes;
use super::{Figure, MAX_ROWS, rounded};
use crate::profile::row_id;

/// What has to be remembered between two looks.
#[derive(Debug)]
pub struct Kernel {
    system: Option<System>,
    disks: Disks,
    processes: Processes,
    watched: Vec<String>,
}

impl Kernel {
    #[must_use]
    pub fn new(watched: Vec<String>) -> Kernel {
        Kernel { system: System::new().ok(), disks: Disks::default(), processes: Processes::default(), watched }
    }

    /// Reads everything once; blocks for some milliseconds.
    #[allow(clippy::cast_precision_loss)] // bytes as doubles, as everywhere on the wire
    pub fn read(&mut self, now: Instant) -> Vec<Figure> {
        let mut figures: Vec<Figure> = Vec::with_capacity(64);
        let mut add = |name: &str, value: f64| figures.push(Figure::new(name.to_owned(), Ok(value.into())));
        if let Some(system) = &mut self.system {
            let had_cpus = !system.cpus().is_empty();
            system.refresh_cpu_usage();
            system.refresh_memory();
            // The first reading has nothing to compare with.
            if had_cpus {
                add("host.cpu.used", rounded(f64::from(system.global_cpu_usage()), 2));
            }
            add("host.memory.total", system.total_memory() as f64);
            add("host.memory.used", system.used_memory() as f64);
            add("host.memory.available", system.available_memory() as f64);
            add("host.swap.total", system.total_swap() as f64);
            add("host.swap.used", system.used_swap() as f64);
        }
        if let Ok(load) = System::load_average() {
            add("host.load.1m", load.one);
            add("host.load.5m", load.five);
            add("host.load.15m", load.fifteen);
        }
        if let Ok(uptime) = System::uptime() {
            add("host.uptime", uptime as f64);
        }
        let (processes, watched) = self.processes.read(Path::new("/proc"), &self.watched, now);
        add("host.processes", processes as f64);
        for (name, share) in pressure() {
            add(&name, share);
        }
        for (name, number) in sensors(Path::new("/sys/class/hwmon")) {
            add(&name, number);
        }
        figures.extend(watched);
        figures.extend(fs::read_to_string("/proc/net/dev").map(|text| interfaces(&text, up)).unwrap_or_default());
        let whole = |name: &str| Path::new("/sys/block").join(name.replace('/', "!")).exists();
        figures.extend(
            fs::read_to_string("/proc/diskstats").map(|text| self.disks.read(&text, now, whole)).unwrap_or_default(),
        );
        if let Ok(boot) = fs::read_to_string("/proc/sys/kernel/random/boot_id") {
            figures.push(Figure::new("host.boot.id".to_owned(), Ok(boot.trim().into())));
        }
        figures
    }
}

/// `some` and `full` shares of the last 10 s; a kernel without pressure information has none.
fn pressure() -> Vec<(String, f64)> {
    ["cpu", "memory", "io"]
        .into_iter()
        .filter_map(|what| Some((what, fs::read_to_string(format!("/proc/pressure/{what}")).ok()?)))
        .flat_map(|(what, text)| pressure_of(what, &text))
        .collect()
}

fn pressure_of(what: &str, text: &str) -> Vec<(String, f64)> {
    text.lines()
        .filter_map(|line| {
            let (kind, rest) = line.split_once(' ')?;
            let share = rest.split(' ').find_map(|field| field.strip_prefix("avg10="))?.parse().ok()?;
            // All tasks can only wait for a processor together in a group of processes; the kernel writes 0.
            (what != "cpu" || kind == "some").then(|| (format!("host.psi.{what}.{kind}"), share))
        })
        .collect()
}

/// True where a cable and another end are there; `None` where the interface does not say.
fn up(interface: &str) -> Option<bool> {
    let state = fs::read_to_string(Path::new("/sys/class/net").join(interface).join("operstate")).ok()?;
    match state.trim() {
        "up" => Some(true),
        "down" | "lowerlayerdown" | "dormant" | "testing" | "notpresent" => Some(false),
        _ => None,
    }
}

/// Bytes, errors and state of every interface but the loopback, from `/proc/net/dev`.
#[allow(clippy::cast_precision_loss)]
fn interfaces(text: &str, up: impl Fn(&str) -> Option<bool>) -> Vec<Figure> {
    let mut taken = BTreeSet::new();
    let rows = text.lines().filter_map(|line| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> = counters.split_ascii_whitespace().map_while(|field| field.parse().ok()).collect();
        // Received: bytes, packets, errors, dropped, fifo, frame, compressed, multicast; then the same of sent.
        let [rx, _, rx_errors, rx_dropped, _, _, _, _, tx, _, tx_errors, tx_dropped, ..] = counters[..] else {
            return None;
        };
        let (errors, dropped) = (rx_errors.saturating_add(tx_errors), rx_dropped.saturating_add(tx_dropped));
        Some((name.trim(), [("rx", rx), ("tx", tx), ("errors", errors), ("dropped", dropped)]))
    });
    let mut figures = Vec::new();
    for (name, counters) in rows.filter(|(name, _)| *name != "lo").take(MAX_ROWS) {
        let id = row_id(name, &mut taken);
        for (what, count) in counters {
            figures.push(Figure::new(format!("host.nic.{id}.{what}"), Ok((count as f64).into())));
        }
        if let Some(up) = up(name) {
            figures.push(Figure::new(format!("host.nic.{id}.state"), Ok(if up { "up" } else { "down" }.into())));
        }
    }
    figures
}

/// The first temperature and fan of every sensor chip.
fn sensors(root: &Path) -> Vec<(String, f64)> {
    let mut chips: Vec<_> = fs::read_dir(root).map(|dir| dir.flatten().map(|e| e.path()).collect()).unwrap_or_default();
    chips.sort();
    let mut taken = BTreeSet::new();
    let number = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<f64>().ok();
    let mut found = Vec::new();
    for chip in chips {
        let Ok(name) = fs::read_to_string(chip.join("name")) else { continue };
        let (millidegrees, turns) = (number(&chip.join("temp1_input")), number(&chip.join("fan1_input")));
        if (millidegrees.is_none() && turns.is_none()) || found.len() >= 2 * MAX_ROWS {
            continue;
        }
        let id = row_id(name.trim(), &mut taken);
        found.extend(millidegrees.map(|number| (format!("host.hwmon.{id}.temperature"), number / 1_000.0)));
        found.extend(turns.map(|turns| (format!("host.hwmon.{id}.speed"), turns)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_texts_are_understood() {
        let text = "some avg10=1.25 avg60=0.10 avg300=0.00 total=5\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!(
            pressure_of("io", text),
            vec![("host.psi.io.some".to_owned(), 1.25), ("host.psi.io.full".to_owned(), 0.5)]
        );
        assert_eq!(pressure_of("cpu", text).len(), 1);
        let text = "Inter-| Receive\n face |bytes\n    lo: 1 0 0 0 0 0 0 0 1 0 0 0 0 0 0 0\n  \
                    eth0: 10 1 2 3 0 0 0 0 20 1 4 5 0 0 0 0\n  short: 1 2\n";
        let told: Vec<(String, String)> = interfaces(text, |name| (name == "eth0").then_some(false))
            .into_iter()
            .map(|figure| (figure.name, figure.value.unwrap().to_string()))
            .collect();
        let want = [("rx", "10"), ("tx", "20"), ("errors", "6"), ("dropped", "8"), ("state", "down")];
        assert_eq!(told, want.map(|(what, value)| (format!("host.nic.eth0.{what}"), value.to_owned())));
    }

    #[test]
    fn sensor_chips_are_told_by_name() {
        let root = std::env::temp_dir().join(format!("bcp-hwmon-{}", std::process::id()));
        for (chip, name, file, value) in [
            ("hwmon0", "acpitz", "temp1_input", "27800"),
            ("hwmon1", "coretemp", "temp1_input", "51000"),
            ("hwmon2", "coretemp", "temp1_input", "not a number"),
            ("hwmon3", "nct6775", "fan1_input", "1200"),
        ] {
            fs::create_dir_all(root.join(chip)).unwrap();
            fs::write(root.join(chip).join("name"), format!("{name}\n")).unwrap();
            fs::write(root.join(chip).join(file), format!("{value}\n")).unwrap();
        }
        let want = [
            ("host.hwmon.acpitz.temperature", 27.8),
            ("host.hwmon.coretemp.temperature", 51.0),
            ("host.hwmon.nct6775.speed", 1_200.0),
        ];
        assert_eq!(sensors(&root), want.map(|(name, value)| (name.to_owned(), value)));
        fs::remove_dir_all(&root).unwrap();
    }
}
