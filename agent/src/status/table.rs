//! What `bcp-agent status` prints: the agent, its delivery, its gate, then one line a device.

use std::fmt::Write as _;
use std::time::Duration;

use super::Status;
use crate::gate::machine::TicketFigures;
use crate::gate::record::BootMs;
use crate::publish::PublishFigures;
use crate::self_stats::{DeviceReport, Report};
use crate::source::traps::TrapReport;

/// A device's trouble is cut at this length; `--json` has the whole.
const TROUBLE_MAX_CHARS: usize = 80;

/// The text. `wall_ms` and `boot` are the clocks of this host, which the agent runs on too.
#[must_use]
pub fn text(status: &Status, wall_ms: i64, boot: BootMs) -> String {
    let mut text = agent(&status.agent, wall_ms);
    text += &delivery(&status.delivery, wall_ms);
    for ticket in status.gate.iter().flat_map(|gate| &gate.tickets) {
        text += &gate(ticket, boot);
    }
    text += &status.traps.as_ref().map(traps).unwrap_or_default();
    let width = status.agent.devices.iter().map(|device| device.id.as_str().len()).fold("device".len(), usize::max);
    let _ = writeln!(
        text,
        "\n{:<width$}  {:<7}  {:<9}  {:<17}  {:<15}  {:>8}  {:>8}  {:>8}  {:>7}  requests",
        "device", "answers", "last good", "error", "rtt p50/p99 ms", "polls", "missed", "failed", "next",
    );
    for device in &status.agent.devices {
        text += &line(device, width);
    }
    text
}

fn agent(report: &Report, wall_ms: i64) -> String {
    format!(
        "bcp-agent {}: up {}, {} polls, {} missed, {} failed, {} readings, p99 lateness {:.1} ms, {} of memory\n",
        report.version,
        age(since(wall_ms, report.started_ms)),
        report.polls,
        report.missed,
        report.failed,
        report.samples,
        report.lateness_p99_ms,
        bytes(report.rss_bytes),
    )
}

fn delivery(figures: &PublishFigures, wall_ms: i64) -> String {
    let session = match (figures.connected, &figures.last_error) {
        (true, _) => format!("connected, session {}", figures.sessions),
        (false, Some(reason)) => format!("not connected: {reason}"),
        (false, None) => "not connected yet".to_owned(),
    };
    let spool = &figures.spool;
    let oldest = spool.oldest_t_ms.map_or_else(String::new, |t_ms| format!(", oldest {}", age(since(wall_ms, t_ms))));
    format!(
        "broker     {session}; start {}, {} unsent, {} in flight, {} committed\n\
         spool      {} payloads, {} on disk, {} in memory{oldest}, {} dropped{}\n",
        figures.incarnation,
        figures.unsent,
        figures.in_flight,
        figures.committed,
        spool.payloads,
        bytes(spool.disk_bytes),
        bytes(spool.memory_bytes),
        spool.dropped,
        if spool.in_memory_only { "; THE DISK REFUSES, payloads are in memory only" } else { "" },
    )
}

fn gate(ticket: &TicketFigures, boot: BootMs) -> String {
    let holder = ticket.holder.map_or("nobody", |site| site.as_str());
    let lease = match ticket.deadline {
        Some(deadline) if deadline > boot => format!("lease for {:.1} s", seconds(deadline.since(boot))),
        Some(_) | None => "no lease".to_owned(),
    };
    let promise = ticket.promised_until.filter(|until| *until > boot);
    let promise =
        promise.map_or_else(String::new, |until| format!(", promised to wait {:.1} s", seconds(until.since(boot))));
    let trouble = ticket.trouble.as_ref().map_or_else(String::new, |trouble| format!("; {trouble}"));
    let closed = if ticket.closed { ", closed" } else { "" };
    format!(
        "ticket     {}: epoch {}{closed}, holder {holder}, {}, {lease}{promise}{trouble}\n",
        ticket.ticket, ticket.epoch, ticket.doing
    )
}

fn traps(report: &TrapReport) -> String {
    let counts: Vec<String> = report.counts.iter().map(|(verdict, count)| format!("{verdict:?} {count}")).collect();
    let mut text = format!("traps      on {}: {}\n", report.listen, counts.join(", "));
    for (what, shown) in [("from strangers", &report.strangers), ("without a name", &report.unnamed)] {
        for (key, count) in shown {
            let _ = writeln!(text, "           {what}: {key} {count} times");
        }
    }
    text
}

fn line(device: &DeviceReport, width: usize) -> String {
    let rtt = |rtt: Option<f64>| rtt.map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.1}"));
    let rtts = format!("{}/{}", rtt(device.rtt_p50_ms), rtt(device.rtt_p99_ms));
    let good = device.last_good_ago_ms.map_or_else(|| "never".to_owned(), |ms| age(Duration::from_millis(ms)));
    let error = match (&device.error, device.bad_points) {
        (None, _) => "-".to_owned(),
        (Some(class), 0) => class.clone(),
        (Some(class), 1) => format!("{class}, 1 point"),
        (Some(class), points) => format!("{class}, {points} points"),
    };
    let trouble: String = device.trouble.iter().flat_map(|trouble| trouble.chars()).take(TROUBLE_MAX_CHARS).collect();
    let line = format!(
        "{:<width$}  {:<7}  {good:<9}  {error:<17}  {rtts:<15}  {:>8}  {:>8}  {:>8}  {:>7}  {:>8}  {trouble}",
        device.id.as_str(),
        device.reachable.word().unwrap_or("unknown"),
        device.polls,
        device.missed,
        device.failed,
        age(Duration::from_millis(device.next_in_ms)),
        device.requests,
    );
    line.trim_end().to_owned() + "\n"
}

