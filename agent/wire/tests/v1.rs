//! Frozen bytes of contract version 1. Never edited: a new version adds a file of its own.
#![allow(clippy::unwrap_used)]

use bcp_wire::control::{GateSync, TicketSync};
use bcp_wire::{AgentState, Batch, DeviceMeta, Event, PayloadError, Quality, Topic, Value, Watermark};

fn same<T: serde::Serialize + serde::de::DeserializeOwned>(frozen: &str) -> T {
    let read: T = serde_json::from_str(frozen).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), frozen);
    read
}

#[test]
fn batch() {
    let batch: Batch = same(
        r#"{"v":1,"i":7,"s":123456,"t":1790000000123,"vals":{"battery.charge":98.5,"ups.status":"OL CHRG"},"dt":{"battery.charge":-40},"q":{"input.l2.voltage":"bad:exception"}}"#,
    );
    let readings: Vec<_> = batch.readings().map(|(n, t, v, q)| (n.to_string(), t, v.cloned(), q.to_string())).collect();
    assert_eq!(
        readings,
        [
            ("battery.charge".to_owned(), 1_790_000_000_083, Value::num(98.5), "good".to_owned()),
            ("ups.status".to_owned(), 1_790_000_000_123, Value::text("OL CHRG"), "good".to_owned()),
            ("input.l2.voltage".to_owned(), 1_790_000_000_123, None, "bad:exception".to_owned()),
        ]
    );
}

#[test]
fn events() {
    same::<Event>(
        r#"{"v":1,"i":7,"s":9,"t":1790000000123,"kind":"gap","incarnation":6,"from":10,"through":12,"samples":30,"reason":"spool full"}"#,
    );
    same::<Event>(
        r#"{"v":1,"i":7,"s":9,"t":1790000000123,"kind":"reachability","reachable":false,"reason":"timeout"}"#,
    );
}

#[test]
fn watermark() {
    let mark: Watermark = same(r#"{"v":1,"collector":"a","marks":[{"i":7,"through":100,"holes":[[5,6]]}]}"#);
    assert!(
        mark.covers(7, 4) && !mark.covers(7, 5) && mark.covers(7, 100) && !mark.covers(7, 101) && !mark.covers(6, 1)
    );
}

#[test]
fn presence() {
    same::<AgentState>(
        r#"{"v":1,"i":7,"status":"online","t":1790000000123,"version":"0.1.0","config_hash":"00ff","clock":{"state":"synchronised","offset_ms":0.5},"next_within_ms":10000,"session":"s1"}"#,
    );
    same::<DeviceMeta>(
        r#"{"v":1,"i":7,"device":"ups-a1","kind":"ups","profile":{"id":"ietf/ups-mib","hash":"00ff"},"firmware":"1.2","firmware_proven":true,"parent":"utility-a","location":"a/hall1","points":[{"name":"battery.charge","unit":"%","interval_ms":1000,"source":"1.3.6.1.2.1.33.1.2.4.0"}]}"#,
    );
}

#[test]
fn control() {
    let sync: GateSync = same(
        r#"{"site":"a","gate":"host-a","nonce":42,"tickets":[{"ticket":"prescriptions","seen":"1.41","closed":false,"renew":"1.41","reports":[{"key":"k","epoch":"1.41","revision":3,"kind":"promote","outcome":"done","took_ms":12}],"facts":{"lineage":"l1","position":99,"role":"active","peer_in_sync":true,"wants_alone":false}}]}"#,
    );
    let TicketSync { seen, .. } = &sync.tickets[0];
    assert_eq!((seen.incarnation, seen.counter), (1, 41));
}

#[test]
fn topics() {
    for frozen in [
        "bcp/v1/a/gw-a/state",
        "bcp/v1/a/gw-a/meta/ups-a1",
        "bcp/v1/b/gw-b/data/ups-b1",
        "bcp/v1/b/gw-b/hist/ups-b1",
        "bcp/v1/w/gw-w/event/ups-w1",
        "bcp/v1/a/gw-a/ack/w",
        "bcp/v1/a/gw-a/cmd",
        "bcp/v1/a/gw-a/cmd/x1/reply",
    ] {
        assert_eq!(frozen.parse::<Topic>().unwrap().to_string(), frozen);
    }
    for bad in [
        "",
        "bcp/v1",
        "bcp/v2/a/x/state",
        "bcp/v1/c/x/state",
        "bcp/v1/a/X/state",
        "bcp/v1/a/x/state/y",
        "bcp/v1/a/x/cmd/y/reply/z",
        "bcp/v1/a/x/data",
        "bcp/v1/a/x/nope",
    ] {
        assert!(bad.parse::<Topic>().is_err(), "{bad}");
    }
}

#[test]
fn what_is_refused() {
    let refused = |text: &str| Batch::from_json(text.as_bytes()).unwrap_err();
    assert_eq!(refused(""), PayloadError::Empty);
    assert_eq!(refused("{"), PayloadError::Malformed);
    assert_eq!(refused(r#"{"v":2,"i":1,"s":1,"t":1790000000123}"#), PayloadError::Version);
    assert_eq!(refused(r#"{"v":1,"i":0,"s":1,"t":1790000000123}"#), PayloadError::Numbering);
    assert_eq!(refused(r#"{"v":1,"i":1,"s":1,"t":17}"#), PayloadError::Time);
    assert_eq!(refused(r#"{"v":1,"i":1,"s":1,"t":1790000000123,"vals":{"x":1e999}}"#), PayloadError::Malformed);
    assert_eq!(refused(r#"{"v":1,"i":1,"s":1,"t":1790000000123,"q":{"x":"bad:nope"}}"#), PayloadError::Malformed);
    assert!("bad:nope".parse::<Quality>().is_err());
}
