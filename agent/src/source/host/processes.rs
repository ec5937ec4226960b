//! Processes of programs that are watched by name, from `/proc/PID/stat` (proc(5)).
//!
//! Knows: how many there are, their memory and processor time. Refuses to know: how many there should be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Instant;

use super::{Figure, rounded};
use crate::profile::row_id;

/// One process as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    comm: String,
    ticks: u64,
    resident_pages: u64,
    /// When it started: a number that came back is another process.
    started: u64,
}

/// Processes as they were at the last look.
#[derive(Debug, Default)]
pub struct Processes {
    at: Option<Instant>,
    /// Ticks by number and start.
    before: BTreeMap<(u32, u64), u64>,
}

impl Processes {
    /// How many processes there are, and figures of those watched by name.
    pub fn read(&mut self, root: &Path, watched: &[String], now: Instant) -> (usize, Vec<Figure>) {
        let entries = fs::read_dir(root).into_iter().flatten().flatten();
        let numbers: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        if watched.is_empty() {
            return (numbers.len(), Vec::new());
        }
        let mut found: BTreeMap<&str, Vec<(u32, Process)>> =
            watched.iter().map(|name| (name.as_str(), Vec::new())).collect();
        for number in &numbers {
            // One that ended meanwhile is none.
            let Ok(text) = fs::read_to_string(root.join(number.to_string()).join("stat")) else { continue };
            let Some(process) = process(&text) else { continue };
            if let Some(list) = found.get_mut(process.comm.as_str()) {
                list.push((*number, process));
            }
        }
        let span_s = self.at.replace(now).map(|at| now.saturating_duration_since(at).as_secs_f64());
        let before = std::mem::take(&mut self.before);
        let mut taken = BTreeSet::new();
        let mut figures = Vec::new();
        for name in watched {
            let list = found.remove(name.as_str()).unwrap_or_default();
            let id = row_id(name, &mut taken);
            let mut add = |what: &str, value: f64| {
                figures.push(Figure::new(format!("host.process.{id}.{what}"), Ok(value.into())))
            };
            add("count", list.len() as f64);
            let pages: u64 = list.iter().map(|(_, process)| process.resident_pages).fold(0, u64::saturating_add);
            add("memory", pages.saturating_mul(rustix::param::page_size() as u64) as f64);
            let grown = list.iter().filter_map(|(number, process)| {
                let before = before.get(&(*number, process.started))?;
                process.ticks.checked_sub(*before)
            });
            let ticks: u64 = grown.fold(0, u64::saturating_add);
            if let Some(span_s) = span_s.filter(|span_s| *span_s > 0.0) {
                let seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
                add("cpu", rounded(100.0 * seconds / span_s, 2));
            }
            self.before.extend(list.into_iter().map(|(number, process)| ((number, process.started), process.ticks)));
        }
        (numbers.len(), figures)
    }
}

/// A name may contain anything, closing brackets too: the last one ends it.
fn process(text: &str) -> Option<Process> {
    let (head, rest) = text.rsplit_once(") ")?;
    let (_, comm) = head.split_once(" (")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Counted from the state, which is the third field.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Process {
        comm: comm.to_owned(),
        ticks: number(14)?.saturating_add(number(15)?),
        started: number(22)?,
        resident_pages: number(24)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn stat(comm: &str, utime: u64, started: u64) -> String {
        format!("7 ({comm}) S 1 7 7 0 -1 4194560 100 0 0 0 {utime} 50 0 0 20 0 1 0 {started} 1000000 25 184467\n")
    }

    #[test]
    fn a_stat_line_is_understood_whatever_the_name() {
        let got = process(&stat("a) b (c", 100, 9)).unwrap();
        assert_eq!((got.comm.as_str(), got.ticks, got.resident_pages, got.started), ("a) b (c", 150, 25, 9));
        for bad in ["", "7 (x", "7 (x) S 1", "7 x S 1 2 3"] {
            assert_eq!(process(bad), None, "{bad}");
        }
    }

    #[test]
    fn processes_are_counted_and_a_restart_is_no_growth() {
        let root = std::env::temp_dir().join(format!("bcp-processes-{}", std::process::id()));
        let write = |pid: u32, text: String| {
            fs::create_dir_all(root.join(pid.to_string())).unwrap();
            fs::write(root.join(pid.to_string()).join("stat"), text).unwrap();
        };
        fs::create_dir_all(root.join("self")).unwrap();
        for pid in [10, 11] {
            write(pid, stat("nginx", 100, u64::from(pid)));
        }
        write(12, stat("other", 1, 1));
        let (mut processes, start) = (Processes::default(), Instant::now());
        let watched = ["nginx".to_owned(), "none".to_owned()];
        let read = |processes: &mut Processes, at| -> (usize, BTreeMap<String, String>) {
            let (count, figures) = processes.read(&root, &watched, at);
            (count, figures.into_iter().map(|f| (f.name, f.value.unwrap().to_string())).collect())
        };
        let (count, figures) = read(&mut processes, start);
        assert_eq!(count, 3);
        assert_eq!(figures["host.process.nginx.count"], "2");
        assert_eq!(figures["host.process.none.count"], "0");
        assert!(!figures.contains_key("host.process.nginx.cpu"), "growth takes two looks");
        let per_second = rustix::param::clock_ticks_per_second();
        write(10, stat("nginx", 100 + per_second, 10));
        // Number 11 is another process now.
        write(11, stat("nginx", 9_999_999, 4_711));
        let (_, figures) = read(&mut processes, start + Duration::from_secs(2));
        assert_eq!(figures["host.process.nginx.cpu"], "50");
        fs::remove_dir_all(&root).unwrap();
    }
}
