use std::collections::BTreeMap;
use std::sync::Arc;

use askama::Template;
use bcp_core::alarms::{AlarmView, Figures};
use bcp_core::failover::TicketView;
use bcp_core::status::ServiceStatus;
use bcp_core::time::Wall;
use bcp_wire::Site;
use serde_json::{Value, json};

use super::model::ConsoleModel;
use super::page;
use crate::serve::view::{Agreement, ServiceView, View};

/// 2026-11-23 10:41:20 in Brussels.
const NOW: Wall = Wall(1_795_426_880_000);

fn alarm(id: &str, priority: &str, order: u64, change: &Value) -> AlarmView {
    let (rule, asset) = id.split_once('/').unwrap();
    let mut row = json!({
        "id": id, "rule": rule, "asset": asset, "site": "a", "state": "unacknowledged", "standing": "open", "active": true,
        "priority": priority, "title": {"en": format!("Title of {rule}")}, "runbook": null, "explain": "x > 1",
        "owner": null, "since_log_ms": 5, "since_wall_ms": NOW.0 - 60_000, "age_ms": 60_000, "raised_ago_ms": 61_000,
        "acknowledged_by": null, "shelved_by": null, "shelved_reason": null, "shelved_for_ms": null, "annunciated": true,
        "chattering": false, "damped": 0, "cause": null, "symptoms": 0, "first_symptoms": [], "order": order, "votes": {},
        "notes": [], "agreed": true,
    });
    for (key, value) in change.as_object().unwrap() {
        row[key] = value.clone();
    }
    serde_json::from_value(row).unwrap()
}

fn view(alarms: Vec<AlarmView>) -> View {
    let mut view = View::empty(Site::W, NOW);
    view.agreement = Agreement::Agreed;
    view.alarm_figures = Figures::default();
    view.alarms = Arc::new(alarms);
    view
}

fn now(view: &View) -> String {
    page::NowPart { model: ConsoleModel::of(view) }.render().unwrap()
}

#[test]
fn now_lists_what_needs_eyes_by_urgency_and_age_and_counts_the_rest() {
    let view = view(vec![
        alarm("normal/x", "critical", 1, &json!({"standing": "normal", "state": "normal", "active": false})),
        alarm("low/x", "low", 2, &json!({})),
        alarm("high-young/x", "high", 9, &json!({})),
        alarm("high-old/x", "high", 3, &json!({"acknowledged_by": "op-3", "state": "acknowledged"})),
        alarm("gone/x", "critical", 8, &json!({"active": false, "state": "returned_unacknowledged"})),
        alarm("waiting/x", "critical", 10, &json!({"standing": "waiting"})),
        alarm("folded/x", "low", 4, &json!({"standing": "consequence", "cause": "high-old/x"})),
        alarm(
            "shelved/x",
            "high",
            5,
            &json!({"standing": "shelved", "shelved_by": "op-1", "shelved_reason": "works", "shelved_for_ms": 60_000}),
        ),
        alarm("suppressed/x", "high", 6, &json!({"standing": "suppressed_by_design"})),
    ]);
    let model = ConsoleModel::of(&view);
    let listed: Vec<&str> = model.now.open.iter().map(|row| row.anchor.as_str()).collect();
    assert_eq!(listed, ["alarm-gone--x", "alarm-high-old--x", "alarm-high-young--x", "alarm-low--x"]);
    assert_eq!(model.now.beside, ["1 consequence", "1 just raised", "1 shelved", "1 suppressed"]);
    assert_eq!(model.now.open[0].age_ms, 61_000, "counted from the raise");
    let html = now(&view);
    for wanted in [
        "<b>4</b> to look at",
        "back to normal, not acknowledged",
        "acknowledged by op-3",
        "shelved by op-1 for 1 min 00 s more: works",
    ] {
        assert!(html.contains(wanted), "{wanted} in {html}");
    }
    assert!(!html.contains("Title of normal") && !html.contains("Title of waiting"), "{html}");
}

#[test]
fn consequences_are_folded_under_their_cause() {
    let folded =
        |id: &str, order| alarm(id, "low", order, &json!({"standing": "consequence", "cause": "site-lost/site-a"}));
    let cause = json!({"symptoms": 12, "first_symptoms": ["check-failing/rx-a-from-b", "ticket-no-failover/rx"]});
    let view = view(vec![
        alarm("site-lost/site-a", "critical", 1, &cause),
        folded("check-failing/rx-a-from-b", 2),
        folded("ticket-no-failover/rx", 3),
    ]);
    let html = now(&view);
    assert_eq!(html.matches("data-row ").count(), 1, "{html}");
    for wanted in ["12 consequences", "Title of check-failing <span class=\"where\">rx-a-from-b</span>", "and 10 more"]
    {
        assert!(html.contains(wanted), "{wanted} in {html}");
    }
}

