//! Serves the console with made-up data, to look at it: `cargo run -p bcp-collector --example console -- ADDRESS [empty]`.
//! Values change once a second; `kill -STOP` shows what a stale screen looks like.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::http::header;
use axum::routing::get;
use bcp_collector::serve::feed::Topic;
use bcp_collector::serve::view::{
    AgentView, Agreement, BrokerView, DeviceView, LinkState, PointInfo, PointState, SharedView, SourceState, View,
    shared,
};
use bcp_collector::web::console;
use bcp_core::time::{Mono, Wall};
use bcp_wire::{DeviceMeta, Quality, Site, Value};
use serde_json::json;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:25002".to_owned());
    let empty = args.next().as_deref() == Some("empty");
    let first = if empty { View::empty(Site::A, wall()?) } else { sample(0)? };
    let (writer, view) = shared(first);
    let app = console::router(view.clone())
        .merge(Router::new().route("/api/v1/stream", get(move || stream(view.clone()))))
        .route("/api/v1/history", get(history));
    tokio::spawn(async move {
        for second in 1.. {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if !empty && let Ok(view) = sample(second) {
                writer.publish(view);
                writer.feed().push(Topic::Points, json!({"device": "crac-a1"}).to_string());
                writer.feed().push(Topic::Sources, "{}".to_owned());
                if second.is_multiple_of(10) {
                    writer.feed().push(Topic::Ledger, "{}".to_owned());
                    writer.feed().push(Topic::Alarms, "{}".to_owned());
                }
            }
            writer.feed().push(Topic::Beat, "{}".to_owned());
        }
    });
    let listener = tokio::net::TcpListener::bind(&address).await?;
    println!("console on http://{address}/");
    axum::serve(listener, app).await?;
    Ok(())
}

