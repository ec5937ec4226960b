//! Answers as text for a terminal. Colour only there, and not where `NO_COLOR` is set; the words say everything without it.

use std::io::IsTerminal;

use bcp_core::alarms::{AlarmView, Priority};
use bcp_core::failover::{Explanation, TicketView};
use bcp_core::policy::TicketKind;
use bcp_core::replica::CommandResult;
use bcp_core::status::{Intervention, ServiceStatus, State as Services};
use bcp_wire::Site;
use serde_json::Value;

use crate::mirror::verify::Verified;
use crate::web::public::lang::Lang;
use crate::web::public::when;

pub(super) const RED: &str = "31";
pub(super) const GREEN: &str = "32";
pub(super) const YELLOW: &str = "33";
pub(super) const BOLD: &str = "1";

pub(super) fn paint(colour: &str, text: &str) -> String {
    let coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if coloured { format!("\u{1b}[{colour}m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// Columns as wide as their widest cell; the last one is as long as it is.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(std::iter::once(head[column].len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    println!("{}", paint(BOLD, &line(&head)));
    for row in rows {
        println!("{}", line(row));
    }
}

pub(super) fn site(site: Option<Site>) -> String {
    site.map_or_else(|| "-".to_owned(), |site| site.to_string())
}

pub fn tickets(views: &[TicketView]) {
    let row = |view: &TicketView| {
        let phase = view.stage.clone().unwrap_or_else(|| view.phase.as_str().to_owned());
        let ready = if view.can_failover_now.ok {
            match view.kind {
                TicketKind::ActivePassive => format!("yes, to {}", site(view.can_failover_now.target)),
                TicketKind::ActiveActive => "yes, each side can carry all".to_owned(),
            }
        } else {
            format!("no: {}", view.can_failover_now.reasons.join("; "))
        };
        vec![
            view.id.to_string(),
            view.carried_by(),
            view.epoch.to_string(),
            phase,
            view.mode.as_str().to_owned(),
            if view.frozen.is_some() { "frozen" } else { "-" }.to_owned(),
            ready,
        ]
    };
    table(
        &["TICKET", "CARRIED BY", "EPOCH", "PHASE", "MODE", "FROZEN", "CAN FAIL OVER NOW"],
        &views.iter().map(row).collect::<Vec<_>>(),
    );
}

pub fn explanation(explanation: &Explanation) {
    println!("{}: {}", paint(BOLD, explanation.ticket.as_ref()), explanation.decision);
    println!("rule {}: moves when {}", explanation.rule.hash, explanation.rule.move_when.join(" or "));
    println!("rpo {}, mode {}", explanation.rule.rpo, explanation.rule.mode.as_str());
    for input in &explanation.inputs {
        println!("  {} = {}", input.name, input.value);
    }
    for vote in &explanation.votes {
        let age = vote.age_ms.map_or_else(|| "never".to_owned(), |age| format!("{age} ms ago"));
        let counted = if vote.counted { "" } else { ", not counted" };
        println!("  {} about {}, {}: {} ({age}{counted})", vote.observer, vote.about, vote.what, vote.says);
    }
    for done in &explanation.did {
        println!("{} {done}", paint(GREEN, "did:"));
    }
    for not_done in &explanation.did_not {
        println!("{} {not_done}", paint(YELLOW, "did not:"));
    }
    match &explanation.can_failover_now {
        can if can.ok => println!("can fail over now, to {}", site(can.target)),
        can => println!("{} {}", paint(RED, "cannot fail over now:"), can.reasons.join("; ")),
    }
}

pub fn alarms(views: &[AlarmView]) {
    if views.is_empty() {
        println!("no alarms");
        return;
    }
    for view in views {
        let colour = match view.priority {
            Priority::Critical | Priority::High => RED,
            Priority::Medium | Priority::Low => YELLOW,
        };
        let title = view.title.get("en").or_else(|| view.title.values().next()).map_or("", String::as_str);
        let priority = format!("{:?}", view.priority).to_lowercase();
        println!("{:<9} {:<26} {}  {title}", paint(colour, &priority), view.state, view.id);
        println!("          {}", view.explain);
        if let Some(cause) = &view.cause {
            println!("          explained by {cause}");
        }
    }
}

pub fn services(services: &Services) {
    let row = |(id, service): (&bcp_wire::Id, &bcp_core::status::Service)| {
        let sites: Vec<String> =
            service.by_site.iter().map(|(site, s)| format!("{site} {}", s.status.as_str())).collect();
        vec![id.to_string(), service.status.as_str().to_owned(), sites.join(", "), service.reason.clone()]
    };
    table(&["SERVICE", "STATUS", "BY SITE", "REASON"], &services.services.iter().map(row).collect::<Vec<_>>());
    for incident in services.incidents.values().filter(|incident| incident.resolved.is_none()) {
        let of: Vec<&str> = incident.services.iter().map(AsRef::as_ref).collect();
        let colour = if incident.worst == ServiceStatus::Down { RED } else { YELLOW };
        let phase = incident.phase.as_str();
        println!("{} {}: {phase}, {}", paint(colour, "incident"), incident.id, of.join(", "));
    }
}

pub fn works(works: &[&Intervention]) {
    if works.is_empty() {
        println!("no planned work");
        return;
    }
    let row = |work: &&Intervention| {
        let of: Vec<&str> = work.services.iter().map(AsRef::as_ref).collect();
        vec![
            work.id.clone(),
            work.phase.as_str().replace('_', " "),
            when::full(work.starts, Lang::En).text,
            when::full(work.ends, Lang::En).text,
            of.join(", "),
        ]
    };
    table(&["WORK", "PHASE", "FROM", "TO", "SERVICES"], &works.iter().map(row).collect::<Vec<_>>());
}

pub fn verified(found: &Verified) {
    let (colour, word) = if found.current { (GREEN, "valid now") } else { (RED, "EXPIRED: its state is unknown") };
    println!("genuine, signed by the collector of site {}; {}", found.issuer, paint(colour, word));
    println!("publication {} of {}, valid until {}", found.sequence, found.as_of, found.valid_until);
    if let Some((count, total)) = found.agreeing {
        println!("{count} of {total} measuring sites had a say");
    }
    println!("{} files, {} bytes, each as it was signed", found.files, found.bytes);
}

pub fn status(status: &Value) {
    let standing = &status["standing"];
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let leader = text(&standing["leader"]);
    let colour = if leader == "-" { RED } else { GREEN };
    println!("collector {}, leader {}, term {}", text(&standing["site"]), paint(colour, &leader), standing["term"]);
    println!(
        "log index {}, log time {} ms, ledger {}",
        status["index"], status["log_time_ms"], status["ledger"]["seq"]
    );
    let members = standing["members"].as_object();
    for (site, member) in members.into_iter().flatten() {
        let sight = |what: &str| text(&status["sight"][what][site]);
        let age = |key: &str| member[key].as_u64().map_or_else(|| "never".to_owned(), |age| format!("{age} ms ago"));
        println!(
            "  {site}: collector heard {}, a gate {}; control {}, agents {}",
            age("last_contact_ms"),
            age("last_gate_ms"),
            sight("control"),
            sight("agents")
        );
    }
}

pub fn result(result: &CommandResult) {
    let (colour, word) = if result.ok { (GREEN, "done") } else { (RED, "refused") };
    println!("{}: {}", paint(colour, word), result.message);
}
