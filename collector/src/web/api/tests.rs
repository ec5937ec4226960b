use std::collections::BTreeMap;
use std::path::PathBuf;

use axum::body::Body;
use axum::http::Request;
use bcp_core::time::{Mono, Wall};
use bcp_wire::{Quality, Value};
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;
use crate::serve::feed::Topic;
use crate::serve::view::{self, DeviceView, PointInfo, PointState, SourceState, ViewWriter};
use crate::serve::wall_now;
use crate::store::{Group, Sample};

struct Bench {
    app: Router,
    writer: ViewWriter,
    dir: PathBuf,
    store: Arc<Store>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn device() -> DeviceView {
    let info = PointInfo {
        name: "supply.air.temperature".parse().unwrap(),
        unit: "Cel".into(),
        interval_ms: 1_000,
        source: Some("holding:100".into()),
    };
    DeviceView {
        id: "crac-a1".parse().unwrap(),
        site: Site::A,
        agent: "gw-a".parse().unwrap(),
        source: SourceState::Fresh,
        meta: None,
        points: vec![PointState {
            info: Arc::new(info),
            value: Some(Value::Num(21.5)),
            quality: Quality::Good,
            sampled: Wall(1_790_000_000_123),
            received: Mono(9_000),
        }],
        gaps: Vec::new(),
        received: Some(Mono(9_000)),
    }
}

fn bench(name: &str) -> Bench {
    let dir = std::env::temp_dir().join(format!("bcp-api-{name}-{}-{:x}", std::process::id(), rand::random::<u64>()));
    let store = Arc::new(Store::open(&dir, Duration::from_secs(86_400 * 36_500)).unwrap());
    let ledger = Arc::new(Mutex::new(Ledger::open(&dir.join("ledger.db")).unwrap()));
    let mut first = View::empty(Site::A, wall_now());
    first.mono = Mono(10_000);
    first.revision = 1;
    first.devices = Arc::new(BTreeMap::from([("crac-a1".parse().unwrap(), Arc::new(device()))]));
    let (writer, view) = view::shared(first);
    let app = router(Api::new(Site::A, view, Arc::clone(&store), ledger));
    Bench { app, writer, dir, store }
}

impl Bench {
    async fn get(&self, path: &str) -> (u16, Js) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = self.app.clone().oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (
            status,
            serde_json::from_slice(&body).unwrap_or_else(|_| Js::String(String::from_utf8_lossy(&body).into_owned())),
        )
    }
}

#[tokio::test]
async fn lists_have_their_names_and_say_how_fresh_they_are() {
    let bench = bench("lists");
    for list in ["sites", "devices", "points", "alarms", "services", "tickets", "ledger"] {
        let (status, body) = bench.get(&format!("/api/v1/{list}")).await;
        assert_eq!(status, 200, "{list}: {body}");
        assert!(body[list].is_array(), "{list}: {body}");
        assert_eq!((body["site"].as_str(), body["agreement"].as_str()), (Some("a"), Some("local")));
        assert!(body["as_of"].as_str().is_some_and(|at| at.ends_with('Z')));
    }
    for object in ["cluster", "ingest", "openapi.json"] {
        assert_eq!(bench.get(&format!("/api/v1/{object}")).await.0, 200, "{object}");
    }
    assert!(bench.get("/api/v1/ingest").await.1["refused"].is_object());
}

#[tokio::test]
async fn a_point_has_the_fields_that_scripts_read() {
    let bench = bench("point");
    let (_, body) = bench.get("/api/v1/points?device=crac-a1").await;
    let wanted = json!({
        "device": "crac-a1", "point": "supply.air.temperature", "value": 21.5, "unit": "Cel", "quality": "good",
        "reason": null, "time": "2026-09-21T14:13:20.123Z", "age_ms": 1_000, "source": "holding:100", "interval_ms": 1_000,
    });
    assert_eq!(body["points"], json!([wanted]));
}