async fn stream(view: SharedView) -> ([(header::HeaderName, &'static str); 1], Body) {
    let reader = view.feed().read_after(None);
    let events = futures::stream::unfold(reader, |mut reader| async move {
        let events = reader.next().await.ok()?;
        let text: String = events
            .iter()
            .map(|event| format!("id: {}\nevent: {}\ndata: {}\n\n", event.id, event.topic.as_str(), event.data))
            .collect();
        Some((Ok::<_, std::convert::Infallible>(text), reader))
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events))
}

async fn history() -> axum::Json<serde_json::Value> {
    let now = wall().map_or(0, |wall| wall.0);
    let reading = |i: i64| {
        let hole = (120..150).contains(&i);
        let value = 22.0 + (i as f64 / 17.0).sin() * 2.0;
        json!({"t": now - (300 - i) * 12_000, "value": if hole { None } else { Some(value) }, "quality": if hole { "bad:timeout" } else { "good" }})
    };
    axum::Json(json!({"samples": (0..300).map(reading).collect::<Vec<_>>()}))
}

fn wall() -> anyhow::Result<Wall> {
    Ok(Wall(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?))
}

fn sample(second: u64) -> anyhow::Result<View> {
    let now = wall()?;
    let mut view = View::empty(Site::A, now);
    view.mono = Mono(100_000 + second * 1000);
    view.revision = second;
    view.agreement = Agreement::Agreed;
    view.decide.age_ms = Some(120);
    view.decide.leader = Some(Site::W);
    view.decide.quorum = true;
    view.decide.members = BTreeMap::from([(Site::A, Some(0)), (Site::B, Some(4_200)), (Site::W, Some(80))]);
    for site in Site::ALL {
        let link = if site == Site::B { LinkState::Away } else { LinkState::Up };
        let broker = BrokerView { site, link, age_ms: Some(300), trouble: None, reconnects: 0 };
        view.brokers.insert(site, broker);
    }
    let agent = |site, name: &str, source| -> anyhow::Result<Arc<AgentView>> {
        let received = view.mono;
        let agent = name.parse()?;
        Ok(Arc::new(AgentView { site, agent, source, state: None, received, devices: 3, through: 9, missing: 0 }))
    };
    view.agents = Arc::new(vec![
        agent(Site::A, "gw-a", SourceState::Fresh)?,
        agent(Site::B, "gw-b", SourceState::BrokerAway)?,
        agent(Site::W, "gw-w", SourceState::Fresh)?,
    ]);
    let mut devices = BTreeMap::new();
    for (id, kind, site) in [
        ("crac-a1", "crac", Site::A),
        ("crac-a2", "crac", Site::A),
        ("ups-a1", "ups", Site::A),
        ("meter-a1", "meter", Site::A),
        ("crac-b1", "crac", Site::B),
        ("ups-b1", "ups", Site::B),
        ("ups-w1", "ups", Site::W),
    ] {
        let device = device(id, kind, site, view.mono, second)?;
        devices.insert(device.id.clone(), Arc::new(device));
    }
    view.devices = Arc::new(devices);
    view.alarms = Arc::new(alarms(now, second)?);
    view.tickets = Arc::new(tickets()?);
    view.services = Arc::new(services(now));
    view.ledger = Arc::new(ledger(now, second)?);
    Ok(view)
}

fn device(id: &str, kind: &str, site: Site, now: Mono, second: u64) -> anyhow::Result<DeviceView> {
    let wobble = (second as f64 / 7.0).sin();
    let points: Vec<(&str, &str, Value)> = match kind {
        "crac" => vec![
            ("fan.1.speed", "%", Value::Num(61.0)),
            ("return.air.temperature", "Cel", Value::Num(31.5 + wobble)),
            ("supply.air.temperature", "Cel", Value::Num(if id == "crac-a2" { 28.3 } else { 22.4 } + wobble)),
            ("unit.state", "", Value::Text(if id == "crac-a2" { "fault" } else { "on" }.to_owned())),
        ],
        "ups" => vec![
            ("battery.charge", "%", Value::Num(if id == "ups-w1" { 71.0 } else { 100.0 })),
            ("battery.runtime", "s", Value::Num(if id == "ups-w1" { 440.0 } else { 2_700.0 })),
            ("ups.load", "%", Value::Num(43.0 + wobble)),
            ("ups.status", "", Value::Text(if id == "ups-w1" { "OB DISCHRG" } else { "OL" }.to_owned())),
        ],
        _ => vec![("meter.realpower", "W", Value::Num(184_300.0 + wobble * 900.0))],
    };
    let source = if site == Site::B { SourceState::BrokerAway } else { SourceState::Fresh };
    let meta: DeviceMeta = serde_json::from_value(json!({
        "v": 1, "i": 1, "device": id, "kind": kind, "location": format!("{site}/hall1"), "points": [],
        "profile": {"id": format!("generic/{kind}-demo"), "hash": "0123456789abcdef"},
    }))?;
    let point = |(name, unit, value): (&str, &str, Value)| -> anyhow::Result<PointState> {
        let info = PointInfo {
            name: name.parse()?,
            unit: unit.to_owned(),
            interval_ms: 1_000,
            source: Some("holding:100".to_owned()),
        };
        let bad = name == "fan.1.speed" && id == "crac-a2";
        Ok(PointState {
            info: Arc::new(info),
            value: (!bad).then_some(value),
            quality: if bad { Quality::Bad(bcp_wire::BadReason::Timeout) } else { Quality::Good },
            sampled: wall()?,
            received: Mono(now.0 - if source == SourceState::Fresh { 400 } else { 64_000 }),
        })
    };
    Ok(DeviceView {
        id: id.parse()?,
        site,
        agent: format!("gw-{site}").parse()?,
        source,
        meta: Some(Arc::new(meta)),
        points: points.into_iter().map(point).collect::<Result<_, _>>()?,
        gaps: Vec::new(),
        received: Some(Mono(now.0 - 400)),
    })
}

fn alarms(now: Wall, second: u64) -> anyhow::Result<Vec<bcp_core::alarms::AlarmView>> {
    let alarm = |id: &str, site: &str, priority: &str, title: &str, age: u64, symptoms: usize, explain: &str| {
        let (rule, asset) = id.split_once('/').unwrap_or((id, ""));
        json!({"id": id, "rule": rule, "asset": asset, "site": site, "state": "unacknowledged", "standing": "open", "active": true,
            "priority": priority, "title": {"en": title}, "runbook": "cooling/supply-air-hot.md", "explain": explain,
            "owner": if priority == "high" { Some("op-3") } else { None }, "since_log_ms": 5, "since_wall_ms": now.0 - age as i64,
            "age_ms": age, "raised_ago_ms": age, "acknowledged_by": null, "shelved_by": null, "shelved_reason": null, "shelved_for_ms": null,
            "annunciated": true, "chattering": false, "damped": 0, "cause": null, "symptoms": symptoms,
            "first_symptoms": if symptoms > 0 { vec!["pdu-w1", "rack-w1"] } else { vec![] }, "order": 1, "votes": {}, "notes": [], "agreed": true})
    };
    let mut all = vec![
        alarm(
            "on-battery/ups-w1",
            "w",
            "critical",
            "UPS on battery",
            42_000,
            38,
            "ups.status \"OB DISCHRG\" (0.4 s old) has OB",
        ),
        alarm(
            "supply-air-hot/crac-a2",
            "a",
            "high",
            "Supply air too warm",
            190_000,
            0,
            "supply.air.temperature 28.3 Cel (0.4 s old) > 27.0",
        ),
        alarm("broker-away/b", "b", "medium", "Broker of site b not heard", 64_000, 3, "no packet for 64 s"),
    ];
    for extra in 0..second / 10 {
        all.push(alarm(&format!("fan-slow/crac-a{extra}"), "a", "low", "Fan slow", 1_000, 0, "fan.1.speed 12 % < 20"));
    }
    Ok(serde_json::from_value(json!(all))?)
}

fn tickets() -> anyhow::Result<Vec<bcp_core::failover::TicketView>> {
    let ticket = |id: &str, moving: bool| {
        let mut ticket = json!({"id": id, "service": id, "kind": "active-passive", "mode": "auto", "sites": ["a", "b"], "preferred": "a",
            "holder": "a", "last_holder": "a", "epoch": "1.41", "revision": 7, "phase": "held", "steps": [],
            "sync": {"active": "a", "peer_in_sync": !moving, "latched_ago_ms": 4000, "freshness": {}, "copies": {}},
            "gates": [{"site": "a", "gate": "host-a", "present": true, "heard_ago_ms": 700, "seen": "1.41", "closed": false},
                      {"site": "b", "gate": "host-b", "present": false, "heard_ago_ms": 64000, "seen": "1.41", "closed": false, "trouble": "not heard"}],
            "budget": {"used": 0, "of": 2}, "weights": {}, "unfenced": true,
            "can_failover_now": {"ok": !moving, "target": "b", "reasons": if moving { vec!["site b is not heard", "copy at b is not latched in sync"] } else { vec![] }},
            "history": [], "rule_hash": "abcd"});
        if moving {
            ticket["stage"] = json!("lapsing");
            ticket["target"] = json!("b");
            ticket["cause"] = json!("site a is lost");
            ticket["phase"] = json!("granting");
            ticket["countdown"] = json!("takes effect");
            ticket["countdown_ms"] = json!(38_000);
            ticket["steps"] = json!([{"kind": "seal", "site": "a", "gate": "host-a", "epoch": "1.42", "attempt": 2, "state": "ordered"}]);
        }
        ticket
    };
    Ok(serde_json::from_value(json!([ticket("prescriptions", false), ticket("registry", true)]))?)
}

fn services(now: Wall) -> Vec<bcp_collector::serve::view::ServiceView> {
    use bcp_core::status::ServiceStatus::{Degraded, Unknown, Up};
    let service = |id: &str, title: &str, status, other| bcp_collector::serve::view::ServiceView {
        id: id.parse().expect("a literal id"),
        title: BTreeMap::from([("en".to_owned(), title.to_owned())]),
        status,
        since: Some(Wall(now.0 - 400_000)),
        by_site: BTreeMap::from([(Site::A, status), (Site::B, other)]),
        explain: "a says up: 2 of 2 checks answer".to_owned(),
        ticket: None,
        procedures: BTreeMap::new(),
        incident: None,
        agreed: true,
        local: status,
        local_explain: String::new(),
    };
    vec![
        service("prescriptions", "Prescriptions", Up, Up),
        service("patient-portal", "Patient portal", Degraded, Unknown),
    ]
}

fn ledger(now: Wall, second: u64) -> anyhow::Result<Vec<bcp_core::ledger::LedgerEntry>> {
    let entry = |seq: u64| {
        json!({"seq": seq, "index": seq, "log_time": seq, "wall": now.0 - (60 - seq as i64).max(0) * 31_000, "author": "system",
            "subject": if seq.is_multiple_of(2) { "alarm:supply-air-hot/crac-a2" } else { "ticket:registry" },
            "text": "Alarm supply-air-hot/crac-a2 raised, priority high: supply.air.temperature 28.3 Cel (0.4 s old) > 27.0.",
            "what": {"type": "command", "key": "x", "ok": true}, "cause": (seq > 3).then_some(seq - 1), "prev": "", "hash": ""})
    };
    Ok(serde_json::from_value(json!((1..=20 + second / 10).map(entry).collect::<Vec<_>>()))?)
}
