//! This host: processors, memory, load, pressure, file systems, network interfaces, temperatures.
//!
//! Knows: where Linux tells these figures. Refuses to know: thresholds.
//!
//! Figures are read on blocking threads. File systems have a thread of their own: statvfs hangs on a dead network
//! mount, and then only their points are bad, and no second thread is started until the first is back.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use bcp_wire::presence::PointMeta;
use bcp_wire::{BadReason, DeviceMeta, PointName, Value, WIRE_VERSION};
use sysinfo::System;
use tokio::task::JoinHandle;

use crate::config::HostConfig;
use crate::outbound::Sample;
use crate::profile::row_id;
use crate::schedule::Outcome;
use crate::source::Polled;

/// Time for one reading of everything but file systems.
const FIGURES_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for asking every file system; one on a disk answers in microseconds.
const FILE_SYSTEMS_TIMEOUT: Duration = Duration::from_millis(500);
/// Most file systems, interfaces and sensors that are told.
const MAX_ROWS: usize = 32;
/// File systems that have no disk behind them, or whose size says nothing.
const SKIPPED_FILE_SYSTEMS: &[&str] = &[
    "autofs",
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
    "9p",
    "binfmt_misc",
];

type Figure = (String, Result<f64, BadReason>);
/// What a blocking thread gives back: its source for the next time, and what it read.
type Figures = (Option<Box<System>>, Vec<Figure>);

/// This host as a device.
#[derive(Debug)]
pub struct Host {
    config: HostConfig,
    system: Option<Box<System>>,
    figures: Option<JoinHandle<Figures>>,
    file_systems: Option<JoinHandle<Vec<Figure>>>,
    /// Names of file systems at the last good reading, to be told as bad when it hangs.
    known_file_systems: Vec<PointName>,
    told: Vec<PointName>,
}

impl Host {
    #[must_use]
    pub fn new(config: HostConfig) -> Host {
        Host {
            config,
            system: System::new().ok().map(Box::new),
            figures: None,
            file_systems: None,
            known_file_systems: Vec::new(),
            told: Vec::new(),
        }
    }

    #[must_use]
    pub fn config(&self) -> &HostConfig {
        &self.config
    }

    #[must_use]
    pub fn meta(&self) -> DeviceMeta {
        let interval_ms = u64::try_from(self.config.interval.as_millis()).unwrap_or(u64::MAX);
        let point = |name: &PointName| PointMeta {
            name: name.clone(),
            unit: bcp_wire::names::lookup(name).map_or("", |def| def.unit).to_owned(),
            interval_ms,
            source: None,
        };
        DeviceMeta {
            v: WIRE_VERSION,
            i: 0,
            device: self.config.id.clone(),
            kind: "host".to_owned(),
            profile: None,
            firmware: System::kernel_version().ok(),
            firmware_proven: true,
            parent: self.config.parent.clone(),
            location: self.config.location.clone(),
            points: self.told.iter().map(point).collect(),
        }
    }

    /// Reads everything once.
    pub async fn poll(&mut self, budget: Duration) -> Polled {
        let mut samples: Vec<Sample> = Vec::new();
        let mut trouble = None;
        self.start();
        match finish(&mut self.figures, FIGURES_TIMEOUT.min(budget)).await {
            Some((system, figures)) => {
                self.system = system;
                samples.extend(figures.into_iter().filter_map(sample));
            }
            None => trouble = Some("the host's figures could not be read in time".to_owned()),
        }
        match finish(&mut self.file_systems, FILE_SYSTEMS_TIMEOUT.min(budget)).await {
            Some(figures) => {
                let before = samples.len();
                samples.extend(figures.into_iter().filter_map(sample));
                self.known_file_systems = samples.iter().skip(before).map(|(name, _, _)| name.clone()).collect();
            }
            None => {
                trouble = Some("a file system does not answer".to_owned());
                samples.extend(self.known_file_systems.iter().map(|name| (name.clone(), 0, Err(BadReason::Timeout))));
            }
        }
        let names = samples.iter().map(|(name, _, _)| name);
        let meta = if names.clone().eq(self.told.iter()) {
            None
        } else {
            self.told = names.cloned().collect();
            Some(self.meta())
        };
        // A host that reads itself is there.
        Polled { outcome: Outcome::Answered, samples, meta, trouble, rtt: None, transition: None }
    }