#[test]
fn a_quiet_screen_says_so_and_when() {
    let html = now(&view(Vec::new()));
    assert!(html.contains("No alarm needs you") && html.contains("Looked at 10:41:20"), "{html}");
}

#[test]
fn without_a_script_the_strip_says_when_the_news_is_from() {
    let mut view = view(Vec::new());
    let entry = json!({"seq": 7, "index": 7, "log_time": 7, "wall": NOW.0 - 90_000, "author": "system", "subject": "cluster",
        "text": "The collector of site w leads from term 3.", "what": {"type": "command", "key": "x", "ok": true}, "cause": null, "prev": "", "hash": ""});
    view.ledger = Arc::new(vec![serde_json::from_value(entry).unwrap()]);
    let html = page::StripPart { model: ConsoleModel::of(&view) }.render().unwrap();
    assert!(html.contains("last news <b id=\"news\">10:41:20</b>"), "{html}");
    assert!(html.contains(">10:39:50</time>"), "the last change: {html}");
}

#[test]
fn what_happened_to_several_professions_at_once_is_one_row() {
    let entry = |seq: u64, index: u64, who: &str| {
        let event = json!({"event": "procedure", "service": "rx", "profession": who, "from": "off", "to": "armed"});
        let text = format!("BCP procedure of service rx for {who} went from off to armed.");
        serde_json::from_value(json!({"seq": seq, "index": index, "log_time": 1, "wall": NOW.0, "author": "system",
            "subject": "service:rx", "text": text, "what": {"type": "service", "event": event}, "cause": null, "prev": "", "hash": ""}))
        .unwrap()
    };
    let mut view = view(Vec::new());
    view.ledger = Arc::new(vec![
        entry(1, 4, "doctor"),
        entry(2, 5, "doctor"),
        entry(3, 5, "hospital"),
        entry(4, 5, "integrator"),
    ]);
    let rows = ConsoleModel::of(&view).recent;
    let texts: Vec<&str> = rows.iter().map(|row| row.text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "BCP procedure of service rx for doctor, hospital, integrator went from off to armed.",
            "BCP procedure of service rx for doctor went from off to armed.",
        ]
    );
}

#[test]
fn the_short_timeline_leaves_out_what_follows_from_another_alarm() {
    let entry = |seq: u64, event: Value| {
        let text = format!("{} of {}", event["event"].as_str().unwrap(), event["alarm"].as_str().unwrap());
        serde_json::from_value(
            json!({"seq": seq, "index": seq, "log_time": 1, "wall": NOW.0, "author": "system", "subject": "alarm:x",
            "text": text, "what": {"type": "alarm", "event": event}, "cause": null, "prev": "", "hash": ""}),
        )
        .unwrap()
    };
    let raised = |alarm: &str| json!({"event": "raised", "alarm": alarm, "priority": "low", "explain": "x"});
    let mut view = view(Vec::new());
    view.ledger = Arc::new(vec![
        entry(1, raised("site-lost/a")),
        entry(2, json!({"event": "annunciated", "alarm": "site-lost/a", "priority": "critical"})),
        entry(3, raised("check-failing/rx")),
        entry(4, json!({"event": "cause_found", "alarm": "check-failing/rx", "cause": "site-lost/a"})),
    ]);
    let model = ConsoleModel::of(&view);
    let texts = |rows: &[super::model::LedgerRow]| rows.iter().map(|row| row.text.clone()).collect::<Vec<_>>();
    assert_eq!(texts(&model.recent), ["raised of site-lost/a"]);
    assert_eq!(texts(&model.ledger).len(), 4, "the whole timeline has all");
}

fn ticket(kind: &str, change: &Value) -> TicketView {
    let gate = |site: &str| json!({"site": site, "gate": format!("host-{site}"), "present": true, "heard_ago_ms": 700, "seen": "1.1", "closed": false});
    let mut row = json!({
        "id": "portal", "service": "portal", "kind": kind, "mode": "auto", "sites": ["a", "b"], "preferred": "a", "holder": null,
        "last_holder": null, "epoch": "1.1", "revision": 1, "phase": "held", "steps": [],
        "sync": {"active": null, "peer_in_sync": null, "latched_ago_ms": null, "freshness": {}, "copies": {}},
        "gates": [gate("a"), gate("b")], "budget": {"used": 0, "of": 2}, "weights": {"a": 50, "b": 50}, "unfenced": true,
        "can_failover_now": {"ok": true, "target": "b", "reasons": []}, "history": [], "rule_hash": "abcd",
    });
    for (key, value) in change.as_object().unwrap() {
        row[key] = value.clone();
    }
    serde_json::from_value(row).unwrap()
}