fn since(now_ms: i64, then_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(now_ms.saturating_sub(then_ms)).unwrap_or(0))
}

#[allow(clippy::cast_precision_loss)] // leases last seconds
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1e3
}

/// A span in the two largest units that say something: `0.4s`, `12s`, `3m20s`, `5h02m`, `4d03h`.
fn age(span: Duration) -> String {
    let s = span.as_secs();
    match s {
        0..10 => format!("{:.1}s", span.as_secs_f64()),
        10..60 => format!("{s}s"),
        60..3_600 => format!("{}m{:02}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h{:02}m", s / 3_600, s % 3_600 / 60),
        _ => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3_600),
    }
}

#[allow(clippy::cast_precision_loss)] // for people
fn bytes(count: u64) -> String {
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.1} GB", count as f64 / 1e9),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::gate::GateFigures;
    use crate::self_stats::Reachable;

    fn device(id: &str) -> DeviceReport {
        DeviceReport {
            id: id.parse().unwrap(),
            reachable: Reachable::Yes,
            interval_ms: 1_000,
            requests: 2,
            polls: 100,
            missed: 1,
            failed: 3,
            last_good_ms: Some(1_790_000_000_000),
            last_good_ago_ms: Some(400),
            error: None,
            bad_points: 0,
            rtt_p50_ms: Some(1.3),
            rtt_p99_ms: Some(8.0),
            next_in_ms: 600,
            trouble: None,
        }
    }

    #[test]
    fn a_supervisor_sees_who_answers_since_when_not_and_why() {
        let dead = DeviceReport {
            reachable: Reachable::No,
            last_good_ago_ms: Some(200_000),
            error: Some("timeout".to_owned()),
            bad_points: 20,
            trouble: Some("no answer within 500ms".to_owned()),
            ..device("ups-b2")
        };
        let new = DeviceReport {
            reachable: Reachable::Unknown,
            last_good_ms: None,
            last_good_ago_ms: None,
            rtt_p50_ms: None,
            rtt_p99_ms: None,
            ..device("crac-c3")
        };
        let status = Status {
            agent: Report {
                version: "1.2.3".to_owned(),
                started_ms: 1_790_000_000_000,
                polls: 300,
                missed: 3,
                failed: 9,
                samples: 6_000,
                lateness_p99_ms: 2.4,
                rss_bytes: 17_500_000,
                devices: vec![device("ups-a1"), dead, new],
            },
            delivery: PublishFigures { last_error: Some("connection refused".to_owned()), ..PublishFigures::default() },
            gate: Some(GateFigures::default()),
            traps: None,
        };
        let text = text(&status, 1_790_000_100_000, BootMs(5));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "bcp-agent 1.2.3: up 1m40s, 300 polls, 3 missed, 9 failed, 6000 readings, p99 lateness 2.4 ms, 17.5 MB of memory"
        );
        assert!(lines[1].contains("not connected: connection refused"), "{text}");
        let words = |line: &str| {
            line.split("  ").map(str::trim).filter(|w| !w.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        };
        let head = [
            "device",
            "answers",
            "last good",
            "error",
            "rtt p50/p99 ms",
            "polls",
            "missed",
            "failed",
            "next",
            "requests",
        ];
        assert_eq!(words(lines[4]), head);
        assert_eq!(words(lines[5]), ["ups-a1", "yes", "0.4s", "-", "1.3/8.0", "100", "1", "3", "0.6s", "2"]);
        let dead = [
            "ups-b2",
            "no",
            "3m20s",
            "timeout, 20 points",
            "1.3/8.0",
            "100",
            "1",
            "3",
            "0.6s",
            "2",
            "no answer within 500ms",
        ];
        assert_eq!(words(lines[6]), dead);
        assert_eq!(words(lines[7])[..4], ["crac-c3", "unknown", "never", "-"]);
        // What a script reads is the same, and reads back.
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["devices"][1]["error"], "timeout");
        assert_eq!(json["devices"][2]["last_good_ms"], serde_json::Value::Null);
        assert_eq!(serde_json::from_value::<Status>(json).unwrap().agent, status.agent);
    }

    #[test]
    fn spans_and_sizes_are_short() {
        let spans =
            [(400, "0.4s"), (59_999, "59s"), (3_599_000, "59m59s"), (18_120_000, "5h02m"), (356_400_000, "4d03h")];
        for (ms, want) in spans {
            assert_eq!(age(Duration::from_millis(ms)), want);
        }
        assert_eq!([bytes(999), bytes(1_500), bytes(20_000_000)], ["999 B", "1.5 kB", "20.0 MB"]);
    }
}