    /// Starts readings that are not under way already.
    fn start(&mut self) {
        if self.figures.is_none() {
            let system = self.system.take();
            self.figures = Some(tokio::task::spawn_blocking(move || {
                let mut system = system.or_else(|| System::new().ok().map(Box::new));
                let figures = figures(system.as_deref_mut());
                (system, figures)
            }));
        }
        if self.file_systems.is_none() {
            self.file_systems = Some(tokio::task::spawn_blocking(file_systems));
        }
    }
}

/// The result of a reading, if it ends in time; else it stays under way.
async fn finish<T>(reading: &mut Option<JoinHandle<T>>, timeout: Duration) -> Option<T> {
    let handle = reading.as_mut()?;
    let done = tokio::time::timeout(timeout, handle).await.ok()?;
    *reading = None;
    done.ok()
}

fn sample((name, value): Figure) -> Option<Sample> {
    let name: PointName = name.parse().ok()?;
    Some((name, 0, value.and_then(|value| Value::num(value).ok_or(BadReason::Range))))
}

#[allow(clippy::cast_precision_loss)] // bytes as doubles, as everywhere on the wire
fn figures(system: Option<&mut System>) -> Vec<Figure> {
    let mut figures: Vec<Figure> = Vec::with_capacity(64);
    let mut add = |name: &str, value: f64| figures.push((name.to_owned(), Ok(value)));
    if let Some(system) = system {
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
    if let Some(processes) = processes() {
        add("host.processes", processes as f64);
    }
    for (name, share) in pressure() {
        add(&name, share);
    }
    for (name, bytes) in fs::read_to_string("/proc/net/dev").map(|text| interfaces(&text)).unwrap_or_default() {
        add(&name, bytes as f64);
    }
    for (name, degrees) in temperatures(Path::new("/sys/class/hwmon")) {
        add(&name, degrees);
    }
    figures
}

fn rounded(value: f64, digits: i32) -> f64 {
    let factor = 10_f64.powi(digits);
    (value * factor).round() / factor
}

fn processes() -> Option<usize> {
    let entries = fs::read_dir("/proc").ok()?.flatten();
    Some(entries.filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit)).count())
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

/// Bytes of every interface but the loopback, from `/proc/net/dev`.
fn interfaces(text: &str) -> Vec<(String, u64)> {
    let mut taken = BTreeSet::new();
    let rows = text.lines().filter_map(|line| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> = counters.split_ascii_whitespace().filter_map(|field| field.parse().ok()).collect();
        Some((name.trim(), *counters.first()?, *counters.get(8)?))
    });
    rows.filter(|(name, _, _)| *name != "lo")
        .take(MAX_ROWS)
        .flat_map(|(name, rx, tx)| {
            let id = row_id(name, &mut taken);
            [(format!("host.nic.{id}.rx"), rx), (format!("host.nic.{id}.tx"), tx)]
        })
        .collect()
}

/// The first temperature of every sensor chip.
fn temperatures(root: &Path) -> Vec<(String, f64)> {
    let mut chips: Vec<_> = fs::read_dir(root).map(|dir| dir.flatten().map(|e| e.path()).collect()).unwrap_or_default();
    chips.sort();
    let mut taken = BTreeSet::new();
    let number = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<f64>().ok();
    chips
        .iter()
        .filter_map(|chip| {
            let name = fs::read_to_string(chip.join("name")).ok()?;
            let millidegrees = number(&chip.join("temp1_input"))?;
            Some((format!("host.hwmon.{}.temperature", row_id(name.trim(), &mut taken)), millidegrees / 1_000.0))
        })
        .take(MAX_ROWS)
        .collect()
}