fn service(status: ServiceStatus, explain: &str) -> ServiceView {
    ServiceView {
        id: "portal".parse().unwrap(),
        title: BTreeMap::from([("en".to_owned(), "Patient portal".to_owned())]),
        status,
        since: Some(NOW),
        by_site: BTreeMap::from([(Site::A, status), (Site::B, ServiceStatus::Up)]),
        explain: explain.to_owned(),
        ticket: Some("portal".parse().unwrap()),
        procedures: BTreeMap::new(),
        incident: None,
        agreed: true,
        local: status,
        local_explain: "9 of 9 checks up".to_owned(),
    }
}

/// The text of a fragment, without markup.
fn text(html: &str) -> String {
    let words: Vec<&str> = html.split('<').map(|piece| piece.split_once('>').map_or(piece, |(_, text)| text)).collect();
    let words = words.join(" ");
    words.split_whitespace().collect::<Vec<_>>().join(" ").replace("&#8239;", " ")
}

#[test]
fn a_service_active_at_both_sites_has_sides_and_no_holder() {
    let mut view = view(Vec::new());
    view.services = Arc::new(vec![service(ServiceStatus::Up, "")]);
    view.tickets = Arc::new(vec![ticket("active-active", &json!({}))]);
    let html = page::TicketsPart { model: ConsoleModel::of(&view) }.render().unwrap();
    let said = text(&html);
    assert!(said.contains("portal a 50 % + b 50 %") && said.contains("a working b working"), "{said}");
    assert!(!said.contains("nobody") && !html.contains("#s-down"), "{html}");
    assert_eq!(ConsoleModel::of(&view).tickets[0].class, "up");

    // One side is out.
    view.alarms = Arc::new(vec![alarm("site-lost/site-a", "critical", 1, &json!({}))]);
    view.tickets = Arc::new(vec![ticket("active-active", &json!({"weights": {"a": 0, "b": 100}}))]);
    let card = &ConsoleModel::of(&view).tickets[0];
    let sides: Vec<_> =
        card.sides.iter().map(|side| (side.site, side.serves, side.class, side.word.as_str())).collect();
    assert_eq!(sides, [(Site::B, true, "up", "working"), (Site::A, false, "down", "lost")]);
    assert_eq!(card.class, "degraded");
    view.tickets = Arc::new(vec![ticket("active-active", &json!({"weights": {}}))]);
    assert_eq!(ConsoleModel::of(&view).tickets[0].class, "down");
}

#[test]
fn a_ticket_with_a_holder_says_where() {
    let mut view = view(Vec::new());
    view.tickets = Arc::new(vec![ticket("active-passive", &json!({"holder": "a", "weights": {}}))]);
    let said = text(&page::TicketsPart { model: ConsoleModel::of(&view) }.render().unwrap());
    assert!(said.contains("portal at a"), "{said}");
    view.tickets = Arc::new(vec![ticket("active-passive", &json!({"weights": {}}))]);
    let model = ConsoleModel::of(&view);
    assert_eq!(model.tickets[0].class, "down");
    assert!(text(&page::TicketsPart { model }.render().unwrap()).contains("at nobody"));
}

#[test]
fn what_waits_for_a_person_says_who_asked_and_how_to_answer() {
    let mut view = view(Vec::new());
    let force = json!({"to": "b", "guard": "freshness", "by": "op-1", "reason": "a has burnt", "ago_ms": 1_000, "within_ms": 599_000});
    view.tickets =
        Arc::new(vec![ticket("active-passive", &json!({"holder": "a", "weights": {}, "force_asked": force}))]);
    let said = text(&page::TicketsPart { model: ConsoleModel::of(&view) }.render().unwrap());
    assert!(said.contains("op-1 asks to force it to site b around its freshness: a has burnt"), "{said}");
    assert!(said.contains("bcpctl force portal --to b --guard freshness --reason"), "{said}");
    assert!(said.contains("bcpctl abort portal") && said.contains("--expect 1.1,1"), "{said}");
}

#[test]
fn a_service_has_one_line_and_a_page_with_the_rest() {
    let mut view = view(Vec::new());
    let long =
        "a, b say down: 6 of 9 checks up; rx-a-from-a, rx-a-from-b, rx-a-from-w down; w says up: 9 of 9 checks up";
    view.services = Arc::new(vec![service(ServiceStatus::Up, long)]);
    let list = page::ServicesPart { model: ConsoleModel::of(&view) }.render().unwrap();
    assert!(
        list.contains("9 of 9 checks up") && !list.contains("rx-a-from-a"),
        "a good service needs no history: {list}"
    );
    view.services = Arc::new(vec![service(ServiceStatus::Down, long)]);
    let list = page::ServicesPart { model: ConsoleModel::of(&view) }.render().unwrap();
    assert!(list.contains("class=\"more one\"") && list.contains("href=\"/services/portal\""), "{list}");
    let service = super::services::ServicePage::of(&view, "portal").unwrap();
    assert!(page::ServicePart { service }.render().unwrap().contains(long));
    assert!(super::services::ServicePage::of(&view, "none").is_none());
}