#[tokio::test]
async fn every_error_says_what_and_how_to_go_on() {
    let bench = bench("errors");
    for (path, wanted) in [
        ("/api/v1/points?device=none", 404),
        ("/api/v1/points?device=NOT%20AN%20ID", 400),
        ("/api/v1/history?device=crac-a1", 400),
        ("/api/v1/history?device=crac-a1&point=supply.air.temperature&from=yesterday", 400),
        ("/api/v1/history?device=crac-a1&point=supply.air.temperature&from=-1h&to=-2h", 400),
        ("/api/v1/history?device=crac-a1&point=supply.air.temperature&max=0", 400),
        ("/api/v1/history?device=nobody&point=ups.load", 404),
        ("/api/v1/history?device=crac-a1&point=ups.load", 404),
        ("/api/v1/ledger?limit=5000", 400),
        ("/api/v1/tickets/NO/explain", 400),
        ("/api/v1/tickets/none/explain", 503),
        ("/api/v1/nothing", 404),
    ] {
        let (status, body) = bench.get(path).await;
        assert_eq!(status, wanted, "{path}: {body}");
        assert!(body["error"].as_str().is_some_and(|t| !t.is_empty()), "{path}: {body}");
        assert!(body["help"].as_str().is_some_and(|t| !t.is_empty()), "{path}: {body}");
    }
    let post = Request::post("/api/v1/alarms").body(Body::empty()).unwrap();
    assert_eq!(bench.app.clone().oneshot(post).await.unwrap().status(), 405);
}

#[tokio::test]
async fn history_is_given_whole_or_in_buckets() {
    let bench = bench("history");
    let series =
        bench.store.series(&"crac-a1".parse().unwrap(), &"supply.air.temperature".parse().unwrap(), false).unwrap();
    let start = wall_now().0 - 600_000;
    let mut group = Group::default();
    group.samples.extend((0..600).map(|k| (series, Sample { t: start + k * 1_000, v: 20.0 + (k % 10) as f64 })));
    bench.store.commit(&group).unwrap();
    let path = "/api/v1/history?device=crac-a1&point=supply.air.temperature&from=-15m";
    let (_, body) = bench.get(path).await;
    assert_eq!(body["samples"].as_array().unwrap().len(), 600);
    assert_eq!((body["unit"].as_str(), body["resolution_ms"].as_i64()), (Some("Cel"), Some(0)));
    let (_, body) = bench.get(&format!("{path}&max=50")).await;
    let buckets = body["buckets"].as_array().unwrap();
    assert!((20..=51).contains(&buckets.len()), "{}", buckets.len());
    assert_eq!(buckets.iter().map(|b| b["n"].as_u64().unwrap()).sum::<u64>(), 600);
    let (_, body) = bench.get("/api/v1/history?device=crac-a1&point=supply.air.temperature&from=-30d").await;
    assert_eq!(body["resolution_ms"].as_i64(), Some(3_600_000));
}

#[tokio::test]
async fn health_and_metrics_speak() {
    let bench = bench("health");
    assert_eq!(bench.get("/healthz").await.0, 200);
    let (status, body) = bench.get("/readyz").await;
    assert_eq!((status, body["ready"].as_bool()), (503, Some(false)), "decide has not answered");
    let (status, body) = bench.get("/metrics").await;
    let text = body.as_str().unwrap();
    assert_eq!(status, 200);
    for wanted in [
        "bcp_point_value{site=\"a\",agent=\"gw-a\",device=\"crac-a1\",kind=\"unknown\",point=\"supply.air.temperature\",unit=\"Cel\"} 21.5",
        "bcp_agreed{} 0.0",
        "bcp_ingest_payloads_total{} 0",
        "# EOF",
    ] {
        assert!(text.contains(wanted), "{wanted} not in\n{text}");
    }
}

#[tokio::test]
async fn the_stream_resumes_and_tells_when_it_cannot() {
    let bench = bench("stream");
    let feed = bench.writer.feed();
    feed.push(Topic::Beat, "{}".into());
    let first = feed.newest();
    feed.push(Topic::Alarms, r#"{"alarms":[]}"#.into());
    feed.push(Topic::Points, r#"{"device":"ups-a1","points":[]}"#.into());
    feed.push(Topic::Points, r#"{"device":"crac-a1","points":[]}"#.into());
    let open = async |path: &str, last: Option<u64>| {
        let mut request = Request::get(path);
        if let Some(last) = last {
            request = request.header("last-event-id", last.to_string());
        }
        bench.app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().into_body()
    };
    let mut body = open("/api/v1/stream?device=crac-a1", Some(first)).await;
    let mut text = String::new();
    while !text.contains("crac-a1") {
        let frame = body.frame().await.unwrap().unwrap();
        text.push_str(&String::from_utf8_lossy(frame.data_ref().unwrap()));
    }
    assert!(text.contains("event: alarms") && text.contains(&format!("id: {}", first + 1)), "{text}");
    assert!(!text.contains("ups-a1"), "{text}");

    let over = open("/api/v1/stream?after=1", None).await.collect().await.unwrap().to_bytes();
    let over = String::from_utf8_lossy(&over);
    assert!(over.contains("event: reset") && over.contains(&format!("id: {}", feed.newest())), "{over}");
}
