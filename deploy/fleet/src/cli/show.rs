//! Answers as text.

use std::fmt::Write as _;
use std::time::Duration;

use bcp_wire::Site;

use crate::api::Status;
use crate::ports::DEFAULT_BASE;
use crate::units::{Health, Process};

pub(super) fn table(status: &Status) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "fleet on base port {}, files in {}", status.base_port, status.data_dir);
    for site in Site::ALL {
        let _ = writeln!(text, "\nsite {site}");
        status.processes.iter().filter(|process| process.site == site).for_each(|process| line(process, &mut text));
    }
    if !status.beside.is_empty() {
        let _ = writeln!(text, "\nbeside the sites");
        status.beside.iter().for_each(|process| line(process, &mut text));
    }
    let _ = writeln!(text, "\nlinks");
    let mut is_any = false;
    for link in &status.links {
        let mut what = Vec::new();
        if link.cut {
            what.push("CUT".to_owned());
        }
        if link.delay_ms + link.jitter_ms > 0 {
            what.push(format!("{} ms and up to {} ms more", link.delay_ms, link.jitter_ms));
        }
        if link.loss_percent > 0 {
            what.push(format!("{} % of the packets are lost", link.loss_percent));
        }
        if !what.is_empty() {
            is_any = true;
            let _ = writeln!(text, "  {} to {}: {}", link.from, link.to, what.join(", "));
        }
    }
    if !is_any {
        let _ = writeln!(text, "  all open, without delay or loss");
    }
    let _ = writeln!(text, "\ntickets");
    if status.tickets.is_empty() {
        let _ = writeln!(text, "  no console answers");
    }
    for ticket in &status.tickets {
        let get = |key: &str| ticket[key].as_str().unwrap_or("-");
        let can = &ticket["can_failover_now"];
        let reasons: Vec<String> = can["reasons"].as_array().into_iter().flatten().map(reason_text).collect();
        let can = match can["ok"].as_bool() {
            Some(true) => "can fail over now".to_owned(),
            _ => format!("cannot fail over now: {}", reasons.join("; ")),
        };
        let shares = ticket["weights"].as_object().into_iter().flatten();
        let shares: Vec<String> = shares.map(|(site, share)| format!("{site} {share} %")).collect();
        let carried_by = ticket["holder"].as_str().map_or(shares.join(", "), str::to_owned);
        let _ = writeln!(text, "  {:<18} {} at {carried_by}, epoch {}; {can}", get("id"), get("phase"), get("epoch"));
    }
    let _ = writeln!(text, "\nfront doors");
    for (service, route) in &status.front {
        let weights: Vec<String> = route.weights.iter().map(|(site, weight)| format!("{site}:{weight}")).collect();
        let _ = writeln!(text, "  {service:<18} epoch {}  {}", route.epoch, weights.join(" "));
    }
    let seen = &status.visitor;
    let ago = |ms: Option<u64>| ms.map_or(String::new(), |ms| format!(", {} s ago", ms / 1_000));
    let last = seen.last_gap_ms.map_or("none".to_owned(), |ms| format!("{ms} ms{}", ago(seen.last_gap_ended_ms_ago)));
    let open = seen.open_gap_ms.map_or(String::new(), |ms| format!("; NO ANSWER for {ms} ms now"));
    let _ = writeln!(
        text,
        "\nvisitor of prescriptions\n  {} answers, last gap {last}, longest {} ms{open}\n  {} writes acknowledged, {} refused, {} lost, longest gap {} ms",
        seen.answered,
        seen.longest_gap_ms,
        seen.writes_acknowledged,
        seen.writes_refused,
        seen.writes_lost,
        seen.longest_write_gap_ms
    );
    if let Some(written) = &status.writer {
        let _ = writeln!(
            text,
            "\nwriter of {}\n  {} rows acknowledged, {} without an answer, {} lost, longest gap {} ms, the last row {} ms ago",
            crate::reference::NAME,
            written.acknowledged,
            written.unknown,
            written.lost,
            written.longest_gap_ms,
            written.silent_ms
        );
    }
    text
}

fn line(process: &Process, text: &mut String) {
    let state = match process.state {
        Health::Down => "down",
        Health::Running => "running",
        Health::Paused => "PAUSED",
        Health::Restarting => "restarting",
    };
    let pid = process.pid.map_or("-".to_owned(), |pid| pid.to_string());
    let restarts = if process.restarts > 0 { format!("  restarted {}x", process.restarts) } else { String::new() };
    let _ = writeln!(text, "  {:<18} {state:<10} {pid:>8}{restarts}", process.name);
}

fn reason_text(reason: &serde_json::Value) -> String {
    reason.as_str().map_or_else(|| reason.to_string(), str::to_owned)
}

pub(super) fn welcome(status: &Status, took: Duration) -> String {
    let mut text = format!("ready after {:.1} s\n\n", took.as_secs_f64());
    let get = |name: &str| status.urls.get(name).cloned().unwrap_or_default();
    let _ = writeln!(text, "  {:<16} {:<26} {:<26}", "", "console and API", "public page");
    for site in Site::ALL {
        let name = match site {
            Site::A => "datacenter a",
            Site::B => "datacenter b",
            Site::W => "witness w",
        };
        let (console, public) = (get(&format!("{site} console")), get(&format!("{site} public page")));
        let _ = writeln!(text, "  {name:<16} {console:<26} {public:<26}");
    }
    let _ = writeln!(text, "  {:<16} {}", "prescriptions", get("prescriptions"));
    let _ = writeln!(text, "  {:<16} {}", "patient-portal", get("patient-portal"));
    if status.writer.is_some() {
        let name = get(&format!("{} name", crate::reference::NAME));
        let _ = writeln!(text, "  {:<16} {}, {name}", crate::reference::NAME, get(crate::reference::NAME));
    }
    let port =
        if status.base_port == DEFAULT_BASE { String::new() } else { format!(" --base-port {}", status.base_port) };
    let _ = write!(
        text,
        "\nTry, in another terminal:  fleet kill a{port}   and watch prescriptions move to b on the console of w.\n\
         `fleet --help` has more; with cargo: `cargo run --release -- kill a{port}`. Ctrl-C here ends everything."
    );
    text
}