/// Size and use of every file system with a disk behind it. May hang: see the module's first lines.
fn file_systems() -> Vec<Figure> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut taken = BTreeSet::new();
    let mut figures = Vec::new();
    for path in mount_points(&mounts).into_iter().take(MAX_ROWS) {
        let id = row_id(&path, &mut taken);
        let mut add = |what: &str, value: Result<f64, BadReason>| figures.push((format!("host.fs.{id}.{what}"), value));
        #[allow(clippy::cast_precision_loss)]
        match rustix::fs::statvfs(path.as_str()) {
            Ok(stat) if stat.f_blocks > 0 => {
                let unit = stat.f_frsize as f64;
                let used = (stat.f_blocks - stat.f_bfree) as f64;
                add("size", Ok(stat.f_blocks as f64 * unit));
                add("used", Ok(used * unit));
                // As `df` counts: what root keeps for itself is neither used nor free.
                let usable = used + stat.f_bavail as f64;
                add("used-share", Ok(rounded(100.0 * used / usable.max(1.0), 2)));
            }
            Ok(_) => {}
            Err(_) => add("used", Err(BadReason::Exception)),
        }
    }
    figures
}

/// Mount points of real file systems, each device once.
fn mount_points(mounts: &str) -> Vec<String> {
    let mut devices = BTreeSet::new();
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (device, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
            let real = path == "/" || !SKIPPED_FILE_SYSTEMS.contains(&kind);
            // Directories below /etc and the like that containers mount from the host's disk.
            let whole = !["/etc/", "/proc/", "/sys/", "/dev/", "/run/"].iter().any(|below| path.starts_with(below));
            (real && whole && devices.insert(device.to_owned())).then(|| path.replace("\\040", " "))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn kernel_texts_are_understood() {
        let text = "some avg10=1.25 avg60=0.10 avg300=0.00 total=5\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!(
            pressure_of("io", text),
            vec![("host.psi.io.some".to_owned(), 1.25), ("host.psi.io.full".to_owned(), 0.5)]
        );
        assert_eq!(pressure_of("cpu", text).len(), 1);
        let text =
            "Inter-| Receive\n face |bytes\n    lo: 1 0 0 0 0 0 0 0 1 0\n  eth0: 10 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0\n";
        assert_eq!(interfaces(text), vec![("host.nic.eth0.rx".to_owned(), 10), ("host.nic.eth0.tx".to_owned(), 20)]);
        let text = "/dev/sda1 / ext4 rw 0 0\nproc /proc proc rw 0 0\n/dev/sda1 /mnt/again ext4 rw 0 0\n\
                    /dev/sdb1 /srv/my\\040data xfs rw 0 0\n/dev/sda2 /etc/hosts ext4 rw 0 0\n";
        assert_eq!(mount_points(text), vec!["/".to_owned(), "/srv/my data".to_owned()]);
    }

    #[tokio::test]
    async fn the_host_is_read_within_a_second_by_names_of_the_contract() {
        let config =
            HostConfig { id: "srv".parse().unwrap(), interval: Duration::from_secs(1), parent: None, location: None };
        let mut host = Host::new(config);
        let start = Instant::now();
        let first = host.poll(Duration::from_secs(1)).await;
        assert!(start.elapsed() < Duration::from_secs(1));
        let second = host.poll(Duration::from_secs(1)).await;
        assert!(first.meta.is_some());
        let names: Vec<String> = second.samples.iter().map(|(name, _, _)| name.to_string()).collect();
        for want in ["host.cpu.used", "host.load.1m", "host.memory.used", "host.uptime", "host.processes"] {
            assert!(names.iter().any(|name| name == want), "{want} of {names:?}");
        }
        for (name, _, value) in &second.samples {
            assert!(bcp_wire::names::lookup(name).is_some(), "{name}");
            assert!(value.is_ok(), "{name}");
        }
        assert!(host.poll(Duration::from_secs(1)).await.meta.is_none(), "said once");
    }
}
